package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// firstRelease is the last commit of the first issue.
const firstRelease = "be117ce5492724dea9c84cdb3cbff5ef10d2d3a4"

// buildFirstRelease builds examples/op as it was, from this repository's history.
func buildFirstRelease(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	root, err := moduleRoot(ctx)
	require.NoError(t, err)
	out, err := exec.CommandContext(ctx, "git", "-C", root, "cat-file", "-e", firstRelease+"^{commit}").CombinedOutput()
	require.NoError(t, err, "the commit %s is not in this clone: fetch the whole history (git fetch --unshallow)\n%s", firstRelease, out)
	dir := t.TempDir()
	archive, source := filepath.Join(dir, "source.tar"), filepath.Join(dir, "source")
	require.NoError(t, os.Mkdir(source, 0o700))
	for _, args := range [][]string{
		{"git", "-C", root, "archive", "--output", archive, firstRelease},
		{"tar", "-x", "-f", archive, "-C", source},
	} {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	path, err := build(ctx, source, dir)
	require.NoError(t, err)
	return path
}

// The program of the first release and this one share a database, as in a
// rolling upgrade and its way back: each step of a login and of its life is made
// by the other one. A login that the first release began must begin again at this
// one, which asks for a cookie that says in which browser it began.
func TestFirstReleaseBesideThisOne(t *testing.T) {
	current, err := program()
	require.NoError(t, err)
	first := buildFirstRelease(t)
	dir := t.TempDir()
	e := newSQLite(dir)
	w, err := newWorld(t.Context(), e, dir, []string{first, current, first, current}, keptUsers+visitedUsers)
	require.NoError(t, err)
	endWith(t, w)

	// A member that a later version writes is kept by both, on every level.
	ctx := t.Context()
	k, err := w.enter(ctx, 0, web, "plain-refuse", &tally{})
	require.NoError(t, err)
	r, err := w.replay(ctx)
	require.NoError(t, err)
	require.Len(t, r.sessions, 1)
	s, end, err := e.open(ctx)
	require.NoError(t, err)
	for id := range r.sessions {
		later, err := s.Get(ctx, id)
		require.NoError(t, err)
		later.Unknown = map[string]json.RawMessage{"later": json.RawMessage(`{"a":[1,null]}`)}
		later.Grants[0].Unknown = map[string]json.RawMessage{"later": json.RawMessage(`true`)}
		_, err = s.Update(ctx, later)
		require.NoError(t, err)
		for range places {
			require.NoError(t, k.refresh(ctx))
		}
		require.NoError(t, k.signOut(ctx))
		kept, err := s.Get(ctx, id)
		require.NoError(t, err)
		require.NotNil(t, kept.End)
		require.JSONEq(t, `{"a":[1,null]}`, string(kept.Unknown["later"]))
		require.JSONEq(t, `true`, string(kept.Grants[0].Unknown["later"]))
	}
	require.NoError(t, end())

	// One cap, whoever admits.
	for _, mode := range modes {
		_, err := w.plain(ctx, mode, 64)
		require.NoError(t, err, mode)
	}

	// Nothing is lost, while they are upgraded, and taken back, one by one.
	l := w.work(t, false)
	for _, p := range w.fleet.processes {
		l.advance(t, 20)
		require.NoError(t, p.stop())
		p.program = map[string]string{first: current, current: first}[p.program]
		require.NoError(t, p.start())
	}
	l.advance(t, 20)
	l.finish(t)
}
