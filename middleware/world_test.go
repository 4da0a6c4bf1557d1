package middleware_test

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// The ways to keep sessions, all of which behave the same.
var modes = map[string]setting{
	"store":   func(*world, *policy.Account, *optest.Config, *middleware.Config) {},
	"cookies": inCookies,
}

// eachMode runs a test in a bubble of its own for each of the modes.
func eachMode(t *testing.T, test func(t *testing.T, mode setting)) {
	t.Helper()
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, mode) })
		})
	}
}

const (
	opHost, appHost = "127.0.0.1:9998", "127.0.0.1:9999"
	appURL          = "http://" + appHost
)

// A world is a provider, an application and the browsers of its users, all in
// memory: for a synctest bubble.
type world struct {
	t      *testing.T
	op     *optest.Server
	hook   *provider.Hook // nil: a bare provider
	bare   bool
	rp     *middleware.RelyingParty
	cfg    middleware.Config
	client *http.Client // of the application

	refreshes, exchanges, discoveries atomic.Int64

	// answer, if not nil, answers the application instead of the provider. It
	// returns nil to let a request through.
	answer atomic.Pointer[func(*http.Request) *http.Response]

	mu     sync.Mutex
	events []middleware.Event
	hosts  map[string]optest.Dial
}

// A setting changes what [newWorld] makes.
type setting func(w *world, limits *policy.Account, o *optest.Config, cfg *middleware.Config)

func limited(active, inactivity time.Duration) setting {
	return func(_ *world, a *policy.Account, _ *optest.Config, _ *middleware.Config) {
		a.Active, a.Inactivity = policy.LimitTo(active), policy.LimitTo(inactivity)
	}
}

func with(change func(*middleware.Config)) setting {
	return func(_ *world, _ *policy.Account, _ *optest.Config, cfg *middleware.Config) { change(cfg) }
}

// bare leaves the hook out.
func bare(w *world, _ *policy.Account, _ *optest.Config, _ *middleware.Config) { w.bare = true }

func inCookies(_ *world, _ *policy.Account, _ *optest.Config, cfg *middleware.Config) {
	cfg.InCookies = true
}

var testKey = bytes.Repeat([]byte{7}, 32)

func newWorld(t *testing.T, settings ...setting) *world {
	t.Helper()
	w := &world{t: t, hosts: map[string]optest.Dial{}}
	account := policy.Account{}
	account.Active, account.Inactivity = policy.LimitTo(24*time.Hour), policy.LimitTo(2*time.Hour)
	o := optest.Config{InMemory: true, Middleware: w.count}
	cfg := middleware.Config{
		Issuer: "http://" + opHost, ClientID: optest.Web, ClientSecret: optest.Web + "-secret",
		RedirectURL: optest.RedirectURI, PostLogoutURL: optest.PostLogoutURI, Keys: [][]byte{testKey},
		Events: w.event,
	}
	for _, change := range settings {
		change(w, &account, &o, &cfg)
	}
	if !w.bare {
		hook, err := provider.New(provider.Config{
			Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())}, SettingsMaxAge: -1,
			Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": account}},
		})
		require.NoError(t, err)
		w.hook, o.Hook = hook, hook
	}
	w.op = optest.Start(t, o)
	w.hosts[opHost] = w.op.Dial
	cfg.HTTPClient = &http.Client{Transport: &faulty{w: w, next: w.transport()}, Timeout: 10 * time.Second}
	w.client, w.cfg = cfg.HTTPClient, cfg
	rp, err := middleware.New(cfg)
	require.NoError(t, err)
	w.rp = rp
	w.serve(appHost, w.app(rp))
	return w
}

// app is the application: a public home page, pages, a form, an API and streams.
func (w *world) app(rp *middleware.RelyingParty) http.Handler {
	mux := http.NewServeMux()
	say := func(rw http.ResponseWriter, r *http.Request, format string, args ...any) {
		if n := middleware.Notice(r.Context()); n != "" {
			fmt.Fprintf(rw, "notice: %s\n", n)
		}
		fmt.Fprintf(rw, format, args...)
	}
	mux.HandleFunc("GET /page", func(rw http.ResponseWriter, r *http.Request) {
		say(rw, r, "page of %s, query %s", middleware.SessionFrom(r.Context()).Subject, r.URL.RawQuery)
	})
	mux.HandleFunc("POST /form", func(rw http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			_ = r.ParseForm() // the other encoding
		}
		say(rw, r, "form of %s: %s", middleware.SessionFrom(r.Context()).Subject, r.PostForm.Encode())
	})
	mux.HandleFunc("GET /api", func(rw http.ResponseWriter, r *http.Request) {
		say(rw, r, "api of %s", middleware.SessionFrom(r.Context()).Subject)
	})
	public := http.NewServeMux()
	public.HandleFunc("GET /{$}", func(rw http.ResponseWriter, r *http.Request) {
		if s := middleware.SessionFrom(r.Context()); s != nil {
			say(rw, r, "home of %s", s.Subject)
			return
		}
		say(rw, r, "home of nobody")
	})
	public.HandleFunc("GET /out", func(rw http.ResponseWriter, r *http.Request) { say(rw, r, "out") })
	all := http.NewServeMux()
	all.Handle("/{$}", rp.Optional(public))
	all.Handle("/out", rp.Optional(public))
	all.Handle("/", rp.Handler(mux))
	return all
}

func (w *world) serve(host string, handler http.Handler) { w.hosts[host] = optest.Serve(w.t, handler) }

// transport connects to the hosts of the world.
func (w *world) transport() *http.Transport {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		dial := w.hosts[addr]
		if dial == nil {
			return nil, fmt.Errorf("there is no %s", addr)
		}
		return dial(ctx)
	}, MaxIdleConnsPerHost: 64}
	w.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// count counts what the provider is asked.
func (w *world) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
			w.discoveries.Add(1)
		case r.URL.Path == "/oauth/token":
			body, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if strings.Contains(string(body), "grant_type=refresh_token") {
				w.refreshes.Add(1)
			} else {
				w.exchanges.Add(1)
			}
		}
		next.ServeHTTP(rw, r)
	})
}

// A faulty transport is between the application and the provider.
type faulty struct {
	w    *world
	next http.RoundTripper
}

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	if answer := f.w.answer.Load(); answer != nil {
		if resp := (*answer)(r); resp != nil {
			if resp.StatusCode == 0 {
				return nil, fmt.Errorf("the network is down")
			}
			return resp, nil
		}
	}
	return f.next.RoundTrip(r)
}

func (w *world) answers(f func(*http.Request) *http.Response) {
	if f == nil {
		w.answer.Store(nil)
		return
	}
	w.answer.Store(&f)
}

func response(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)),
	}
}

func (w *world) event(_ context.Context, e middleware.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) seen(t middleware.EventType) []middleware.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []middleware.Event
	for _, e := range w.events {
		if e.Type == t {
			list = append(list, e)
		}
	}
	return list
}

// A browser is one of a user.
type browser struct {
	w    *world
	http *http.Client
	jar  *cookiejar.Jar
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(w.t, err)
	return &browser{w: w, jar: jar, http: &http.Client{
		Transport: w.transport(), Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// A page is an answer that a browser got, and the addresses on the way.
type page struct {
	status int
	header http.Header
	body   string
	url    *url.URL
	via    []string
}

var navigate = http.Header{
	"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Dest": {"document"}, "Accept": {"text/html"},
}

func request(t *testing.T, method, address string, body io.Reader, header http.Header) *http.Request {
	t.Helper()
	if strings.HasPrefix(address, "/") {
		address = appURL + address
	}
	req, err := http.NewRequest(method, address, body)
	require.NoError(t, err)
	for name, values := range header {
		req.Header[name] = values
	}
	return req
}

// once sends one request and follows nothing.
func (b *browser) once(req *http.Request) page {
	b.w.t.Helper()
	resp, err := b.http.Do(req)
	require.NoError(b.w.t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.w.t, err)
	require.NoError(b.w.t, resp.Body.Close())
	return page{status: resp.StatusCode, header: resp.Header, body: string(body), url: req.URL}
}

// follow follows redirects, up to a form of the provider or a page.
func (b *browser) follow(req *http.Request) page {
	b.w.t.Helper()
	var via []string
	for range 12 {
		p := b.once(req)
		via = append(via, p.url.String())
		p.via = via
		location := p.header.Get("Location")
		if location == "" {
			return p
		}
		next, err := p.url.Parse(location)
		require.NoError(b.w.t, err)
		req = request(b.w.t, http.MethodGet, next.String(), nil, navigate)
	}
	require.Fail(b.w.t, "too many redirects", "%s", strings.Join(via, "\n"))
	return page{}
}

// visit opens a page as a person does.
func (b *browser) visit(address string) page {
	b.w.t.Helper()
	return b.follow(request(b.w.t, http.MethodGet, address, nil, navigate))
}

// post sends a form of a page of the application.
func (b *browser) post(address string, form url.Values) page {
	b.w.t.Helper()
	req := request(b.w.t, http.MethodPost, address, strings.NewReader(form.Encode()), navigate)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", appURL)
	return b.follow(req)
}

// script sends a request of a script of the application.
func (b *browser) script(method, address string) page {
	b.w.t.Helper()
	return b.once(request(b.w.t, method, address, nil, http.Header{
		"Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"same-origin"}, "Accept": {"*/*"}, "Origin": {appURL}, "Referer": {appURL + "/page?of=script"},
	}))
}

var (
	formTag  = regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)"[^>]*>`)
	inputTag = regexp.MustCompile(`<input[^>]*>`)
	attr     = regexp.MustCompile(`([a-z]+)="([^"]*)"`)
)

// submit fills in and sends the form on a page.
func (b *browser) submit(p page, values url.Values) page {
	b.w.t.Helper()
	action := formTag.FindStringSubmatch(p.body)
	require.NotNil(b.w.t, action, "no form at %s: %d %s", p.url, p.status, p.body)
	form := url.Values{}
	for _, tag := range inputTag.FindAllString(p.body, -1) {
		a := map[string]string{}
		for _, m := range attr.FindAllStringSubmatch(tag, -1) {
			a[m[1]] = html.UnescapeString(m[2])
		}
		form.Add(a["name"], a["value"])
	}
	for name, v := range values {
		form[name] = v
	}
	target, err := p.url.Parse(html.UnescapeString(action[1]))
	require.NoError(b.w.t, err)
	req := request(b.w.t, http.MethodPost, target.String(), strings.NewReader(form.Encode()), navigate)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", "http://"+p.url.Host)
	return b.follow(req)
}

// signIn signs a user in at the form of the provider.
func (b *browser) signIn(p page, user string) page {
	b.w.t.Helper()
	require.Equal(b.w.t, opHost, p.url.Host, "not at the provider: %d %s %s", p.status, p.url, p.body)
	return b.submit(p, url.Values{"username": {user}, "password": {optest.Password}})
}

// login opens a page and signs alice in on the way.
func (b *browser) login(address string) page {
	b.w.t.Helper()
	p := b.signIn(b.visit(address), "alice")
	require.Equal(b.w.t, http.StatusOK, p.status, p.body)
	return p
}

// cookies are the cookies that the application gets, by name.
func (b *browser) cookies() map[string]string {
	list := map[string]string{}
	u, err := url.Parse(appURL + "/")
	require.NoError(b.w.t, err)
	for _, c := range b.jar.Cookies(u) {
		if strings.HasPrefix(c.Name, "curfew-rp-") {
			list[c.Name] = c.Value
		}
	}
	return list
}

// cookie returns the one whose name ends so; "" is the session's.
func (b *browser) cookie(suffix string) (name, value string) {
	b.w.t.Helper()
	cookies := b.cookies()
	names := make([]string, 0, len(cookies))
	for n := range cookies {
		if suffix == "" && strings.Count(n, "-") == 2 || suffix != "" && strings.Contains(strings.TrimPrefix(n, "curfew-rp-"), suffix) {
			names = append(names, n)
		}
	}
	require.Len(b.w.t, names, 1, "%s of %v", suffix, cookies)
	return names[0], cookies[names[0]]
}

// set sets a cookie of the application.
func (b *browser) set(name, value string) {
	u, err := url.Parse(appURL + "/")
	require.NoError(b.w.t, err)
	b.jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

func contains(t *testing.T, via []string, part string) {
	t.Helper()
	require.True(t, slices.ContainsFunc(via, func(s string) bool { return strings.Contains(s, part) }), "%s in\n%s", part, strings.Join(via, "\n"))
}

// goesOn opens a page, which comes at once, without a redirect.
func (b *browser) goesOn(address string) page {
	b.w.t.Helper()
	p := b.visit(address)
	require.Len(b.w.t, p.via, 1)
	require.Equal(b.w.t, http.StatusOK, p.status, p.body)
	return p
}

// A recorder is a response that nobody waits for.
type recorder = httptest.ResponseRecorder

func newRecorder() *recorder { return httptest.NewRecorder() }

// hang sends a request of the browser to a process of the same application that hangs
// where it asks the provider, until release is called.
func (w *world) hang(b *browser) (release func()) {
	w.t.Helper()
	hang := make(chan struct{})
	cfg := w.cfg
	cfg.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/oauth/token" {
			<-hang
			return nil, fmt.Errorf("dead")
		}
		return w.transport().RoundTrip(r)
	})}
	dead, err := middleware.New(cfg)
	require.NoError(w.t, err)
	req := request(w.t, http.MethodGet, "/page", nil, navigate)
	name, value := b.cookie("")
	req.AddCookie(&http.Cookie{Name: name, Value: value})
	go w.app(dead).ServeHTTP(newRecorder(), req)
	synctest.Wait()
	return func() { close(hang) }
}

// answerOf stands at the provider's answer: the address of the callback, which is
// not visited.
func (b *browser) answerOf(address, user string) string {
	b.w.t.Helper()
	p := b.visit(address)
	require.Equal(b.w.t, opHost, p.url.Host)
	stop := &browser{w: b.w, jar: b.jar, http: &http.Client{Jar: b.jar, CheckRedirect: b.http.CheckRedirect}}
	inner := b.w.transport()
	callback := ""
	stop.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/cb" {
			callback = r.URL.String()
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
		return inner.RoundTrip(r)
	})
	stop.signIn(p, user)
	require.Contains(b.w.t, callback, "code=")
	return callback
}
