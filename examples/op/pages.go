package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static/style.css
var style []byte

var templates = func() map[string]*template.Template {
	m := map[string]*template.Template{}
	for _, name := range []string{"home", "login", "device", "device_login", "device_confirm", "message"} {
		m[name] = template.Must(template.ParseFS(templateFiles, "templates/layout.html", "templates/"+name+".html"))
	}
	return m
}()

// pages are what people see.
type pages struct {
	issuer   string
	secure   bool // the issuer is https
	storage  *storage
	provider *op.Provider
	hook     *provider.Hook
	settings provider.SettingsSource
	guesses  guesses
	log      *slog.Logger
}

// handler returns the whole server but for the hook's handler and guard.
func (p *pages) handler() (http.Handler, error) {
	own := http.NewServeMux()
	own.HandleFunc("GET /{$}", p.home)
	own.HandleFunc("POST /signout", p.signOut)
	own.HandleFunc("GET /login", p.login)
	own.HandleFunc("POST /login", p.loginSubmit)
	own.HandleFunc("GET /device", p.device)
	own.HandleFunc("POST /device", p.deviceCode)
	own.HandleFunc("POST /device/login", p.deviceLogin)
	own.HandleFunc("POST /device/confirm", p.deviceConfirm)
	own.HandleFunc("GET /static/style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Header().Set("Cache-Control", "max-age=300")
		_, _ = w.Write(style)
	})

	sessions, err := p.ownSessions()
	if err != nil {
		return nil, err
	}
	own.Handle(sessionsPath, sessions)

	// Forms are accepted from our own pages only. A request that says nothing
	// about where it comes from is no browser's. A proxy may have changed Host,
	// so the issuer counts as our own too.
	forms := http.NewCrossOriginProtection()
	if err := forms.AddTrustedOrigin(p.issuer); err != nil {
		return nil, err
	}
	forms.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.fail(w, http.StatusForbidden, "This form was sent by another website",
			"For your safety it was not accepted. If you did not expect this page, close it.")
	}))

	all := http.NewServeMux()
	all.HandleFunc("/authorize/callback", p.callback)
	all.Handle("/", p.provider)
	guarded := forms.Handler(own)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.own(r) {
			guarded.ServeHTTP(w, r)
			return
		}
		all.ServeHTTP(w, r)
	}), nil
}

// own reports whether a request is for a page of ours rather than for op.
func (p *pages) own(r *http.Request) bool {
	switch path := r.URL.Path; path {
	case "/", "/login", "/signout", "/device", strings.TrimSuffix(sessionsPath, "/"):
		return true
	default:
		return strings.HasPrefix(path, "/device/") || strings.HasPrefix(path, "/static/") || strings.HasPrefix(path, sessionsPath)
	}
}

// render writes a page. form are the places other than this provider that a form
// on it may lead to.
func (p *pages) render(w http.ResponseWriter, status int, name string, data any, form ...string) {
	var page bytes.Buffer
	if err := templates[name].Execute(&page, data); err != nil {
		p.log.Error("a page could not be written", "page", name, "error", err)
		http.Error(w, "The page could not be written.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+strings.Join(form, " "))
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // a browser that went away is not an error here
}

// fail writes a page that says what is wrong.
func (p *pages) fail(w http.ResponseWriter, status int, title, text string) {
	p.render(w, status, "message", struct{ Title, Text string }{title, text})
}

// broken answers when the store could not; guard writes the page.
func (p *pages) broken(w http.ResponseWriter, r *http.Request, err error) {
	if noteOutage(r.Context(), err); callFrom(r.Context()).outage == nil {
		p.log.ErrorContext(r.Context(), "a page failed", "path", r.URL.Path, "error", err)
	}
	p.fail(w, http.StatusInternalServerError, "Something went wrong", "Please go back and try again.")
}

// form parses a form, which is small.
func (p *pages) form(w http.ResponseWriter, r *http.Request) bool {
	err := r.ParseForm()
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		p.fail(w, http.StatusRequestEntityTooLarge, "This form is too large", "Please go back and enter less.")
	case err != nil:
		p.fail(w, http.StatusBadRequest, "This form could not be read", "Please go back and try again.")
	}
	return err == nil
}

const lostTitle, lostText = "This sign-in is not known any more",
	"It took too long, or it was finished before. Go back to the application and sign in again."

// A loginPage is what the sign-in page shows.
type loginPage struct{ ID, Client, Username, Error string }

// loginRequest returns the auth request that the sign-in page is for, or answers.
func (p *pages) loginRequest(w http.ResponseWriter, r *http.Request, id string) *authRequest {
	ar, _, err := p.storage.authRequest(r.Context(), id)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		p.fail(w, http.StatusBadRequest, lostTitle, lostText)
	case err != nil:
		p.broken(w, r, err)
	case ar.Done():
		p.toCallback(w, r, id) // the back button
	default:
		return ar
	}
	return nil
}

func (p *pages) toCallback(w http.ResponseWriter, r *http.Request, id string) {
	ctx := op.ContextWithIssuer(r.Context(), p.issuer)
	http.Redirect(w, r, op.AuthCallbackURL(p.provider)(ctx, id), http.StatusSeeOther)
}

// formTarget is the origin that the browser ends at after the sign-in form:
// browsers hold redirects against form-action too.
func formTarget(redirectURI string) string {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return ""
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + ":"
}

func (p *pages) login(w http.ResponseWriter, r *http.Request) {
	ar := p.loginRequest(w, r, r.URL.Query().Get("id"))
	if ar == nil {
		return
	}
	p.render(w, http.StatusOK, "login", loginPage{ID: ar.ID, Client: ar.ClientID, Username: ar.LoginHint}, formTarget(ar.RedirectURI))
}

func (p *pages) loginSubmit(w http.ResponseWriter, r *http.Request) {
	if !p.form(w, r) {
		return
	}
	ar := p.loginRequest(w, r, r.PostFormValue("id"))
	if ar == nil {
		return
	}
	if r.PostFormValue("action") == "cancel" {
		if err := p.storage.remove(r.Context(), keyOf(kindRequest, ar.ID)); err != nil && !errors.Is(err, kv.ErrNotFound) {
			p.broken(w, r, err)
			return
		}
		op.AuthRequestError(w, r, ar, oidc.ErrAccessDenied().WithDescription("the user cancelled the sign-in"), p.provider)
		return
	}
	page := loginPage{ID: ar.ID, Client: ar.ClientID, Username: r.PostFormValue("username")}
	u, status, problem := p.password(r, ar.ClientID)
	if u != nil && ar.HintSubject != "" && ar.HintSubject != u.Subject {
		// OpenID Connect Core 1.0 section 3.1.2.1: the hint names who is to sign in.
		u, status, problem = nil, http.StatusForbidden, "The application asked for another user to sign in. Cancel, and sign out there first."
	}
	if u == nil {
		if page.Error = problem; status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "15")
		}
		p.render(w, status, "login", page, formTarget(ar.RedirectURI))
		return
	}

	// A new secret at each sign-in: nobody can have planted it before.
	secret := newSecret()
	err := p.storage.signIn(r.Context(), ar.ID, u.Subject, keyOf(kindBrowser, secret))
	switch {
	case errors.Is(err, kv.ErrNotFound), errors.Is(err, errSignedIn):
		p.fail(w, http.StatusBadRequest, lostTitle, lostText)
		return
	case err != nil:
		p.broken(w, r, err)
		return
	}
	http.SetCookie(w, p.cookie(secret))
	p.toCallback(w, r, ar.ID)
}

// password checks the username and password of a form. If they are wrong it
// returns what to say.
func (p *pages) password(r *http.Request, client string) (u *user, status int, problem string) {
	username, password, address := r.PostFormValue("username"), r.PostFormValue("password"), addressOf(r)
	if username == "" || password == "" || len(username) > maxUsername {
		return nil, http.StatusBadRequest, "Please enter your username and your password."
	}
	leave, err := p.storage.users.enter(r.Context())
	if err != nil {
		return nil, http.StatusServiceUnavailable, "Please try again."
	}
	defer leave()
	// Asked only now, so that many guesses at once do not all get through.
	if wait := p.guesses.passwordWait(address, username, time.Now()); wait > 0 {
		p.log.WarnContext(r.Context(), "sign-ins slowed down", "address", address, "client_id", client)
		return nil, http.StatusTooManyRequests, fmt.Sprintf("That was wrong too often. Please wait %d seconds and try again.", int(math.Ceil(wait.Seconds())))
	}
	u, err = p.storage.users.authenticate(username, password)
	if err != nil {
		p.guesses.passwordFailed(address, username, time.Now())
		// Not the username: people type their password there.
		p.log.WarnContext(r.Context(), "sign-in failed", "address", address, "client_id", client)
		return nil, http.StatusUnauthorized, "The username or the password is wrong."
	}
	p.log.InfoContext(r.Context(), "password accepted", "sub", u.Subject, "address", address, "client_id", client)
	return u, http.StatusOK, ""
}

// cookie makes the cookie by which a browser is known. It is this example's own,
// for the home page and callback; it signs nobody in. On https nothing else than
// this host can set it; on loopback, which has no https, its name is plain.
func (p *pages) cookie(secret string) *http.Cookie {
	return &http.Cookie{
		Name: p.cookieName(), Value: secret, Path: "/", MaxAge: int(browserMemory / time.Second),
		HttpOnly: true, Secure: p.secure, SameSite: http.SameSiteLaxMode,
	}
}

func (p *pages) cookieName() string {
	if p.secure {
		return "__Host-example-op"
	}
	return "example-op"
}

// browser returns the key of the browser; empty if it has no cookie.
func (p *pages) browser(r *http.Request) string {
	c, err := r.Cookie(p.cookieName())
	if err != nil || c.Value == "" {
		return ""
	}
	return keyOf(kindBrowser, c.Value)
}

// callback lets op answer the application, in the browser that signed in only.
// Without this, who sends somebody the address of a sign-in page could collect
// the code of their login: op's callback is bound to nothing.
func (p *pages) callback(w http.ResponseWriter, r *http.Request) {
	if !p.form(w, r) {
		return
	}
	ar, _, err := p.storage.authRequest(r.Context(), r.Form.Get("id"))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		p.fail(w, http.StatusBadRequest, lostTitle, lostText)
	case err != nil:
		p.broken(w, r, err)
	case ar.Done() && ar.Browser != p.browser(r):
		// Keys of 256-bit secrets: the comparison gives nothing away.
		p.fail(w, http.StatusForbidden, "You signed in in another browser",
			"The sign-in can only go on there. If this surprises you, start again at the application.")
	default:
		p.provider.ServeHTTP(w, r)
	}
}

// A homePage is what the home page shows.
type homePage struct {
	Username, Client    string
	Since               time.Time
	End, Idle, Deadline time.Time
	Reserved            bool
	Ended               string // why nobody is signed in any more
}

// browserSession returns the session that was signed in to last in this browser.
// If there is none the error wraps kv.ErrNotFound or store.ErrNotFound.
func (p *pages) browserSession(r *http.Request) (store.Session, error) {
	key := p.browser(r)
	if key == "" {
		return store.Session{}, kv.ErrNotFound
	}
	var b browserRecord
	if _, err := p.storage.read(r.Context(), key, &b); err != nil {
		return store.Session{}, err
	}
	return p.hook.Session(r.Context(), b.SID)
}

func (p *pages) home(w http.ResponseWriter, r *http.Request) {
	var page homePage
	s, err := p.browserSession(r)
	switch {
	case errors.Is(err, kv.ErrNotFound), errors.Is(err, store.ErrNotFound):
	case err != nil:
		p.broken(w, r, err)
		return
	case s.End != nil:
		page.Ended = provider.Describe(s)
	default:
		u := p.storage.users.bySubject[s.Subject.ID]
		if u == nil {
			break // taken out of the users file; the next refresh ends the session
		}
		window, err := p.window(r.Context(), u, s)
		if err != nil {
			p.broken(w, r, err)
			return
		}
		deadline, _, err := p.hook.Deadline(r.Context(), s)
		if err != nil {
			p.broken(w, r, err)
			return
		}
		page = homePage{
			Username: u.Username, Client: s.Client, Since: s.Authenticated.UTC(), Reserved: !s.ReservedUntil.IsZero(),
			End: window.End.UTC(), Idle: window.Idle.UTC(), Deadline: deadline.UTC(),
		}
	}
	p.render(w, http.StatusOK, "home", page)
}

// window returns both limits of a session, of which Hook.Deadline returns the
// earlier one.
func (p *pages) window(ctx context.Context, u *user, s store.Session) (policy.Window, error) {
	memberships, err := p.storage.users.membership(ctx, s.Subject)
	if err != nil {
		return policy.Window{}, err
	}
	settings := policy.Settings{Accounts: map[string]policy.Account{}}
	for _, m := range memberships {
		if settings.Accounts[m.Account], err = p.settings.Account(ctx, m.Account); err != nil {
			return policy.Window{}, err
		}
	}
	return settings.Rules(policy.Who{User: u.Subject, Memberships: memberships}).Window(s.Policy(), policy.Use{}), nil
}

func (p *pages) signOut(w http.ResponseWriter, r *http.Request) {
	s, err := p.browserSession(r)
	if err == nil {
		err = p.hook.End(r.Context(), s.ID, policy.ReasonLogout, s.Subject.ID)
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) && !errors.Is(err, store.ErrNotFound) {
		p.broken(w, r, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// A devicePage is what the pages for devices show.
type devicePage struct{ UserCode, Client, Username, Token, Error string }

const deviceLost = "This code is not known, or it is too old. Check it, or let your device show a new one."

func (p *pages) device(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("user_code")
	p.render(w, http.StatusOK, "device", devicePage{UserCode: code[:min(len(code), 32)]})
}

// deviceGrant returns the device grant that a form is for, or answers.
func (p *pages) deviceGrant(w http.ResponseWriter, r *http.Request) (key string, page devicePage, ok bool) {
	if !p.form(w, r) {
		return "", page, false
	}
	code, address, now := r.PostFormValue("user_code"), addressOf(r), time.Now()
	page.UserCode = code[:min(len(code), 32)]
	if wait := p.guesses.code.wait(address, now); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		page.Error = "Too many codes were wrong. Please wait a little and try again."
		p.render(w, http.StatusTooManyRequests, "device", page)
		return "", page, false
	}
	key, d, err := p.storage.deviceByUserCode(r.Context(), code)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		p.guesses.code.fail(address, now)
		page.Error = deviceLost
		p.render(w, http.StatusBadRequest, "device", page)
		return "", page, false
	case err != nil:
		p.broken(w, r, err)
		return "", page, false
	}
	page.Client = d.ClientID
	return key, page, true
}

func (p *pages) deviceCode(w http.ResponseWriter, r *http.Request) {
	if _, page, ok := p.deviceGrant(w, r); ok {
		p.render(w, http.StatusOK, "device_login", page)
	}
}

func (p *pages) deviceLogin(w http.ResponseWriter, r *http.Request) {
	key, page, ok := p.deviceGrant(w, r)
	if !ok {
		return
	}
	page.Username = r.PostFormValue("username")
	u, status, problem := p.password(r, page.Client)
	if u == nil {
		if page.Error = problem; status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "15")
		}
		p.render(w, status, "device_login", page)
		return
	}
	var err error
	record := confirmRecord{Device: key, ClientID: page.Client, UserCode: page.UserCode, Subject: u.Subject}
	if page.Token, err = p.storage.beginConfirm(r.Context(), record); err != nil {
		p.broken(w, r, err)
		return
	}
	p.render(w, http.StatusOK, "device_confirm", page)
}

func (p *pages) deviceConfirm(w http.ResponseWriter, r *http.Request) {
	if !p.form(w, r) {
		return
	}
	// "end" and "cancel" are the answers to the hook's page.
	var approve bool
	switch r.PostFormValue("action") {
	case "approve", "end", "cancel":
		approve = true
	case "deny":
	default:
		p.fail(w, http.StatusBadRequest, "This form could not be read", "Please go back and try again.")
		return
	}
	token := r.PostFormValue("token")
	var full provider.DeviceDecision // there is no room, and nobody asks the user to make some
	if approve {
		d, err := p.deviceRoom(w, r, token)
		switch {
		case err != nil:
			p.undecided(w, r, err)
			return
		case d == provider.DeviceDecision{}:
			return // answered
		}
		approve = d.Approve
		if d.Deny {
			full = d
		}
	}
	if err := p.storage.decideDevice(r.Context(), token, approve); err != nil {
		p.undecided(w, r, err)
		return
	}
	switch {
	case approve:
		// It has room now. Should another login take it first, the device says so.
		p.fail(w, http.StatusOK, "Your device is connected", "You can close this page and go on there.")
	case full.Max > 0:
		p.fail(w, http.StatusForbidden, "Your device is not connected: you have too many sign-ins", fmt.Sprintf(
			"The limit is %d at a time, and you have %d. Sign out somewhere else first, then let your device show a new code.", full.Max, full.Used))
	default:
		p.fail(w, http.StatusOK, "Your device is not connected", "You can close this page.")
	}
}

// undecided answers when nothing was decided about a device.
func (p *pages) undecided(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, kv.ErrNotFound) {
		p.fail(w, http.StatusBadRequest, "This took too long", "Let your device show a new code and start again.")
		return
	}
	p.broken(w, r, err)
}

// deviceRoom lets the hook look for room for the device, and ask the user to make
// some where there is none.
func (p *pages) deviceRoom(w http.ResponseWriter, r *http.Request, token string) (provider.DeviceDecision, error) {
	c, err := p.storage.confirmation(r.Context(), token)
	if err != nil {
		return provider.DeviceDecision{}, err
	}
	client, err := p.storage.GetClientByClientID(r.Context(), c.ClientID)
	if err != nil {
		return provider.DeviceDecision{}, err
	}
	return p.hook.AskDevice(w, r, provider.DeviceLogin{
		Subject: store.Subject{Issuer: p.issuer, ID: c.Subject}, Client: client, UserCode: c.UserCode, AuthTime: c.AuthTime,
		Form: url.Values{"token": {token}},
	}), nil
}
