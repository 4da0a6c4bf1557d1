package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
)

func TestFenceStops(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f := store.Fence{At: at, Spared: []store.Spared{{ID: "spared", Started: at.Add(-time.Hour)}}}
	require.True(t, f.Stops("a", at))
	require.False(t, f.Stops("a", at.Add(time.Microsecond)))
	require.False(t, f.Stops("spared", at.Add(-time.Hour)))
	require.False(t, new(store.Fence).Stops("a", time.Time{}), "none stops nothing")

	s := store.Session{ID: "a", Started: at.Add(-time.Hour), Fence: f}
	require.True(t, s.Fenced())
	copied := s.Clone()
	copied.Fence.Spared[0].ID = "a"
	require.True(t, s.Fenced())
	require.False(t, copied.Fenced())
	alias := s
	alias.Joined = "b"
	require.False(t, alias.Fenced(), "a name of another session is as that is")
	s.End = &store.End{}
	require.False(t, s.Fenced(), "its own document says how it ended")
}

// Joined in any order, and any number of times, fences stop what one of them stops,
// and nothing else.
func TestFencesJoin(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 2))
	started := make([]time.Time, 6)
	for range 2000 {
		for i := range started {
			started[i] = at.Add(time.Duration(r.IntN(6)) * time.Minute)
		}
		fences := make([]store.Fence, 1+r.IntN(4))
		for i := range fences {
			fences[i] = store.Fence{At: at.Add(time.Duration(r.IntN(6)) * time.Minute)}
			for id, began := range started {
				if r.IntN(3) == 0 {
					fences[i].Spared = append(fences[i].Spared, store.Spared{ID: fmt.Sprint(id), Started: began})
				}
			}
		}
		var joined store.Fence
		for range 3 {
			r.Shuffle(len(fences), func(i, j int) { fences[i], fences[j] = fences[j], fences[i] })
			for _, f := range fences {
				joined = joined.Join(f)
			}
			for id, began := range started {
				stopped := false
				for _, f := range fences {
					stopped = stopped || f.Stops(fmt.Sprint(id), began)
				}
				require.Equal(t, stopped, joined.Stops(fmt.Sprint(id), began), "%v: %d of %v", fences, id, began)
			}
		}
	}
}
