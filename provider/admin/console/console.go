// Package console has the pages where administrators manage an account: its settings, with a
// preview of each change before it is saved, their history, and its sessions.
//
//	pages, err := console.New(console.Config{Admin: api, Authorize: authorize, Accounts: accounts})
//	...
//	mux.Handle("/console/", http.StripPrefix("/console", pages))
//
// It needs no script, and loads nothing from elsewhere. Every change is a POST, and is refused if a
// browser sends it from another origin ([http.CrossOriginProtection]). Administrators see no button
// for an action that they may not do.
package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/provider/internal/invalid"
	"github.com/curfew-oidc/curfew/provider/internal/page"
	"github.com/curfew-oidc/curfew/store"
)

// Config configures [New]. Admin, Authorize and Accounts are required.
type Config struct {
	// Admin is the API whose accounts the console shows and changes.
	Admin *admin.Admin

	// Authorize is [admin.Config.Authorize] for the requests of browsers, which have a session of
	// the console rather than an access token. It may decide by a cookie alone: the console refuses
	// forms from other websites.
	Authorize func(ctx context.Context, r *http.Request, action admin.Action, account string) (admin.Actor, error)

	// Accounts returns the accounts that the sender of a request may choose from, in the order in
	// which they are shown. It grants nothing: Authorize decides about each account. Its errors
	// have the same meaning as those of Authorize.
	Accounts func(ctx context.Context, r *http.Request) ([]string, error)

	// TrustedOrigins are the origins, beside that of the request itself, from which forms are
	// accepted: the provider's own, if a proxy changes the Host header.
	TrustedOrigins []string

	// Home, SignIn and SignOut are the addresses of pages to go back to, to sign in and to sign
	// out. Empty: no link.
	Home, SignIn, SignOut string
}

// New returns the pages. Install them at any path that ends in a slash. An error in the
// configuration wraps [provider.ErrConfig].
func New(cfg Config) (http.Handler, error) {
	switch {
	case cfg.Admin == nil:
		return nil, invalid.Errorf(provider.ErrConfig, "console.Config.Admin is required")
	case cfg.Authorize == nil:
		return nil, invalid.Errorf(provider.ErrConfig, "console.Config.Authorize is required")
	case cfg.Accounts == nil:
		return nil, invalid.Errorf(provider.ErrConfig, "console.Config.Accounts is required")
	}
	c := &console{cfg: cfg, service: cfg.Admin.Service()}
	forms, err := page.Forms(cfg.TrustedOrigins...)
	if err != nil {
		return nil, invalid.Errorf(provider.ErrConfig, "console.Config.TrustedOrigins: %w", err)
	}
	forms.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.refuse(c.visit(w, r), foreign)
	}))
	mux := http.NewServeMux()
	mux.Handle("GET /"+styleName, style)
	for _, route := range routeTable() {
		mux.HandleFunc(route.method+" "+route.pattern, func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, route) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if allowed := page.MethodsOf(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			c.refuse(c.visit(w, r), wrongMethod)
			return
		}
		c.refuse(c.visit(w, r), noPage)
	})
	guarded := forms.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		guarded.ServeHTTP(w, r)
	}), nil
}

type console struct {
	cfg     Config
	service *service.Service
}

// A route is one address of the console. The table is the one place that
// says which there are.
type route struct {
	method, pattern string
	action          admin.Action
	serve           func(*console, *visit) error
}

func routeTable() []route {
	return []route{
		{"GET", "/{$}", "", (*console).chooseAccount},

		{"GET", "/{account}/{$}", admin.ReadSettings, (*console).showOverview},
		{"GET", "/{account}/edit", admin.WriteSettings, (*console).showEdit},
		{"POST", "/{account}/edit", admin.WriteSettings, (*console).showEdit},
		{"GET", "/{account}/review", admin.PreviewSettings, (*console).showReview},
		{"POST", "/{account}/review", admin.PreviewSettings, (*console).showReview},
		{"POST", "/{account}/save", admin.WriteSettings, (*console).save},
		{"GET", "/{account}/presets", admin.ReadSettings, (*console).showPresets},
		{"GET", "/{account}/overrides", admin.ReadSettings, (*console).showOverrides},
		{"GET", "/{account}/explain", admin.ReadSettings, (*console).showExplain},
		{"GET", "/{account}/history", admin.ReadSettings, (*console).showHistory},

		{"GET", "/{account}/activity", admin.ReadSessions, (*console).showActivity},
		{"GET", "/{account}/sessions", admin.ReadSessions, (*console).showSessions},
		{"GET", "/{account}/sessions/{sid}", admin.ReadSessions, (*console).showSession},
		{"POST", "/{account}/sessions/end", admin.EndSessions, (*console).endSessions},
		{"GET", "/{account}/deliveries", admin.ReadSessions, (*console).showDeliveries},
		{"POST", "/{account}/sessions/{sid}/deliveries", admin.EndSessions, (*console).redeliver},
	}
}

// A visit is one request for a page.
type visit struct {
	c       *console
	w       http.ResponseWriter
	r       *http.Request
	account string
	actor   service.Actor
	form    url.Values // of the query or, of a POST, of the body
	now     time.Time
	allowed map[admin.Action]bool // what is known of it
}

func (v *visit) ctx() context.Context { return v.r.Context() }

// get returns a value of the form as it was sent.
func (v *visit) get(name string) string { return v.form.Get(name) }

// may reports whether the actor may do something else than what they asked for:
// a page has no button for what is refused anyway.
func (v *visit) may(action admin.Action) bool {
	if may, known := v.allowed[action]; known {
		return may
	}
	actor, err := v.c.cfg.Authorize(v.ctx(), v.r, action, v.account)
	v.allowed[action] = err == nil && actor.ID != ""
	return v.allowed[action]
}

func (c *console) visit(w http.ResponseWriter, r *http.Request) *visit {
	return &visit{c: c, w: w, r: r, account: r.PathValue("account"), now: c.service.Time(), allowed: map[admin.Action]bool{}}
}

const (
	// maxForm is how large a form may be: one scope of the settings, or
	// the sessions that are marked on a page.
	maxForm = 64 << 10

	// maxQuery is how long a query may be.
	maxQuery = 8 << 10
)

func (c *console) serve(w http.ResponseWriter, r *http.Request, route route) {
	v := c.visit(w, r)
	if err := c.answer(v, route); err != nil {
		c.fail(v, err)
	}
}

func (c *console) answer(v *visit, route route) error {
	if route.action != "" {
		// Before anything else: somebody who may not know learns nothing.
		actor, err := c.cfg.Authorize(v.ctx(), v.r, route.action, v.account)
		if err != nil {
			return err
		}
		if actor.ID == "" {
			return errors.New("Config.Authorize returned an actor without an ID")
		}
		v.actor = service.Actor(actor)
		v.allowed[route.action] = true
	}
	for _, name := range []string{"account", "sid"} {
		if service.TextProblem(v.r.PathValue(name), service.MaxName) != "" {
			return store.ErrNotFound
		}
	}
	if len(v.r.URL.RawQuery) > maxQuery {
		return tooLarge
	}
	var err error
	if v.r.Method == http.MethodPost {
		v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
		err = v.r.ParseForm()
		v.form = v.r.PostForm
	} else {
		v.form, err = url.ParseQuery(v.r.URL.RawQuery)
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return tooLarge
	case err != nil:
		return badForm
	}
	return route.serve(c, v)
}

// see answers a form by leading to a page, so that to load it again sends nothing
// again. The address is relative to that of the console: http.Redirect would make
// it absolute.
func (v *visit) see(page string, query url.Values) {
	to := v.root() + page
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	v.w.Header().Set("Location", to)
	v.w.WriteHeader(http.StatusSeeOther)
}

// at is the address of a page of the account, relative to the console's.
func (v *visit) at(page string) string { return url.PathEscape(v.account) + "/" + page }

// root is the way to the address of the console from the page that is asked for.
func (v *visit) root() string {
	depth := strings.Count(v.r.URL.EscapedPath(), "/") - 1
	if depth < 1 {
		return "./"
	}
	return strings.Repeat("../", depth)
}
