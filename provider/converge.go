package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/store"
)

// A changed policy reaches the sessions that nobody uses in two steps. A sweep
// compares the settings of the accounts that this process has met with what was
// applied to their sessions. And every walkEvery one of the processes walks over
// all sessions that have not ended, and so comes to every account that has one: no
// list of accounts is kept, and an account without a session costs nothing.
//
// Both are done in pieces. How far one is, is a document of a few bytes, so that
// another process goes on from there, and what is due is looked at in between.
const (
	walkEvery = 10 * time.Minute
	walkPage  = 500

	// applyPage is how many sessions a process applies settings to before it notes
	// that it did, and applyTurn after which time the next account has its turn.
	applyPage = 50
	applyTurn = 10 * time.Second

	// dueEvery is how long what is due may wait for one of these pieces.
	dueEvery = time.Second

	// workLease is for how long a piece is its process's own.
	workLease = time.Minute

	// lookAtOnce is how many accounts one sweep looks at.
	lookAtOnce = 1000
)

// held reports whether a lease is somebody's. One that lasts longer than any can
// was made by a clock that was ahead, and is over.
func held(until, now time.Time) bool { return until.After(now) && until.Sub(now) <= 3*workLease }

// read reads a document into v, and returns its version. A document that is not
// there, or that another version of this program wrote, leaves v as it is.
func (h *sweeps) read(ctx context.Context, key string, v any) (version int64, err error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	doc, err := h.cfg.Store.Document(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		_ = json.Unmarshal(doc.Body, v)
	}
	return doc.Version, err
}

// note writes v in the place of a version of a document, without its history. If
// another process was faster the error wraps [store.ErrConflict].
func (h *sweeps) note(ctx context.Context, key string, version int64, v any) (int64, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	return h.cfg.Store.PutDocument(ctx, store.Document{Key: key, Version: version, Body: body, At: h.now(), NoHistory: true})
}

// dueBetween looks at what is due if that was long ago. It reports false if the store
// seems to be down; what fails alone is put off, and holds nobody up.
func (h *sweeps) dueBetween(ctx context.Context, last *time.Time, errs *failures) bool {
	if time.Since(*last) < dueEvery {
		return true
	}
	defer func() { *last = time.Now() }()
	return h.sweepDue(ctx, errs)
}

// convergeKnown applies the settings of accounts that this process has met, where
// they were changed. An account of many users has its turn again when the others
// had theirs.
func (h *sweeps) convergeKnown(ctx context.Context, errs *failures) {
	for turn := h.settings.next(lookAtOnce); len(turn) > 0; {
		var unfinished []string
		for _, account := range turn {
			more, err := h.converge(ctx, account)
			errs.add(err)
			if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
				return // the others would wait as long for what does not answer
			}
			if more {
				unfinished = append(unfinished, account)
			}
		}
		turn = unfinished
	}
}

// A convergence is how far an account's settings were applied to the sessions
// that were live when they changed.
type convergence struct {
	Settings []byte    `json:"settings"`          // their SHA-256
	Version  int64     `json:"version,omitempty"` // theirs; 0: not known
	Done     bool      `json:"done,omitempty"`    // a pass that counts came to its end
	Failed   int       `json:"failed,omitempty"`  // how many such passes did not
	Next     time.Time `json:"next,omitzero"`     // when the next pass may begin
	Pass     *pass     `json:"pass,omitempty"`    // the one under way
}

// A pass is one look at all sessions of an account.
type pass struct {
	Counts bool      `json:"counts,omitempty"` // it began late enough
	Broken bool      `json:"broken,omitempty"` // the rules of some user could not be had
	Cursor string    `json:"cursor,omitempty"` // how far it is
	Until  time.Time `json:"until,omitzero"`   // until when a process has it to itself
}

func convergenceKey(account string) string { return "convergence/" + account }

// convergedKey was the key of what is now a [convergence], with every version of it.
func convergedKey(account string) string { return "converged/" + account }

// converge applies an account's settings to its live sessions if that has not
// been done yet since they changed: the surplus over a lowered cap ends, and
// sweeps are scheduled for the new deadlines. It stops when its turn is over, and
// reports whether there is more to do at once.
//
// A first pass follows at once. Meanwhile a login may be admitted by the settings
// before, by a process whose cache has them still. The pass that counts begins
// when that is over.
func (h *sweeps) converge(ctx context.Context, account string) (more bool, err error) {
	a, of, changes, err := h.settings.look(ctx, account)
	if err != nil {
		return false, err
	}
	body, err := a.MarshalJSON()
	if err != nil {
		return false, err
	}
	these := applied{sha256.Sum256(body), of}
	others := of.version == 0 && changes > 1
	if !others && h.settings.isApplied(account, these) {
		return false, nil
	}
	var c convergence
	version, err := h.read(ctx, convergenceKey(account), &c)
	if err != nil {
		return false, err
	}
	if version == 0 {
		if version, err = h.adoptConverged(ctx, account, &c); err != nil {
			return false, err
		}
	}
	now := h.now()
	begun := convergence{Settings: these.sum[:], Version: of.version, Next: now.Add(h.settingsLast()), Pass: &pass{}}
	if others {
		// It is written by itself: a pass may find that another process has it.
		if version, err = h.note(ctx, convergenceKey(account), version, begun); err != nil {
			return false, taken(err)
		}
		c = begun
	}
	h.settings.dealtWith(account, changes)
	switch {
	case !bytes.Equal(c.Settings, these.sum[:]) || c.Version > 0 && c.Version != of.version:
		c = begun
	case c.Done:
		h.settings.wasApplied(account, these)
		return false, nil
	case c.Pass != nil:
		if held(c.Pass.Until, now) {
			return false, nil
		}
	case c.Next.Sub(now) > max(h.settingsLast(), passAtMost):
		// A clock was ahead. Another wait is the safe answer, and a short one.
		c.Next = now.Add(h.settingsLast())
		_, err = h.note(ctx, convergenceKey(account), version, c)
		return false, taken(err)
	case now.Before(c.Next):
		return false, nil
	default:
		c.Pass = &pass{Counts: true}
	}
	more, err = h.pass(ctx, account, version, c)
	return more, taken(err)
}

// taken is nil for the error of a process that was too slow: another one has it.
func taken(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// adoptConverged takes over what an earlier version noted, once.
func (h *sweeps) adoptConverged(ctx context.Context, account string, c *convergence) (version int64, err error) {
	was, err := h.read(ctx, convergedKey(account), c)
	if err != nil || was == 0 {
		return 0, err
	}
	if version, err = h.note(ctx, convergenceKey(account), 0, c); err != nil {
		return 0, taken(err)
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	return version, h.cfg.Store.DropDocument(ctx, convergedKey(account))
}

// After a pass in which the rules of a user could not be had, the next one follows
// after passAgain, and later each time: a user who is gone must not have all
// others looked at all the time.
const (
	passAgain  = time.Minute
	passAtMost = time.Hour
)

// pass goes on with the pass that is under way.
func (h *sweeps) pass(ctx context.Context, account string, version int64, c convergence) (more bool, err error) {
	key, began, lastDue := convergenceKey(account), time.Now(), time.Now()
	var errs failures
	for {
		c.Pass.Until = h.now().Add(workLease)
		if version, err = h.note(ctx, key, version, c); err != nil {
			errs.add(taken(err))
			return false, errs.join()
		}
		page, next, err := h.pageToApply(ctx, account, c.Pass.Cursor)
		if err != nil && !alone(err) && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			page, next, err = h.pageToApply(ctx, account, c.Pass.Cursor) // a store that fails now and then is not down
		}
		errs.add(err)
		if err != nil && !alone(err) {
			if c.Pass.Cursor != "" && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
				c.Pass.Cursor, c.Pass.Until = "", time.Time{} // it may be the cursor that is no good
				_, _ = h.note(ctx, key, version, c)
			}
			return false, errs.join()
		}
		c.Pass.Broken = c.Pass.Broken || err != nil
		failed, late, err := h.applyPage(ctx, page, &errs)
		if err != nil {
			errs.add(err)
			if ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
				c.Pass.Until = time.Time{} // the next sweep tries again, whoever's it is
				_, _ = h.note(ctx, key, version, c)
			}
			return false, errs.join()
		}
		c.Pass.Broken = c.Pass.Broken || failed
		if ctx.Err() == nil {
			c.Pass.Cursor = next
			if next == "" {
				break
			}
		}
		if ctx.Err() != nil || late || time.Since(began) >= applyTurn {
			c.Pass.Until = time.Time{} // anybody's
			_, err = h.note(context.WithoutCancel(ctx), key, version, c)
			errs.add(taken(err))
			errs.add(ctx.Err())
			return err == nil && ctx.Err() == nil && !late, errs.join()
		}
		if !h.dueBetween(ctx, &lastDue, &errs) {
			return false, errs.join()
		}
	}
	switch {
	case !c.Pass.Counts: // the next one does
	case c.Pass.Broken:
		c.Next = h.now().Add(min(passAgain<<min(c.Failed, 6), passAtMost))
		c.Failed++
	default:
		c.Done = true
	}
	c.Pass = nil
	_, err = h.note(ctx, key, version, c)
	errs.add(taken(err))
	return false, errs.join()
}

// pageToApply returns the sessions of an account that settings are applied to next.
func (h *sweeps) pageToApply(ctx context.Context, account, cursor string) ([]store.Session, string, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	return h.cfg.Store.List(ctx, store.Filter{Account: account, State: store.Unended}, cursor, applyPage)
}

// settingsLast is for how long after a change a login may still be admitted by
// the settings before: they may be as old as the cache allows, then the other
// settings of the user and the store take their time.
func (h *sweeps) settingsLast() time.Duration {
	return max(h.cfg.SettingsMaxAge, time.Second) + 3*h.cfg.StoreTimeout
}

// applyPage applies the current settings to the users of some sessions. It reports
// whether some of them could not be looked at, and whether that is because it took
// too long. An error is the store's.
func (h *sweeps) applyPage(ctx context.Context, page []store.Session, errs *failures) (failed, late bool, err error) {
	var subjects []store.Subject
	for i := range page {
		if !slices.Contains(subjects, page[i].Subject) {
			subjects = append(subjects, page[i].Subject)
		}
	}
	began, waited := time.Now(), false
	var mu sync.Mutex // for what is returned, and waited
	someAtOnce(ctx, subjects, func(subject store.Subject) {
		mu.Lock()
		skip := err != nil
		if time.Since(began) > workLease/2 {
			failed, late, skip = true, true, true
		}
		mu.Unlock()
		if skip {
			return
		}
		this := h.applySubject(ctx, subject)
		if this != nil && !alone(this) && !errors.Is(this, context.DeadlineExceeded) {
			this = h.applySubject(ctx, subject) // a store that fails now and then is not down
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case this == nil:
		case alone(this), errors.Is(this, store.ErrConflict):
			errs.add(this)
			failed = true
		case errors.Is(this, context.DeadlineExceeded) && !waited && ctx.Err() == nil:
			// Somebody may have locked this one. If it is the store, the next ones show it.
			errs.add(this)
			waited, failed = true, true
		case err == nil:
			err = this
		}
	})
	return failed, late, err
}

// applySubject ends a subject's surplus in one step with admission.
func (h *members) applySubject(ctx context.Context, subject store.Subject) error {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	r, err := h.rules(ctx, subject, false)
	if err != nil {
		return &rulesError{err}
	}
	var ended []store.Session
	var observed []policy.Ending
	err = h.step(ctx, subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
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

// A walk is how far a look at all sessions is that have not ended.
type walk struct {
	Began  time.Time `json:"began"`
	Done   bool      `json:"done,omitempty"`
	Cursor string    `json:"cursor,omitempty"`
	Until  time.Time `json:"until,omitzero"` // until when a process has it to itself

	// Mends: a clock was ahead, and what it wrote is looked for, in ended sessions
	// too.
	Mends bool `json:"mends,omitempty"`
}

const walkKey = "walk"

// accountsKey is the key of a document in which earlier versions listed all
// accounts.
const accountsKey = "accounts"

// A walker is what a process knows of walks.
type walker struct {
	mu     sync.Mutex // one at a time
	whole  bool       // this process has finished one since it began
	mended time.Time  // when it last began one that mends
}

// walk goes over all sessions that have not ended, if it is time, applies the
// settings of their accounts where that was not done, and counts what is live. A
// process walks once when it begins, too: settings may have been changed meanwhile.
func (h *sweeps) walk(ctx context.Context, errs *failures) {
	if !h.walker.mu.TryLock() {
		return
	}
	defer h.walker.mu.Unlock()
	var w walk
	version, err := h.read(ctx, walkKey, &w)
	if err != nil {
		errs.add(err)
		return
	}
	now := h.now()
	// One of a clock that is ahead by less is this one's too: else two processes would
	// take turns to walk all the time.
	ahead := w.Began.Sub(now) > walkEvery
	anew := version == 0 || ahead || now.Truncate(walkEvery).After(w.Began.Truncate(walkEvery))
	if held(w.Until, now) || w.Done && !anew && h.walker.whole {
		return
	}
	if ahead {
		if !h.walker.mended.IsZero() && time.Since(h.walker.mended) < walkEvery/2 {
			return // with two clocks that differ they would walk all the time
		}
		h.walker.mended = time.Now()
	}
	counts := false
	if w.Done || version == 0 || ahead {
		counts = anew && h.cfg.Counts != nil
		w = walk{Began: now, Mends: ahead}
	}
	errs.add(taken(h.walkOn(ctx, version, w, counts)))
}

// walkOn goes on with a walk. With counts it counts what it sees: it began it.
func (h *sweeps) walkOn(ctx context.Context, version int64, w walk, counts bool) error {
	lastDue := time.Now()
	var errs failures
	seen := map[string]int64{} // accounts, with their sessions
	hung := 0                  // accounts for which something did not answer: after the second one all would wait as long
	f := store.Filter{State: store.Unended}
	if w.Mends {
		f.State = store.Any
	}
	for {
		w.Until = h.now().Add(workLease)
		var err error
		if version, err = h.note(ctx, walkKey, version, w); err != nil {
			return err
		}
		lctx, cancel := h.bounded(ctx)
		page, next, err := h.cfg.Store.List(lctx, f, w.Cursor, walkPage)
		cancel()
		if err != nil && !alone(err) {
			if w.Cursor != "" && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
				w.Cursor, w.Until = "", time.Time{} // it may be the cursor that is no good
				_, _ = h.note(ctx, walkKey, version, w)
			}
			return err
		}
		errs.add(err)
		for i := range page {
			if ctx.Err() != nil {
				break
			}
			s := &page[i]
			if w.Mends {
				if err := h.mend(ctx, *s); err != nil {
					errs.add(err)
					return errs.join()
				}
			}
			if s.End != nil {
				continue
			}
			for j, account := range s.Accounts {
				if slices.Contains(s.Accounts[:j], account) {
					continue
				}
				seen[account]++
				if seen[account] > 1 || hung > 1 {
					continue
				}
				if w.Mends {
					if err := h.convergeAnew(ctx, account); err != nil {
						errs.add(err)
						return errs.join()
					}
				}
				err := h.convergeWhole(ctx, account)
				errs.add(err)
				if errors.Is(err, context.DeadlineExceeded) {
					hung++
				}
			}
		}
		if ctx.Err() != nil {
			w.Until = time.Time{} // anybody's, from this page on
			_, err = h.note(context.WithoutCancel(ctx), walkKey, version, w)
			errs.add(taken(err))
			return errs.join()
		}
		if w.Cursor = next; next == "" {
			break
		}
		if !h.dueBetween(ctx, &lastDue, &errs) {
			return errs.join()
		}
	}
	h.walker.whole = h.walker.whole || hung < 2
	w.Done, w.Until = true, time.Time{}
	if _, err := h.note(ctx, walkKey, version, w); err != nil {
		errs.add(taken(err))
		return errs.join()
	}
	if counts {
		errs.add(h.countLive(ctx, w.Began, seen))
	}
	dctx, cancel := h.bounded(ctx)
	defer cancel()
	errs.add(h.cfg.Store.DropDocument(dctx, accountsKey))
	return errs.join()
}

// convergeWhole is converge until there is nothing more to do at once.
func (h *sweeps) convergeWhole(ctx context.Context, account string) error {
	for {
		more, err := h.converge(ctx, account)
		if !more || err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// convergeAnew has the settings of an account applied again, as if they had been
// changed: with them all times follow at which sessions are looked at.
func (h *sweeps) convergeAnew(ctx context.Context, account string) error {
	h.settings.unapplied(account)
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	return h.cfg.Store.DropDocument(ctx, convergenceKey(account))
}

// longestWait is longer than anything waits that is tried again, or that somebody
// has to themselves.
const longestWait = 2 * time.Hour

// mend lets nothing wait because a clock was ahead: a notification, an end that is
// announced again, and a login whose code was not redeemed.
func (h *sweeps) mend(ctx context.Context, s store.Session) error {
	now := h.now()
	far := func(t time.Time) bool { return t.Sub(now) > longestWait }
	waits := s.End != nil && (s.End.Owed || !notify.Next(&s).IsZero()) && (far(s.Due) || slices.ContainsFunc(s.Deliveries, func(d store.Delivery) bool { return far(d.Next) }))
	if !waits && !(s.End == nil && far(s.ReservedUntil)) {
		return nil
	}
	ctx, cancel := h.detach(ctx)
	defer cancel()
	_, err := h.change(ctx, s, func(s *store.Session) error {
		if s.End == nil {
			if !far(s.ReservedUntil) {
				return errNoChange
			}
			s.ReservedUntil, s.Due = now, now
			return nil
		}
		s.Deliveries = slices.Clone(s.Deliveries)
		for i := range s.Deliveries {
			if far(s.Deliveries[i].Next) {
				s.Deliveries[i].Next = now
			}
		}
		h.schedule(s, ruling{})
		return nil
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil // others are at it
	}
	return err
}
