package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// A Preview is what a change of an account's settings would do.
type Preview struct {
	// Ends and Users count the sessions that it would end, and their users.
	// Yours is how many of the sessions are the actor's own.
	Ends  int `json:"ends"`
	Users int `json:"users"`
	Yours int `json:"yours"`

	// Complete is false if there was no time to look at all of them: then
	// the numbers are what was found until then.
	Complete bool `json:"complete"`

	// Sessions are the first [MaxPreview] of the sessions, the actor's own
	// before all others.
	Sessions []PreviewEnd `json:"sessions"`

	Changes  []policy.Change  `json:"changes"`
	Warnings []policy.Warning `json:"warnings"`
}

// A PreviewEnd is a session that would end, and why.
type PreviewEnd struct {
	view.Session
	Reason policy.Reason `json:"reason"`
}

// MaxPreview is how many sessions a preview lists.
const MaxPreview = 500

// Preview says what the change of an account's settings would do now. It changes
// nothing. What is wrong with the settings is [policy.FieldErrors]. If too many
// previews of the actor are still running the error wraps [ErrBusy].
func (sv *Service) Preview(ctx context.Context, actor Actor, account string, proposed policy.Account, message string) (Preview, error) {
	if err := sv.Validate(proposed); err != nil {
		return Preview{}, err
	}
	leave, err := sv.previews.enter(actor.ID)
	if err != nil {
		return Preview{}, err
	}
	defer leave()
	current, err := sv.Load(ctx, account)
	if err != nil {
		return Preview{}, err
	}
	p := Preview{
		Complete: true, Sessions: []PreviewEnd{},
		Changes: policy.Diff(current.Settings, proposed), Warnings: sv.warnings(proposed, message),
	}
	var own, others []PreviewEnd
	var last store.Subject
	pctx, cancel := context.WithTimeout(ctx, sv.PreviewTime)
	defer cancel()
	err = sv.Hook.Preview(pctx, account, proposed, func(s store.Session, reason policy.Reason) {
		p.Ends++
		if s.Subject != last { // those of one subject come together
			p.Users++
			last = s.Subject
		}
		e := PreviewEnd{sv.view(actor, s), reason}
		switch {
		case e.Yours:
			p.Yours++
			own = append(own, e)
		case len(others) < MaxPreview:
			others = append(others, e)
		}
	})
	if err != nil && (ctx.Err() != nil || !errors.Is(pctx.Err(), context.DeadlineExceeded)) {
		return Preview{}, err
	}
	p.Complete = err == nil
	p.Sessions = append(p.Sessions, own...)
	p.Sessions = append(p.Sessions, others...)
	p.Sessions = p.Sessions[:min(len(p.Sessions), MaxPreview)]
	slices.SortStableFunc(p.Sessions, func(a, b PreviewEnd) int {
		switch {
		case a.Current == b.Current:
			return 0
		case a.Current:
			return -1
		}
		return 1
	})
	return p, nil
}

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
