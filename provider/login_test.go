package provider_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// Each may be a query of the embedder's: the kind of a session is asked for where the
// login is admitted, and not again where its code is redeemed.
func TestTheEmbedderIsAskedAboutALoginOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var kinds, names atomic.Int32
		s := start(t, limits(8*time.Hour, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Kind = func(ctx context.Context, l provider.Login) policy.Kind {
				kinds.Add(1)
				return provider.DefaultKind(ctx, l)
			}
			p.ClientName = func(context.Context, string) string {
				names.Add(1)
				return "The application"
			}
		})
		asked := func() [2]int32 { return [2]int32{kinds.Swap(0), names.Swap(0)} }
		v := s.Browser().Login(optest.Web, "alice", nil)
		require.Equal(t, [2]int32{1, 1}, asked(), "the callback")
		r := ok(t, s.Code(optest.Web, v))
		require.Equal(t, [2]int32{0, 1}, asked(), "the code, whose grant names its client")
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		require.Equal(t, [2]int32{0, 0}, asked(), "a refresh")
	})
}
