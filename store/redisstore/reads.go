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

	// one makes a read by itself.
	one func(ctx context.Context, id string) ([]string, error)

	mu       sync.Mutex
	underway int // single reads, and pipelines
	waiting  []*read
}

type read struct {
	ctx  context.Context
	id   string
	cmd  redis.Cmder // which has the result
	got  *redis.Cmd
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

func newReads(client redis.UniversalClient, one func(ctx context.Context, id string) ([]string, error)) *reads {
	_, single := client.(*redis.Client)
	return &reads{client: client, single: single, one: one}
}

// get returns what the script get returns for a session: nothing if there is none.
func (r *reads) get(ctx context.Context, id string) ([]string, error) {
	if !r.single {
		return r.one(ctx, id)
	}
	r.mu.Lock()
	if r.underway < few {
		r.underway++
		r.mu.Unlock()
		defer r.answered()
		return r.one(ctx, id)
	}
	cmd, got := getCall(id).command(ctx, false)
	one := &read{ctx, id, cmd, got, make(chan struct{})}
	r.waiting = append(r.waiting, one)
	r.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-one.done:
		return r.own(one)
	case <-ctx.Done():
		r.withdraw(one)
		return nil, ctx.Err()
	case <-timer.C:
	}
	if r.withdraw(one) {
		return r.one(ctx, id)
	}
	select { // it is on its way
	case <-one.done:
		return r.own(one)
	case <-ctx.Done():
		return nil, ctx.Err()
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
// errors again, but in a pipeline only if it is the first one's; and the server may
// have to be told the script. Where the connection failed it has tried again.
func (r *reads) own(one *read) ([]string, error) {
	result, err := one.got.Result()
	var refused redis.Error
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err == nil && result == nil, errors.As(err, &refused):
		return r.one(one.ctx, one.id)
	}
	return texts(result), err
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
