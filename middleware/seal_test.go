package middleware

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func newTestSealer(t testing.TB, app string, keys ...[]byte) *sealer {
	t.Helper()
	s, err := newSealer(app, keys)
	require.NoError(t, err)
	return s
}

func TestSeal(t *testing.T) {
	t.Parallel()
	s := newTestSealer(t, "app", key(1))
	text, err := s.seal("x", []byte("secret"))
	require.NoError(t, err)
	require.NotContains(t, text, "secret")
	plain, err := s.open("x", text)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plain))
	again, err := s.seal("x", []byte("secret"))
	require.NoError(t, err)
	require.NotEqual(t, text, again)

	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range text {
		for _, c := range alphabet {
			if byte(c) == text[i] {
				continue
			}
			_, err := s.open("x", text[:i]+string(c)+text[i+1:])
			require.ErrorIs(t, err, errSealed, "character %d as %c", i, c)
		}
	}
	for i := range text {
		_, err := s.open("x", text[:i])
		require.ErrorIs(t, err, errSealed)
	}
	for name, other := range map[string]*sealer{
		"application": newTestSealer(t, "other", key(1)), "key": newTestSealer(t, "app", key(2)),
	} {
		_, err := other.open("x", text)
		require.ErrorIs(t, err, errSealed, name)
	}
	_, err = s.open("y", text)
	require.ErrorIs(t, err, errSealed, "about something else")
}

// A key is replaced without signing anybody out.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	before, during, after := newTestSealer(t, "a", key(1)), newTestSealer(t, "a", key(2), key(1)), newTestSealer(t, "a", key(2))
	old, err := before.seal("x", []byte("1"))
	require.NoError(t, err)
	_, err = during.open("x", old)
	require.NoError(t, err)
	fresh, err := during.seal("x", []byte("2"))
	require.NoError(t, err)
	_, err = after.open("x", fresh)
	require.NoError(t, err)
	_, err = after.open("x", old)
	require.ErrorIs(t, err, errSealed)
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][][]byte{
		"none": nil, "empty": {{}}, "short": {key(1)[:31]}, "one short": {key(1), key(2)[:16]}, "twice": {key(1), key(1)},
	} {
		_, err := newSealer("a", keys)
		require.Error(t, err, name)
		require.False(t, strings.Contains(err.Error(), "\x01"), name)
	}
}

func FuzzOpen(f *testing.F) {
	s := newTestSealer(f, "app", key(1))
	text, err := s.seal("x", []byte("secret"))
	require.NoError(f, err)
	f.Add(text)
	f.Add("")
	f.Fuzz(func(t *testing.T, other string) {
		if _, err := s.open("x", other); err == nil {
			require.Equal(t, text, other)
		}
	})
}
