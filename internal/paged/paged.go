// Package paged walks lists that come in pages.
package paged

import "iter"

// All returns the entries of a list. page returns those of the page at a cursor, which
// is empty for the first, and the cursor of the next, which is empty after the last. An
// error comes last, without an entry.
func All[T any](page func(cursor string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			list, next, err := page(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, entry := range list {
				if !yield(entry, nil) {
					return
				}
			}
			if cursor = next; cursor == "" {
				return
			}
		}
	}
}
