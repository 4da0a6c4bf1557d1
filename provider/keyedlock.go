package provider

import (
	"context"
	"sync"
)

// A keyedLock is a lock for each key. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*waitedLock
}

type waitedLock struct {
	free  chan struct{} // holds a value while nobody has the lock
	users int
}

// lock locks the key. If the context ends first it returns the context's error.
func (k *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*waitedLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &waitedLock{free: make(chan struct{}, 1)}
		l.free <- struct{}{}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
	unlock = func() {
		l.free <- struct{}{}
		leave()
	}
	select {
	case <-l.free: // most of the time; see withTimeout
		return unlock, nil
	default:
	}
	select {
	case <-l.free:
		return unlock, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
