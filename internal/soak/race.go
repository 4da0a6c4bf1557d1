package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/curfew-oidc/curfew/policy"
)

const (
	places    = 4 // processes of a fleet
	limit     = 3 // the cap
	allLogins = 256
	workers   = 32

	// visitors is how many come and go at once in a mixed race: more than the
	// cap, and few enough that some stay to refresh.
	visitors = 6

	// refusedPause is what a refused visitor waits before the next try, so that
	// most of the work is not for those who find no room.
	refusedPause = 50 * time.Millisecond

	// idle is how long a command line may go unused. The browsers of the
	// tests never go unused for too long.
	idle = 2 * time.Second
)

// modes are what may happen to a login at the cap. Each round has a user for
// each of them.
var modes = []policy.AtLimit{policy.Refuse, policy.EndOldest, policy.EndIdlest, policy.Ask}

// A world is one database and the processes on it.
type world struct {
	engine   engine
	fleet    *fleet
	dir      string
	args     []string
	followed *replay      // the history so far
	taken    atomic.Int64 // codes that were sent twice, and taken the first time
}

// people writes the files that all processes of a fleet share, and returns the
// flags for them. For each mode there are the users plain-<mode>, mixed-<mode>
// and forgotten-<mode>, then answering, whose cap asks, and for refuse so many more
// as needed, user-0 and so on.
func people(dir string, more int) ([]string, error) {
	// The lowest cost: this is not about bcrypt.
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	var users, scopes strings.Builder
	add := func(name string, mode policy.AtLimit) {
		fmt.Fprintf(&users, "- {username: %s, sub: %s, password_hash: %q}\n", name, name, hash)
		fmt.Fprintf(&scopes, "      %s: {concurrent: %d, at_limit: %s}\n", name, limit, mode)
	}
	for _, mode := range modes {
		add("plain-"+mode.String(), mode)
		add("mixed-"+mode.String(), mode)
		add(forgotten+mode.String(), mode)
	}
	add(answering, policy.Ask)
	for i := range more {
		add(fmt.Sprintf("user-%d", i), policy.Refuse)
	}
	files := []struct{ flag, name, content string }{
		{"-users", "users.yaml", users.String()},
		{"-clients", "clients.json", fmt.Sprintf(`[
{"client_id": %q, "client_secret": %q, "type": "web", "redirect_uris": [%q], "grant_types": ["authorization_code", "refresh_token"]},
{"client_id": %q, "type": "native", "redirect_uris": [%q], "grant_types": ["authorization_code", "refresh_token"]}]`,
			web, webSecret, redirectURIs[web], cli, redirectURIs[cli])},
		{"-settings", "settings.yaml", settings(limit, scopes.String())},
	}
	args := []string{"-floor", "1s", "-signing-alg", "ES256", "-keys", dir + "/keys.json"}
	for _, f := range files {
		path, err := put(dir, f.name, f.content)
		if err != nil {
			return nil, err
		}
		args = append(args, f.flag, path)
	}
	return args, nil
}

func settings(concurrent int, users string) string {
	return fmt.Sprintf("accounts:\n  default:\n    active: 24h\n    concurrent: %d\n    kinds:\n      cli: {inactivity: %s}\n    users:\n%s",
		concurrent, idle, users)
}

// newWorld starts a fleet on an empty database, and its history.
func newWorld(ctx context.Context, e engine, dir string, programs []string, more int) (*world, error) {
	args, err := people(dir, more)
	if err != nil {
		return nil, err
	}
	args = append(args, "-store", e.url())
	f, err := startFleet(dir, programs, args...)
	if err != nil {
		return nil, err
	}
	w := &world{engine: e, fleet: f, dir: dir, args: args, followed: newReplay(limit)}
	if err := e.record(ctx); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return w, nil
}

// same is the same program so many times.
func same(program string) []string {
	programs := make([]string, places)
	for i := range programs {
		programs[i] = program
	}
	return programs
}

// replay follows the history until now, from where it was followed to before.
func (w *world) replay(ctx context.Context) (*replay, error) {
	more, err := w.engine.history(ctx)
	if err != nil {
		return nil, err
	}
	return w.followed, w.followed.run(more)
}

// An outcome is what became of the logins of one race.
type outcome struct {
	logins, admitted, refused, evicted, refreshes, ends int

	asked int // of the refused: a page asked, and they gave up
}

// A tally counts by many goroutines.
type tally struct{ admitted, refused, evicted, refreshes, ends, asked, lost atomic.Int64 }

func (t *tally) outcome(logins int) outcome {
	return outcome{
		logins: logins, admitted: int(t.admitted.Load()), refused: int(t.refused.Load()), evicted: int(t.evicted.Load()),
		refreshes: int(t.refreshes.Load()), ends: int(t.ends.Load()), asked: int(t.asked.Load()),
	}
}

// each runs do for 0 to n-1 in so many goroutines, and returns the first error.
func each(ctx context.Context, n, workers int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, workers) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(ctx, i); err != nil {
					cancel(fmt.Errorf("login %d: %w", i, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// hasReason reports whether a client was told why it was refused.
func hasReason(err error, reason policy.Reason) bool {
	var r *refusal
	return errors.As(err, &r) && strings.HasPrefix(r.description, string(reason))
}

// ousted reports whether a client was told that its session had to make room: for
// a later login, or because somebody chose it where a page asked.
func ousted(err error) bool {
	return hasReason(err, policy.ReasonConcurrency) && !full(err) || hasReason(err, policy.ReasonEndedByUser)
}

// full reports whether a client was told that the cap is reached, with the number
// of sessions, rather than that a session of its own has ended for that.
func full(err error) bool {
	var r *refusal
	return errors.As(err, &r) && strings.HasPrefix(r.description, fmt.Sprintf("%s: used=%d max=%d;", policy.ReasonConcurrency, limit, limit))
}

// plain is the race as such: many logins of one user have entered their password,
// and all come for their code at once, each at another process than before.
func (w *world) plain(ctx context.Context, mode policy.AtLimit, logins int) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	user := "plain-" + mode.String()
	list := make([]*login, logins)
	err := each(ctx, logins, workers, func(ctx context.Context, i int) (err error) {
		list[i], err = w.signedIn(ctx, i, web, user)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	var t tally
	err = each(ctx, logins, 2*workers, func(ctx context.Context, i int) error {
		return w.redeem(ctx, list[i], &t)
	})
	if err != nil {
		return outcome{}, err
	}
	return w.settled(ctx, user, list, &t)
}

// answered is the race at a cap that asks, of users who answer: each of them ends
// one of the sessions that the page shows, which may be one that was admitted just
// now, and goes in. Everybody gets in once, and each place but the first ones was
// made by an answer.
func (w *world) answered(ctx context.Context, logins int) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	list := make([]*login, logins)
	err := each(ctx, logins, workers, func(ctx context.Context, i int) (err error) {
		list[i], err = w.signedIn(ctx, i, web, answering)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	var t tally
	err = each(ctx, logins, 2*workers, func(ctx context.Context, i int) error {
		list[i].choose = func(sessions []string) []string { return sessions[i%len(sessions):][:1] }
		return w.redeem(ctx, list[i], &t)
	})
	if err != nil {
		return outcome{}, err
	}
	o, err := w.settled(ctx, answering, list, &t)
	if n := w.followed.ends[policy.ReasonEndedByUser]; err == nil && (o.admitted != logins || n != logins-limit) {
		err = fmt.Errorf("%d of %d logins were admitted, and their answers ended %d sessions", o.admitted, logins, n)
	}
	return o, err
}

// answering is the user of answered.
const answering = "answering"

// settled proves that exactly as many as the cap allows are left: by the clients,
// whose tokens work or are refused for the cap, and by the history.
func (w *world) settled(ctx context.Context, user string, list []*login, t *tally) (outcome, error) {
	var working atomic.Int64
	err := each(ctx, len(list), workers, func(ctx context.Context, i int) error {
		if list[i].refreshToken == "" {
			return nil
		}
		err := list[i].refresh(ctx)
		switch {
		case err == nil:
			working.Add(1)
			t.refreshes.Add(1)
		case ousted(err):
			t.evicted.Add(1)
		default:
			return err
		}
		return nil
	})
	if err != nil {
		return outcome{}, err
	}
	r, err := w.replay(ctx)
	if err != nil {
		return outcome{}, err
	}
	if n := len(r.live(user, time.Now(), idle)); n != limit || working.Load() != limit {
		return outcome{}, fmt.Errorf("at the end %d sessions of %s are live, and %d clients have a token that works: want %d", n, user, working.Load(), limit)
	}
	o := t.outcome(len(list))
	if o.admitted+o.refused != o.logins || o.admitted-o.evicted != limit {
		return outcome{}, fmt.Errorf("the logins do not add up: %+v", o)
	}
	return o, nil
}

// mixed is the race amid everything else: those who get in refresh, and then
// leave, by signing out, by revoking their token, or by being forgotten until a
// sweep or the next login finds them. So there is room again and again, and who
// was refused tries again until it is let in. When all have left, browsers come
// until the cap is reached. Meanwhile a sweep has to find the user whom everybody
// forgot: see swept.
func (w *world) mixed(ctx context.Context, mode policy.AtLimit, logins int) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	user := "mixed-" + mode.String()
	if err := w.forget(ctx, forgotten+mode.String()); err != nil {
		return outcome{}, err
	}
	var t tally
	err := each(ctx, logins, visitors, func(ctx context.Context, i int) error {
		for {
			l, err := w.visit(ctx, i, user, &t)
			if err != nil || !l.refused {
				return err
			}
			time.Sleep(refusedPause)
		}
	})
	if err != nil {
		return outcome{}, err
	}
	if err := w.until(ctx, func(r *replay) bool { return len(r.live(user, time.Now(), idle)) == 0 }); err != nil {
		return outcome{}, fmt.Errorf("not all have left: %w", err)
	}

	last := make([]*login, 2*limit)
	var end tally
	err = each(ctx, len(last), len(last), func(ctx context.Context, i int) (err error) {
		last[i], err = w.enter(ctx, i, web, user, &end)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	final, err := w.settled(ctx, user, last, &end)
	o := t.outcome(int(t.admitted.Load() + t.refused.Load()))
	o.logins += final.logins
	o.admitted += final.admitted
	o.refused += final.refused
	o.evicted += final.evicted
	o.refreshes += final.refreshes
	return o, err
}

// forgotten begins the names of users with one command line each, which is never
// used after its login, and after which nobody signs in. Nothing but a sweep can
// end it. Of the other users a login may end it first: whoever is admitted at a
// cap ends the sessions that are over in the same step.
const forgotten = "forgotten-"

// forget makes the session of such a user.
func (w *world) forget(ctx context.Context, user string) error {
	for i := 0; ; i++ {
		l, err := w.enter(ctx, i, cli, user, &tally{})
		if err != nil || l.refreshToken != "" {
			return err
		}
	}
}

// signedIn returns a login that has entered its password.
func (w *world) signedIn(ctx context.Context, at int, client, user string) (*login, error) {
	l := w.fleet.newLogin(at, client, user)
	return l, w.signIn(ctx, l)
}

// signIn enters the password. If an answer was lost, or came too late, the user
// begins again: nothing was admitted yet.
func (w *world) signIn(ctx context.Context, l *login) error {
	for try := 1; ; try++ {
		err := l.signIn(ctx)
		again := errors.Is(err, errLost) || errors.Is(err, errElsewhere) && try < tries
		if !again || ctx.Err() != nil {
			return err
		}
		l.beginAgain()
	}
}

// tries is how often a login may begin that is taken for one of another browser:
// at each process, also while they are exchanged.
const tries = 4 * places

// enter signs in and gets tokens. A login that the cap refuses or ends is
// counted; it has no token then.
func (w *world) enter(ctx context.Context, at int, client, user string, t *tally) (*login, error) {
	l, err := w.signedIn(ctx, at, client, user)
	if err == nil {
		err = w.redeem(ctx, l, t)
	}
	return l, err
}

// redeem is the second half of enter. A login that came to nothing begins again.
func (w *world) redeem(ctx context.Context, l *login, t *tally) error {
	for try := 1; ; try++ {
		err := w.redeemOnce(ctx, l, t)
		again := errors.Is(err, errTaken) || errors.Is(err, errElsewhere) && try < tries
		if !again || ctx.Err() != nil {
			return err
		}
		l.beginAgain()
		if err := w.signIn(ctx, l); err != nil {
			return err
		}
	}
}

func (w *world) redeemOnce(ctx context.Context, l *login, t *tally) error {
	code, err := l.callback(ctx)
	switch {
	case full(err):
		t.refused.Add(1)
		if l.refused = true; l.asked {
			t.asked.Add(1)
		}
		return nil
	case ousted(err):
		// It was admitted before, by a try whose answer did not come in time,
		// and another login has taken its place.
		t.admitted.Add(1)
		t.evicted.Add(1)
		return nil
	case l.late(err):
		l.refused = true // it was not admitted, and begins again
		return nil
	case err != nil:
		return err
	}
	err = l.redeem(ctx, code)
	if errors.Is(err, errTaken) {
		w.taken.Add(1)
		return err
	}
	t.admitted.Add(1)
	switch {
	case ousted(err):
		t.evicted.Add(1)
		return nil
	case l.late(err):
		return nil
	}
	return err
}

// late reports whether a command line was refused because the machine was too busy
// for its next step to come within the time that it may go unused.
func (l *login) late(err error) bool {
	return l.client == cli && hasReason(err, policy.ReasonInactivity)
}

// visit enters by one client or the other, refreshes twice and leaves.
func (w *world) visit(ctx context.Context, i int, user string, t *tally) (*login, error) {
	l, err := w.enter(ctx, i, []string{web, cli}[i%2], user, t)
	if err == nil && l.refreshToken != "" {
		err = w.stay(ctx, l, i, t)
	}
	return l, err
}

// stay is the rest of visit.
func (w *world) stay(ctx context.Context, l *login, i int, t *tally) error {
	for range 2 {
		err := l.refresh(ctx)
		switch {
		case ousted(err):
			t.evicted.Add(1)
			return nil
		case l.late(err):
			return nil
		case err != nil:
			return err
		}
		t.refreshes.Add(1)
	}
	if i%12 == 1 {
		return nil // a command line, forgotten
	}
	t.ends.Add(1)
	if l.client == cli {
		return l.revoke(ctx)
	}
	return l.signOut(ctx)
}

// until waits until the history is as it has to be.
func (w *world) until(ctx context.Context, holds func(*replay) bool) error {
	for {
		r, err := w.replay(ctx)
		if err != nil || holds(r) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// swept waits until all that is over has ended, those who were forgotten included,
// and returns the history.
func (w *world) swept(ctx context.Context) (*replay, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	err := w.until(ctx, func(r *replay) bool {
		for _, s := range r.sessions {
			if s.End == nil && s.Kind == policy.CLI {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("not all that is over was swept: %w", err)
	}
	return w.followed, nil
}
