package provider_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A replaceable is a store in the place of which another one may come.
type replaceable struct {
	now atomic.Pointer[memstore.Store]
}

func (r *replaceable) replace(s *memstore.Store) { r.now.Store(s) }

func (r *replaceable) Get(ctx context.Context, id string) (store.Session, error) {
	return r.now.Load().Get(ctx, id)
}
func (r *replaceable) Create(ctx context.Context, s store.Session, max int) error {
	return r.now.Load().Create(ctx, s, max)
}
func (r *replaceable) Update(ctx context.Context, s store.Session) (int64, error) {
	return r.now.Load().Update(ctx, s)
}
func (r *replaceable) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return r.now.Load().Admit(ctx, subject, decide)
}
func (r *replaceable) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	return r.now.Load().List(ctx, f, cursor, limit)
}
func (r *replaceable) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	return r.now.Load().Due(ctx, now, lease, limit)
}
func (r *replaceable) Delete(ctx context.Context, id string, revision int64) error {
	return r.now.Load().Delete(ctx, id, revision)
}
func (r *replaceable) Stats(ctx context.Context) (store.Stats, error) { return r.now.Load().Stats(ctx) }
func (r *replaceable) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	return r.now.Load().PutFence(ctx, f)
}
func (r *replaceable) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	return r.now.Load().MoveFence(ctx, f, due)
}
func (r *replaceable) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	return r.now.Load().DueFences(ctx, now, limit)
}
func (r *replaceable) Document(ctx context.Context, key string) (store.Document, error) {
	return r.now.Load().Document(ctx, key)
}
func (r *replaceable) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	return r.now.Load().PutDocument(ctx, d)
}
func (r *replaceable) DropDocument(ctx context.Context, key string) error {
	return r.now.Load().DropDocument(ctx, key)
}
func (r *replaceable) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	return r.now.Load().History(ctx, key, before, limit)
}
func (r *replaceable) AddCounts(ctx context.Context, counts []store.Count) error {
	return r.now.Load().AddCounts(ctx, counts)
}
func (r *replaceable) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	return r.now.Load().ReadCounts(ctx, account, from, to)
}
func (r *replaceable) DropCounts(ctx context.Context, account string, before time.Time) error {
	return r.now.Load().DropCounts(ctx, account, before)
}
func (r *replaceable) CountUnended(ctx context.Context, account string) (int, error) {
	return r.now.Load().CountUnended(ctx, account)
}

// inTheStore has the limits read from a store. It returns what starts a process on it.
func inTheStore(t *testing.T, s store.Store) func(storeID string) *setup {
	process := hooktest.InTheStore(t, s)
	return func(storeID string) *setup { return asSetup(process(storeID)) }
}

var save = hooktest.Save

// Settings of one account that are gone are an outage for its users. Their live
// sessions go on with the last ones for a while.
func TestSettingsThatAreGoneAreAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &evicting{Store: memstore.New()}
		save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
		process := inTheStore(t, e)
		s, other := process(""), process("")
		r := s.Login(optest.Web, "alice")
		other.Login(optest.Web, "bob")

		e.gone.Store(true)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))
		_, err := s.hook.StoreID(t.Context())
		require.ErrorIs(t, err, provider.ErrStoreLost)
		require.ErrorContains(t, err, `"default"`)
		require.Len(t, s.seen(provider.EventStoreLost), 1)
		time.Sleep(2 * time.Minute)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
		require.Len(t, s.seen(provider.EventStoreLost), 2)
		time.Sleep(4 * time.Minute)
		unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))

		e.gone.Store(false)
		_, err = s.hook.StoreID(t.Context())
		require.NoError(t, err)
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
		r = ok(t, s.Refresh(optest.Web, r.RefreshToken()))

		e.gone.Store(true)
		require.Equal(t, "server_error", other.Browser().Login(optest.Web, "bob", nil).Error())
		id, err := other.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		for _, s := range []*setup{other, s} {
			is, err := s.hook.StoreID(t.Context())
			require.NoError(t, err)
			require.Equal(t, id, is, "it is the same store")
			ok(t, s.Login(optest.Web, "alice"))
			ok(t, s.Login(optest.Web, "bob"))
		}
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
}

// An evicting store may have lost the settings, and nothing else.
type evicting struct {
	*memstore.Store
	gone atomic.Bool
}

func (e *evicting) Document(ctx context.Context, key string) (store.Document, error) {
	if e.gone.Load() && strings.HasPrefix(key, "settings/") {
		return store.Document{}, store.ErrNotFound
	}
	return e.Store.Document(ctx, key)
}

// A store in the place of which another one comes, with settings of its own, is
// noticed by the next sweep or question for readiness: nobody is admitted from then on.
func TestAnotherStoreWithSettingsIsAnOutage(t *testing.T) {
	for name, look := range map[string]func(ctx context.Context, h *provider.Hook) error{
		"sweep":     func(ctx context.Context, h *provider.Hook) error { return h.Sweep(ctx) },
		"readiness": func(ctx context.Context, h *provider.Hook) error { _, err := h.StoreID(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, mine, theirs := &replaceable{}, memstore.New(), memstore.New()
				for _, one := range []*memstore.Store{theirs, mine} {
					e.replace(one)
					save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
					inTheStore(t, e)("").Login(optest.Web, "carol")
				}
				s := inTheStore(t, e)("")
				r := s.Login(optest.Web, "alice")
				e.replace(theirs)
				require.ErrorIs(t, look(t.Context(), s.hook), provider.ErrStoreLost)
				time.Sleep(2 * time.Second) // longer than settings are cached
				require.Equal(t, "server_error", s.Browser().Login(optest.Web, "bob", nil).Error())
				unavailable(t, s.Refresh(optest.Web, r.RefreshToken()))
				require.Len(t, s.seen(provider.EventStoreLost), 1)
				e.replace(mine)
				ok(t, s.Refresh(optest.Web, r.RefreshToken()))
				ok(t, s.Login(optest.Web, "bob"))
			})
		})
	}
}

// With settings from elsewhere the limits hold for what there is, and an emptied store
// is taken as new, which is told; unless the hook was told which store it must be.
func TestAnEmptiedStoreBesideSettingsFromElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &replaceable{}
		e.replace(memstore.New())
		a := limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse)
		keys, storage := provider.Keys{provider.NewKey(time.Now())}, optest.NewStorage()
		process := func(id string) *setup {
			return start(t, a, func(p *provider.Config, o *optest.Config) {
				p.Store, p.Keys, p.StoreID = e, keys, id
				o.Storage, o.InMemory = storage, true
			})
		}
		s := process("")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.hook.Run(ctx) }()
		r := s.Login(optest.Web, "alice")
		time.Sleep(time.Minute + time.Second) // between two sweeps
		id, err := s.hook.StoreID(t.Context())
		require.NoError(t, err)
		told := process(id)

		e.replace(memstore.New())
		require.Equal(t, "server_error", told.Browser().Login(optest.Web, "alice", nil).Error())
		unavailable(t, told.Refresh(optest.Web, r.RefreshToken()))
		refusedFor(t, s.Refresh(optest.Web, r.RefreshToken()), policy.ReasonUnknownSession)
		ok(t, s.Login(optest.Web, "alice"))
		require.Equal(t, "access_denied", s.Browser().Login(optest.Web, "alice", nil).Error())
		require.Empty(t, s.seen(provider.EventStoreLost))
		time.Sleep(time.Hour)
		require.Len(t, s.seen(provider.EventStoreLost), 1)
		now, err := s.hook.StoreID(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, id, now)
		require.Equal(t, "server_error", told.Browser().Login(optest.Web, "bob", nil).Error(), "nobody has accepted it")
		_, err = told.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		ok(t, told.Login(optest.Web, "bob"))
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func TestStoreIDThatIsNone(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"x", "0123", "0123456789abcdef0123456789abcdef"} {
		_, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, StoreID: id})
		require.ErrorIs(t, err, provider.ErrConfig)
		require.ErrorContains(t, err, "StoreID")
	}
}

// A backup from before an operator's word has lost what came after it.
func TestABackupFromBeforeTheStoreWasAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &replaceable{}
		e.replace(memstore.New())
		process := inTheStore(t, e)
		s, other := process(""), process("")
		_, err := s.hook.StoreID(t.Context())
		require.NoError(t, err)
		backup := memstore.New()
		d, err := e.Document(t.Context(), "installation")
		require.NoError(t, err)
		d.Version = 0
		_, err = backup.PutDocument(t.Context(), d)
		require.NoError(t, err)

		_, err = s.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
		for _, p := range []*setup{s, other} {
			_, err = p.hook.StoreID(t.Context())
			require.NoError(t, err)
		}
		s.Login(optest.Web, "alice")
		other.Login(optest.Web, "bob")

		e.replace(backup)
		for _, p := range []*setup{s, other} {
			require.Equal(t, "server_error", p.Browser().Login(optest.Web, "alice", nil).Error())
			_, err = p.hook.StoreID(t.Context())
			require.ErrorIs(t, err, provider.ErrStoreLost)
		}
		time.Sleep(time.Second)
		_, err = s.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		for _, p := range []*setup{s, other} {
			_, err := p.hook.StoreID(t.Context())
			require.NoError(t, err)
			ok(t, p.Login(optest.Web, "alice"))
		}
	})
}

// Settings that are gone are noticed by a hook that was told which store it is.
func TestSettingsThatAreGoneWithAStoreID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &evicting{Store: memstore.New()}
		save(t, e, 0, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse))
		process := inTheStore(t, e)
		id, err := process("").hook.StoreID(t.Context())
		require.NoError(t, err)
		s := process(id)
		s.Login(optest.Web, "alice")
		e.gone.Store(true)
		require.Equal(t, "server_error", s.Browser().Login(optest.Web, "alice", nil).Error())
	})
}

// A damaged installation can be accepted.
func TestADamagedInstallationIsAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := memstore.New()
		_, err := e.PutDocument(t.Context(), store.Document{Key: "installation", Body: []byte("damaged")})
		require.NoError(t, err)
		s := inTheStore(t, e)("")
		_, err = s.hook.StoreID(t.Context())
		require.ErrorIs(t, err, provider.ErrStoreLost)
		_, err = s.hook.AcceptStore(t.Context())
		require.NoError(t, err)
		s.Login(optest.Web, "alice")
	})
}

// A process that was given the address of another provider's store knows nobody there.
// It says so, and takes none of the sessions for those of users who are gone.
func TestASweepLeavesAnotherStoreAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := tenants(t, memstore.New(), limits(time.Hour, 0, 0, 0), nil)
		_, err := x.hook.StoreID(t.Context())
		require.NoError(t, err)
		s := x.session(t, "acme.alice", 0, time.Now(), time.Now().Add(30*time.Minute))
		over := x.session(t, "acme.bob", 0, time.Now(), time.Now().Add(time.Minute))
		var others []provider.Event
		stranger := tenants(t, x.store, limits(time.Minute, 0, 0, 0), func(cfg *provider.Config) {
			cfg.StoreID = "0123456789abcdef"
			cfg.Membership = func(context.Context, store.Subject) ([]policy.Membership, error) { return nil, nil }
			cfg.Events = func(_ context.Context, e provider.Event) { others = append(others, e) }
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour)
		defer cancel()
		require.ErrorIs(t, stranger.hook.Run(ctx), context.DeadlineExceeded)
		require.ErrorIs(t, stranger.hook.Sweep(t.Context()), provider.ErrStoreLost)
		for _, one := range []store.Session{s, over} {
			is, err := x.store.Get(t.Context(), one.ID)
			require.NoError(t, err)
			require.EqualValues(t, 1, is.Revision, "nobody wrote it")
		}
		require.True(t, slices.ContainsFunc(others, func(e provider.Event) bool {
			return e.Type == provider.EventSweepFailed && errors.Is(e.Err, provider.ErrStoreLost)
		}))
		require.NoError(t, x.hook.Sweep(t.Context()))
		require.Equal(t, policy.ReasonActiveLimit, x.ended(t, over.ID).Reason)
	})
}
