package admin_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// peers.md section 5 number 12: what the preview says is exactly what then ends,
// for a change that ends sessions for all three reasons at once.
func TestAPreviewIsExactlyWhatThenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = w.Hook.Run(ctx) }()

		w.SignIn("ann") // too old for the new limit
		time.Sleep(7 * time.Hour)
		w.SignIn("bob") // unused for too long
		for range 3 {
			w.SignIn("cid") // three, of which one will be left
			time.Sleep(time.Second)
		}
		w.SignIn("other-dan")
		time.Sleep(3 * time.Hour)
		for range 3 {
			w.SignIn("cid")
			time.Sleep(time.Second)
		}
		w.SignIn("root")
		time.Sleep(time.Second)
		root := w.SignIn("root")

		proposed := admintest.Bounds(8*time.Hour, 2*time.Hour, 1, policy.EndOldest)
		var p preview
		w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": proposed}).Into(200, &p)
		require.True(t, p.Complete)
		require.Equal(t, 8, p.Ends, "ann 1, bob 1, cid 5, root 1")
		require.Equal(t, 4, p.Users)
		require.Equal(t, 1, p.Yours)
		require.True(t, p.Sessions[0].Yours, "the own first")
		foreseen := map[string]policy.Reason{}
		for _, s := range p.Sessions {
			foreseen[s.ID] = s.Reason
		}
		require.Len(t, foreseen, 8)

		// It changed nothing.
		require.Len(t, listSessions(w, root, "state=live"), 10)
		var s service.Settings
		w.Send("GET", "/v1/accounts/acme/settings", root, nil).Into(200, &s)
		require.EqualValues(t, 0, s.Version)

		w.Save(root, proposed)
		synctest.Wait() // Run was woken: nobody waited for its tick
		ended := map[string]policy.Reason{}
		for _, s := range listSessions(w, root, "state=ended") {
			ended[s.ID] = s.Ended.Reason
		}
		require.Equal(t, foreseen, ended)
		require.Len(t, listSessions(w, root, "state=live"), 1+1, "cid and root")
		page, _, err := w.Hook.List(t.Context(), store.Filter{Account: "elsewhere"}, "", 10)
		require.NoError(t, err)
		require.Len(t, page, 1, "another account is not touched")

		// Loosened again, nothing comes back, and nothing is foreseen to end.
		w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": policy.Account{}}).Into(200, &p)
		require.Zero(t, p.Ends)
		w.Save(root, policy.Account{})
		synctest.Wait()
		require.Len(t, listSessions(w, root, "state=ended"), 8)
	})
}

// A preview that runs out of time says so, and what it found.
func TestAPreviewThatIsNotComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *admintest.World, _ *provider.Config, c *admin.Config) { c.PreviewTime = 1 })
	root := w.SignIn("root")
	var p preview
	w.Send("POST", "/v1/accounts/acme/settings/preview", root, map[string]any{"settings": admintest.Bounds(time.Hour, 0, 0, 0)}).Into(200, &p)
	require.False(t, p.Complete)
	require.Len(t, p.Changes, 1)
}

// A preview is what the tests read of one.
type preview struct {
	Ends, Users, Yours int
	Complete           bool
	Sessions           []struct {
		session
		Reason policy.Reason
	}
	Changes  []policy.Change
	Warnings []policy.Warning
}

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
