package sqlitestore_test

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// Whenever its context ends an update took effect once or not at all, is never taken
// for a race that was lost to somebody, and never acknowledged for nothing: on
// connections that wait for the disk and others, and while somebody else writes.
func TestUpdateEndsAtAnyMoment(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.db")
	stores := []*sqlitestore.Store{
		newStore(t, openDB(t, path, params)),
		newStore(t, openDB(t, path, "_pragma=busy_timeout(0)&_pragma=synchronous(off)&_txlock=deferred")),
	}
	one, two := session("a", "alice"), session("b", "bob")
	for _, s := range []store.Session{one, two} {
		require.NoError(t, stores[0].Create(t.Context(), s, 100))
	}
	one.Revision, two.Revision = 1, 1
	done := make(chan struct{})
	go func() {
		defer close(done)
		for two.Revision < 100 {
			var err error
			if two.Revision, err = stores[1].Update(context.WithoutCancel(t.Context()), two); !assert.NoError(t, err) {
				return
			}
		}
	}()
	var acknowledged, ended int
	within := time.Millisecond // about half of them end in time, on any machine
	for i := range 400 {
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(within))
		_, err := stores[i%2].Update(ctx, one)
		cancel()
		now, readErr := stores[0].Get(t.Context(), one.ID)
		require.NoError(t, readErr)
		if err == nil {
			acknowledged++
			within -= within / 16
			require.Equal(t, one.Revision+1, now.Revision)
		} else {
			ended++
			within += within / 16
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, store.ErrConflict)
			require.Contains(t, []int64{one.Revision, one.Revision + 1}, now.Revision)
		}
		one = now
	}
	<-done
	require.Positive(t, acknowledged)
	require.Positive(t, ended)
}
