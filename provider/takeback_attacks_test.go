package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// A gated is a storage that holds the next calls for an ID token's claims, each at a
// gate: there op has made the tokens, and nothing has left it yet.
type gated struct {
	keepsCodes
	gates *gates
}

type gates struct {
	mu   sync.Mutex
	next []*gate
}

type gate struct {
	in, out chan struct{}
	err     error
}

// hold holds the next call, and lets it fail with err when it may go on.
func (g *gates) hold(err error) *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := &gate{in: make(chan struct{}), out: make(chan struct{}), err: err}
	g.next = append(g.next, next)
	return next
}

func (s gated) SetUserinfoFromScopes(ctx context.Context, info *oidc.UserInfo, userID, clientID string, scopes []string) error {
	s.gates.mu.Lock()
	var held *gate
	if len(s.gates.next) > 0 {
		held, s.gates.next = s.gates.next[0], s.gates.next[1:]
	}
	s.gates.mu.Unlock()
	if held != nil {
		close(held.in)
		<-held.out
		if held.err != nil {
			return held.err
		}
	}
	return s.keepsCodes.SetUserinfoFromScopes(ctx, info, userID, clientID, scopes)
}

// while runs a request as far as the gate, does what comes meanwhile, and then lets
// the request go on.
func (g *gate) while(t testing.TB, request, meanwhile func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); request() }()
	<-g.in
	meanwhile()
	close(g.out)
	<-done
}

var errUsersAway = errors.New("the users are away")

func atGates(t *testing.T, change func(*provider.Config)) (*setup, *gates) {
	g := &gates{}
	return redeems(t, func(p *provider.Config, o *optest.Config) {
		o.Wrap = func(s *optest.Storage) op.Storage { return gated{keepsCodes{s}, g} }
		if change != nil {
			change(p)
		}
	}), g
}

// Two requests with one code: the second one gets the answer of the first, which then
// fails. Its application has tokens, and they stay good.
func TestAnAnswerThatWasRepeatedIsNotTakenBack(t *testing.T) {
	t.Parallel()
	for _, c := range redemptions() {
		t.Run(c.name, func(t *testing.T) {
			s, gates := atGates(t, nil)
			redeem := c.begin(t, s)
			var failed, second optest.Reply
			gates.hold(errUsersAway).while(t,
				func() { failed = redeem() },
				func() { second = ok(t, redeem()) })
			require.Equal(t, "server_error", failed.Error())
			require.Equal(t, http.StatusOK, s.Userinfo(second.AccessToken()).Status)
			require.Len(t, s.started(t, "alice"), 1)
			require.Len(t, s.seen(provider.EventStarted), 1)
			if c.offline {
				ok(t, s.Refresh(c.client, second.RefreshToken()))
			}
		})
	}
}

// Two tabs of one browser, whose access tokens are of one grant: what fails in the one
// leaves the other one's tokens good, and its own code.
func TestWhatFailsInOneTabLeavesTheOthers(t *testing.T) {
	t.Parallel()
	alone := url.Values{"scope": {"openid"}}
	s, gates := atGates(t, nil)
	s.Storage.SSO = true
	b := s.Browser()
	one, two := b.Login(optest.Web, "alice", alone), b.Authorize(optest.Web, alone)
	require.NotEmpty(t, two.Code(), two.Description())
	var failed, second optest.Reply
	gates.hold(errUsersAway).while(t,
		func() { failed = s.Code(optest.Web, one) },
		func() { second = ok(t, s.Code(optest.Web, two)) })
	require.Equal(t, "server_error", failed.Error())
	require.Equal(t, http.StatusOK, s.Userinfo(second.AccessToken()).Status)
	require.Len(t, s.started(t, "alice"), 1)
	require.Len(t, s.seen(provider.EventStarted), 1)
	first := ok(t, s.Code(optest.Web, one))
	require.Equal(t, http.StatusOK, s.Userinfo(first.AccessToken()).Status)
}

// An application that gets an ID token alone, while another one's answer in the same
// session fails: it is signed in, and the session goes on.
func TestWhatFailsBesideAnIDTokenAloneLeavesTheSession(t *testing.T) {
	t.Parallel()
	s, gates := atGates(t, nil)
	s.Storage.SSO = true
	b := s.Browser()
	code := b.Login(optest.Implicit, "alice", url.Values{"response_type": {"code"}})
	require.NotEmpty(t, code.Code(), code.Description())
	var alone optest.Visit
	var failed optest.Reply
	inner := gates.hold(nil)
	outer := gates.hold(errUsersAway)
	outerDone := make(chan struct{})
	inner.while(t, func() { alone = b.Authorize(optest.Implicit, url.Values{"response_type": {"id_token"}}) }, func() {
		go func() { defer close(outerDone); failed = s.Code(optest.Implicit, code) }()
		<-outer.in
	})
	require.Empty(t, alone.Error(), alone.Description())
	close(outer.out)
	<-outerDone
	require.Equal(t, "server_error", failed.Error())
	require.Len(t, s.started(t, "alice"), 1)
	require.Len(t, s.seen(provider.EventStarted), 1)
}

// A grant that had to make room for tokens which then failed is there again.
func TestWhatFailsEvictsNoGrant(t *testing.T) {
	t.Parallel()
	s, gates := atGates(t, func(p *provider.Config) { p.MaxGrants = 2 })
	s.Storage.SSO = true
	b := s.Browser()
	first := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
	second := ok(t, s.Code(optest.Web, b.Authorize(optest.Web, nil)))
	code := b.Authorize(optest.Web, nil)
	close(gates.hold(errUsersAway).out)
	require.Equal(t, "server_error", s.Code(optest.Web, code).Error())
	first = ok(t, s.Refresh(optest.Web, first.RefreshToken()))
	ok(t, s.Refresh(optest.Web, second.RefreshToken()))
	require.Equal(t, http.StatusOK, s.Userinfo(first.AccessToken()).Status)
}

// A code of long ago is not good again because its session has seen many others.
func TestManyCodesMakeNoSpentOneGood(t *testing.T) {
	t.Parallel()
	alone := url.Values{"scope": {"openid"}}
	s := redeems(t, nil)
	s.Storage.SSO = true
	b := s.Browser()
	old := b.Login(optest.Web, "alice", alone)
	ok(t, s.Code(optest.Web, old))
	for range 20 {
		ok(t, s.Code(optest.Web, b.Authorize(optest.Web, alone)))
	}
	require.Equal(t, "invalid_grant", s.Code(optest.Web, old).Error())
}

// An application's own address may have parameters that look like those of a response.
func TestAnAddressWithParametersOfItsOwnGetsGoodTokens(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"http://127.0.0.1:9999/cb?error=none", "http://127.0.0.1:9999/cb?a=1;b=2"} {
		t.Run(address, func(t *testing.T) {
			s, _ := atGates(t, nil)
			c := *s.Storage.Client(optest.Implicit).(*optest.Client)
			c.Redirects = []string{address}
			s.Storage.SetClient(&c)
			v := s.Browser().Login(optest.Implicit, "alice", url.Values{
				"response_type": {"id_token token"}, "response_mode": {"query"}, "redirect_uri": {address},
			})
			token := v.Params.Get("access_token")
			require.NotEmpty(t, token, "%v", v)
			require.Equal(t, http.StatusOK, s.Userinfo(token).Status)
			require.Len(t, s.started(t, "alice"), 1)
		})
	}
}

// A storage that cannot delete the auth request: op answers with an error, whatever was
// made before.
func TestAnAuthRequestThatIsNotDeletedLeavesNoSlot(t *testing.T) {
	t.Parallel()
	for _, responses := range []string{"id_token", "id_token token", "code id_token", "code token", "token"} {
		t.Run(responses, func(t *testing.T) {
			var away atomic.Bool
			s := start(t, limits(0, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
				o.Wrap = func(st *optest.Storage) op.Storage {
					return &optest.Intercepted{Storage: st, Before: func(_ context.Context, method string) error {
						if method == "DeleteAuthRequest" && away.Load() {
							return errUsersAway
						}
						return nil
					}}
				}
			})
			away.Store(true)
			v := s.Browser().Login(optest.Implicit, "alice", url.Values{"response_type": {responses}})
			require.Equal(t, "server_error", v.Error())
			require.Empty(t, s.started(t, "alice"))
			require.Empty(t, s.seen(provider.EventStarted))
			away.Store(false)
			v = s.Browser().Login(optest.Implicit, "bob", url.Values{"response_type": {responses}})
			require.Empty(t, v.Error(), v.Description())
			require.Len(t, s.started(t, "bob"), 1)
			require.Len(t, s.seen(provider.EventStarted), 1)
		})
	}
}
