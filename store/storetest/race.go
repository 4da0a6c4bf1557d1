package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

const raceCap = 3

// refuseAt returns a decide function that admits s unless there are max
// sessions already.
func refuseAt(max int, s store.Session) func([]store.Session, store.Fence) ([]store.Session, error) {
	return func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		if len(held) >= max {
			return nil, errDecided
		}
		return []store.Session{s}, nil
	}
}

// evictAt returns a decide function that admits s and ends the oldest sessions
// that are too many.
func evictAt(max int, s store.Session) func([]store.Session, store.Fence) ([]store.Session, error) {
	return func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		var out []store.Session
		for len(held) >= max {
			oldest := 0
			for i := range held {
				if held[i].Started.Before(held[oldest].Started) {
					oldest = i
				}
			}
			gone := ended(held[oldest], policy.ReasonConcurrency)
			gone.End.By = s.ID
			out = append(out, gone)
			held = append(held[:oldest:oldest], held[oldest+1:]...)
		}
		return append(out, s), nil
	}
}

// watch looks at the subject's sessions, as serializable steps see them, until
// stop is called, and requires that there are never more than max. It starts
// when it has looked once.
func (f *fixture) watch(subject store.Subject, max int) (stop func()) {
	done, looked := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	wg.Go(func() {
		defer once.Do(func() { close(looked) })
		for {
			err := f.s.Admit(f.ctx, subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
				assert.LessOrEqual(f, len(held), max, "more than the cap: %v", ids(held))
				return nil, errDecided
			})
			if !assert.ErrorIs(f, err, errDecided) {
				return
			}
			once.Do(func() { close(looked) })
			select {
			case <-done:
				return
			default:
			}
		}
	})
	<-looked
	return func() {
		close(done)
		wg.Wait()
	}
}

// together runs n functions at the same time and waits for them.
func together(n int, run func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			run(i)
		})
	}
	close(start)
	wg.Wait()
}

const racers = 32

// next returns the session of racer i: the later the number, the later it
// started.
func next(i int) store.Session {
	s := session(fmt.Sprintf("%03d", i), alice)
	s.Started = at.Add(time.Duration(i) * time.Second)
	return s
}

var raceTests = []contractTest{
	{"AdmitRefuse", func(f *fixture) {
		stop := f.watch(alice, raceCap)
		var admitted, refused atomic.Int32
		together(racers, func(i int) {
			switch err := f.s.Admit(f.ctx, alice, refuseAt(raceCap, next(i))); {
			case err == nil:
				admitted.Add(1)
			case assert.Equal(f, errDecided, err):
				refused.Add(1)
			}
		})
		stop()
		require.EqualValues(f, raceCap, admitted.Load())
		require.EqualValues(f, racers-raceCap, refused.Load())
		require.Len(f, f.held(alice), raceCap)
		require.Len(f, f.list(store.Filter{}, 1000), raceCap)
	}},
	{"AdmitEvict", func(f *fixture) {
		stop := f.watch(alice, raceCap)
		together(racers, func(i int) {
			assert.NoError(f, f.s.Admit(f.ctx, alice, evictAt(raceCap, next(i))))
		})
		stop()
		require.Len(f, f.held(alice), raceCap)
		all := f.list(store.Filter{Subject: alice}, 1000)
		require.Len(f, all, racers, "every one was admitted")
		by := map[string]bool{}
		for _, s := range all {
			if s.End == nil {
				require.EqualValues(f, 1, s.Revision)
				continue
			}
			require.EqualValues(f, 2, s.Revision, "%s was ended more than once", s.ID)
			require.False(f, by[s.End.By], "%s ended two sessions for one", s.End.By)
			by[s.End.By] = true
		}
		require.Len(f, by, racers-raceCap)
	}},
	{"AdmitOtherSubjects", func(f *fixture) {
		const subjects, each = 6, 6
		together(subjects*each, func(i int) {
			s := session(fmt.Sprint(i), store.Subject{Issuer: "i", ID: fmt.Sprint(i % subjects)})
			if err := f.s.Admit(f.ctx, s.Subject, refuseAt(raceCap, s)); err != nil {
				assert.Equal(f, errDecided, err)
			}
		})
		for i := range subjects {
			require.Len(f, f.held(store.Subject{Issuer: "i", ID: fmt.Sprint(i)}), raceCap)
		}
	}},
	{"AdmitSameID", func(f *fixture) {
		// One login by two ways, or of two subjects: one of them gets it.
		var won atomic.Int32
		together(racers, func(i int) {
			s := session("same", []store.Subject{alice, bob}[i%2])
			var err error
			if i%4 < 2 {
				err = f.s.Create(f.ctx, s, many)
			} else {
				err = f.s.Admit(f.ctx, s.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
					if len(held) > 0 {
						return nil, store.ErrExists
					}
					return []store.Session{s}, nil
				})
			}
			if err == nil {
				won.Add(1)
			} else {
				assert.ErrorIs(f, err, store.ErrExists)
			}
		})
		require.EqualValues(f, 1, won.Load())
		require.Len(f, f.list(store.Filter{}, 10), 1)
	}},
	{"CreateFull", func(f *fixture) {
		stop := f.watch(alice, raceCap)
		var created atomic.Int32
		together(racers, func(i int) {
			if err := f.s.Create(f.ctx, next(i), raceCap); err == nil {
				created.Add(1)
			} else {
				assert.ErrorIs(f, err, store.ErrFull)
			}
		})
		stop()
		require.EqualValues(f, raceCap, created.Load())
		require.Len(f, f.list(store.Filter{}, 1000), raceCap)
	}},
	{"AdmitAndCreate", func(f *fixture) {
		stop := f.watch(alice, raceCap)
		var added atomic.Int32
		together(racers, func(i int) {
			var err error
			if i%2 == 0 {
				err = f.s.Create(f.ctx, next(i), raceCap)
			} else {
				err = f.s.Admit(f.ctx, alice, refuseAt(raceCap, next(i)))
			}
			switch {
			case err == nil:
				added.Add(1)
			case !errors.Is(err, errDecided):
				assert.ErrorIs(f, err, store.ErrFull)
			}
		})
		stop()
		require.EqualValues(f, raceCap, added.Load())
		require.Len(f, f.held(alice), raceCap)
	}},
	{"AdmitAndUpdate", func(f *fixture) {
		// Refreshes rotate while logins rewrite the same sessions: none of
		// either is lost.
		const refreshers, logins, each = 6, 6, 12
		f.create(session("a", alice), session("b", alice))
		together(refreshers+logins, func(i int) {
			id := []string{"a", "b"}[i%2]
			for n := 0; n < each; {
				if i < refreshers {
					s, err := f.s.Get(f.ctx, sid(id))
					if !assert.NoError(f, err) {
						return
					}
					s.Grants[0].Generation++
					if _, err = f.s.Update(f.ctx, s); err == nil {
						n++
					} else if !assert.ErrorIs(f, err, store.ErrConflict) {
						return
					}
					continue
				}
				n++
				if !assert.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
					for i := range held {
						held[i].UserAgent += "+"
					}
					return held, nil
				})) {
					return
				}
			}
		})
		total := int64(0)
		for _, s := range f.held(alice) {
			require.Len(f, s.UserAgent, logins*each, "a step was lost")
			require.EqualValues(f, refreshers/2*each, s.Grants[0].Generation, "a write was lost")
			total += s.Revision
		}
		require.EqualValues(f, 2+2*logins*each+refreshers*each, total)
	}},
	{"AdmitAndEnd", func(f *fixture) {
		// Sessions end by Update, by Admit and by Delete while logins come in
		// at the cap: an ended one never comes back, and no slot gets lost.
		stop := f.watch(alice, raceCap)
		var mu sync.Mutex
		final := map[string]store.Session{}
		together(12, func(i int) {
			for n := range 10 {
				s := next(i*100 + n)
				switch err := f.s.Admit(f.ctx, alice, refuseAt(raceCap, s)); {
				case err == nil:
				case assert.Equal(f, errDecided, err):
					continue
				}
				got, err := f.s.Get(f.ctx, s.ID)
				if !assert.NoError(f, err) {
					return
				}
				got = ended(got, policy.ReasonLogout)
				if got.Revision, err = f.s.Update(f.ctx, got); !assert.NoError(f, err, "only this racer writes it") {
					return
				}
				if n%3 == 0 {
					assert.NoError(f, f.s.Delete(f.ctx, s.ID, got.Revision))
					continue
				}
				mu.Lock()
				final[s.ID] = got
				mu.Unlock()
			}
		})
		stop()
		require.Empty(f, f.held(alice))
		all := f.list(store.Filter{}, 1000)
		require.Len(f, all, len(final))
		for _, s := range all {
			require.Equal(f, final[s.ID], s)
		}
		for i := range raceCap {
			require.NoError(f, f.s.Admit(f.ctx, alice, refuseAt(raceCap, next(10000+i))), "a slot got lost")
		}
	}},
	{"EndWhileAdmitWrites", func(f *fixture) {
		// A logout races with steps that write the session back.
		for round := range 10 {
			id := fmt.Sprint(round)
			f.create(session(id, alice))
			together(4, func(i int) {
				if i > 0 {
					assert.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
						for i := range held {
							held[i].UserAgent += "+"
						}
						return held, nil
					}))
					return
				}
				for {
					s, err := f.s.Get(f.ctx, sid(id))
					if !assert.NoError(f, err) {
						return
					}
					if _, err = f.s.Update(f.ctx, ended(s, policy.ReasonLogout)); err == nil || !assert.ErrorIs(f, err, store.ErrConflict) {
						return
					}
				}
			})
			require.NotNil(f, f.get(id).End, "the logout was undone")
			require.Empty(f, f.held(alice))
		}
	}},
	{"UpdateCounts", func(f *fixture) {
		const each = 25
		f.create(session("a", alice))
		var lost atomic.Int32
		together(8, func(int) {
			for n := 0; n < each; {
				s, err := f.s.Get(f.ctx, sid("a"))
				if !assert.NoError(f, err) {
					return
				}
				s.Grants[0].Generation++
				if _, err = f.s.Update(f.ctx, s); err == nil {
					n++
				} else if lost.Add(1); !assert.ErrorIs(f, err, store.ErrConflict) {
					return
				}
			}
		})
		require.EqualValues(f, 8*each, f.get("a").Grants[0].Generation)
		require.EqualValues(f, 8*each+1, f.get("a").Revision)
	}},
}
