package provider_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// Rule 5: in the last minute of a session no authorization goes on in it. The user is
// asked for credentials, and the session goes on under new limits; an application that
// asks without the user is told that it must. A refresh is good to the end, and what was
// signed in to before.
func TestTheRemainderOfASession(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		active, set time.Duration
		remainder   time.Duration
		change      func(*provider.Config, *optest.Config)
	}{
		"by default":                       {active: 4 * time.Hour, remainder: time.Minute, change: sso},
		"set":                              {active: 4 * time.Hour, set: 5 * time.Minute, remainder: 5 * time.Minute, change: sso},
		"of a short limit":                 {active: 5 * time.Minute, remainder: 30 * time.Second, change: sso},
		"set, of a short limit":            {active: 20 * time.Minute, set: time.Hour, remainder: 2 * time.Minute, change: sso},
		"the provider's own sign-on":       {active: 4 * time.Hour, remainder: time.Minute, change: ssoKnown},
		"the provider's own, and a cap":    {active: 4 * time.Hour, remainder: time.Minute, change: ssoKnown},
		"a storage that rotates no tokens": {active: 4 * time.Hour, remainder: time.Minute, change: ssoNonRotating},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				concurrent := 0
				if strings.HasSuffix(name, "cap") {
					concurrent = 1
				}
				s := start(t, limits(c.active, 0, concurrent, policy.Refuse), func(p *provider.Config, o *optest.Config) {
					c.change(p, o)
					p.Remainder = c.set
				})
				b := s.Browser()
				r := s.loginIn(t, b, optest.Web, "alice", nil)
				sid := s.sid(t, optest.Web, r)
				end := time.Now().Add(c.active)
				silent := url.Values{"prompt": {"none"}}

				time.Sleep(time.Until(end.Add(-c.remainder)))
				r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				for _, ask := range []url.Values{nil, silent, {"id_token_hint": {r.IDToken()}}} {
					v := b.Authorize(optest.Web2, ask)
					require.NotEmpty(t, v.Code(), "with all of the remainder left: %s %s", v.URL, v.Description())
					require.Equal(t, sid, s.sid(t, optest.Web2, ok(t, s.Code(optest.Web2, v))))
				}
				pending := b.Authorize(optest.Web2, nil)

				time.Sleep(time.Millisecond)
				v := b.Authorize(optest.Web2, silent)
				require.Equal(t, "login_required", v.Error(), v.Description())
				require.Equal(t, policy.ReasonActiveLimit, policy.ReasonOf(v.Description()))
				require.Contains(t, v.Description(), "about to reach its limit of ")
				refused := s.seen(provider.EventRefused)
				require.Len(t, refused, 1)
				require.Equal(t, policy.ReasonActiveLimit, refused[0].Reason)
				ok(t, s.Code(optest.Web2, pending)) // of an authorization that came in time
				r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				require.Len(t, s.live(t, "alice"), 1)

				time.Sleep(time.Until(end.Add(-time.Second)))
				last, _ := ok(t, s.Refresh(optest.Web, r.RefreshToken())).Number("authorization_expires_in")
				require.Equal(t, 1.0, last)

				// The page of the provider asks, whether or not the application says whose
				// session it means, and the session is the same.
				for _, ask := range []url.Values{nil, {"id_token_hint": {r.IDToken()}}} {
					v = b.Authorize(optest.Web2, ask)
					require.Equal(t, http.StatusOK, v.Status, "%s %s", v.URL, v.Description())
					require.Contains(t, v.Body, "password", "the page to sign in at")
				}
				v = b.SignIn(v, "alice")
				require.NotEmpty(t, v.Code(), v.Description())
				fresh := ok(t, s.Code(optest.Web2, v))
				require.Equal(t, sid, s.sid(t, optest.Web2, fresh))
				left, _ := fresh.Number("authorization_expires_in")
				require.Equal(t, c.active.Seconds(), left)
				require.Len(t, s.live(t, "alice"), 1)
			})
		})
	}
}

func sso(p *provider.Config, o *optest.Config) {
	inMemory(p, o)
	o.Storage = optest.NewStorage()
	o.Storage.SSO = true
}

func ssoNonRotating(p *provider.Config, o *optest.Config) {
	sso(p, o)
	o.Wrap = optest.NonRotating
}

// A login that would be a session of its own: of a native application, of a storage that
// remembers the user where the hook does not, and of one that takes a remembered login
// whatever it is asked. It makes no session, and takes nobody's place.
func TestTheRemainderOfASignOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		client string
		change func(*provider.Config, *optest.Config)
	}{
		"a native application":          {optest.Native, sso},
		"no cookie of the hook's":       {optest.Web2, func(p *provider.Config, o *optest.Config) { sso(p, o); p.NoBrowserSession = true }},
		"a storage that does not ask":   {optest.Web2, func(p *provider.Config, o *optest.Config) { sso(p, o); o.Wrap = optest.Complaisant }},
		"the same, for a native client": {optest.Native, func(p *provider.Config, o *optest.Config) { sso(p, o); o.Wrap = optest.Complaisant }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(4*time.Hour, 0, 2, policy.EndOldest), c.change)
				b := s.Browser()
				other := s.loginIn(t, s.Browser(), optest.Web, "alice", nil)
				time.Sleep(time.Second)
				r := s.loginIn(t, b, optest.Web, "alice", nil)
				time.Sleep(4*time.Hour - 30*time.Second)
				v := b.Authorize(c.client, nil)
				if v.Error() != "" {
					require.Equal(t, "login_required", v.Error())
					require.Equal(t, policy.ReasonActiveLimit, policy.ReasonOf(v.Description()))
				} else {
					require.Contains(t, v.Body, "password", "the page to sign in at")
				}
				ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				ok(t, s.Refresh(optest.Web, other.RefreshToken()))
				require.Len(t, s.live(t, "alice"), 2)
			})
		})
	}
}

// A callback that is loaded again in the last minute is answered as before, and so is the
// code: it was decided when there was more time. A provider that does not say when the
// user signed in is believed.
func TestTheRemainderIsAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(4*time.Hour, 0, 0, 0), sso)
		b := s.Browser()
		s.loginIn(t, b, optest.Web, "alice", nil)
		time.Sleep(4*time.Hour - 61*time.Second)
		v := b.Authorize(optest.Web2, nil)
		require.NotEmpty(t, v.Code(), v.Description())
		time.Sleep(30 * time.Second)
		again := b.Get(v.Callback)
		require.NotEmpty(t, again.Code(), again.Description())
		ok(t, s.Code(optest.Web2, again))
	})
}

// A session that is over in a moment for an application with a shorter limit goes on for
// the others.
func TestTheRemainderIsOfTheClient(t *testing.T) {
	t.Parallel()
	for _, web2 := range []string{optest.Web2, strings.ToUpper(optest.Web2)} { // as a storage may know it too
		synctest.Test(t, func(t *testing.T) {
			a := limits(4*time.Hour, 0, 0, 0)
			a.Clients = map[string]policy.Limits{optest.Web2: {Active: policy.LimitTo(time.Hour)}}
			s := start(t, a, func(p *provider.Config, o *optest.Config) {
				sso(p, o)
				o.Wrap = func(s *optest.Storage) op.Storage { return folding{s} }
			})
			b := s.Browser()
			s.loginIn(t, b, optest.Web, "alice", nil)
			time.Sleep(time.Hour - 30*time.Second)
			require.NotEmpty(t, b.Authorize(optest.Web, nil).Code())
			require.Equal(t, "login_required", b.Authorize(web2, url.Values{"prompt": {"none"}}).Error())
			v := b.Authorize(web2, nil)
			require.Contains(t, v.Body, "password", "the page to sign in at")
		})
	}
}

func TestRemainderIsChecked(t *testing.T) {
	t.Parallel()
	_, err := provider.New(provider.Config{
		Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, Remainder: -1,
	})
	require.ErrorIs(t, err, provider.ErrConfig)
	require.ErrorContains(t, err, "Remainder")
}
