package sqlitestore_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A refresh is one read by an index and one conditional write; admission without
// a cap does not load the subject's sessions. Prepared statements are counted:
// PRAGMA, BEGIN and COMMIT, which surround each write but that of a refresh, are not.
func TestStatements(t *testing.T) {
	var mu sync.Mutex
	var executed []string
	db, err := driver.Open("file:"+filepath.Join(t.TempDir(), "s.db"), func(c *sqlite3.Conn) error {
		return c.Trace(sqlite3.TRACE_STMT, func(_ sqlite3.TraceEvent, stmt, _ any) error {
			words := strings.Fields(stmt.(*sqlite3.Stmt).SQL())
			if words[0] == "PRAGMA" { // once a second, whether the files are there
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			executed = append(executed, strings.ToUpper(strings.Join(words[:min(2, len(words))], " ")))
			return nil
		})
	})
	require.NoError(t, err)
	defer db.Close()
	s, err := sqlitestore.New(t.Context(), db)
	require.NoError(t, err)
	for _, id := range []string{"a", "b", "c"} {
		require.NoError(t, s.Create(t.Context(), session(id, "alice"), 100))
	}
	one, err := s.Get(t.Context(), session("a", "alice").ID)
	require.NoError(t, err)

	for _, c := range []struct {
		name string
		call func(ctx context.Context) error
		want []string
	}{
		{"refresh", func(ctx context.Context) error {
			got, err := s.Get(ctx, one.ID)
			if err != nil {
				return err
			}
			got.Grants[0].Generation++
			one.Revision, err = s.Update(ctx, got)
			return err
		}, []string{"SELECT S.REVISION,", "UPDATE CURFEW_SESSIONS"}},
		{"login without a cap", func(ctx context.Context) error { return s.Create(ctx, session("d", "alice"), 100) },
			[]string{"SELECT REVISION,", "SELECT COUNT(*)", "SELECT REVISION,", "INSERT INTO", "INSERT INTO", "INSERT INTO", "INSERT INTO"}},
		{"sweep with nothing due", func(ctx context.Context) error {
			due, err := s.Due(ctx, one.Started, 0, 100)
			require.Empty(t, due)
			return err
		}, []string{"SELECT 1"}},
		{"refused admission", func(ctx context.Context) error {
			err := s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, errRefused })
			require.Equal(t, errRefused, err)
			return nil
		}, []string{"SELECT S.ID,", "SELECT REVISION,"}},
	} {
		mu.Lock()
		executed = nil
		mu.Unlock()
		require.NoError(t, c.call(t.Context()), c.name)
		mu.Lock()
		require.Equal(t, c.want, slices.Clone(executed), c.name)
		mu.Unlock()
	}
}
