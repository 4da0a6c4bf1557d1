package sqlitestore_test

import (
	"path/filepath"
	"testing"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/storebench"
)

func BenchmarkStore(b *testing.B) {
	storebench.Run(b, func(b *testing.B) store.Store {
		return newStore(b, openDB(b, filepath.Join(b.TempDir(), "s.db"), params))
	})
}
