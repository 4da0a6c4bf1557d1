package service

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

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
