package service

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
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
// range, and names that would mislead their readers.
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
