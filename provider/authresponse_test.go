package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// responseForms are the ways to answer an authorization request.
func responseForms() []url.Values {
	var forms []url.Values
	for _, responseType := range []string{"code", "id_token", "id_token token"} {
		for _, mode := range []string{"", "query", "fragment", "form_post"} {
			forms = append(forms, url.Values{"response_type": {responseType}, "response_mode": {mode}})
		}
	}
	return forms
}

// arrived requires that an application got an answer by the response mode that it
// asked for, and returns its parameters.
func arrived(t testing.TB, v optest.Visit, form url.Values) url.Values {
	t.Helper()
	require.NotNil(t, v.Params, "%v: %d %s %s", form, v.Status, v.URL, v.Body)
	require.Equal(t, "state-1", v.Params.Get("state"), "%v", form)
	posted := form.Get("response_mode") == "form_post"
	require.Equal(t, posted, strings.Contains(v.Body, `<form method="post" action="`+optest.RedirectURI+`"`), "%v: %s", form, v.Body)
	if posted {
		require.Equal(t, http.StatusOK, v.Status, "%v", form)
		require.Empty(t, v.Header.Get("Location"), "%v", form)
		require.Equal(t, "no-store", v.Header.Get("Cache-Control"), "%v", form)
		return v.Params
	}
	inFragment := form.Get("response_mode") == "fragment" || form.Get("response_mode") == "" && form.Get("response_type") != "code"
	require.Equal(t, inFragment, strings.Contains(v.URL, "#"), "%v: %s", form, v.URL)
	return v.Params
}

// Every authorization response names its issuer, errors included, in every response
// mode, and an error comes by the mode that was asked for: RFC 9207 section 2, OAuth
// 2.0 Form Post Response Mode section 2.
func TestAuthorizationResponsesNameTheirIssuer(t *testing.T) {
	for name, embedding := range optest.Embeddings {
		for _, own := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", own response"}[own], func(t *testing.T) {
				t.Parallel()
				s := start(t, limits(0, 0, 1000, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
					o.InMemory, o.Embedding, o.OwnResponse = true, embedding, own
				})
				require.Equal(t, true, s.Discovery().JSON["authorization_response_iss_parameter_supported"])
				for _, form := range responseForms() {
					s.set(limits(0, 0, 1000, policy.Refuse))
					with := func(more url.Values) url.Values {
						all := maps.Clone(form)
						maps.Copy(all, more)
						return all
					}
					names := func(v optest.Visit, wantError string) {
						t.Helper()
						params := arrived(t, v, form)
						require.Equal(t, wantError, params.Get("error"), "%v: %v", form, params)
						require.Equal(t, []string{s.Issuer}, params["iss"], "%v", form)
					}
					b := s.Browser()
					if !own || form.Get("response_mode") != "form_post" { // it redirects what should be posted
						v := b.Login(optest.Implicit, "alice", form)
						names(v, "")
						require.NotEmpty(t, v.Params.Get("code")+v.Params.Get("id_token"), "%v", form)
						if v.Code() != "" { // loaded again
							names(b.Get(v.Callback), "")
						}
					}

					// op refuses the request itself, before any storage sees it; by POST too.
					bad := with(url.Values{"prompt": {"none login"}})
					names(b.Authorize(optest.Implicit, bad), "invalid_request")
					address, query, _ := strings.Cut(s.AuthorizeURL(optest.Implicit, bad), "?")
					names(b.Post(address, formType, query), "invalid_request")
					// The storage, or the hook, refuses it.
					names(s.Browser().Authorize(optest.Implicit, with(url.Values{"prompt": {"none"}})), "login_required")
					names(b.Authorize(optest.Implicit, with(url.Values{"id_token_hint": {"broken"}})), "login_required")

					// At the cap: refused, and given up on the page that asks.
					s.set(limits(0, 0, 1, policy.Refuse))
					ok(t, s.Code(optest.Web, s.Browser().Login(optest.Web, "bob", nil)))
					names(s.Browser().Login(optest.Implicit, "bob", form), "access_denied")
					if !own {
						s.set(limits(0, 0, 1, policy.Ask))
						c := s.Browser()
						names(c.Submit(mustBeAsked(t, c.Login(optest.Implicit, "bob", form)), url.Values{"action": {"cancel"}}), "access_denied")
						v := mustBeAsked(t, c.Login(optest.Implicit, "bob", form))
						names(c.Submit(v, answer(listed(v)...)), "")
					}
					s.set(limits(0, 0, 1000, policy.Refuse))
					_, err := s.hook.EndAll(t.Context(), s.subject("bob"), policy.ReasonEndedByAdmin, "test", "")
					require.NoError(t, err)
				}
				require.Empty(t, s.seen(provider.EventMisconfigured))
			})
		}
	}
}

// Where it is switched off nothing is added, but errors are posted all the same.
func TestResponsesWithoutAnIssuer(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) { o.InMemory, p.NoResponseIssuer = true, true })
	require.NotContains(t, s.Discovery().JSON, "authorization_response_iss_parameter_supported")
	for _, form := range responseForms() {
		params := arrived(t, s.Browser().Login(optest.Implicit, "alice", form), form)
		require.NotContains(t, params, "iss", "%v", form)
		form.Set("prompt", "none login")
		params = arrived(t, s.Browser().Authorize(optest.Implicit, form), form)
		require.Equal(t, "invalid_request", params.Get("error"), "%v", form)
		require.NotContains(t, params, "iss", "%v", form)
	}
}

// The page that posts an error runs its own script and nothing else, and has a button
// where there is none. What comes from the request is escaped.
func TestThePageThatPostsAnError(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, inMemory)
	v := s.Browser().Authorize(optest.Web, url.Values{"response_mode": {"form_post"}, "prompt": {"none login"}, "state": {`"><b>`}})
	require.Equal(t, `"><b>`, v.Params.Get("state"))
	require.NotContains(t, v.Body, "<b>")
	require.Contains(t, v.Body, "<noscript><button>")
	script := regexp.MustCompile(`<script>([^<]*)</script>`).FindStringSubmatch(v.Body)
	require.Len(t, script, 2)
	sum := sha256.Sum256([]byte(script[1]))
	require.Equal(t, "default-src 'none'; script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'; base-uri 'none'",
		v.Header.Get("Content-Security-Policy"))
	require.Equal(t, "text/html; charset=utf-8", v.Header.Get("Content-Type"))
	require.Equal(t, "strict-origin", v.Header.Get("Referrer-Policy"))
	require.Empty(t, v.Header.Get("X-Frame-Options"), "op's form may be in a frame too: prompt=none")
}

// What a client has in its own address stays there, and nothing comes twice.
func TestResponsesToAddressesWithParameters(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		optest.RedirectURI + "?error=own&x=1":                optest.RedirectURI + "?error=own&error=invalid_request&error_description=D&state=state-1&x=1&iss=I",
		optest.RedirectURI + "?iss=https%3A%2F%2Fregistered": optest.RedirectURI + "?error=invalid_request&error_description=D&iss=https%3A%2F%2Fregistered&state=state-1",
		optest.RedirectURI + "#part":                         optest.RedirectURI + "?error=invalid_request&error_description=D&state=state-1&iss=I#part",
		"com.example.app:/cb":                                "com.example.app:/cb?error=invalid_request&error_description=D&state=state-1&iss=I",
	} {
		client := optest.DefaultClients()[0]
		client.Redirects = []string{address}
		if strings.HasPrefix(address, "com.") {
			client.Type = 2 // native
		}
		s := start(t, policy.Account{}, func(_ *provider.Config, o *optest.Config) {
			o.InMemory, o.Storage = true, optest.NewStorage(client)
		})
		for _, mode := range []string{"query", "form_post"} {
			req, err := http.NewRequest(http.MethodGet, s.AuthorizeURL(client.ID, url.Values{
				"redirect_uri": {address}, "prompt": {"none login"}, "response_mode": {mode},
			}), nil)
			require.NoError(t, err)
			r := s.Do(s.HTTP, req)
			if mode == "form_post" && strings.HasPrefix(address, "http") {
				require.Equal(t, http.StatusOK, r.Status, "%s", r.Body)
				require.Contains(t, r.Body, `name="error" value="invalid_request"`, address)
				require.Equal(t, 1, strings.Count(r.Body, `name="error"`), address)
				require.Equal(t, 1, strings.Count(r.Body, `name="iss"`), address)
				continue
			}
			require.Equal(t, http.StatusFound, r.Status, "%s", r.Body)
			location := r.Header.Get("Location")
			got := regexp.MustCompile(`error_description=[^&]*`).ReplaceAllString(location, "error_description=D")
			require.Equal(t, strings.ReplaceAll(want, "iss=I", "iss="+url.QueryEscape(s.Issuer)), got)
			require.Contains(t, r.Body, strings.ReplaceAll(location, "&", "&amp;"), "the body repeats the address")
		}
	}
}

// A redirect that is not the answer to an authorization request stays as it is. One
// that looks like one, but of whose request the hook knows nothing, is told of.
func TestRedirectsThatAreNoResponses(t *testing.T) {
	t.Parallel()
	for location, told := range map[string]bool{
		"https://app.example.org/cb?error=login_required&state=1": true,
		"https://app.example.org/cb#error=login_required&state=1": true,
		"/login?error=wrong_password&state=1":                     false,
		"http://example.com/login?error=wrong_password&state=1":   false, // the provider's own host
		"https://app.example.org/out?state=1":                     false,
		"https://idp.example.org/authorize?prompt=none&state=1":   false,
	} {
		s := start(t, policy.Account{}, inMemory)
		h := s.hook.Handler(http.RedirectHandler(location, http.StatusFound))
		for range 2 {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/login?client_id=web&redirect_uri="+url.QueryEscape(location), nil))
			require.Equal(t, location, w.Header().Get("Location"))
		}
		events := s.seen(provider.EventMisconfigured)
		require.Equal(t, told, len(events) == 1, "%s: %v", location, events)
		if told {
			require.ErrorContains(t, events[0].Err, "NoResponseIssuer")
		}
	}
}

// Where an error goes, and how, may be in a request object. One that is not supported
// says nothing.
func TestErrorsOfRequestObjects(t *testing.T) {
	t.Parallel()
	client := optest.DefaultClients()[0]
	client.ID = "service"
	change := func(_ *provider.Config, o *optest.Config) {
		o.InMemory, o.Storage = true, optest.NewStorage(client)
		o.Wrap = func(s *optest.Storage) op.Storage { return keyed{s} }
	}
	s := start(t, policy.Account{}, change)
	object := (&world{t: t, issuer: s.Issuer}).signed(serviceKey(), map[string]any{
		"client_id": client.ID, "response_type": "code", "redirect_uri": optest.RedirectURI, "response_mode": "form_post",
		"state": "state-1", "prompt": "none login",
	})
	form := url.Values{"request": {object}, "redirect_uri": {"https://overwritten.example.org/"}, "state": {""}}
	params := arrived(t, s.Browser().Authorize(client.ID, form), url.Values{"response_mode": {"form_post"}})
	require.Equal(t, "invalid_request", params.Get("error"))
	require.Equal(t, []string{s.Issuer}, params["iss"])

	s = start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		change(p, o)
		o.NoRequestObjects = true
	})
	params = arrived(t, s.Browser().Authorize(client.ID, url.Values{"request": {object}}), url.Values{"response_type": {"code"}})
	require.Equal(t, "request_not_supported", params.Get("error"))
	require.Equal(t, []string{s.Issuer}, params["iss"])
}
