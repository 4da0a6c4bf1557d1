package onengines

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// sizeOf is the size of a file.
func sizeOf(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Size()
}

// countless is a store that keeps no counts.
type countless struct{ store.Store }

// What is kept does not grow with the accounts that were ever met: a first login in
// an account costs what any login costs.
func TestAccountsCostNoBytes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s.db")
	db, err := driver.Open("file:" + path + "?_pragma=synchronous(off)&_pragma=journal_mode(delete)")
	require.NoError(t, err)
	defer db.Close()
	s, err := sqlitestore.New(t.Context(), db)
	require.NoError(t, err)
	x := hooktest.Tenants(t, countless{s}, hooktest.Limits(time.Hour, 0, 3, policy.Refuse), nil)
	began := time.Now()
	add := func(from, to int) int64 {
		for i := from; i < to; i++ {
			x.Session(t, fmt.Sprintf("tenant-%08d.alice", i), 0, began, began.Add(time.Hour))
		}
		require.NoError(t, x.Another(t).Hook.Sweep(t.Context()))
		return sizeOf(t, path)
	}
	empty := add(0, 30)
	first := add(30, 180) - empty
	second := add(180, 330) - empty - first
	require.InDelta(t, first, second, float64(first)/2, "150 more cost as much as 150: nothing grows with their number")
	require.Less(t, second/150, int64(6000), "bytes for an account with a session")
}
