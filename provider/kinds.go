package provider

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// A token opens only the door that it was made for. op tells the JWTs of a provider
// apart by what a request calls them: all are signed with the same keys. So each
// door asks here what a JWT is, which is proved from the token itself: an access
// token has a "jti" that the hook has sealed, an ID token the "sid" of its session.

// A jwtKind is what a JWT is.
type jwtKind uint8

const (
	otherKind   jwtKind = iota // opens no door: a security event such as a logout token, or nobody knows
	foreignKind                // of another issuer, or no JWT
	accessKind
	idKind

	// From before the installation, when nothing was sealed and nothing had a sid.
	bareAccessKind
	bareIDKind
)

// kindOf tells what a JWT is, by the type in its header and its claims. op, or the
// storage that vouches for it, has verified it.
func (c *backing) kindOf(ctx context.Context, typ string, claims map[string]any) (jwtKind, error) {
	text := func(name string) string { s, _ := claims[name].(string); return s }
	if text("iss") != op.IssuerFromContext(ctx) {
		return foreignKind, nil
	}
	// RFC 8417 section 2.2, Back-Channel Logout 1.0 section 2.4, RFC 8725 section 3.11.
	_, event := claims["events"]
	switch {
	case event, typ != "" && typ != "jwt" && typ != "at+jwt":
		return otherKind, nil
	case strings.HasPrefix(text("jti"), seal.AccessPrefix):
		return accessKind, nil
	case typ != "at+jwt" && text("sid") != "":
		return idKind, nil
	}
	issued, _ := claims["iat"].(float64)
	before, err := c.beforeInstallation(ctx, unixTime(issued))
	switch {
	case err != nil:
		return otherKind, err
	case !before:
		return otherKind, nil
	case text("jti") != "": // which op writes into each access token, and into no ID token
		return bareAccessKind, nil
	case typ == "at+jwt":
		return otherKind, nil
	}
	return bareIDKind, nil
}

func unixTime(seconds float64) time.Time { return time.Unix(int64(seconds), 0).UTC() }

func (c *backing) beforeInstallation(ctx context.Context, issued time.Time) (bool, error) {
	installation, err := c.h.watch.installed(ctx)
	return err == nil && issued.Before(installation.at), err
}

// adopting reports whether tokens from before the installation are still taken.
func (c *backing) adopting() bool { return c.h.now().Before(c.h.cfg.AdoptUntil) }

// oddType is the type of a JWT that nobody issues as it is written.
const oddType = "odd"

// parseJWT returns the type in a JWT's header, in lower case and without
// "application/" (RFC 7515 section 4.1.9), and its claims. It verifies nothing.
//
// A storage may verify tokens by a library that reads more than op does, white space
// and the JSON serialization (RFC 7515 section 7.2) among it. What anybody could read
// as a JWT must not pass here for something else.
func parseJWT(token string) (typ string, claims map[string]any, ok bool) {
	token = strings.Join(strings.Fields(token), "")
	parts := strings.Split(token, ".")
	if strings.HasPrefix(token, "{") {
		var jws struct{ Payload string }
		if json.Unmarshal([]byte(token), &jws) != nil {
			return "", nil, false
		}
		parts = []string{"", jws.Payload, ""}
	}
	if len(parts) != 3 || !decodePart(parts[1], &claims) || claims == nil {
		return "", nil, false
	}
	var header struct {
		Type string `json:"typ"`
	}
	if !decodePart(parts[0], &header) {
		return oddType, claims, true
	}
	return strings.TrimPrefix(strings.ToLower(header.Type), "application/"), claims, true
}

// decodePart decodes the header or the claims of a JWT.
func decodePart(part string, into any) bool {
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(part, "="))
	return err == nil && json.Unmarshal(decoded, into) == nil
}

// bare decides about the ID of an access token that the hook did not seal, by the
// token as it was presented. An opaque one is the storage's own, made past the hook:
// op encrypts nothing else in that form. A JWT is one only from before the
// installation. The error is errInactive, or one of the store.
func (c *backing) bare(ctx context.Context, id, presented string) error {
	typ, claims, isJWT := parseJWT(presented)
	if !isJWT {
		if id == "" || presented == "" {
			return errInactive
		}
		return nil
	}
	if !c.adopting() || claims["jti"] != id {
		return errInactive
	}
	kind, err := c.kindOf(ctx, typ, claims)
	if err == nil && kind != bareAccessKind {
		err = errInactive
	}
	return err
}

// isIDToken reports whether an id_token_hint that op has verified is an ID token.
func (c *backing) isIDToken(ctx context.Context, typ string, claims map[string]any) (bool, error) {
	kind, err := c.kindOf(ctx, typ, claims)
	return kind == idKind || kind == bareIDKind, err
}

// checkHint refuses an authorization request whose id_token_hint is another token, as
// op refuses one that does not verify.
func (c *backing) checkHint(ctx context.Context, ar *oidc.AuthRequest) error {
	if ar.IDTokenHint == "" {
		return nil
	}
	typ, claims, _ := parseJWT(ar.IDTokenHint)
	ok, err := c.isIDToken(ctx, typ, claims)
	switch {
	case err != nil:
		return oidc.ErrServerError().WithDescription("%s", unavailableText).WithParent(err)
	case !ok:
		return oidc.ErrLoginRequired().WithDescription("The id_token_hint is not an ID token.")
	}
	return nil
}

// checkLogoutHint is the same for a request to sign out.
func (c *backing) checkLogoutHint(ctx context.Context, req *request, er *op.EndSessionRequest) error {
	if er.IDTokenHintClaims == nil {
		return nil
	}
	hint, unclear := req.param("id_token_hint")
	if unclear {
		return oidc.ErrInvalidRequest().WithDescription("id_token_hint is there more than once, or in a form that is too long or encoded")
	}
	typ, _, _ := parseJWT(hint)
	ok, err := c.isIDToken(ctx, typ, er.IDTokenHintClaims.Claims)
	switch {
	case err != nil:
		return c.outage(ctx, req, err)
	case !ok:
		return oidc.ErrInvalidRequest().WithDescription("id_token_hint is not an ID token")
	}
	return nil
}

// bearer returns the access token that a request for userinfo presents (RFC 6750
// section 2); empty if nobody can tell.
func (req *request) bearer() string {
	if req.http != nil {
		scheme, token, ok := strings.Cut(req.http.Header.Get("Authorization"), " ")
		if ok && strings.EqualFold(scheme, "Bearer") {
			return token
		}
	}
	token, _ := req.param("access_token")
	return token
}

// param returns a parameter of the request's query or form. unclear says that nobody
// can tell which value op takes: there are several (RFC 6749 section 3.2 forbids it),
// or op reads a form that was not kept. op takes names in any case.
func (req *request) param(name string) (value string, unclear bool) {
	if req.unread() {
		return "", true
	}
	all, _ := req.logoutForm()
	var found []string
	for other, values := range all {
		if strings.EqualFold(other, name) {
			found = append(found, values...)
		}
	}
	switch len(found) {
	case 0:
		return "", false
	case 1:
		return found[0], false
	}
	return "", true
}

// unread reports whether the request has a body that op may read and keepForm has not
// kept: a long form, one in many parts, or what something inside of the handler unpacks
// or makes a form of.
func (req *request) unread() bool {
	switch {
	case req.http == nil, req.http.Form != nil:
		return false
	case req.posted == nil:
		return req.http.ContentLength != 0
	}
	return req.posted.Len() >= maxPosted || req.http.Header.Get("Content-Encoding") != ""
}

// holderMark stands in a sealed access token without a session for the subject that
// it was issued to: op does not authenticate what it puts beside the ID.
func holderMark(s store.Subject) string { return session.GrantID("holder", s.Issuer, s.ID) }

// isForm reports whether a request posts a form as op reads it, by net/http: by the same
// methods, and the very same type.
func isForm(r *http.Request) bool {
	return r.Body != nil && formType(r) == "application/x-www-form-urlencoded" &&
		(r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch)
}

// formType is the media type of a request's body.
func formType(r *http.Request) string {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // as net/http, which takes it with a bad parameter too
	return mediaType
}
