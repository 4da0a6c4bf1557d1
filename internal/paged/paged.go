// Package paged walks lists that come in pages.
package paged

import "iter"

// All returns the entries of a list. page returns those of the page at a cursor, which
// is empty for the first, and the cursor of the next, which is empty after the last. An
// error comes without an entry, after the entries of its page. A list that has a next
// page all the same goes on there, if the loop does.
func All[T any](page func(cursor string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			list, next, err := page(cursor)
			for _, entry := range list {
				if !yield(entry, nil) {
					return
				}
			}
			var none T
			if err != nil && !yield(none, err) {
				return
			}
			if cursor = next; cursor == "" {
				return
			}
		}
	}
}
