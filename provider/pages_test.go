package provider_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// sibling is an origin of the same site as the provider: browsers send it the
// provider's cookies along.
const sibling = "http://127.0.0.1:1"

// A browserRequest sends what browsers say of where a request comes from.
type browserRequest struct {
	site, origin string
	next         http.RoundTripper
}

func (b *browserRequest) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.origin != "" {
		r.Header.Set("Origin", b.origin)
	}
	if b.site != "" {
		r.Header.Set("Sec-Fetch-Site", b.site)
	}
	return b.next.RoundTrip(r)
}

// from makes a browser's next requests those of a page at an origin.
func from(b *optest.Browser, site, origin string) *browserRequest {
	if already, ok := b.HTTP.Transport.(*browserRequest); ok {
		already.site, already.origin = site, origin
		return already
	}
	r := &browserRequest{site, origin, b.HTTP.Transport}
	b.HTTP.Transport = r
	return r
}

// corsForAll is a CORS middleware as people write it: every origin, with credentials.
func corsForAll(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Access-Control-Allow-Origin": r.Header.Get("Origin"), "Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "Location",
		} {
			w.Header().Set(name, value)
		}
		next.ServeHTTP(w, r)
	})
}

// nobodyElseReads requires a page that no other origin may read.
func nobodyElseReads(t testing.TB, what string, h http.Header) {
	t.Helper()
	for name := range h {
		require.False(t, strings.HasPrefix(name, "Access-Control-"), "%s: %s: %s", what, name, h.Get(name))
	}
	require.Equal(t, "no-store", h.Get("Cache-Control"), what)
}

// No page of another origin reads the pages of the hook, whatever a CORS middleware
// allows: op's own, which answers every origin with credentials, and one outside of
// the hook.
func TestPagesAreForNobodyElse(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		for _, outside := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", CORS outside"}[outside], func(t *testing.T) {
				t.Parallel()
				frontChannel := "https://app.example.org/front"
				s := start(t, limits(0, 0, 2, policy.Ask), func(p *provider.Config, o *optest.Config) {
					o.InMemory, o.Embedding = true, embedding
					if outside {
						o.Middleware = corsForAll
					}
					p.Logout = provider.Logout{FrontChannel: true, URIs: func(context.Context, string) (provider.LogoutURIs, error) {
						return provider.LogoutURIs{FrontChannel: frontChannel}, nil
					}}
				})
				b := s.signIn(t, optest.Web, "alice")
				from(b.Browser, "same-site", sibling)
				open := b.Get(s.Issuer + "/.well-known/openid-configuration")
				require.Equal(t, sibling, open.Header.Get("Access-Control-Allow-Origin"), "else this proves nothing")
				require.Equal(t, "true", open.Header.Get("Access-Control-Allow-Credentials"))

				asks := b.send(t, http.MethodGet, nil)
				form := confirmForm(t, asks, "no")
				nobodyElseReads(t, "sign out?", asks.Header)
				from(b.Browser, "same-origin", s.Issuer)
				stays := b.send(t, http.MethodPost, form)
				require.Contains(t, stays.Body, "You are still signed in")
				nobodyElseReads(t, "still signed in", stays.Header)

				s.Login(optest.Web, "alice")
				c := s.Browser()
				v := c.Authorize(optest.Web, nil)
				v = mustBeAsked(t, c.SignIn(v, "alice"))
				from(c, "same-site", sibling)
				v = mustBeAsked(t, c.Get(v.Callback))
				nobodyElseReads(t, "at the cap", v.Header)
				nobodyElseReads(t, "refused form", c.Submit(v, answer(listed(v)...)).Header)
				nobodyElseReads(t, "form that cannot be read", c.Post(v.Callback+"&curfew_answer=1", "text/plain", "x").Header)
				from(c, "same-origin", s.Issuer)
				nobodyElseReads(t, "one moment", requireNext(t, c, v))

				for _, form := range []url.Values{{"response_mode": {"form_post"}}, {"response_type": {"id_token token"}, "response_mode": {"form_post"}}} {
					d := s.Browser()
					from(d, "same-site", sibling)
					v = d.Login(optest.Implicit, "bob", form)
					require.NotEmpty(t, v.Params.Get("code")+v.Params.Get("id_token"), v.Body)
					nobodyElseReads(t, "op's form with the code or tokens", v.Header)
					form.Set("prompt", "none login")
					v = d.Authorize(optest.Implicit, form)
					require.Equal(t, "invalid_request", v.Error())
					nobodyElseReads(t, "the hook's form with an error", v.Header)
				}

				e := s.signIn(t, optest.Web, "carol")
				from(e.Browser, "same-site", sibling)
				leaves := e.send(t, http.MethodGet, url.Values{"id_token_hint": {e.tokens.IDToken()}})
				require.Contains(t, leaves.Body, "<iframe")
				nobodyElseReads(t, "frames", leaves.Header)
			})
		}
	}
}

// requireNext answers the page at v and returns the headers of the page that leads on.
func requireNext(t testing.TB, b *optest.Browser, v optest.Visit) http.Header {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, v.Callback+"&curfew_answer=1", strings.NewReader(url.Values{
		"curfew_token": {askToken(v)}, "action": {"end"}, "end": listed(v),
	}.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", formType)
	resp, err := b.HTTP.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NotEmpty(t, resp.Header.Get("Refresh"))
	return resp.Header
}

// What browsers say of where a form comes from, and whether it is taken.
var formOrigins = []struct {
	name, site, origin string
	taken              bool
}{
	{"own page", "same-origin", "ISSUER", true},
	{"own page of an old browser", "", "ISSUER", true},
	{"typed in", "none", "", true},
	{"no browser", "", "", true},
	{"sibling", "same-site", sibling, false},
	{"sibling of an old browser", "", sibling, false},
	{"another site", "cross-site", "https://attacker.example", false},
	{"sandboxed frame", "cross-site", "null", false},
	{"page without a referrer, old browser", "", "null", false},
	{"own page, by a proxy that changed Host", "same-origin", "https://login.example.com", true},
}

// Only the page that asks can answer: a form of another origin ends nothing, with
// everything else right. It is asked again.
func TestOnlyOwnPagesAnswer(t *testing.T) {
	for _, o := range formOrigins {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, policy.Account{}, inMemory)
			origin := strings.ReplaceAll(o.origin, "ISSUER", s.Issuer)
			b := s.signIn(t, optest.Web, "alice")
			form := confirmForm(t, b.send(t, http.MethodGet, nil), "yes")
			from(b.Browser, o.site, origin)
			r := b.send(t, http.MethodPost, form)
			require.Equal(t, !o.taken, s.isLive(t, b.sid))
			if !o.taken {
				confirmForm(t, r, "yes")
				nobodyElseReads(t, "asked again", r.Header)
			}

			s.set(limits(0, 0, 2, policy.Ask))
			s.Login(optest.Web, "carol")
			s.Login(optest.Web, "carol")
			for _, action := range []string{"cancel", "end"} {
				c := s.Browser()
				v := mustBeAsked(t, c.Login(optest.Web, "carol", nil))
				from(c, o.site, origin)
				after := c.Submit(v, url.Values{"action": {action}, "end": listed(v)})
				require.Equal(t, o.taken, after.Params != nil, "%s: %d %s", action, after.Status, after.Body)
				if !o.taken {
					require.Equal(t, http.StatusForbidden, after.Status)
					require.Contains(t, after.Body, "sent by another website")
					require.Len(t, s.live(t, "carol"), 2)
				}
			}

			s.Login(optest.Web, "dave")
			s.Login(optest.Web, "dave")
			for _, action := range []string{"cancel", "end"} {
				d := s.desk(t, "dave", "ABCD-EFGH")
				v, _ := d.do(nil)
				mustBeAsked(t, v)
				d.header = http.Header{"Sec-Fetch-Site": {o.site}, "Origin": {strings.ReplaceAll(origin, s.Issuer, "http://127.0.0.1")}}
				v, decision := d.do(d.answers(v, url.Values{"action": {action}, "end": listed(v)}))
				require.Equal(t, o.taken, decision != (provider.DeviceDecision{}), "%s: %d %s", action, v.Status, v.Body)
				if !o.taken {
					require.Equal(t, http.StatusForbidden, v.Status)
					require.Len(t, s.live(t, "dave"), 2)
					nobodyElseReads(t, "device", v.Header)
				}
			}
		})
	}
}

// A proxy may change Host, and an old browser says Origin alone: the issuer's counts.
func TestOwnPagesBehindAProxy(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, inMemory)
	b := s.signIn(t, optest.Web, "alice")
	form := confirmForm(t, b.send(t, http.MethodGet, nil), "yes")
	from(b.Browser, "", s.Issuer)
	b.HTTP.Transport = otherHost{b.HTTP.Transport}
	b.send(t, http.MethodPost, form)
	require.False(t, s.isLive(t, b.sid))
}

// otherHost sends requests as a proxy does that does not pass Host on.
type otherHost struct{ next http.RoundTripper }

func (o otherHost) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host = "backend.internal"
	return o.next.RoundTrip(r)
}

// The page for a device has the same headers, where a CORS middleware is around it.
func TestThePageForADeviceIsForNobodyElse(t *testing.T) {
	t.Parallel()
	s, _ := atCap(t, inMemory)
	d := s.desk(t, "alice", "ABCD-EFGH")
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/device/confirm", nil)
	r.Header.Set("Origin", sibling)
	w := httptest.NewRecorder()
	corsForAll(d.page).ServeHTTP(w, r)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Contains(t, w.Body.String(), "ABCD-EFGH")
	nobodyElseReads(t, "device", w.Header())
}
