package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// What those who administer sessions need of a hook: see package
// provider/admin.

// Memberships returns the accounts that a subject belongs to, as
// [Config.Membership] says.
func (h *Hook) Memberships(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
	if h.cfg.Membership == nil {
		return defaultMembership, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.StoreTimeout)
	defer cancel()
	memberships, err := h.cfg.Membership(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	return memberships, nil
}

// Account returns the settings of an account as they are now, from no cache.
func (h *Hook) Account(ctx context.Context, account string) (policy.Account, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	return h.cfg.Settings.Account(ctx, account)
}

// Changed says that the settings of an account were changed: this process reads
// them at their next use, and [Hook.Run] applies them to live sessions at once
// instead of at its next sweep. Without it both happen a little later.
func (h *Hook) Changed(account string) {
	h.settings.outdate(account)
	select {
	case h.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Preview calls visit for each session that ends if proposed replaces the
// settings of an account, with the reason: live now, and over or surplus then.
// Those of one subject come together. It looks at every subject who has a
// session in the account, in other accounts too, and decides as [policy.Preview]
// does. Logins whose code was not redeemed are not among them.
//
// It takes time in proportion to the number of sessions. Its error is that of
// the context if that ended first.
func (h *Hook) Preview(ctx context.Context, account string, proposed policy.Account, visit func(s store.Session, reason policy.Reason)) error {
	current, err := h.Account(ctx, account)
	if err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	seen := map[store.Subject]bool{}
	return h.each(ctx, store.Filter{Account: account, State: store.Unended}, func(s store.Session) error {
		if seen[s.Subject] {
			return nil
		}
		seen[s.Subject] = true
		return h.previewSubject(ctx, &s, account, current, proposed, visit)
	})
}

// previewSubject is [Hook.Preview] for the subject of a session.
func (h *Hook) previewSubject(ctx context.Context, of *store.Session, account string, current, proposed policy.Account, visit func(store.Session, policy.Reason)) error {
	subject := of.Subject
	memberships, _, err := h.membershipsOf(ctx, of)
	if err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	before := policy.Settings{Accounts: map[string]policy.Account{}}
	member := false
	for _, m := range memberships {
		if m.Account == account {
			member = true
			before.Accounts[account] = current
			continue
		}
		if before.Accounts[m.Account], _, err = h.settings.get(ctx, m.Account, false); err != nil {
			return fmt.Errorf("preview: %w", err)
		}
	}
	if !member {
		return nil
	}
	after := policy.Settings{Accounts: maps.Clone(before.Accounts)}
	after.Accounts[account] = proposed

	holder := policy.Holder{Who: policy.Who{User: subject.ID, Memberships: memberships}}
	held := map[string]store.Session{}
	err = h.each(ctx, store.Filter{Subject: subject, State: store.Unended}, func(s store.Session) error {
		if s.Fenced() {
			return nil
		}
		held[s.ID] = s
		holder.Sessions = append(holder.Sessions, s.Policy())
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range policy.Preview(h.now(), before, after, []policy.Holder{holder}) {
		if s := held[e.ID]; s.ReservedUntil.IsZero() {
			visit(s, e.Reason)
		}
	}
	return nil
}

// each calls visit for every session that the filter matches, until it returns
// an error. That some cannot be read is an error in the end.
func (h *Hook) each(ctx context.Context, f store.Filter, visit func(store.Session) error) error {
	var unread failures
	for cursor := ""; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		lctx, cancel := h.bounded(ctx)
		page, next, err := h.cfg.Store.List(lctx, f, cursor, 500)
		cancel()
		if err != nil {
			err = fmt.Errorf("list sessions: %w", err)
		}
		if err != nil && !alone(err) {
			return err
		}
		unread.add(err)
		for _, s := range page {
			if err := visit(s); err != nil {
				return err
			}
		}
		if next == "" {
			return unread.join()
		}
		cursor = next
	}
}

// ErrEnded is wrapped by errors about a session that has ended, or is over.
var ErrEnded = errors.New("the session has ended")

// Heartbeat records that the user of a session is there, as the client that
// uses it says: activity of the class [policy.Heartbeat]. It is written as
// rarely as other frequent activity. If the session has ended, or is over, the
// error wraps [ErrEnded] and nothing changes; if there is none it wraps
// [store.ErrNotFound].
func (h *Hook) Heartbeat(ctx context.Context, sid, client string) error {
	s, err := h.getWithParent(ctx, sid)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	s, r, err := h.inUse(ctx, s)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	now := h.now()
	wctx, cancel := h.detach(ctx)
	defer cancel()
	_, err = h.change(wctx, s, func(s *store.Session) error {
		p := s.Policy()
		if s.End != nil || !s.ReservedUntil.IsZero() || !r.rules.Check(now, p, policy.Use{Client: client}).Allow {
			return ErrEnded
		}
		if !r.rules.Slides(p, client, policy.Heartbeat) || now.Sub(s.LastActivity) < max(r.rules.TouchEvery(p, client), time.Microsecond) {
			return errNoChange
		}
		h.slide(s, r, client, now, policy.Heartbeat)
		h.schedule(s, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}

// An AccessToken is what an access token of the provider stands for.
type AccessToken struct {
	// ID is the token's ID as the storage knows it.
	ID      string
	Subject string

	// Session is the live session that it belongs to, and Client the client
	// that it was issued to. Both are empty for a token that has no session:
	// of a client that acts for itself, from before the installation, or made by
	// the storage past the hook.
	Session store.Session
	Client  string
}

// ErrInvalidToken is wrapped by the errors of [Hook.AccessToken] about a token
// that is none, or whose session has ended.
var ErrInvalidToken = errors.New("the access token is not valid")

// AccessToken opens an access token that was presented to a resource server in
// the same process, such as package provider/admin. It checks the session, and
// records that the token was used as introspection does
// ([policy.Introspection]). Whether the token itself is good, and for which
// scopes, is for the storage to say, by its ID.
//
// The context needs the issuer: see [op.ContextWithIssuer]. Any other error than
// ErrInvalidToken means that nobody can tell at the moment.
func (h *Hook) AccessToken(ctx context.Context, p op.OpenIDProvider, token string) (AccessToken, error) {
	id, subject, err := openAccessToken(ctx, p, token)
	if err != nil {
		return AccessToken{}, err
	}
	c := &core{h: h}
	t, s, r, err := c.open(ctx, id, subject, token)
	switch {
	case errors.Is(err, errInactive):
		return AccessToken{}, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	case err != nil:
		return AccessToken{}, err
	case s.ID == "":
		return AccessToken{ID: t.ID, Subject: subject}, nil
	}
	if err := c.touch(ctx, s, r, t, policy.Introspection); err != nil {
		return AccessToken{}, err
	}
	return AccessToken{ID: t.ID, Subject: subject, Session: s, Client: s.Grant(t.Grant).Client}, nil
}

// openAccessToken returns the ID and the subject of an access token, opaque or a
// JWT, as op does.
func openAccessToken(ctx context.Context, p op.OpenIDProvider, token string) (id, subject string, err error) {
	if opened, err := p.Crypto().Decrypt(token); err == nil {
		id, subject, ok := strings.Cut(opened, ":")
		if !ok || strings.Contains(subject, ":") { // codes are encrypted in the same way
			return "", "", fmt.Errorf("%w: it is not of an ID and a subject", ErrInvalidToken)
		}
		return id, subject, nil
	}
	if strings.Count(token, ".") != 2 {
		return "", "", fmt.Errorf("%w: it is neither opaque nor a JWT", ErrInvalidToken)
	}
	// Keys that cannot be had look like a wrong signature below.
	if _, err := p.Storage().KeySet(ctx); err != nil {
		return "", "", fmt.Errorf("key set: %w", err)
	}
	claims, err := op.VerifyAccessToken[*oidc.AccessTokenClaims](ctx, token, p.AccessTokenVerifier(ctx))
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	return claims.JWTID, claims.Subject, nil
}
