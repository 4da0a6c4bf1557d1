package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var shellOrJSON = regexp.MustCompile("(?ms)^```(sh|json)\n(.*?)^```$")

// TestCommandsOfTheDocs pastes the commands of docs/administration.md into a
// shell, one after the other, against a provider as it is started there. What the
// page shows is in what the last of them printed.
func TestCommandsOfTheDocs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "administration.md"))
	require.NoError(t, err)
	p := startProcessWith(t, []string{"XDG_STATE_HOME=" + t.TempDir()}, "-listen", "127.0.0.1:0")
	sh := startShell(t)
	said, commands := "", 0
	for _, block := range shellOrJSON.FindAllStringSubmatch(string(text), -1) {
		if block[1] == "sh" {
			commands += strings.Count(block[2], "\n")
			said = strings.TrimSpace(sh.run(strings.ReplaceAll(block[2], "http://127.0.0.1:9998", p.issuer)))
			continue
		}
		lines := strings.Split(said, "\n")
		var shown, printed any
		require.NoError(t, json.Unmarshal([]byte(block[2]), &shown), block[2])
		require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &printed), said)
		contains(t, printed, shown, said)
	}
	require.Greater(t, commands, 15)
}

// contains requires that what is shown is in what was printed: members that are
// shown, and the first entries of lists.
func contains(t *testing.T, printed, shown any, said string) {
	t.Helper()
	switch shown := shown.(type) {
	case map[string]any:
		members, ok := printed.(map[string]any)
		require.True(t, ok, said)
		for name, value := range shown {
			require.Contains(t, members, name, said)
			contains(t, members[name], value, said)
		}
	case []any:
		list, ok := printed.([]any)
		require.True(t, ok, said)
		require.GreaterOrEqual(t, len(list), len(shown), said)
		if len(shown) == 0 {
			require.Empty(t, list, said)
		}
		for i := range shown {
			contains(t, list[i], shown[i], said)
		}
	default:
		require.Equal(t, shown, printed, said)
	}
}
