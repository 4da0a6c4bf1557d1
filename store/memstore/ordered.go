package memstore

import (
	"iter"
	"slices"
	"sort"
)

// An ordered set keeps its values in the order of compare. The values are in
// blocks of limited size, so that neither the list of blocks nor a block gets
// long: with 100,000 values an insertion moves a few kilobytes at most.
type ordered[T any] struct {
	compare func(a, b T) int
	blocks  [][]T // none of them empty
}

const blockSize = 512

// find returns the position of the first value that is not before v.
func (o *ordered[T]) find(v T) (block, i int, found bool) {
	block = sort.Search(len(o.blocks), func(b int) bool {
		last := o.blocks[b][len(o.blocks[b])-1]
		return o.compare(last, v) >= 0
	})
	if block == len(o.blocks) {
		return block, 0, false
	}
	i, found = slices.BinarySearchFunc(o.blocks[block], v, o.compare)
	return block, i, found
}

// insert adds v, which is not in the set.
func (o *ordered[T]) insert(v T) {
	block, i, _ := o.find(v)
	if block == len(o.blocks) { // it comes last
		if block == 0 {
			o.blocks = append(o.blocks, []T{v})
			return
		}
		block--
		i = len(o.blocks[block])
	}
	b := slices.Insert(o.blocks[block], i, v)
	o.blocks[block] = b
	if len(b) > blockSize {
		half := slices.Clone(b[blockSize/2:])
		clear(b[blockSize/2:])
		o.blocks[block] = b[:blockSize/2]
		o.blocks = slices.Insert(o.blocks, block+1, half)
	}
}

// remove removes v, if it is in the set.
func (o *ordered[T]) remove(v T) {
	block, i, found := o.find(v)
	if !found {
		return
	}
	o.blocks[block] = slices.Delete(o.blocks[block], i, i+1)
	if len(o.blocks[block]) == 0 {
		o.blocks = slices.Delete(o.blocks, block, block+1)
	}
}

// all returns the values in order.
func (o *ordered[T]) all() iter.Seq[T] { return o.from(0, 0) }

// after returns the values after v in order.
func (o *ordered[T]) after(v T) iter.Seq[T] {
	block, i, found := o.find(v)
	if found {
		i++
	}
	return o.from(block, i)
}

func (o *ordered[T]) from(block, i int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for ; block < len(o.blocks); block, i = block+1, 0 {
			for _, v := range o.blocks[block][i:] {
				if !yield(v) {
					return
				}
			}
		}
	}
}
