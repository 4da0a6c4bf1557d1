package provider

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// looked is a hook that notes at which paths the cookies of a request were read.
type looked struct {
	*Hook
	mu sync.Mutex
	at map[string]bool
}

func (l *looked) Storage(s op.Storage) op.Storage { return l.Hook.Storage(s) }

func (l *looked) Handler(next http.Handler) http.Handler {
	return l.Hook.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.at[r.URL.Path] = l.Hook.requestFrom(r.Context()).browser != nil
	}))
}

// Cookies are read where a browser is, and nowhere else: a refresh costs nothing
// more for them.
func TestOnlyBrowsersHaveTheirCookiesRead(t *testing.T) {
	t.Parallel()
	hook, err := New(Config{Store: memstore.New(), Keys: Keys{NewKey(time.Now())}, Settings: StaticSettings(policy.Settings{})})
	require.NoError(t, err)
	l := &looked{Hook: hook, at: map[string]bool{}}
	s := optest.Start(t, optest.Config{Hook: l, InMemory: true})
	r := s.Login(optest.Web, "alice")
	r = s.Refresh(optest.Web, r.RefreshToken())
	require.Equal(t, http.StatusOK, r.Status, r.Body)
	s.Userinfo(r.AccessToken())
	s.Introspect(optest.Web, r.AccessToken())
	s.DeviceLogin(optest.Native, "alice")
	s.Revoke(optest.Web, r.RefreshToken(), "")
	s.Discovery()
	l.mu.Lock()
	defer l.mu.Unlock()
	var read []string
	for path, did := range l.at {
		if did {
			read = append(read, path)
		}
	}
	require.ElementsMatch(t, []string{"/authorize", "/authorize/callback"}, read)
	require.Contains(t, l.at, "/oauth/token")
	require.Greater(t, len(l.at), 7)
}
