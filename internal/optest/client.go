package optest

import (
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The clients of [NewStorage]. The secret of a confidential one is its ID
// with "-secret" behind it. All may use [RedirectURI] and [PostLogoutURI].
const (
	Web      = "web"      // confidential, code, refresh, client_secret_basic
	Web2     = "web2"     // the same again
	Post     = "post"     // the same, client_secret_post
	JWT      = "jwt"      // as Web, with JWT access tokens
	SPA      = "spa"      // public, user agent application, code with PKCE, refresh
	Native   = "native"   // public, native application, code with PKCE, device, refresh
	Device   = "device"   // confidential, device grant, refresh
	Implicit = "implicit" // confidential; implicit, id_token alone, code and hybrid
	Exchange = "exchange" // confidential, code, token exchange, refresh

	// ServiceUser has client_credentials, with the secret ServiceSecret; it is
	// the example's own.
	ServiceUser   = "sid1"
	ServiceSecret = "verysecret"

	// Service signs JWT-profile assertions: see [Server.JWTProfile].
	Service = "service"
)

// Where the clients have their users sent.
const (
	RedirectURI   = "http://127.0.0.1:9999/cb"
	PostLogoutURI = "http://127.0.0.1:9999/out"
)

// A Client is an op.Client in the open. The zero values mean a web
// application with opaque access tokens, ID tokens of one hour, no skew.
type Client struct {
	ID          string
	Type        op.ApplicationType
	Auth        oidc.AuthMethod
	Responses   []oidc.ResponseType
	Grants      []oidc.GrantType
	TokenType   op.AccessTokenType
	Redirects   []string
	PostLogouts []string

	IDLifetime  time.Duration // zero: one hour
	Skew        time.Duration
	NoProd      bool // DevMode
	IDClaims    bool // IDTokenUserinfoClaimsAssertion
	ExtraScopes []string

	// RestrictID and RestrictAccess choose which further scopes go into ID
	// and access tokens. Nil: all.
	RestrictID, RestrictAccess func([]string) []string
}

// Secret returns the client's secret, empty for a public one.
func (c *Client) Secret() string {
	if c.Auth == oidc.AuthMethodNone {
		return ""
	}
	return c.ID + "-secret"
}

func (c *Client) GetID() string                        { return c.ID }
func (c *Client) RedirectURIs() []string               { return c.Redirects }
func (c *Client) PostLogoutRedirectURIs() []string     { return c.PostLogouts }
func (c *Client) ApplicationType() op.ApplicationType  { return c.Type }
func (c *Client) AuthMethod() oidc.AuthMethod          { return c.Auth }
func (c *Client) ResponseTypes() []oidc.ResponseType   { return c.Responses }
func (c *Client) GrantTypes() []oidc.GrantType         { return c.Grants }
func (c *Client) LoginURL(id string) string            { return "/login?authRequestID=" + id }
func (c *Client) AccessTokenType() op.AccessTokenType  { return c.TokenType }
func (c *Client) DevMode() bool                        { return c.NoProd }
func (c *Client) IDTokenUserinfoClaimsAssertion() bool { return c.IDClaims }
func (c *Client) ClockSkew() time.Duration             { return c.Skew }

func (c *Client) IDTokenLifetime() time.Duration {
	if c.IDLifetime == 0 {
		return time.Hour
	}
	return c.IDLifetime
}

func (c *Client) IsScopeAllowed(scope string) bool {
	for _, s := range c.ExtraScopes {
		if s == scope {
			return true
		}
	}
	return false
}

func (c *Client) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return orAll(c.RestrictID)
}

func (c *Client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return orAll(c.RestrictAccess)
}

func orAll(f func([]string) []string) func([]string) []string {
	if f == nil {
		return func(scopes []string) []string { return scopes }
	}
	return f
}

// DefaultClients returns new values of the clients above.
func DefaultClients() []*Client {
	code := []oidc.ResponseType{oidc.ResponseTypeCode}
	codeRefresh := []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
	clients := []*Client{
		{ID: Web, Responses: code, Grants: codeRefresh},
		{ID: Web2, Responses: code, Grants: codeRefresh},
		{ID: Post, Auth: oidc.AuthMethodPost, Responses: code, Grants: codeRefresh},
		{ID: JWT, TokenType: op.AccessTokenTypeJWT, Responses: code, Grants: codeRefresh},
		{ID: SPA, Type: op.ApplicationTypeUserAgent, Auth: oidc.AuthMethodNone, Responses: code, Grants: codeRefresh},
		{ID: Native, Type: op.ApplicationTypeNative, Auth: oidc.AuthMethodNone, Responses: code,
			Grants: append([]oidc.GrantType{oidc.GrantTypeDeviceCode}, codeRefresh...)},
		{ID: Device, Responses: code, Grants: []oidc.GrantType{oidc.GrantTypeDeviceCode, oidc.GrantTypeRefreshToken}},
		{ID: Implicit, Responses: []oidc.ResponseType{oidc.ResponseTypeCode, oidc.ResponseTypeIDToken, oidc.ResponseTypeIDTokenOnly,
			"code id_token", "code token", "code id_token token", "token"},
			Grants: []oidc.GrantType{oidc.GrantTypeImplicit, oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}},
		{ID: Exchange, Responses: code, Grants: append([]oidc.GrantType{oidc.GrantTypeTokenExchange}, codeRefresh...),
			ExtraScopes: []string{"custom_scope"}},
	}
	for _, c := range clients {
		c.Redirects, c.PostLogouts, c.NoProd = []string{RedirectURI}, []string{PostLogoutURI}, true
		if c.Auth == "" {
			c.Auth = oidc.AuthMethodBasic
		}
	}
	return clients
}
