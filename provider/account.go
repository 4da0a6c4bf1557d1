package provider

import (
	"context"
	"fmt"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// Memberships returns the accounts that a subject belongs to, as
// [Config.Membership] says.
func (h *Hook) Memberships(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
	return h.memberships(ctx, subject)
}

func (h *rulebook) memberships(ctx context.Context, subject store.Subject) ([]policy.Membership, error) {
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
