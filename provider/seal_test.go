package provider

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
)

func testRing(t testing.TB, keys ...Key) *keyring {
	t.Helper()
	r, err := newKeyring(keys, time.Hour)
	require.NoError(t, err)
	return r
}

var someRefreshToken = refreshToken{
	Token: "storage-token", SID: "ab.sid", Grant: "grant", Client: "web", Subject: store.Subject{Issuer: "https://op", ID: "alice:1"},
	Scopes: []string{"openid", "offline_access"}, Authenticated: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Generation: 7,
	Nonce: [16]byte{1, 2, 3},
}

func TestSealedRecordsComeBackAsTheyWere(t *testing.T) {
	now := time.Now()
	r := testRing(t, NewKey(now))
	for _, want := range []refreshToken{{}, someRefreshToken, {Scopes: []string{""}, Generation: 1 << 63, Token: strings.Repeat("x", 10_000)}} {
		text := r.sealRefresh(want)
		got, err := r.openRefresh(text, now)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, 1, strings.Count(text, "."), "not a JWE, not a JWT")
		require.NotContains(t, text, ":")
		require.NotEqual(t, text, r.sealRefresh(want), "each has a nonce of its own")
	}
	access := accessToken{ID: "id", SID: "ab.sid", Grant: "g", Generation: 2, Expires: now.UTC().Truncate(time.Microsecond)}
	got, err := r.openAccess(r.sealAccess(access), now)
	require.NoError(t, err)
	require.Equal(t, access, got)

	a := answer{Refresh: "r", Token: "t", Access: "a", Expires: access.Expires, Scopes: []string{"openid"}}
	box := sealRepeat(someRefreshToken.Nonce, a)
	back, err := openRepeat(someRefreshToken.Nonce, box)
	require.NoError(t, err)
	require.Equal(t, a, back)
	_, err = openRepeat([16]byte{9}, box)
	require.ErrorIs(t, err, errBroken)
	_, err = openRepeat(someRefreshToken.Nonce, nil)
	require.ErrorIs(t, err, errBroken)
}

func TestNoBitOfASealedTokenCanChange(t *testing.T) {
	now := time.Now()
	r := testRing(t, NewKey(now))
	text := r.sealRefresh(someRefreshToken)
	for i := range text {
		for bit := range 8 {
			changed := []byte(text)
			changed[i] ^= 1 << bit
			_, err := r.openRefresh(string(changed), now)
			require.Error(t, err, "byte %d bit %d", i, bit)
		}
	}
	for i := range text {
		_, err := r.openRefresh(text[:i], now)
		require.Error(t, err)
		for _, more := range []string{"\n", "\r", " ", "=", "A", "."} {
			_, err := r.openRefresh(text[:i]+more+text[i:], now)
			require.Error(t, err, "%q at %d", more, i)
		}
	}
}

// One kind cannot stand in for another, even with the same key.
func TestOneKindOfTokenIsNotAnother(t *testing.T) {
	now := time.Now()
	r := testRing(t, NewKey(now))
	refresh, access := r.sealRefresh(someRefreshToken), r.sealAccess(accessToken{ID: "x"})
	_, err := r.openAccess(refresh, now)
	require.ErrorIs(t, err, errForeign)
	_, err = r.openAccess(strings.Replace(refresh, refreshPrefix, accessPrefix, 1), now)
	require.ErrorIs(t, err, errBroken)
	_, err = r.openRefresh(strings.Replace(access, accessPrefix, refreshPrefix, 1), now)
	require.ErrorIs(t, err, errBroken)
}

func TestAnUnknownKeyIsAheadOnlyIfItIsYoung(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		created time.Duration
		want    error
	}{
		{-time.Hour - 2*time.Second, errBroken},
		{-59 * time.Minute, errKeyAhead},
		{0, errKeyAhead},
		{59 * time.Minute, errKeyAhead}, // a clock that is ahead
		{2 * time.Hour, errBroken},
	} {
		text := testRing(t, NewKey(now.Add(c.created))).sealRefresh(someRefreshToken)
		_, err := testRing(t, NewKey(now.Add(-time.Minute))).openRefresh(text, now)
		require.ErrorIs(t, err, c.want, "%s", c.created)
	}
}

func TestKeysAsText(t *testing.T) {
	k := NewKey(time.Now())
	text, err := k.MarshalText()
	require.NoError(t, err)
	var back Key
	require.NoError(t, back.UnmarshalText(text))
	require.Equal(t, k, back)
	require.Equal(t, k.ID(), back.ID())
	require.NotContains(t, k.String(), string(text[len(text)-20:]))

	_, err = Key{}.MarshalText()
	require.Error(t, err)
	secret := string(text[strings.LastIndexByte(string(text), '.')+1:])
	for _, bad := range []string{
		"", ".", "..", "curfew-key-1", "curfew-key-1..", "curfew-key-2" + string(text[12:]), string(text) + "A", string(text[:len(text)-1]),
		"curfew-key-1.yesterday." + secret, "curfew-key-1.2026-01-01T00:00:00Z." + secret[:10], string(text) + ".x",
	} {
		err := back.UnmarshalText([]byte(bad))
		require.Error(t, err, "%q", bad)
		require.NotContains(t, err.Error(), secret, "errors do not repeat the secret")
		require.Equal(t, k, back, "a failed decode changes nothing")
	}
}

func FuzzOpen(f *testing.F) {
	now := time.Now()
	r := testRing(f, NewKey(now))
	f.Add(r.sealRefresh(someRefreshToken), []byte{1})
	f.Add(r.sealAccess(accessToken{ID: "x"}), []byte{1, 200, 255})
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, text string, record []byte) {
		if got, err := r.openRefresh(text, now); err == nil {
			require.Equal(t, someRefreshToken, got, "nobody else has the key")
		}
		r.openAccess(text, now)
		openRepeat([16]byte{}, record)
		// A record that the key's owner garbled must not panic either.
		r.openRefresh(r.seal(refreshPrefix, record), now)
		r.openAccess(r.seal(accessPrefix, record), now)
	})
}
