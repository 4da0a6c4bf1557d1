package provider_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/provider"
)

// A presentation is a way to send a form that op reads: token is the value of its
// parameter name. What the token is does not hang on the way.
type presentation struct {
	name string
	send func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply
}

func presentations() []presentation {
	raw := func(t *testing.T, s *setup, method, path, client, contentType string, body []byte) optest.Reply {
		t.Helper()
		req, err := http.NewRequest(method, s.Issuer+path, bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		req.SetBasicAuth(client, client+"-secret")
		return s.Do(s.HTTP, req)
	}
	const urlencoded = "application/x-www-form-urlencoded"
	return []presentation{
		{"in a long form", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			return raw(t, s, http.MethodPost, path, client, urlencoded, []byte(form.Encode()+"&zz="+strings.Repeat("z", 70<<10)))
		}},
		{"by PUT", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			return raw(t, s, http.MethodPut, path, client, urlencoded, []byte(form.Encode()))
		}},
		{"by PATCH", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			return raw(t, s, http.MethodPatch, path, client, urlencoded, []byte(form.Encode()))
		}},
		{"in many parts", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			var body bytes.Buffer
			w := multipart.NewWriter(&body)
			for name, values := range form { // op finds its parameters in them
				for _, value := range values {
					require.NoError(t, w.WriteField(name, value))
				}
			}
			require.NoError(t, w.Close())
			return raw(t, s, http.MethodPost, path, client, w.FormDataContentType(), body.Bytes())
		}},
		{"in the address", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			return raw(t, s, http.MethodGet, path+"?"+form.Encode(), client, urlencoded, nil)
		}},
		{"beside a JWT in other letters", beside(decoy())},
		{"beside a text in other letters", beside("nothing")},
		{"beside another one in front of its parts", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			body := bytes.NewBufferString("&" + name + "=" + decoy() + "&\r\n")
			w := multipart.NewWriter(body)
			require.NoError(t, w.SetBoundary("x-www-form-urlencoded"))
			for name, values := range form {
				require.NoError(t, w.WriteField(name, values[0]))
			}
			require.NoError(t, w.Close())
			return raw(t, s, http.MethodPost, path, client, w.FormDataContentType(), body.Bytes())
		}},
		{"in a form with a mistake", func(t *testing.T, s *setup, path, client string, form url.Values, name string) optest.Reply {
			return raw(t, s, http.MethodPost, path, client, urlencoded, []byte(form.Encode()+"&a=%zz"))
		}},
	}
}

// beside sends a form with two parameters of one name, by the letters of op.
func beside(other string) func(*testing.T, *setup, string, string, url.Values, string) optest.Reply {
	return func(t *testing.T, s *setup, path, client string, form url.Values, name string) (r optest.Reply) {
		form = maps.Clone(form)
		form[strings.ToUpper(name)], form[name] = form[name], []string{other}
		for range 10 { // op takes the one or the other, by chance
			if r = s.Post(path, client, form); r.Status == http.StatusOK && r.JSON["active"] != false {
				break
			}
		}
		return r
	}
}

// decoy is a JWT that nobody has signed.
func decoy() string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256"}`)) + "." + part([]byte(`{"iss":"https://elsewhere.example"}`)) + "." + part([]byte("nothing"))
}

// spellings are ways to write a JWT that some libraries read.
var spellings = map[string]func(jwt string) string{
	"as it is":                   func(jwt string) string { return jwt },
	"with a space in its header": func(jwt string) string { return jwt[:5] + " " + jwt[5:] },
	"with a wide space in front": func(jwt string) string { return "\u2003" + jwt },
	"with a line break":          func(jwt string) string { i := strings.Index(jwt, ".") + 4; return jwt[:i] + "\n" + jwt[i:] },
	"padded": func(jwt string) string {
		parts := strings.Split(jwt, ".")
		return parts[0] + "=." + parts[1] + "==." + parts[2]
	},
	"in JSON": func(jwt string) string {
		parts := strings.Split(jwt, ".")
		return `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`
	},
}

// vouching is a storage that vouches for each token: it reads them as lax libraries do,
// and says of whom it is.
type vouching struct{ profiled }

func (vouching) VerifyExchangeSubjectToken(_ context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	return token, optest.SubjectOf(kindUser), nil, nil
}

func (s vouching) VerifyExchangeActorToken(ctx context.Context, token string, typ oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, typ)
}

// Rule 13: what a presented token is, is proved from the token that op has read, however
// it is sent and written.
func TestATokenIsWhatItIsHoweverItIsSent(t *testing.T) {
	quiet(t)
	wraps := map[string]func(*optest.Storage) op.Storage{
		"the storage knows its own":      func(s *optest.Storage) op.Storage { return profiled{s} },
		"the storage vouches for each":   func(s *optest.Storage) op.Storage { return vouching{profiled{s}} },
		"the storage says what is in it": func(s *optest.Storage) op.Storage { return issuerOnly{profiled{s}, true} },
	}
	isJWT := func(k tokenKind) bool {
		return k.prefix == "" && (k.typ != "" || strings.Contains(k.name, "JWT") || strings.Contains(k.name, "ID token") || strings.Contains(k.name, "no type"))
	}
	for name, wrap := range wraps {
		t.Run(name, func(t *testing.T) {
			w := newKindsWorld(t, optest.AsProvider, wrap)
			tokens := map[string]string{}
			for _, kind := range tokenKinds {
				if isJWT(kind) {
					if text := kind.make(w, ended); text != "" {
						tokens[kind.name] = text
					}
				}
			}
			require.Greater(t, len(tokens), 4)
			form := func(more url.Values) url.Values {
				f := url.Values{"grant_type": {string(oidc.GrantTypeTokenExchange)}, "scope": {"openid"}, "requested_token_type": {optest.AccessTokenType}}
				maps.Copy(f, more)
				return f
			}
			try := func(kind, way, part, text string, typ oidc.TokenType, send func(form url.Values, name string) optest.Reply) {
				t.Helper()
				more := url.Values{part: {text}, part + "_type": {string(typ)}}
				if part == "actor_token" {
					more["subject_token"], more["subject_token_type"] = []string{w.subject}, []string{optest.AccessTokenType}
				}
				before := w.snapshot()
				if r := send(form(more), part); r.Status == http.StatusOK {
					t.Errorf("%s %s, as %s of type %s: accepted", kind, way, part, typ)
				}
				if part == "subject_token" && w.snapshot() != before {
					t.Errorf("%s %s, as %s of type %s: changed a session", kind, way, part, typ)
				}
			}
			for kind, text := range tokens {
				for _, part := range []string{"subject_token", "actor_token"} {
					for _, typ := range oidc.AllTokenTypes {
						for _, p := range presentations() {
							try(kind, p.name, part, text, typ, func(form url.Values, name string) optest.Reply {
								return p.send(t, w.setup, "/oauth/token", optest.Exchange, form, name)
							})
						}
						for spelling, spell := range spellings {
							try(kind, spelling, part, spell(text), typ, func(form url.Values, _ string) optest.Reply { return w.Token(optest.Exchange, form) })
						}
					}
				}
			}

			// What is clear is taken, as by the bare server.
			for _, p := range presentations() {
				if p.name != "by PUT" && p.name != "in the address" {
					continue
				}
				r := p.send(t, w.setup, "/oauth/token", optest.Exchange, form(url.Values{"subject_token": {w.subject}, "subject_token_type": {optest.AccessTokenType}}), "subject_token")
				require.Equal(t, http.StatusOK, r.Status, "%s: %s", p.name, r.Body)
			}
		})
	}
}

// stateless keeps no access tokens: it answers for whom a token says.
type stateless struct{ profiled }

func (stateless) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, _, subject, _ string) error {
	info.Subject = subject
	return nil
}

func (stateless) SetIntrospectionFromToken(_ context.Context, resp *oidc.IntrospectionResponse, _, subject, _ string) error {
	resp.Active, resp.Subject = true, subject
	return nil
}

// The same at the doors of access tokens.
func TestAnAccessTokenIsWhatItIsHoweverItIsSent(t *testing.T) {
	quiet(t)
	w := newKindsWorld(t, optest.AsProvider, func(s *optest.Storage) op.Storage { return stateless{profiled{s}} })
	for _, kind := range tokenKinds {
		if kind.typ == "" && kind.member == "" {
			continue
		}
		text := kind.make(w, ended)
		if text == "" {
			continue
		}
		for _, p := range presentations() {
			if r := p.send(t, w.setup, "/userinfo", optest.Exchange, url.Values{"access_token": {text}}, "access_token"); r.Status == http.StatusOK {
				t.Errorf("%s %s: accepted for userinfo", kind.name, p.name)
			}
			if r := p.send(t, w.setup, "/oauth/introspect", optest.Exchange, url.Values{"token": {text}}, "token"); r.JSON["active"] == true {
				t.Errorf("%s %s: introspected as active", kind.name, p.name)
			}
		}
		for spelling, spell := range spellings {
			if len(text) > 20 && strings.Count(text, ".") == 2 && (w.Userinfo(strings.ReplaceAll(spell(text), "\n", "")).Status == http.StatusOK || w.active(spell(text))) {
				t.Errorf("%s %s: accepted", kind.name, spelling)
			}
		}
	}
}

// op takes the parameters of an authorization request in any case too: an error that it
// sends by itself names its issuer all the same, and comes by the mode that was asked for.
func TestAnErrorToAParameterInOtherLettersNamesItsIssuer(t *testing.T) {
	t.Parallel()
	s := start(t, limits(0, 0, 0, 0), nil)
	for _, mode := range []string{"query", "form_post"} {
		v := s.Browser().Get(s.Issuer + "/authorize?" + url.Values{
			"Client_ID": {optest.Web}, "Redirect_URI": {optest.RedirectURI}, "Response_Mode": {mode}, "response_type": {"code"}, "State": {"state-1"},
		}.Encode()) // it has no scope
		params := arrived(t, v, url.Values{"response_mode": {mode}, "response_type": {"code"}})
		require.NotEmpty(t, params.Get("error"))
		require.Equal(t, []string{s.Issuer}, params["iss"])
	}
	require.Empty(t, s.seen(provider.EventMisconfigured))
}
