package linear

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// Stores that are wrong in ways that a store on an engine can be wrong are found
// out. Each breaks one promise and keeps all others.
func TestBrokenStoresAreFound(t *testing.T) {
	for name, broken := range map[string]func(store.Sessions) store.Sessions{
		"admission reads, decides and writes": func(s store.Sessions) store.Sessions { return &unlocked{s} },
		"a read comes from a replica": func(s store.Sessions) store.Sessions {
			return &replica{Sessions: s, copies: map[string]store.Session{}}
		},
		"a list is read in pieces":                    func(s store.Sessions) store.Sessions { return &pieces{s} },
		"a refresh overwrites":                        func(s store.Sessions) store.Sessions { return &overwriting{s} },
		"a conflict is told of what was written":      func(s store.Sessions) store.Sessions { return &denying{Sessions: s} },
		"an acknowledged write is forgotten":          func(s store.Sessions) store.Sessions { return &forgetful{Sessions: s} },
		"a login is counted without the last of them": func(s store.Sessions) store.Sessions { return &overfull{s} },
	} {
		t.Run(name, func(t *testing.T) {
			found := 0
			total := judge(t, 60, []store.Sessions{broken(memstore.New())}, func(_ []porcupine.Operation, verdict porcupine.CheckResult) {
				require.NotEqual(t, porcupine.Unknown, verdict)
				if verdict == porcupine.Illegal {
					found++
				}
			})
			t.Logf("%d of %d histories are not linearizable", found, total.histories)
			require.NotZero(t, found)
		})
	}
}

// A correct store behind the same kind of wrapper passes: it is not the wrapper
// that is found.
func TestAWrappedStorePasses(t *testing.T) {
	linearizable(t, 60, struct{ store.Sessions }{memstore.New()})
}

// unlocked admits without a serializable step.
type unlocked struct{ store.Sessions }

func (u *unlocked) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	held, _, err := u.List(ctx, store.Filter{Subject: subject, State: store.Unended}, "", 1000)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range held {
		known[s.ID] = true
	}
	changed, err := decide(held, store.Fence{})
	if err != nil {
		return err
	}
	runtime.Gosched()
	for _, s := range changed {
		if !known[s.ID] {
			err = u.Create(ctx, s, 1000)
		} else if _, err = u.Update(ctx, s); errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			err = nil // somebody was faster
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replica answers Get from a copy that is a millisecond old.
type replica struct {
	store.Sessions

	mu     sync.Mutex
	copies map[string]store.Session
	copied time.Time
}

func (r *replica) Get(ctx context.Context, id string) (store.Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.copied) > time.Millisecond {
		clear(r.copies)
		r.copied = time.Now()
	}
	if s, ok := r.copies[id]; ok {
		return s.Clone(), nil
	}
	s, err := r.Sessions.Get(ctx, id)
	if err == nil {
		r.copies[id] = s.Clone()
	}
	return s, err
}

// pieces reads the sessions of a list one after the other.
type pieces struct{ store.Sessions }

func (p *pieces) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	var all []store.Session
	for {
		page, next, err := p.Sessions.List(ctx, f, cursor, 1)
		if err != nil {
			return nil, "", err
		}
		all = append(all, page...)
		if next == "" {
			return all, "", nil
		}
		cursor = next
		runtime.Gosched()
	}
}

// overwriting replaces a session whatever its revision is.
type overwriting struct{ store.Sessions }

func (o *overwriting) Update(ctx context.Context, s store.Session) (int64, error) {
	for {
		now, err := o.Get(ctx, s.ID)
		if err != nil {
			return 0, err
		}
		s.Revision = now.Revision
		if s.End == nil {
			s.End = now.End
		}
		revision, err := o.Sessions.Update(ctx, s)
		if !errors.Is(err, store.ErrConflict) {
			return revision, err
		}
	}
}

// denying says of some writes that they lost a race, as a store does that sends
// a write again whose answer it missed.
type denying struct {
	store.Sessions
}

func (d *denying) Update(ctx context.Context, s store.Session) (int64, error) {
	revision, err := d.Sessions.Update(ctx, s)
	if err == nil && revision%4 == 0 {
		return d.Sessions.Update(ctx, s)
	}
	return revision, err
}

// forgetful acknowledges some new sessions and keeps nothing of them.
type forgetful struct{ store.Sessions }

func (f *forgetful) Create(ctx context.Context, s store.Session, max int) error {
	err := f.Sessions.Create(ctx, s, max)
	if err == nil && strings.HasSuffix(s.ID, "3") {
		return f.Delete(ctx, s.ID, 1)
	}
	return err
}

// overfull hides one session from a step.
type overfull struct{ store.Sessions }

func (o *overfull) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return o.Sessions.Admit(ctx, subject, func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		return decide(held[:max(0, len(held)-1)], fence)
	})
}
