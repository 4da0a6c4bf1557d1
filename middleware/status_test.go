package middleware_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The form of the heartbeat holds an address, whatever is sent.
func TestHeartbeatFormIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		b.login("/page")
		body := &endless{begin: strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\n")}
		req := request(t, http.MethodPost, "/auth/session", body, navigate)
		req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		req.Header.Set("Origin", appURL)
		name, value := b.cookie("")
		req.AddCookie(&http.Cookie{Name: name, Value: value})
		w.app(w.rp).ServeHTTP(newRecorder(), req)
		require.Less(t, body.read.Load(), int64(1<<20))
	})
}

type status struct {
	SignedIn bool   `json:"signed_in"`
	Expires  *int64 `json:"expires_in"`
	Active   *int64 `json:"active_ends_in"`
	Idle     *int64 `json:"inactivity_ends_in"`
	Reason   string `json:"reason"`
	Message  string `json:"message"`
}

func (b *browser) status() (s status) {
	b.w.t.Helper()
	p := b.script(http.MethodGet, "/auth/session")
	require.Equal(b.w.t, http.StatusOK, p.status, p.body)
	require.Equal(b.w.t, "no-store", p.header.Get("Cache-Control"))
	require.NoError(b.w.t, json.Unmarshal([]byte(p.body), &s))
	return s
}

// The countdown slides nothing, however often it asks; the heartbeat does.
func TestCountdownAndHeartbeat(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(8*time.Hour, 2*time.Hour))
		b := w.browser()
		require.False(t, b.status().SignedIn)
		b.login("/page")
		for range 119 {
			time.Sleep(time.Minute)
			require.True(t, b.status().SignedIn)
		}
		require.EqualValues(t, 0, w.refreshes.Load())
		s := b.status()
		require.EqualValues(t, 60, *s.Idle)
		require.EqualValues(t, 60, *s.Expires)
		require.EqualValues(t, 8*3600-119*60, *s.Active)

		p := b.script(http.MethodPost, "/auth/session")
		require.Equal(t, http.StatusOK, p.status)
		require.EqualValues(t, 1, w.refreshes.Load())
		require.EqualValues(t, 7200, *b.status().Idle)
		time.Sleep(119 * time.Minute)
		// Without script it is a form that comes back.
		p = b.post("/auth/session", url.Values{"return": {"/page?x=1"}})
		require.Equal(t, "/page?x=1", p.url.RequestURI())
		require.EqualValues(t, 2, w.refreshes.Load())
		p = b.post("/auth/session", url.Values{"return": {"//evil.example"}})
		require.Equal(t, appHost, p.url.Host)

		time.Sleep(2*time.Hour + time.Second)
		s = b.status()
		require.False(t, s.SignedIn)
		require.Equal(t, "inactivity", s.Reason)
		require.Equal(t, "You were signed out after 2 hours without activity.", s.Message)
		p = b.script(http.MethodPost, "/auth/session")
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Equal(t, `Bearer error="invalid_token"`, p.header.Get("WWW-Authenticate"))
	})
}
