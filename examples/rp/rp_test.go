package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/internal/proctest"
)

const site = "http://127.0.0.1:9999" // what the provider knows; the port is another one

// start runs the program and returns where it listens, and what ends it.
func start(t *testing.T, args ...string) (listens string, end func() error) {
	t.Helper()
	p := proctest.Start(t, func(ctx context.Context, stdout, stderr io.Writer) error {
		return run(ctx, append([]string{"-listen", "127.0.0.1:0", "-url", site}, args...), func(string) string { return "" }, stdout, stderr)
	}, func(p *proctest.Program) bool { return strings.Contains(p.Stdout.String(), "is ready") })
	return regexp.MustCompile(`listen=(\S+)`).FindStringSubmatch(p.Stderr.String())[1], p.End
}

type browser struct {
	t       *testing.T
	client  *http.Client
	listens string
}

func newBrowser(t *testing.T, listens string) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	b := &browser{t: t, listens: listens}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "127.0.0.1:9999" {
			addr = b.listens
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	b.client = &http.Client{Transport: transport, Jar: jar}
	return b
}

// do sends a request as a page does, and follows redirects.
func (b *browser) do(method, address string, form url.Values) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	req.Header.Set("Accept", "text/html")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	}
	resp, err := b.client.Do(req)
	require.NoError(b.t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	require.NoError(b.t, resp.Body.Close())
	return resp, string(body)
}

var hiddenID = regexp.MustCompile(`name="id" value="([^"]*)"`)

// open opens a page, signing alice in on the way.
func (b *browser) open(path string) string {
	b.t.Helper()
	resp, body := b.do(http.MethodGet, site+path, nil)
	id := hiddenID.FindStringSubmatch(body)
	require.NotNil(b.t, id, body)
	resp, body = b.do(http.MethodPost, resp.Request.URL.Scheme+"://"+resp.Request.URL.Host+"/login",
		url.Values{"id": {id[1]}, "username": {"alice"}, "password": {optest.Password}})
	require.Equal(b.t, http.StatusOK, resp.StatusCode, body)
	return body
}

func TestNotes(t *testing.T) {
	t.Parallel()
	provider := optest.Start(t, optest.Config{})
	listens, _ := start(t, "-issuer", provider.Issuer)
	b := newBrowser(t, listens)
	_, body := b.do(http.MethodGet, site+"/", nil)
	require.Contains(t, body, `id="signin"`)
	body = b.open("/notes")
	for _, id := range []string{"user", "countdown", "stay", "note", "add", "notes", "call", "result", "signout"} {
		require.Contains(t, body, `id="`+id+`"`)
	}
	resp, body := b.do(http.MethodPost, site+"/notes", url.Values{"note": {"<b>first</b>"}})
	require.Equal(t, "/notes", resp.Request.URL.Path)
	require.Contains(t, body, "<li>&lt;b&gt;first&lt;/b&gt;</li>")
	for name, note := range map[string]string{"write something": " ", "too long": strings.Repeat("x", maxNote+1)} {
		resp, body = b.do(http.MethodPost, site+"/notes", url.Values{"note": {note}})
		require.Equal(t, http.StatusBadRequest, resp.StatusCode)
		require.Contains(t, body, name)
	}
	_, body = b.do(http.MethodGet, site+"/api/count", nil)
	require.Contains(t, body, `"notes":1`)
	resp, body = b.do(http.MethodPost, site+"/auth/session", url.Values{"return": {"/notes"}})
	require.Equal(t, "/notes", resp.Request.URL.Path, body)
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'; script-src 'self'")

	other := newBrowser(t, listens)
	resp, _ = other.do(http.MethodGet, site+"/api/count", nil)
	require.Equal(t, strings.TrimPrefix(provider.Issuer, "http://"), resp.Request.URL.Host)
}

// A restart signs nobody out, where sessions are kept.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "a b?.db"), "cookies": "cookies"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			provider := optest.Start(t, optest.Config{})
			args := []string{"-issuer", provider.Issuer, "-store", store, "-key", filepath.Join(t.TempDir(), "key")}
			listens, end := start(t, args...)
			b := newBrowser(t, listens)
			b.open("/notes")
			require.NoError(t, end())
			b.client.CloseIdleConnections()
			b.listens, _ = start(t, args...)
			resp, body := b.do(http.MethodGet, site+"/notes", nil)
			require.Equal(t, "/notes", resp.Request.URL.Path, body)
		})
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	require.NoError(t, os.WriteFile(open, bytes.Repeat([]byte{1}, 32), 0o644))
	short := filepath.Join(dir, "short")
	require.NoError(t, os.WriteFile(short, []byte{1}, 0o600))
	for _, test := range []struct {
		args []string
		env  string
		want string
	}{
		{args: []string{"extra"}, want: "use flags only"},
		{args: []string{"-listen", "9999"}, want: "-listen"},
		{args: []string{"-listen", "0.0.0.0:0"}, want: "-url"},
		{args: []string{"-url", "http://shop.example.com"}, want: "RedirectURL"},
		{args: []string{"-url", "http://127.0.0.1/path"}, want: "-url"},
		{args: []string{"-issuer", "http://login.example.com"}, want: "Issuer"},
		{args: []string{"-client-id", ""}, want: "ClientID"},
		{args: []string{"-store", "redis"}, want: "-store"},
		{args: []string{"-store", "sqlite:"}, want: "-store"},
		{args: []string{"-store", "cookies"}, want: "-key"},
		{args: []string{"-store", "sqlite:" + filepath.Join(dir, "missing", "s.db"), "-key", filepath.Join(dir, "key")}, want: "-store"},
		{args: []string{"-key", open}, want: "others may read it"},
		{args: []string{"-key", short}, want: "Keys"},
		{args: []string{"-nonsense"}, want: "nonsense"},
		{env: "CURFEW_RP_STORE=x", want: "-store"},
	} {
		var said proctest.Output
		getenv := func(name string) string {
			if n, v, ok := strings.Cut(test.env, "="); ok && n == name {
				return v
			}
			return ""
		}
		code := exitCode(run(t.Context(), append([]string{"-listen", "127.0.0.1:0"}, test.args...), getenv, io.Discard, &said), &said)
		require.Equal(t, 2, code, "%v %s", test.args, said.String())
		require.Contains(t, said.String(), test.want, "%v", test.args)
	}
	var said proctest.Output
	require.Zero(t, exitCode(run(t.Context(), []string{"-help"}, func(string) string { return "" }, io.Discard, &said), &said))
	require.Contains(t, said.String(), "CURFEW_RP_CLIENT_ID")
}
