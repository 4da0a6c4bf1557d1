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

	// Store has the settings: the same as [provider.Config.Store].
	Store store.Documents

	// Issuer is the provider's issuer: the API manages sessions of its users.
	Issuer string

	// Authorize identifies the sender of a request, and says whether they may do the action in the
	// account; account is empty for [Heartbeat]. It is called before anything else is done.
	//
	// If r.Method is not safe, it must not decide by a cookie alone, unless it checks that the
	// request comes from its own page. Requests that a browser sends from another origin never
	// reach it.
	//
	// An error that wraps [ErrUnauthenticated] is answered with 401, one that
	// wraps [ErrForbidden] with 403, any other with 503. A sender who may not know of an account
	// gets the same answer whether it exists or not.
	Authorize func(ctx context.Context, r *http.Request, action Action, account string) (Actor, error)

	// Range bounds what administrators may set. The zero Range means
	// [policy.DefaultRange]; see [IBMRange].
	Range policy.Range

	// Deployment has what the warnings need to know beside the settings.
	Deployment policy.Deployment

	// ReadOnly tells administrators why settings cannot be changed here: "They are in the file
	// settings.yaml of the server." Empty: they can be changed.
	ReadOnly string

	// PreviewTime bounds a preview. When it is over, the answer has the sessions found so far, and
	// says that it is not complete. Zero means 10 s. A process runs at most 2 previews of one actor
	// at once, and 8 in all.
	PreviewTime time.Duration

	// Failed receives the cause of an answer of 503, which the response does not contain. Nil: the
	// cause is dropped.
	Failed func(r *http.Request, err error)

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// IBMRange is the range that the account settings of IBM Cloud IAM accept: 900 s to 24 h for a
// login, 900 s to 2 h without activity.
var IBMRange = policy.Range{
	ActiveMin: 15 * time.Minute, ActiveMax: 24 * time.Hour,
	InactivityMin: 15 * time.Minute, InactivityMax: 2 * time.Hour,
}

// An Action is what a request asks for.
type Action string

const (
	ReadSettings    Action = "read_settings"  // settings, their history, the limits of a user and their scopes
	WriteSettings   Action = "write_settings" // change settings
	PreviewSettings Action = "preview"        // preview a change: reads settings and sessions
	ReadSessions    Action = "read_sessions"
	EndSessions     Action = "end_sessions" // end sessions, and send logout notifications again
	Heartbeat       Action = "heartbeat"    // report that the user of the token's own session is present
	ReadDescription Action = "describe"     // the description of the API; Authorize is not asked
)

// An Actor is the sender of a request.
type Actor struct {
	// ID identifies the actor, in the history and in the sessions that they end: the subject of a
	// user, or a client. Required.
	ID string

	// User is the subject of the actor, if it is a user of the provider.
	User string

	// SID is the session that the request was made in, and Client the client
	// that made it, if it came with an access token of a session.
	SID, Client string
}

var (
	// ErrUnauthenticated is wrapped by errors of [Config.Authorize] about a request without valid
	// credentials.
	ErrUnauthenticated = errors.New("not authenticated")

	// ErrForbidden is wrapped by errors of [Config.Authorize] about a request that the sender may
	// not make.
	ErrForbidden = errors.New("not allowed")
)

// An Admin administers accounts. It is made by [New], and serves the API below
// /v1/ as an [http.Handler].
type Admin struct {
	cfg     Config
	api     http.Handler
	service *service.Service
}

// New checks the configuration and returns the administration of a hook. An error in the
// configuration wraps [provider.ErrConfig].
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

// Service is for package console. Its type is internal: embedders cannot use it.
func (a *Admin) Service() *service.Service { return a.service }
