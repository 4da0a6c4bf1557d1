package memstore_test

import (
	"testing"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/storebench"
	"github.com/curfew-oidc/curfew/store/memstore"
)

func BenchmarkStore(b *testing.B) {
	storebench.Run(b, func(*testing.B) store.Store { return memstore.New() })
}
