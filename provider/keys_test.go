package provider_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider"
)

func TestKeysAsText(t *testing.T) {
	t.Parallel()
	k := provider.NewKey(time.Now())
	text, err := k.MarshalText()
	require.NoError(t, err)
	var back provider.Key
	require.NoError(t, back.UnmarshalText(text))
	require.Equal(t, k, back)
	require.Equal(t, k.ID(), back.ID())
	require.NotContains(t, k.String(), string(text[len(text)-20:]))

	_, err = provider.Key{}.MarshalText()
	require.Error(t, err)
	secret := string(text[strings.LastIndexByte(string(text), '.')+1:])
	for _, bad := range []string{
		"", ".", "..", "curfew-key-1", "curfew-key-1..", "curfew-key-2" + string(text[12:]), string(text) + "A", string(text[:len(text)-1]),
		"curfew-key-1.yesterday." + secret, "curfew-key-1.2026-01-01T00:00:00Z." + secret[:10], string(text) + ".x",
	} {
		err := back.UnmarshalText([]byte(bad))
		require.Error(t, err, "%q", bad)
		require.NotContains(t, err.Error(), secret, "errors do not repeat the secret")
		require.Equal(t, k, back, "a failed decode changes nothing")
	}
}
