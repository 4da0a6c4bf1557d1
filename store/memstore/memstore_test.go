package memstore_test

import (
	"testing"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() })
}
