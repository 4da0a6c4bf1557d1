package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider"
)

// A keysFile is the file of -keys.
type keysFile struct {
	Signing []json.RawMessage `json:"signing_keys"`
	Crypto  string            `json:"crypto_key"`
	Sealing []string          `json:"sealing_keys"`
}

func (f keysFile) put(t *testing.T, dir, name string) string {
	t.Helper()
	body, err := json.Marshal(f)
	require.NoError(t, err)
	path, err := put(dir, name, string(body))
	require.NoError(t, err)
	return path
}

// Keys are rotated as docs/embedding.md says, one process after the other while
// clients work, and no client loses its login. Keys are no store's business, so
// one engine will do.
func TestKeyRotationUnderLoad(t *testing.T) {
	onEngine(t, "Redis", func(t *testing.T, e engine, dir string) {
		w := startWorld(t, e, dir, keptUsers+visitedUsers)
		body, err := os.ReadFile(filepath.Join(dir, "keys.json"))
		require.NoError(t, err)
		var old keysFile
		require.NoError(t, json.Unmarshal(body, &old))
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		signing, err := json.Marshal(jose.JSONWebKey{Key: private, KeyID: "next", Algorithm: "ES256", Use: "sig"})
		require.NoError(t, err)
		sealing, err := provider.NewKey(time.Now()).MarshalText()
		require.NoError(t, err)
		behind, front, only := old, old, old
		behind.Signing, behind.Sealing = append(slices.Clone(old.Signing), signing), append(slices.Clone(old.Sealing), string(sealing))
		front.Signing, front.Sealing = append([]json.RawMessage{signing}, old.Signing...), append([]string{string(sealing)}, old.Sealing...)
		only.Signing, only.Sealing = []json.RawMessage{signing}, []string{string(sealing)}

		l := w.work(t, false)
		roll := func(path string) {
			t.Helper()
			for _, p := range w.fleet.processes {
				require.NoError(t, p.stop())
				p.args = append(slices.Clone(p.args), "-keys", path)
				require.NoError(t, p.start())
				l.advance(t, 10)
			}
		}
		roll(behind.put(t, dir, "behind.json"))
		roll(front.put(t, dir, "front.json"))

		// Too early, examples/op does not do without the old keys.
		dropped := only.put(t, dir, "only.json")
		early := &process{program: w.fleet.processes[0].program, args: append(slices.Clone(w.args), "-keys", dropped)}
		require.ErrorContains(t, early.start(), "the store has data that needs missing keys")

		forgetKeys(t, e)
		roll(dropped)
		l.finish(t)
	})
}

// forgetKeys makes examples/op believe that the keys which are not at the front
// made their last token as long ago as any session may last.
func forgetKeys(t *testing.T, e engine) {
	t.Helper()
	ctx := t.Context()
	s, end, err := e.open(ctx)
	require.NoError(t, err)
	doc, err := s.Document(ctx, "examples/op/keys")
	require.NoError(t, err)
	var ring map[string]any
	require.NoError(t, json.Unmarshal(doc.Body, &ring))
	for _, kind := range []string{"signing", "sealing"} {
		uses := ring[kind].([]any)
		require.Len(t, uses, 2)
		use := uses[1].(map[string]any)
		require.Contains(t, use, "since")
		use["since"] = time.Now().Add(-721 * time.Hour).UTC().Format(time.RFC3339)
	}
	doc.Body, err = json.Marshal(ring)
	require.NoError(t, err)
	_, err = s.PutDocument(ctx, doc)
	require.NoError(t, err)
	require.NoError(t, end())
}
