package provider

import (
	"context"
	"sync"
)

// turns keep the storage calls of an HTTP request and the end of its response
// apart. Most servers run both in one goroutine. Under http.TimeoutHandler the
// response may end while a storage call is still at work: then the call finishes
// what it began, and what the request held is let go after it, not before.
type turns struct {
	mu     sync.Mutex
	inside int    // storage calls under way: a storage may call another method of the decorated one
	over   bool   // the response is complete: no further storage call is of this request
	last   func() // what is left to do when the last call has returned
}

// begin begins a storage call, unless the response is complete.
func (t *turns) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.inside++
	return true
}

// end ends a storage call.
func (t *turns) end() {
	t.mu.Lock()
	t.inside--
	var last func()
	if t.inside == 0 {
		last, t.last = t.last, nil
	}
	t.mu.Unlock()
	if last != nil {
		last()
	}
}

// pause keeps storage calls out until resume, unless one is under way: then it
// returns false, and there is nothing to resume.
func (t *turns) pause() bool {
	t.mu.Lock()
	if t.inside > 0 {
		t.mu.Unlock()
		return false
	}
	return true
}

func (t *turns) resume() { t.mu.Unlock() }

// close ends the request. It reports whether no storage call is under way. If
// one is, last is called after it.
func (t *turns) close(last func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.inside > 0 {
		t.last = last
	}
	return t.inside == 0
}

// enter returns the request in the context, for the time of a storage call, and
// what to call when that returns. The request is nil where [Hook.Handler] is
// missing, and where the response is complete.
func (h *Hook) enter(ctx context.Context) (*request, func()) {
	req := h.requestFrom(ctx)
	if req == nil || !req.turns.begin() {
		return nil, func() {}
	}
	req.touched = true
	return req, req.turns.end
}
