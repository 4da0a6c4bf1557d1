package middleware_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What was typed is kept though something in front of the middleware, such as a check of
// a token against forgery, has read the form.
func TestKeptFormThatWasReadBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		app := w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "%s %s", r.Method, r.FormValue("text"))
		}))
		w.serve(appHost, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_ = r.FormValue("csrf")
			app.ServeHTTP(rw, r)
		}))
		b := w.browser()
		b.login("/page")
		time.Sleep(3 * time.Hour)
		p := b.signIn(b.submit(b.post(appURL+"/page", url.Values{"text": {"typed"}, "password": {"secret"}}), nil), "alice")
		require.Equal(t, "/auth/resume", p.url.Path, p.body)
		require.NotContains(t, p.body, "secret")
		require.Equal(t, "POST typed", b.submit(p, nil).body)
	})
}
