package providertest_test

import (
	"context"
	"database/sql"
	"net"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/providertest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A server is a provider with the hook, to run the kit on.
type server struct {
	optest    optest.Config
	sso       bool
	sqlite    bool // an SQLite store instead of one in memory
	socket    bool // a loopback socket instead of connections in memory
	told      bool // applications are told of ends
	hook      provider.Config
	limits    policy.Limits
	configure func(*providertest.Target)
}

// few is how many kits run at once: more would keep the machine too busy for
// the limits.
var few = make(chan struct{}, 6)

func (x server) run(t *testing.T) {
	t.Parallel()
	few <- struct{}{}
	t.Cleanup(func() { <-few }) // not before the parallel tests of the kit are done
	cfg := x.hook
	cfg.Store = memstore.New()
	if x.sqlite {
		db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "sessions.db")+"?_pragma=busy_timeout(1000)&_txlock=immediate")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		cfg.Store, err = sqlitestore.New(t.Context(), db)
		require.NoError(t, err)
	}
	cfg.Keys = provider.Keys{provider.NewKey(time.Now())}
	cfg.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: x.limits}}}
	if !cfg.NoGrace {
		cfg.Grace = providertest.Grace
	}
	x.optest.Storage = optest.NewStorage()
	x.optest.Storage.SSO = x.sso
	if x.sso {
		x.optest.Storage.SID = provider.SessionID
		cfg.OnEnd = func(_ context.Context, s store.Session) error {
			x.optest.Storage.EndSession(s.ID)
			return nil
		}
		cfg.SSOSession = func(_ context.Context, l provider.Login) string { return optest.SSOSession(l.AuthRequest) }
	}
	const frontURI = "https://app.example.org/front"
	var back net.Listener
	if x.told {
		var err error
		back, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		cfg.SweepEvery = time.Second
		cfg.Logout = provider.Logout{FrontChannel: true, Loopback: true, URIs: func(_ context.Context, client string) (provider.LogoutURIs, error) {
			if client != optest.Web {
				return provider.LogoutURIs{}, nil
			}
			return provider.LogoutURIs{BackChannel: "http://" + back.Addr().String() + "/backchannel", FrontChannel: frontURI}, nil
		}}
	}
	hook, err := provider.New(cfg)
	require.NoError(t, err)
	if x.told {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = hook.Run(ctx) // it returns the context's error
		}()
		t.Cleanup(func() {
			stop()
			<-done
		})
	}
	x.optest.Hook, x.optest.InMemory = hook, !x.socket
	it := target(optest.Start(t, x.optest), x.limits)
	it.Off.ConfirmLogout = cfg.NoBrowserSession
	it.ConfirmLogout = providertest.ConfirmLogout
	if x.told {
		it.Off.BackChannelLogout, it.Off.FrontChannelLogout = false, false
		it.BackChannelLogout, it.FrontChannelLogoutURI = back, frontURI
	}
	if x.configure != nil {
		x.configure(&it)
	}
	providertest.Run(t, it)
}

func TestKit(t *testing.T) {
	t.Parallel()
	evict := func(how policy.AtLimit) policy.Limits {
		l := providertest.Limits()
		l.AtLimit = how
		return l
	}
	strict := provider.Config{NoGrace: true, NoLostResponse: true, NoExpirationMembers: true, NoExpirationMetadata: true}
	offStrict := func(it *providertest.Target) {
		it.Off.Grace, it.Off.LostResponse, it.Off.ExpirationMembers = true, true, true
	}
	for name, x := range map[string]server{
		"Provider":                         {limits: providertest.Limits()},
		"Provider no policy":               {},
		"LegacyServer":                     {limits: providertest.Limits(), optest: optest.Config{Embedding: optest.AsLegacyServer}},
		"LegacyServer no policy":           {optest: optest.Config{Embedding: optest.AsLegacyServer}},
		"Server single sign-on":            {limits: providertest.Limits(), optest: optest.Config{Embedding: optest.AsServer}, sso: true},
		"single sign-on no policy":         {sso: true},
		"end_oldest":                       {limits: evict(policy.EndOldest), sso: true},
		"end_idlest":                       {limits: evict(policy.EndIdlest)},
		"strict":                           {limits: providertest.Limits(), hook: strict, configure: offStrict},
		"strict no policy, single sign-on": {hook: strict, sso: true, configure: offStrict},
		"storage that does not rotate":     {limits: providertest.Limits(), optest: optest.Config{Wrap: optest.NonRotating}},
		"refresh tokens that do not rotate": {
			limits: providertest.Limits(), optest: optest.Config{Wrap: optest.NonRotating},
			hook:      provider.Config{KeepRefreshToken: func(context.Context, op.Client) bool { return true }},
			configure: func(it *providertest.Target) { it.Off.Rotation = true },
		},
		"bare storage": {
			limits: providertest.Limits(), optest: optest.Config{Wrap: optest.Bare},
			configure: func(it *providertest.Target) { it.Off.DeviceGrant = true },
		},
		"applications are told":           {limits: providertest.Limits(), told: true, sso: true},
		"applications are told, eviction": {limits: evict(policy.EndOldest), told: true, sqlite: true, optest: optest.Config{Embedding: optest.AsLegacyServer}},
		"SQLite":                          {limits: providertest.Limits(), sqlite: true, sso: true},
		"on a socket":                     {limits: providertest.Limits(), socket: true},
	} {
		t.Run(name, x.run)
	}
}
