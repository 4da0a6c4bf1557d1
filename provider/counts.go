package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A Period counts the events of an account from Start until the next period.
type Period struct {
	Start time.Time

	Started map[policy.Kind]int64   // sessions that began, by kind
	Refused map[policy.Reason]int64 // logins that the policy refused, by reason
	Ended   map[policy.Reason]int64 // sessions that ended, by reason

	// Live is the number of sessions that had not ended, averaged over Samples counts. It includes
	// logins whose code is not redeemed yet, and sessions that are over but not swept yet. If
	// Samples is 0, nothing was counted, and Live has no meaning.
	Live    float64
	Samples int64
}

// OtherKind and OtherReason stand for kinds and reasons that [Hook.Counts] does not distinguish: a
// [Config.Kind] may return anything.
const (
	OtherKind   policy.Kind   = "other"
	OtherReason policy.Reason = "other"
)

// CountsKept is how long counts are kept.
const CountsKept = 100 * 24 * time.Hour

// Counts returns what happened in an account between two times, in periods of the
// given length: hours for a chart of a day, days for one of months. The first period begins at
// from, rounded down to the hour; the last one contains the moment before to. A period in which
// nothing happened is returned too. At most [CountsKept] may lie between from and to, and step must be a
// multiple of an hour.
//
// The numbers are for charts. They do not yet include what this process counted since its last
// sweep. The end of a session counts in the hour in which it ended, whenever that is noticed. If a
// process is killed, its counts since its last sweep (10 s by default) are lost. Counts that could
// not be written while the store did not answer are written later, and count twice if the store had
// accepted them. Only processes without [Config.NoCounts] count: set it in all processes, or in
// none.
func (h *Hook) Counts(ctx context.Context, account string, from, to time.Time, step time.Duration) ([]Period, error) {
	from = from.UTC().Truncate(time.Hour)
	switch {
	case step < time.Hour || step%time.Hour != 0:
		return nil, fmt.Errorf("counts: step is %s: a multiple of an hour is required", step)
	case to.Sub(from) > CountsKept:
		return nil, fmt.Errorf("counts: %s are asked for, at most %s is possible", to.Sub(from), CountsKept)
	}
	var periods []Period
	for start := from; start.Before(to); start = start.Add(step) {
		periods = append(periods, Period{
			Start: start, Started: map[policy.Kind]int64{}, Refused: map[policy.Reason]int64{}, Ended: map[policy.Reason]int64{},
		})
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	counts, err := h.cfg.Store.ReadCounts(ctx, account, from, to)
	if err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	samples, err := h.cfg.Store.ReadCounts(ctx, everyAccount, from, to)
	if err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	counts = append(counts, samples...)
	live := make([]int64, len(periods))
	for _, c := range counts {
		i := int(c.Hour.Sub(from) / step)
		p := &periods[i]
		what, value, _ := strings.Cut(c.Name, ".")
		switch what {
		case countStarted:
			p.Started[policy.Kind(value)] += c.N
		case countRefused:
			p.Refused[policy.Reason(value)] += c.N
		case countEnded:
			p.Ended[policy.Reason(value)] += c.N
		case countLive:
			live[i] += c.N
		case countSamples:
			p.Samples += c.N
		}
	}
	for i := range periods {
		if p := &periods[i]; p.Samples > 0 {
			p.Live = float64(live[i]) / float64(p.Samples)
		}
	}
	return periods, nil
}

// The names of counters. The first three are followed by a dot and a kind or
// reason. The last two add up what was seen each time that live sessions were
// counted, and how often that was: neither several processes nor restarts distort
// their quotient. How often is counted once for all accounts, under [everyAccount];
// an earlier version did it in each.
const (
	countStarted = "started"
	countRefused = "refused"
	countEnded   = "ended"
	countLive    = "live"
	countSamples = "samples"
)

const (
	// maxCounters bounds what waits to be written, for as long as the store does
	// not answer: beyond it counters that are new are left out.
	maxCounters = 50_000

	// dropEvery is how often each process drops the old counters of an account, and
	// dropAtOnce of how many accounts a sweep does.
	dropEvery  = 24 * time.Hour
	dropAtOnce = 100
)

// A counter gathers what happened until it is written. The zero counter is ready.
type counter struct {
	mu      sync.Mutex
	waiting map[store.Count]int64 // by what is counted; their N is 0

	writing sync.Mutex           // one sweep at a time writes
	dropped map[string]time.Time // when the old counters of an account were dropped
}

// count notes an event of a session. It does not block.
func (h *base) count(e Event, s *store.Session) {
	name, at := "", h.now()
	switch e.Type {
	case EventStarted:
		name = countStarted + "." + string(knownKind(e.Kind))
	case EventRefused:
		name = countRefused + "." + string(knownReason(e.Reason))
	case EventEnded:
		name, at = countEnded+"."+string(knownReason(e.Reason)), s.End.At
	default:
		return
	}
	for i, account := range s.Accounts {
		if !slices.Contains(s.Accounts[:i], account) {
			h.addCount(store.Count{Account: account, Hour: at.UTC().Truncate(time.Hour), Name: name}, 1)
		}
	}
}

func knownKind(kind policy.Kind) policy.Kind {
	if kind.Known() {
		return kind
	}
	return OtherKind
}

func knownReason(reason policy.Reason) policy.Reason {
	if reason.Known() {
		return reason
	}
	return OtherReason
}

func (h *base) addCount(c store.Count, n int64) {
	sample := c
	sample.N = 1
	if h.cfg.NoCounts || sample.Validate() != nil { // an account that cannot be counted
		return
	}
	h.counter.mu.Lock()
	defer h.counter.mu.Unlock()
	if _, there := h.counter.waiting[c]; !there && len(h.counter.waiting) >= maxCounters {
		return
	}
	if h.counter.waiting == nil {
		h.counter.waiting = map[store.Count]int64{}
	}
	h.counter.waiting[c] += n
}

// keepCounts does what a sweep does for the counters: it writes what waits, and
// once a day drops what is old of an account that it writes of.
func (h *sweeps) keepCounts(ctx context.Context) error {
	if h.cfg.NoCounts {
		return nil
	}
	h.counter.writing.Lock()
	defer h.counter.writing.Unlock()
	written, err := h.writeCounts(ctx)
	if err != nil {
		return err
	}
	return h.dropCounts(ctx, written)
}

// dropCounts drops the old counters of some of the given accounts.
func (h *sweeps) dropCounts(ctx context.Context, accounts []string) error {
	if h.counter.dropped == nil || len(h.counter.dropped) > maxCounters {
		h.counter.dropped = map[string]time.Time{}
	}
	n := 0
	for _, account := range accounts {
		if last, done := h.counter.dropped[account]; done && time.Since(last) < dropEvery {
			continue
		}
		if n++; n > dropAtOnce {
			return nil
		}
		dctx, cancel := h.bounded(ctx)
		err := h.cfg.Store.DropCounts(dctx, account, h.now().Add(-CountsKept-dropEvery))
		cancel()
		if err != nil {
			return fmt.Errorf("drop counts: %w", err)
		}
		h.counter.dropped[account] = time.Now()
	}
	return nil
}

// everyAccount is what the number of times is counted for at which live sessions
// were counted. No account has that name: it is no text.
const everyAccount = "\x00every account"

// countLive writes how many sessions were live in each account.
func (h *sweeps) countLive(ctx context.Context, at time.Time, live map[string]int64) error {
	hour := at.UTC().Truncate(time.Hour)
	var batch []store.Count
	write := func() error {
		wctx, cancel := h.bounded(ctx)
		defer cancel()
		err := h.cfg.Store.AddCounts(wctx, batch)
		batch = batch[:0]
		return err
	}
	for account, n := range live {
		if c := (store.Count{Account: account, Hour: hour, Name: countLive, N: n}); c.Validate() == nil {
			batch = append(batch, c)
		}
		if len(batch) == store.MaxAddedCounts {
			if err := write(); err != nil {
				return fmt.Errorf("count live sessions: %w", err)
			}
		}
	}
	batch = append(batch, store.Count{Account: everyAccount, Hour: hour, Name: countSamples, N: 1})
	if err := write(); err != nil {
		return fmt.Errorf("count live sessions: %w", err)
	}
	return nil
}

// writeCounts writes what waits, and returns of which accounts. What it could not
// write waits on.
func (h *sweeps) writeCounts(ctx context.Context) (accounts []string, err error) {
	h.counter.mu.Lock()
	waiting := h.counter.waiting
	h.counter.waiting = nil
	h.counter.mu.Unlock()
	batch := make([]store.Count, 0, min(len(waiting), store.MaxAddedCounts))
	written := map[string]bool{everyAccount: true}
	write := func() {
		if err == nil && len(batch) > 0 {
			wctx, cancel := h.bounded(ctx)
			err = h.cfg.Store.AddCounts(wctx, batch)
			cancel()
		}
		if err != nil {
			for _, c := range batch {
				n := c.N
				c.N = 0
				h.addCount(c, n)
			}
		}
		batch = batch[:0]
	}
	for c, n := range waiting {
		written[c.Account] = true
		c.N = min(n, store.MaxAddedCount)
		if batch = append(batch, c); len(batch) == store.MaxAddedCounts {
			write()
		}
	}
	write()
	if err != nil {
		return nil, fmt.Errorf("write counts: %w", err)
	}
	return slices.Collect(maps.Keys(written)), nil
}

// lastCounts writes what waits when [Hook.Run] ends.
func (h *sweeps) lastCounts(ctx context.Context) {
	ctx, cancel := h.detach(ctx)
	defer cancel()
	h.counter.writing.Lock()
	defer h.counter.writing.Unlock()
	if _, err := h.writeCounts(ctx); err != nil {
		h.event(ctx, Event{Type: EventSweepFailed, Err: errors.Join(err, ctx.Err())})
	}
}
