package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A ruling is the rules for one subject.
type ruling struct {
	rules    policy.Rules
	observed policy.Rules // as if no account only observed
	observes bool
	accounts []string
	who      string // a fingerprint of the accounts and groups
	gone     bool   // the user is in no account any more: these are the session's

	within policy.Window // of the sessions that it was made from, for tokens: see Hook.withParents
}

// rules returns the rules for a subject. A login needs settings that are fresh:
// the cap cannot be checked with others.
func (h *rulebook) rules(ctx context.Context, subject store.Subject, login bool) (ruling, error) {
	memberships, err := h.memberships(ctx, subject)
	if err != nil {
		return ruling{}, err
	}
	return h.rulesIn(ctx, subject, memberships, login)
}

// rulesOf returns the rules for a session: those for its subject, or, if that is in
// no account any more, those of the accounts that it was in.
func (h *rulebook) rulesOf(ctx context.Context, s *store.Session) (ruling, error) {
	memberships, gone, err := h.membershipsOf(ctx, s)
	if err != nil {
		return ruling{}, err
	}
	r, err := h.rulesIn(ctx, s.Subject, memberships, false)
	r.gone = gone
	return r, err
}

// membershipsOf returns the memberships of a session's subject. One who is gone has
// those of the session.
func (h *rulebook) membershipsOf(ctx context.Context, s *store.Session) (memberships []policy.Membership, gone bool, err error) {
	memberships, err = h.memberships(ctx, s.Subject)
	if err != nil || len(memberships) > 0 || len(s.Accounts) == 0 {
		return memberships, false, err
	}
	for _, account := range s.Accounts {
		memberships = append(memberships, policy.Membership{Account: account})
	}
	return memberships, true, nil
}

// fingerprint returns a short text that says whether two lists of memberships are of
// the same accounts and groups.
func fingerprint(memberships []policy.Membership) string {
	var names []string
	for _, m := range memberships {
		names = append(names, fmt.Sprintf("%q", m.Account))
		for _, group := range m.Groups {
			names = append(names, fmt.Sprintf("%q %q", m.Account, group))
		}
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(names), "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// rulesIn returns the rules for a subject with the given memberships.
func (h *rulebook) rulesIn(ctx context.Context, subject store.Subject, memberships []policy.Membership, login bool) (ruling, error) {
	r := ruling{accounts: make([]string, 0, len(memberships)), who: fingerprint(memberships)}
	settings := policy.Settings{Accounts: make(map[string]policy.Account, len(memberships))}
	for _, m := range memberships {
		a, stale, err := h.settings.get(ctx, m.Account, login)
		if err != nil {
			return ruling{}, err
		}
		if stale != nil {
			h.event(ctx, Event{Type: EventSettingsStale, Subject: subject, Err: stale})
		}
		if login {
			h.checkSettings(ctx, m.Account, a)
		}
		settings.Accounts[m.Account] = a
		r.accounts = append(r.accounts, m.Account)
		r.observes = r.observes || a.Observe
	}
	who := policy.Who{User: subject.ID, Memberships: memberships}
	r.rules = settings.Rules(who)
	if r.observes {
		r.observed, _ = settings.Observed(who)
	}
	return r, nil
}
