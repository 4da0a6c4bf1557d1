package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/curfew-oidc/curfew/middleware/internal/issuer"
)

// clone returns a copy that is the caller's to keep.
func (t Token) clone() Token {
	t.Audience, t.Scopes, t.AMR, t.raw = slices.Clone(t.Audience), slices.Clone(t.Scopes), slices.Clone(t.AMR), slices.Clone(t.raw)
	return t
}

// A verifier verifies JWT access tokens (RFC 9068 section 4).
type verifier struct {
	cfg  *Config
	keys *issuer.Keys
}

func newVerifier(cfg *Config, p *issuer.Provider) *verifier {
	return &verifier{cfg: cfg, keys: p.Keys()}
}

func (v *verifier) verify(ctx context.Context, token string) (Token, error) {
	refuse := func(why string) (Token, error) {
		return Token{}, fmt.Errorf("%w: %s", errInvalid, why)
	}
	// The errors of the parser are not passed on: they quote the token.
	parsed, err := jwt.ParseSigned(token, v.cfg.Algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return refuse("it is not a JWT, or not signed with an algorithm that is allowed")
	}
	header := parsed.Headers[0]
	if !v.isType(header) {
		return refuse("it is a JWT of another type than at+jwt")
	}
	var raw json.RawMessage
	if err := v.keys.Open(ctx, header, func(key jose.JSONWebKey) error { return parsed.Claims(key, &raw) }); errors.Is(err, issuer.ErrUnsigned) {
		return Token{}, fmt.Errorf("%w: %w", errInvalid, err)
	} else if err != nil {
		return Token{}, err
	}
	var c jwtClaims
	if err := json.Unmarshal(raw, &c); err != nil {
		return refuse("its claims are not those of RFC 9068")
	}
	switch {
	case c.Issuer != v.cfg.Issuer:
		return refuse("it is of another issuer")
	case !c.Audience.Contains(v.cfg.Audience):
		return refuse("it is not for this API")
	case c.Expires == nil || c.IssuedAt == nil || c.Subject == "" || c.ClientID == "" || c.ID == "":
		return refuse("it lacks a claim that RFC 9068 section 2.2 requires")
	case c.isOther():
		return refuse("it is an ID token or a logout token")
	}
	if err := c.times(v.cfg.Now(), v.cfg.Leeway); err != nil {
		return Token{}, err
	}
	return c.token(raw), nil
}

// isType looks at the header's typ (RFC 9068 section 4, RFC 8725 section 3.11).
func (v *verifier) isType(h jose.Header) bool {
	given, has := h.ExtraHeaders[jose.HeaderType]
	typ, isText := given.(string)
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	return typ == "at+jwt" || v.cfg.InsecureAcceptPlainJWT && (!has || isText && typ == "jwt")
}

// jwtClaims are the claims of an access token, and those that it must not have.
type jwtClaims struct {
	claims
	Nonce      json.RawMessage `json:"nonce"`
	AccessHash json.RawMessage `json:"at_hash"`
	CodeHash   json.RawMessage `json:"c_hash"`
	StateHash  json.RawMessage `json:"s_hash"`
	Events     json.RawMessage `json:"events"`
}

// isOther reports whether the claims are those of an ID token (OpenID Connect Core
// 1.0 sections 2 and 3.3.2.11) or of a security event such as a logout token (RFC
// 8417), neither of which opens an API.
func (c *jwtClaims) isOther() bool {
	return slices.ContainsFunc([]json.RawMessage{c.Nonce, c.AccessHash, c.CodeHash, c.StateHash, c.Events},
		func(m json.RawMessage) bool { return m != nil })
}
