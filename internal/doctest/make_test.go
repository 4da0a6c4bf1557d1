package doctest

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

var (
	makeTarget = regexp.MustCompile(`(?m)^([a-z]+):`)
	slowThings = regexp.MustCompile(`(?m)^(SLOW_[A-Z]+) := ((?:.*\\\n)*.*)$`)
	makeCall   = regexp.MustCompile("(?m)`make ([^`]+)`|^    make ([a-z]+)")
)

// targets are what the Makefile makes.
func targets(t *testing.T) []string {
	t.Helper()
	text := read(t, "Makefile")
	var names []string
	for _, m := range makeTarget.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	require.Contains(t, names, "test")
	return names
}

// requireTargets holds that what is said to make can be made: "test", "soak ARGS=x".
func requireTargets(t *testing.T, targets []string, where, call string) {
	t.Helper()
	for word := range strings.FieldsSeq(call) {
		require.True(t, strings.Contains(word, "=") || slices.Contains(targets, word), "%s: there is no make %s", where, word)
	}
}

// TestWorkflowRunsWhatThereIs holds the workflow of public CI to the Makefile, and to
// the versions that are promised.
func TestWorkflowRunsWhatThereIs(t *testing.T) {
	text := read(t, ".github/workflows/ci.yml")
	var workflow struct {
		Permissions map[string]string
		Jobs        map[string]struct {
			Strategy struct{ Matrix map[string][]string }
			Steps    []struct{ Run string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(text), &workflow))
	require.Equal(t, map[string]string{"contents": "read"}, workflow.Permissions)
	known, runs := targets(t), 0
	for name, job := range workflow.Jobs {
		for _, step := range job.Steps {
			if _, call, ok := strings.Cut(step.Run, "make "); ok && !strings.Contains(step.Run, "apt-get") {
				requireTargets(t, known, "job "+name, call)
				runs++
			}
		}
	}
	require.Equal(t, 5, runs)
	require.Equal(t, []string{"15", "16", "17", "18"}, workflow.Jobs["postgres"].Strategy.Matrix["postgres"])
	require.Equal(t, []string{"1.26", "stable"}, workflow.Jobs["test"].Strategy.Matrix["go"])
	require.Contains(t, read(t, "go.mod"), "\ngo 1.26", "the oldest Go of the workflow is that of go.mod")
}

func TestDocsMakeWhatThereIs(t *testing.T) {
	known, calls := targets(t), 0
	for file, text := range documents(t) {
		for _, m := range makeCall.FindAllStringSubmatch(text, -1) {
			requireTargets(t, known, file, m[1]+m[2])
			calls++
		}
	}
	require.Greater(t, calls, 5)
}

// TestQuickSaysWhatItLeavesOut holds the lists of make quick to packages and tests that
// there are: a name that changed would be left out of nothing.
func TestQuickSaysWhatItLeavesOut(t *testing.T) {
	text := read(t, "Makefile")
	lists := map[string][]string{}
	for _, m := range slowThings.FindAllStringSubmatch(text, -1) {
		lists[m[1]] = strings.Fields(strings.ReplaceAll(m[2], "\\\n", " "))
	}
	require.NotEmpty(t, lists["SLOW_PACKAGES"])
	for _, dir := range lists["SLOW_PACKAGES"] {
		tests, err := fs.Glob(repository, dir+"/*_test.go")
		require.NoError(t, err)
		require.NotEmpty(t, tests, dir)
	}
	require.NotEmpty(t, lists["SLOW_TESTS"])
	var tests []string
	for file, f := range sources(t) {
		if strings.HasSuffix(file, "_test.go") {
			tests = append(tests, declared(f)...)
		}
	}
	for _, name := range lists["SLOW_TESTS"] {
		require.Contains(t, tests, name)
	}
}
