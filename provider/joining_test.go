package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// before is a store that does something else before its next step over the sessions of
// a subject.
type before struct {
	store.Store
	step atomic.Pointer[func()]
}

func (b *before) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if f := b.step.Swap(nil); f != nil {
		(*f)()
	}
	return b.Store.Admit(ctx, subject, decide)
}

// A second application that is opened in one browser while the user signs in in another
// one is no session: it takes nobody's room, whatever the clocks say.
func TestWhatJoinsIsNotCounted(t *testing.T) {
	t.Parallel()
	for _, at := range []policy.AtLimit{policy.Refuse, policy.EndOldest} {
		for _, skew := range []time.Duration{0, time.Second, -time.Second} {
			t.Run(at.String()+" "+skew.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var ahead atomic.Int64
					st := &before{Store: memstore.New()}
					s := start(t, limits(24*time.Hour, 0, 2, at), func(p *provider.Config, o *optest.Config) {
						silentInMemory(p, o)
						p.Store = st
						p.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
					})
					a := s.Browser()
					first := ok(t, s.Code(optest.Web, a.Login(optest.Web, "alice", nil)))
					second := func() {
						ahead.Store(int64(skew))
						defer ahead.Store(0)
						require.NotEmpty(t, a.Authorize(optest.Web2, nil).Code())
					}
					st.step.Store(&second)
					v := s.Browser().Login(optest.Web, "alice", nil)
					require.NotEmpty(t, v.Code(), v.Description())
					ok(t, s.Code(optest.Web, v))
					ok(t, s.Refresh(optest.Web, first.RefreshToken()))
					require.Len(t, s.live(t, "alice"), 2)
				})
			})
		}
	}
}

// A portal that opens five applications at once takes one place, also in a browser that
// has none of our cookies yet, and keeps nobody out elsewhere.
func TestAPortalTakesOnePlace(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 2, policy.Refuse), silent)
	for range 20 {
		a, b := s.Browser(), s.Browser()
		ok(t, s.Code(optest.Web, a.Login(optest.Web, "alice", nil)))
		page := b.Authorize(optest.Web, nil) // the sign-in page is open already
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { a.Get(s.AuthorizeURL(optest.Web2, nil)) })
		}
		var elsewhere optest.Visit
		all.Go(func() { elsewhere = b.SignIn(page, "alice") })
		all.Wait()
		require.NotEmpty(t, elsewhere.Code(), elsewhere.Description())
		_, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonLogout, "")
		require.NoError(t, err)
	}
}

// One password makes one document, however many applications it signs in to.
func TestSignOnsLeaveNoRecords(t *testing.T) {
	t.Parallel()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), silent)
	b := s.Browser()
	ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
	for range 100 {
		v := b.Authorize(optest.Web, nil)
		require.NotEmpty(t, v.Code(), v.Description())
	}
	all, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice")}, "", 500)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.LessOrEqual(t, len(all[0].Codes), 16)
}

// A browser that signs on again and again, and redeems nothing, has no session that is
// in no list: each login under way is a reservation of its own, which nothing extends.
func TestALoginUnderWayIsNotExtended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), silentInMemory)
		b := s.Browser()
		v := b.Login(optest.Web, "alice", nil)
		seen := map[string]time.Time{}
		for range 50 {
			pending, _, err := s.hook.Pending(t.Context(), store.Filter{Subject: s.subject("alice")}, "", 100)
			require.NoError(t, err)
			require.Len(t, pending, 1, "it is listed, and takes one place")
			p := pending[0]
			if until, known := seen[p.ID]; known {
				require.Equal(t, until, p.ReservedUntil)
			}
			seen[p.ID] = p.ReservedUntil
			require.LessOrEqual(t, time.Until(p.ReservedUntil), time.Minute)
			time.Sleep(25 * time.Second)
			v = b.Authorize(optest.Web, nil)
			require.NotEmpty(t, v.Code(), v.Description())
		}
		require.Greater(t, len(seen), 10)
		ok(t, s.Code(optest.Web, v))
		require.Len(t, s.live(t, "alice"), 1)
	})
}

// A hidden frame that shows none of our cookies evicts nobody by a sign-on that the
// provider remembers.
func TestAHiddenFrameEvictsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 0, 1, policy.EndOldest), silentInMemory)
		b := s.Browser()
		mine := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		iss, err := url.Parse(s.Issuer)
		require.NoError(t, err)
		frame := s.Browser()
		keeps := keepsNothing{}
		for _, c := range b.HTTP.Jar.Cookies(iss) {
			if c.Name == "optest_sso" {
				keeps.sso = append(keeps.sso, c)
			}
		}
		require.Len(t, keeps.sso, 1)
		frame.HTTP.Jar = keeps
		for _, after := range []time.Duration{0, time.Hour} {
			time.Sleep(after)
			for _, prompt := range []url.Values{nil, {"prompt": {"none"}}} {
				v := frame.Authorize(optest.Web2, prompt)
				require.NotEmpty(t, v.Error(), "a code for a frame")
			}
			mine = ok(t, s.Refresh(optest.Web, mine.RefreshToken()))
		}
		// The user's own sign-in in a browser that keeps no cookies is another matter.
		time.Sleep(time.Second)
		stateless := s.Browser()
		stateless.HTTP.Jar = keepsNothing{}
		page := stateless.Authorize(optest.Web2, nil)
		ok(t, s.Code(optest.Web2, stateless.SignIn(page, "alice")))
		refusedFor(t, s.Refresh(optest.Web, mine.RefreshToken()), policy.ReasonConcurrency)
	})
}

// keepsNothing is a jar that shows a sign-on of the provider's and keeps no cookie.
type keepsNothing struct{ sso []*http.Cookie }

func (keepsNothing) SetCookies(*url.URL, []*http.Cookie) {}
func (j keepsNothing) Cookies(*url.URL) []*http.Cookie   { return j.sso }

// A code is late after its time, whatever its browser did since, and so is the callback
// that is loaded again.
func TestACodeIsLateAfterAnyNumberOfOthers(t *testing.T) {
	t.Parallel()
	for _, more := range []int{0, 15, 16, 40} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), silentInMemory)
			b := s.Browser()
			ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
			v := b.Authorize(optest.Web, nil)
			for range more {
				ok(t, s.Code(optest.Web, b.Authorize(optest.Web, nil)))
			}
			time.Sleep(30 * time.Minute)
			require.Equal(t, "invalid_grant", s.Code(optest.Web, v).Error())
			again := b.Get(v.Callback)
			require.Equal(t, "login_required", again.Error(), again.Description())
			require.Equal(t, "login_required", s.Browser().Get(v.Callback).Error())
			require.Len(t, s.live(t, "alice"), 1)
		})
	}
}

// A reservation of a login that is refused after it was made is over at once.
func TestALoginThatIsRefusedAfterAllIsOverAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s *reset
		s = startReset(t, limits(24*time.Hour, 0, 1, policy.Refuse), optest.NewStorage(), func(p *provider.Config, _ *optest.Config) {
			s.asking(p, 1, func(at time.Time) (time.Time, error) {
				time.Sleep(time.Millisecond)
				changed := time.Now() // of which nobody has told the hook
				s.at.Store(&changed)
				return at, nil
			})
		})
		require.Equal(t, "login_required", s.Browser().Login(optest.Web, "alice", nil).Error())
		all, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice")}, "", 10)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, policy.ReasonAbandoned, all[0].End.Reason)
		require.False(t, all[0].End.At.After(time.Now()), "it ends in the future")
	})
}

// What a login writes is due when it is over: a sweep that nobody else wakes finds it.
func TestALoginIsDueWhenItIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(8*time.Hour, 2*time.Hour, 0, 0), silentInMemory)
		due := func(what string) {
			all, _, err := s.store.List(t.Context(), store.Filter{Subject: s.subject("alice"), State: store.Unended}, "", 10)
			require.NoError(t, err)
			require.Len(t, all, 1, what)
			over, _, err := s.hook.Deadline(t.Context(), all[0])
			require.NoError(t, err)
			require.Equal(t, over, all[0].Due, what)
		}
		b := s.Browser()
		v := b.Login(optest.Web, "alice", nil)
		due("a reservation")
		ok(t, s.Code(optest.Web, v))
		due("a session")
		time.Sleep(time.Hour)
		b.Authorize(optest.Web2, nil)
		due("one that another login joined")
	})
}

// toldFirst is a store in which no session begins that its parent does not know.
type toldFirst struct {
	store.Store
	t     *testing.T
	began atomic.Int32
}

func (f *toldFirst) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	return f.Store.Admit(ctx, subject, func(held []store.Session, fence store.Fence) ([]store.Session, error) {
		write, err := decide(held, fence)
		for _, s := range write {
			if s.Parent == "" || slices.ContainsFunc(held, func(h store.Session) bool { return h.ID == s.ID }) {
				continue
			}
			f.began.Add(1)
			if parent, err := f.Store.Get(ctx, s.Parent); err != nil || !slices.Contains(parent.Children, s.ID) {
				f.t.Errorf("session %s began, and %s does not know it (%v)", s.ID, s.Parent, err)
			}
		}
		return write, err
	})
}

// A process may die between any two writes: the one who acts is told first.
func TestAParentKnowsItsChildBeforeItBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := &toldFirst{Store: memstore.New(), t: t}
		s := start(t, limits(8*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = st
		})
		mine := s.Login(optest.Exchange, "admin")
		for _, user := range []string{"u1", "u2", "u1"} {
			ok(t, s.as(mine.AccessToken(), user))
		}
		require.EqualValues(t, 2, st.began.Load())
	})
}

// A token from before the installation that is adopted is the beginning of its session.
func TestAnAdoptionIsABeginning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		old := optest.Start(t, optest.Config{Storage: storage, InMemory: true}).Login(optest.Web, "alice").RefreshToken()
		time.Sleep(time.Hour)
		s := start(t, limits(24*time.Hour, 2*time.Hour, 1, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			o.Storage, o.InMemory = storage, true
			p.AdoptUntil = time.Now().Add(24 * time.Hour)
		})
		ok(t, s.Refresh(optest.Web, old))
		require.Len(t, s.seen(provider.EventStarted), 1)
		require.Len(t, s.live(t, "alice"), 1)
	})
}

// Earlier versions named each login that joined a session by a document of its own. It
// counts for nothing, is left as it is, and its code works in the session that lists it.
func TestTheNameOfALoginOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(8*time.Hour, 2*time.Hour, 2, policy.Refuse), silentInMemory)
		b := s.Browser()
		ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		v := b.Authorize(optest.Web2, nil)
		callback, err := url.Parse(v.Callback)
		require.NoError(t, err)
		mine := s.live(t, "alice")[0]
		now := time.Now()
		name := store.Session{
			Format: store.Format, ID: provider.DerivedSID(mine.Subject, "auth", callback.Query().Get("id")), Subject: mine.Subject, Kind: policy.Browser,
			Started: now, Authenticated: now, LastActivity: now, ReservedUntil: now, Joined: mine.ID,
		}
		err = s.store.Create(t.Context(), name, 100)
		require.NoError(t, err)
		ok(t, s.Code(optest.Web2, v))
		require.Len(t, s.kept(t, mine.ID).Grants, 2)
		time.Sleep(time.Minute)
		ok(t, s.Login(optest.Web, "alice"))
		require.Nil(t, s.kept(t, name.ID).End)
		require.Len(t, s.live(t, "alice"), 2)
	})
}

// Another user's session in the same browser is none of a login's: that nobody can say
// whose it is keeps nobody out.
func TestTheSessionOfAnotherUserKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s *setup
		var removed atomic.Bool
		s = start(t, limits(8*time.Hour, 2*time.Hour, 2, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Membership = func(_ context.Context, subject store.Subject) ([]policy.Membership, error) {
				if removed.Load() && subject == s.subject("bob") {
					return nil, errors.New("no such user")
				}
				return []policy.Membership{{Account: "default"}}, nil
			}
		})
		b := s.Browser()
		ok(t, s.Code(optest.Web, b.Login(optest.Web, "bob", nil)))
		removed.Store(true)
		v := b.Login(optest.Web, "alice", nil)
		require.NotEmpty(t, v.Code(), v.Description())
		ok(t, s.Code(optest.Web, v))
	})
}

// Two processes that adopt one token from before the installation at once make one
// session of it: the one that comes second writes over nothing.
func TestTwoProcessesAdoptATokenOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, keys := optest.NewStorage(), provider.Keys{provider.NewKey(time.Now())}
		old := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true}).Login(optest.Web, "alice").RefreshToken()
		time.Sleep(time.Hour)
		st := &before{Store: memstore.New()}
		process := func() *setup {
			return start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
				o.Storage, o.Wrap, o.InMemory = storage, optest.NonRotating, true
				p.Store, p.Keys, p.AdoptUntil = st, keys, time.Now().Add(24*time.Hour)
			})
		}
		one, two := process(), process()
		var first optest.Reply
		meanwhile := func() { first = two.Refresh(optest.Web, old) }
		st.step.Store(&meanwhile)
		second := one.Refresh(optest.Web, old)
		require.NotEqual(t, http.StatusBadRequest, second.Status, "%s", second.Body)
		next := ok(t, one.Refresh(optest.Web, ok(t, first).RefreshToken()))
		ok(t, two.Refresh(optest.Web, next.RefreshToken()))
		require.Len(t, one.live(t, "alice"), 1)
		require.Empty(t, one.seen(provider.EventReplay))
	})
}

// hides is a jar that shows all cookies but one.
type hides struct {
	http.CookieJar
	name string
}

func (h hides) Cookies(u *url.URL) []*http.Cookie {
	return slices.DeleteFunc(h.CookieJar.Cookies(u), func(c *http.Cookie) bool { return c.Name == h.name })
}

// A callback that is loaded again after its login was ended begins no other one, also in
// a browser that has lost the cookie of the session.
func TestAReloadedCallbackBringsNoEndedLoginBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(8*time.Hour, 2*time.Hour, 1, policy.Refuse), silentInMemory)
		b := s.Browser()
		mine := ok(t, s.Code(optest.Web, b.Login(optest.Web, "alice", nil)))
		v := b.Authorize(optest.Web2, nil)
		require.NotEmpty(t, v.Code(), v.Description())
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, mine), policy.ReasonEndedByAdmin, "an administrator"))
		b.HTTP.Jar = hides{b.HTTP.Jar, browser.NamesOf(s.Issuer).Session}
		again := b.Get(v.Callback)
		require.Equal(t, "login_required", again.Error(), again.Description())
		require.Equal(t, policy.ReasonEndedByAdmin, policy.ReasonOf(again.Description()))
	})
}
