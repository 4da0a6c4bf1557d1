package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// settingsKey is the key of the document that holds an account's settings.
func settingsKey(account string) string { return "settings/" + account }

// A StoredAccount is one version of the settings of an account.
type StoredAccount struct {
	Settings policy.Account

	// Extensions are data that others store with the settings, each under its own name. They limit
	// nothing. Together they may have at most [MaxExtensions].
	Extensions map[string]json.RawMessage

	// Version is 1, 2, 3, ...; 0: there are no settings yet.
	Version int64

	// Tag is an entity tag (RFC 9110 section 8.8.3), without quotes. No other version has it, not
	// even in another store or after this store was emptied.
	Tag string

	At      time.Time // when it was written
	By      string    // who wrote it
	Message string    // why
}

// MaxExtensions is the most that the extensions of an account may have, in bytes.
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

// SaveStored stores a, where a [Config] without Settings reads it, and replaces version a.Version
// (0: there is none yet). If that is not the current version the error wraps [store.ErrConflict]. It
// returns a with its new version and tag. It
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
