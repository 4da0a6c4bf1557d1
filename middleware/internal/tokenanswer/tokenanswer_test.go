package tokenanswer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/middleware/internal/tokenanswer"
)

type answer http.Response

func (a *answer) RoundTrip(*http.Request) (*http.Response, error) { return (*http.Response)(a), nil }

// What golang.org/x/oauth2 makes of answers, and we of that.
func TestEndsLogin(t *testing.T) {
	t.Parallel()
	const invalid, reason = `{"error":"invalid_grant","error_description":"inactivity: because"}`, "inactivity: because"
	for _, tt := range []struct {
		status     int
		mediaType  string
		body       string
		ends, code bool // code: x/oauth2 finds the word, so that it is for us to tell
	}{
		{400, "application/json", invalid, true, true},
		{400, "application/json; charset=utf-8", invalid, true, true},
		{400, "Application/JSON;charset=UTF-8", invalid, true, true},
		{400, "application/problem+json", invalid, true, true},
		{401, "application/json", invalid, true, true},
		{403, "application/json", invalid, true, true},

		{200, "application/json", invalid, false, true},
		{302, "application/json", invalid, false, true},
		{404, "application/json", invalid, false, true},
		{408, "application/json", invalid, false, true},
		{429, "application/json", invalid, false, true},
		{500, "application/json", invalid, false, true},
		{502, "application/json", invalid, false, true},
		{503, "application/json", invalid, false, true},
		{400, "text/html", invalid, false, true},
		{400, "", invalid, false, true},
		{400, "application/json; =", invalid, false, true},
		{400, "text/plain", "error=invalid_grant&error_description=inactivity%3A+because", false, true},
		{400, "application/x-www-form-urlencoded", "error=invalid_grant&error_description=inactivity%3A+because", false, true},
		{502, "text/plain", "error=invalid_grant&error_description=inactivity%3A+because", false, true},

		{400, "text/html", "<h1>invalid_grant</h1>", false, false},
		{400, "application/json", `"invalid_grant"`, false, false},
		{400, "application/json", `{"error":{"code":"invalid_grant"}}`, false, false},
		{400, "application/json", `{"error":"invalid_client"}`, false, false},
		{400, "application/json", `{"error":"invalid_grant `, false, false},
		{400, "application/json", "", false, false},
	} {
		t.Run(fmt.Sprint(tt.status, " ", tt.mediaType, " ", tt.body), func(t *testing.T) {
			ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: &answer{
				StatusCode: tt.status, Header: http.Header{"Content-Type": {tt.mediaType}}, Body: io.NopCloser(strings.NewReader(tt.body)),
			}})
			config := &oauth2.Config{ClientID: "c", Endpoint: oauth2.Endpoint{TokenURL: "https://login.example.com/token", AuthStyle: oauth2.AuthStyleInParams}}
			_, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: "r"}).Token()
			var refused *oauth2.RetrieveError
			if !errors.As(err, &refused) {
				require.Error(t, err)
				require.False(t, tt.ends || tt.code, err)
				return
			}
			require.Equal(t, tt.code, refused.ErrorCode == "invalid_grant", "%+v", refused)
			require.Equal(t, tt.ends, tokenanswer.EndsLogin(refused))
			if tt.ends {
				require.Equal(t, reason, refused.ErrorDescription)
			}
		})
	}
	require.False(t, tokenanswer.EndsLogin(&oauth2.RetrieveError{ErrorCode: "invalid_grant"}), "without a response")
}
