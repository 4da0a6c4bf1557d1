package hooktest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// A Tenancy is a hook without a provider around it, for users of many accounts: that of
// "acme.alice" is "acme".
type Tenancy struct {
	*Server
	Config provider.Config
}

// Tenants starts one on a store, with the same settings for every account.
func Tenants(t testing.TB, s store.Store, a policy.Account, change func(*provider.Config)) *Tenancy {
	t.Helper()
	x := &Tenancy{Server: &Server{Store: s}}
	x.Config = provider.Config{
		Store: s, Keys: provider.Keys{provider.NewKey(time.Now())}, SettingsMaxAge: -1,
		Settings: OfAll(&a),
		Membership: func(_ context.Context, subject store.Subject) ([]policy.Membership, error) {
			account, _, _ := strings.Cut(subject.ID, ".")
			return []policy.Membership{{Account: account}}, nil
		},
		Events: x.Event,
	}
	if change != nil {
		change(&x.Config)
	}
	x.Counters = CountsOf(&x.Config)
	hook, err := provider.New(x.Config)
	require.NoError(t, err)
	x.Hook = hook
	return x
}

// Another starts another process of the same.
func (x *Tenancy) Another(t testing.TB) *Tenancy {
	t.Helper()
	return Tenants(t, x.Store, policy.Account{}, func(cfg *provider.Config) { *cfg = x.Config })
}

// Session adds a session of a user of an account that began at a time, due if it
// is not the zero time.
func (x *Tenancy) Session(t testing.TB, user string, n int, began, due time.Time) store.Session {
	t.Helper()
	account, _, _ := strings.Cut(user, ".")
	subject := store.Subject{Issuer: "https://op.example.org", ID: user}
	began = began.UTC().Truncate(time.Microsecond)
	s := store.Session{
		Format: store.Format, ID: fmt.Sprintf("%s%s-%04d", store.Bucket(subject), user, n), Subject: subject, Accounts: []string{account},
		Kind: policy.Browser, Client: "web", Started: began, Authenticated: began, LastActivity: began, ActivityClass: policy.Interactive, Due: due,
	}
	require.NoError(t, x.Store.Create(t.Context(), s, 1000))
	return s
}

// Unended is how many sessions of an account are live.
func (x *Tenancy) Unended(t testing.TB, account string) int {
	t.Helper()
	n, err := x.Counters.CountUnended(t.Context(), account)
	require.NoError(t, err)
	return n
}

// Ended returns the end of a session, or nil.
func (x *Tenancy) Ended(t testing.TB, id string) *store.End {
	t.Helper()
	s, err := x.Store.Get(t.Context(), id)
	require.NoError(t, err)
	return s.End
}

// OfAll is the settings of every account, which may be changed.
func OfAll(a *policy.Account) provider.SettingsSource { return ofAll{a} }

type ofAll struct{ a *policy.Account }

func (s ofAll) Account(context.Context, string) (policy.Account, error) { return *s.a, nil }
