package provider

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// looked is a hook that notes at which paths the cookies of a request were read.
type looked struct {
	*Hook
	mu sync.Mutex
	at map[string]bool
}

func (l *looked) Storage(s op.Storage) op.Storage { return l.Hook.Storage(s) }

func (l *looked) Handler(next http.Handler) http.Handler {
	return l.Hook.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.at[r.URL.Path] = l.Hook.requestFrom(r.Context()).browser != nil
	}))
}

func bindingsHook(t *testing.T) *Hook {
	t.Helper()
	hook, err := New(Config{Store: memstore.New(), Keys: Keys{NewKey(time.Now())}, Settings: StaticSettings(policy.Settings{})})
	require.NoError(t, err)
	return hook
}

// All bindings and the session cookie together are below what nginx takes by default,
// with IDs of auth requests that are as long as may be.
func TestSizesOfBindings(t *testing.T) {
	t.Parallel()
	h := bindingsHook(t)
	const issuer = "https://login.example.com"
	names := cookieNamesOf(issuer)
	for id, most := range map[int]int{36: 4500, longBoundID: 6500, maxBoundID: 6500} {
		longest := binding{Request: strings.Repeat("x", id), Made: time.Now(), MaxAge: math.MaxInt64, Hint: make([]byte, 16), Done: true}
		value := h.sealBinding(issuer, longest)
		total := len(names.session) + len(newBrowserJoin(longest, nil).next.text()) + maxSIDLen
		for _, silent := range []bool{false, true} {
			longest.Silent = silent
			for _, name := range names.places(&longest) {
				total += len(name) + len(value) + len("=; ")
			}
		}
		require.Less(t, total, most, "IDs of %d bytes", id)
	}
}

// Bindings of former versions, each under a name of its own, are read and make place
// for new ones, however many there are.
func TestBindingsOfFormerVersions(t *testing.T) {
	t.Parallel()
	h := bindingsHook(t)
	const issuer = "https://login.example.com"
	names := cookieNamesOf(issuer)
	state := &browserState{}
	begun := time.Now().Add(-time.Hour)
	for i := range 60 {
		b := binding{Request: fmt.Sprint("former-", i), Made: begun.Add(time.Duration(i) * time.Second), MaxAge: -1}
		state.cookies = append(state.cookies, &http.Cookie{Name: names.formerName(b.Request), Value: h.sealBinding(issuer, b)})
	}
	_, here := h.bindingIn(state.cookies, issuer, "former-3")
	require.True(t, here)
	// One under the name of another is none.
	_, here = h.bindingIn([]*http.Cookie{{Name: state.cookies[4].Name, Value: state.cookies[3].Value}}, issuer, "former-3")
	require.False(t, here)
	for i := range 16 {
		b := binding{Request: fmt.Sprint("new-", i), Made: time.Now(), MaxAge: -1}
		name := h.placeFor(state, issuer, names, &b)
		require.Contains(t, names.places(&b), name)
		gone := 0
		for _, c := range state.set {
			if c.MaxAge < 0 {
				gone++
				state.cookies = slices.DeleteFunc(state.cookies, func(had *http.Cookie) bool { return had.Name == c.Name })
			}
		}
		require.LessOrEqual(t, gone, maxForgotten)
		state.set = nil
		state.cookies = slices.DeleteFunc(state.cookies, func(had *http.Cookie) bool { return had.Name == name })
		state.cookies = append(state.cookies, &http.Cookie{Name: name, Value: h.sealBinding(issuer, b)})
		_, here = h.bindingIn(state.cookies, issuer, b.Request)
		require.True(t, here)
	}
	require.Len(t, state.cookies, openPlaces, "those of former versions are gone")
}

// Cookies are read where a browser is, and nowhere else: a refresh costs nothing
// more for them.
func TestOnlyBrowsersHaveTheirCookiesRead(t *testing.T) {
	t.Parallel()
	hook, err := New(Config{Store: memstore.New(), Keys: Keys{NewKey(time.Now())}, Settings: StaticSettings(policy.Settings{})})
	require.NoError(t, err)
	l := &looked{Hook: hook, at: map[string]bool{}}
	s := optest.Start(t, optest.Config{Hook: l, InMemory: true})
	r := s.Login(optest.Web, "alice")
	r = s.Refresh(optest.Web, r.RefreshToken())
	require.Equal(t, http.StatusOK, r.Status, r.Body)
	s.Userinfo(r.AccessToken())
	s.Introspect(optest.Web, r.AccessToken())
	s.DeviceLogin(optest.Native, "alice")
	s.Revoke(optest.Web, r.RefreshToken(), "")
	s.Discovery()
	l.mu.Lock()
	defer l.mu.Unlock()
	var read []string
	for path, did := range l.at {
		if did {
			read = append(read, path)
		}
	}
	require.ElementsMatch(t, []string{"/authorize", "/authorize/callback"}, read)
	require.Contains(t, l.at, "/oauth/token")
	require.Greater(t, len(l.at), 7)
}
