package admin_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store"
)

// Somebody who asks for a hundred previews at once gets two, and the others are told
// to wait; other administrators are not kept waiting by that. Nor does a crowd of
// administrators get more than a process can bear.
func TestPreviewsAreBounded(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	began, goOn := make(chan struct{}, 100), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	underWay := func(n int) {
		for range n {
			select {
			case <-began:
			case <-time.After(10 * time.Second):
				require.Fail(t, "a preview does not begin")
			}
		}
	}
	w := newWorld(t, func(_ *admintest.World, c *provider.Config, _ *admin.Config) {
		c.Membership = func(_ context.Context, s store.Subject) ([]policy.Membership, error) {
			if slow.Load() && s.ID == optest.SubjectOf("slow") {
				began <- struct{}{}
				<-goOn
			}
			return admintest.Memberships(s.ID), nil
		}
	})
	root, other := w.SignIn("root"), w.SignIn("other-root")
	w.SignIn("slow")
	body := map[string]any{"settings": admintest.Bounds(time.Hour, 0, 0, 0)}
	preview := func(token, account string) admintest.Response {
		return w.Send("POST", "/v1/accounts/"+account+"/settings/preview", token, body)
	}
	review := w.Page("GET", "acme/edit?field=active", root, nil)

	slow.Store(true)
	var wg sync.WaitGroup
	hundred := make(chan admintest.Response, 100)
	for range 100 {
		wg.Go(func() { hundred <- preview(root, "acme") })
	}
	underWay(2)
	for range 98 {
		r := <-hundred
		r.Problem(429, "busy")
		require.Equal(t, "2", r.Header.Get("Retry-After"))
	}
	page := review.Send("review", "active", "limit", "active_n", "1", "active_unit", "hours")
	require.Equal(t, 429, page.Status)
	require.Equal(t, "2", page.Header.Get("Retry-After"))
	require.Contains(t, page.Text(), "Previews of yours are still running")
	require.Equal(t, 200, preview(other, "elsewhere").Status)

	// Six more, of others: the process has eight then.
	errs := make(chan error, 6)
	for i := range 6 {
		wg.Go(func() {
			_, err := w.API.Service().Preview(t.Context(), service.Actor{ID: fmt.Sprint(i)}, "acme", admintest.Bounds(time.Hour, 0, 0, 0), "")
			errs <- err
		})
	}
	underWay(6)
	r := preview(other, "elsewhere")
	r.Problem(503, "unavailable")
	require.Equal(t, "2", r.Header.Get("Retry-After"))
	require.Len(t, w.Failures(), 1, "the operator knows why")
	require.Equal(t, 200, w.Send("GET", "/v1/accounts/acme/settings", root, nil).Status, "everything else goes on")

	release()
	for range 2 {
		require.Equal(t, 200, (<-hundred).Status)
	}
	for range 6 {
		require.NoError(t, <-errs)
	}
	wg.Wait()
	for range 3 {
		require.Equal(t, 200, preview(root, "acme").Status, "each has given its place back")
		require.Equal(t, 200, preview(other, "elsewhere").Status)
	}
}
