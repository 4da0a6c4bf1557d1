package main

import (
	"net/http"

	"github.com/curfew-oidc/curfew/provider/selfservice"
)

const sessionsPath = "/sessions/"

// ownSessions returns the page on which users look after their own sessions, below
// sessionsPath.
func (p *pages) ownSessions() (http.Handler, error) {
	mine, err := selfservice.New(selfservice.Config{
		Hook: p.hook, Subject: selfservice.BrowserSubject(p.hook, p.issuer), TrustedOrigins: []string{p.issuer}, Home: "/",
		Failed: func(r *http.Request, err error) {
			p.log.ErrorContext(r.Context(), "a page failed", "path", r.URL.Path, "error", err)
		},
	})
	return http.StripPrefix("/sessions", mine), err
}
