package provider_test

import (
	"context"
	"html"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A signedIn is a browser with a session.
type signedIn struct {
	*optest.Browser
	s      *setup
	sid    string
	tokens optest.Reply
}

func (s *setup) signIn(t testing.TB, client, user string) signedIn {
	t.Helper()
	b := s.Browser()
	tokens := ok(t, s.Code(client, b.Login(client, user, nil)))
	return signedIn{Browser: b, s: s, sid: s.Claim(client, tokens, "sid"), tokens: tokens}
}

// send sends a request as the browser does, and follows no redirect.
func (b signedIn) send(t testing.TB, method string, params url.Values) optest.Reply {
	t.Helper()
	address, body := b.s.Issuer+"/end_session", ""
	if method == http.MethodGet {
		address += "?" + params.Encode()
	} else {
		body = params.Encode()
	}
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	require.NoError(t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return b.s.Do(b.HTTP, req)
}

var hiddenInput = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// confirmForm requires the page that asks, and returns its form with an answer.
func confirmForm(t testing.TB, r optest.Reply, answer string) url.Values {
	t.Helper()
	require.Equal(t, http.StatusOK, r.Status, "%s", r.Body)
	require.Contains(t, r.Body, "<h1>Sign out?</h1>")
	require.Empty(t, r.Header.Get("Location"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	require.Equal(t, "DENY", r.Header.Get("X-Frame-Options"))
	require.Contains(t, r.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Contains(t, r.Body, `<form method="post" action="./end_session">`)
	form := url.Values{"curfew_answer": {answer}}
	for _, m := range hiddenInput.FindAllStringSubmatch(r.Body, -1) {
		form.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return form
}

func (s *setup) isLive(t testing.TB, sid string) bool {
	t.Helper()
	return s.kept(t, sid).End == nil
}

// Applications are told before the user goes on: RP-Initiated Logout 1.0 section 2.
func TestApplicationsAreToldBeforeTheRedirect(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" "+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := startNotified(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) { o.Embedding = embedding })
					b := n.signIn(t, optest.Web, "alice")
					second := ok(t, n.Code(optest.Web2, b.Login(optest.Web2, "alice", nil)))
					require.Equal(t, b.sid, n.Claim(optest.Web2, second, "sid"))
					n.web.Before(func(*http.Request) { time.Sleep(2 * time.Second) })
					n.web2.Before(func(*http.Request) { time.Sleep(3 * time.Second) })
					began := time.Now()
					r := b.send(t, method, url.Values{
						"id_token_hint": {b.tokens.IDToken()}, "post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {"s"},
					})
					require.Equal(t, http.StatusFound, r.Status, "%s", r.Body)
					require.Equal(t, optest.PostLogoutURI+"?state=s", r.Header.Get("Location"))
					require.Equal(t, 3*time.Second, time.Since(began), "both at once")
					n.web.Once(b.sid)
					n.web2.Once(b.sid)
					require.Equal(t, policy.ReasonLogout, n.kept(t, b.sid).End.Reason)
					require.Equal(t, "login_required", b.Authorize(optest.Web, url.Values{"prompt": {"none"}}).Error())
					require.Equal(t, "login_required", b.Authorize(optest.Web, url.Values{"prompt": {"none"}}).Error())
				})
			})
		}
	}
}

// A user who signs out waits for an application that hangs, but not for long.
func TestAnApplicationThatHangsDoesNotHoldASignOutUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute)
		n := startNotified(t, policy.Account{}, nil)
		b := n.signIn(t, optest.Web, "alice")
		ok(t, n.Code(optest.Web2, b.Login(optest.Web2, "alice", nil)))
		n.hook.DialLogout(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == webHost {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return n.dial(ctx, network, address)
		})
		began := time.Now()
		r := b.send(t, http.MethodGet, url.Values{"id_token_hint": {b.tokens.IDToken()}})
		require.Equal(t, http.StatusFound, r.Status, "%s", r.Body)
		require.Equal(t, 5*time.Second, time.Since(began))
		n.web2.Once(b.sid)
		n.sweepFor(t, time.Minute)
		require.NotZero(t, n.kept(t, b.sid).Deliveries[0].Attempts, "it is tried again")
	})
}

// Without a hint, or with one that is not this browser's session, the user is
// asked: RP-Initiated Logout 1.0 sections 2 and 3.
func TestTheUserIsAskedBeforeTheyAreSignedOut(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) { o.InMemory, o.Embedding = true, embedding })
			bob := s.signIn(t, optest.Web, "bob")
			app := url.Values{"post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {`"><b>`}}
			with := func(base url.Values, name, value string) url.Values {
				v := maps.Clone(base)
				v.Set(name, value)
				return v
			}
			for why, params := range map[string]url.Values{
				"nothing":                  {},
				"state only":               {"state": {"x"}},
				"client_id":                with(app, "client_id", optest.Web),
				"another session's hint":   with(app, "id_token_hint", "another"),
				"another user's hint":      with(app, "id_token_hint", bob.tokens.IDToken()),
				"a hint with its client":   with(with(app, "id_token_hint", "another"), "client_id", optest.Web),
				"a URI that is not judged": app,
			} {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					params := params
					b, other := s.signIn(t, optest.Web, "alice"), s.signIn(t, optest.Web, "alice")
					named := params.Get("id_token_hint") == "another"
					if named {
						params = with(params, "id_token_hint", other.tokens.IDToken())
					}
					form := confirmForm(t, b.send(t, method, params), "no")
					require.True(t, s.isLive(t, b.sid), why)
					require.NotContains(t, b.send(t, method, params).Body, "<b>", why)

					r := b.send(t, http.MethodPost, form)
					require.Equal(t, http.StatusOK, r.Status, "%s", r.Body)
					require.Contains(t, r.Body, "You are still signed in")
					require.True(t, s.isLive(t, b.sid), why)

					form.Set("curfew_answer", "yes")
					r = b.send(t, http.MethodPost, form)
					require.Equal(t, http.StatusFound, r.Status, "%s: %s", why, r.Body)
					require.False(t, s.isLive(t, b.sid), why)
					require.Equal(t, !named, s.isLive(t, other.sid), "%s: the same user's session that the hint names", why)
					require.True(t, s.isLive(t, bob.sid), why)
					to, err := url.Parse(r.Header.Get("Location"))
					require.NoError(t, err)
					if params.Has("client_id") || params.Has("id_token_hint") {
						require.Equal(t, optest.PostLogoutURI, to.Scheme+"://"+to.Host+to.Path, why)
						require.Equal(t, params.Get("state"), to.Query().Get("state"), why)
					} else {
						require.Equal(t, "/signed-out", to.Path, why)
					}

					// Once more it is no error, and asks nothing.
					require.Equal(t, http.StatusFound, b.send(t, http.MethodGet, url.Values{}).Status, why)
				}
			}
		})
	}
}

// A hinted storage takes a user on only where the application has shown an ID token
// of theirs, as the specification recommends (RP-Initiated Logout 1.0 section 2).
type hinted struct {
	*optest.Storage
	seen chan *op.EndSessionRequest
}

func (s hinted) TerminateSessionFromRequest(_ context.Context, r *op.EndSessionRequest) (string, error) {
	s.seen <- r
	if r.IDTokenHintClaims == nil {
		return "/signed-out", nil
	}
	return r.RedirectURI, nil
}

// After the page that asks, the user goes on to where the application wants them to,
// which the page promises: with a hint of an earlier session, of one that ended, and of
// another user; and with client_id alone.
func TestTheUserGoesOnAfterThePageThatAsks(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan *op.EndSessionRequest, 1)
			s := start(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) {
				o.InMemory, o.Embedding = true, embedding
				o.Wrap = func(s *optest.Storage) op.Storage { return hinted{s, seen} }
			})
			earlier, ended, bob := s.signIn(t, optest.Web, "alice"), s.signIn(t, optest.Web, "alice"), s.signIn(t, optest.Web, "bob")
			require.NoError(t, s.hook.End(t.Context(), ended.sid, policy.ReasonEndedByAdmin, "test"))
			target := url.Values{"post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {"s"}}
			for why, c := range map[string]struct {
				params url.Values
				client string
			}{
				"a hint of an earlier session": {url.Values{"id_token_hint": {earlier.tokens.IDToken()}}, optest.Web},
				"a hint of one that ended":     {url.Values{"id_token_hint": {ended.tokens.IDToken()}}, optest.Web},
				"a hint of another user":       {url.Values{"id_token_hint": {bob.tokens.IDToken()}}, optest.Web},
				"client_id":                    {url.Values{"client_id": {optest.Web2}}, optest.Web2},
				"nobody":                       {url.Values{}, ""},
			} {
				b := s.signIn(t, optest.Web, "alice")
				maps.Copy(c.params, target)
				page := b.send(t, http.MethodGet, c.params)
				promised := strings.Contains(page.Body, "Then you go on to <strong>127.0.0.1:9999</strong>")
				require.Equal(t, c.client != "", promised, "%s: %s", why, page.Body)
				r := b.send(t, http.MethodPost, confirmForm(t, page, "yes"))
				require.Equal(t, http.StatusFound, r.Status, "%s: %s", why, r.Body)
				require.False(t, s.isLive(t, b.sid), why)
				require.True(t, s.isLive(t, bob.sid), why)
				told := <-seen
				require.Equal(t, optest.SubjectOf("alice"), told.UserID, why)
				if c.client == "" {
					require.Equal(t, "/signed-out", r.Header.Get("Location"), why)
					require.Nil(t, told.IDTokenHintClaims, why)
					continue
				}
				require.Equal(t, optest.PostLogoutURI+"?state=s", r.Header.Get("Location"), why)
				claims := told.IDTokenHintClaims
				require.Equal(t, s.Issuer, claims.Issuer, why)
				require.Equal(t, optest.SubjectOf("alice"), claims.Subject, why)
				require.Equal(t, b.sid, claims.SessionID, why)
				require.Equal(t, c.client, claims.AuthorizedParty, why)
				require.NotZero(t, claims.GetAuthTime(), why)
			}
		})
	}
}

// Nobody but the user, in this browser, on the page that asked, can say yes.
func TestNobodyElseCanConfirmASignOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, policy.Account{}, inMemory)
		victim, attacker := s.signIn(t, optest.Web, "alice"), s.signIn(t, optest.Web, "mallory")
		own := confirmForm(t, attacker.send(t, http.MethodGet, nil), "yes")
		good := confirmForm(t, victim.send(t, http.MethodGet, nil), "yes")
		token := good.Get("curfew_logout")
		tampered := token[:len(token)-3] + "AAA"
		for name, r := range map[string]optest.Reply{
			"no token":            victim.send(t, http.MethodPost, url.Values{"curfew_answer": {"yes"}}),
			"another browser's":   victim.send(t, http.MethodPost, own),
			"by GET":              victim.send(t, http.MethodGet, good),
			"tampered with":       victim.send(t, http.MethodPost, url.Values{"curfew_answer": {"yes"}, "curfew_logout": {tampered}}),
			"a token of ours":     victim.send(t, http.MethodPost, url.Values{"curfew_answer": {"yes"}, "curfew_logout": {victim.tokens.RefreshToken()}}),
			"in another's place":  attacker.send(t, http.MethodPost, good),
			"with an endless URI": victim.send(t, http.MethodPost, url.Values{"state": {strings.Repeat("x", 100<<10)}, "curfew_answer": {"yes"}, "curfew_logout": {token}}),
		} {
			confirmForm(t, r, "yes")
			require.True(t, s.isLive(t, victim.sid), name)
			require.True(t, s.isLive(t, attacker.sid), name)
		}
		time.Sleep(10 * time.Minute)
		confirmForm(t, victim.send(t, http.MethodPost, good), "yes") // too late: again
		require.True(t, s.isLive(t, victim.sid))
		require.Equal(t, http.StatusFound, victim.send(t, http.MethodPost, confirmForm(t, victim.send(t, http.MethodGet, nil), "yes")).Status)
		require.False(t, s.isLive(t, victim.sid))
		require.True(t, s.isLive(t, attacker.sid))
	})
}

// Nobody is sent to an address that is not registered.
func TestABadPostLogoutURINeverRedirects(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, inMemory)
	b := s.signIn(t, optest.Web, "alice")
	for _, uri := range []string{"https://attacker.example/", optest.PostLogoutURI + "/", optest.PostLogoutURI + "?x=y", optest.PostLogoutURI + "#x"} {
		for _, params := range []url.Values{
			{"id_token_hint": {b.tokens.IDToken()}, "post_logout_redirect_uri": {uri}},
			{"client_id": {optest.Web}, "post_logout_redirect_uri": {uri}},
		} {
			r := b.send(t, http.MethodGet, params)
			require.Equal(t, http.StatusBadRequest, r.Status, "%s", uri)
			require.Empty(t, r.Header.Get("Location"))
			require.True(t, s.isLive(t, b.sid))
		}
	}
	// One that is not judged, as nobody says whose it is, is not used either.
	form := confirmForm(t, b.send(t, http.MethodGet, url.Values{"post_logout_redirect_uri": {"https://attacker.example/"}}), "yes")
	require.Equal(t, "/signed-out", b.send(t, http.MethodPost, form).Header.Get("Location"))
}

// Without cookies it is the hint that counts, as before.
func TestWithoutCookiesTheHintCounts(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]bool{"switched off": true, "of another browser": false} {
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) { o.InMemory, p.NoBrowserSession = true, off })
		b := s.signIn(t, optest.Web, "alice")
		elsewhere := b
		if !off {
			elsewhere.Browser = s.Browser()
		}
		require.Equal(t, http.StatusFound, elsewhere.send(t, http.MethodGet, nil).Status, name)
		require.True(t, s.isLive(t, b.sid), name)
		require.Equal(t, http.StatusFound, elsewhere.send(t, http.MethodGet, url.Values{"id_token_hint": {b.tokens.IDToken()}}).Status, name)
		require.False(t, s.isLive(t, b.sid), name)
	}
}

// A store that cannot say whose browser it is signs nobody out, and tells nobody
// that they are.
func TestASignOutWithoutAStoreIsAnOutage(t *testing.T) {
	t.Parallel()
	faulty := faultstore.New(memstore.New())
	s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) { p.Store, o.InMemory = faulty, true })
	b := s.signIn(t, optest.Web, "alice")
	faulty.Script(func(faultstore.Call) faultstore.Fault { return faultstore.Before })
	for _, params := range []url.Values{nil, {"id_token_hint": {b.tokens.IDToken()}}} {
		r := b.send(t, http.MethodGet, params)
		require.Equal(t, http.StatusServiceUnavailable, r.Status, "%s", r.Body)
	}
	faulty.Script(nil)
	require.True(t, s.isLive(t, b.sid))
}

// Front-Channel Logout 1.0: the browser tells the applications, then it goes on.
func TestFrontChannel(t *testing.T) {
	t.Parallel()
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
					o.InMemory, o.Embedding = true, embedding
					p.Logout = provider.Logout{FrontChannel: true, URIs: func(_ context.Context, client string) (provider.LogoutURIs, error) {
						return map[string]provider.LogoutURIs{
							optest.Web:  {FrontChannel: `https://app.example.org/front?tenant="a`},
							optest.Web2: {FrontChannel: "http://not.example.org/"},
						}[client], nil
					}}
				})
				b := s.signIn(t, optest.Web, "alice")
				ok(t, s.Code(optest.Web2, b.Login(optest.Web2, "alice", nil)))
				r := b.send(t, http.MethodGet, url.Values{
					"id_token_hint": {b.tokens.IDToken()}, "post_logout_redirect_uri": {optest.PostLogoutURI}, "state": {`"><b>`},
				})
				require.Equal(t, http.StatusOK, r.Status, "%s", r.Body)
				require.Empty(t, r.Header.Get("Location"))
				require.Contains(t, r.Header.Get("Content-Security-Policy"), "; frame-src https://app.example.org; ")
				require.NotContains(t, r.Body, "<script")
				require.NotContains(t, r.Body, "<b>")
				frames := regexp.MustCompile(`<iframe src="([^"]*)"`).FindAllStringSubmatch(r.Body, -1)
				require.Len(t, frames, 1, "and none without https")
				frame, err := url.Parse(html.UnescapeString(frames[0][1]))
				require.NoError(t, err)
				require.Equal(t, "app.example.org", frame.Host)
				require.Equal(t, url.Values{"tenant": {`"a`}, "iss": {s.Issuer}, "sid": {b.sid}}, frame.Query())
				refresh := regexp.MustCompile(`<meta http-equiv="refresh" content="3; url=([^"]*)">`).FindStringSubmatch(r.Body)
				require.Len(t, refresh, 2)
				to, err := url.Parse(html.UnescapeString(refresh[1]))
				require.NoError(t, err)
				require.Equal(t, `"><b>`, to.Query().Get("state"))
				require.True(t, strings.HasPrefix(to.String(), optest.PostLogoutURI))
				require.Len(t, s.seen(provider.EventDeliveryFailed), 1)

				// With no session to tell of there is nothing to show.
				require.Equal(t, http.StatusFound, b.send(t, http.MethodGet, url.Values{"id_token_hint": {b.tokens.IDToken()}}).Status)
			})
		})
	}
}

// Discovery announces what is on, and says nothing twice.
func TestDiscoveryAnnouncesLogout(t *testing.T) {
	t.Parallel()
	uris := func(context.Context, string) (provider.LogoutURIs, error) { return provider.LogoutURIs{}, nil }
	back := []string{"backchannel_logout_supported", "backchannel_logout_session_supported"}
	front := []string{"frontchannel_logout_supported", "frontchannel_logout_session_supported"}
	for name, x := range map[string]struct {
		logout    provider.Logout
		on, off   []string
		announced bool // by op too
	}{
		"nothing":          {off: append(append([]string{}, back...), front...)},
		"back channel":     {logout: provider.Logout{URIs: uris}, on: back, off: front},
		"both":             {logout: provider.Logout{URIs: uris, FrontChannel: true}, on: append(append([]string{}, back...), front...)},
		"announced by op":  {logout: provider.Logout{URIs: uris}, on: back, off: front, announced: true},
		"op's own, hook's": {on: back, off: front, announced: true},
	} {
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			o.InMemory, p.Logout, o.AnnounceLogout = true, x.logout, x.announced
		})
		d := s.Discovery()
		for _, member := range x.on {
			require.Equal(t, true, d.JSON[member], "%s: %s", name, member)
			require.Equal(t, 1, strings.Count(d.Body, `"`+member+`"`), "%s: %s", name, member)
		}
		for _, member := range x.off {
			require.NotContains(t, d.JSON, member, name)
		}
	}
}
