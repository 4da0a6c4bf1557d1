package notify

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// logoutEvent is the member of "events" that makes a token a logout token
// (Back-Channel Logout 1.0 section 2.4).
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutTokenLife is how long a logout token is good: the most that Back-Channel
// Logout 1.0 section 4 recommends.
const logoutTokenLife = 2 * time.Minute

type logoutClaims struct {
	Issuer   string              `json:"iss"`
	Subject  string              `json:"sub,omitempty"`
	Audience string              `json:"aud"`
	IssuedAt int64               `json:"iat"`
	Expires  int64               `json:"exp"`
	ID       string              `json:"jti"`
	Events   map[string]struct{} `json:"events"`
	SID      string              `json:"sid"`

	// Why is what a refused refresh of the session says in error_description:
	// the application hears of the end here first, and its user is owed the
	// reason there too. Section 2.4 allows other claims.
	Why string `json:"session_end_reason,omitempty"`
}

// A Sender tells one application of one end. An error that wraps [ErrRefused] says
// that the application will not take it.
type Sender interface {
	Send(ctx context.Context, n Notification) error
}

// BackChannel sends logout tokens: OpenID Connect Back-Channel Logout 1.0 section
// 2.5.
type BackChannel struct {
	Client *Client

	// Key returns the key that signs the ID tokens of an issuer, and its ID in the
	// jose.JSONWebKey.
	Key func(ctx context.Context, issuer string) (jose.SigningKey, error)

	Now        func() time.Time
	OmitReason bool // leaves session_end_reason out
}

// Send posts a logout token.
func (b *BackChannel) Send(ctx context.Context, n Notification) error {
	u, err := b.Client.Check(n.URI)
	if err != nil {
		return err // before anything is signed
	}
	ctx, cancel := context.WithTimeout(ctx, b.Client.cfg.Timeout)
	defer cancel()
	token, err := b.token(ctx, n)
	if err != nil {
		return err
	}
	return b.Client.Post(ctx, u, "application/x-www-form-urlencoded", url.Values{"logout_token": {token}}.Encode())
}

// token makes a logout token, signed as the ID tokens are. Each has a "jti" of its
// own.
func (b *BackChannel) token(ctx context.Context, n Notification) (string, error) {
	key, err := b.Key(ctx, n.Subject.Issuer)
	if err != nil {
		return "", err
	}
	// op's own signer says that it signs a JWT of no kind.
	sign, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("logout+jwt"))
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	var id [16]byte
	rand.Read(id[:])
	now := b.Now()
	claims := logoutClaims{
		Issuer: n.Subject.Issuer, Audience: n.Client, SID: n.SID, Why: n.Why,
		IssuedAt: now.Unix(), Expires: now.Add(logoutTokenLife).Unix(),
		ID: base64.RawURLEncoding.EncodeToString(id[:]), Events: map[string]struct{}{logoutEvent: {}},
	}
	if n.WithSubject {
		claims.Subject = n.Subject.ID
	}
	if b.OmitReason {
		claims.Why = ""
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := sign.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return signed.CompactSerialize()
}
