package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

func TestReport(t *testing.T) {
	r := newReport(2, noon)
	r.took = 90 * time.Second
	for range 2 {
		r.add("SQLite", policy.Refuse, "alone", outcome{logins: 256, admitted: 3, refused: 253, refreshes: 3})
		history := newReplay(limit)
		require.NoError(t, history.run([]commit{{added(1)}, {ended(1, policy.ReasonLogout)}}))
		r.follow("SQLite", history, &fleet{})
	}
	text := r.String()
	require.Contains(t, text, "By `make soak` on 2026-03-01: 2 rounds, 4 processes,")
	require.Contains(t, text, "| SQLite | `refuse` | alone | 512 | 6 | 506 | 0 | 6 | 0 |\n")
	require.Contains(t, text, "| SQLite | 4 | 1 | 2 | 0 | `logout` 2 | 0 | 0 | 0 |\n")

	dir := t.TempDir()
	file, err := put(dir, "page.md", "before\n")
	require.NoError(t, err)
	for _, text := range []string{"one\n", "two\n"} {
		require.NoError(t, replaceBlock(file, text))
		body, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, "before\n\n"+blockBegin+text+blockEnd, string(body))
	}
}
