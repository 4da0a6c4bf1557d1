package onengines

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// killEnv makes TestDeliveryOutlivesTheProcess the process that is killed.
const killEnv = "CURFEW_TEST_KILLED"

// A process that is killed while it sends, or before, loses nothing.
func TestDeliveryOutlivesTheProcess(t *testing.T) {
	if spec := os.Getenv(killEnv); spec != "" {
		endAndHang(t, spec)
		return
	}
	t.Parallel()
	for name, when := range map[string]string{"while it sends": "send", "before it sends": "end"} {
		t.Run(name, func(t *testing.T) {
			reached := make(chan struct{}, 1)
			var got atomic.Int32
			a := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if got.Add(1) == 1 && when == "send" {
					reached <- struct{}{}
					<-r.Context().Done() // the process is gone
				}
			}))
			defer a.Close()
			file := filepath.Join(t.TempDir(), "sessions.db")
			child := exec.Command(os.Args[0], "-test.run=^TestDeliveryOutlivesTheProcess$")
			child.Env = append(os.Environ(), killEnv+"="+url.Values{"file": {file}, "uri": {a.URL}, "when": {when}}.Encode())
			out, err := child.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, child.Start())
			if when == "send" {
				<-reached
			} else {
				var line [len("ended\n")]byte
				_, err := io.ReadFull(out, line[:])
				require.NoError(t, err)
				require.Equal(t, "ended\n", string(line[:]))
			}
			require.NoError(t, child.Process.Kill())
			require.Error(t, child.Wait())
			before := got.Load()

			next := startKillable(t, file, a.URL, func(p *provider.Config) {
				p.Now = func() time.Time { return time.Now().Add(time.Minute) } // nobody has to wait for it
			})
			require.NoError(t, next.Hook.Sweep(t.Context()))
			require.Eventually(t, func() bool { return len(next.Seen(provider.EventDelivered)) == 1 }, 10*time.Second, 5*time.Millisecond)
			require.Equal(t, before+1, got.Load())
		})
	}
}

func startKillable(t *testing.T, file, uri string, change func(*provider.Config)) *hooktest.Server {
	t.Helper()
	s := hooktest.Start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		o.InMemory = true
		p.Store, _ = openSQLite(t, file)
		p.Logout = provider.Logout{Loopback: true, URIs: func(context.Context, string) (provider.LogoutURIs, error) {
			return provider.LogoutURIs{BackChannel: uri}, nil
		}}
		if change != nil {
			change(p)
		}
	})
	require.NoError(t, s.Hook.Check(t.Context(), s.Provider))
	return s
}

func endAndHang(t *testing.T, spec string) {
	q, err := url.ParseQuery(spec)
	require.NoError(t, err)
	s := startKillable(t, q.Get("file"), q.Get("uri"), func(p *provider.Config) {
		if q.Get("when") == "end" {
			p.OnEnd = func(context.Context, store.Session) error {
				fmt.Println("ended")
				select {}
			}
		}
	})
	sid := s.SID(t, optest.Web, s.Login(optest.Web, "alice"))
	require.NoError(t, s.Hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, ""))
	select {}
}
