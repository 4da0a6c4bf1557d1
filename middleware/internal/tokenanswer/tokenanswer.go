// Package tokenanswer tells the end of a login from everything else that a token
// endpoint, or something in front of it, may answer to a refresh.
package tokenanswer

import (
	"mime"
	"net/http"
	"strings"

	"golang.org/x/oauth2"
)

// EndsLogin reports whether the provider has said that the refresh token, or the
// code, is good no more: invalid_grant in JSON (RFC 6749 section 5.2), with the
// status that the section has, 400, or one of those that some providers answer
// instead, 401 and 403. The same word in an error page, in a redirect or in what a
// proxy answers for a provider that is down is no logout.
func EndsLogin(r *oauth2.RetrieveError) bool {
	if r.ErrorCode != "invalid_grant" || r.Response == nil {
		return false
	}
	switch r.Response.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
	default:
		return false
	}
	mediaType, _, err := mime.ParseMediaType(r.Response.Header.Get("Content-Type"))
	return err == nil && (mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"))
}
