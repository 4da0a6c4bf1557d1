package pgstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/pgstore"
)

// Some tests start the test binary again, as another process that admits logins
// and does nothing else.
const childVariable = "CURFEW_TEST_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(enginetest.Main(m))
	}
	if err := child(name, os.Getenv("CURFEW_TEST_URL")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const raceCap, raceEach = 3, 40

// child opens the store when it is told to, and then admits logins of one user,
// several at once, each of which ends another.
func child(name, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pool.Ping(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	s, err := pgstore.New(ctx, pool)
	if err != nil {
		return err
	}
	const workers = 4
	results := make(chan error, raceEach)
	for w := range workers {
		go func() {
			for i := w; i < raceEach; i += workers {
				one := session(fmt.Sprintf("%s-%d", name, i), "alice")
				results <- s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
					if len(held) > raceCap {
						return nil, fmt.Errorf("%d sessions are held", len(held))
					}
					out := []store.Session{one}
					if len(held) == raceCap {
						gone := held[rand.N(len(held))]
						gone.End = &store.End{At: gone.Started, Reason: policy.ReasonConcurrency, By: one.ID}
						out = append(out, gone)
					}
					return out, nil
				})
			}
		}()
	}
	var all error
	for range raceEach {
		all = errors.Join(all, <-results)
	}
	return all
}

// Processes that start at the same time on an empty database create the tables
// once, and then share the cap exactly.
func TestProcessesStartAtOnce(t *testing.T) {
	url := enginetest.PostgresURL(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	const processes = 4
	var running []*exec.Cmd
	var ins []io.WriteCloser
	for i := range processes {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childVariable+"="+fmt.Sprint(i), "CURFEW_TEST_URL="+url)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		running, ins = append(running, cmd), append(ins, in)
	}
	for _, in := range ins {
		_, err := io.WriteString(in, "go\n")
		require.NoError(t, err)
	}
	for _, cmd := range running {
		require.NoError(t, cmd.Wait())
	}

	pool := openPool(t, url)
	all, next, err := newStore(t, pool).List(t.Context(), store.Filter{}, "", 10000)
	require.NoError(t, err)
	require.Empty(t, next)
	require.Len(t, all, processes*raceEach)
	unended, by := 0, map[string]bool{}
	for _, one := range all {
		if one.End == nil {
			unended++
			continue
		}
		require.EqualValues(t, 2, one.Revision, "it ended once")
		require.False(t, by[one.End.By], "a login ended two sessions")
		by[one.End.By] = true
	}
	require.Equal(t, raceCap, unended)
	requireSound(t, pool)
	var versions int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM curfew_schema`).Scan(&versions))
	require.Equal(t, 1, versions)
}

// What was acknowledged survives that the server is killed at any moment, ends
// included; and pools find their way back to it.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	t.Parallel()
	server, err := engine.NewPostgres()
	require.NoError(t, err)
	defer server.Close()
	pool := openPool(t, server.URL())
	s := newStore(t, pool)
	durability, err := s.Durability(t.Context())
	require.NoError(t, err)
	require.True(t, durability.SurvivesCrash(), "%+v", durability)

	type said struct{ what, id string }
	acknowledged := map[string]string{}
	for round := range 4 {
		const writers = 4
		says, stop := make(chan said), make(chan struct{})
		for w := range writers {
			go func() {
				defer func() { says <- said{} }()
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					one := session(fmt.Sprintf("%d-%d-%d", round, w, i), fmt.Sprintf("user-%d", i%7))
					if s.Admit(t.Context(), one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{one}, nil }) != nil {
						return
					}
					says <- said{"created", one.ID}
					one.Revision = 1
					var err error
					if one.Revision, err = s.Update(t.Context(), one); err != nil {
						return
					}
					says <- said{"refreshed", one.ID}
					one.End = &store.End{At: one.LastActivity, Reason: policy.ReasonLogout}
					if _, err = s.Update(t.Context(), one); err != nil {
						return
					}
					says <- said{"ended", one.ID}
				}
			}()
		}
		kill, ended := 40+rand.N(150), 0
		for n := 0; ended < writers; n++ {
			if n == kill {
				go func() {
					_ = server.Kill()
					close(stop)
				}()
			}
			switch word := <-says; word.what {
			case "":
				ended++
			default:
				acknowledged[word.id] = word.what
			}
		}
		<-stop
		_, err := s.Get(t.Context(), "none")
		require.Error(t, err)
		require.NotErrorIs(t, err, store.ErrNotFound, "a server that is down does not say that there is no session")
		require.NoError(t, server.Start())

		for id, what := range acknowledged {
			one, err := s.Get(t.Context(), id)
			require.NoError(t, err, "%s was %s", id, what)
			switch what {
			case "refreshed":
				require.GreaterOrEqual(t, one.Revision, int64(2), id)
			case "ended":
				require.NotNil(t, one.End, "the end of %s came undone", id)
			}
		}
		requireSound(t, pool)
	}
	require.Greater(t, len(acknowledged), 40)
}

// With synchronous_commit=off a crash of the server undoes the last that was
// acknowledged, and nothing in between. Without its WAL writer, which writes what
// is asynchronous, the server has written none of it when it is killed.
func TestAsynchronousCommitLosesTheLast(t *testing.T) {
	t.Parallel()
	server, err := engine.NewPostgres("synchronous_commit=off", "wal_writer_delay=10s", "autovacuum=off")
	require.NoError(t, err)
	defer server.Close()
	pool := openPool(t, server.URL())
	s := newStore(t, pool)
	ctx := t.Context()
	durability, err := s.Durability(ctx)
	require.NoError(t, err)
	require.False(t, durability.SurvivesCrash())
	require.Equal(t, "off", durability.SynchronousCommit)

	a, b := session("a", "alice"), session("b", "alice")
	require.NoError(t, s.Create(ctx, a, 10))
	_, err = pool.Exec(ctx, `CHECKPOINT`)
	require.NoError(t, err)
	var walwriter int
	require.NoError(t, pool.QueryRow(ctx, `SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'`).Scan(&walwriter))
	require.NoError(t, syscall.Kill(walwriter, syscall.SIGSTOP))

	a.Revision = 1
	a.End = &store.End{At: a.Started, Reason: policy.ReasonLogout}
	_, err = s.Update(ctx, a)
	require.NoError(t, err)
	require.NoError(t, s.Create(ctx, b, 10))
	require.NoError(t, server.Kill())
	require.NoError(t, server.Start())

	got, err := s.Get(ctx, a.ID)
	require.NoError(t, err)
	require.Nil(t, got.End, "the end came undone")
	require.EqualValues(t, 1, got.Revision)
	_, err = s.Get(ctx, b.ID)
	require.ErrorIs(t, err, store.ErrNotFound, "the login came undone")
	requireSound(t, pool)

	// A connection may ask for more, and then it is durable.
	durable := newStore(t, openPool(t, server.URL()+"&synchronous_commit=on"))
	durability, err = durable.Durability(ctx)
	require.NoError(t, err)
	require.True(t, durability.SurvivesCrash())
	_, err = durable.Update(ctx, a)
	require.NoError(t, err)
	require.NoError(t, server.Kill())
	require.NoError(t, server.Start())
	got, err = s.Get(ctx, a.ID)
	require.NoError(t, err)
	require.NotNil(t, got.End)
}

// What the server cannot do is an error that answers none of the callers'
// questions, has no password, and is over when the server can again.
func TestServerThatCannot(t *testing.T) {
	t.Parallel()
	server, err := engine.NewPostgres("max_connections=6", "superuser_reserved_connections=0")
	require.NoError(t, err)
	defer server.Close()
	ctx := t.Context()
	pool := openPool(t, server.URL())
	s := newStore(t, pool)
	a := session("a", "alice")
	require.NoError(t, s.Create(ctx, a, 10))
	a.Revision = 1

	cannot := func(s *pgstore.Store, reads bool) {
		t.Helper()
		password := pool.Config().ConnConfig.Password
		require.NotEmpty(t, password)
		_, errGet := s.Get(ctx, a.ID)
		_, errUpdate := s.Update(ctx, a)
		errs := []error{
			errUpdate, s.Create(ctx, session("b", "alice"), 10), s.Delete(ctx, a.ID, 1),
			s.Admit(ctx, a.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
				return []store.Session{session("c", "alice")}, nil
			}),
		}
		if reads {
			require.NoError(t, errGet)
		} else {
			errs = append(errs, errGet)
		}
		for _, err := range errs {
			require.Error(t, err)
			for _, answer := range []error{store.ErrConflict, store.ErrNotFound, store.ErrExists, store.ErrFull} {
				require.NotErrorIs(t, err, answer)
			}
			require.NotContains(t, err.Error(), password)
		}
	}
	can := func() {
		t.Helper()
		got, err := s.Get(ctx, a.ID)
		require.NoError(t, err)
		require.Equal(t, a, got)
		list, _, err := s.List(ctx, store.Filter{}, "", 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.NoError(t, s.Admit(ctx, a.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }))
	}

	// A standby.
	standby := openPool(t, server.URL()+"&default_transaction_read_only=on")
	cannot(newStore(t, standby), true)
	standby.Close()

	// Too many clients.
	pool.Reset()
	var held []*pgxpool.Conn
	greedy := openPool(t, server.URL())
	for {
		c, err := greedy.Acquire(ctx)
		if err != nil {
			require.ErrorContains(t, err, "too many clients")
			break
		}
		held = append(held, c)
	}
	cannot(s, false)
	for _, c := range held {
		c.Release()
	}
	greedy.Close()
	require.Eventually(t, func() bool { return pool.Ping(ctx) == nil }, time.Minute, 10*time.Millisecond)
	can()

	// A server that is down, and comes back while idle connections of the pool
	// are to the one before.
	require.NoError(t, server.Stop())
	cannot(s, false)
	require.NoError(t, server.Start())
	can()
	for range 3 {
		var conns []*pgxpool.Conn
		for range 4 {
			c, err := pool.Acquire(ctx)
			require.NoError(t, err)
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.Release()
		}
		require.NoError(t, server.Stop())
		require.NoError(t, server.Start())
		can()
	}
}

// A user who logs in many times at once holds one connection of each process:
// others have theirs.
func TestOneSubjectLeavesConnections(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newStore(t, openPool(t, enginetest.PostgresURL(t), func(c *pgxpool.Config) { c.MaxConns = 2 }))
	require.NoError(t, s.Create(ctx, session("a", "bob"), 10))
	entered, release := make(chan struct{}, 20), make(chan struct{})
	done := make(chan error, 20)
	for i := range 20 {
		go func() {
			one := session(fmt.Sprint(i), "alice")
			done <- s.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
				entered <- struct{}{}
				<-release
				return []store.Session{one}, nil
			})
		}()
	}
	<-entered
	_, err := s.Get(ctx, session("a", "bob").ID)
	require.NoError(t, err)
	require.NoError(t, s.Create(ctx, session("b", "bob"), 10))
	close(release)
	for range 20 {
		require.NoError(t, <-done)
	}
}

// What another process has locked is waited for by few of a pool's connections,
// whichever call it is that waits: others have theirs.
func TestLockedRowsLeaveConnections(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	url := enginetest.PostgresURL(t)
	pool := openPool(t, url) // of 8
	s := newStore(t, pool)
	var alices []store.Session
	for i := range 12 {
		one := session(fmt.Sprint(i), "alice")
		require.NoError(t, s.Create(ctx, one, 100))
		one.Revision = 1
		alices = append(alices, one)
	}
	bob := session("a", "bob")
	require.NoError(t, s.Create(ctx, bob, 10))
	bob.Revision = 1
	admin, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer admin.Close(context.WithoutCancel(ctx))
	watcher, err := pgx.Connect(ctx, url) // a transaction sees one moment of it
	require.NoError(t, err)
	defer watcher.Close(context.WithoutCancel(ctx))

	for _, c := range []struct {
		name string
		most int // connections that wait
		call func(i int) error
	}{
		{"Update of one", 1, func(i int) error { _, err := s.Update(ctx, alices[0]); return err }},
		{"Delete of one", 1, func(i int) error { return s.Delete(ctx, alices[0].ID, alices[0].Revision) }},
		{"Update of all of a subject's", 4, func(i int) error { _, err := s.Update(ctx, alices[i]); return err }},
		{"Admit", 1, func(i int) error {
			return s.Admit(ctx, alices[0].Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil })
		}},
	} {
		for i, one := range alices {
			if now, err := s.Get(ctx, one.ID); err == nil {
				alices[i] = now
			}
		}
		tx, err := admin.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, `SELECT 1 FROM curfew_sessions WHERE id <> $1 FOR UPDATE`, []byte(bob.ID))
		require.NoError(t, err)
		done := make(chan error, 12)
		for i := range 12 {
			go func() { done <- c.call(i) }()
		}
		waiting := func() (n int) {
			require.NoError(t, watcher.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n))
			return n
		}
		for waiting() < c.most {
			time.Sleep(time.Millisecond)
		}
		// Bob's calls are answered, and meanwhile no more come to wait.
		for range 20 {
			bob.Revision, err = s.Update(ctx, bob)
			require.NoError(t, err, c.name)
			require.LessOrEqual(t, waiting(), c.most, c.name)
		}
		require.NoError(t, tx.Rollback(ctx))
		for range 12 {
			if err := <-done; err != nil && !errors.Is(err, store.ErrNotFound) {
				require.ErrorIs(t, err, store.ErrConflict, c.name)
			}
		}
	}
}

// What a step saw stays until it is committed: an end by another process waits for it,
// even if the step does not touch that session.
func TestEndWaitsForAStep(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	url := enginetest.PostgresURL(t)
	s, other, admin := newStore(t, openPool(t, url)), newStore(t, openPool(t, url)), openPool(t, url)
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 10))
	one.Revision, one.End = 1, &store.End{At: one.Started, Reason: policy.ReasonLogout}
	ended := make(chan error, 1)
	require.NoError(t, s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		require.Len(t, held, 1)
		go func() {
			_, err := other.Update(ctx, one)
			ended <- err
		}()
		for waits := false; !waits; time.Sleep(time.Millisecond) {
			select {
			case err := <-ended:
				return nil, fmt.Errorf("it did not wait: %w", err)
			default:
			}
			err := admin.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
			if err != nil {
				return nil, err
			}
		}
		return []store.Session{session("b", "alice")}, nil
	}))
	require.NoError(t, <-ended)
	got, err := s.Get(ctx, one.ID)
	require.NoError(t, err)
	require.NotNil(t, got.End)
}

// A write whose answer did not come is not repeated: the error says that nobody
// knows, and it is neither a conflict nor a success.
func TestAnswerLost(t *testing.T) {
	ctx := t.Context()
	url := enginetest.PostgresURL(t)
	s := newStore(t, openPool(t, url))
	a := session("a", "alice")
	require.NoError(t, s.Create(ctx, a, 10))
	a.Revision = 1

	lossy := newStore(t, openPool(t, url, losing("UPDATE curfew_sessions SET revision")))
	_, err := lossy.Update(ctx, a)
	require.ErrorContains(t, err, "whether it was written is not known")
	require.NotErrorIs(t, err, store.ErrConflict)
	got, err := s.Get(ctx, a.ID)
	require.NoError(t, err)
	require.EqualValues(t, 2, got.Revision, "it was written, once")

	lossy = newStore(t, openPool(t, url, losing("COMMIT\x00")))
	err = lossy.Admit(ctx, a.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		return []store.Session{session("b", "alice")}, nil
	})
	require.ErrorContains(t, err, "whether it was written is not known")
	require.NotErrorIs(t, err, store.ErrConflict)
	require.NotErrorIs(t, err, store.ErrExists)

	// A read, and a step before its commit, is repeated.
	lossy = newStore(t, openPool(t, url, losing("SELECT revision, document FROM curfew_sessions WHERE id")))
	_, err = lossy.Get(ctx, a.ID)
	require.NoError(t, err)
	runs := 0
	lossy = newStore(t, openPool(t, url, losing("pg_advisory_xact_lock")))
	require.NoError(t, lossy.Admit(ctx, a.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		runs++
		return nil, nil
	}))
	require.Equal(t, 1, runs)

	// So is a batch that the connection broke before, while it was prepared.
	prepares := func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement }
	runs = 0
	lossy = newStore(t, openPool(t, url, losing("INSERT INTO curfew_sessions"), prepares))
	require.NoError(t, lossy.Admit(ctx, a.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
		runs++
		return []store.Session{session("c", "alice")}, nil
	}))
	require.Equal(t, 2, runs)
	_, err = s.Get(ctx, session("c", "alice").ID)
	require.NoError(t, err)
}

// Create waits for a step of another process that counts the same sessions, and
// who gave up waiting has created nothing.
func TestCreateWaitsForAnother(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	url := enginetest.PostgresURL(t)
	s, other := newStore(t, openPool(t, url)), newStore(t, openPool(t, url))
	entered, release := make(chan struct{}), make(chan struct{})
	admitted := make(chan error, 1)
	go func() {
		one := session("admitted", "alice")
		admitted <- other.Admit(ctx, one.Subject, func([]store.Session, store.Fence) ([]store.Session, error) {
			close(entered)
			<-release
			return []store.Session{one}, nil
		})
	}()
	<-entered
	admin := openPool(t, url)
	for i, end := range []func(giveUp context.CancelFunc){func(giveUp context.CancelFunc) { giveUp() }, func(context.CancelFunc) { close(release) }} {
		ctx, giveUp := context.WithCancel(ctx)
		created := make(chan error, 1)
		go func() { created <- s.Create(ctx, session(fmt.Sprint(i), "alice"), 1) }()
		require.Eventually(t, func() bool {
			var waiting bool
			err := admin.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
				WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted)`).Scan(&waiting)
			return assert.NoError(t, err) && waiting
		}, 30*time.Second, 5*time.Millisecond, "it does not wait")
		end(giveUp)
		err := <-created
		if i == 0 {
			require.ErrorIs(t, err, context.Canceled)
		} else {
			require.ErrorIs(t, err, store.ErrFull)
		}
		giveUp()
	}
	require.NoError(t, <-admitted)
	list, _, err := s.List(ctx, store.Filter{}, "", 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, session("admitted", "alice").ID, list[0].ID)
}
