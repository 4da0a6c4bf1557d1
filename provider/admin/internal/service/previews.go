package service

import (
	"errors"
	"fmt"
	"sync"
)

// A preview reads every session of an account. These bound how many run at once in a
// process, so that it goes on signing people in while somebody asks for a hundred:
// those of one actor, and those of all, so that one script does not keep every other
// administrator waiting.
const (
	previewsOfOne = 2
	previewsOfAll = 8
)

var errPreviews = errors.New("too many previews are running")

// previews counts those that run, by actor.
type previews struct {
	mu      sync.Mutex
	running int
	by      map[string]int
}

// enter counts one more, until leave is called. If there are too many, nothing is
// counted, and the error says whose they are.
func (p *previews) enter(actor string) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.by[actor] >= previewsOfOne:
		return nil, fmt.Errorf("%w: %d at once are allowed", ErrBusy, previewsOfOne)
	case p.running >= previewsOfAll:
		return nil, fmt.Errorf("%w: %d", errPreviews, p.running)
	}
	if p.by == nil {
		p.by = map[string]int{}
	}
	p.running++
	p.by[actor]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running--
		if p.by[actor]--; p.by[actor] == 0 {
			delete(p.by, actor)
		}
	}, nil
}
