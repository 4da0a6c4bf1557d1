package provider

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
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

// logoutToken makes a logout token, signed as the ID tokens are. Each has a "jti"
// of its own.
func (h *Hook) logoutToken(ctx context.Context, n notification) (string, error) {
	key, err := h.signers.key(ctx, n.subject.Issuer)
	if err != nil {
		return "", err
	}
	// op's own signer says that it signs a JWT of no kind.
	sign, err := jose.NewSigner(
		jose.SigningKey{Algorithm: key.SignatureAlgorithm(), Key: &jose.JSONWebKey{Key: key.Key(), KeyID: key.ID()}},
		(&jose.SignerOptions{}).WithType("logout+jwt"),
	)
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	var id [16]byte
	rand.Read(id[:])
	now := h.now()
	claims := logoutClaims{
		Issuer: n.subject.Issuer, Audience: n.client, SID: n.sid, Why: n.why,
		IssuedAt: now.Unix(), Expires: now.Add(logoutTokenLife).Unix(),
		ID: base64.RawURLEncoding.EncodeToString(id[:]), Events: map[string]struct{}{logoutEvent: {}},
	}
	if n.named {
		claims.Subject = n.subject.ID
	}
	if h.cfg.Logout.OmitReason {
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
