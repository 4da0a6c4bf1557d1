package middleware_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

// No secret is printed, however hard one tries.
func TestNoSecretIsPrinted(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		var log strings.Builder
		var access string
		store := middleware.NewMemoryStore()
		w := newWorld(t, mode, with(func(c *middleware.Config) {
			c.Store = store
			c.Events = middleware.LogEvents(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		}))
		w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s := middleware.SessionFrom(r.Context())
			access = s.AccessToken()
			fmt.Fprintf(rw, "page of %v %+v %#v %s", s, s, s, s)
			slog.New(slog.NewTextHandler(rw, nil)).Info("x", "session", s)
		})))
		b := w.browser()
		p := b.login("/page")
		require.NotEmpty(t, access)
		require.NotContains(t, p.body, access)
		time.Sleep(15 * time.Minute)
		b.goesOn("/page")
		w.answers(func(*http.Request) *http.Response { return response(500, access) })
		time.Sleep(15 * time.Minute)
		b.visit("/page")
		w.answers(nil)
		time.Sleep(24 * time.Hour)
		b.visit("/page")
		b.visit("/cb?code=the-code&state=the-state")
		for _, event := range []string{"signed_in", "refreshed", "unavailable", "ended", "sign_in_failed"} {
			require.Contains(t, log.String(), "msg="+event)
		}
		_, cookie := b.cookie("-in-")
		for _, secret := range []string{access, cookie, "the-code", "the-state", optest.Web + "-secret"} {
			require.NotContains(t, log.String(), secret)
		}
	})
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	good := middleware.Config{
		Issuer: "https://login.example.com", ClientID: "c", RedirectURL: "https://shop.example.com/auth/callback", Keys: [][]byte{testKey},
	}
	_, err := middleware.New(good)
	require.NoError(t, err)
	negative := -time.Second
	for want, change := range map[string]func(*middleware.Config){
		"Issuer is required":       func(c *middleware.Config) { c.Issuer = "" },
		"Issuer: ":                 func(c *middleware.Config) { c.Issuer = "login.example.com" },
		"ClientID is required":     func(c *middleware.Config) { c.ClientID = "" },
		"RedirectURL is required":  func(c *middleware.Config) { c.RedirectURL = "" },
		"RedirectURL: ":            func(c *middleware.Config) { c.RedirectURL = "http://shop.example.com/cb" },
		"Keys is required":         func(c *middleware.Config) { c.Keys = nil },
		"Keys: key 1 has 3 bytes":  func(c *middleware.Config) { c.Keys = [][]byte{[]byte("key")} },
		"PostLogoutURL: ":          func(c *middleware.Config) { c.PostLogoutURL = "javascript:alert(1)" },
		"MaxAge is negative":       func(c *middleware.Config) { c.MaxAge = &negative },
		"Lifetime is negative":     func(c *middleware.Config) { c.Lifetime = -1 },
		"RefreshAfter is negative": func(c *middleware.Config) { c.RefreshAfter = -1 },
		"Base: ":                   func(c *middleware.Config) { c.Base = "auth" },
		"TrustedOrigins: ":         func(c *middleware.Config) { c.TrustedOrigins = []string{"shop.example.com/x"} },
		"Algorithms: ":             func(c *middleware.Config) { c.Algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.HS256} },
		"Algorithms is required with InsecureAllowUntypedLogoutTokens": func(c *middleware.Config) { c.InsecureAllowUntypedLogoutTokens = true },
	} {
		bad := good
		change(&bad)
		_, err := middleware.New(bad)
		require.ErrorIs(t, err, middleware.ErrConfig)
		require.ErrorContains(t, err, "curfew: middleware.Config."+want)
	}
	for _, issuer := range []string{"http://127.0.0.1:9998", "http://login.localhost:9998"} {
		also := good
		also.Issuer = issuer
		_, err := middleware.New(also)
		require.NoError(t, err, issuer)
	}
	for _, redirect := range []string{"https://a.example/", "https://a.example", "https://a.example/cb?x=1", "https://a.example/cb#x", "https://u@a.example/cb", "http://127.0.0.1.a.example/cb"} {
		bad := good
		bad.RedirectURL = redirect
		_, err := middleware.New(bad)
		require.ErrorContains(t, err, "RedirectURL", redirect)
	}
	for _, redirect := range []string{"http://127.0.0.1:9999/cb", "http://[::1]:1/cb", "http://localhost/cb"} {
		bad := good
		bad.RedirectURL = redirect
		_, err := middleware.New(bad)
		require.NoError(t, err, redirect)
	}
}
