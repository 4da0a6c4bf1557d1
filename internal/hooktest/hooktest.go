// Package hooktest starts providers with the hook, for the tests of package provider and
// for those on real databases, which are in another module.
package hooktest

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A Server is a provider with the hook, for one test.
type Server struct {
	*optest.Server
	Hook  *provider.Hook
	Store store.Store

	Counters store.Counts // where the hook counts; nil: nowhere

	mu       sync.Mutex
	events   []provider.Event
	settings policy.Settings
}

// CountsOf has the hook count in its store, if that keeps counts.
func CountsOf(cfg *provider.Config) store.Counts {
	if cfg.Counts == nil {
		cfg.Counts, _ = cfg.Store.(store.Counts)
	}
	return cfg.Counts
}

// Start starts a provider with the hook, on a store in memory if change does not set
// another. The settings are those of the account "default".
func Start(t testing.TB, a policy.Account, change func(*provider.Config, *optest.Config)) *Server {
	t.Helper()
	s := &Server{}
	s.Set(policy.Settings{Accounts: map[string]policy.Account{"default": a}})
	cfg := provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
		Settings: s, SettingsMaxAge: -1,
		Events: s.Event,
	}
	ocfg := optest.Config{}
	if change != nil {
		change(&cfg, &ocfg)
	}
	s.Store, s.Counters = cfg.Store, CountsOf(&cfg)
	hook, err := provider.New(cfg)
	require.NoError(t, err)
	s.Hook = hook
	ocfg.Hook = hook
	s.Server = optest.Start(t, ocfg)
	return s
}

// Account implements provider.SettingsSource.
func (s *Server) Account(_ context.Context, account string) (policy.Account, error) {
	return s.Settings().Accounts[account], nil
}

// Settings are those in force.
func (s *Server) Settings() policy.Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// Set changes the settings.
func (s *Server) Set(settings policy.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings = settings
}

// Event notes an event, as what Config.Events is set to.
func (s *Server) Event(_ context.Context, e provider.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// Forget forgets all events.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = nil
}

// Seen returns the events of a type.
func (s *Server) Seen(t provider.EventType) []provider.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []provider.Event
	for _, e := range s.events {
		if e.Type == t {
			list = append(list, e)
		}
	}
	return list
}

// Live returns the live sessions of a user.
func (s *Server) Live(t testing.TB, user string) []store.Session {
	t.Helper()
	page, next, err := s.Hook.List(t.Context(), store.Filter{Subject: s.Subject(user), State: store.Unended}, "", 1000)
	require.NoError(t, err)
	require.Empty(t, next)
	return page
}

// Subject is a user as the store knows them.
func (s *Server) Subject(user string) store.Subject {
	return store.Subject{Issuer: s.Issuer, ID: optest.SubjectOf(user)}
}

// SID returns the session of tokens.
func (s *Server) SID(t testing.TB, client string, r optest.Reply) string {
	t.Helper()
	sid := s.Claim(client, r, "sid")
	require.NotEqual(t, "<nil>", sid)
	return sid
}

// Cookies are what a browser keeps for the provider, by name.
func (s *Server) Cookies(b *optest.Browser) map[string]*http.Cookie {
	u, _ := url.Parse(s.Issuer)
	all := map[string]*http.Cookie{}
	for _, c := range b.HTTP.Jar.Cookies(u) {
		all[c.Name] = c
	}
	return all
}

// Plant puts cookies into a browser.
func (s *Server) Plant(b *optest.Browser, cookies ...*http.Cookie) {
	u, _ := url.Parse(s.Issuer)
	for _, c := range cookies {
		b.HTTP.Jar.SetCookies(u, []*http.Cookie{{Name: c.Name, Value: c.Value, Path: "/"}})
	}
}

// As exchanges an access token for tokens of another user.
func (s *Server) As(token, user string) optest.Reply {
	return s.TokenExchange(optest.Exchange, token, optest.AccessTokenType, url.Values{
		"requested_token_type": {optest.RefreshTokenType},
		"scope":                {"openid offline_access custom_scope:impersonate:" + optest.SubjectOf(user)},
	})
}

// Limits are settings of an account; what is zero is not limited.
func Limits(active, inactivity time.Duration, concurrent int, atLimit policy.AtLimit) policy.Account {
	var a policy.Account
	if active > 0 {
		a.Active = policy.LimitTo(active)
	}
	if inactivity > 0 {
		a.Inactivity = policy.LimitTo(inactivity)
	}
	if concurrent > 0 {
		a.Concurrent = policy.LimitTo(concurrent)
	}
	a.AtLimit = atLimit
	return a
}

// OK requires a token response and returns it.
func OK(t testing.TB, r optest.Reply) optest.Reply {
	t.Helper()
	require.Equal(t, http.StatusOK, r.Status, "%s", r.Body)
	return r
}

// RefusedFor requires invalid_grant with a reason.
func RefusedFor(t testing.TB, r optest.Reply, reason policy.Reason) {
	t.Helper()
	require.Equal(t, http.StatusBadRequest, r.Status, "%s", r.Body)
	require.Equal(t, "invalid_grant", r.Error())
	require.Equal(t, reason, policy.ReasonOf(r.Description()), "%s", r.Body)
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
}

// Unavailable requires that the provider cannot answer now, and says so.
func Unavailable(t testing.TB, r optest.Reply) {
	t.Helper()
	require.Equal(t, http.StatusServiceUnavailable, r.Status, "%s", r.Body)
	require.Equal(t, "server_error", r.Error())
	require.NotEmpty(t, r.Header.Get("Retry-After"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
}

// InTheStore has the limits read from a store. It returns what starts a process on it;
// all share keys and the embedded storage.
func InTheStore(t *testing.T, s store.Store) func(storeID string) *Server {
	keys, storage := provider.Keys{provider.NewKey(time.Now())}, optest.NewStorage()
	return func(storeID string) *Server {
		return Start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			p.Store, p.Keys, p.Settings, p.StoreID = s, keys, nil, storeID
			o.Storage, o.InMemory = storage, true
		})
	}
}

// Save saves the settings of the account "default".
func Save(t *testing.T, s store.Store, version int64, a policy.Account) {
	t.Helper()
	_, err := provider.SaveAccount(t.Context(), s, "default", a, version, "root", "", time.Now())
	require.NoError(t, err)
}
