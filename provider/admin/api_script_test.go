package admin_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestScripts runs the HTTP scripts of testdata/admin. Each step says who asks, the
// request, and what the answer has: its status, and members of its body. "keep"
// gives a member of the last answer a name, which {name} stands for from then on.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../testdata/admin/*.txt")
	require.NoError(t, err)
	require.Greater(t, len(files), 3)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, file)
		})
	}
}

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	w := newWorld(t)
	tokens := map[string]string{"nobody": ""}
	names := []string{}
	var who, method, path, body string
	var headers []string
	var last map[string]any
	steps := 0
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for n := 1; lines.Scan(); n++ {
		line := strings.NewReplacer(names...).Replace(lines.Text())
		at := fmt.Sprintf("%s:%d", filepath.Base(file), n)
		first, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case first == "as":
			if _, known := tokens[rest]; !known {
				tokens[rest] = w.SignIn(rest)
			}
			who, body, headers = rest, "", nil
		case strings.HasPrefix(rest, "/v1/"):
			method, path = first, rest
		case strings.HasPrefix(line, "{"):
			body = line
		case strings.HasSuffix(first, ":"):
			headers = append(headers, strings.TrimSuffix(first, ":"), rest)
		case first == "->":
			status, want, _ := strings.Cut(rest, " ")
			var sent any
			if body != "" {
				sent = body
			}
			got := w.Send(method, path, tokens[who], sent, headers...)
			require.Equal(t, status, fmt.Sprint(got.Status), "%s: %s", at, got.Body)
			var shown any
			require.NoError(t, json.Unmarshal([]byte(want), &shown), at)
			last = nil
			require.NoError(t, json.Unmarshal(got.Body, &last), at)
			has(t, last, shown, at+": "+string(got.Body))
			steps++
		case first == "keep":
			name, member, _ := strings.Cut(rest, " ")
			value, ok := last[member].(string)
			require.True(t, ok, at)
			names = append(names, "{"+name+"}", value)
		default:
			require.Fail(t, "not a line of a script", "%s: %s", at, line)
		}
	}
	require.Greater(t, steps, 3)
}

// has requires that what is shown is in what was answered: the members, and lists
// of the same length.
func has(t *testing.T, got, shown any, what string) {
	t.Helper()
	switch shown := shown.(type) {
	case map[string]any:
		members, ok := got.(map[string]any)
		require.True(t, ok, what)
		if len(shown) == 0 {
			require.Empty(t, members, what)
		}
		for name, value := range shown {
			require.Contains(t, members, name, what)
			has(t, members[name], value, what)
		}
	case []any:
		list, ok := got.([]any)
		require.True(t, ok, what)
		require.Len(t, list, len(shown), what)
		for i := range shown {
			has(t, list[i], shown[i], what)
		}
	default:
		require.Equal(t, shown, got, what)
	}
}
