// Package keylock is a lock for each of any number of names, in one process. It keeps
// nothing of a name that nobody has or waits for.
package keylock

import (
	"context"
	"sync"
)

// Locks are locks by name, of which each is held by one at a time, or by so many as
// AtOnce says. The zero value is ready.
//
// Those who wait get a lock in the order of their coming.
type Locks struct {
	AtOnce int // holders of one lock; zero: one. Set before the first use

	mu    sync.Mutex
	locks map[string]*lock
}

type lock struct {
	holders chan struct{} // a value for each
	users   int           // holders and those who wait
}

// Lock waits until it has the lock of the name. A lock that is free is taken, whatever
// the context. If the context ends first Lock returns the context's error. unlock is
// called once.
func (l *Locks) Lock(ctx context.Context, name string) (unlock func(), err error) {
	k := l.join(name)
	select {
	case k.holders <- struct{}{}:
		return func() { l.unlock(name, k) }, nil
	default:
	}
	select {
	case k.holders <- struct{}{}:
		return func() { l.unlock(name, k) }, nil
	case <-ctx.Done():
		l.leave(name, k)
		return nil, ctx.Err()
	}
}

// TryLock returns nil if somebody else has the lock of the name. Otherwise unlock is
// called once.
func (l *Locks) TryLock(name string) (unlock func()) {
	k := l.join(name)
	select {
	case k.holders <- struct{}{}:
		return func() { l.unlock(name, k) }
	default:
		l.leave(name, k)
		return nil
	}
}

func (l *Locks) join(name string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.locks[name]
	if k == nil {
		if l.locks == nil {
			l.locks = map[string]*lock{}
		}
		k = &lock{holders: make(chan struct{}, max(1, l.AtOnce))}
		l.locks[name] = k
	}
	k.users++
	return k
}

func (l *Locks) unlock(name string, k *lock) {
	<-k.holders
	l.leave(name, k)
}

func (l *Locks) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.locks, name)
	}
}
