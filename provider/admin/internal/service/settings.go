package service

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// Settings are the settings of an account, with where they come from.
type Settings struct {
	Account string `json:"account"`

	// EntityTag names this version; Version counts them. Version 0 is an
	// account for which nothing was set yet.
	EntityTag string `json:"entity_tag"`
	Version   int64  `json:"version"`

	Settings policy.Account `json:"settings"`

	// ReadOnly says why they cannot be changed here. Empty: they can.
	ReadOnly string `json:"read_only,omitempty"`

	ChangedAt time.Time `json:"changed_at,omitzero"`
	ChangedBy string    `json:"changed_by,omitempty"`
	Message   string    `json:"message,omitempty"`

	// Allowed is what may be set.
	Allowed Allowed `json:"allowed"`

	Warnings []policy.Warning `json:"warnings"`
}

// Allowed is the range of what may be set. Empty means no bound.
type Allowed struct {
	ActiveMin     string `json:"active_min,omitempty"`
	ActiveMax     string `json:"active_max,omitempty"`
	InactivityMin string `json:"inactivity_min,omitempty"`
	InactivityMax string `json:"inactivity_max,omitempty"`
}

func allowed(r policy.Range) Allowed {
	text := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return policy.LimitTo(d).String()
	}
	return Allowed{text(r.ActiveMin), text(r.ActiveMax), text(r.InactivityMin), text(r.InactivityMax)}
}

// Load returns the current settings.
func (sv *Service) Load(ctx context.Context, account string) (provider.StoredAccount, error) {
	if sv.ReadOnly == "" {
		return provider.LoadStored(ctx, sv.Store, account)
	}
	settings, err := sv.Hook.Account(ctx, account)
	if err != nil {
		return provider.StoredAccount{}, err
	}
	body, err := settings.MarshalJSON()
	if err != nil {
		return provider.StoredAccount{}, err
	}
	sum := sha256.Sum256(body)
	return provider.StoredAccount{Settings: settings, Tag: fmt.Sprintf("f-%x", sum[:8])}, nil
}

func (sv *Service) present(account string, s provider.StoredAccount) Settings {
	return Settings{
		Account: account, EntityTag: s.Tag, Version: s.Version, Settings: s.Settings, ReadOnly: sv.ReadOnly,
		ChangedAt: s.At, ChangedBy: s.By, Message: s.Message,
		Allowed: allowed(sv.Range), Warnings: sv.warnings(s.Settings, s.Message),
	}
}

func (sv *Service) warnings(settings policy.Account, message string) []policy.Warning {
	d := sv.Deployment
	d.Justification = message
	list := policy.Lint(settings, d)
	return list[:min(len(list), maxWarnings)]
}

// maxWarnings bounds how many warnings there are about one version, the worst
// first: thousands of users may have settings of their own.
const maxWarnings = 200

// Settings returns the current settings of an account. One that nothing was set
// for has none.
func (sv *Service) Settings(ctx context.Context, account string) (Settings, error) {
	s, err := sv.Load(ctx, account)
	if err != nil {
		return Settings{}, err
	}
	return sv.present(account, s), nil
}

// Validate returns everything that is wrong with settings as
// [policy.FieldErrors]: what [policy.Account.Validate] finds in the configured
// range, and names that would mislead who reads them.
func (sv *Service) Validate(settings policy.Account) error {
	var problems policy.FieldErrors
	if err := settings.Validate(sv.Range); err != nil && !errors.As(err, &problems) {
		return err
	}
	name := func(section, name string) {
		if reason := TextProblem(name, MaxName); name != "" && reason != "" {
			problems = append(problems, &policy.FieldError{Path: section, Reason: fmt.Sprintf("a name in it %s", reason)})
		}
	}
	for n := range settings.Kinds {
		name("kinds", string(n))
	}
	for n := range settings.Clients {
		name("clients", n)
	}
	for n := range settings.Groups {
		name("groups", n)
	}
	for n := range settings.Users {
		name("users", n)
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// A Match is which version of the settings a change is for: an If-Match header
// (RFC 9110 section 13.1.1). The zero Match is for none.
type Match struct {
	Any  bool     // "*": whatever version is the current one
	Tags []string // without quotes
}

func (m Match) matches(tag string) bool { return m.Any || slices.Contains(m.Tags, tag) }

// Save replaces the settings of an account, if their version is the one that the
// Change is for; if it is not the error wraps [ErrStale] and nothing changes.
// What is wrong with them is [policy.FieldErrors]. Settings that are the same as
// before are not written again.
func (sv *Service) Save(ctx context.Context, actor Actor, account string, match Match, settings policy.Account, message string) (Settings, error) {
	s, err := sv.Change(ctx, actor, account, match, message, func(s *provider.StoredAccount) error {
		s.Settings = settings
		return nil
	})
	if err != nil {
		return Settings{}, err
	}
	return sv.present(account, s), nil
}

// Restore puts the settings in force again that version had, as a new change: the
// history stays what it is. Version 0 is before anything was set. If there is no
// such version the error wraps [store.ErrNotFound].
func (sv *Service) Restore(ctx context.Context, actor Actor, account string, match Match, version int64, message string) (Settings, error) {
	old, err := sv.Version(ctx, account, version)
	if err != nil {
		return Settings{}, err
	}
	if message == "" {
		message = fmt.Sprintf("Restored version %d.", version)
	}
	return sv.Save(ctx, actor, account, match, old.Settings, message)
}

// Change writes what edit makes of the current settings. For any version it
// tries again when somebody else came first.
func (sv *Service) Change(ctx context.Context, actor Actor, account string, match Match, message string, edit func(*provider.StoredAccount) error) (provider.StoredAccount, error) {
	if sv.ReadOnly != "" {
		return provider.StoredAccount{}, fmt.Errorf("%w: %s", ErrReadOnly, sv.ReadOnly)
	}
	if reason := TextProblem(message, MaxMessage); reason != "" {
		return provider.StoredAccount{}, policy.FieldErrors{{Path: "message", Reason: reason}}
	}
	for {
		current, err := sv.Load(ctx, account)
		if err != nil {
			return provider.StoredAccount{}, err
		}
		if !match.matches(current.Tag) {
			return provider.StoredAccount{}, fmt.Errorf("%w: they are version %s now", ErrStale, current.Tag)
		}
		next := current
		if err := edit(&next); err != nil {
			return provider.StoredAccount{}, err
		}
		if err := sv.Validate(next.Settings); err != nil {
			return provider.StoredAccount{}, err
		}
		if same, err := SameStored(current, next); err != nil || same {
			return current, err
		}
		next.At, next.By, next.Message = sv.Time(), actor.ID, message
		saved, err := provider.SaveStored(ctx, sv.Store, account, next)
		switch {
		case err == nil:
			sv.Hook.Changed(account)
			return saved, nil
		case !errors.Is(err, store.ErrConflict) || ctx.Err() != nil:
			return provider.StoredAccount{}, err
		}
	}
}

// SameStored reports whether two accounts are kept with the same settings and extensions.
func SameStored(a, b provider.StoredAccount) (bool, error) {
	one, err := json.Marshal([]any{a.Settings, a.Extensions})
	if err != nil {
		return false, err
	}
	other, err := json.Marshal([]any{b.Settings, b.Extensions})
	return string(one) == string(other), err
}

// An Entry is one change of an account's settings.
type Entry struct {
	Version   int64     `json:"version"`
	EntityTag string    `json:"entity_tag"`
	At        time.Time `json:"at"`
	By        string    `json:"by"`
	Message   string    `json:"message"`

	// Changes are the first [MaxChanges] fields that it changed, and More how
	// many there are beside them.
	Changes []policy.Change `json:"changes"`
	More    int             `json:"more_changes,omitempty"`
}

// MaxChanges is how many changed fields an entry of the history lists.
const MaxChanges = 200

// History returns one page of the changes of an account's settings, newest first,
// older than the version before (0: from the newest), and the version to go on
// before; 0 on the last page.
func (sv *Service) History(ctx context.Context, account string, before int64, limit int) ([]Entry, int64, error) {
	entries := []Entry{}
	more, err := sv.EachVersion(ctx, account, before, limit, func(v, previous provider.StoredAccount) error {
		changes := policy.Diff(previous.Settings, v.Settings)
		listed := changes[:min(len(changes), MaxChanges)]
		entries = append(entries, Entry{
			Version: v.Version, EntityTag: v.Tag, At: v.At, By: v.By, Message: v.Message,
			Changes: listed, More: len(changes) - len(listed),
		})
		return nil
	})
	if err != nil || !more {
		return entries, 0, err
	}
	return entries, entries[len(entries)-1].Version, nil
}

// versionBatch is how many versions are in memory at once: each may be large.
const versionBatch = 4

// EachVersion calls visit for up to limit versions of an account's settings, the
// newest first, each with the one before it. It reports whether there are more.
func (sv *Service) EachVersion(ctx context.Context, account string, before int64, limit int, visit func(v, previous provider.StoredAccount) error) (more bool, err error) {
	if sv.Store == nil {
		return false, nil
	}
	var v provider.StoredAccount // waits for the one before it
	for visited := 0; ; {
		batch, err := provider.AccountHistory(ctx, sv.Store, account, before, versionBatch)
		if err != nil {
			return false, err
		}
		for _, previous := range batch {
			if v.Version > 0 {
				if err := visit(v, previous); err != nil {
					return false, err
				}
				visited++
			}
			if v = previous; visited == limit {
				return true, nil
			}
			before = previous.Version
		}
		if len(batch) < versionBatch {
			break
		}
	}
	if v.Version > 0 {
		return false, visit(v, provider.StoredAccount{})
	}
	return false, nil
}

// Version returns one version of an account's settings, as it was written. If
// there is none the error wraps [store.ErrNotFound].
func (sv *Service) Version(ctx context.Context, account string, version int64) (Settings, error) {
	if version == 0 {
		return sv.present(account, provider.StoredAccount{Tag: "0"}), nil
	}
	if version < 0 || version == math.MaxInt64 || sv.Store == nil {
		return Settings{}, fmt.Errorf("version %d of the settings: %w", version, store.ErrNotFound)
	}
	versions, err := provider.AccountHistory(ctx, sv.Store, account, version+1, 1)
	if err != nil {
		return Settings{}, err
	}
	if len(versions) == 0 || versions[0].Version != version {
		return Settings{}, fmt.Errorf("version %d of the settings: %w", version, store.ErrNotFound)
	}
	return sv.present(account, versions[0]), nil
}

// An Explanation says what binds one user's sessions of one kind and client, and
// why.
type Explanation struct {
	User   string   `json:"user"`
	Groups []string `json:"groups"`

	policy.Explanation

	// OtherAccounts is set if the user is in other accounts too, whose
	// settings are not for the administrators of this one to see. They may
	// be stricter.
	OtherAccounts bool `json:"other_accounts"`
}

// Explain says what the settings of an account mean for one user. If the user is
// not in it the error wraps [ErrNoUser].
func (sv *Service) Explain(ctx context.Context, account, user string, kind policy.Kind, client string) (Explanation, error) {
	s, err := sv.Load(ctx, account)
	if err != nil {
		return Explanation{}, err
	}
	memberships, err := sv.Hook.Memberships(ctx, sv.subject(user))
	if err != nil {
		return Explanation{}, err
	}
	own := slices.IndexFunc(memberships, func(m policy.Membership) bool { return m.Account == account })
	if own < 0 {
		return Explanation{}, fmt.Errorf("%w: %q", ErrNoUser, user)
	}
	settings := policy.Settings{Accounts: map[string]policy.Account{account: s.Settings}}
	rules := settings.Rules(policy.Who{User: user, Memberships: memberships[own : own+1]})
	groups := memberships[own].Groups
	if groups == nil {
		groups = []string{}
	}
	return Explanation{User: user, Groups: groups, Explanation: rules.Explain(kind, client), OtherAccounts: len(memberships) > 1}, nil
}

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
	Session
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

func (sv *Service) subject(user string) store.Subject {
	return store.Subject{Issuer: sv.Issuer, ID: user}
}
