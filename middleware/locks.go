package middleware

import (
	"context"
	"sync"
)

// locks let one goroutine of this process at a time refresh a session.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	turn chan struct{} // holds one element while nobody has the lock
	refs int
}

// lock waits for its turn. If wait is false it does not. unlock is nil if it has
// not got the lock.
func (l *locks) lock(ctx context.Context, name string, wait bool) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[name] = k
	}
	k.refs++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.refs--; k.refs == 0 {
			delete(l.held, name)
		}
	}
	if !wait {
		select {
		case <-k.turn:
		default:
			leave()
			return nil
		}
	} else {
		select {
		case <-k.turn:
		case <-ctx.Done():
			leave()
			return nil
		}
	}
	return func() {
		k.turn <- struct{}{}
		leave()
	}
}
