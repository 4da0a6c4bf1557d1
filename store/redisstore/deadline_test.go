package redisstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A pipeline lasts as long as the most patient of those that it reads for.
func TestUntilLast(t *testing.T) {
	now := time.Now()
	reader := func(d time.Duration) *read {
		ctx, cancel := context.WithDeadline(t.Context(), now.Add(d))
		t.Cleanup(cancel)
		return &read{ctx: ctx}
	}
	forever := &read{ctx: t.Context()}
	for _, c := range []struct {
		list []*read
		want time.Duration // 0: no deadline
	}{
		{[]*read{reader(time.Hour)}, time.Hour},
		{[]*read{reader(time.Hour), reader(3 * time.Hour), reader(2 * time.Hour)}, 3 * time.Hour},
		{[]*read{reader(-time.Hour), reader(time.Minute)}, time.Minute},
		{[]*read{reader(time.Hour), forever, reader(time.Hour)}, 0},
		{[]*read{forever, reader(time.Hour)}, 0},
	} {
		ctx, cancel := untilLast(c.list)
		deadline, ok := ctx.Deadline()
		cancel()
		require.Equal(t, c.want != 0, ok)
		if ok {
			require.Equal(t, c.want, deadline.Sub(now))
		}
	}
}
