package providertest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/providertest"
)

func TestKit(t *testing.T) {
	t.Parallel()
	evict := func(how policy.AtLimit) policy.Limits {
		l := providertest.Limits()
		l.AtLimit = how
		return l
	}
	strict := provider.Config{NoGrace: true, NoLostResponse: true, NoExpirationMembers: true, NoExpirationMetadata: true}
	offStrict := func(it *providertest.Target) {
		it.Off.Grace, it.Off.LostResponse, it.Off.ExpirationMembers = true, true, true
	}
	for name, x := range map[string]hooktest.Kit{
		"Provider":                         {Limits: providertest.Limits()},
		"Provider no policy":               {},
		"LegacyServer":                     {Limits: providertest.Limits(), Optest: optest.Config{Embedding: optest.AsLegacyServer}},
		"LegacyServer no policy":           {Optest: optest.Config{Embedding: optest.AsLegacyServer}},
		"Server single sign-on":            {Limits: providertest.Limits(), Optest: optest.Config{Embedding: optest.AsServer}, SSO: true},
		"single sign-on no policy":         {SSO: true},
		"end_oldest":                       {Limits: evict(policy.EndOldest), SSO: true},
		"end_idlest":                       {Limits: evict(policy.EndIdlest)},
		"strict":                           {Limits: providertest.Limits(), Hook: strict, Configure: offStrict},
		"strict no policy, single sign-on": {Hook: strict, SSO: true, Configure: offStrict},
		"storage that does not rotate":     {Limits: providertest.Limits(), Optest: optest.Config{Wrap: optest.NonRotating}},
		"refresh tokens that do not rotate": {
			Limits: providertest.Limits(), Optest: optest.Config{Wrap: optest.NonRotating},
			Hook:      provider.Config{KeepRefreshToken: func(context.Context, op.Client) bool { return true }},
			Configure: func(it *providertest.Target) { it.Off.Rotation = true },
		},
		"bare storage": {
			Limits: providertest.Limits(), Optest: optest.Config{Wrap: optest.Bare},
			Configure: func(it *providertest.Target) { it.Off.DeviceGrant = true },
		},
		"applications are told": {Limits: providertest.Limits(), Told: true, SSO: true},
		"on a socket":           {Limits: providertest.Limits(), Socket: true},
	} {
		t.Run(name, x.Run)
	}
}

// The kit expects of a server that says nothing what the hook does by default.
func TestTheKitHasTheHooksDefaults(t *testing.T) {
	t.Parallel()
	require.Equal(t, provider.DefaultGrace, providertest.DefaultGrace)
}
