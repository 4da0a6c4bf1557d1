package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
)

// adminScope is the scope of access tokens for the API below /v1/. Only clients
// that the clients file gives it to may ask for it.
const adminScope = "curfew.admin"

// An administration is what the API is set up with.
type administration struct {
	allowed    policy.Range
	readOnly   string // why settings cannot be changed; empty: they can
	deployment policy.Deployment
}

// api returns the settings and sessions API.
func (p *pages) api(docs store.Documents, a administration) (*admin.Admin, error) {
	return admin.New(admin.Config{
		Hook: p.hook, Store: docs, Issuer: p.issuer, Authorize: p.authorize,
		Range: a.allowed, ReadOnly: a.readOnly, Deployment: a.deployment,
		Failed: func(r *http.Request, err error) {
			p.log.ErrorContext(r.Context(), "the API could not answer", "path", r.URL.Path, "error", err)
		},
	})
}

// authorize is admin.Config.Authorize, by an access token of this provider: see
// authorizeToken.
func (p *pages) authorize(ctx context.Context, r *http.Request, action admin.Action, account string) (admin.Actor, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return admin.Actor{}, admin.ErrUnauthenticated
	}
	return p.authorizeToken(ctx, token, action, account)
}

// authorizeToken lets an access token with the scope curfew.admin do everything,
// if it is of an administrator who is in the account, or of a client that the
// clients file gives the account to. Nobody else may read.
func (p *pages) authorizeToken(ctx context.Context, token string, action admin.Action, account string) (admin.Actor, error) {
	actor, record, err := p.tokenHolder(ctx, token)
	if err != nil {
		return admin.Actor{}, err
	}
	if action == admin.Heartbeat { // of the session of the token, whatever its scope
		return actor, nil
	}
	if !slices.Contains(record.Scopes, adminScope) || !slices.Contains(p.administers(record), account) {
		return admin.Actor{}, admin.ErrForbidden
	}
	return actor, nil
}

// tokenHolder says whose an access token is. If it is not good the error wraps
// [admin.ErrUnauthenticated].
func (p *pages) tokenHolder(ctx context.Context, token string) (admin.Actor, accessRecord, error) {
	t, err := p.hook.AccessToken(op.ContextWithIssuer(ctx, p.issuer), p.provider, token)
	if errors.Is(err, provider.ErrInvalidToken) {
		return admin.Actor{}, accessRecord{}, fmt.Errorf("%w: %w", admin.ErrUnauthenticated, err)
	}
	if err != nil {
		return admin.Actor{}, accessRecord{}, err
	}
	record, err := p.storage.accessToken(ctx, t.ID, t.Subject)
	if errors.Is(err, kv.ErrNotFound) || errors.Is(err, errUnknownUser) {
		return admin.Actor{}, accessRecord{}, fmt.Errorf("%w: %w", admin.ErrUnauthenticated, err)
	}
	if err != nil {
		return admin.Actor{}, accessRecord{}, err
	}
	if record.Machine {
		return admin.Actor{ID: "client:" + record.ClientID, Client: record.ClientID}, record, nil
	}
	return admin.Actor{ID: record.Subject, User: record.Subject, SID: t.Session.ID, Client: t.Client}, record, nil
}

// administers returns the accounts that the holder of a token administers.
func (p *pages) administers(record accessRecord) []string {
	if record.Machine {
		if c := p.storage.clients[record.ClientID]; c != nil {
			return c.entry.Accounts
		}
		return nil
	}
	if u := p.storage.users.bySubject[record.Subject]; u != nil && u.isAdministrator() {
		return u.Accounts
	}
	return nil
}

// deployment is what warnings about settings depend on beside them.
func deployment(targets []string, us *users, clients map[string]*client) policy.Deployment {
	d := policy.Deployment{Targets: targets, AccessToken: accessLifetime, IDToken: idLifetime}
	for _, u := range us.sorted() {
		if u.isAdministrator() {
			d.PrivilegedUsers = append(d.PrivilegedUsers, u.Subject)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(clients)) {
		// A native client has no server that could be told.
		if e := clients[id].entry; e.Type == "web" && e.BackChannelLogoutURI == "" && len(e.RedirectURIs) > 0 {
			d.WithoutLogoutURI = append(d.WithoutLogoutURI, id)
		}
	}
	return d
}

// importedKey is the key of the document that remembers which file was imported.
const importedKey = "examples/op/settings-imported"

// importSettings puts the settings of a file into the store, once for each content
// of the file: what administrators change afterwards is not overwritten by the
// next start. Accounts that are not in the file stay as they are. All of it was
// validated before anything is written.
func importSettings(ctx context.Context, docs store.Documents, path string, allowed policy.Range, now time.Time, log *slog.Logger) error {
	body, err := readFile(path)
	if err != nil {
		return &usageError{"settings-import", err}
	}
	settings, err := parseSettings(path, body, allowed)
	if err != nil {
		return &usageError{"settings-import", err}
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	mark, err := docs.Document(ctx, importedKey)
	switch {
	case err == nil && string(mark.Body) == sum:
		log.Info("the settings file was imported before and has not changed; nothing was imported", "file", path)
		return nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(settings.Accounts)) {
		if err := importAccount(ctx, docs, name, settings.Accounts[name], path, now); err != nil {
			return err
		}
	}
	// Last: a start that was cut short begins again.
	_, err = docs.PutDocument(ctx, store.Document{Key: importedKey, Version: mark.Version, Body: []byte(sum), At: now, By: "examples/op"})
	if errors.Is(err, store.ErrConflict) { // another process did the same
		err = nil
	}
	if err == nil {
		log.Info("settings imported", "file", path, "accounts", len(settings.Accounts))
	}
	return err
}

func importAccount(ctx context.Context, docs store.Documents, name string, a policy.Account, path string, now time.Time) error {
	for {
		current, err := provider.LoadStored(ctx, docs, name)
		if err != nil {
			return err
		}
		if current.Version > 0 && len(policy.Diff(current.Settings, a)) == 0 {
			return nil
		}
		_, err = provider.SaveAccount(ctx, docs, name, a, current.Version, "examples/op", "imported from "+path, now)
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}
