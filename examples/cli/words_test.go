package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/clitoken"
	"github.com/curfew-oidc/curfew/policy"
)

func timeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

// Every reason that a session can end for has words, and something to do.
func TestEveryReasonHasWords(t *testing.T) {
	seen := map[string]bool{}
	for _, info := range policy.Reasons() {
		text, code := explain(&clitoken.EndedError{Description: info.Description()}, "")
		require.Equal(t, exitSignIn, code)
		lines := strings.Split(text, "\n")
		require.Len(t, lines, 3)
		require.Equal(t, info.Sentence, lines[0])
		require.Regexp(t, `^The provider says: .*[^;]\.$`, lines[1])
		require.NotEmpty(t, lines[2])
		require.False(t, seen[lines[0]], info.Reason)
		seen[lines[0]] = true
	}
	text, _ := explain(&clitoken.EndedError{Description: policy.ReasonInactivity.Info().DescriptionOf(2 * time.Hour)}, "")
	require.Equal(t, "You were signed out after 2 hours without activity.\nTo sign in again, run \"cli login\".", text)

	// Another provider says what it likes.
	text, _ = explain(&clitoken.EndedError{Description: "Session not active: gone"}, "")
	require.Equal(t, "Your sign-in is over.\nThe provider says: Session not active: gone.\nTo sign in again, run \"cli login\".", text)
	text, _ = explain(&clitoken.EndedError{}, "")
	require.Equal(t, "Your sign-in is over.\nTo sign in again, run \"cli login\".", text)
}

func TestDeniedInWords(t *testing.T) {
	const issuer = "https://login.example.com"
	for name, tt := range map[string]struct {
		denied deniedError
		want   []string
	}{
		"issuer":      {deniedError{"concurrency: used=3 max=2; sign out of another login session first, then sign in again", ""}, []string{"3 in use, 2 allowed", " at " + issuer + ","}},
		"in the text": {deniedError{"concurrency: used=2 max=2; end one at https://login.example.com/sessions/, then sign in again", ""}, []string{" at https://login.example.com/sessions/, or"}},
		"at the end":  {deniedError{"concurrency: used=2 max=2; sign out of another login session first, then sign in again; your login sessions: https://login.example.com/sessions/", ""}, []string{" at https://login.example.com/sessions/, or"}},
		"error_uri":   {deniedError{"concurrency: used=2 max=2; x", "https://login.example.com/s"}, []string{" at https://login.example.com/s, or"}},
		"by a person": {deniedError{"", ""}, []string{"refused in the browser"}},
		"other":       {deniedError{"not today", ""}, []string{"The provider says: not today."}},
	} {
		text, code := explain(&tt.denied, issuer)
		require.Equal(t, exitRefused, code)
		for _, want := range tt.want {
			require.Contains(t, text, want, name)
		}
	}
}

// What comes from the network cannot write to the terminal what it likes.
func TestPrintable(t *testing.T) {
	require.Equal(t, "a[2Jb\nc]0;xd", printable("a\x1b[2Jb\nc\x1b]0;x\a\r\u009bd\u202e"))
}

// What an API answers is shown on a terminal without what that would obey, and goes
// anywhere else as it is.
func TestAnswersOnATerminal(t *testing.T) {
	const body = "{\n\t\"name\": \"ann\x1b[2J\u009b1A\"\n}"
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, body) }))
	t.Cleanup(api.Close)
	file := clitoken.Open(t.TempDir(), "https://login.example.com", "cli")
	require.NoError(t, file.Save(t.Context(), clitoken.Login{AccessToken: "token"}))
	c := &cli{api: api.URL, file: file, http: api.Client()}
	var piped bytes.Buffer
	c.stdout = &piped
	require.NoError(t, c.call(t.Context()))
	require.Equal(t, body+"\n", piped.String())

	piped.Reset()
	c.terminal = true
	require.NoError(t, c.call(t.Context()))
	require.Equal(t, "{\n\t\"name\": \"ann[2J1A\"\n}\n", piped.String())

	device, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = device.Close() })
	plain, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = plain.Close() })
	require.True(t, isTerminal(device), "a device, as a terminal is one")
	require.False(t, isTerminal(plain))
	require.False(t, isTerminal(&piped))
}

// No endpoint of the discovery document gets a token in the clear.
func TestEndpointsInTheClear(t *testing.T) {
	for _, name := range []string{"token_endpoint", "device_authorization_endpoint", "userinfo_endpoint", "revocation_endpoint"} {
		c := &cli{issuer: "https://login.example.com", http: &http.Client{Transport: &scripted{answers: []func() (*http.Response, error){
			says(http.StatusOK, map[string]any{"issuer": "https://login.example.com", name: "http://login.example.com/x"}),
		}}}}
		_, _, err := c.discover(t.Context())
		require.ErrorContains(t, err, "the provider's "+name)
	}
}

// A scripted is a token endpoint that gives one answer after the other, and says when
// it was asked.
type scripted struct {
	start   time.Time
	answers []func() (*http.Response, error)
	asked   []time.Duration
}

func (s *scripted) RoundTrip(*http.Request) (*http.Response, error) {
	s.asked = append(s.asked, time.Since(s.start))
	answer := s.answers[min(len(s.asked), len(s.answers))-1]
	return answer()
}

func says(status int, body map[string]any) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		text, err := json.Marshal(body)
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(text)))}, err
	}
}

// How often the provider is polled: RFC 8628 section 3.5.
func TestPoll(t *testing.T) {
	pending, slow := says(400, map[string]any{"error": "authorization_pending"}), says(400, map[string]any{"error": "slow_down"})
	token := says(200, map[string]any{"access_token": "t", "token_type": "Bearer"})
	broken := func() (*http.Response, error) { return nil, errors.New("connection reset") }
	for name, tt := range map[string]struct {
		answers []func() (*http.Response, error)
		asked   []int // seconds
		err     string
	}{
		"at once":          {[]func() (*http.Response, error){token}, []int{5}, ""},
		"pending":          {[]func() (*http.Response, error){pending, pending, token}, []int{5, 10, 15}, ""},
		"slow down":        {[]func() (*http.Response, error){slow, pending, slow, token}, []int{5, 15, 25, 40}, ""},
		"down":             {[]func() (*http.Response, error){broken, says(503, map[string]any{"error": "server_error"}), token}, []int{5, 15, 35}, ""},
		"down for good":    {[]func() (*http.Response, error){broken}, []int{5, 15, 35, 75, 135, 195, 255}, errTooLate.Error()},
		"nobody comes":     {[]func() (*http.Response, error){slow, slow, slow, slow, slow, slow, slow, slow, slow, slow}, []int{5, 15, 30, 50, 75, 105, 140, 180, 225, 275}, errTooLate.Error()},
		"denied":           {[]func() (*http.Response, error){pending, says(400, map[string]any{"error": "access_denied"})}, []int{5, 10}, "access_denied"},
		"expired":          {[]func() (*http.Response, error){says(400, map[string]any{"error": "expired_token"})}, []int{5}, "expired_token"},
		"wrong client, so": {[]func() (*http.Response, error){says(401, map[string]any{"error": "invalid_client"})}, []int{5}, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{start: time.Now(), answers: tt.answers}
				ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: s})
				config := &oauth2.Config{ClientID: "cli", Endpoint: oauth2.Endpoint{TokenURL: "https://x/token", AuthStyle: oauth2.AuthStyleInParams}}
				got, err := poll(ctx, config, &oauth2.DeviceAuthResponse{DeviceCode: "d", Interval: 5, Expiry: time.Now().Add(5 * time.Minute)})
				if tt.err == "" {
					require.NoError(t, err)
					require.Equal(t, "t", got.AccessToken)
				} else {
					require.ErrorContains(t, err, tt.err)
				}
				var seconds []int
				for _, d := range s.asked {
					seconds = append(seconds, int(d.Seconds()))
				}
				require.Equal(t, tt.asked, seconds)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{start: time.Now(), answers: []func() (*http.Response, error){pending}}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: s}))
		time.AfterFunc(7*time.Second, cancel)
		config := &oauth2.Config{ClientID: "cli", Endpoint: oauth2.Endpoint{TokenURL: "https://x/token", AuthStyle: oauth2.AuthStyleInParams}}
		_, err := poll(ctx, config, &oauth2.DeviceAuthResponse{DeviceCode: "d"})
		require.ErrorIs(t, err, errInterrupted)
		_, code := explain(err, "")
		require.Equal(t, exitFailed, code)
	})
}

func TestExplain(t *testing.T) {
	for _, err := range []error{
		&unavailableError{"https://x", errors.New("EOF")}, fmt.Errorf("%w: x", clitoken.ErrBusy),
	} {
		text, code := explain(err, "")
		require.Equal(t, exitUnavailable, code)
		require.Contains(t, text, "Nothing is lost")
	}
	page := errors.New("500: <html>" + strings.Repeat("maintenance ", 10000))
	for _, err := range []error{page, &unavailableError{"https://x", page}} {
		text, _ := explain(err, "")
		require.Less(t, len(text), 600)
		require.Contains(t, text, "500: <html>maintenance")
	}
	text, code := explain(errors.New("disk full"), "")
	require.Equal(t, exitFailed, code)
	require.Equal(t, "cli: disk full", text)
}
