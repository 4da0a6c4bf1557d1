package redisstore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server spends most of what a read costs it on taking the command from its
// connection and answering it there. So a reader that finds a few others on their
// way waits for one of them to be answered, and goes with all who wait, in one
// pipeline. As long as there are fewer, nobody waits.
//
// Only reads go together: they may be made again, and if their connection fails
// nobody is in doubt about what was written. And only those of one server: in a
// cluster the pipeline would be answered when the slowest server has answered.
type reads struct {
	client redis.UniversalClient
	single bool // it is of one server

	mu       sync.Mutex
	underway int // single reads, and pipelines
	waiting  []*read
}

type read struct {
	ctx  context.Context
	key  string
	cmd  *redis.StringCmd
	done chan struct{}
}

const (
	// few is how many reads may be under way before others wait for them.
	few = 4

	// patience is how long a reader waits before it goes by itself: those under way
	// may be stuck.
	patience = 5 * time.Millisecond

	// most is how many go in one pipeline: a server may bound what it keeps for a
	// connection, and a client how long it reads from one.
	most = 128
)

func newReads(client redis.UniversalClient) *reads {
	_, single := client.(*redis.Client)
	return &reads{client: client, single: single}
}

// get reads a key, again as long as the server cannot.
func (r *reads) get(ctx context.Context, key string) (string, error) {
	var pause backoff
	for {
		record, err := r.once(ctx, key)
		if !unexecuted(err) {
			return record, err
		}
		if err := pause.wait(ctx, err); err != nil {
			return "", err
		}
	}
}

// newRead returns the command that reads a key.
func newRead(ctx context.Context, key string) *redis.StringCmd {
	return redis.NewStringCmd(ctx, readKey(key).args...)
}

// alone reads a key by itself.
func (r *reads) alone(ctx context.Context, key string) (string, error) {
	cmd := newRead(ctx, key)
	_ = r.client.Process(ctx, cmd) // it has its own error
	return cmd.Result()
}

func (r *reads) once(ctx context.Context, key string) (string, error) {
	if !r.single {
		return r.alone(ctx, key)
	}
	r.mu.Lock()
	if r.underway < few {
		r.underway++
		r.mu.Unlock()
		defer r.answered()
		return r.alone(ctx, key)
	}
	one := &read{ctx, key, newRead(ctx, key), make(chan struct{})}
	r.waiting = append(r.waiting, one)
	r.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-one.done:
		return r.own(one)
	case <-ctx.Done():
		r.withdraw(one)
		return "", ctx.Err()
	case <-timer.C:
	}
	if r.withdraw(one) {
		return r.alone(ctx, key)
	}
	select { // it is on its way
	case <-one.done:
		return r.own(one)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// withdraw takes back a read that waits, and reports whether it still did.
func (r *reads) withdraw(one *read) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.waiting, one)
	if i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
	return i >= 0
}

// answered has all who wait go in place of what was under way.
func (r *reads) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underway--
	for list := range slices.Chunk(r.waiting, most) {
		r.underway++
		go r.together(list)
	}
	r.waiting = nil
}

// together makes reads in one pipeline.
func (r *reads) together(list []*read) {
	defer r.answered()
	defer func() {
		_ = recover() // from a hook's panic, which is for its caller: see own
		for _, one := range list {
			close(one.done)
		}
	}()
	ctx, cancel := untilLast(list)
	defer cancel()
	pipe := r.client.Pipeline()
	for _, one := range list {
		_ = pipe.Process(ctx, one.cmd)
	}
	_, _ = pipe.Exec(ctx) // each has its own error
}

// own returns what a read that went with others was answered. If that is nothing, or
// an error of the server, the read goes once more, by itself: a client tries such
// errors again, but in a pipeline only if it is the first one's. Where the connection
// failed it has tried again.
func (r *reads) own(one *read) (string, error) {
	record, err := one.cmd.Result()
	var refused redis.Error
	switch {
	case errors.Is(err, redis.Nil):
		return "", err
	case err == nil && record == "", errors.As(err, &refused):
		return r.alone(one.ctx, one.key)
	}
	return record, err
}

// untilLast returns a context that ends with the last deadline of all, if each has
// one.
func untilLast(list []*read) (context.Context, context.CancelFunc) {
	var last time.Time
	for _, one := range list {
		deadline, ok := one.ctx.Deadline()
		if !ok {
			return context.Background(), func() {}
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return context.WithDeadline(context.Background(), last)
}
