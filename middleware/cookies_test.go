package middleware

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
	"github.com/curfew-oidc/curfew/policy"
)

// Sign-ins that were begun by a former version are finished, and their cookies do not
// stay.
func TestSignInsOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	rp, err := New(Config{
		Issuer: "https://login.example.com", ClientID: "c", RedirectURL: "https://shop.example.com/cb", Keys: [][]byte{bytes.Repeat([]byte{7}, 32)},
	})
	require.NoError(t, err)
	begun := time.Now().UTC()
	r := httptest.NewRequest(http.MethodGet, "https://shop.example.com/page", nil)
	for i := range 40 {
		former := httptest.NewRecorder()
		state := fmt.Sprint("state-", i)
		s := signIn{Nonce: "n", Verifier: "v", Return: "/" + state, Begun: begun.Add(time.Duration(i) * time.Second)}
		require.NoError(t, rp.jar.setSealed(former, rp.signIns.formerCookie(state), s, signInTime))
		for _, c := range former.Result().Cookies() {
			r.AddCookie(c)
		}
	}
	for i := range 40 {
		state := fmt.Sprint("state-", i)
		s, name, ok := rp.signIns.recall(r, state)
		require.True(t, ok)
		require.Equal(t, "/"+state, s.Return)
		require.Equal(t, rp.signIns.formerCookie(state), name)
	}
	w := httptest.NewRecorder()
	require.NoError(t, rp.signIns.remember(w, r, "new", signIn{Return: "/new", Begun: begun}))
	gone, kept := 0, ""
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			gone++
			require.True(t, strings.HasPrefix(c.Name, rp.jar.name+"-in-"))
			require.NotEqual(t, rp.signIns.formerCookie("state-39"), c.Name, "the newest stay")
		} else {
			kept = c.Name
		}
	}
	require.Equal(t, maxForgotten, gone)
	require.Contains(t, rp.signIns.places(), kept)
}

// The sizes of all cookies together are what servers take: see the comment in cookies.go.
func TestSizesOfCookies(t *testing.T) {
	t.Parallel()
	for name, inCookies := range map[string]bool{"in a store": false, "in cookies": true} {
		rp, err := New(Config{
			Issuer: "https://login.example.com", ClientID: "c", RedirectURL: "https://shop.example.com/cb", Keys: [][]byte{bytes.Repeat([]byte{7}, 32)},
			InCookies: inCookies,
		})
		require.NoError(t, err)
		const attributes = len("=; ")
		total := 0
		for range rp.signIns.places() {
			total += len(rp.jar.name+"-in-0") + attributes + signInSize
		}
		if !inCookies {
			total += wideSignInSize - signInSize
		}
		longest := 0
		for _, text := range ownSentences {
			longest = max(longest, len(text))
		}
		for _, info := range policy.Reasons() {
			longest = max(longest, len(info.SentenceOf(720*time.Hour-time.Minute)))
		}
		for _, small := range []any{notice{Text: strings.Repeat("x", longest), State: seal.NewSecret()}, time.Now().UTC()} {
			plain, err := plainJSON(small)
			require.NoError(t, err)
			total += len(rp.jar.name+"-notice") + attributes + seal.Size(len(plain))
		}
		session := len(seal.NewSecret())
		if inCookies {
			session = cookiePart // one part; see docs/applications.md for more
		}
		total += len(rp.jar.name) + attributes + session
		require.Less(t, total, 7500, name)
	}
}
