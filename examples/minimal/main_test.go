package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
)

var application = oauth2.Config{
	ClientID: "web", ClientSecret: "secret", RedirectURL: "http://127.0.0.1:9999/cb",
	Endpoint: oauth2.Endpoint{AuthURL: issuer + "/authorize", TokenURL: issuer + "/oauth/token"},
	Scopes:   []string{"openid", "offline_access"},
}

// A browser is one user agent, with its cookies.
func browser(t *testing.T, dial optest.Dial) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Jar: jar, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), application.RedirectURL) {
			return http.ErrUseLastResponse // at the application
		}
		return nil
	}}
}

var hidden = regexp.MustCompile(`name="authRequestID" value="([^"]+)"`)

// page returns the page that asks for a password, and what it says.
func page(t *testing.T, client *http.Client) (authRequestID, text string) {
	t.Helper()
	response, err := client.Get(application.AuthCodeURL("state"))
	require.NoError(t, err)
	text = body(t, response)
	m := hidden.FindStringSubmatch(text)
	require.NotNil(t, m, text)
	return m[1], text
}

func body(t *testing.T, response *http.Response) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, response.Write(&b))
	require.NoError(t, response.Body.Close())
	return b.String()
}

// send sends the form of the page, and returns what the application gets.
func send(t *testing.T, client *http.Client, authRequestID, password string) (int, url.Values) {
	t.Helper()
	response, err := client.PostForm(issuer+"/login/username", url.Values{
		"authRequestID": {authRequestID}, "username": {"test-user2"}, "password": {password},
	})
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	if response.StatusCode != http.StatusFound {
		return response.StatusCode, nil
	}
	at, err := response.Location()
	require.NoError(t, err)
	return response.StatusCode, at.Query()
}

// TestMinimal signs a user in as often as the cap allows, and once more; and leaves
// the logins alone for as long as the policy allows.
func TestMinimal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, handler, err := newProvider()
		require.NoError(t, err)
		dial := optest.Serve(t, handler)

		var logins []*oauth2.Token
		browsers := []*http.Client{browser(t, dial), browser(t, dial), browser(t, dial)}
		for _, client := range browsers[:2] {
			id, _ := page(t, client)
			_, params := send(t, client, id, "verysecure")
			require.NotEmpty(t, params.Get("code"), params)
			token, err := application.Exchange(context.WithValue(t.Context(), oauth2.HTTPClient, client), params.Get("code"))
			require.NoError(t, err)
			logins = append(logins, token)
		}

		id, _ := page(t, browsers[2])
		status, _ := send(t, browsers[2], id, "wrong")
		require.Equal(t, http.StatusForbidden, status)
		status, _ = send(t, browsers[0], id, "verysecure")
		require.Equal(t, http.StatusForbidden, status, "a sign-in of another browser")
		_, params := send(t, browsers[2], id, "verysecure")
		require.Equal(t, "access_denied", params.Get("error"))
		require.Contains(t, params.Get("error_description"), "concurrency")

		refresh := func(refreshToken string) (*oauth2.Token, error) {
			ctx := context.WithValue(t.Context(), oauth2.HTTPClient, browsers[0])
			return application.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
		}
		time.Sleep(20 * time.Minute)
		used, err := refresh(logins[0].RefreshToken)
		require.NoError(t, err)
		time.Sleep(20 * time.Minute)
		_, err = refresh(used.RefreshToken)
		require.NoError(t, err, "it is in use")

		_, err = refresh(logins[1].RefreshToken)
		var refused *oauth2.RetrieveError
		require.True(t, errors.As(err, &refused), err)
		require.Equal(t, "invalid_grant", refused.ErrorCode)
		require.Contains(t, refused.ErrorDescription, "inactivity")
		_, text := page(t, browsers[1])
		require.Contains(t, text, "without activity")
	})
}

// TestMinimalIsRead keeps what people read first short.
func TestMinimalIsRead(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(source), "\n"), 120)
}
