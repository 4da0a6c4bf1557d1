package provider_test

import (
	"maps"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// A wayIn is a grant type, response type or response mode that op knows.
type wayIn struct {
	value string
	hook  string // what the hook does with it
	drive func(t *testing.T, d *driven)
}

// A driven is a provider with the hook, and the same without it.
type driven struct {
	*optest.Server
	bare *optest.Server
	hook *provider.Hook
}

// sessions returns the sessions that f starts.
func (d *driven) sessions(t *testing.T, f func()) []store.Session {
	t.Helper()
	all := func() map[string]store.Session {
		page, next, err := d.hook.List(t.Context(), store.Filter{State: store.Unended}, "", 1000)
		require.NoError(t, err)
		require.Empty(t, next)
		found := map[string]store.Session{}
		for _, s := range page {
			found[s.ID] = s
		}
		return found
	}
	before := all()
	f()
	after := all()
	for id := range before {
		require.Contains(t, after, id, "a session ended")
		delete(after, id)
	}
	return slices.Collect(maps.Values(after))
}

// starts checks that f starts one session of a kind, and returns it.
func (d *driven) starts(t *testing.T, kind policy.Kind, f func()) store.Session {
	t.Helper()
	started := d.sessions(t, f)
	require.Len(t, started, 1)
	require.Equal(t, kind, started[0].Kind)
	return started[0]
}

// startsNone checks that f starts no session.
func (d *driven) startsNone(t *testing.T, f func()) {
	t.Helper()
	require.Empty(t, d.sessions(t, f))
}

func granted(t *testing.T, r optest.Reply) optest.Reply {
	t.Helper()
	require.Equal(t, 200, r.Status, r.Body)
	return r
}

// waysIn lists every grant type, response type and response mode that op knows,
// with what the hook does with it, and drives it over HTTP.
var waysIn = map[string][]wayIn{
	"GrantType": {
		{"authorization_code", "the callback admits the login and reserves its slot; redeeming the code confirms it", func(t *testing.T, d *driven) {
			var v optest.Visit
			d.startsNone(t, func() { v = d.Browser().Login(optest.Web, "code", nil) }) // only reserved
			s := d.starts(t, policy.Browser, func() {
				r := granted(t, d.Code(optest.Web, v))
				require.NotEmpty(t, r.RefreshToken())
			})
			require.Len(t, s.Grants, 1)
		}},
		{"refresh_token", "stays in its session, for as long as the limits let it", func(t *testing.T, d *driven) {
			r := d.Login(optest.Web, "refresh")
			d.startsNone(t, func() {
				next := granted(t, d.Refresh(optest.Web, r.RefreshToken()))
				require.Equal(t, d.Claim(optest.Web, r, "sid"), d.Claim(optest.Web, next, "sid"))
			})
		}},
		{"client_credentials", "no user session: it passes untouched", func(t *testing.T, d *driven) {
			d.startsNone(t, func() {
				r := granted(t, d.ClientCredentials())
				require.Empty(t, r.Header.Get("Cache-Control"), "op's own answer")
			})
		}},
		{"urn:ietf:params:oauth:grant-type:jwt-bearer", "a client for itself, and op knows nothing else: it passes untouched", func(t *testing.T, d *driven) {
			d.startsNone(t, func() {
				granted(t, d.JWTProfile(""))
				require.Equal(t, 400, d.JWTProfile(optest.SubjectOf("jwt")).Status)
			})
		}},
		{"urn:ietf:params:oauth:grant-type:token-exchange", "stays in the subject token's session; another subject is admitted like a login", func(t *testing.T, d *driven) {
			r := d.Login(optest.Exchange, "admin")
			d.startsNone(t, func() {
				x := granted(t, d.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, nil))
				granted(t, d.Userinfo(x.AccessToken()))
			})
			d.starts(t, policy.Automation, func() {
				granted(t, d.TokenExchange(optest.Exchange, optest.ForeignToken("admin2"), optest.JWTTokenType, nil))
			})
		}},
		{"implicit", "op has no such grant at the token endpoint: it is the response types without code", func(t *testing.T, d *driven) {
			d.startsNone(t, func() {
				form := url.Values{"grant_type": {"implicit"}}
				is, was := d.Token(optest.Implicit, form), d.bare.Token(optest.Implicit, form)
				require.Equal(t, "unsupported_grant_type", was.Error(), was.Body)
				require.Equal(t, was.Body, is.Body)
			})
		}},
		{"urn:ietf:params:oauth:grant-type:device_code", "admits when the tokens are created; the device code makes one session, and brings tokens once", func(t *testing.T, d *driven) {
			start := d.DeviceStart(optest.Device)
			d.startsNone(t, func() { d.DeviceApprove(start, "device") })
			d.starts(t, policy.CLI, func() { granted(t, d.DevicePoll(optest.Device, start)) })
			d.startsNone(t, func() { require.Equal(t, "invalid_grant", d.DevicePoll(optest.Device, start).Error()) })
		}},
	},
	"ResponseType": {
		{"code", "see authorization_code", func(t *testing.T, d *driven) {
			d.starts(t, policy.Browser, func() { d.Login(optest.Implicit, "code") })
		}},
		{"id_token token", "the callback admits the login: it is a session at once", func(t *testing.T, d *driven) {
			d.implicit(t, "id_token token", "id_token", "access_token")
		}},
		{"id_token", "the callback admits the login, though no access token is ever made", func(t *testing.T, d *driven) {
			d.implicit(t, "id_token", "id_token")
		}},
		{hybrid, "op has no hybrid flow: for a client that may use one it answers as for id_token token, and so it does with the hook", func(t *testing.T, d *driven) {
			for _, responseType := range []string{"code id_token", "code token", "code id_token token"} {
				d.implicit(t, responseType, "id_token", "access_token")
			}
		}},
	},
	"ResponseMode": {
		{"query", "op's", func(t *testing.T, d *driven) { d.mode(t, "query") }},
		{"fragment", "op's", func(t *testing.T, d *driven) { d.mode(t, "fragment") }},
		{"form_post", "op's", func(t *testing.T, d *driven) { d.mode(t, "form_post") }},
	},
}

// hybrid is not one of op's constants, but clients may have such types.
const hybrid = "code with others"

// implicit asks for a response type without code, with and without the hook.
func (d *driven) implicit(t *testing.T, responseType string, want ...string) {
	t.Helper()
	extra := url.Values{"response_type": {responseType}}
	was := d.bare.Browser().Login(optest.Implicit, "implicit", extra)
	var is optest.Visit
	s := d.starts(t, policy.Browser, func() { is = d.Browser().Login(optest.Implicit, "implicit", extra) })
	require.Equal(t, slices.Sorted(maps.Keys(was.Params)), slices.Sorted(maps.Keys(is.Params)), "%s %s", was.URL, is.URL)
	for _, name := range want {
		require.NotEmpty(t, is.Params.Get(name), "%s: %s %s", responseType, is.URL, is.Body)
	}
	require.Empty(t, is.Code())
	require.Equal(t, s.ID, d.ParseIDToken(optest.Implicit, is.Params.Get("id_token"))["sid"])
	if token := is.Params.Get("access_token"); token != "" {
		granted(t, d.Userinfo(token))
		require.NoError(t, d.hook.End(t.Context(), s.ID, policy.ReasonEndedByAdmin, "test"))
		require.Equal(t, 401, d.Userinfo(token).Status)
	}
}

// mode asks for a response mode in every response type.
func (d *driven) mode(t *testing.T, mode string) {
	t.Helper()
	for _, responseType := range []string{"code", "id_token", "id_token token"} {
		extra := url.Values{"response_type": {responseType}, "response_mode": {mode}}
		was := d.bare.Browser().Login(optest.Implicit, "mode", extra)
		is := d.Browser().Login(optest.Implicit, "mode", extra)
		require.Equal(t, was.Status, is.Status)
		require.NotEmpty(t, is.Params)
		require.Equal(t, slices.Sorted(maps.Keys(was.Params)), slices.Sorted(maps.Keys(is.Params)))
		if code := is.Code(); code != "" {
			d.starts(t, policy.Browser, func() { granted(t, d.Code(optest.Implicit, is)) })
		}
	}
}

// TestWaysIn drives every row in every embedding.
func TestWaysIn(t *testing.T) {
	quiet(t)
	for name, embedding := range optest.Embeddings {
		t.Run(name, func(t *testing.T) {
			cfg := optest.Config{InMemory: true, Embedding: embedding, Wrap: optest.Foreign}
			d := &driven{bare: optest.Start(t, cfg), hook: strictHook(t)}
			cfg.Hook = d.hook
			d.Server = optest.Start(t, cfg)
			for kind, rows := range waysIn {
				for _, row := range rows {
					t.Run(kind+" "+row.value, func(t *testing.T) {
						require.NotEmpty(t, row.hook)
						row.drive(t, d)
					})
				}
			}
		})
	}
}

// TestWaysInAreAll compares the table with op's constants, and with what op
// does with them: one that is added in op has no row here, and fails.
func TestWaysInAreAll(t *testing.T) {
	t.Parallel()
	rows := map[string][]string{}
	for kind, list := range waysIn {
		for _, row := range list {
			if row.value != hybrid {
				rows[kind] = append(rows[kind], row.value)
			}
		}
	}
	for kind, values := range rows {
		require.ElementsMatch(t, constantsOf(t, kind), values, "op's constants of type %s", kind)
	}
	require.ElementsMatch(t, rows["ResponseType"], op.ResponseTypes(nil), "what op advertises")

	// The token endpoint, in both ways of embedding, by the names of the
	// constants.
	served := []string{
		"GrantTypeBearer", "GrantTypeClientCredentials", "GrantTypeCode",
		"GrantTypeDeviceCode", "GrantTypeRefreshToken", "GrantTypeTokenExchange",
	}
	require.Equal(t, served, casesOf(t, "Exchange"))
	require.Equal(t, served, casesOf(t, "tokensHandler"))
	for _, constant := range []oidc.GrantType{
		oidc.GrantTypeBearer, oidc.GrantTypeClientCredentials, oidc.GrantTypeCode,
		oidc.GrantTypeDeviceCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeTokenExchange,
	} {
		require.Contains(t, rows["GrantType"], string(constant))
	}
}
