package deptest

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// release is the version that the modules of the repository require of each other: the
// next one, of which they all are (RELEASE.md).
const release = "v0.1.0"

// Each module builds by itself, with those beside it; a user of several has all at one
// version.
func TestModulesAreReleasedTogether(t *testing.T) {
	t.Parallel()
	required := 0
	for _, folder := range folders(t) {
		cmd := exec.Command("go", "mod", "edit", "-json")
		cmd.Dir = folder
		out, err := cmd.Output()
		require.NoError(t, err)
		var mod struct {
			Require []struct{ Path, Version string }
			Replace []struct{ Old, New struct{ Path string } }
		}
		require.NoError(t, json.Unmarshal(out, &mod))
		replaced := map[string]string{}
		for _, r := range mod.Replace {
			replaced[r.Old.Path] = r.New.Path
		}
		for _, r := range mod.Require {
			if !below(r.Path, module) {
				continue
			}
			required++
			require.Equal(t, release, r.Version, "%s requires %s", folder, r.Path)
			require.Contains(t, replaced, r.Path, folder)
			there, err := filepath.Rel(filepath.Join("..", ".."), filepath.Join(folder, replaced[r.Path]))
			require.NoError(t, err)
			require.Equal(t, filepath.Join(module, there), r.Path, folder)
		}
	}
	require.Greater(t, required, 10)
}
