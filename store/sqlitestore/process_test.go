package sqlitestore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// The tests of this file start the test binary again, as another process that
// does one of these things and nothing else.
const childVariable = "CURFEW_TEST_CHILD"

var children = map[string]func(ctx context.Context, s *sqlitestore.Store, arg string) error{
	"race":  childRace,
	"count": childCount,
	"write": childWrite,
}

func TestMain(m *testing.M) {
	what := os.Getenv(childVariable)
	if what == "" {
		os.Exit(m.Run())
	}
	if err := child(what, os.Getenv("CURFEW_TEST_DB"), os.Getenv("CURFEW_TEST_ARG")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(what, path, arg string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	db, err := sql.Open("sqlite3", "file:"+path+"?"+params)
	if err != nil {
		return err
	}
	s, err := sqlitestore.New(ctx, db)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	return errors.Join(children[what](ctx, s, arg), db.Close())
}

// A process is a child. When it is ready it waits for a line.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T, what, path, arg string) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVariable+"="+what, "CURFEW_TEST_DB="+path, "CURFEW_TEST_ARG="+arg)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &process{cmd, in, bufio.NewReader(out)}
}

// ready waits until it has opened the store.
func (p *process) ready(t *testing.T) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
}

func (p *process) release(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(p.in, "go\n")
	require.NoError(t, err)
}

var errRefused = errors.New("refused")

const raceCap, raceEach = 3, 60

// childRace admits logins of one subject, several at once, and says how many
// were admitted and how many refused.
func childRace(ctx context.Context, s *sqlitestore.Store, arg string) error {
	how, name, _ := strings.Cut(arg, " ")
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
						if how == "refuse" {
							return nil, errRefused
						}
						gone := held[rand.N(len(held))]
						gone.End = &store.End{At: gone.Started, Reason: policy.ReasonConcurrency, By: one.ID}
						out = append(out, gone)
					}
					return out, nil
				})
			}
		}()
	}
	admitted := 0
	for range raceEach {
		switch err := <-results; {
		case err == nil:
			admitted++
		case err != errRefused:
			return err
		}
	}
	fmt.Println(admitted)
	return nil
}

// Processes that share the file stay exact.
func TestProcessesShareTheCap(t *testing.T) {
	for _, how := range []string{"refuse", "evict"} {
		t.Run(how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			const processes = 3
			var running []*process
			for i := range processes {
				running = append(running, startChild(t, "race", path, fmt.Sprintf("%s p%d", how, i)))
			}
			// They have created the tables at the same time.
			for _, p := range running {
				p.ready(t)
			}
			for _, p := range running {
				p.release(t)
			}
			admitted := 0
			for _, p := range running {
				line, err := p.out.ReadString('\n')
				require.NoError(t, err)
				n, err := strconv.Atoi(strings.TrimSpace(line))
				require.NoError(t, err)
				admitted += n
				require.NoError(t, p.cmd.Wait())
			}
			s := newStore(t, openDB(t, path, params))
			all, next, err := s.List(t.Context(), store.Filter{}, "", 10000)
			require.NoError(t, err)
			require.Empty(t, next)
			require.Len(t, all, admitted, "every login that was acknowledged is there, and no other")
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
			if how == "refuse" {
				require.Equal(t, raceCap, admitted)
			} else {
				require.Equal(t, processes*raceEach, admitted)
			}
		})
	}
}

const countEach = 40

// childCount adds to the same counters as others do, from several goroutines.
func childCount(ctx context.Context, s *sqlitestore.Store, _ string) error {
	const workers = 4
	results := make(chan error, workers)
	for w := range workers {
		go func() {
			var errs []error
			for i := w; i < countEach; i += workers {
				errs = append(errs, s.AddCounts(ctx, []store.Count{
					{Account: "a", Hour: time.Unix(0, 0), Name: "n", N: 1}, {Account: "a", Hour: time.Unix(3600*int64(i%3), 0), Name: "m", N: 2},
				}))
			}
			results <- errors.Join(errs...)
		}()
	}
	var errs []error
	for range workers {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// What processes add at the same time is all there.
func TestProcessesShareCounters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	var running []*process
	for range 3 {
		running = append(running, startChild(t, "count", path, ""))
	}
	for _, p := range running {
		p.ready(t)
	}
	for _, p := range running {
		p.release(t)
	}
	for _, p := range running {
		require.NoError(t, p.cmd.Wait())
	}
	counts, err := newStore(t, openDB(t, path, params)).ReadCounts(t.Context(), "a", time.Unix(0, 0), time.Unix(3*3600, 0))
	require.NoError(t, err)
	sums := map[string]int64{}
	for _, c := range counts {
		sums[c.Name] += c.N
	}
	require.Equal(t, map[string]int64{"n": 3 * countEach, "m": 3 * 2 * countEach}, sums)
}

// childWrite logs in, refreshes, ends and changes settings without end, and says
// each time what was acknowledged.
func childWrite(ctx context.Context, s *sqlitestore.Store, arg string) error {
	settings := int64(0)
	if d, err := s.Document(ctx, "settings"); err == nil {
		settings = d.Version
	}
	for i := 0; ; i++ {
		one := session(fmt.Sprintf("%s-%d", arg, i), fmt.Sprintf("user-%d", i%7))
		if err := s.Create(ctx, one, 1<<30); err != nil {
			return err
		}
		fmt.Println("created", one.ID)
		one.Revision = 1
		one.LastActivity = one.LastActivity.Add(time.Minute)
		var err error
		if one.Revision, err = s.Update(ctx, one); err != nil {
			return err
		}
		fmt.Println("refreshed", one.ID)
		if i%3 == 0 {
			one.End = &store.End{At: one.LastActivity, Reason: policy.ReasonLogout}
			if _, err := s.Update(ctx, one); err != nil {
				return err
			}
			fmt.Println("ended", one.ID)
		}
		if i%5 == 0 {
			if settings, err = s.PutDocument(ctx, store.Document{Key: "settings", Version: settings, Body: []byte(one.ID), At: one.Started}); err != nil {
				return err
			}
			fmt.Println("set", settings)
		}
	}
}

// What was acknowledged survives that the process is killed at any moment.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	acknowledged := map[string]string{} // ID to the last that was said of it
	settings := 0
	for round := range 8 {
		p := startChild(t, "write", path, fmt.Sprint(round))
		p.ready(t)
		p.release(t)
		kill := rand.N(120)
		for n := 0; ; n++ {
			if n == kill {
				// It goes on while the signal travels: the lines up to
				// its death count as well.
				require.NoError(t, p.cmd.Process.Kill())
			}
			line, err := p.out.ReadString('\n')
			if err != nil {
				break // a line that was cut off was not said
			}
			what, id, ok := strings.Cut(strings.TrimSpace(line), " ")
			require.True(t, ok, "%q", line)
			if what == "set" {
				settings, err = strconv.Atoi(id)
				require.NoError(t, err)
			} else {
				acknowledged[id] = what
			}
		}
		require.Error(t, p.cmd.Wait())

		func() {
			db, err := sql.Open("sqlite3", "file:"+path+"?"+params)
			require.NoError(t, err)
			defer db.Close()
			requireSound(t, db)
			s := newStore(t, db)
			for id, what := range acknowledged {
				one, err := s.Get(t.Context(), id)
				require.NoError(t, err, "%s was %s", id, what)
				switch what {
				case "refreshed":
					require.GreaterOrEqual(t, one.Revision, int64(2), id)
				case "ended":
					require.NotNil(t, one.End, id)
				}
			}
			if settings > 0 {
				d, err := s.Document(t.Context(), "settings")
				require.NoError(t, err)
				require.GreaterOrEqual(t, d.Version, int64(settings))
			}
		}()
	}
	require.NotEmpty(t, acknowledged)
	require.Positive(t, settings)
}

// requireSound requires that the database is not damaged, and that what sessions
// are found by is what is in them.
func requireSound(t *testing.T, db *sql.DB) {
	t.Helper()
	var result string
	require.NoError(t, db.QueryRow(`PRAGMA integrity_check`).Scan(&result))
	require.Equal(t, "ok", result)
	require.Zero(t, misfits(t, db), "rows do not fit together")
}

// misfits counts the rows that do not fit together.
func misfits(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(`
		WITH s AS (SELECT *, CAST(document AS TEXT) AS text FROM curfew_sessions)
		SELECT (SELECT count(*) FROM curfew_terms t WHERE NOT EXISTS (
				SELECT 1 FROM s, json_each(s.terms) j WHERE s.id = t.id AND s.ended = t.ended AND j.value = t.term))
			+ (SELECT count(*) FROM s, json_each(s.terms) j WHERE NOT EXISTS (
				SELECT 1 FROM curfew_terms t WHERE s.id = t.id AND s.ended = t.ended AND j.value = t.term))
			+ (SELECT count(*) FROM s WHERE id IS NOT text ->> 'sid' OR issuer IS NOT text ->> '$.subject.iss'
				OR subject IS NOT text ->> '$.subject.sub' OR ended IS NOT (text -> 'end' IS NOT NULL))`).Scan(&n))
	return n
}

func TestMisfitsAreNoticed(t *testing.T) {
	for _, damage := range []string{
		`DELETE FROM curfew_terms WHERE term = 'kind:browser'`,
		`UPDATE curfew_terms SET ended = 1`,
		`INSERT INTO curfew_terms SELECT 'account:other', 0, id FROM curfew_sessions`,
		`UPDATE curfew_sessions SET ended = 1`,
		`UPDATE curfew_sessions SET subject = 'bob'`,
		`UPDATE curfew_sessions SET id = 'b'`,
	} {
		db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
		require.NoError(t, newStore(t, db).Create(t.Context(), session("a", "alice"), 1))
		requireSound(t, db)
		_, err := db.Exec(damage)
		require.NoError(t, err)
		require.Positive(t, misfits(t, db), damage)
	}
}
