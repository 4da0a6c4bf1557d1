package memstore_test

import (
	"testing"

	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func TestContract(t *testing.T) {
	open := func(*testing.T) storetest.Counting { return memstore.New() }
	storetest.Run(t, open)
	storetest.RunCounts(t, open)
}
