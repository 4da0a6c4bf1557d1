package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
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
	all.HandleFunc("/authorize", p.authorization)
	all.HandleFunc("/authorize/callback", p.callback)
	all.Handle("/", p.provider)
	documents := op.RegisterMetadataServer(metadata{provider: p.provider},
		op.WithHTTPMiddleware(op.NewIssuerInterceptor(p.provider.IssuerFromRequest).Handler))
	standard := documents.Intercept(all)
	guarded := forms.Handler(own)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.own(r) {
			guarded.ServeHTTP(w, r)
			return
		}
		standard.ServeHTTP(w, r)
	}), nil
}

// own reports whether a request is for a page of ours rather than for op.
func (p *pages) own(r *http.Request) bool {
	switch path := r.URL.Path; path {
	case "/", "/login", "/signout", "/device", strings.TrimSuffix(sessionsPath, "/"):
		return true
	default:
		return strings.HasPrefix(path, "/device/") || strings.HasPrefix(path, "/static/") || strings.HasPrefix(path, sessionsPath) ||
			strings.HasPrefix(path, consolePath)
	}
}

// render writes a page: the one place of the example that does, with what guard has set
// already. The writer of the hook's own pages is not for embedders. form are the places other than this provider that a form
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
	if _ = noteOutage(r.Context(), err); callFrom(r.Context()).outage == nil {
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

const elsewhereTitle, elsewhereText = "This sign-in began in another browser",
	"It can only go on there. If you did not expect this, start again at the application. Signing in needs cookies."

// A loginPage is what the sign-in page shows.
type loginPage struct {
	ID, Client, Username, Error string
	Ended                       string // why nobody is signed in any more
	Again                       bool   // somebody is, and is asked once more
}

// loginRequest returns the auth request that the sign-in page is for, or answers.
func (p *pages) loginRequest(w http.ResponseWriter, r *http.Request, id string) *authRequest {
	ar, _, err := p.storage.authRequest(r.Context(), id)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		p.fail(w, http.StatusBadRequest, lostTitle, lostText)
	case err != nil:
		p.broken(w, r, err)
	case !p.hook.StartedHere(r, p.issuer, id) && !p.marked(r, ar):
		// Somebody was sent the address of this page, and who sent it waits
		// for the answer.
		p.fail(w, http.StatusForbidden, elsewhereTitle, elsewhereText)
	case ar.Done():
		p.toCallback(w, r, id) // the back button
	default:
		return ar
	}
	return nil
}

// authorization gives the browser a mark that it keeps. The hook's cookies say which auth
// requests a browser began, but only of the last few: of sixty tabs that are restored at
// once the others know by the mark that they may begin again.
func (p *pages) authorization(w http.ResponseWriter, r *http.Request) {
	mark := ""
	if c, err := r.Cookie(p.markName()); err == nil {
		mark = c.Value
	}
	if mark == "" {
		mark = newSecret()
		http.SetCookie(w, &http.Cookie{
			Name: p.markName(), Value: mark, Path: "/", MaxAge: 400 * 24 * 60 * 60, // what browsers keep at most
			Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		})
	}
	call := callFrom(r.Context())
	call.browser, call.again = markHash(mark), r.URL.Query().Has("again")
	p.provider.ServeHTTP(w, r)
}

func (p *pages) markName() string {
	if p.secure {
		return "__Host-op-browser"
	}
	return "op-browser"
}

func markHash(mark string) string {
	sum := sha256.Sum256([]byte(mark))
	return hex.EncodeToString(sum[:])
}

// marked reports whether a request comes from the browser that began the auth request,
// by its mark.
func (p *pages) marked(r *http.Request, ar *authRequest) bool {
	c, err := r.Cookie(p.markName())
	return err == nil && ar.Browser != "" && subtle.ConstantTimeCompare([]byte(markHash(c.Value)), []byte(ar.Browser)) == 1
}

// beginAgain makes the authorization request of an auth request once more, in the
// browser that began it and has lost the hook's cookie for it: without that the login
// would be no part of the browser's session.
func (p *pages) beginAgain(w http.ResponseWriter, r *http.Request, ar *authRequest) {
	q, ok := ar.again()
	if !ok {
		p.fail(w, http.StatusBadRequest, lostTitle, lostText)
		return
	}
	if err := p.storage.remove(r.Context(), keyOf(kindRequest, ar.ID)); err != nil && !errors.Is(err, kv.ErrNotFound) {
		p.broken(w, r, err)
		return
	}
	to := p.issuer + "/authorize?" + q.Encode()
	if ar.Again { // many tabs are at it, and push each other out: they take turns
		w.Header().Set("Refresh", fmt.Sprintf("%d; url=%s", 1+mathrand.IntN(10), to))
		p.fail(w, http.StatusOK, "One moment", "The sign-in goes on in a few seconds.")
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
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
	page := loginPage{ID: ar.ID, Client: ar.ClientID, Username: ar.LoginHint}
	s, err := p.hook.BrowserSession(r, p.issuer)
	switch {
	case err == nil && p.storage.continues(ar, s):
		p.signedIn(w, r, ar, s.Subject.ID, s.Authenticated)
		return
	case err != nil && !errors.Is(err, store.ErrNotFound):
		p.broken(w, r, err)
		return
	case ar.Silent:
		p.answer(w, r, ar, oidc.ErrLoginRequired().WithDescription("%s", cmp.Or(provider.Describe(s), "The user has to sign in.")))
		return
	case err != nil:
		page.Ended = provider.Describe(s)
	default:
		page.Again = true
		if u := p.storage.users.bySubject[s.Subject.ID]; u != nil && page.Username == "" {
			page.Username = u.Username
		}
	}
	p.render(w, http.StatusOK, "login", page, formTarget(ar.RedirectURI))
}

// answer ends an auth request with an error for the application.
func (p *pages) answer(w http.ResponseWriter, r *http.Request, ar *authRequest, answer *oidc.Error) {
	// From the storage that the hook decorates: so it knows that this is an
	// authorization response, and completes it.
	known, err := p.provider.Storage().AuthRequestByID(op.ContextWithIssuer(r.Context(), p.issuer), ar.ID)
	if err != nil {
		p.fail(w, http.StatusBadRequest, lostTitle, lostText) // or broken: guard knows
		return
	}
	if err := p.storage.remove(r.Context(), keyOf(kindRequest, ar.ID)); err != nil && !errors.Is(err, kv.ErrNotFound) {
		p.broken(w, r, err)
		return
	}
	op.AuthRequestError(w, r, known, answer, p.provider)
}

// signedIn records who answered an auth request, and lets op answer the
// application.
func (p *pages) signedIn(w http.ResponseWriter, r *http.Request, ar *authRequest, subject string, authTime time.Time) {
	if !p.hook.StartedHere(r, p.issuer, ar.ID) {
		p.beginAgain(w, r, ar)
		return
	}
	err := p.storage.signIn(r.Context(), ar.ID, subject, authTime)
	switch {
	case errors.Is(err, kv.ErrNotFound), errors.Is(err, errSignedIn):
		p.fail(w, http.StatusBadRequest, lostTitle, lostText)
	case err != nil:
		p.broken(w, r, err)
	default:
		p.toCallback(w, r, ar.ID)
	}
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
		p.answer(w, r, ar, oidc.ErrAccessDenied().WithDescription("the user cancelled the sign-in"))
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
	p.signedIn(w, r, ar, u.Subject, time.Now())
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

// callback lets op answer the application, in the browser that asked only: who
// learns the address of a callback gets no code. The page to sign in at is in that
// browser too; see loginRequest.
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
	case ar.Done() && !p.hook.StartedHere(r, p.issuer, ar.ID) && p.marked(r, ar):
		p.beginAgain(w, r, ar)
	case ar.Done() && !p.hook.StartedHere(r, p.issuer, ar.ID):
		p.fail(w, http.StatusForbidden, elsewhereTitle, elsewhereText)
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

func (p *pages) home(w http.ResponseWriter, r *http.Request) {
	var page homePage
	s, err := p.hook.BrowserSession(r, p.issuer)
	switch {
	case errors.Is(err, store.ErrNotFound):
		page.Ended = provider.Describe(s)
	case err != nil:
		p.broken(w, r, err)
		return
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
	s, err := p.hook.BrowserSession(r, p.issuer)
	if err == nil {
		err = p.hook.End(r.Context(), s.ID, policy.ReasonLogout, s.Subject.ID)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
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
	// Where there is no room the device is refused when it comes for its tokens:
	// there it learns of the limit, and not only that somebody said no.
	if err := p.storage.decideDevice(r.Context(), token, approve || full.Max > 0); err != nil {
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
