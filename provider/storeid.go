package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// ErrStoreLost is wrapped by errors that report a changed store: it was emptied, another store took
// its place, or settings that it had are gone. If the settings are in the store, no login is
// admitted then: without settings nothing would be limited. See [Hook.AcceptStore].
var ErrStoreLost = errors.New("curfew: the store has lost its data")

// installationKey is the key of the document that says which store this is, and
// since when the hook runs on it. It is written where there is none, and again only
// by [Hook.AcceptStore].
const installationKey = "installation"

// An installation is that document. Its body is the key, then the IDs of the stores
// that this one took the place of.
type installation struct {
	key      []byte // of the MAC that names what is adopted: it must outlive the sealing keys, and gives nothing away, since the tokens cannot be guessed
	replaces []byte
	at       time.Time
	accepted time.Time // when an operator last accepted the store; zero: never. The document's message
	version  int64
}

const (
	installationKeySize = 32
	storeIDSize         = 8
)

func openInstallation(d store.Document) (installation, error) {
	if len(d.Body) < installationKeySize || len(d.Body[installationKeySize:])%storeIDSize != 0 {
		return installation{}, fmt.Errorf("the document %q is damaged", installationKey)
	}
	accepted, _ := time.Parse(time.RFC3339Nano, d.Message) // an earlier version wrote none
	return installation{d.Body[:installationKeySize], d.Body[installationKeySize:], d.At, accepted, d.Version}, nil
}

// id returns what the store is called. It says nothing of the key.
func (i installation) id() string {
	sum := sha256.Sum256(append([]byte("curfew store\x00"), i.key...))
	return hex.EncodeToString(sum[:storeIDSize])
}

// tookThePlaceOf reports whether an operator said that this store takes the place of
// another one.
func (i installation) tookThePlaceOf(id string) bool {
	raw, err := hex.DecodeString(id)
	return err == nil && slices.ContainsFunc(slices.Collect(slices.Chunk(i.replaces, storeIDSize)), func(one []byte) bool {
		return bytes.Equal(one, raw)
	})
}

// A storeWatch notices that a store has lost what it had: it remembers which store
// it is, and which accounts had settings.
type storeWatch struct {
	docs    store.Documents
	now     func() time.Time
	timeout time.Duration
	refuses bool // a lost store is an outage; else it is told, and taken as new
	tell    func(ctx context.Context, err error)

	mu       sync.Mutex
	id       string                // of the store; "": not known yet
	another  bool                  // it was another one when it was looked at last
	accepted acceptance            // as it was last seen
	had      map[string]acceptance // accounts that had settings: what it was at that time
	missing  map[string]bool       // those whose settings are gone
	told     time.Time             // when tell was called, if the store is still lost
}

// An acceptance is another one after each word of an operator. A version would not
// do: that of a backup may be another's.
type acceptance struct {
	id string
	at time.Time
}

// since reports whether an operator gave their word since another acceptance.
func (a acceptance) since(was acceptance) bool {
	return was.id != "" && was.id != a.id || a.at.After(was.at)
}

// lostAgain is how often it is told that a store is lost, while it is.
const lostAgain = time.Minute

func (w *storeWatch) known() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

// lost tells that the store is lost, and returns the error.
func (w *storeWatch) lost(ctx context.Context, format string, args ...any) error {
	err := fmt.Errorf("%w: %w", ErrStoreLost, fmt.Errorf(format, args...))
	w.mu.Lock()
	tell := w.told.IsZero() || time.Since(w.told) >= lostAgain
	if tell {
		w.told = time.Now()
	}
	w.mu.Unlock()
	if tell {
		w.tell(ctx, err)
	}
	return err
}

// seen remembers an installation.
func (w *storeWatch) seen(i installation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id, w.another, w.accepted = i.id(), false, acceptance{i.id(), i.accepted}
	if len(w.missing) == 0 {
		w.told = time.Time{}
	}
}

// installed returns the installation, and writes it where nobody did. It returns an
// error that wraps ErrStoreLost if it is not the one that is known.
func (w *storeWatch) installed(ctx context.Context) (installation, error) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	for range 2 {
		d, err := w.docs.Document(ctx, installationKey)
		known := w.known()
		switch {
		case err == nil:
			i, err := openInstallation(d)
			if err != nil {
				return installation{}, w.lost(ctx, "%w", err)
			}
			if known != "" && known != i.id() && !i.tookThePlaceOf(known) {
				err := w.lost(ctx, "it is not the store %s, but %s", known, i.id())
				if w.refuses {
					w.mu.Lock()
					w.another = true
					w.mu.Unlock()
					return installation{}, err
				}
			}
			w.seen(i)
			return i, nil
		case !errors.Is(err, store.ErrNotFound):
			return installation{}, err
		case known != "":
			if err := w.lost(ctx, "it was emptied: it is not the store %s any more", known); w.refuses {
				return installation{}, err
			}
		}
		i, err := w.install(ctx, installation{}, "")
		if err == nil || !errors.Is(err, store.ErrConflict) {
			return i, err
		}
	}
	return installation{}, store.ErrConflict
}

// install writes an installation in the place of one, of which the zero is none, and
// says that it took the place of a store, if it did.
func (w *storeWatch) install(ctx context.Context, i installation, replaces string) (installation, error) {
	if len(i.key) == 0 {
		i.key, i.at = make([]byte, installationKeySize), w.now()
		rand.Read(i.key)
	}
	if raw, err := hex.DecodeString(replaces); err == nil && replaces != i.id() && !i.tookThePlaceOf(replaces) {
		i.replaces = append(slices.Clone(i.replaces), raw...)
	}
	version, err := w.docs.PutDocument(ctx, store.Document{
		Key: installationKey, Version: i.version, At: i.at, Body: slices.Concat(i.key, i.replaces), Message: i.word(),
	})
	if err != nil {
		return installation{}, err
	}
	i.version = version
	w.seen(i)
	return i, nil
}

// word returns when the store was accepted, as it is stored.
func (i installation) word() string {
	if i.accepted.IsZero() {
		return ""
	}
	return i.accepted.UTC().Format(time.RFC3339Nano)
}

// settings notes the version of the settings of an account as they were read; 0:
// there are none. If there were, it returns an error that wraps ErrStoreLost.
func (w *storeWatch) settings(ctx context.Context, account string, version int64) error {
	w.mu.Lock()
	doubted := w.accepted.id == "" || w.another
	w.mu.Unlock()
	if version == 0 || doubted {
		// Only a store that is the one that it was can tell that there are none, and
		// those of another one are not these users'.
		if _, err := w.installed(ctx); err != nil {
			return err
		}
	}
	w.mu.Lock()
	if version > 0 {
		if len(w.had) >= maxCachedAccounts {
			clear(w.had)
		}
		w.had[account] = w.accepted
		delete(w.missing, account)
		w.mu.Unlock()
		return nil
	}
	at, had := w.had[account]
	gone := had && !w.accepted.since(at)
	if gone {
		w.missing[account] = true
	} else {
		delete(w.missing, account)
	}
	w.mu.Unlock()
	if gone {
		return w.lost(ctx, "the account %q had settings and has none", account)
	}
	return nil
}

// check returns the installation, or an error that wraps ErrStoreLost if the store has
// lost what it had, as far as is known.
func (w *storeWatch) check(ctx context.Context) (installation, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*w.timeout)
	defer cancel()
	i, err := w.installed(ctx)
	if err != nil {
		return installation{}, err
	}
	if account, missing := w.oneMissing(); missing {
		_, err = watchedSettings{w}.Account(ctx, account) // they may be back
	}
	return i, err
}

func (w *storeWatch) oneMissing() (account string, missing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for account := range w.missing {
		return account, true
	}
	return "", false
}

// accept takes the store as it is.
func (w *storeWatch) accept(ctx context.Context) (installation, error) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	for {
		var i installation
		d, err := w.docs.Document(ctx, installationKey)
		switch {
		case err == nil:
			if i, err = openInstallation(d); err != nil {
				i = installation{version: d.Version} // it is damaged: a new one in its place
			}
		case !errors.Is(err, store.ErrNotFound):
			return installation{}, err
		}
		w.mu.Lock()
		now, was := w.now(), w.accepted.at
		w.mu.Unlock()
		// Later than any word before, whatever the clock says.
		for _, word := range []time.Time{i.accepted, was} {
			if !now.After(word) {
				now = word.Add(1)
			}
		}
		i.accepted = now
		i, err = w.install(ctx, i, w.known())
		if err == nil {
			w.mu.Lock()
			clear(w.had)
			clear(w.missing)
			w.told = time.Time{}
			w.mu.Unlock()
		}
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return i, err
		}
	}
}

// watchedSettings are the settings in the store that is watched.
type watchedSettings struct{ w *storeWatch }

func (s watchedSettings) Account(ctx context.Context, account string) (policy.Account, error) {
	a, _, err := s.accountEdition(ctx, account)
	return a, err
}

func (s watchedSettings) accountEdition(ctx context.Context, account string) (policy.Account, edition, error) {
	a, err := LoadStored(ctx, s.w.docs, account)
	if err == nil {
		err = s.w.settings(ctx, account, a.Version)
	}
	if err != nil {
		return policy.Account{}, edition{}, err
	}
	return a.Settings, edition{a.Version, a.At.UnixMicro()}, nil
}

// besideSettings are settings from elsewhere, of which nothing is to be had while the
// store is lost.
type besideSettings struct {
	SettingsSource
	w *storeWatch
}

func (s besideSettings) Account(ctx context.Context, account string) (policy.Account, error) {
	a, err := s.SettingsSource.Account(ctx, account)
	if err == nil {
		_, err = s.w.installed(ctx)
	}
	return a, err
}

// StoreID returns the ID of the store. No other store has it, nor does this one after it was
// emptied. Keep it beside the keys, and pass it as [Config.StoreID] at the next start. If this
// process knows that the store has lost its data, the error wraps [ErrStoreLost].
func (h *Hook) StoreID(ctx context.Context) (string, error) {
	i, err := h.watch.check(ctx)
	if err != nil {
		return "", err
	}
	return i.id(), nil
}

// AcceptStore accepts the store as it is, for all processes that share it. A store that has lost
// its data (see [ErrStoreLost]) then counts as new: accounts have no limits until settings are
// stored. An operator calls it, once, when the data is lost for good. It returns the store's ID.
func (h *Hook) AcceptStore(ctx context.Context) (string, error) {
	i, err := h.watch.accept(ctx)
	if err != nil {
		return "", fmt.Errorf("accept the store: %w", err)
	}
	return i.id(), nil
}
