package service

import (
	"context"
	"fmt"
	"slices"

	"github.com/curfew-oidc/curfew/policy"
)

// An Explanation says what binds one user's sessions of one kind and client, and
// why.
type Explanation struct {
	User   string   `json:"user"`
	Groups []string `json:"groups"`

	policy.Explanation

	// OtherAccounts is set if the user is in other accounts too, whose
	// settings are not for the administrators of this one to see. They may
	// be stricter.
	OtherAccounts bool `json:"other_accounts"`
}

// Explain says what the settings of an account mean for one user. If the user is
// not in it the error wraps [ErrNoUser].
func (sv *Service) Explain(ctx context.Context, account, user string, kind policy.Kind, client string) (Explanation, error) {
	s, err := sv.Load(ctx, account)
	if err != nil {
		return Explanation{}, err
	}
	memberships, err := sv.Hook.Memberships(ctx, sv.subject(user))
	if err != nil {
		return Explanation{}, err
	}
	own := slices.IndexFunc(memberships, func(m policy.Membership) bool { return m.Account == account })
	if own < 0 {
		return Explanation{}, fmt.Errorf("%w: %q", ErrNoUser, user)
	}
	settings := policy.Settings{Accounts: map[string]policy.Account{account: s.Settings}}
	rules := settings.Rules(policy.Who{User: user, Memberships: memberships[own : own+1]})
	groups := memberships[own].Groups
	if groups == nil {
		groups = []string{}
	}
	return Explanation{User: user, Groups: groups, Explanation: rules.Explain(kind, client), OtherAccounts: len(memberships) > 1}, nil
}
