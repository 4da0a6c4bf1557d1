package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// sweepLease is for how long a sweeper has what it took to itself: longer than
// a batch takes, so that a dead process's share is taken over soon.
const (
	sweepLease = time.Minute
	sweepBatch = 100

	// sweepAtOnce is how many sessions or subjects a sweep looks at at once: most
	// of the time it waits for the store, or for a slow OnEnd. Few, so that users
	// do not wait for the store's connections.
	sweepAtOnce = 4
)

// Run sweeps until the context ends: sessions that are over end, reasons that
// were remembered for long enough are forgotten, a changed policy is applied to
// live sessions, applications are told what they are owed, and what was counted
// for [Hook.Counts] is written. The limits hold without it. It returns the
// context's error, when what it was looking at has been dealt with, which takes a
// few StoreTimeouts at most, when notifications that are on their way have arrived
// or failed, for which they have Config.Logout.Timeout, and within StoreTimeout, in
// which it writes the last counts: end it after the HTTP server.
func (h *Hook) Run(ctx context.Context) error {
	tick := time.NewTicker(h.cfg.SweepEvery)
	defer tick.Stop()
	defer h.lastCounts(ctx)
	for {
		if _, err := h.installed(ctx); err != nil {
			h.sweepFailed(ctx, err)
		}
		if err := h.Sweep(ctx); err != nil {
			h.sweepFailed(ctx, err)
		}
		select {
		case <-ctx.Done():
			<-h.outbox.drop()
			return ctx.Err()
		case <-tick.C:
		case <-h.wake:
		}
	}
}

func (h *Hook) sweepFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		h.event(ctx, Event{Type: EventSweepFailed, Err: err})
	}
}

// Sweep does once what [Hook.Run] does all the time.
func (h *Hook) Sweep(ctx context.Context) error {
	var errs failures
	accounts, err := h.accounts(ctx, h.settings.known())
	errs.add(err)
	for _, account := range accounts {
		errs.add(h.converge(ctx, account))
	}
	errs.add(h.sweepFences(ctx))
	errs.add(h.keepCounts(ctx, accounts))
	for {
		dctx, cancel := h.bounded(ctx)
		batch, err := h.cfg.Store.Due(dctx, h.now(), sweepLease, sweepBatch)
		cancel()
		if err != nil {
			errs.add(err)
			return errs.join()
		}
		broken := h.sweepAll(ctx, batch, &errs)
		if len(batch) < sweepBatch || broken || ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
	}
}

// sweepAll looks at the sessions of a batch, and reports whether the store seems to
// be down: then it is tried again by the next sweep.
func (h *Hook) sweepAll(ctx context.Context, batch []store.Session, errs *failures) (broken bool) {
	var mu sync.Mutex // for errs and broken
	began := time.Now()
	someAtOnce(ctx, batch, func(s store.Session) {
		if time.Since(began) > sweepLease/2 {
			return // before others take it; it is due again soon
		}
		err := h.sweep(ctx, s)
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			return
		}
		var rules *rulesError // that one was put off
		mu.Lock()
		defer mu.Unlock()
		errs.add(err)
		broken = broken || err != nil && !errors.As(err, &rules)
	})
	return broken
}

// someAtOnce calls f for each of a list, for sweepAtOnce of them at the same time,
// and returns when all are done. When the context ends it begins with no other. A
// panic of f is the caller's, who may know what to do about it.
func someAtOnce[T any](ctx context.Context, list []T, f func(T)) {
	var wg sync.WaitGroup
	var taken atomic.Int64
	var panicked atomic.Pointer[string]
	for range min(sweepAtOnce, len(list)) {
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					text := fmt.Sprintf("%v\n\n%s", v, debug.Stack())
					panicked.Store(&text)
				}
			}()
			for ctx.Err() == nil && panicked.Load() == nil {
				i := int(taken.Add(1)) - 1
				if i >= len(list) {
					return
				}
				f(list[i])
			}
		})
	}
	wg.Wait()
	if text := panicked.Load(); text != nil {
		panic(*text)
	}
}

// failures collects errors, of which one look at many sessions may bring many
// that are alike.
type failures struct {
	errs []error
	more int
}

func (f *failures) add(err error) {
	switch {
	case err == nil:
	case len(f.errs) < 10:
		f.errs = append(f.errs, err)
	default:
		f.more++
	}
}

func (f *failures) join() error {
	err := errors.Join(f.errs...)
	if f.more > 0 {
		err = fmt.Errorf("%w\nand %d more", err, f.more)
	}
	return err
}

// A rulesError is why the rules for one subject cannot be had.
type rulesError struct{ err error }

func (e *rulesError) Error() string { return e.err.Error() }
func (e *rulesError) Unwrap() error { return e.err }

// sweepAgain is when a session whose rules cannot be had is looked at again. The
// limits hold meanwhile.
const sweepAgain = 10 * time.Minute

// sweep looks at one session that is due. It asks for no rules where the session
// has ended: its user may be gone.
func (h *Hook) sweep(ctx context.Context, s store.Session) error {
	now := h.now()
	var r ruling
	if s.Fenced() {
		_, _, err := h.endByFence(ctx, s, s.Fence)
		return err
	}
	if s.End == nil && s.Joined == "" {
		var err error
		if s, r, err = h.inUse(ctx, s); err == nil && s.End != nil {
			return nil // it was ended, and everybody told
		}
		if err != nil {
			if ctx.Err() != nil {
				return err // it is this process that stops: another one has it when the lease is over
			}
			ctx, cancel := h.detach(ctx)
			defer cancel()
			if _, putOff := h.change(ctx, s, func(s *store.Session) error {
				s.Due = now.Add(sweepAgain)
				return nil
			}); putOff != nil {
				return errors.Join(err, putOff)
			}
			return &rulesError{err}
		}
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	if s.End != nil && nextDelivery(&s).IsZero() && !now.Before(h.forgetAt(&s)) {
		return h.forget(ctx, s)
	}
	var fresh bool // it ended now
	var claimed []string
	ended, err := h.change(ctx, s, func(s *store.Session) error {
		fresh, claimed = s.End == nil, nil
		if s.End == nil {
			if d := r.rules.Check(now, s.Policy(), policy.Use{}); !d.Allow {
				h.finish(s, r, d.At, d.Reason, "")
				return nil
			}
		}
		claimed = h.claim(s, now)
		h.schedule(s, r) // of an end that is owed: when to try again
		return nil
	})
	switch {
	case err != nil:
		return err
	case fresh:
		h.announceEnd(ctx, r, ended)
	case ended.End != nil:
		h.announce(ctx, r, ended, nil)
		return h.resend(ctx, ended, claimed)
	}
	return nil
}

// forget deletes an ended session that was remembered for long enough. The first
// of several by one name stays as long as the latest is there: a login finds
// that by it.
func (h *Hook) forget(ctx context.Context, s store.Session) error {
	if s.End.Latest != "" {
		_, err := h.cfg.Store.Get(ctx, s.End.Latest)
		if err == nil {
			_, err = h.change(ctx, s, func(s *store.Session) error {
				s.Due = h.now().Add(h.cfg.Remember)
				return nil
			})
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return h.cfg.Store.Delete(ctx, s.ID, s.Revision)
}

// accountsKey is the key of the document that lists the accounts that sessions
// belong to: a process that only sweeps, or that has just started, asked for the
// settings of none yet.
const accountsKey = "accounts"

// accounts returns the accounts in the list, and those of also. What is missing
// in the list is entered. With an error it returns what it knows.
func (h *Hook) accounts(ctx context.Context, also []string) ([]string, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	for {
		doc, err := h.cfg.Store.Document(ctx, accountsKey)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return also, fmt.Errorf("list of accounts: %w", err)
		}
		var listed []string
		if err == nil {
			if err := json.Unmarshal(doc.Body, &listed); err != nil {
				return also, fmt.Errorf("list of accounts: %w", err)
			}
		}
		all := slices.Concat(listed, also)
		slices.Sort(all)
		all = slices.Compact(all)
		if len(all) == len(listed) {
			h.settings.listed(all)
			return all, nil
		}
		body, err := json.Marshal(all)
		if err != nil {
			return all, err
		}
		_, err = h.cfg.Store.PutDocument(ctx, store.Document{Key: accountsKey, Version: doc.Version, Body: body, At: h.now()})
		if err == nil {
			h.settings.listed(all)
			return all, nil
		}
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return all, fmt.Errorf("list of accounts: %w", err)
		}
	}
}

// enlist enters the accounts of a session that began in the list, the first time
// that this process meets them. If that fails, a later login or a sweep of this
// process does it.
func (h *Hook) enlist(ctx context.Context, accounts []string) {
	if h.settings.unlisted(accounts) {
		if _, err := h.accounts(context.WithoutCancel(ctx), accounts); err != nil {
			h.settings.unavailable()
		}
	}
}

// A convergence is how far an account's settings were applied to the sessions
// that were live when they changed.
type convergence struct {
	Settings []byte    `json:"settings"`         // their SHA-256
	Seen     time.Time `json:"seen"`             // when a sweep first had them
	Done     bool      `json:"done,omitempty"`   // a pass that began late enough came to its end
	Failed   int       `json:"failed,omitempty"` // such passes that did not
	Next     time.Time `json:"next"`             // when the next one is, if it is not done
}

// converge applies an account's settings to its live sessions if that has not
// been done yet since they changed: the surplus over a lowered cap ends, and
// sweeps are scheduled for the new deadlines.
//
// A first pass follows at once. Meanwhile a login may be admitted by the settings
// before, by a process whose cache has them still. The pass that counts begins
// when that is over.
func (h *Hook) converge(ctx context.Context, account string) error {
	a, _, err := h.settings.get(ctx, account, true)
	if err != nil {
		return err
	}
	body, err := a.MarshalJSON()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	key := "converged/" + account
	dctx, cancel := h.bounded(ctx)
	defer cancel()
	doc, err := h.cfg.Store.Document(dctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	var c convergence
	// What cannot be read is of another version: as if there were nothing.
	known := err == nil && json.Unmarshal(doc.Body, &c) == nil && bytes.Equal(c.Settings, sum[:])
	now := h.now()
	if known && (c.Done || now.Before(c.Next)) {
		return nil
	}
	put := func() error {
		body, err := json.Marshal(c)
		if err != nil {
			return err
		}
		pctx, cancel := h.bounded(ctx)
		defer cancel()
		doc.Version, err = h.cfg.Store.PutDocument(pctx, store.Document{Key: key, Version: doc.Version, Body: body, At: now})
		if errors.Is(err, store.ErrConflict) {
			return nil // another process does the same
		}
		return err
	}
	if !known {
		c = convergence{Settings: sum[:], Seen: now, Next: now.Add(h.settingsLast())}
		if err := put(); err != nil {
			return err
		}
		return h.applyTo(ctx, account)
	}
	err = h.applyTo(ctx, account)
	if err == nil {
		c.Done = true
	} else {
		// A user who is gone must not have all others looked at all the time.
		c.Next = now.Add(min(time.Minute<<min(c.Failed, 6), time.Hour))
		c.Failed++
	}
	return errors.Join(err, put())
}

// settingsLast is for how long after a change a login may still be admitted by
// the settings before: they may be as old as the cache allows, then the other
// settings of the user and the store take their time.
func (h *Hook) settingsLast() time.Duration {
	return max(h.cfg.SettingsMaxAge, time.Second) + 3*h.cfg.StoreTimeout
}

// applyTo applies the current settings to every subject with a live session in
// the account, whatever becomes of the others.
func (h *Hook) applyTo(ctx context.Context, account string) error {
	var errs failures
	seen := map[store.Subject]bool{}
	for cursor := ""; ; {
		lctx, cancel := h.bounded(ctx)
		page, next, err := h.cfg.Store.List(lctx, store.Filter{Account: account, State: store.Unended}, cursor, 500)
		cancel()
		if err != nil {
			errs.add(err)
			return errs.join()
		}
		var subjects []store.Subject
		for _, s := range page {
			if !seen[s.Subject] {
				seen[s.Subject] = true
				subjects = append(subjects, s.Subject)
			}
		}
		var mu sync.Mutex // for errs
		someAtOnce(ctx, subjects, func(subject store.Subject) {
			err := h.applySubject(ctx, subject)
			mu.Lock()
			defer mu.Unlock()
			errs.add(err)
		})
		if next == "" || ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
		cursor = next
	}
}

// applySubject ends a subject's surplus in one step with admission.
func (h *Hook) applySubject(ctx context.Context, subject store.Subject) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	r, err := h.rules(ctx, subject, false)
	if err != nil {
		return err
	}
	var ended []store.Session
	var observed []policy.Ending
	err = h.step(ctx, subject, r, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		ended, observed = ended[:0], nil
		now := h.now()
		list := make([]policy.Session, len(held))
		for i := range held {
			list[i] = held[i].Policy()
		}
		reasons := map[string]policy.Reason{}
		for _, e := range r.rules.Surplus(now, list) {
			reasons[e.ID] = e.Reason
		}
		if r.observes {
			observed = r.observed.Surplus(now, list)
		}
		var changed []store.Session
		for _, s := range held {
			if reason, ends := reasons[s.ID]; ends {
				h.finish(&s, r, now, reason, "")
				ended = append(ended, s)
				changed = append(changed, s)
				continue
			}
			if len(r.accounts) == 0 && len(s.Accounts) > 0 {
				continue // gone: its accounts' limits are looked at where it is used
			}
			due, who := s.Due, s.Who
			s.Who = r.who
			if h.postpone(&s, r); !s.Due.Equal(due) || who != s.Who {
				changed = append(changed, s)
			}
		}
		return changed, nil
	})
	if err != nil {
		return err
	}
	for i := range ended {
		h.announceEnd(ctx, r, ended[i])
	}
	for _, e := range observed {
		h.event(ctx, Event{Type: EventWouldEnd, Subject: subject, SID: e.ID, Reason: e.Reason})
	}
	return nil
}
