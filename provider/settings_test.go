package provider

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store/memstore"
)

// Which accounts a sweep looks at: those that were used in the last hour, so many at most,
// the one first that it looked at longest ago, and one that changed before all.
func TestWhichAccountsASweepLooksAt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, err := New(Config{Store: memstore.New(), Keys: Keys{NewKey(time.Now())}, Settings: StaticSettings{}})
		require.NoError(t, err)
		c := h.settings
		use := func(account string) {
			_, _, err := c.get(context.Background(), account, false)
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		look := func(account string) {
			_, _, _, err := c.look(context.Background(), account)
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		for _, account := range []string{"a", "b", "c", "d"} {
			use(account)
		}
		for _, account := range []string{"b", "d", "a", "c"} {
			look(account)
		}
		require.Equal(t, []string{"b", "d", "a", "c"}, c.next(10))
		require.Equal(t, []string{"b", "d"}, c.next(2))
		h.Changed("a")
		require.Equal(t, []string{"a", "b", "d"}, c.next(3))
		time.Sleep(30 * time.Minute)
		use("c")
		time.Sleep(29 * time.Minute)
		require.Equal(t, []string{"c"}, c.next(10), "looked at is not used")
	})
}
