package provider

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// Rule 7's table: what is known of a token, and how it stands.
func TestHowATokenStands(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const grace = 30 * time.Second
	usual := patience{grace: grace, mends: true}
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		place tokenPlace
		with  patience
		want  standing
	}{
		"the newest":             {tokenPlace{newest: true}, usual, current},
		"the newest, seen":       {tokenPlace{newest: true, seen: true}, usual, current},
		"the newest, strictly":   {tokenPlace{newest: true}, patience{}, current},
		"above":                  {tokenPlace{above: true}, usual, ahead},
		"above, strictly":        {tokenPlace{above: true, seen: true}, patience{}, ahead},
		"nothing is known of it": {tokenPlace{}, usual, replayed},
		"nothing is known of it, and nothing is seen": {tokenPlace{previous: true}, usual, replayed},
		"the one before, at once":                     {tokenPlace{previous: true, exchanged: now}, usual, repeated},
		"the one before, at the end of the grace":     {tokenPlace{previous: true, exchanged: ago(grace - time.Millisecond)}, usual, repeated},
		"the one before, its successor seen":          {tokenPlace{previous: true, exchanged: ago(grace - time.Millisecond), seen: true}, usual, repeated},
		"the one before, by a clock that is behind":   {tokenPlace{previous: true, exchanged: now.Add(time.Second)}, usual, repeated},
		"the one before, after the grace":             {tokenPlace{previous: true, exchanged: ago(grace)}, usual, lost},
		"the one before, a month later":               {tokenPlace{previous: true, exchanged: ago(720 * time.Hour)}, usual, lost},
		"the same, its successor seen":                {tokenPlace{previous: true, exchanged: ago(grace), seen: true}, usual, replayed},
		"the same, nothing is mended":                 {tokenPlace{previous: true, exchanged: ago(grace)}, patience{grace: grace}, replayed},
		"the one before, without a grace":             {tokenPlace{previous: true, exchanged: now}, patience{mends: true}, lost},
		"the one before, strictly":                    {tokenPlace{previous: true, exchanged: now}, patience{}, replayed},
		"older, within the grace":                     {tokenPlace{exchanged: ago(grace - time.Millisecond)}, usual, repeated},
		"older, within the grace, seen":               {tokenPlace{exchanged: ago(grace - time.Millisecond), seen: true}, usual, repeated},
		"older, after the grace":                      {tokenPlace{exchanged: ago(grace)}, usual, replayed},
		"older, strictly":                             {tokenPlace{exchanged: now}, patience{}, replayed},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, c.place.standing(c.with, now))
		})
	}
}

// A chainOf is a grant after a number of rotations, a second apart, and the tokens that it
// had one after the other.
func chainOf(t *testing.T, rotations int, began time.Time, p patience) (store.Grant, []seal.RefreshToken) {
	t.Helper()
	token := seal.RefreshToken{Generation: 100, Nonce: seal.NewNonce()}
	tokens := []seal.RefreshToken{token}
	g := store.Grant{Generation: token.Generation, NonceHash: token.Nonce.Hash()}
	for i := range rotations {
		salt, now := seal.NewNonce(), began.Add(time.Duration(i)*time.Second)
		g.Chain = p.lengthened(g.Chain, now, salt)
		g.FromHash, g.Rotated = token.Nonce.Hash(), now
		token.Generation, token.Nonce = token.Generation+1, token.Nonce.Next(salt)
		g.Generation, g.NonceHash = token.Generation, token.Nonce.Hash()
		tokens = append(tokens, token)
	}
	return g, tokens
}

// What a grant knows of the tokens that it had: when each was exchanged, and the way to
// the answer, for as long as a grace and no further back than its bound.
func TestATokenLeadsToTheNewestAnswer(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		rotations int
		p         patience
		leads     int // of the tokens before the current one
	}{
		"once":                        {1, patience{grace: 30 * time.Second}, 1},
		"ten times":                   {10, patience{grace: 30 * time.Second}, 10},
		"for longer than the grace":   {50, patience{grace: 30 * time.Second}, 30},
		"more often than can be kept": {200, patience{grace: 24 * time.Hour}, maxChain},
		"without a grace":             {10, patience{}, 1}, // the one before, for a response that was lost
	} {
		t.Run(name, func(t *testing.T) {
			g, tokens := chainOf(t, c.rotations, began, c.p)
			require.LessOrEqual(t, len(g.Chain), maxChain*chainLink)
			last := len(tokens) - 1
			before := tokens[last-1]
			for i, token := range tokens[:last] {
				place, from := placeIn(&g, &token)
				require.False(t, place.newest || place.above)
				require.Equal(t, i == last-1, place.previous)
				if i < last-c.leads {
					require.Zero(t, place.exchanged, "%d", i)
					require.Zero(t, from)
					continue
				}
				require.Equal(t, began.Add(time.Duration(i)*time.Second), place.exchanged, "%d", i)
				require.Equal(t, before.Nonce, from)
			}
			place, _ := placeIn(&g, &tokens[last])
			require.True(t, place.newest)
		})
	}
}

// What leads nowhere is no token of the grant: of another family, of a generation that it
// does not have, after a rotation by a program that keeps no chain, or with a document
// that was damaged.
func TestAChainIsFollowedToItsEndOnly(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := patience{grace: 30 * time.Second}
	for name, change := range map[string]func(g *store.Grant, token *seal.RefreshToken){
		"another nonce":          func(_ *store.Grant, token *seal.RefreshToken) { token.Nonce[3] ^= 1 },
		"another generation":     func(_ *store.Grant, token *seal.RefreshToken) { token.Generation++ },
		"generation 0":           func(_ *store.Grant, token *seal.RefreshToken) { token.Generation = 0 },
		"no chain":               func(g *store.Grant, _ *seal.RefreshToken) { g.Chain = nil },
		"half of a record":       func(g *store.Grant, _ *seal.RefreshToken) { g.Chain = g.Chain[1:] },
		"another salt":           func(g *store.Grant, _ *seal.RefreshToken) { g.Chain[3*chainLink+8] ^= 1 },
		"a rotation in between":  func(g *store.Grant, _ *seal.RefreshToken) { g.Generation++; g.FromHash = g.NonceHash },
		"the current generation": func(g *store.Grant, token *seal.RefreshToken) { token.Generation = g.Generation },
	} {
		t.Run(name, func(t *testing.T) {
			g, tokens := chainOf(t, 8, began, p)
			token := tokens[2]
			place, _ := placeIn(&g, &token)
			require.False(t, place.exchanged.IsZero())
			change(&g, &token)
			place, from := placeIn(&g, &token)
			require.Equal(t, tokenPlace{}, place)
			require.Zero(t, from)
		})
	}
}

// The chain keeps nothing that could be presented, or that opens anything by itself: times
// and salts.
func TestAChainKeepsNoNonce(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g, tokens := chainOf(t, 8, began, patience{grace: 30 * time.Second})
	require.Len(t, g.Chain, 8*chainLink)
	for i, token := range tokens {
		require.NotContains(t, string(g.Chain), string(token.Nonce[:]))
		if i < 8 {
			require.Equal(t, began.Add(time.Duration(i)*time.Second).UnixMicro(), int64(binary.BigEndian.Uint64(g.Chain[i*chainLink:])))
		}
	}
}
