package provider

import (
	"context"
	"sync"
	"time"
)

// withTimeout is context.WithTimeout, but starts a timer only for who waits on
// Done. A store that answers from memory never does, and a timer that is started
// and stopped wakes the runtime's poller: 20 µs of a refresh on an idle machine.
func withTimeout(parent context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	c := &deadlineContext{parent: parent, deadline: time.Now().Add(timeout)}
	if d, ok := parent.Deadline(); ok && d.Before(c.deadline) {
		c.deadline = d
	}
	return c, c.cancel
}

// A deadlineContext becomes a real one, waiting, when somebody asks for Done. What
// it answers is the same before and after.
type deadlineContext struct {
	parent   context.Context
	deadline time.Time

	mu      sync.Mutex
	waiting context.Context
	stop    context.CancelFunc
	err     error // once it is set it stays
}

func (c *deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *deadlineContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting, c.stop = context.WithDeadline(c.parent, c.deadline)
		if c.err != nil {
			c.stop()
		}
	}
	return c.waiting.Done()
}

func (c *deadlineContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look()
}

// look notes whether it is over. Of a parent that ended and a deadline that
// passed while nobody looked, it is the parent.
func (c *deadlineContext) look() error {
	if c.err == nil {
		switch {
		case c.waiting != nil:
			c.err = c.waiting.Err()
		case c.parent.Err() != nil:
			c.err = c.parent.Err()
		case !time.Now().Before(c.deadline):
			c.err = context.DeadlineExceeded
		}
	}
	return c.err
}

// Value asks the waiting context, if there is one: by a value of its own package
// context finds that it can cancel children without a goroutine for each.
func (c *deadlineContext) Value(key any) any {
	c.mu.Lock()
	ctx := c.waiting
	c.mu.Unlock()
	if ctx == nil {
		ctx = c.parent
	}
	return ctx.Value(key)
}

func (c *deadlineContext) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.look() == nil {
		c.err = context.Canceled
	}
	if c.stop != nil {
		c.stop()
	}
}
