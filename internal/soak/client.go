package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// The clients of examples/op, and what their kind of session is.
const (
	web = "web" // browser
	cli = "cli" // command line: RFC 7009 revocation of its token ends the session

	webSecret = "web-secret"
	password  = "wonderland-1"
)

var redirectURIs = map[string]string{web: "http://127.0.0.1:9999/cb", cli: "http://127.0.0.1/cb"}

// A login is one user at one browser, with one application behind it.
type login struct {
	fleet    *fleet
	client   string
	username string
	began    int // the process of its first request
	at       int // the process of its next request: each goes to another one

	id       string // of the auth request
	cookies  map[string]string
	verifier string

	refreshToken, idToken string

	// choose says which sessions shall end where a page asks; nil: none, the
	// user gives up.
	choose func(sessions []string) []string

	refused bool // for the cap
	asked   bool // which session shall end
}

func (f *fleet) newLogin(n int, client, username string) *login {
	return &login{fleet: f, client: client, username: username, began: n, at: n, cookies: map[string]string{}}
}

// beginAgain forgets all but who it is. It begins at the process after the one where
// it began before, so that it comes round to each of them.
func (l *login) beginAgain() {
	fresh := l.fleet.newLogin(l.began+1, l.client, l.username)
	fresh.choose = l.choose
	*l = *fresh
}

// A refusal is an answer of OAuth that says no (RFC 6749 sections 4.1.2.1 and
// 5.2).
type refusal struct{ code, description string }

func (r *refusal) Error() string { return r.code + ": " + r.description }

// errLost is wrapped by the error of a step whose answer never came, where it
// must not be sent again: whether it took effect is not known.
var errLost = errors.New("the connection was lost before the answer came")

// errTaken is wrapped beside it where a code was sent again that had been taken:
// the provider then ends the login (RFC 6749 section 4.1.2), for it cannot know
// who has the first answer.
var errTaken = errors.New("the code was taken before")

// errElsewhere is wrapped by the error of a sign-in that a process took for one of
// another browser. That happens only beside the first release, which sets other
// cookies: nothing was admitted, and the user begins again.
var errElsewhere = errors.New("the sign-in began in another browser")

// An answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	again  bool // the request was sent before, and whether it took effect is not known
}

func (a *answer) refusal() error {
	var r struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(a.body, &r); err != nil || r.Error == "" {
		return fmt.Errorf("unexpected answer %d: %.300s", a.status, a.body)
	}
	return &refusal{r.Error, r.Description}
}

// transport makes a connection for each request: what a process accepted is
// answered before it ends, and what it did not accept was not sent.
var transport = &http.Transport{DisableKeepAlives: true}

// do sends a request to the next process, and again to others while the answer
// is 503 or nobody listens. Whether it is sent again after a connection was
// lost is for the caller to say.
func (l *login) do(ctx context.Context, again bool, method, path string, form url.Values) (*answer, error) {
	sent := false
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		p := l.fleet.processes[l.at%len(l.fleet.processes)]
		l.at++
		a, err := l.once(ctx, p, method, path, form)
		var unsent *net.OpError
		switch {
		case err == nil && a.status != http.StatusServiceUnavailable:
			l.fleet.requests.Add(1)
			a.again = sent
			return a, nil
		case errors.Is(err, errNobody):
		case err == nil, errors.As(err, &unsent) && unsent.Op == "dial", again && ctx.Err() == nil:
			l.fleet.outages.Add(1)
			sent = true
		default:
			return nil, fmt.Errorf("%s %s: %w: %w", method, path, errLost, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s %s: no answer but 503 or silence: %w", method, path, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// errNobody is the error where a process is not there and everybody knows.
var errNobody = errors.New("the process is not running")

func (l *login) once(ctx context.Context, p *process, method, path string, form url.Values) (*answer, error) {
	address, leave, ok := p.enter()
	if !ok {
		return nil, errNobody
	}
	defer leave()
	body := form.Encode()
	if method == http.MethodGet {
		if body != "" {
			path += "?" + body
		}
		body = ""
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Host = strings.TrimPrefix(issuer, "http://")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range l.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	if l.client == web && (path == "/oauth/token" || path == "/revoke") {
		req.SetBasicAuth(web, webSecret)
	}
	resp, err := transport.RoundTrip(req) // follows no redirect
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		if l.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(l.cookies, c.Name)
		}
	}
	content, err := io.ReadAll(resp.Body)
	return &answer{status: resp.StatusCode, header: resp.Header, body: content}, err
}

// unexpected is the error for an answer that should not have come.
func (a *answer) unexpected() error {
	if a.status == http.StatusForbidden && bytes.Contains(a.body, []byte("in another browser")) {
		return errElsewhere
	}
	return fmt.Errorf("unexpected answer %d: %.300s", a.status, a.body)
}

// redirected returns where an answer sends the browser.
func (a *answer) redirected() (*url.URL, error) {
	to := a.header.Get("Location")
	if refresh, ok := strings.CutPrefix(a.header.Get("Refresh"), "0; url="); ok && a.status == http.StatusOK {
		to, a.status = refresh, http.StatusFound // the page after a page that asks leads on
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	if a.status/100 != 3 || u.Path == "" {
		return nil, a.unexpected()
	}
	if q := u.Query(); q.Get("error") == "server_error" {
		// An outage, told to the application.
		return nil, fmt.Errorf("%w: %s", errLost, q.Get("error_description"))
	}
	return u, nil
}

// signIn asks for a code and enters the password. The callback is then next.
func (l *login) signIn(ctx context.Context) error {
	l.verifier = rand.Text() + rand.Text()
	challenge := sha256.Sum256([]byte(l.verifier))
	a, err := l.do(ctx, true, http.MethodGet, "/authorize", url.Values{
		"client_id": {l.client}, "redirect_uri": {redirectURIs[l.client]}, "response_type": {"code"},
		"scope": {"openid profile offline_access"}, "state": {"s"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	})
	if err != nil {
		return err
	}
	page, err := a.redirected()
	if err != nil {
		return fmt.Errorf("authorize: %w", err)
	}
	if l.id = page.Query().Get("id"); l.id == "" {
		return fmt.Errorf("authorize: unexpected redirect to %s", page)
	}
	a, err = l.do(ctx, true, http.MethodGet, "/login", url.Values{"id": {l.id}})
	if err != nil {
		return err
	}
	if a.status != http.StatusOK || !bytes.Contains(a.body, []byte(`name="password"`)) {
		return fmt.Errorf("sign in: %w", a.unexpected())
	}
	a, err = l.do(ctx, false, http.MethodPost, "/login", url.Values{"id": {l.id}, "username": {l.username}, "password": {password}})
	if err != nil {
		return err
	}
	if _, err = a.redirected(); err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	return nil
}

// callback gets the code, or a *refusal. Here the login is admitted. If the store
// could not answer in time the browser loads it again: the same login, whether it
// was admitted or not. Where a page asks, it is answered.
func (l *login) callback(ctx context.Context) (code string, err error) {
	for {
		a, err := l.do(ctx, true, http.MethodGet, "/authorize/callback", url.Values{"id": {l.id}})
		if err != nil {
			return "", err
		}
		if form := a.asked(); form != nil {
			l.asked = true
			if l.choose != nil {
				form["end"] = l.choose(form["end"])
			} else {
				form.Set("action", "cancel")
			}
			a, err = l.do(ctx, true, http.MethodPost, "/authorize/callback?curfew_answer=1&id="+url.QueryEscape(l.id), form)
			if err != nil {
				return "", err
			}
		}
		app, err := a.redirected()
		switch {
		case errors.Is(err, errLost):
			l.fleet.outages.Add(1)
			continue
		case err != nil && (a.asked() != nil || bytes.Contains(a.body, []byte("There is room now"))):
			continue // things have changed meanwhile
		case err != nil:
			return "", fmt.Errorf("callback: %w", err)
		}
		q := app.Query()
		if q.Get("code") == "" {
			return "", &refusal{q.Get("error"), q.Get("error_description")}
		}
		return q.Get("code"), nil
	}
}

var (
	questionToken   = regexp.MustCompile(`name="curfew_token" value="([^"]+)"`)
	questionSession = regexp.MustCompile(`name="end" value="([^"]+)"`)
)

// asked returns the form of the page that asks which session shall end, with all
// of them chosen; nil if it is another page.
func (a *answer) asked() url.Values {
	token := questionToken.FindSubmatch(a.body)
	if a.status != http.StatusForbidden || token == nil {
		return nil
	}
	form := url.Values{"curfew_token": {html.UnescapeString(string(token[1]))}}
	for _, m := range questionSession.FindAllSubmatch(a.body, -1) {
		form.Add("end", html.UnescapeString(string(m[1])))
	}
	return form
}

// redeem gets tokens for the code, or a *refusal.
func (l *login) redeem(ctx context.Context, code string) error {
	return l.token(ctx, false, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURIs[l.client]}, "code_verifier": {l.verifier},
	})
}

// refresh exchanges the refresh token, or returns a *refusal. A client whose
// answer was lost sends its token again.
func (l *login) refresh(ctx context.Context) error {
	return l.token(ctx, true, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.refreshToken}})
}

func (l *login) token(ctx context.Context, again bool, form url.Values) error {
	l.identify(form)
	a, err := l.do(ctx, again, http.MethodPost, "/oauth/token", form)
	if err != nil {
		return err
	}
	var tokens struct {
		RefreshToken string `json:"refresh_token"`
		IDToken      string `json:"id_token"`
	}
	if a.status != http.StatusOK {
		err := a.refusal()
		var r *refusal
		if a.again && form.Get("code") != "" && errors.As(err, &r) && r.code == "invalid_grant" {
			err = fmt.Errorf("%w: %w: %w", errLost, errTaken, err)
		}
		return err
	}
	if err := json.Unmarshal(a.body, &tokens); err != nil {
		return err
	}
	if tokens.RefreshToken == "" || tokens.IDToken == "" {
		return errors.New("the answer has no refresh token or no ID token")
	}
	l.refreshToken, l.idToken = tokens.RefreshToken, tokens.IDToken
	return nil
}

func (l *login) identify(form url.Values) {
	if l.client != web {
		form.Set("client_id", l.client)
	}
}

// revoke revokes the refresh token (RFC 7009).
func (l *login) revoke(ctx context.Context) error {
	form := url.Values{"token": {l.refreshToken}, "token_type_hint": {"refresh_token"}}
	l.identify(form)
	a, err := l.do(ctx, true, http.MethodPost, "/revoke", form)
	if err == nil && a.status != http.StatusOK {
		err = a.refusal()
	}
	return err
}

// signOut ends the session (RP-Initiated Logout 1.0).
func (l *login) signOut(ctx context.Context) error {
	a, err := l.do(ctx, true, http.MethodGet, "/end_session", url.Values{"id_token_hint": {l.idToken}})
	if err == nil && a.status/100 != 3 {
		err = fmt.Errorf("end session: unexpected answer %d: %.300s", a.status, a.body)
	}
	return err
}
