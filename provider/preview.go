package provider

import (
	"context"
	"fmt"
	"maps"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Preview calls visit for each session that ends if proposed replaces the
// settings of an account, with the reason: live now, and over or surplus then.
// The sessions of one subject come together. Preview checks every subject with a session in the
// account, including their sessions in other accounts, and decides as [policy.Preview] does. It
// skips logins whose code was not redeemed.
//
// It takes time in proportion to the number of sessions. If the context ends first, it returns the
// context's error.
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
func (h *members) previewSubject(ctx context.Context, of *store.Session, account string, current, proposed policy.Account, visit func(store.Session, policy.Reason)) error {
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
