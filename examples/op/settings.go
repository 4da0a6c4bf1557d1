package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/policy/policyyaml"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// rangeFrom is what administrators may set, from the floor on.
func rangeFrom(floor time.Duration) policy.Range {
	r := policy.DefaultRange
	r.ActiveMin, r.InactivityMin = floor, floor
	return r
}

// readSettings reads a settings file, and refuses one that is not right in all
// parts.
func readSettings(path string, r policy.Range) (policy.Settings, error) {
	body, err := readFile(path)
	if err != nil {
		return policy.Settings{}, err
	}
	return parseSettings(path, body, r)
}

func parseSettings(path string, body []byte, r policy.Range) (policy.Settings, error) {
	settings, err := policyyaml.ParseSettings(body)
	if err == nil {
		err = settings.Validate(r)
	}
	if err != nil {
		return policy.Settings{}, fmt.Errorf("%s:\n%w", path, err)
	}
	return settings, nil
}

// fileSettings are provider.SettingsSource over a file.
type fileSettings struct {
	path    string
	allowed policy.Range
	current atomic.Pointer[policy.Settings]
}

// load reads the file. If it is not right the settings stay what they were.
func (f *fileSettings) load() error {
	settings, err := readSettings(f.path, f.allowed)
	if err != nil {
		return err
	}
	f.current.Store(&settings)
	return nil
}

// reload is load on SIGHUP.
func (f *fileSettings) reload(log *slog.Logger) {
	if err := f.load(); err != nil {
		log.Error("the settings file is not right; the settings stay what they were", "error", err)
		return
	}
	log.Info("settings read again", "file", f.path)
}

// Account implements provider.SettingsSource.
func (f *fileSettings) Account(_ context.Context, account string) (policy.Account, error) {
	return f.current.Load().Accounts[account], nil
}

// storedSettings are provider.SettingsSource over the store: what the hook reads
// there itself, for the home page.
type storedSettings struct{ docs store.Documents }

// Account implements provider.SettingsSource.
func (s storedSettings) Account(ctx context.Context, account string) (policy.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	a, _, err := provider.LoadAccount(ctx, s.docs, account)
	return a, err
}

// demoAccount is what a first start puts into the store: a working day, three
// logins at once, and command lines that may rest over night.
func demoAccount(floor time.Duration) policy.Account {
	return policy.Account{
		Limits: policy.Limits{
			Active: policy.LimitTo(max(24*time.Hour, floor)), Inactivity: policy.LimitTo(max(2*time.Hour, floor)),
			Concurrent: policy.LimitTo(3), AtLimit: policy.Refuse,
		},
		Kinds: map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(max(12*time.Hour, floor))}},
	}
}

// seedSettings puts demoAccount into a store that has no settings.
func seedSettings(ctx context.Context, docs store.Documents, floor time.Duration, log *slog.Logger) error {
	a, version, err := provider.LoadAccount(ctx, docs, "default")
	if err != nil {
		return err
	}
	if version > 0 {
		if err := a.Validate(rangeFrom(floor)); err != nil {
			log.Warn("the stored settings are not what would be accepted now", "error", err)
		}
		return nil
	}
	_, err = provider.SaveAccount(ctx, docs, "default", demoAccount(floor), 0, "examples/op", "first start", time.Now())
	if errors.Is(err, store.ErrConflict) { // another process, at the same time
		return nil
	}
	return err
}

// explainSettings writes what the settings mean for each user, and what in them
// is for nobody.
func explainSettings(w io.Writer, settings policy.Settings, us *users, clients map[string]*client, targets []string) error {
	var b strings.Builder
	for _, u := range us.sorted() {
		memberships, err := us.membership(context.Background(), store.Subject{ID: u.Subject})
		if err != nil {
			return err
		}
		rules := settings.Rules(policy.Who{User: u.Subject, Memberships: memberships})
		explain := func(title string, kind policy.Kind, client string) {
			fmt.Fprintf(&b, "%s, %s:\n", u.Username, title)
			for line := range strings.Lines(rules.Explain(kind, client).String()) {
				b.WriteString("  " + line)
			}
		}
		explain("browser", policy.Browser, "")
		explain("command line", policy.CLI, "")
		own := map[string]bool{}
		for _, account := range u.Accounts {
			for id := range settings.Accounts[account].Clients {
				own[id] = true
			}
		}
		for _, id := range slices.Sorted(maps.Keys(own)) {
			kind := policy.Browser
			if c, ok := clients[id]; ok && c.entry.Type == "native" {
				kind = policy.CLI
			}
			explain(fmt.Sprintf("%s with client %s", kind, id), kind, id)
		}
		for _, account := range u.Accounts {
			if _, ok := settings.Accounts[account]; !ok {
				fmt.Fprintf(&b, "note: %s is in the account %q, for which there are no settings: nothing limits it\n", u.Username, account)
			}
		}
	}
	for _, note := range unusedScopes(settings, us, clients) {
		b.WriteString("note: " + note + "\n")
	}
	for _, account := range slices.Sorted(maps.Keys(settings.Accounts)) {
		d := deployment(targets, us, clients)
		// Comments of the file are not read: whether they justify anything is
		// for people to see.
		d.Justification = "see the file"
		for _, warning := range policy.Lint(settings.Accounts[account], d) {
			fmt.Fprintf(&b, "account %q: %s\n", account, warning)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// unusedScopes finds what may be a slip of the pen: settings for whom or what
// there is not.
func unusedScopes(settings policy.Settings, us *users, clients map[string]*client) (notes []string) {
	groups, accounts := map[string]bool{}, map[string]bool{}
	for _, u := range us.byName {
		for _, account := range u.Accounts {
			accounts[account] = true
			for _, group := range u.Groups {
				groups[account+"\x00"+group] = true
			}
		}
	}
	for _, account := range slices.Sorted(maps.Keys(settings.Accounts)) {
		a := settings.Accounts[account]
		note := func(format string, args ...any) {
			notes = append(notes, fmt.Sprintf("account %q: ", account)+fmt.Sprintf(format, args...))
		}
		if !accounts[account] {
			note("no user is in it")
		}
		for _, id := range slices.Sorted(maps.Keys(a.Clients)) {
			if clients[id] == nil {
				note("there is no client %q", id)
			}
		}
		for _, group := range slices.Sorted(maps.Keys(a.Groups)) {
			if !groups[account+"\x00"+group] {
				note("no user is in the group %q", group)
			}
		}
		for _, sub := range slices.Sorted(maps.Keys(a.Users)) {
			if u := us.bySubject[sub]; u == nil || !slices.Contains(u.Accounts, account) {
				note("it has no user with sub %q", sub)
			}
		}
	}
	return notes
}
