package hooktest

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/providertest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// Target describes a provider of optest as an embedder would theirs.
func Target(s *optest.Server, limits policy.Limits) providertest.Target {
	client := func(id, secret string) providertest.Client {
		return providertest.Client{ID: id, Secret: secret, RedirectURI: optest.RedirectURI, PostLogoutRedirectURI: optest.PostLogoutURI}
	}
	return providertest.Target{
		Issuer:    s.Issuer,
		Transport: s.HTTP.Transport,
		Web:       client(optest.Web, "web-secret"),
		Web2:      client(optest.Web2, "web2-secret"),
		Public:    client(optest.Native, ""),
		Device:    client(optest.Device, "device-secret"),
		Users:     []string{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u10", "u11", "u12", "u13", "u14", "u15", "u16"},
		SignIn: func(browser *http.Client, page *http.Response, user string) (*http.Response, error) {
			return browser.PostForm(s.Issuer+"/login", url.Values{
				"id": {page.Request.URL.Query().Get("authRequestID")}, "username": {user}, "password": {optest.Password},
			})
		},
		ApproveDevice: func(browser *http.Client, page *http.Response, user string) error {
			resp, err := browser.PostForm(s.Issuer+"/device", url.Values{
				"user_code": {page.Request.URL.Query().Get("user_code")}, "action": {"allow"}, "username": {user}, "password": {optest.Password},
			})
			if err != nil {
				return err
			}
			return resp.Body.Close()
		},
		Limits: limits,
		Grace:  providertest.Grace,
		Off: providertest.Off{
			SingleSignOn: !s.Storage.SSO, ConfirmLogout: true, BackChannelLogout: true, FrontChannelLogout: true,
		},
	}
}

// A Kit is a provider with the hook, to run the kit of package providertest on.
type Kit struct {
	Optest    optest.Config
	SSO       bool
	Socket    bool            // a loopback socket instead of connections in memory
	Told      bool            // applications are told of ends
	Hook      provider.Config // its Store is one in memory if it is nil
	Limits    policy.Limits
	Configure func(*providertest.Target)
}

// few is how many kits run at once: more would keep the machine too busy for
// the limits.
var few = make(chan struct{}, 6)

// Turn waits until few enough kits run for one more.
func Turn(t *testing.T) {
	few <- struct{}{}
	t.Cleanup(func() { <-few }) // not before the parallel tests of the kit are done
}

// Run runs the kit, beside others.
func (x Kit) Run(t *testing.T) {
	t.Parallel()
	Turn(t)
	cfg := x.Hook
	if cfg.Store == nil {
		cfg.Store = memstore.New()
	}
	cfg.Keys = provider.Keys{provider.NewKey(time.Now())}
	cfg.Settings = provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: x.Limits}}}
	if !cfg.NoGrace {
		cfg.Grace = providertest.Grace
	}
	x.Optest.Storage = optest.NewStorage()
	x.Optest.Storage.SSO = x.SSO
	if x.SSO {
		x.Optest.Storage.SID = provider.SessionID
		cfg.OnEnd = func(_ context.Context, s store.Session) error {
			x.Optest.Storage.EndSession(s.ID)
			return nil
		}
		cfg.SSOSession = func(_ context.Context, l provider.Login) string { return optest.SSOSession(l.AuthRequest) }
	}
	const frontURI = "https://app.example.org/front"
	var back net.Listener
	if x.Told {
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
	if x.Told {
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
	x.Optest.Hook, x.Optest.InMemory = hook, !x.Socket
	it := Target(optest.Start(t, x.Optest), x.Limits)
	it.Off.ConfirmLogout = cfg.NoBrowserSession
	it.ConfirmLogout = providertest.ConfirmLogout
	if x.Told {
		it.Off.BackChannelLogout, it.Off.FrontChannelLogout = false, false
		it.BackChannelLogout, it.FrontChannelLogoutURI = back, frontURI
	}
	if x.Configure != nil {
		x.Configure(&it)
	}
	providertest.Run(t, it)
}
