package policy_test

import (
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// The rule answers what a provider has to ask.
func ExampleRules() {
	ask := func(settings policy.Settings, memberships []policy.Membership, now time.Time, held []policy.Session, next, session policy.Session, use policy.Use, kind policy.Kind, client string) {
		rules := settings.Rules(policy.Who{User: "alice", Memberships: memberships})
		rules.Admit(now, held, next)      // may this login begin, and what ends for it?
		rules.Check(now, session, use)    // may this session still be used?
		rules.Deadline(session)           // when is it over if nothing happens?
		rules.TokenEnd(now, session, use) // how long may a token live?
		rules.Surplus(now, held)          // what does a changed policy end?
		rules.Explain(kind, client)       // why?
	}
	_ = ask
}
