package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// built is the folder of what program built.
var built string

// program is examples/op of this module, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "curfew-soak-")
	if err != nil {
		return "", err
	}
	built = dir
	ctx := context.Background()
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return build(ctx, root, dir)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if err := os.RemoveAll(built); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// eachEngine runs a test on each engine, empty.
func eachEngine(t *testing.T, test func(t *testing.T, e engine, dir string)) {
	for _, name := range engineNames {
		t.Run(name, func(t *testing.T) { onEngine(t, name, test) })
	}
}

// onEngine runs a test on one engine, empty.
func onEngine(t *testing.T, name string, test func(t *testing.T, e engine, dir string)) {
	dir := t.TempDir()
	e, err := newEngine(t.Context(), name, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.close()) })
	test(t, e, dir)
}

// startWorld starts a world with one program everywhere.
func startWorld(t *testing.T, e engine, dir string, more int) *world {
	t.Helper()
	path, err := program()
	require.NoError(t, err)
	w, err := newWorld(t.Context(), e, dir, same(path), more)
	require.NoError(t, err)
	endWith(t, w)
	return w
}

// endWith ends the processes of a world with the test.
func endWith(t *testing.T, w *world) {
	t.Helper()
	t.Cleanup(func() {
		if err := w.fleet.close(); err != nil || t.Failed() {
			t.Log(w.fleet.logs())
			require.NoError(t, err)
		}
	})
}

// However many logins of one user race, on however many processes, there are
// never more than the cap, in the order in which the database committed them.
func TestRace(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine, dir string) {
		w := startWorld(t, e, dir, 0)
		for _, mode := range modes {
			o, err := w.plain(t.Context(), mode, allLogins)
			require.NoError(t, err, mode)
			t.Logf("%s: %+v", mode, o)
			if mode == policy.Refuse || mode == policy.Ask {
				require.Equal(t, limit, o.admitted, mode)
			} else {
				require.Equal(t, allLogins, o.admitted, mode)
			}
			if mode == policy.Ask {
				require.Equal(t, o.refused, o.asked)
			} else {
				require.Zero(t, o.asked, mode)
			}
		}
		o, err := w.answered(t.Context(), answers)
		require.NoError(t, err)
		t.Logf("ask, answered: %+v", o)
		for _, mode := range modes {
			o, err := w.mixed(t.Context(), mode, mixedLogins)
			require.NoError(t, err, mode)
			t.Logf("%s, mixed: %+v", mode, o)
			require.Equal(t, mixedLogins, o.admitted-admittedLast[mode], "there was room for all of them")
			require.Positive(t, o.refreshes)
			require.Positive(t, o.ends)
		}
		r, err := w.swept(t.Context())
		require.NoError(t, err)
		t.Logf("%d commits, %d sessions, %d refreshes, ends %v, %d of them by sweeps", r.commits, r.admitted, r.rotated, r.ends, r.swept)
		require.Equal(t, limit, r.peak)
		require.GreaterOrEqual(t, r.swept, len(modes))
		require.LessOrEqual(t, int64(r.ends[policy.ReasonReplay]), w.taken.Load())
		require.Positive(t, r.ends[policy.ReasonConcurrency])
		require.Positive(t, r.ends[policy.ReasonLogout])
		require.Positive(t, r.ends[policy.ReasonRevoked])
	})
}

// admittedLast is how many get in of those who come last in a mixed race.
var admittedLast = map[policy.AtLimit]int{policy.Refuse: limit, policy.Ask: limit, policy.EndOldest: 2 * limit, policy.EndIdlest: 2 * limit}

// answers are the logins of a race of users who answer.
const answers = 32

// mixedLogins are fewer than allLogins, which make soak uses here too: each of
// them does more.
const mixedLogins = 48

// The history shows a process that does not keep the cap.
func TestRaceCatchesAProcessWithoutTheCap(t *testing.T) {
	dir := t.TempDir()
	w := startWorld(t, newSQLite(dir), dir, 0)
	odd := w.fleet.processes[2]
	require.NoError(t, odd.stop())
	loose, err := put(dir, "loose.yaml", "accounts: {default: {active: 24h}}\n")
	require.NoError(t, err)
	odd.args = append(odd.args, "-settings", loose)
	require.NoError(t, odd.start())

	_, err = w.plain(t.Context(), policy.Refuse, 32)
	var broken *capError
	require.ErrorAs(t, err, &broken)
	require.Equal(t, limit+1, broken.have)
}
