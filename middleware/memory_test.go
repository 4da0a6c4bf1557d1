package middleware_test

import (
	"testing"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/middleware/sessiontest"
)

func TestMemoryStoreContract(t *testing.T) {
	t.Parallel()
	sessiontest.Run(t, func(*testing.T) middleware.SessionStore { return middleware.NewMemoryStore() })
}
