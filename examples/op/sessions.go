package main

import (
	"errors"
	"net/http"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
)

const sessionsPath = "/sessions/"

// ownSessions returns the page on which users look after their own sessions, below
// sessionsPath.
func (p *pages) ownSessions() (http.Handler, error) {
	mine, err := admin.Mine(admin.MineConfig{
		Hook: p.hook, Subject: p.visitor, TrustedOrigins: []string{p.issuer}, Home: "/",
		Failed: func(r *http.Request, err error) {
			p.log.ErrorContext(r.Context(), "a page failed", "path", r.URL.Path, "error", err)
		},
	})
	return http.StripPrefix("/sessions", mine), err
}

// visitor says whose browser it is and which session it has, by its cookie: see
// admin.MineConfig. Of a session that has ended only the session.
func (p *pages) visitor(r *http.Request) (store.Subject, string, error) {
	s, err := p.browserSession(r)
	switch {
	case err == nil && s.End == nil:
		return s.Subject, s.ID, nil
	case err == nil, errors.Is(err, kv.ErrNotFound), errors.Is(err, store.ErrNotFound):
		return store.Subject{}, s.ID, nil
	}
	return store.Subject{}, "", err
}
