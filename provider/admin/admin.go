package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/invalid"
	"github.com/curfew-oidc/curfew/store"
)

// Config configures [New]. Hook, Issuer and Authorize are required, and Store
// unless ReadOnly is set.
type Config struct {
	// Hook is the policy in place.
	Hook *provider.Hook

	// Store is where the settings are: what [provider.Config.Store] is.
	Store store.Documents

	// Issuer is the provider's issuer, of whose users the sessions are.
	Issuer string

	// Authorize says who sends a request, and whether they may do what it
	// asks for in the account; account is empty for [Heartbeat]. It is asked
	// before anything else is done.
	//
	// It must not decide by a cookie alone where r.Method is not safe, unless
	// it checks that the request comes from a page of its own; requests that
	// a browser sent from another origin never reach it.
	//
	// An error that wraps [ErrUnauthenticated] is answered with 401, one that
	// wraps [ErrForbidden] with 403, any other with 503. To somebody who may
	// not know an account its existence makes no difference.
	Authorize func(ctx context.Context, r *http.Request, action Action, account string) (Actor, error)

	// Range bounds what administrators may set. The zero Range means
	// [policy.DefaultRange]; see [IBMRange].
	Range policy.Range

	// Deployment is what the warnings depend on beside the settings.
	Deployment policy.Deployment

	// ReadOnly says, to an administrator, why settings cannot be changed
	// here: "They are in the file settings.yaml of the server." Empty: they
	// can.
	ReadOnly string

	// PreviewTime bounds how long a preview looks. What it found until then
	// is the answer, and says that it is not complete. Zero means 10 s. How
	// many run at once in a process is bounded too: 2 of one actor, 8 of all.
	PreviewTime time.Duration

	// Failed is told why a request was answered with 503: the cause is not
	// for the one who asked. Nil: nobody is told.
	Failed func(r *http.Request, err error)

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// IBMRange is what the account settings of IBM Cloud IAM accept: 900 s to 24 h
// for a login, 900 s to 2 h without activity.
var IBMRange = policy.Range{
	ActiveMin: 15 * time.Minute, ActiveMax: 24 * time.Hour,
	InactivityMin: 15 * time.Minute, InactivityMax: 2 * time.Hour,
}

// An Action is what a request asks for.
type Action string

const (
	ReadSettings    Action = "read_settings"  // settings, their history, what binds a user and why
	WriteSettings   Action = "write_settings" // change settings
	PreviewSettings Action = "preview"        // what a change would end: settings and sessions are read
	ReadSessions    Action = "read_sessions"
	EndSessions     Action = "end_sessions" // end sessions, and send logout notifications again
	Heartbeat       Action = "heartbeat"    // say that the user of one's own session is there
	ReadDescription Action = "describe"     // the description of the API; Authorize is not asked
)

// An Actor is who sends a request.
type Actor struct {
	// ID is who it is, for the history and for the sessions they end: the
	// subject of a user, or a client. Required.
	ID string

	// User is the subject of the actor, if it is a user of the provider.
	User string

	// SID is the session that the request was made in, and Client the client
	// that made it, if it came with an access token of a session.
	SID, Client string
}

var (
	// ErrUnauthenticated is wrapped by errors of [Config.Authorize] about a
	// request that does not say who sends it, or not so that it can be
	// believed.
	ErrUnauthenticated = errors.New("not authenticated")

	// ErrForbidden is wrapped by errors of [Config.Authorize] about a request
	// that its sender may not make.
	ErrForbidden = errors.New("not allowed")
)

// An Admin administers accounts. It is made by [New], and serves the API below
// /v1/ as an [http.Handler].
type Admin struct {
	cfg     Config
	api     http.Handler
	service *service.Service
}

// New checks the configuration and returns the administration of a hook. What is
// wrong with the configuration is an error that wraps [provider.ErrConfig].
func New(cfg Config) (*Admin, error) {
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Hook", cfg.Hook == nil},
		{"Store", cfg.Store == nil && cfg.ReadOnly == ""},
		{"Issuer", cfg.Issuer == ""},
		{"Authorize", cfg.Authorize == nil},
	} {
		if f.missing {
			return nil, invalid.Errorf(provider.ErrConfig, "admin.Config.%s is required", f.name)
		}
	}
	if cfg.PreviewTime < 0 {
		return nil, invalid.Errorf(provider.ErrConfig, "admin.Config.PreviewTime is negative")
	}
	if cfg.PreviewTime == 0 {
		cfg.PreviewTime = 10 * time.Second
	}
	if cfg.Range == (policy.Range{}) {
		cfg.Range = policy.DefaultRange
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Failed == nil {
		cfg.Failed = func(*http.Request, error) {}
	}
	a := &Admin{cfg: cfg, service: &service.Service{Config: service.Config{
		Hook: cfg.Hook, Store: cfg.Store, Issuer: cfg.Issuer, Range: cfg.Range, Deployment: cfg.Deployment,
		ReadOnly: cfg.ReadOnly, PreviewTime: cfg.PreviewTime, Failed: cfg.Failed, Now: cfg.Now,
	}}}
	a.api = a.routes()
	return a, nil
}

// ServeHTTP serves the API.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.api.ServeHTTP(w, r) }

// Service is what package console builds on. Its type is internal: it is no part of
// what an embedder can use.
func (a *Admin) Service() *service.Service { return a.service }
