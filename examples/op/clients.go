package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/internal/loopback"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// A clientEntry is one entry of the clients file.
type clientEntry struct {
	ID                     string              `json:"client_id"`
	Secret                 string              `json:"client_secret"`
	Type                   string              `json:"type"` // web, native or spa
	RedirectURIs           []string            `json:"redirect_uris"`
	GrantTypes             []oidc.GrantType    `json:"grant_types"`
	ResponseTypes          []oidc.ResponseType `json:"response_types"`    // none: ["code"]
	AccessTokenType        string              `json:"access_token_type"` // opaque (if empty) or jwt
	PostLogoutRedirectURIs []string            `json:"post_logout_redirect_uris"`
	BackChannelLogoutURI   string              `json:"backchannel_logout_uri"`
	BackChannelSubject     bool                `json:"backchannel_logout_subject"` // its logout tokens have "sub" too
	FrontChannelLogoutURI  string              `json:"frontchannel_logout_uri"`
	Scopes                 []string            `json:"scopes"`   // beyond those of everybody: curfew.admin
	Accounts               []string            `json:"accounts"` // that it administers when it acts for itself
}

// A client is op.Client. It does not change while the process runs.
type client struct {
	entry      clientEntry
	secretHash [32]byte // of a confidential client
}

var clientTypes = map[string]op.ApplicationType{
	"web": op.ApplicationTypeWeb, "native": op.ApplicationTypeNative, "spa": op.ApplicationTypeUserAgent,
}

var (
	knownGrants = []oidc.GrantType{
		oidc.GrantTypeCode, oidc.GrantTypeImplicit, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode,
		oidc.GrantTypeClientCredentials, oidc.GrantTypeTokenExchange,
	}
	knownResponses = []oidc.ResponseType{oidc.ResponseTypeCode, oidc.ResponseTypeIDToken, oidc.ResponseTypeIDTokenOnly}
)

// What a client ID may look like: no colon, which would end it in Basic
// authentication and in op's opaque tokens.
var clientIDPattern = regexp.MustCompile(`^[!-9;-~]{1,255}$`)

// parseClients reads a clients file, an array in JSON. It names the entry in its
// errors and repeats no secret.
func parseClients(data []byte) (map[string]*client, error) {
	var list []clientEntry
	if err := strictJSON(data, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("there are no clients")
	}
	return newClients(list)
}

func newClients(list []clientEntry) (map[string]*client, error) {
	clients := map[string]*client{}
	for i, e := range list {
		if clients[e.ID] != nil {
			return nil, fmt.Errorf("entry %d: client_id: %q appears twice", i+1, e.ID)
		}
		c, err := newClient(e)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		clients[e.ID] = c
	}
	return clients, nil
}

func newClient(e clientEntry) (*client, error) {
	if !clientIDPattern.MatchString(e.ID) {
		return nil, errors.New("client_id: want 1 to 255 printable ASCII characters without space and colon")
	}
	if _, ok := clientTypes[e.Type]; !ok {
		return nil, fmt.Errorf("type: %q is not web, native or spa", e.Type)
	}
	if confidential := e.Type == "web"; confidential != (e.Secret != "") {
		return nil, errors.New("client_secret: a web client needs one; native and spa clients cannot keep one")
	}
	switch e.AccessTokenType {
	case "":
		e.AccessTokenType = "opaque"
	case "opaque", "jwt":
	default:
		return nil, fmt.Errorf("access_token_type: %q is not opaque or jwt", e.AccessTokenType)
	}
	if len(e.ResponseTypes) == 0 {
		e.ResponseTypes = []oidc.ResponseType{oidc.ResponseTypeCode}
	}
	if len(e.GrantTypes) == 0 {
		return nil, errors.New("grant_types: at least one is required")
	}
	if err := knownOnce("grant_types", e.GrantTypes, knownGrants); err != nil {
		return nil, err
	}
	if err := knownOnce("response_types", e.ResponseTypes, knownResponses); err != nil {
		return nil, err
	}
	implicit := slices.ContainsFunc(e.ResponseTypes, func(r oidc.ResponseType) bool { return r != oidc.ResponseTypeCode })
	if err := knownOnce("scopes", e.Scopes, []string{adminScope}); err != nil {
		return nil, err
	}
	if len(e.Accounts) > 0 && (!slices.Contains(e.Scopes, adminScope) || !slices.Contains(e.GrantTypes, oidc.GrantTypeClientCredentials)) {
		return nil, fmt.Errorf("accounts: they are for a client with the scope %s and the grant type %s", adminScope, oidc.GrantTypeClientCredentials)
	}
	for i, account := range e.Accounts {
		if account == "" || slices.Contains(e.Accounts[:i], account) {
			return nil, fmt.Errorf("accounts: %q is empty, or appears twice", account)
		}
	}
	interactive := implicit || slices.Contains(e.GrantTypes, oidc.GrantTypeCode)
	for _, g := range []oidc.GrantType{oidc.GrantTypeClientCredentials, oidc.GrantTypeTokenExchange} {
		if slices.Contains(e.GrantTypes, g) && e.Secret == "" {
			return nil, fmt.Errorf("grant_types: %s needs a client that can authenticate, so one of type web", g)
		}
	}
	if interactive && len(e.RedirectURIs) == 0 {
		return nil, errors.New("redirect_uris: a client that signs users in by redirect needs one")
	}
	for field, uris := range map[string][]string{"redirect_uris": e.RedirectURIs, "post_logout_redirect_uris": e.PostLogoutRedirectURIs} {
		for i, uri := range uris {
			if slices.Contains(uris[:i], uri) {
				return nil, fmt.Errorf("%s: %q appears twice", field, uri)
			}
			if err := checkURI(uri, e.Type == "native"); err != nil {
				return nil, fmt.Errorf("%s: %q %w", field, uri, err)
			}
		}
	}
	if e.BackChannelLogoutURI != "" {
		if err := checkURI(e.BackChannelLogoutURI, false); err != nil {
			return nil, fmt.Errorf("backchannel_logout_uri: %q %w", e.BackChannelLogoutURI, err)
		}
	}
	if uri := e.FrontChannelLogoutURI; uri != "" {
		if err := checkURI(uri, false); err != nil {
			return nil, fmt.Errorf("frontchannel_logout_uri: %q %w", uri, err)
		}
		// OpenID Connect Front-Channel Logout 1.0 section 2.
		if !slices.ContainsFunc(e.RedirectURIs, func(redirect string) bool { return sameOrigin(redirect, uri) }) {
			return nil, fmt.Errorf("frontchannel_logout_uri: %q is on another server than all redirect_uris", uri)
		}
	}
	// Secrets are long and random, so a plain hash will do: it keeps them out
	// of memory dumps and makes the comparison one of equal lengths.
	c := &client{entry: e, secretHash: sha256.Sum256([]byte(e.Secret))}
	c.entry.Secret = ""
	return c, nil
}

func sameOrigin(a, b string) bool {
	ua, errA := url.Parse(a)
	ub, errB := url.Parse(b)
	return errA == nil && errB == nil && ua.Scheme == ub.Scheme && ua.Host == ub.Host
}

func knownOnce[T ~string](field string, list, known []T) error {
	for i, v := range list {
		if !slices.Contains(known, v) {
			return fmt.Errorf("%s: %q is not one of %q", field, v, known)
		}
		if slices.Contains(list[:i], v) {
			return fmt.Errorf("%s: %q appears twice", field, v)
		}
	}
	return nil
}

// checkURI allows https, http on loopback, and private schemes for native
// applications (RFC 8252 section 7.1: with a dot, which javascript: and data:
// have not).
func checkURI(uri string, native bool) error {
	u, err := url.Parse(uri)
	if err != nil || !u.IsAbs() || strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("is not an absolute URI of printable ASCII characters")
	}
	switch {
	case strings.Contains(uri, "#"):
		return errors.New("has a fragment")
	case u.User != nil:
		return errors.New("has a username in it")
	case u.Scheme == "https" && u.Hostname() != "":
		return nil
	case u.Scheme == "http" && loopback.Host(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return errors.New("is http: that is allowed on loopback only")
	case native && strings.Contains(u.Scheme, "."):
		return nil
	}
	return errors.New("must be https, or http on loopback, or for a native client a private scheme with a dot in it")
}

// checkSecret compares in constant time. A public client has no secret that
// would be right.
func (c *client) checkSecret(secret string) bool {
	sum := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(sum[:], c.secretHash[:]) == 1 && c.entry.Type == "web"
}

func (c *client) grants(g oidc.GrantType) bool { return slices.Contains(c.entry.GrantTypes, g) }

func (c *client) GetID() string                       { return c.entry.ID }
func (c *client) RedirectURIs() []string              { return c.entry.RedirectURIs }
func (c *client) PostLogoutRedirectURIs() []string    { return c.entry.PostLogoutRedirectURIs }
func (c *client) ApplicationType() op.ApplicationType { return clientTypes[c.entry.Type] }
func (c *client) ResponseTypes() []oidc.ResponseType  { return c.entry.ResponseTypes }
func (c *client) GrantTypes() []oidc.GrantType        { return c.entry.GrantTypes }
func (c *client) LoginURL(id string) string           { return "/login?id=" + url.QueryEscape(id) }
func (c *client) IDTokenLifetime() time.Duration      { return idLifetime }

func (c *client) AuthMethod() oidc.AuthMethod {
	if c.entry.Type == "web" {
		return oidc.AuthMethodBasic
	}
	return oidc.AuthMethodNone
}

func (c *client) AccessTokenType() op.AccessTokenType {
	if c.entry.AccessTokenType == "jwt" {
		return op.AccessTokenTypeJWT
	}
	return op.AccessTokenTypeBearer
}

// DevMode lets op accept http redirect URIs: newClient has refused those that
// are not on loopback.
func (c *client) DevMode() bool { return true }

func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return allScopes }
func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return allScopes }
func allScopes(scopes []string) []string                                       { return scopes }

func (c *client) IsScopeAllowed(scope string) bool     { return slices.Contains(c.entry.Scopes, scope) }
func (c *client) IDTokenUserinfoClaimsAssertion() bool { return false }
func (c *client) ClockSkew() time.Duration             { return 0 }
