package paged_test

import (
	"errors"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/paged"
)

var errAway = errors.New("away")

// list has three pages, of which the second is empty, and fails at fails.
func list(fails string, read *int) func(string) ([]int, string, error) {
	return func(cursor string) ([]int, string, error) {
		*read++
		if cursor == fails {
			return nil, "", errAway
		}
		switch n, _ := strconv.Atoi(cursor); n {
		case 0:
			return []int{1, 2}, "1", nil
		case 1:
			if fails == "part of 1" {
				return nil, "2", errAway // and the list goes on
			}
			return nil, "2", nil
		}
		return []int{3}, "", nil
	}
}

func TestAll(t *testing.T) {
	for name, c := range map[string]struct {
		fails string
		most  int
		want  []int
		read  int
		err   error
	}{
		"all":               {"none", 9, []int{1, 2, 3}, 3, nil},
		"stopped in a page": {"none", 1, []int{1}, 1, nil},
		"fails at once":     {"", 9, nil, 1, errAway},
		"fails later":       {"2", 9, []int{1, 2}, 3, errAway},
		"a part is missing": {"part of 1", 9, []int{1, 2, 3}, 3, errAway},
	} {
		var got []int
		var read int
		var failed error
		for entry, err := range paged.All(list(c.fails, &read)) {
			if err != nil {
				require.Zero(t, entry, name)
				require.NoError(t, failed, name)
				failed = err
				continue
			}
			if got = append(got, entry); len(got) == c.most {
				break
			}
		}
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.read, read, name)
		require.Equal(t, c.err, failed, name)
	}
}
