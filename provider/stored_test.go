package provider_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

func TestExtensionsAreKeptWithTheSettings(t *testing.T) {
	t.Parallel()
	docs := memstore.New()
	none, err := provider.LoadStored(t.Context(), docs, "a")
	require.NoError(t, err)
	require.Zero(t, none.Version)
	require.NotEmpty(t, none.Tag)

	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := provider.StoredAccount{
		Settings:   limits(8*time.Hour, time.Hour, 2, policy.EndOldest),
		Extensions: map[string]json.RawMessage{"x": json.RawMessage(`{"settings":{"active":"1h"}}`)},
		At:         at, By: "root", Message: "why",
	}
	saved, err := provider.SaveStored(t.Context(), docs, "a", a)
	require.NoError(t, err)
	got, err := provider.LoadStored(t.Context(), docs, "a")
	require.NoError(t, err)
	require.Equal(t, saved, got)
	require.Equal(t, a.Settings, got.Settings)
	require.JSONEq(t, string(a.Extensions["x"]), string(got.Extensions["x"]))
	require.Equal(t, "root", got.By)

	// What limits is the same as without, and so it is for who saves settings
	// alone.
	settings, version, err := provider.LoadAccount(t.Context(), docs, "a")
	require.NoError(t, err)
	require.Equal(t, a.Settings, settings)
	version, err = provider.SaveAccount(t.Context(), docs, "a", limits(time.Hour, 0, 0, 0), version, "", "", at)
	require.NoError(t, err)
	got, err = provider.LoadStored(t.Context(), docs, "a")
	require.NoError(t, err)
	require.EqualValues(t, 2, version)
	require.Contains(t, got.Extensions, "x")
	_, err = provider.SaveAccount(t.Context(), docs, "a", settings, 1, "", "", at)
	require.ErrorIs(t, err, store.ErrConflict)

	// Another store that began anew has other tags, unless it has the same.
	other := memstore.New()
	twin, err := provider.SaveStored(t.Context(), other, "a", a)
	require.NoError(t, err)
	require.Equal(t, saved.Tag, twin.Tag)
	_, err = provider.SaveStored(t.Context(), other, "b", provider.StoredAccount{Settings: limits(9*time.Hour, 0, 0, 0)})
	require.NoError(t, err)
	different, err := provider.LoadStored(t.Context(), other, "b")
	require.NoError(t, err)
	require.Equal(t, saved.Version, different.Version)
	require.NotEqual(t, saved.Tag, different.Tag)

	// Bounded, and nothing of it is written.
	a.Version, a.Extensions = got.Version, map[string]json.RawMessage{"x": json.RawMessage(`"` + strings.Repeat("x", provider.MaxExtensions) + `"`)}
	_, err = provider.SaveStored(t.Context(), docs, "a", a)
	require.ErrorContains(t, err, "extensions")
	history, err := provider.AccountHistory(t.Context(), docs, "a", 0, 10)
	require.NoError(t, err)
	require.Len(t, history, 2)
}
