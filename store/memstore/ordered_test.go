package memstore

import (
	"cmp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// An ordered set is a sorted slice, whatever is done to it.
func TestOrdered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := ordered[int]{compare: cmp.Compare[int]}
		var want []int
		value := rapid.IntRange(0, 3*blockSize)
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			from, n := value.Draw(t, "from"), rapid.IntRange(1, blockSize).Draw(t, "n")
			add := rapid.Bool().Draw(t, "add")
			for v := from; v < from+n; v++ {
				i, found := slices.BinarySearch(want, v)
				switch {
				case add && !found:
					o.insert(v)
					want = slices.Insert(want, i, v)
				case !add:
					o.remove(v) // which may not be there
					if found {
						want = slices.Delete(want, i, i+1)
					}
				}
			}
			require.True(t, slices.Equal(want, slices.Collect(o.all())))
			after := value.Draw(t, "after")
			i, found := slices.BinarySearch(want, after)
			if found {
				i++
			}
			require.True(t, slices.Equal(want[i:], slices.Collect(o.after(after))))
			for _, b := range o.blocks {
				require.NotEmpty(t, b)
				require.LessOrEqual(t, len(b), blockSize)
			}
		}
	})
}
