package middleware_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

// However many sign-ins a browser begins at once, and however long the addresses they
// lead to, its cookies stay below what nginx takes by default: 8192 bytes in a request,
// and 4096 in an answer. Each still leads where it should, or begins again.
func TestManySignInsAtOnce(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{
		"short": "q=1", "medium": strings.Repeat("a&", 90), "as long as a place": strings.Repeat("y", 300), "as long as may be": strings.Repeat("x", 1400), "too long": strings.Repeat("z", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				w := newWorld(t, mode, singleSignOn)
				b := w.browser()
				b.login("/page") // what was there before
				time.Sleep(3 * time.Hour)
				// All of them before any answer: none knows of the others.
				began := make([]*http.Request, 45)
				for i := range began {
					began[i] = request(t, http.MethodGet, fmt.Sprintf("/page?tab=%d&%s", i, query), nil, navigate)
					for name, value := range b.cookies() {
						began[i].AddCookie(&http.Cookie{Name: name, Value: value})
					}
				}
				alone := *b.http
				alone.Jar = nil
				at := make([]string, len(began))
				u, err := url.Parse(appURL)
				require.NoError(t, err)
				for i, req := range began {
					resp, err := alone.Do(req)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					at[i] = resp.Header.Get("Location")
					require.NotEmpty(t, at[i])
					require.Less(t, headerSize(resp.Header), 4096)
					b.jar.SetCookies(u, resp.Cookies())
				}
				bounded := func() {
					size := 0
					for name, value := range b.cookies() {
						size += len(name) + len(value) + len("=; ")
					}
					require.Less(t, size, 7500)
				}
				bounded()
				p := b.signIn(b.visit(at[44]), "alice")
				require.Equal(t, "/page", p.url.Path, p.body)
				bounded()
				for i := range at[:44] {
					p := b.visit(at[i]) // the provider knows the user by now
					require.Equal(t, http.StatusOK, p.status, p.body)
					require.Equal(t, appHost, p.url.Host)
					require.Equal(t, "/page", p.url.Path)
					require.Contains(t, p.body, "page of "+optest.SubjectOf("alice"))
					if name == "short" {
						require.Equal(t, began[i].URL.RequestURI(), p.url.RequestURI())
					}
				}
				bounded()
				require.Empty(t, w.seen(middleware.EventSignInFailed))
			})
		})
	}
}

// headerSize is what headers come to on the wire.
func headerSize(h http.Header) (size int) {
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	return size
}

// Two tabs at once, finished in the other order; and many more than are kept.
func TestSeveralTabs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		first := b.answerOf("/page?tab=1", "alice")
		second := b.answerOf("/page?tab=2", "alice")
		require.Contains(t, b.visit(first).body, "tab=1")
		require.Contains(t, b.visit(second).body, "tab=2")

		other := w.browser()
		var last page
		for range 30 {
			last = other.visit("/page")
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, len(other.cookies()), 8, "a bound")
		require.Contains(t, other.signIn(last, "alice").body, "page of")
	})
}
