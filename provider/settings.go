package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// settingsKey is the key of the document that holds an account's settings.
func settingsKey(account string) string { return "settings/" + account }

// SaveAccount stores the settings of an account, where a [Config] without
// Settings reads them. It replaces the version ifVersion (0: there is none
// yet); if that is not the current one the error wraps [store.ErrConflict].
// It does not validate them: see [policy.Account.Validate].
func SaveAccount(ctx context.Context, s store.Documents, account string, settings policy.Account, ifVersion int64, by, message string, now time.Time) (version int64, err error) {
	body, err := settings.MarshalJSON()
	if err != nil {
		return 0, fmt.Errorf("settings of account %q: %w", account, err)
	}
	version, err = s.PutDocument(ctx, store.Document{
		Key: settingsKey(account), Version: ifVersion, Body: body, At: now, By: by, Message: message,
	})
	if err != nil {
		return 0, fmt.Errorf("settings of account %q: %w", account, err)
	}
	return version, nil
}

// LoadAccount returns the stored settings of an account, and their version; 0
// if there are none.
func LoadAccount(ctx context.Context, s store.Documents, account string) (policy.Account, int64, error) {
	d, err := s.Document(ctx, settingsKey(account))
	if errors.Is(err, store.ErrNotFound) {
		return policy.Account{}, 0, nil
	}
	if err != nil {
		return policy.Account{}, 0, fmt.Errorf("settings of account %q: %w", account, err)
	}
	var a policy.Account
	if err := a.UnmarshalJSON(d.Body); err != nil {
		return policy.Account{}, 0, fmt.Errorf("settings of account %q: %w", account, err)
	}
	return a, d.Version, nil
}

type storedSettings struct{ s store.Documents }

func (s storedSettings) Account(ctx context.Context, account string) (policy.Account, error) {
	a, _, err := LoadAccount(ctx, s.s, account)
	return a, err
}

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
	inList   map[string]bool // the accounts that are known to be listed
	unheard  time.Time       // when the list could not be had; zero: it could
}

// A cachedAccount is what is known of an account. mu of the cache guards it.
type cachedAccount struct {
	reading chan struct{} // holds a value while somebody reads

	account policy.Account
	read    time.Time // when reading it began; zero: it was never read

	failure error     // of the last try, if it failed
	failed  time.Time // when it did
}

// maxCachedAccounts bounds the memory; beyond it the cache starts anew.
const maxCachedAccounts = 10_000

func newSettingsCache(source SettingsSource, maxAge, timeout time.Duration) *settingsCache {
	return &settingsCache{source: source, maxAge: maxAge, timeout: timeout, accounts: map[string]*cachedAccount{}, inList: map[string]bool{}}
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
	began := time.Now()
	c.mu.Lock()
	e := c.entry(account)
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
	a, err = c.source.Account(rctx, account)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		e.account, e.read, e.failure = a, read, nil
		return a, nil, nil
	}
	e.failure, e.failed = err, time.Now()
	if !fresh && c.inGrace(e) {
		return e.account, err, nil
	}
	return policy.Account{}, nil, err
}

func (c *settingsCache) inGrace(e *cachedAccount) bool {
	return !e.read.IsZero() && time.Since(e.read) < settingsGrace
}

// known returns the accounts in the cache.
func (c *settingsCache) known() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]string, 0, len(c.accounts))
	for account, e := range c.accounts {
		if !e.read.IsZero() {
			list = append(list, account)
		}
	}
	return list
}

// listed notes that accounts are in the list that sweeps work from.
func (c *settingsCache) listed(accounts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unheard = time.Time{}
	for _, account := range accounts {
		c.inList[account] = true
	}
}

// unlisted reports whether a login should have the accounts listed. After a
// failure it should not for a while: a store that hangs would hold each login up.
func (c *settingsCache) unlisted(accounts []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.unheard.IsZero() && time.Since(c.unheard) < listAgain {
		return false
	}
	return slices.ContainsFunc(accounts, func(account string) bool { return !c.inList[account] })
}

const listAgain = 10 * time.Second

// unavailable notes that the list could not be had.
func (c *settingsCache) unavailable() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unheard = time.Now()
}

// A ruling is the rules for one subject.
type ruling struct {
	rules    policy.Rules
	observed policy.Rules // as if no account only observed
	observes bool
	accounts []string
}

// rules returns the rules for a subject. A login needs settings that are fresh:
// the cap cannot be checked with others.
func (h *Hook) rules(ctx context.Context, subject store.Subject, login bool) (ruling, error) {
	memberships := defaultMembership
	if h.cfg.Membership != nil {
		mctx, cancel := context.WithTimeout(ctx, h.cfg.StoreTimeout)
		var err error
		memberships, err = h.cfg.Membership(mctx, subject)
		cancel()
		if err != nil {
			return ruling{}, fmt.Errorf("membership: %w", err)
		}
	}
	r := ruling{accounts: make([]string, 0, len(memberships))}
	settings := policy.Settings{Accounts: make(map[string]policy.Account, len(memberships))}
	for _, m := range memberships {
		a, stale, err := h.settings.get(ctx, m.Account, login)
		if err != nil {
			return ruling{}, err
		}
		if stale != nil {
			h.event(ctx, Event{Type: EventSettingsStale, Subject: subject, Err: stale})
		}
		settings.Accounts[m.Account] = a
		r.accounts = append(r.accounts, m.Account)
		r.observes = r.observes || a.Observe
	}
	who := policy.Who{User: subject.ID, Memberships: memberships}
	r.rules = settings.Rules(who)
	if r.observes {
		r.observed, _ = settings.Observed(who)
	}
	return r, nil
}
