package middleware_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
)

// An event stream ends when the session does, or when the access token has ended and
// nobody was there to get a new one, with the reason as the cause; one whose session
// slides goes on.
func TestEventStream(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, limited(24*time.Hour, 2*time.Hour))
		var cause error
		w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprint(rw, "data: hello\n\n")
			if f, ok := rw.(http.Flusher); ok {
				f.Flush()
			}
			if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
				return
			}
			<-r.Context().Done()
			cause = context.Cause(r.Context())
			fmt.Fprint(rw, "data: goodbye\n\n")
		})))
		b := w.browser()
		b.login("/page")
		began := time.Now()
		events := func() *http.Request {
			return request(t, http.MethodGet, "/events", nil, http.Header{"Accept": {"text/event-stream"}, "Sec-Fetch-Mode": {"cors"}})
		}
		open := func() *http.Response {
			resp, err := b.http.Do(events())
			require.NoError(t, err)
			return resp
		}
		end := func(resp *http.Response) {
			require.Equal(t, http.StatusOK, resp.StatusCode)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "data: hello\n\ndata: goodbye\n\n", string(body))
		}
		resp := open()
		time.Sleep(4*time.Minute + 7*time.Second) // no multiple of how often it looks
		b.goesOn("/page")                         // slides
		require.EqualValues(t, 1, w.refreshes.Load(), "the stream itself refreshes nothing")
		end(resp)
		require.Equal(t, 9*time.Minute+7*time.Second, time.Since(began), "the second access token has ended")
		require.ErrorIs(t, cause, middleware.ErrUnavailable)
		require.NotErrorIs(t, cause, middleware.ErrSignedOut)
		require.Equal(t, http.StatusServiceUnavailable, b.once(events()).status)
		require.EqualValues(t, 1, w.refreshes.Load())

		b.goesOn("/page") // the user is back
		resp = open()
		time.Sleep(time.Minute)
		b.post("/auth/signout", nil)
		end(resp)
		var out *middleware.SignedOutError
		require.ErrorAs(t, cause, &out)
		require.Equal(t, policy.ReasonLogout, out.Reason)
		require.Equal(t, http.StatusUnauthorized, b.once(events()).status, "and it is not opened again")

		time.Sleep(2 * time.Second) // what was issued in the second of the sign-out is over too
		b.login("/page")
		time.Sleep(2 * time.Hour)
		require.Equal(t, http.StatusUnauthorized, b.once(events()).status, "nor after the inactivity")
	})
}

// A connection that was taken over is closed, also when its handler has returned
// and nobody looks at any context.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	for name, returns := range map[string]bool{"the handler stays": false, "the handler returns": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, limited(24*time.Hour, 2*time.Hour+7*time.Second))
				s := newSigner(t, w)
				closed := make(chan time.Time, 1)
				w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Upgrade") == "" {
						fmt.Fprint(rw, "page of somebody")
						return
					}
					conn, buffered, err := rw.(http.Hijacker).Hijack()
					require.NoError(t, err)
					_, err = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"))
					require.NoError(t, err)
					read := func() {
						_, _ = buffered.ReadByte() // until it is closed
						closed <- time.Now()
						_ = conn.Close()
					}
					if returns {
						go read()
						return
					}
					read()
				})))
				b := w.browser()
				b.login("/page")
				open := func() net.Conn {
					conn, err := w.hosts[appHost](t.Context())
					require.NoError(t, err)
					req := request(t, http.MethodGet, "/socket", nil, http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}})
					name, value := b.cookie("")
					req.AddCookie(&http.Cookie{Name: name, Value: value})
					require.NoError(t, req.Write(conn))
					resp, err := http.ReadResponse(bufio.NewReader(conn), req)
					require.NoError(t, err)
					require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
					return conn
				}
				began := time.Now()
				conn := open()
				require.Equal(t, 5*time.Minute+time.Second, (<-closed).Sub(began), "at the end of the access token, and a moment to say goodbye")
				require.NoError(t, conn.Close())

				// A logout through the back channel is noticed within half a minute.
				b.goesOn("/page")
				conn = open()
				time.Sleep(10 * time.Second)
				require.Equal(t, http.StatusOK, w.tell(s.sign(t, "logout+jwt", s.claims(w.lastSID()))).status)
				told := time.Now()
				require.LessOrEqual(t, (<-closed).Sub(told), 31*time.Second)
				require.NoError(t, conn.Close())
			})
		})
	}
}
