package seal

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func newTestSealer(t testing.TB, app string, keys ...[]byte) *Sealer {
	t.Helper()
	s, err := New(app, keys)
	require.NoError(t, err)
	return s
}

func TestSeal(t *testing.T) {
	t.Parallel()
	s := newTestSealer(t, "app", testKey(1))
	text, err := s.Seal("x", []byte("secret"))
	require.NoError(t, err)
	require.NotContains(t, text, "secret")
	plain, err := s.Open("x", text)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plain))
	again, err := s.Seal("x", []byte("secret"))
	require.NoError(t, err)
	require.NotEqual(t, text, again)

	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range text {
		for _, c := range alphabet {
			if byte(c) == text[i] {
				continue
			}
			_, err := s.Open("x", text[:i]+string(c)+text[i+1:])
			require.ErrorIs(t, err, ErrNotOurs, "character %d as %c", i, c)
		}
	}
	for i := range text {
		_, err := s.Open("x", text[:i])
		require.ErrorIs(t, err, ErrNotOurs)
	}
	for name, other := range map[string]*Sealer{
		"application": newTestSealer(t, "other", testKey(1)), "key": newTestSealer(t, "app", testKey(2)),
	} {
		_, err := other.Open("x", text)
		require.ErrorIs(t, err, ErrNotOurs, name)
	}
	_, err = s.Open("y", text)
	require.ErrorIs(t, err, ErrNotOurs, "about something else")
}

// A key is replaced without signing anybody out.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	before, during, after := newTestSealer(t, "a", testKey(1)), newTestSealer(t, "a", testKey(2), testKey(1)), newTestSealer(t, "a", testKey(2))
	old, err := before.Seal("x", []byte("1"))
	require.NoError(t, err)
	_, err = during.Open("x", old)
	require.NoError(t, err)
	fresh, err := during.Seal("x", []byte("2"))
	require.NoError(t, err)
	_, err = after.Open("x", fresh)
	require.NoError(t, err)
	_, err = after.Open("x", old)
	require.ErrorIs(t, err, ErrNotOurs)
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][][]byte{
		"no key": nil, "empty": {{}}, "short": {testKey(1)[:31]}, "one short": {testKey(1), testKey(2)[:16]}, "twice": {testKey(1), testKey(1)},
	} {
		_, err := New("a", keys)
		require.Error(t, err, name)
		require.False(t, strings.Contains(err.Error(), "\x01"), name)
	}
}

func FuzzOpen(f *testing.F) {
	s := newTestSealer(f, "app", testKey(1))
	text, err := s.Seal("x", []byte("secret"))
	require.NoError(f, err)
	f.Add(text)
	f.Add("")
	f.Fuzz(func(t *testing.T, other string) {
		if _, err := s.Open("x", other); err == nil {
			require.Equal(t, text, other)
		}
	})
}

// A sealed text is as long as it is said to be.
func TestSize(t *testing.T) {
	t.Parallel()
	s, err := New("app", [][]byte{bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	for n := range 50 {
		text, err := s.Seal("x", make([]byte, n))
		require.NoError(t, err)
		require.Equal(t, Size(n), len(text))
	}
}
