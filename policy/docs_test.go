package policy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/vectors"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/policy/policyyaml"
)

// TestDocumentationShowsVectors holds that the settings in docs/policy.md can be
// read, are valid, and are those of the vectors that they name.
func TestDocumentationShowsVectors(t *testing.T) {
	byName := map[string]policy.Settings{}
	for _, v := range vectors.Load(t) {
		byName[v.Name] = v.Settings
	}
	data, err := os.ReadFile(filepath.Join("..", "docs", "policy.md"))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(data), -1)
	named := 0
	for _, block := range blocks {
		s, err := policyyaml.ParseSettings([]byte(block[1]))
		require.NoError(t, err, block[1])
		require.NoError(t, s.Validate(policy.DefaultRange), block[1])
		first, _, _ := strings.Cut(block[1], "\n")
		name, ok := strings.CutPrefix(first, "# testdata/policy/")
		if !ok {
			continue
		}
		named++
		want, ok := byName[strings.TrimSuffix(name, ".yaml")]
		require.True(t, ok, first)
		require.Equal(t, want, s, first)
	}
	require.Greater(t, named, 5)
}
