package provider_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// processes starts two providers that share store, keys and storage.
func processes(t testing.TB, a policy.Account, wrap func(*optest.Storage) op.Storage, change func(*provider.Config)) (one, two *setup) {
	sessions, storage := memstore.New(), optest.NewStorage()
	keys := provider.Keys{provider.NewKey(time.Now())}
	start := func() *setup {
		return start(t, a, func(p *provider.Config, o *optest.Config) {
			p.Store, p.Keys = sessions, keys
			o.Storage, o.Wrap, o.InMemory = storage, wrap, true
			if change != nil {
				change(p)
			}
		})
	}
	return start(), start()
}

// A family is a storage that finds out reuse itself and then revokes the whole
// family, as RFC 9700 section 4.14.2 asks for.
type family struct {
	*optest.Storage
	state *familyState
}

type familyState struct {
	mu      sync.Mutex
	of      map[string]string // family by token
	spent   map[string]bool
	revoked map[string]bool

	looked  atomic.Pointer[func()] // called when a token is looked up
	rotated atomic.Pointer[func()] // called after a rotation
}

func newFamily() *familyState {
	return &familyState{of: map[string]string{}, spent: map[string]bool{}, revoked: map[string]bool{}}
}

func (f *familyState) wrap(s *optest.Storage) op.Storage { return &family{s, f} }

func (f *familyState) check(token string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	root := f.of[token]
	if root == "" {
		root = token
	}
	if f.spent[token] {
		f.revoked[root] = true
	}
	if f.revoked[root] {
		return errors.New("reuse detected: the family is revoked")
	}
	return nil
}

func (s *family) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	if f := s.state.looked.Load(); f != nil {
		(*f)()
	}
	if err := s.state.check(token); err != nil {
		return nil, err
	}
	return s.Storage.TokenRequestByRefreshToken(ctx, token)
}

func (s *family) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, token string) (string, string, time.Time, error) {
	if token == "" {
		return s.Storage.CreateAccessAndRefreshTokens(ctx, request, token)
	}
	if err := s.state.check(token); err != nil {
		return "", "", time.Time{}, err
	}
	id, next, expires, err := s.Storage.CreateAccessAndRefreshTokens(ctx, request, token)
	if err != nil {
		return "", "", time.Time{}, err
	}
	s.state.mu.Lock()
	root := s.state.of[token]
	if root == "" {
		root = token
	}
	s.state.of[next], s.state.spent[token] = root, true
	s.state.mu.Unlock()
	if f := s.state.rotated.Load(); f != nil {
		(*f)()
	}
	return id, next, expires, nil
}

// Rule 7, on a storage that detects reuse: two tabs of one process. The second
// request arrives while the first has rotated and not told the store yet. Between
// two processes nothing can keep the second call from the storage.
func TestTwoTabsOnAStorageThatDetectsReuse(t *testing.T) {
	t.Parallel()
	f := newFamily()
	s, _ := processes(t, limits(24*time.Hour, 2*time.Hour, 0, 0), f.wrap, nil)
	t0 := s.Login(optest.Web, "alice").RefreshToken()
	second := make(chan optest.Reply, 1)
	looked := make(chan struct{}, 100)
	var once sync.Once
	rotated := func() {
		once.Do(func() {
			note := func() { looked <- struct{}{} }
			f.looked.Store(&note)
			go func() { second <- s.Refresh(optest.Web, t0) }()
			select {
			case <-looked:
				time.Sleep(20 * time.Millisecond)
			case <-time.After(300 * time.Millisecond): // it waits, as it should
			}
		})
	}
	f.rotated.Store(&rotated)
	first := ok(t, s.Refresh(optest.Web, t0))
	other := <-second
	require.Equal(t, http.StatusOK, other.Status, "%s", other.Body)
	require.Equal(t, first.RefreshToken(), other.RefreshToken())
	ok(t, s.Refresh(optest.Web, first.RefreshToken()))
}

// Rule 8: the winner's write is slow for longer than a loser is patient.
func TestASlowWinnerDoesNotLogTheLoserOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = faulty
		})
		t0 := s.Login(optest.Web, "alice").RefreshToken()
		began := time.Now()
		faulty.Script(func(c faultstore.Call) faultstore.Fault {
			if c.Method == "Update" && time.Since(began) < 2500*time.Millisecond {
				return faultstore.Before
			}
			return faultstore.None
		})
		winner := make(chan optest.Reply)
		go func() { winner <- s.Refresh(optest.Web, t0) }()
		time.Sleep(100 * time.Millisecond)
		loser := s.Refresh(optest.Web, t0)
		ok(t, <-winner)
		require.NotEqual(t, "invalid_grant", loser.Error(), "%d %s", loser.Status, loser.Body)
	})
}

// A request whose token was current when it arrived is no replay because
// others were faster: T0 -> T1 -> T2 happen while it waits.
func TestAnOvertakenRequestIsNoReplay(t *testing.T) {
	t.Parallel()
	for name, rotates := range map[string]bool{"rotating": true, "not rotating": false} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var held, release chan struct{}
			hold := func(ctx context.Context, m string) error {
				mu.Lock()
				h, r := held, release
				if m != "CreateAccessAndRefreshTokens" {
					h = nil
				}
				if h != nil {
					held = nil
				}
				mu.Unlock()
				if h != nil {
					close(h)
					<-r
				}
				return nil
			}
			one, two := processes(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(s *optest.Storage) op.Storage {
				if rotates {
					return &optest.Intercepted{Storage: s, Before: hold}
				}
				return heldNonRotating{optest.NonRotating(s), hold}
			}, nil)
			t0 := one.Login(optest.Web, "alice").RefreshToken()
			mu.Lock()
			h, r := make(chan struct{}), make(chan struct{})
			held, release = h, r
			mu.Unlock()
			slow := make(chan optest.Reply)
			go func() { slow <- one.Refresh(optest.Web, t0) }()
			<-h
			t1 := ok(t, two.Refresh(optest.Web, t0)).RefreshToken()
			t2 := ok(t, two.Refresh(optest.Web, t1)).RefreshToken()
			close(r)
			late := <-slow
			require.NotEqual(t, policy.ReasonReplay, policy.ReasonOf(late.Description()), "%s", late.Body)
			ok(t, two.Refresh(optest.Web, t2))
			require.Len(t, one.live(t, "alice"), 1)
		})
	}
}

type heldNonRotating struct {
	op.Storage
	hold func(context.Context, string) error
}

func (s heldNonRotating) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, token string) (string, string, time.Time, error) {
	if err := s.hold(ctx, "CreateAccessAndRefreshTokens"); err != nil {
		return "", "", time.Time{}, err
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, token)
}

// Rule 8 under the strict settings: a write that took effect and was not
// answered must not make the client's retry a replay.
func TestStrictRotationSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	for how, fault := range faults {
		for name, rotates := range map[string]bool{"rotating": true, "not rotating": false} {
			t.Run(how+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					faulty := faultstore.New(memstore.New())
					s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
						inMemory(p, o)
						if !rotates {
							nonRotating(p, o)
						}
						p.Store, p.NoGrace, p.NoLostResponse = faulty, true, true
					})
					token := s.Login(optest.Web, "alice").RefreshToken()
					done := false
					faulty.Script(func(c faultstore.Call) faultstore.Fault {
						if c.Method == "Update" && !done {
							done = true
							return fault
						}
						return faultstore.None
					})
					r := s.Refresh(optest.Web, token)
					if r.Status != http.StatusOK {
						unavailable(t, r)
						r = s.Refresh(optest.Web, token)
					}
					ok(t, s.Refresh(optest.Web, ok(t, r).RefreshToken()))
				})
			})
		}
	}
}

// Adoption and rule 8: the store fails while a token from before the
// installation is adopted.
func TestAdoptionSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	for how, fault := range faults {
		for name, wrap := range map[string]func(*optest.Storage) op.Storage{"rotating": nil, "not rotating": optest.NonRotating} {
			for _, strict := range []bool{false, true} {
				for _, times := range []int{1, 1000} {
					mode := map[bool]string{false: "default", true: "strict"}[strict]
					t.Run(strings.Join([]string{how, name, mode, map[int]string{1: "once", 1000: "for a while"}[times]}, "/"), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							storage := optest.NewStorage()
							bare := optest.Start(t, optest.Config{Storage: storage, Wrap: wrap, InMemory: true})
							token := bare.Login(optest.Web, "alice").RefreshToken()
							time.Sleep(time.Minute)
							faulty := faultstore.New(memstore.New())
							s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
								o.Storage, o.Wrap, o.InMemory = storage, wrap, true
								p.Store, p.AdoptUntil = faulty, time.Now().Add(24*time.Hour)
								p.NoGrace, p.NoLostResponse = strict, strict
							})
							left := times
							faulty.Script(func(c faultstore.Call) faultstore.Fault {
								if c.Method == "Create" && left > 0 {
									left--
									return fault
								}
								return faultstore.None
							})
							r := s.Refresh(optest.Web, token)
							faulty.Script(nil)
							if r.Status != http.StatusOK {
								unavailable(t, r)
								r = s.Refresh(optest.Web, token)
							}
							ok(t, s.Refresh(optest.Web, ok(t, r).RefreshToken()))
							require.Empty(t, s.seen(provider.EventReplay))
						})
					})
				}
			}
		}
	}
}

// Rule 5 and rule 9: a bare refresh token whose session is over, or that may
// not be adopted, is no way to a new login by token exchange.
func TestABareTokenCannotBeExchangedForANewLogin(t *testing.T) {
	t.Parallel()
	for name, over := range map[string]func(t *testing.T, s *setup, token string){
		"its session was ended": func(t *testing.T, s *setup, token string) {
			r := ok(t, s.Refresh(optest.Exchange, token))
			require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Exchange, r), policy.ReasonAccountDisabled, "root"))
		},
		"its authentication is too old": func(t *testing.T, s *setup, token string) { time.Sleep(24 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := optest.NewStorage()
				bare := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true})
				token := bare.Login(optest.Exchange, "admin").RefreshToken()
				time.Sleep(time.Minute)
				s := start(t, limits(24*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
					o.Storage, o.Wrap, o.InMemory = storage, optest.NonRotating, true
					p.AdoptUntil = time.Now().Add(48 * time.Hour)
				})
				over(t, s, token)
				require.Equal(t, "invalid_grant", s.Refresh(optest.Exchange, token).Error())
				x := s.TokenExchange(optest.Exchange, token, optest.RefreshTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}})
				require.Equal(t, http.StatusBadRequest, x.Status, "%s", x.Body)
				require.Empty(t, s.live(t, "admin"))
			})
		})
	}
}

// A live adopted token stays in its session when it is exchanged.
func TestABareTokenIsExchangedInItsOwnSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		bare := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true})
		token := bare.Login(optest.Exchange, "admin").RefreshToken()
		time.Sleep(time.Minute)
		s := start(t, limits(24*time.Hour, 0, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.Storage, o.Wrap, o.InMemory = storage, optest.NonRotating, true
			p.AdoptUntil = time.Now().Add(48 * time.Hour)
		})
		ok(t, s.Refresh(optest.Exchange, token))
		for range 3 {
			s.TokenExchange(optest.Exchange, token, optest.RefreshTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
		}
		require.Len(t, s.live(t, "admin"), 1)
	})
}

// "Adopted once": also when the end of its session was forgotten.
func TestAForgottenAdoptionIsNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage := optest.NewStorage()
		bare := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true})
		token := bare.Login(optest.Web, "alice").RefreshToken()
		time.Sleep(time.Minute)
		s := start(t, limits(0, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			o.Storage, o.Wrap, o.InMemory = storage, optest.NonRotating, true
			p.AdoptUntil = time.Now().Add(60 * 24 * time.Hour)
		})
		r := ok(t, s.Refresh(optest.Web, token))
		require.NoError(t, s.hook.End(t.Context(), s.sid(t, optest.Web, r), policy.ReasonAccountDisabled, "root"))
		refusedFor(t, s.Refresh(optest.Web, token), policy.ReasonAccountDisabled)
		time.Sleep(32 * 24 * time.Hour)
		require.NoError(t, s.hook.Sweep(t.Context()))
		again := s.Refresh(optest.Web, token)
		require.Equal(t, "invalid_grant", again.Error(), "%s", again.Body)
	})
}

// "Adopted once": also when the key was rotated out that its name is a MAC by,
// as soon as the documentation of Keys allows where Active is unlimited.
func TestAnAdoptionIsNotRepeatedAfterAKeyRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, sessions := optest.NewStorage(), memstore.New()
		bare := optest.Start(t, optest.Config{Storage: storage, Wrap: optest.NonRotating, InMemory: true})
		token := bare.Login(optest.Web, "alice").RefreshToken()
		time.Sleep(time.Minute)
		until := time.Now().Add(60 * 24 * time.Hour)
		with := func(keys ...provider.Key) *setup {
			return start(t, limits(0, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
				o.Storage, o.Wrap, o.InMemory = storage, optest.NonRotating, true
				p.Store, p.Keys, p.AdoptUntil = sessions, keys, until
			})
		}
		old := provider.NewKey(time.Now())
		before := with(old)
		r := ok(t, before.Refresh(optest.Web, token))
		require.NoError(t, before.hook.End(t.Context(), before.sid(t, optest.Web, r), policy.ReasonAccountDisabled, "root"))
		refusedFor(t, before.Refresh(optest.Web, token), policy.ReasonAccountDisabled)
		time.Sleep(2 * time.Hour)
		young := provider.NewKey(time.Now())
		with(young, old)
		time.Sleep(3 * time.Hour)
		again := with(young).Refresh(optest.Web, token)
		require.Equal(t, "invalid_grant", again.Error(), "%s", again.Body)
	})
}

// Rule 7: a successor whose access token, or which itself, came back as the
// subject of an exchange was not lost.
func TestAnExchangedSuccessorWasSeen(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(s *setup, r optest.Reply) optest.Reply{
		"access token": func(s *setup, r optest.Reply) optest.Reply {
			return s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
		},
		"refresh token": func(s *setup, r optest.Reply) optest.Reply {
			return s.TokenExchange(optest.Exchange, r.RefreshToken(), optest.RefreshTokenType, url.Values{"requested_token_type": {optest.AccessTokenType}})
		},
		"access token revoked": func(s *setup, r optest.Reply) optest.Reply {
			return s.Revoke(optest.Exchange, r.AccessToken(), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
				t0 := s.Login(optest.Exchange, "admin").RefreshToken()
				r := ok(t, s.Refresh(optest.Exchange, t0))
				require.Equal(t, http.StatusOK, use(s, r).Status)
				time.Sleep(31 * time.Second)
				refusedFor(t, s.Refresh(optest.Exchange, t0), policy.ReasonReplay)
			})
		})
	}
}

// Rule 8: a key that this process does not have yet, and a client that names
// its scopes (as zitadel's relying party does), or a wrong hint.
func TestAKeyAheadIsAnOutageForEveryRequest(t *testing.T) {
	t.Parallel()
	old, young := provider.NewKey(time.Now().Add(-time.Minute)), provider.NewKey(time.Now())
	sessions, storage := memstore.New(), optest.NewStorage()
	with := func(keys ...provider.Key) *setup {
		return start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			p.Store, p.Keys, o.Storage, o.InMemory = sessions, keys, storage, true
		})
	}
	r := with(young, old).Login(optest.Web, "alice")
	behind := with(old)
	t.Run("plain", func(t *testing.T) { unavailable(t, behind.Refresh(optest.Web, r.RefreshToken())) })
	t.Run("scope", func(t *testing.T) {
		unavailable(t, behind.Refresh(optest.Web, r.RefreshToken(), url.Values{"scope": {optest.Scope}}))
	})
	t.Run("revocation with a wrong hint", func(t *testing.T) {
		unavailable(t, behind.Revoke(optest.Web, r.RefreshToken(), "access_token"))
	})
}

// Anybody can make up the name of a key, and is answered like somebody whose token came a
// step too early. That raises no alarm: an event of its own, a warning, once a minute.
func TestAMadeUpKeyRaisesNoAlarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Events = provider.Tee(p.Events, provider.Audit(slog.New(slog.NewTextHandler(&log, nil))))
		})
		r := s.Login(optest.Web, "alice")
		log.Reset()
		head, body, _ := strings.Cut(r.RefreshToken(), ".")
		forged := func() string {
			id := provider.NewKey(time.Now()).ID()
			return head[:len(head)-len(id)] + id + "." + body
		}
		flood := func() {
			for range 20 {
				unavailable(t, s.Refresh(optest.Web, forged()))
				unavailable(t, s.Refresh(optest.SPA, forged()))
				unavailable(t, s.Revoke(optest.Web, forged(), ""))
				time.Sleep(time.Second)
			}
		}
		flood()
		flood()
		require.Len(t, s.seen(provider.EventKeyUnknown), 1)
		time.Sleep(20*time.Second - time.Millisecond) // a minute after the first
		unavailable(t, s.Refresh(optest.Web, forged()))
		require.Len(t, s.seen(provider.EventKeyUnknown), 1)
		time.Sleep(time.Millisecond)
		unavailable(t, s.Refresh(optest.Web, forged()))
		require.Len(t, s.seen(provider.EventKeyUnknown), 2)
		require.Empty(t, s.seen(provider.EventUnavailable))
		require.Contains(t, log.String(), "level=WARN msg=key_unknown")
		require.NotContains(t, log.String(), "level=ERROR")
		require.NotContains(t, log.String(), "curfew_rt_")
		ok(t, s.Refresh(optest.Web, r.RefreshToken()))
	})
}

// wrappedHook is a hook with something between it and op.
type wrappedHook struct {
	*provider.Hook
	inside func(http.Handler) http.Handler
}

func (w wrappedHook) Handler(next http.Handler) http.Handler { return w.Hook.Handler(w.inside(next)) }

type gzWriter struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (w gzWriter) Write(b []byte) (int, error) { return w.z.Write(b) }

func gzipInside(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		next.ServeHTTP(gzWriter{w, z}, r)
		_ = z.Close()
	})
}

// The hook wraps the outermost handler: what compresses is inside of it.
func TestResponsesThatAreCompressedInside(t *testing.T) {
	t.Parallel()
	faulty := faultstore.New(memstore.New())
	bareHook := func(p *provider.Config) *provider.Hook {
		h, err := provider.New(*p)
		require.NoError(t, err)
		return h
	}
	cfg := provider.Config{Store: faulty, Keys: provider.Keys{provider.NewKey(time.Now())},
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": limits(24*time.Hour, 2*time.Hour, 0, 0)}}}
	s := optest.Start(t, optest.Config{Hook: wrappedHook{bareHook(&cfg), gzipInside}})
	t.Run("discovery", func(t *testing.T) { require.NotNil(t, s.Discovery().JSON) })
	var r optest.Reply
	t.Run("tokens", func(t *testing.T) {
		v := s.Browser().Login(optest.Web, "alice", nil)
		for range 20 { // a compressed body has no brace now and then
			r = s.Code(optest.Web, v)
			require.NotEmpty(t, r.RefreshToken(), "%q", r.Body)
			for range 10 {
				r = s.Refresh(optest.Web, r.RefreshToken())
				require.NotEmpty(t, r.RefreshToken(), "%q", r.Body)
			}
			v = s.Browser().Login(optest.Web, "alice", nil)
		}
	})
	t.Run("outage", func(t *testing.T) {
		v := s.Browser().Login(optest.Web, "alice", nil)
		faulty.Script(faultstore.Always(faultstore.Before))
		r := s.Code(optest.Web, v)
		require.Equal(t, http.StatusServiceUnavailable, r.Status, "%s", r.Body)
		require.Equal(t, "server_error", r.Error(), "%q", r.Body)
	})
}

// Only JSON is spliced.
func TestAPageAtAPathLikeDiscoveryIsLeftAlone(t *testing.T) {
	t.Parallel()
	h, err := provider.New(provider.Config{Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}})
	require.NoError(t, err)
	const page = "<html><style>body{color:red}</style></html>"
	s := optest.Start(t, optest.Config{Hook: wrappedHook{h, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/app/") {
				w.Header().Set("Content-Type", "text/html")
				_, _ = io.WriteString(w, page)
				return
			}
			next.ServeHTTP(w, r)
		})
	}}})
	req, err := http.NewRequest(http.MethodGet, s.Issuer+"/app/.well-known/openid-configuration", nil)
	require.NoError(t, err)
	require.Equal(t, page, s.Do(s.HTTP, req).Body)
}

// A token that the storage refuses is waited for once, in case another process
// is just exchanging it.
func TestATokenThatTheStorageRevokedIsWaitedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counting := faultstore.New(memstore.New())
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = counting
		})
		r := s.Login(optest.Web, "alice")
		require.NoError(t, s.Storage.TerminateSession(t.Context(), optest.SubjectOf("alice"), optest.Web))
		counting.Reset()
		began := time.Now()
		require.Equal(t, "invalid_grant", s.Refresh(optest.Web, r.RefreshToken()).Error())
		t.Logf("%s, %v", time.Since(began), counting.Counts())
		require.LessOrEqual(t, counting.Counts()["Get"], 20)
		require.LessOrEqual(t, time.Since(began), 5*time.Second)
	})
}

// A grant that was dropped is not made anew by its device code, nor does that bring back
// what was voided before.
func TestADroppedGrantDoesNotComeBackWithItsOldTokens(t *testing.T) {
	t.Parallel()
	storage := optest.NewStorage()
	s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
		p.MaxGrants = 1
		o.Storage, o.Wrap = storage, optest.NonRotating
	})
	c := *storage.Client(optest.Device).(*optest.Client)
	c.Grants = append(slices.Clone(c.Grants), oidc.GrantTypeTokenExchange)
	storage.SetClient(&c)
	d := s.DeviceStart(optest.Device)
	s.DeviceApprove(d, "admin")
	t0 := ok(t, s.DevicePoll(optest.Device, d))
	t1 := ok(t, s.Refresh(optest.Device, t0.RefreshToken()))
	t2 := ok(t, s.Refresh(optest.Device, t1.RefreshToken()))
	ok(t, s.TokenExchange(optest.Device, t2.AccessToken(), optest.AccessTokenType, url.Values{"requested_token_type": {optest.RefreshTokenType}}))
	refusedFor(t, s.Refresh(optest.Device, t2.RefreshToken()), policy.ReasonRevoked)
	require.Empty(t, s.DevicePoll(optest.Device, d).AccessToken())
	again := s.Refresh(optest.Device, t1.RefreshToken()) // spent long ago
	require.Equal(t, "invalid_grant", again.Error(), "%s", again.Body)
}

// Rule 7 across processes: ten refreshes on two processes that share a store.
func TestTwoProcessesGiveTheSameAnswer(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(*optest.Storage) op.Storage{"rotating": nil, "not rotating": optest.NonRotating} {
		t.Run(name, func(t *testing.T) {
			one, two := processes(t, limits(24*time.Hour, 2*time.Hour, 0, 0), wrap, nil)
			token := one.Login(optest.Web, "alice").RefreshToken()
			for range 5 {
				replies := make([]optest.Reply, 10)
				parallel(10, func(i int) { replies[i] = []*setup{one, two}[i%2].Refresh(optest.Web, token) })
				for _, r := range replies {
					require.Equal(t, ok(t, replies[0]).RefreshToken(), ok(t, r).RefreshToken())
				}
				token = replies[0].RefreshToken()
			}
			require.Empty(t, one.seen(provider.EventReplay))
			require.Empty(t, two.seen(provider.EventReplay))
		})
	}
}

// The path for a generation ahead of the store, as an attack: after a lost
// response neither the void token nor one of the same generation is taken.
func TestAVoidTokenIsNotTakenForOneAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
		t0 := s.Login(optest.Web, "alice").RefreshToken()
		t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
		for range 3 { // each time the answer is lost
			time.Sleep(31 * time.Second)
			ok(t, s.Refresh(optest.Web, t0))
		}
		refusedFor(t, s.Refresh(optest.Web, t1), policy.ReasonReplay)
		require.Empty(t, s.seen(provider.EventRollback))
	})
}

// A store that was restored from a backup: of two tokens that are ahead of it
// one is taken, and the other one then ends the family.
func TestAfterARollbackTwoTokensAheadMeet(t *testing.T) {
	t.Parallel()
	sessions := memstore.New()
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		nonRotating(p, o)
		p.Store = sessions
	})
	r := s.Login(optest.Web, "alice")
	backup, err := sessions.Get(t.Context(), s.sid(t, optest.Web, r))
	require.NoError(t, err)
	t1 := ok(t, s.Refresh(optest.Web, r.RefreshToken())).RefreshToken() // stolen, spent
	t2 := ok(t, s.Refresh(optest.Web, t1)).RefreshToken()
	now, err := sessions.Get(t.Context(), backup.ID)
	require.NoError(t, err)
	backup.Revision = now.Revision
	_, err = sessions.Update(t.Context(), backup)
	require.NoError(t, err)
	stolen := ok(t, s.Refresh(optest.Web, t1)).RefreshToken()
	refusedFor(t, s.Refresh(optest.Web, t2), policy.ReasonReplay)
	refusedFor(t, s.Refresh(optest.Web, stolen), policy.ReasonReplay)
	require.Empty(t, s.live(t, "alice"))
}

// The errors that applications get say nothing of what the store said.
func TestStoreErrorsStayInside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		s := start(t, limits(24*time.Hour, 2*time.Hour, 3, policy.Refuse), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = faulty
		})
		r := s.Login(optest.Exchange, "admin")
		v := s.Browser().Login(optest.Web, "admin", nil)
		faulty.Script(faultstore.Always(faultstore.Before))
		out := s.Browser().EndSession(url.Values{"id_token_hint": {r.IDToken()}})
		hinted := s.Browser().Authorize(optest.Web, url.Values{"id_token_hint": {r.IDToken()}})
		login := s.Browser().Login(optest.Web, "admin", nil)
		implicit := s.Browser().Login(optest.Implicit, "admin", url.Values{"response_type": {"id_token token"}})
		for _, body := range []string{
			s.Refresh(optest.Exchange, r.RefreshToken()).Body, s.Introspect(optest.Exchange, r.AccessToken()).Body,
			s.Userinfo(r.AccessToken()).Body, s.Revoke(optest.Exchange, r.RefreshToken(), "").Body, s.Code(optest.Web, v).Body,
			out.Body, out.URL, hinted.Body, hinted.URL, login.Body, login.URL, implicit.Body, implicit.URL,
			s.TokenExchange(optest.Exchange, r.AccessToken(), optest.AccessTokenType, nil).Body,
		} {
			require.NotContains(t, body, "injected")
			require.NotContains(t, body, "memstore")
		}
	})
}

// The same when the answer is repeated while its successor is exchanged.
func TestARepeatOnAStorageThatDetectsReuse(t *testing.T) {
	t.Parallel()
	f := newFamily()
	s, _ := processes(t, limits(24*time.Hour, 2*time.Hour, 0, 0), f.wrap, nil)
	t0 := s.Login(optest.Web, "alice").RefreshToken()
	t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
	second := make(chan optest.Reply, 1)
	looked := make(chan struct{}, 100)
	var once sync.Once
	rotated := func() {
		once.Do(func() {
			note := func() { looked <- struct{}{} }
			f.looked.Store(&note)
			go func() { second <- s.Refresh(optest.Web, t0) }() // a tab that is behind, within the grace
			select {
			case <-looked:
				time.Sleep(20 * time.Millisecond)
			case <-time.After(300 * time.Millisecond):
			}
		})
	}
	f.rotated.Store(&rotated)
	t2 := ok(t, s.Refresh(optest.Web, t1)).RefreshToken()
	<-second // T0 is a replay by now, or not: that is another matter
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Empty(t, f.revoked, "the storage saw a spent token: %s", t2)
}

// A slider is a store in which a use of the session that began in time is
// written just before the first end of it.
type slider struct {
	*memstore.Store
	to time.Time
}

func (s *slider) Update(ctx context.Context, next store.Session) (int64, error) {
	if next.End != nil && !s.to.IsZero() {
		cur, err := s.Get(ctx, next.ID)
		if err != nil {
			return 0, err
		}
		cur.LastActivity, s.to = s.to, time.Time{}
		if _, err := s.Store.Update(ctx, cur); err != nil {
			return 0, err
		}
	}
	return s.Store.Update(ctx, next)
}

// A refusal for inactivity that was overtaken by a use of the session does not
// end it.
func TestARefusalDoesNotEndASessionThatIsLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sessions := &slider{Store: memstore.New()}
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemoryNonRotating(p, o)
			p.Store = sessions
		})
		token := s.Login(optest.Web, "alice").RefreshToken()
		time.Sleep(2 * time.Hour)
		sessions.to = time.Now().UTC().Add(-time.Millisecond) // userinfo, a moment ago, in another process
		s.Refresh(optest.Web, token)
		require.Len(t, s.live(t, "alice"), 1)
		ok(t, s.Refresh(optest.Web, token))
	})
}

// A text that cannot be a token is not an outage, whatever key it names.
func TestGarbageIsNoOutage(t *testing.T) {
	t.Parallel()
	s := start(t, policy.Account{}, nil)
	young := provider.NewKey(time.Now()).ID()
	for _, token := range []string{"curfew_rt_" + young + ".", "curfew_rt_" + young + ".AAAA", "curfew_rt_" + young + ".!"} {
		r := s.Refresh(optest.Native, token) // nobody has to authenticate for this
		require.Equal(t, http.StatusBadRequest, r.Status, "%q: %s", token, r.Body)
	}
	require.Empty(t, s.seen(provider.EventUnavailable))
}

// A storage that panics leaves no lock behind, and no half of a response.
func TestAPanicInAStorageLeavesNoLock(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"TokenRequestByRefreshToken", "CreateAccessAndRefreshTokens", "SetUserinfoFromRequest"} {
		var armed atomic.Bool
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.Wrap = func(st *optest.Storage) op.Storage {
				return &optest.Intercepted{Storage: st, Before: func(_ context.Context, m string) error {
					if m == method && armed.CompareAndSwap(true, false) {
						panic(http.ErrAbortHandler)
					}
					return nil
				}}
			}
		})
		token := s.Login(optest.Web, "alice").RefreshToken()
		armed.Store(true)
		require.Zero(t, s.Refresh(optest.Web, token).Status, "the connection is closed")
		ok(t, s.Refresh(optest.Web, token))
	}
}

// HEAD is answered as without the hook.
func TestHeadOfDiscoveryIsLeftAlone(t *testing.T) {
	t.Parallel()
	head := func(s *optest.Server) *http.Response {
		req, err := http.NewRequest(http.MethodHead, s.Issuer+"/.well-known/openid-configuration", nil)
		require.NoError(t, err)
		resp, err := s.HTTP.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	bare, hooked := head(optest.Start(t, optest.Config{})), head(start(t, policy.Account{}, nil).Server.Server)
	require.Equal(t, bare.StatusCode, hooked.StatusCode)
	require.Equal(t, bare.Header.Get("Content-Type"), hooked.Header.Get("Content-Type"))
}

// Rule 7: what was seen while a lost response is mended was not lost.
func TestASuccessorSeenMeanwhileWasNotLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s *setup
		var during func()
		s = start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.InMemory = true
			o.Wrap = func(st *optest.Storage) op.Storage {
				return heldNonRotating{optest.NonRotating(st), func(_ context.Context, m string) error {
					if f := during; f != nil && m == "CreateAccessAndRefreshTokens" {
						during = nil
						f()
					}
					return nil
				}}
			}
		})
		t0 := s.Login(optest.Web, "alice").RefreshToken()
		r := ok(t, s.Refresh(optest.Web, t0))
		time.Sleep(31 * time.Second)
		during = func() { require.Equal(t, http.StatusOK, s.Userinfo(r.AccessToken()).Status) }
		refusedFor(t, s.Refresh(optest.Web, t0), policy.ReasonReplay)
	})
}

// A client that hangs up in the middle of a rotation loses nothing.
func TestAClientThatHangsUpLosesNothing(t *testing.T) {
	t.Parallel()
	hangs := make(chan context.CancelFunc, 1)
	var armed atomic.Bool
	s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(st *optest.Storage) op.Storage {
			return &optest.Intercepted{Storage: st, After: func(ctx context.Context, m string) error {
				if m == "CreateAccessAndRefreshTokens" && armed.CompareAndSwap(true, false) {
					(<-hangs)()
					<-ctx.Done()
				}
				return nil
			}}
		}
	})
	token := s.Login(optest.Web, "alice").RefreshToken()
	armed.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	hangs <- cancel
	body := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Issuer+"/oauth/token", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(optest.Web, optest.Web+"-secret")
	require.Zero(t, s.Do(s.HTTP, req).Status)
	next := ok(t, s.Refresh(optest.Web, token))
	ok(t, s.Refresh(optest.Web, next.RefreshToken()))
	require.Empty(t, s.seen(provider.EventReplay))
}

// Rule 5: near the absolute end, and with a slow storage, nothing is issued
// that outlives the session: op computes an unsigned expires_in.
func TestASlowStorageAtTheEndOfASession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := false
		s := start(t, limits(time.Hour, 0, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.InMemory = true
			o.Wrap = func(st *optest.Storage) op.Storage {
				return heldNonRotating{optest.NonRotating(st), func(context.Context, string) error {
					if slow {
						time.Sleep(10 * time.Second)
					}
					return nil
				}}
			}
		})
		r := s.Login(optest.Web, "alice")
		end := time.Now().Add(time.Hour)
		time.Sleep(time.Hour - 5*time.Second)
		slow = true
		late := s.Refresh(optest.Web, r.RefreshToken())
		if late.Status == http.StatusOK {
			expiresIn, _ := late.Number("expires_in")
			require.LessOrEqual(t, expiresIn, max(0, time.Until(end).Seconds()))
			require.Equal(t, http.StatusUnauthorized, s.Userinfo(late.AccessToken()).Status)
		}
	})
}

// Settings that cannot be read do not hold each request up for as long
// as a time-out, for as long as the last ones are good.
func TestStoredSettingsThatTimeOutHoldOneRequestUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		s := start(t, policy.Account{}, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store, p.Settings, p.SettingsMaxAge = faulty, nil, 0
		})
		_, err := provider.SaveAccount(t.Context(), faulty, "default", limits(24*time.Hour, 2*time.Hour, 0, 0), 0, "root", "", time.Now())
		require.NoError(t, err)
		r := s.Login(optest.Web, "alice")
		faulty.Script(faultstore.Always(faultstore.Timeout, "Document"))
		time.Sleep(2 * time.Second)
		began := time.Now()
		for range 10 {
			require.Equal(t, true, s.Introspect(optest.Web, r.AccessToken()).JSON["active"])
		}
		require.Less(t, time.Since(began), 10*time.Second) // the clock of the bubble
	})
}

// Rule 10: what was refused for being over does not come back, whoever refused.
func TestWhatIntrospectionFoundOverStaysOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 12*time.Hour, 0, 0), inMemoryNonRotating)
		r := s.Login(optest.Web, "alice")
		time.Sleep(3 * time.Minute)
		s.set(limits(24*time.Hour, 2*time.Minute, 0, 0))
		require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
		s.set(limits(24*time.Hour, 12*time.Hour, 0, 0))
		require.Equal(t, map[string]any{"active": false}, s.Introspect(optest.Web, r.AccessToken()).JSON)
	})
}

// Requests that wait for the lock of a grant do not wait for one outage after
// the other.
func TestWaitersDoNotQueueForAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			p.Store = faulty
		})
		t0 := s.Login(optest.Web, "alice").RefreshToken()
		faulty.Script(faultstore.Always(faultstore.Timeout))
		began := time.Now()
		replies := make([]optest.Reply, 10)
		parallel(10, func(i int) { replies[i] = s.Refresh(optest.Web, t0) })
		for _, r := range replies {
			unavailable(t, r)
		}
		require.LessOrEqual(t, time.Since(began), 7*time.Second, "twice the time-out, not ten times")
	})
}

// Rule 7: a client whose requests refresh in turn, each what the other just got, and one
// of them is late with what it had from before. Whatever it is, it gets the newest answer
// for as long as the grace, and a thief nothing that the grace did not give before.
func TestAChainOfRefreshesIsOneRotation(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(*optest.Storage) op.Storage{"rotating": nil, "not rotating": optest.NonRotating} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one, two := processes(t, limits(24*time.Hour, 2*time.Hour, 0, 0), wrap, nil)
				last := one.Login(optest.Web, "alice")
				tokens := []string{last.RefreshToken()}
				for i := range 10 {
					last = ok(t, []*setup{one, two}[i%2].Refresh(optest.Web, last.RefreshToken()))
					tokens = append(tokens, last.RefreshToken())
					time.Sleep(time.Second)
				}
				for i, late := range tokens[:10] {
					r := ok(t, []*setup{one, two}[i%2].Refresh(optest.Web, late))
					require.Equal(t, last.RefreshToken(), r.RefreshToken(), "%d", i)
					require.Equal(t, true, one.Introspect(optest.Web, r.AccessToken()).JSON["active"])
				}
				require.Equal(t, "invalid_grant", one.Refresh(optest.Web2, tokens[3]).Error(), "another client")
				time.Sleep(20*time.Second - time.Millisecond) // the first was exchanged 30 s ago
				require.Equal(t, last.RefreshToken(), ok(t, one.Refresh(optest.Web, tokens[0])).RefreshToken())
				ok(t, two.Refresh(optest.Web, last.RefreshToken()))
				require.Empty(t, one.seen(provider.EventReplay))
				require.Empty(t, two.seen(provider.EventReplay))

				time.Sleep(time.Millisecond)
				ok(t, one.Refresh(optest.Web, tokens[1]))
				refusedFor(t, one.Refresh(optest.Web, tokens[0]), policy.ReasonReplay)
				require.Empty(t, one.live(t, "alice"))
			})
		})
	}
}

// The same as it happens: ten requests at once, again and again, of a client that keeps
// the token in one place and takes from there whatever is in it.
func TestParallelChainsOfRefreshes(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(*optest.Storage) op.Storage{"rotating": nil, "not rotating": optest.NonRotating} {
		t.Run(name, func(t *testing.T) {
			one, two := processes(t, limits(24*time.Hour, 2*time.Hour, 0, 0), wrap, nil)
			var mu sync.Mutex
			token := one.Login(optest.Web, "alice").RefreshToken()
			replies := make([][]optest.Reply, 10)
			parallel(10, func(i int) {
				mu.Lock()
				mine := token
				mu.Unlock()
				for range 6 {
					r := []*setup{one, two}[i%2].Refresh(optest.Web, mine)
					replies[i] = append(replies[i], r)
					if r.RefreshToken() == "" {
						continue
					}
					mu.Lock()
					token, mine = r.RefreshToken(), token // the next request has what another one got before
					mu.Unlock()
				}
			})
			for _, all := range replies {
				for _, r := range all {
					require.NotEqual(t, "invalid_grant", r.Error(), "%s", r.Body)
				}
			}
			ok(t, one.Refresh(optest.Web, token))
			require.Empty(t, one.seen(provider.EventReplay))
			require.Empty(t, two.seen(provider.EventReplay))
			require.Len(t, one.live(t, "alice"), 1)
		})
	}
}

// What a chain keeps is bounded, and is gone with the first rotation after the grace.
func TestAChainOfRefreshesIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
		token := s.Login(optest.Web, "alice").RefreshToken()
		size := func() int { return len(s.live(t, "alice")[0].Grants[0].Chain) }
		token = ok(t, s.Refresh(optest.Web, token)).RefreshToken()
		one := size()
		for range 200 {
			token = ok(t, s.Refresh(optest.Web, token)).RefreshToken()
			require.LessOrEqual(t, size(), 64*one)
		}
		require.Equal(t, 64*one, size())
		time.Sleep(10 * time.Minute)
		ok(t, s.Refresh(optest.Web, token))
		require.Equal(t, one, size())
		require.NoError(t, s.hook.End(t.Context(), s.live(t, "alice")[0].ID, policy.ReasonEndedByAdmin, "root"))
		ended, _, err := s.hook.List(t.Context(), store.Filter{State: store.Ended}, "", 10)
		require.NoError(t, err)
		require.Empty(t, ended[0].Grants[0].Chain)
	})
}

// A program of the version before keeps what it does not know, and rotates. Its rotations
// break the chain: what is behind them is spent, as it was for that program, and what
// came since is not.
func TestAChainAndAVersionThatKeepsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), inMemoryNonRotating)
		r := s.Login(optest.Web, "alice")
		t0 := r.RefreshToken()
		t1 := ok(t, s.Refresh(optest.Web, t0)).RefreshToken()
		before, err := s.store.Get(t.Context(), s.sid(t, optest.Web, r))
		require.NoError(t, err)
		t2 := ok(t, s.Refresh(optest.Web, t1)).RefreshToken()
		after, err := s.store.Get(t.Context(), before.ID)
		require.NoError(t, err)
		after.Grants[0].Chain = before.Grants[0].Chain // as that program leaves it
		_, err = s.store.Update(t.Context(), after)
		require.NoError(t, err)
		require.Equal(t, t2, ok(t, s.Refresh(optest.Web, t1)).RefreshToken())
		t3 := ok(t, s.Refresh(optest.Web, t2)).RefreshToken()
		require.Equal(t, t3, ok(t, s.Refresh(optest.Web, t2)).RefreshToken())
		refusedFor(t, s.Refresh(optest.Web, t0), policy.ReasonReplay)
	})
}

// A briefly is a storage whose access tokens are over before the grace is.
type briefly struct {
	*optest.Storage
	life time.Duration
}

func (s briefly) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, token string) (string, string, time.Time, error) {
	id, next, _, err := s.Storage.CreateAccessAndRefreshTokens(ctx, r, token)
	return id, next, time.Now().Add(s.life), err
}

// A repeat whose access token is over is an exchange: nobody is helped by a token that
// is dead on arrival.
func TestARepeatBringsAGoodAccessToken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		after time.Duration
		same  bool
	}{"while it is good": {9 * time.Second, true}, "in its last second": {9*time.Second + time.Millisecond, false}, "when it is over": {20 * time.Second, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
					inMemory(p, o)
					o.Wrap = func(s *optest.Storage) op.Storage { return briefly{s, 10 * time.Second} }
				})
				t0 := s.Login(optest.Web, "alice").RefreshToken()
				first := ok(t, s.Refresh(optest.Web, t0))
				time.Sleep(c.after)
				again := ok(t, s.Refresh(optest.Web, t0))
				require.Equal(t, c.same, again.RefreshToken() == first.RefreshToken())
				require.GreaterOrEqual(t, again.JSON["expires_in"], 1.0)
				require.Equal(t, true, s.Introspect(optest.Web, again.AccessToken()).JSON["active"])
				if !c.same {
					require.EqualValues(t, 10, again.JSON["expires_in"])
					for _, old := range []string{t0, first.RefreshToken()} { // whoever has those is not behind
						require.Equal(t, again.RefreshToken(), ok(t, s.Refresh(optest.Web, old)).RefreshToken())
					}
				}
				ok(t, s.Refresh(optest.Web, again.RefreshToken()))
				require.Empty(t, s.seen(provider.EventReplay))
			})
		})
	}
}
