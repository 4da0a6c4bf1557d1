package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

func FuzzParseSettings(f *testing.F) {
	for _, seed := range []string{
		everyScope, ``, `{}`, `{"accounts": {}}`, `{"accounts": {"a": {"kinds": {}, "users": {}}}}`, `{"accounts": {"a": {"active": "15"}}}`,
		`{"accounts": {"a": {}, "a": {}}}`, `{"accounts": {"\ud800": {"users": {"\u0000": {"activity": []}}}}}`,
		`{"accounts": {"a": {"concurrent": 1e2, "observe": true, "at_limit": "inherit"}}}`, `[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := policy.ParseSettings(data)
		if err != nil {
			requireFieldErrors(t, err)
			require.Zero(t, s, "settings beside an error")
			return
		}
		again, err := s.MarshalJSON()
		require.NoError(t, err, "what was read cannot be written")
		got, err := policy.ParseSettings(again)
		require.NoError(t, err, "what was written cannot be read")
		require.Equal(t, s, got)
		_ = s.Validate(policy.DefaultRange)
	})
}

func requireFieldErrors(t *testing.T, err error) {
	var problems policy.FieldErrors
	require.ErrorAs(t, err, &problems)
	require.NotEmpty(t, problems)
	for _, p := range problems {
		require.NotEmpty(t, p.Reason)
		require.NotContains(t, p.Path, "\n")
		require.GreaterOrEqual(t, p.Line, 0)
	}
}
