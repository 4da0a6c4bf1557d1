package linear

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

const (
	clients = 7
	calls   = 8 // of each client

	// checkLimit is how long porcupine may look for an order. It takes
	// milliseconds; a history that takes longer was not checked, and fails.
	checkLimit = time.Minute

	// forever is the end of a call whose outcome is unknown: it may take
	// effect at any time.
	forever = math.MaxInt64
)

// at is when the first session of a history begins.
var at = time.Date(2019, 3, 1, 12, 0, 0, 0, time.UTC)

// A tally counts what the calls of many histories came to.
type tally struct {
	histories, calls, overlapping int
	outcomes                      map[kind]map[outcome]int
	evicted                       int // sessions that logins ended
}

func (t *tally) add(ops []porcupine.Operation) {
	t.histories++
	t.calls += len(ops)
	for i, op := range ops {
		c, a := op.Input.(call), op.Output.(answer)
		if t.outcomes == nil {
			t.outcomes = map[kind]map[outcome]int{}
		}
		if t.outcomes[c.kind] == nil {
			t.outcomes[c.kind] = map[outcome]int{}
		}
		t.outcomes[c.kind][a.outcome]++
		if c.kind == admitEvict && a.outcome == done && len(a.seen) == sessionCap {
			t.evicted++
		}
		if slices.ContainsFunc(ops[i+1:], func(o porcupine.Operation) bool { return o.Call <= op.Return && op.Call <= o.Return }) {
			t.overlapping++
		}
	}
}

// count returns how many calls of all kinds had an outcome.
func (t *tally) count(o outcome) int {
	n := 0
	for _, outcomes := range t.outcomes {
		n += outcomes[o]
	}
	return n
}

func (t *tally) String() string {
	return fmt.Sprintf("%d histories, %d calls, %d of them at the same time as a later one, %d with an unknown outcome, %d sessions evicted; %v",
		t.histories, t.calls, t.overlapping, t.count(unknown), t.evicted, t.outcomes)
}

// linearizable runs n histories, each of a subject of its own, on the handles of
// one store, and requires that each of them is linearizable.
func linearizable(t *testing.T, n int, handles ...store.Sessions) {
	t.Helper()
	refreshesOver(t, handles[0])
	total := judge(t, n, handles, func(ops []porcupine.Operation, verdict porcupine.CheckResult) {
		require.Equal(t, porcupine.Ok, verdict, "no order of these calls explains their answers:\n%s", history(ops))
	})
	t.Log(total)
	for _, o := range []outcome{done, notFound, conflict, exists, full, refused} {
		require.NotZero(t, total.count(o), "no call had the outcome %q", o)
	}
	for _, k := range []kind{create, admitRefuse, admitEvict, admitTouch, refresh, end, get, listUnended, listAny, remove} {
		require.NotZero(t, total.outcomes[k][done], "no call of the kind %q was done", k)
	}
	require.NotZero(t, total.evicted)
	require.NotZero(t, total.overlapping)
}

// refreshesOver does what rarely happens in a history: a refresh replaces a session
// that was deleted, while one of the same ID and revision is there and has ended.
func refreshesOver(t *testing.T, s store.Sessions) {
	t.Helper()
	ctx := t.Context()
	subject := store.Subject{Issuer: "https://login.example.com", ID: "over"}
	r := &recorder{subject: subject}
	first := version{id: store.Bucket(subject) + "-over", revision: 1}
	second := version{id: first.id, revision: 2}
	ended := version{id: first.id, revision: 1, ended: true}
	for _, c := range []call{
		{kind: create, write: first}, {kind: refresh, write: first}, {kind: remove, write: second, at: 2},
		{kind: create, write: first}, {kind: end, write: ended},
	} {
		_, err := r.call(ctx, s, c)
		require.NoError(t, err, c.kind)
	}
	_, err := r.call(ctx, s, call{kind: refresh, write: second})
	require.Equal(t, over, outcomeOf(err), "%v", err)
}

// judge runs n histories, two at a time, and hands each with porcupine's verdict
// to found, one after the other.
func judge(t *testing.T, n int, handles []store.Sessions, found func([]porcupine.Operation, porcupine.CheckResult)) *tally {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	histories := make(chan []porcupine.Operation)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n && ctx.Err() == nil; i = int(next.Add(1)) {
				ops, err := record(ctx, i, handles)
				if err != nil {
					t.Errorf("history %d: %v", i, err)
					return
				}
				select {
				case histories <- ops:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		wg.Wait()
		close(histories)
	}()
	// Those who record are waited for, whatever becomes of the test.
	defer func() {
		cancel()
		wg.Wait()
	}()
	total := &tally{}
	for ops := range histories {
		total.add(ops)
		found(ops, porcupine.CheckOperationsTimeout(model, ops, checkLimit))
	}
	require.False(t, t.Failed())
	return total
}

// A recorder is one history in the making.
type recorder struct {
	subject store.Subject
	prefix  string // of the IDs of its sessions
	began   time.Time
	numbers atomic.Int64 // of calls
	names   atomic.Int64 // of sessions

	mu    sync.Mutex
	known map[string]version // as somebody saw them last
	ops   []porcupine.Operation
	err   error
}

// record lets clients loose on the sessions of the i-th subject.
func record(ctx context.Context, i int, handles []store.Sessions) ([]porcupine.Operation, error) {
	subject := store.Subject{Issuer: "https://login.example.com", ID: "user " + strconv.Itoa(i)}
	r := &recorder{
		subject: subject, prefix: fmt.Sprintf("%s-%d-", store.Bucket(subject), i),
		began: time.Now(), known: map[string]version{},
	}
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(client)))
			for range calls {
				r.do(ctx, handles[client%len(handles)], client, random)
			}
		})
	}
	wg.Wait()
	return r.ops, r.err
}

// do makes one call and notes it.
func (r *recorder) do(ctx context.Context, s store.Sessions, client int, random *rand.Rand) {
	c := r.choose(random)
	limit := 20 * time.Second
	if random.IntN(25) == 0 {
		limit = time.Duration(random.IntN(2000)) * time.Microsecond // it may be cut off
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	op := porcupine.Operation{ClientId: client, Input: c, Call: int64(time.Since(r.began))}
	a, err := r.call(ctx, s, c)
	op.Return = int64(time.Since(r.began))
	a.outcome = outcomeOf(err)
	op.Output = a

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range a.seen {
		r.known[v.id] = v
	}
	switch {
	case a.outcome == conflict && a.looked && !interrupted(ctx, err):
		r.err = fmt.Errorf("%s: gave up before its context ended: %w", describe(c, a), err)
	case a.outcome != unknown:
	case limit > time.Second && r.err == nil && !interrupted(ctx, err):
		r.err = fmt.Errorf("%s: %w", describe(c, a), err)
	case c.kind == get || c.kind == listUnended || c.kind == listAny:
		return // it changed nothing and was told nothing
	default:
		op.Return, op.Output = forever, answer{outcome: unknown}
	}
	r.ops = append(r.ops, op)
}

// interrupted reports whether a call failed for want of the store, which is the
// one way to fail that these calls may have beside those of the contract.
func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}

// choose returns the next call of a client.
func (r *recorder) choose(random *rand.Rand) call {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := call{number: int(r.numbers.Add(1))}
	name := func() string { return fmt.Sprintf("%s%02d", r.prefix, r.names.Add(1)) }
	var ids []string
	for id := range r.known {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	any := version{id: r.prefix + "00"} // which is never there
	if len(ids) > 0 {
		any = r.known[ids[random.IntN(len(ids))]]
	}
	switch n := random.IntN(100); {
	case n < 10:
		c.kind = create
	case n < 28:
		c.kind = admitRefuse
	case n < 42:
		c.kind = admitEvict
	case n < 46:
		c.kind = admitTouch
	case n < 62:
		c.kind, c.write = refresh, any
	case n < 72:
		c.kind, c.write = end, any
		c.write.ended = true
	case n < 82:
		c.kind, c.write.id = get, any.id
	case n < 90:
		c.kind = listUnended
	case n < 95:
		c.kind = listAny
	default:
		c.kind, c.write.id, c.at = remove, any.id, any.revision
	}
	switch c.kind {
	case create, admitRefuse, admitEvict:
		c.write = version{id: name(), started: c.number}
		if random.IntN(8) == 0 && len(ids) > 0 {
			c.write.id = any.id // the same login once more
		}
	}
	return c
}

// call makes a call.
func (r *recorder) call(ctx context.Context, s store.Sessions, c call) (a answer, err error) {
	switch c.kind {
	case create:
		return a, s.Create(ctx, r.session(c), sessionCap)
	case admitRefuse, admitEvict, admitTouch:
		err := s.Admit(ctx, r.subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			a.looked, a.seen = true, versions(held)
			return r.decide(c, held)
		})
		return a, err
	case refresh, end:
		a.revision, err = s.Update(ctx, r.session(c))
		return a, err
	case get:
		found, err := s.Get(ctx, c.write.id)
		if err == nil {
			a.seen = versions([]store.Session{found})
		}
		return a, err
	case listUnended, listAny:
		f := store.Filter{Subject: r.subject}
		if c.kind == listUnended {
			f.State = store.Unended
		}
		page, next, err := s.List(ctx, f, "", 1000)
		if err == nil && next != "" {
			return a, errors.New("a subject with some sessions is more than a page of a thousand")
		}
		a.seen = versions(page)
		return a, err
	case remove:
		return a, s.Delete(ctx, c.write.id, c.at)
	}
	panic("unknown kind of call " + c.kind)
}

// rules are the policy of the logins, by the kind of their calls.
var rules = map[kind]policy.Rules{admitRefuse: rulesOf(policy.Refuse), admitEvict: rulesOf(policy.EndOldest)}

func rulesOf(atLimit policy.AtLimit) policy.Rules {
	var a policy.Account
	a.Concurrent, a.AtLimit = policy.LimitTo(sessionCap), atLimit
	settings := policy.Settings{Accounts: map[string]policy.Account{"default": a}}
	return settings.Rules(policy.Who{Memberships: []policy.Membership{{Account: "default"}}})
}

var errRefused = errors.New("the cap is reached")

// decide is the step of an admission, as the hook does it.
func (r *recorder) decide(c call, held []store.Session) ([]store.Session, error) {
	if c.kind == admitTouch {
		for i := range held {
			held[i].UserAgent = strconv.Itoa(c.number)
		}
		return held, nil
	}
	s := r.session(c)
	others := make([]policy.Session, len(held))
	for i := range held {
		if held[i].ID == s.ID {
			return nil, store.ErrExists
		}
		others[i] = held[i].Policy()
	}
	d := rules[c.kind].Admit(at, others, s.Policy())
	if !d.Allow {
		return nil, errRefused
	}
	changed := []store.Session{s}
	for _, e := range d.End {
		i := slices.IndexFunc(held, func(s store.Session) bool { return s.ID == e.ID })
		held[i].End = &store.End{At: at, Reason: e.Reason}
		held[i].UserAgent = strconv.Itoa(c.number)
		changed = append(changed, held[i])
	}
	return changed, nil
}

// session returns the session that a call writes. Its user agent is the tag.
func (r *recorder) session(c call) store.Session {
	began := at.Add(time.Duration(c.write.started) * time.Second)
	s := store.Session{
		Format: store.Format, ID: c.write.id, Subject: r.subject, Accounts: []string{"default"}, Kind: policy.Browser, Client: "web",
		Started: began, Authenticated: began, LastActivity: began, UserAgent: strconv.Itoa(c.number),
		Grants:   []store.Grant{{ID: "g", Client: "web", Authenticated: began}},
		Revision: c.write.revision,
	}
	if c.write.ended {
		s.End = &store.End{At: at, Reason: policy.ReasonLogout}
	}
	return s
}

// versions returns what the model knows of sessions.
func versions(list []store.Session) []version {
	var out []version
	for _, s := range list {
		tag, err := strconv.Atoi(s.UserAgent)
		if err != nil {
			tag = -1 // no call wrote that
		}
		out = append(out, version{
			id: s.ID, revision: s.Revision, started: int(s.Started.Sub(at) / time.Second), tag: tag, ended: s.End != nil,
		})
	}
	return out
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return done
	case errors.Is(err, store.ErrNotFound):
		return notFound
	case errors.Is(err, store.ErrConflict):
		return conflict
	case errors.Is(err, store.ErrExists):
		return exists
	case errors.Is(err, store.ErrFull):
		return full
	case errors.Is(err, errRefused):
		return refused
	case strings.HasSuffix(err.Error(), "has ended and cannot be brought back"): // no error of the contract
		return over
	}
	return unknown
}
