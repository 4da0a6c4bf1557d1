package provider

import (
	"cmp"
	"context"
	"crypto/sha256"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

// settingsGrace is for how long settings that cannot be read again stay in
// force for sessions that are live already. New logins do not get it.
const settingsGrace = 5 * time.Minute

// A settingsCache keeps accounts' settings for a while. Time comes from the
// monotonic clock: a clock that is set does not stretch it.
type settingsCache struct {
	source  SettingsSource
	maxAge  time.Duration
	timeout time.Duration

	mu       sync.Mutex
	accounts map[string]*cachedAccount
}

// A cachedAccount is what is known of an account. mu of the cache guards it.
type cachedAccount struct {
	reading chan struct{} // holds a value while somebody reads

	account policy.Account
	edition edition   // of them as stored; zero: not known, of those from elsewhere
	read    time.Time // when reading it began; zero: it was never read
	changes int       // how often others were read than before, the first ones included, since a sweep dealt with them

	failure error     // of the last try, if it failed
	failed  time.Time // when it did

	used    time.Time // by anything but a sweep
	looked  time.Time // when a sweep last did; zero: it should
	applied *applied  // what is known to be applied to live sessions
}

// An applied is what is known of settings that were applied.
type applied struct {
	sum [sha256.Size]byte
	edition
}

// An edition is one writing of an account's settings: they may be what they were
// again, and others in between. After a backup was put back a version may be written
// a second time.
type edition struct {
	version int64 // 0: not known
	at      int64 // when, in microseconds
}

// editedSettings are settings of which the edition is known.
type editedSettings interface {
	accountEdition(ctx context.Context, account string) (policy.Account, edition, error)
}

// maxCachedAccounts bounds the memory; beyond it the cache starts anew.
const maxCachedAccounts = 10_000

func newSettingsCache(source SettingsSource, maxAge, timeout time.Duration) *settingsCache {
	return &settingsCache{source: source, maxAge: maxAge, timeout: timeout, accounts: map[string]*cachedAccount{}}
}

// entry returns what is known of an account. The caller holds mu.
func (c *settingsCache) entry(account string) *cachedAccount {
	e := c.accounts[account]
	if e == nil {
		if len(c.accounts) >= maxCachedAccounts {
			clear(c.accounts)
		}
		e = &cachedAccount{reading: make(chan struct{}, 1)}
		c.accounts[account] = e
	}
	return e
}

// get returns the settings of an account. If they cannot be read and the last
// ones are not too old, it returns those, unless they must be fresh; stale is
// then the reason, if this call found it.
//
// One caller at a time reads, and those who waited for it have its result. After
// a failure the last settings are used for a while without another try: a source
// that hangs must not hold each request up.
func (c *settingsCache) get(ctx context.Context, account string, fresh bool) (a policy.Account, stale, err error) {
	c.mu.Lock()
	e := c.entry(account)
	e.used = time.Now()
	c.mu.Unlock()
	return c.getEntry(ctx, account, e, fresh)
}

func (c *settingsCache) getEntry(ctx context.Context, account string, e *cachedAccount, fresh bool) (a policy.Account, stale, err error) {
	began := time.Now()
	c.mu.Lock()
	if !e.read.IsZero() && time.Since(e.read) < c.maxAge {
		defer c.mu.Unlock()
		return e.account, nil, nil
	}
	lenient := !fresh && e.failure != nil && c.inGrace(e)
	if lenient && time.Since(e.failed) < max(c.maxAge, time.Second) {
		defer c.mu.Unlock()
		return e.account, nil, nil
	}
	c.mu.Unlock()

	if lenient {
		select {
		case e.reading <- struct{}{}:
		default: // somebody else finds out whether the source is back
			c.mu.Lock()
			defer c.mu.Unlock()
			return e.account, nil, nil
		}
	} else {
		select {
		case e.reading <- struct{}{}:
		case <-ctx.Done():
			return policy.Account{}, nil, ctx.Err()
		}
	}
	defer func() { <-e.reading }()

	c.mu.Lock()
	switch {
	case !e.read.IsZero() && (e.read.After(began) || time.Since(e.read) < c.maxAge):
		defer c.mu.Unlock()
		return e.account, nil, nil
	case e.failure != nil && e.failed.After(began):
		defer c.mu.Unlock()
		if !fresh && c.inGrace(e) {
			return e.account, nil, nil
		}
		return policy.Account{}, nil, e.failure
	}
	c.mu.Unlock()

	// The time before reading: what was read is at least as new. Others wait
	// for it, so it does not end because this request does.
	read := time.Now()
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	defer cancel()
	var of edition
	if source, ok := c.source.(editedSettings); ok {
		a, of, err = source.accountEdition(rctx, account)
	} else {
		a, err = c.source.Account(rctx, account)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if e.read.IsZero() || !reflect.DeepEqual(e.account, a) {
			e.changes++
		}
		e.account, e.edition, e.read, e.failure = a, of, read, nil
		return a, nil, nil
	}
	e.failure, e.failed = err, time.Now()
	if !fresh && c.inGrace(e) {
		return e.account, err, nil
	}
	return policy.Account{}, nil, err
}

// outdate makes the next use read the settings of an account again. Should that
// fail they still have their grace.
func (c *settingsCache) outdate(account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entry(account)
	e.used, e.looked = time.Now(), time.Time{}
	if !e.read.IsZero() {
		if old := time.Now().Add(-c.maxAge); old.Before(e.read) {
			e.read = old
		}
	}
}

func (c *settingsCache) inGrace(e *cachedAccount) bool {
	return !e.read.IsZero() && time.Since(e.read) < settingsGrace
}

// accountIdle is after how long without a use a sweep does not look at an account
// any more. A walk does, if it has a session.
const accountIdle = time.Hour

// next returns accounts that a sweep should look at, at most so many, those first
// that it looked at longest ago.
func (c *settingsCache) next(most int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for account, e := range c.accounts {
		if time.Since(e.used) < accountIdle {
			list = append(list, account)
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(c.accounts[a].looked.Compare(c.accounts[b].looked), cmp.Compare(a, b))
	})
	return list[:min(most, len(list))]
}

// look returns the settings of an account for a sweep: fresh ones, and their edition.
// It is no use. How often others were read since a sweep dealt with them is for
// dealtWith; where there is no edition, more than once is a change, though the
// settings be what they were.
func (c *settingsCache) look(ctx context.Context, account string) (a policy.Account, of edition, changes int, err error) {
	c.mu.Lock()
	e := c.accounts[account]
	if e == nil {
		e = &cachedAccount{reading: make(chan struct{}, 1)} // that is not kept: there may be many
	}
	e.looked = time.Now()
	c.mu.Unlock()
	if _, _, err := c.getEntry(ctx, account, e, true); err != nil {
		return policy.Account{}, edition{}, 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.account, e.edition, e.changes, nil
}

// dealtWith notes that a sweep heeded so many changes.
func (c *settingsCache) dealtWith(account string, changes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.accounts[account]; e != nil {
		e.changes = max(0, e.changes-changes)
	}
}

// isApplied reports whether settings are known to be applied to live sessions.
func (c *settingsCache) isApplied(account string, a applied) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.accounts[account]
	return e != nil && e.applied != nil && *e.applied == a
}

// wasApplied notes that settings were applied to live sessions.
func (c *settingsCache) wasApplied(account string, a applied) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.accounts[account]; e != nil {
		e.applied = &a
	}
}

// unapplied forgets that settings were applied.
func (c *settingsCache) unapplied(account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.accounts[account]; e != nil {
		e.applied = nil
	}
}
