package provider

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// settingsKey is the key of the document that holds an account's settings.
func settingsKey(account string) string { return "settings/" + account }

// A StoredAccount is one version of the settings of an account.
type StoredAccount struct {
	Settings policy.Account

	// Extensions are what others keep with the settings, each under a name of
	// its own. They limit nothing. Together they may have [MaxExtensions].
	Extensions map[string]json.RawMessage

	// Version is 1, 2, 3, ...; 0: there are no settings yet.
	Version int64

	// Tag is an entity tag (RFC 9110 section 8.8.3), without quotes: no other
	// version has it, of another store that began anew neither.
	Tag string

	At      time.Time // when it was written
	By      string    // who wrote it
	Message string    // why
}

// MaxExtensions is how large the extensions of an account may be, in bytes.
const MaxExtensions = 256 << 10

// A storedBody is the document of an account with extensions. Without, the
// document is the settings alone.
type storedBody struct {
	Extensions map[string]json.RawMessage `json:"extensions"` // the first member: see storedPrefix
	Settings   json.RawMessage            `json:"settings"`
}

// storedPrefix begins a storedBody, and no settings: they have no such field.
const storedPrefix = `{"extensions":`

func (a StoredAccount) body() ([]byte, error) {
	settings, err := a.Settings.MarshalJSON()
	if err != nil || len(a.Extensions) == 0 {
		return settings, err
	}
	extensions, err := json.Marshal(a.Extensions)
	switch {
	case err != nil:
		return nil, fmt.Errorf("extensions: %w", err)
	case len(extensions) > MaxExtensions:
		return nil, fmt.Errorf("extensions: they have %d bytes, at most %d are kept", len(extensions), MaxExtensions)
	}
	return json.Marshal(storedBody{a.Extensions, settings})
}

func tagOf(version int64, body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%d-%x", version, sum[:8])
}

func openStored(account string, d store.Document) (StoredAccount, error) {
	a := StoredAccount{Version: d.Version, Tag: tagOf(d.Version, d.Body), At: d.At, By: d.By, Message: d.Message}
	settings := d.Body
	var err error
	if bytes.HasPrefix(settings, []byte(storedPrefix)) {
		var body storedBody
		if err = json.Unmarshal(settings, &body); err == nil {
			settings, a.Extensions = body.Settings, body.Extensions
		}
	}
	if err == nil {
		err = a.Settings.UnmarshalJSON(settings)
	}
	if err != nil {
		return StoredAccount{}, fmt.Errorf("settings of account %q: %w", account, err)
	}
	return a, nil
}

// LoadStored returns the current settings of an account as they are stored. The
// version is 0 if there are none.
func LoadStored(ctx context.Context, s store.Documents, account string) (StoredAccount, error) {
	d, err := s.Document(ctx, settingsKey(account))
	if errors.Is(err, store.ErrNotFound) {
		return StoredAccount{Tag: tagOf(0, nil)}, nil
	}
	if err != nil {
		return StoredAccount{}, fmt.Errorf("settings of account %q: %w", account, err)
	}
	return openStored(account, d)
}

// SaveStored stores a, where a [Config] without Settings reads it, in the place
// of version a.Version (0: there is none yet). If that is not the current one the
// error wraps [store.ErrConflict]. It returns a with its new version and tag. It
// does not validate the settings: see [policy.Account.Validate].
func SaveStored(ctx context.Context, s store.Documents, account string, a StoredAccount) (StoredAccount, error) {
	body, err := a.body()
	if err == nil {
		a.Version, err = s.PutDocument(ctx, store.Document{
			Key: settingsKey(account), Version: a.Version, Body: body, At: a.At, By: a.By, Message: a.Message,
		})
	}
	if err != nil {
		return StoredAccount{}, fmt.Errorf("settings of account %q: %w", account, err)
	}
	a.Tag = tagOf(a.Version, body)
	return a, nil
}

// AccountHistory returns the versions of the settings of an account, newest
// first, older than the version before (0: from the newest), at most limit.
func AccountHistory(ctx context.Context, s store.Documents, account string, before int64, limit int) ([]StoredAccount, error) {
	docs, err := s.History(ctx, settingsKey(account), before, limit)
	if err != nil {
		return nil, fmt.Errorf("settings of account %q: %w", account, err)
	}
	list := make([]StoredAccount, len(docs))
	for i, d := range docs {
		if list[i], err = openStored(account, d); err != nil {
			return nil, fmt.Errorf("version %d: %w", d.Version, err)
		}
	}
	return list, nil
}

// SaveAccount is [SaveStored] for settings alone. Extensions stay as they are.
func SaveAccount(ctx context.Context, s store.Documents, account string, settings policy.Account, ifVersion int64, by, message string, now time.Time) (version int64, err error) {
	a := StoredAccount{Settings: settings, Version: ifVersion, At: now, By: by, Message: message}
	if ifVersion > 0 {
		current, err := LoadStored(ctx, s, account)
		if err != nil {
			return 0, err
		}
		a.Extensions = current.Extensions // of another version: the write below is refused
	}
	a, err = SaveStored(ctx, s, account, a)
	return a.Version, err
}

// LoadAccount returns the stored settings of an account, and their version; 0
// if there are none.
func LoadAccount(ctx context.Context, s store.Documents, account string) (policy.Account, int64, error) {
	a, err := LoadStored(ctx, s, account)
	return a.Settings, a.Version, err
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

// A ruling is the rules for one subject.
type ruling struct {
	rules    policy.Rules
	observed policy.Rules // as if no account only observed
	observes bool
	accounts []string
	who      string // a fingerprint of the accounts and groups
	gone     bool   // the user is in no account any more: these are the session's

	within policy.Window // of the sessions that it was made from, for tokens: see Hook.withParents
}

// rules returns the rules for a subject. A login needs settings that are fresh:
// the cap cannot be checked with others.
func (h *Hook) rules(ctx context.Context, subject store.Subject, login bool) (ruling, error) {
	memberships, err := h.Memberships(ctx, subject)
	if err != nil {
		return ruling{}, err
	}
	return h.rulesIn(ctx, subject, memberships, login)
}

// rulesOf returns the rules for a session: those for its subject, or, if that is in
// no account any more, those of the accounts that it was in.
func (h *Hook) rulesOf(ctx context.Context, s *store.Session) (ruling, error) {
	memberships, gone, err := h.membershipsOf(ctx, s)
	if err != nil {
		return ruling{}, err
	}
	r, err := h.rulesIn(ctx, s.Subject, memberships, false)
	r.gone = gone
	return r, err
}

// membershipsOf returns the memberships of a session's subject. One who is gone has
// those of the session.
func (h *Hook) membershipsOf(ctx context.Context, s *store.Session) (memberships []policy.Membership, gone bool, err error) {
	memberships, err = h.Memberships(ctx, s.Subject)
	if err != nil || len(memberships) > 0 || len(s.Accounts) == 0 {
		return memberships, false, err
	}
	for _, account := range s.Accounts {
		memberships = append(memberships, policy.Membership{Account: account})
	}
	return memberships, true, nil
}

// fingerprint returns a short text that says whether two lists of memberships are of
// the same accounts and groups.
func fingerprint(memberships []policy.Membership) string {
	var names []string
	for _, m := range memberships {
		names = append(names, fmt.Sprintf("%q", m.Account))
		for _, group := range m.Groups {
			names = append(names, fmt.Sprintf("%q %q", m.Account, group))
		}
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(names), "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// rulesIn returns the rules for a subject with the given memberships.
func (h *Hook) rulesIn(ctx context.Context, subject store.Subject, memberships []policy.Membership, login bool) (ruling, error) {
	r := ruling{accounts: make([]string, 0, len(memberships)), who: fingerprint(memberships)}
	settings := policy.Settings{Accounts: make(map[string]policy.Account, len(memberships))}
	for _, m := range memberships {
		a, stale, err := h.settings.get(ctx, m.Account, login)
		if err != nil {
			return ruling{}, err
		}
		if stale != nil {
			h.event(ctx, Event{Type: EventSettingsStale, Subject: subject, Err: stale})
		}
		if login {
			h.checkSettings(ctx, m.Account, a)
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
