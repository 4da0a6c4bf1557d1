package seal

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
)

func testRing(t testing.TB, keys ...Key) *Ring {
	t.Helper()
	r, err := New(keys, time.Hour)
	require.NoError(t, err)
	return r
}

func newKey(now time.Time) Key {
	k := Key{Created: now}
	rand.Read(k.Secret[:])
	return k
}

var someRefreshToken = RefreshToken{
	Token: "storage-token", SID: "ab.sid", Grant: "grant", Client: "web", Subject: store.Subject{Issuer: "https://op", ID: "alice:1"},
	Scopes: []string{"openid", "offline_access"}, Authenticated: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Generation: 7,
	Nonce: [16]byte{1, 2, 3},
}

func TestSealedRecordsComeBackAsTheyWere(t *testing.T) {
	now := time.Now()
	r := testRing(t, newKey(now))
	for _, want := range []RefreshToken{{}, someRefreshToken, {Scopes: []string{""}, Generation: 1 << 63, Token: strings.Repeat("x", 10_000)}} {
		text := r.SealRefresh(want)
		got, err := r.OpenRefresh(text, now)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, 1, strings.Count(text, "."), "not a JWE, not a JWT")
		require.NotContains(t, text, ":")
		require.NotEqual(t, text, r.SealRefresh(want), "each has a nonce of its own")
	}
	access := AccessToken{ID: "id", SID: "ab.sid", Grant: "g", Generation: 2, Expires: now.UTC().Truncate(time.Microsecond)}
	got, err := r.OpenAccess(r.SealAccess(access), now)
	require.NoError(t, err)
	require.Equal(t, access, got)

	a := Answer{Refresh: "r", Token: "t", Access: "a", Expires: access.Expires, Scopes: []string{"openid"}}
	box := a.Seal(someRefreshToken.Nonce)
	back, err := OpenAnswer(someRefreshToken.Nonce, box)
	require.NoError(t, err)
	require.Equal(t, a, back)
	_, err = OpenAnswer([16]byte{9}, box)
	require.ErrorIs(t, err, ErrBroken)
	_, err = OpenAnswer(someRefreshToken.Nonce, nil)
	require.ErrorIs(t, err, ErrBroken)
}

func TestNoBitOfASealedTokenCanChange(t *testing.T) {
	now := time.Now()
	r := testRing(t, newKey(now))
	text := r.SealRefresh(someRefreshToken)
	for i := range text {
		for bit := range 8 {
			changed := []byte(text)
			changed[i] ^= 1 << bit
			_, err := r.OpenRefresh(string(changed), now)
			require.Error(t, err, "byte %d bit %d", i, bit)
		}
	}
	for i := range text {
		_, err := r.OpenRefresh(text[:i], now)
		require.Error(t, err)
		for _, more := range []string{"\n", "\r", " ", "=", "A", "."} {
			_, err := r.OpenRefresh(text[:i]+more+text[i:], now)
			require.Error(t, err, "%q at %d", more, i)
		}
	}
}

// One kind cannot stand in for another, even with the same key.
func TestOneKindOfTokenIsNotAnother(t *testing.T) {
	now := time.Now()
	r := testRing(t, newKey(now))
	refresh, access := r.SealRefresh(someRefreshToken), r.SealAccess(AccessToken{ID: "x"})
	_, err := r.OpenAccess(refresh, now)
	require.ErrorIs(t, err, ErrForeign)
	_, err = r.OpenAccess(strings.Replace(refresh, RefreshPrefix, AccessPrefix, 1), now)
	require.ErrorIs(t, err, ErrBroken)
	_, err = r.OpenRefresh(strings.Replace(access, AccessPrefix, RefreshPrefix, 1), now)
	require.ErrorIs(t, err, ErrBroken)
}

// Nor is a record that would be read as the same: what begins a text is authenticated.
func TestAPrefixCannotBeReplaced(t *testing.T) {
	now := time.Now()
	r := testRing(t, newKey(now))
	text := r.Seal("curfew_a_", []byte("record"))
	record, err := r.Open("curfew_a_", text, now)
	require.NoError(t, err)
	require.Equal(t, "record", record)
	_, err = r.Open("curfew_b_", strings.Replace(text, "curfew_a_", "curfew_b_", 1), now)
	require.ErrorIs(t, err, ErrBroken)

	box := (&Answer{Refresh: "r"}).Seal(Nonce{1})
	box[0] ^= 1
	_, err = OpenAnswer(Nonce{1}, box)
	require.ErrorIs(t, err, ErrBroken)
}

func TestAnUnknownKeyIsAheadOnlyIfItIsYoung(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		created time.Duration
		want    error
	}{
		{-time.Hour - 2*time.Second, ErrBroken},
		{-59 * time.Minute, ErrAhead},
		{0, ErrAhead},
		{59 * time.Minute, ErrAhead}, // a clock that is ahead
		{2 * time.Hour, ErrBroken},
	} {
		text := testRing(t, newKey(now.Add(c.created))).SealRefresh(someRefreshToken)
		_, err := testRing(t, newKey(now.Add(-time.Minute))).OpenRefresh(text, now)
		require.ErrorIs(t, err, c.want, "%s", c.created)
	}
}

func FuzzOpen(f *testing.F) {
	now := time.Now()
	r := testRing(f, newKey(now))
	f.Add(r.SealRefresh(someRefreshToken), []byte{1})
	f.Add(r.SealAccess(AccessToken{ID: "x"}), []byte{1, 200, 255})
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, text string, record []byte) {
		if got, err := r.OpenRefresh(text, now); err == nil {
			require.Equal(t, someRefreshToken, got, "nobody else has the key")
		}
		r.OpenAccess(text, now)
		OpenAnswer([16]byte{}, record)
		// A record that the key's owner garbled must not panic either.
		r.OpenRefresh(r.Seal(RefreshPrefix, record), now)
		r.OpenAccess(r.Seal(AccessPrefix, record), now)
	})
}
