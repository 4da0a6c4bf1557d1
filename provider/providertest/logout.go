package providertest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
)

// logoutModules are those of the logout plans that need an application of their
// own: OpenID Connect Back-Channel Logout 1.0 and Front-Channel Logout 1.0.
func logoutModules() []check {
	return []check{
		{name: "oidcc-backchannel-logout-discovery-endpoint-verification", needs: needsBackChannel, run: func(t *testing.T, k *kit) {
			mustAnnounce(t, k, "backchannel_logout_supported", "backchannel_logout_session_supported")
		}},
		{name: "oidcc-backchannel-rp-initiated-logout", needs: all(needsBackChannel, needsEndSession), run: backChannelLogout},
		{name: "oidcc-frontchannel-logout-discovery-endpoint-verification", needs: needsFrontChannel, run: func(t *testing.T, k *kit) {
			mustAnnounce(t, k, "frontchannel_logout_supported", "frontchannel_logout_session_supported")
		}},
		{name: "oidcc-frontchannel-rp-initiated-logout", needs: all(needsFrontChannel, needsEndSession), run: frontChannelLogout},
		{name: "an-end-by-inactivity-is-told", waits: true, needs: all(needsBackChannel, needsInactivity), run: expiryIsTold},
		{name: "an-eviction-is-told", needs: all(needsBackChannel, needsCap, needsEviction), run: evictionIsTold},
	}
}

var (
	needsBackChannel  = unless(func(o Off) bool { return o.BackChannelLogout }, "BackChannelLogout")
	needsFrontChannel = unless(func(o Off) bool { return o.FrontChannelLogout }, "FrontChannelLogout")
)

func mustAnnounce(t *testing.T, k *kit, members ...string) {
	t.Helper()
	for _, member := range members {
		require.Equal(t, true, k.metadata[member], member)
	}
}

// A logoutReceiver is the back-channel logout endpoint of the application Web.
type logoutReceiver struct {
	mu   sync.Mutex
	came *sync.Cond
	got  []logoutRequest
}

type logoutRequest struct {
	method, contentType, query, token string
	sid                               string // unverified
}

func newLogoutReceiver(t *testing.T, l net.Listener) *logoutReceiver {
	r := &logoutReceiver{}
	r.came = sync.NewCond(&r.mu)
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // always http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return r
}

func (r *logoutReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	form, _ := url.ParseQuery(string(body)) // no form has no token
	got := logoutRequest{
		method: req.Method, contentType: req.Header.Get("Content-Type"), query: req.URL.RawQuery, token: form.Get("logout_token"),
	}
	if parts := strings.Split(got.token, "."); len(parts) == 3 {
		var claims struct {
			SID string `json:"sid"`
		}
		if payload, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(payload, &claims) == nil {
			got.sid = claims.SID
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, got)
	r.came.Broadcast()
	w.Header().Set("Cache-Control", "no-store")
}

// about returns the requests about a session.
func (r *logoutReceiver) about(sid string) []logoutRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.got), func(g logoutRequest) bool { return g.sid != sid })
}

// await waits until a request about a session came, and fails after a time.
func (r *logoutReceiver) await(t *testing.T, sid string, atMost time.Duration) {
	t.Helper()
	late := false
	stop := time.AfterFunc(atMost, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.came.Broadcast()
	})
	defer stop.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !slices.ContainsFunc(r.got, func(g logoutRequest) bool { return g.sid == sid }) {
		require.False(t, late, "no logout token about %q within %s", sid, atMost)
		r.came.Wait()
	}
}

// mustBeTold checks the one logout token about a session: Back-Channel Logout 1.0
// sections 2.4 and 2.5.
func mustBeTold(t *testing.T, k *kit, sid string, subject any) {
	t.Helper()
	got := k.receiver.about(sid)
	require.Len(t, got, 1, "logout tokens about the session")
	g := got[0]
	require.Equal(t, http.MethodPost, g.method)
	require.True(t, strings.HasPrefix(g.contentType, "application/x-www-form-urlencoded"), g.contentType)
	require.Empty(t, g.query, "what is secret belongs in the body")

	verifier := k.provider.Verifier(&oidc.Config{ClientID: k.Web.ID})
	token, err := verifier.VerifyLogout(oidc.ClientContext(context.Background(), k.direct), g.token)
	require.NoError(t, err)
	require.NotEmpty(t, token.TokenID, "jti")
	require.LessOrEqual(t, token.Expiry.Sub(token.IssuedAt), 2*time.Minute, "section 4")
	claims := map[string]any{}
	require.NoError(t, token.Claims(&claims))
	require.Equal(t, map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}, claims["events"])
	require.NotContains(t, claims, "nonce")
	if token.Subject != "" {
		require.Equal(t, subject, token.Subject)
	}
	header, err := base64.RawURLEncoding.DecodeString(g.token[:strings.IndexByte(g.token, '.')])
	require.NoError(t, err)
	var h map[string]any
	require.NoError(t, json.Unmarshal(header, &h))
	require.NotEqual(t, "none", h["alg"])
	require.Equal(t, "logout+jwt", h["typ"])
}

func backChannelLogout(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	sid, subject := s.sid(t), s.claims(t)["sub"]
	v, err := s.browser.endSession(good(s))
	require.NoError(t, err)
	require.True(t, v.atApplication(), "%s", v)
	mustBeTold(t, k, sid, subject) // before the redirect: RP-Initiated Logout 1.0 section 2
	mustBeSignedOut(t, s)
}

// expiryIsTold: an end by a limit is told like any other.
func expiryIsTold(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	sid, subject := s.sid(t), s.claims(t)["sub"]
	idle, _ := k.Limits.Inactivity.Value()
	k.receiver.await(t, sid, idle+30*time.Second)
	require.GreaterOrEqual(t, time.Since(s.sent), idle)
	mustBeTold(t, k, sid, subject)
}

func evictionIsTold(t *testing.T, k *kit) {
	user := k.user(t)
	first := k.start(t, k.Web, user)
	sid, subject := first.sid(t), first.claims(t)["sub"]
	n, _ := k.Limits.Concurrent.Value()
	for range n {
		k.start(t, k.Web2, user)
	}
	k.receiver.await(t, sid, 30*time.Second)
	mustBeTold(t, k, sid, subject)
}

var frameSource = regexp.MustCompile(`(?i)<iframe[^>]*\ssrc="([^"]*)"`)

func frontChannelLogout(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	sid := s.sid(t)
	params := good(s)
	v, err := s.browser.get(k.endpoints["end_session_endpoint"] + "?" + params.Encode())
	require.NoError(t, err)
	require.False(t, v.atApplication(), "the browser goes on at once: %s", v)
	var frames []url.Values
	for _, m := range frameSource.FindAllStringSubmatch(v.body, -1) {
		u, err := url.Parse(html.UnescapeString(m[1]))
		require.NoError(t, err)
		query := u.Query()
		if u.RawQuery = ""; u.String() == k.FrontChannelLogoutURI {
			frames = append(frames, query)
		}
	}
	require.Equal(t, []url.Values{{"iss": {k.Issuer}, "sid": {sid}}}, frames, "%s", v.body)
	v = v.goOn()
	require.True(t, v.atApplication(), "%s", v)
	require.Equal(t, "bye", v.params.Get("state"))
	mustBeSignedOut(t, s)
}

var metaRefresh = regexp.MustCompile(`(?i)<meta[^>]*http-equiv="refresh"[^>]*content="[0-9]+;\s*url=([^"]*)"`)

// goOn follows a page that sends the browser on by itself.
func (v visit) goOn() visit {
	m := metaRefresh.FindStringSubmatch(v.body)
	if v.atApplication() || m == nil {
		return v
	}
	if to, err := v.page.Request.URL.Parse(html.UnescapeString(m[1])); err == nil && v.kit.isApplication(to) {
		v.params = to.Query()
	}
	return v
}

// asks checks that a logout request which gives no good reason to believe it makes
// the provider ask, and that the answer counts: RP-Initiated Logout 1.0 section 2.
func asks(t *testing.T, k *kit, spoil func(good url.Values)) {
	t.Helper()
	s, page := stays(t, k, spoil)
	s.mustLive(t)
	v, err := s.browser.arrive(k.ConfirmLogout(s.browser.http, page))
	require.NoError(t, err)
	require.Less(t, v.page.StatusCode, 500, "%s", v)
	mustBeSignedOut(t, s)
	s.mustBeOver(t, "")
}

var hiddenInput = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// ConfirmLogout answers the plain page of package provider, for
// [Target.ConfirmLogout].
func ConfirmLogout(browser *http.Client, page *http.Response) (*http.Response, error) {
	body, err := io.ReadAll(page.Body)
	if err != nil {
		return nil, err
	}
	form := url.Values{"curfew_answer": {"yes"}}
	for _, m := range hiddenInput.FindAllStringSubmatch(string(body), -1) {
		form.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	action := *page.Request.URL
	action.RawQuery = ""
	return browser.PostForm(action.String(), form)
}
