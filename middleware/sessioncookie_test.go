package middleware_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

// Each character of each cookie counts: of a long one some are tried here, and all of
// a seal in TestSeal.
func TestTamperedCookies(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		cookie, value := b.cookie("")
		for i := 0; i < len(value); i += 1 + len(value)/100 {
			for _, c := range []byte{'A', 'B'} {
				if value[i] == c {
					continue
				}
				forger := w.browser()
				forger.set(cookie, value[:i]+string(c)+value[i+1:])
				p := forger.script(http.MethodGet, "/api")
				require.Equal(t, http.StatusUnauthorized, p.status, "byte %d", i)
				break
			}
		}
		for _, v := range []string{"", ".", "1.", "0." + value, "99." + value, value + "A", value[:len(value)-1], strings.Repeat("A", 8000)} {
			forger := w.browser()
			forger.set(cookie, v)
			require.Equal(t, http.StatusUnauthorized, forger.script(http.MethodGet, "/api").status, "%.40q", v)
		}
		b.goesOn("/page")
	})
}

// Two applications on one host: their cookies have different names, and what one
// has sealed does not open at the other, though they have the same keys and store.
func TestCookiesOfAnotherApplication(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		store := middleware.NewMemoryStore()
		w := newWorld(t, mode, with(func(c *middleware.Config) { c.Store = store }))
		cfg := w.cfg
		cfg.ClientID, cfg.ClientSecret = optest.Web2, optest.Web2+"-secret"
		other, err := middleware.New(cfg)
		require.NoError(t, err)
		a := w.browser()
		a.login("/page")
		cookie, value := a.cookie("")
		w.serve(appHost, w.app(other))
		b := w.browser()
		b.login("/page")
		name2, value2 := b.cookie("")
		require.NotEqual(t, cookie, name2)
		require.Contains(t, b.script(http.MethodGet, "/api").body, "api of")
		for _, v := range []string{value, value2} {
			swapped := w.browser()
			swapped.set(cookie, v)
			swapped.set(name2, value)
			require.Equal(t, http.StatusUnauthorized, swapped.script(http.MethodGet, "/api").status)
		}
	})
}

// Somebody signed out; a copy of the cookie is good never again, however long it
// would have lasted.
func TestOldCookieAfterSignOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := middleware.NewMemoryStore()
		w := newWorld(t, bare, inCookies, with(func(c *middleware.Config) {
			c.Store, c.Scopes, c.Lifetime = store, []string{"openid"}, 90*24*time.Hour
		}))
		b := w.browser()
		b.login("/page")
		copied := b.cookies()
		b.goesOn("/page")
		b.post("/auth/signout", nil)
		for _, days := range []int{0, 29, 2, 30} {
			time.Sleep(time.Duration(days) * 24 * time.Hour)
			for i := range 100 { // other people's, so that what is over is swept
				_, err := store.Mark(t.Context(), fmt.Sprint(days, i), time.Now(), time.Now().Add(time.Hour), time.Now())
				require.NoError(t, err)
			}
			rp, err := middleware.New(w.cfg) // a process that has not seen the sign-out
			require.NoError(t, err)
			w.serve(appHost, w.app(rp))
			thief := w.browser()
			for name, value := range copied {
				thief.set(name, value)
			}
			require.Equal(t, opHost, thief.visit("/page").url.Host, "%d days later", days)
		}
	})
}
