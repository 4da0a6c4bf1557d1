package vectors

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNoVectorsIsAFailure(t *testing.T) {
	_, err := read(t.TempDir())
	require.ErrorContains(t, err, "none in")
}

func TestAVectorThatCannotBeReadIsAFailure(t *testing.T) {
	for name, doc := range map[string]string{
		"unknown field":    "about: x\nlimit: {}\n",
		"invalid settings": "about: x\nsettings: {accounts: {a: {active: 3}}}\n",
		"no limits":        "about: x\nsettings: {accounts: {}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(doc), 0o600))
			_, err := read(dir)
			require.ErrorContains(t, err, "x.yaml")
		})
	}
}

func TestLoadFindsTheVectors(t *testing.T) {
	for _, v := range Load(t) {
		require.NotEmpty(t, v.About, v.Name)
	}
}
