package resource

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Rule is a further requirement of a route on a valid token.
type Rule func(*needs)

// needs are the rules of a route together.
type needs struct {
	scopes []string
	acrs   []string
	fresh  bool // maxAge counts, 0 included
	maxAge time.Duration
}

// Scopes requires all of the given scopes. Without them the answer is 403
// with insufficient_scope (RFC 6750 section 3.1).
func Scopes(scopes ...string) Rule {
	return func(n *needs) { n.scopes = append(n.scopes, scopes...) }
}

// MaxAge requires that the user entered credentials at most d ago, in whole seconds. Otherwise, or
// if the token does not have that time, the answer is 401 with insufficient_user_authentication and
// max_age (RFC 9470 section 3), and the application sends the user to sign in with that max_age.
//
// Zero is not "no limit" but "just now": a login of this very second. Applications hardly ever get
// a token here that fast; use a minute instead. If there are several such rules, the shortest
// counts; a negative one is zero.
//
// The provider must put auth_time into its JWT access tokens, which op does not, or into the
// introspection response, which Curfew does.
func MaxAge(d time.Duration) Rule {
	d = max(0, d.Truncate(time.Second))
	return func(n *needs) {
		if !n.fresh || d < n.maxAge {
			n.fresh, n.maxAge = true, d
		}
	}
}

// ACR requires that the user signed in with one of the given values of acr, best first. Otherwise
// the answer is 401 with insufficient_user_authentication and acr_values (RFC 9470 section 3). If
// there are several such rules, the last one counts.
func ACR(values ...string) Rule {
	return func(n *needs) { n.acrs = slices.Clone(values) }
}

var (
	errScope  = errors.New("the access token lacks a scope")
	errStepUp = errors.New("the login is too old, or was done in another way than is needed")
)

func (n *needs) check(t Token, now time.Time, leeway time.Duration) error {
	for _, scope := range n.scopes {
		if !t.HasScope(scope) {
			return errScope
		}
	}
	if len(n.acrs) > 0 && !slices.Contains(n.acrs, t.ACR) {
		return errStepUp
	}
	if n.fresh {
		age := now.Sub(t.AuthTime)
		// auth_time is in whole seconds, so the login was up to one later.
		if t.AuthTime.IsZero() || age >= n.maxAge+time.Second || age < -leeway {
			return errStepUp
		}
	}
	return nil
}

// A Error is why a request was refused. Its text is for the API's log: it says more than the
// response, and contains no token.
type Error struct {
	// Status is 400, 401, 403 or 503.
	Status int

	// Code is the error of the challenge (RFC 6750 section 3.1, RFC 9470 section 3);
	// empty if the request had no bearer token. For 503 it is "server_error".
	Code string

	// Challenge is the WWW-Authenticate header; empty for 503.
	Challenge string

	// Err is the cause.
	Err error
}

func (e *Error) Error() string {
	return "resource: " + strconv.Itoa(e.Status) + " " + e.Code + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// refusal returns the answer to a request that had an error.
func (s *Server) refusal(err error, needs needs) *Error {
	e := &Error{Err: err}
	params := [][2]string{{"realm", s.cfg.Realm}}
	switch {
	case errors.Is(err, errNone):
		e.Status = http.StatusUnauthorized // no error: RFC 6750 section 3.1
	case errors.Is(err, errRequest):
		e.Status, e.Code = http.StatusBadRequest, "invalid_request"
	case errors.Is(err, errInvalid):
		e.Status, e.Code = http.StatusUnauthorized, "invalid_token"
	case errors.Is(err, errScope):
		e.Status, e.Code = http.StatusForbidden, "insufficient_scope"
	case errors.Is(err, errStepUp):
		e.Status, e.Code = http.StatusUnauthorized, "insufficient_user_authentication"
	default:
		// Whatever else happened, nothing is known against the token.
		e.Status, e.Code = http.StatusServiceUnavailable, "server_error"
		return e
	}
	if e.Code != "" {
		params = append(params, [2]string{"error", e.Code})
	}
	switch e.Code {
	case "insufficient_scope":
		params = append(params, [2]string{"scope", strings.Join(needs.scopes, " ")})
	case "insufficient_user_authentication":
		if len(needs.acrs) > 0 {
			params = append(params, [2]string{"acr_values", strings.Join(needs.acrs, " ")})
		}
		if needs.fresh {
			params = append(params, [2]string{"max_age", strconv.FormatInt(int64(needs.maxAge/time.Second), 10)})
		}
	}
	var b strings.Builder
	b.WriteString("Bearer ")
	for i, p := range params {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p[0] + `="` + quoted(p[1]) + `"`)
	}
	e.Challenge = b.String()
	return e
}

// quoted makes a text fit between quotes (RFC 9110 section 5.6.4).
func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", "", "\n", "").Replace(s)
}

// retryAfter is when a client is asked to come back after a 503, in seconds.
const retryAfter = "2"

func (e *Error) header(h http.Header) {
	h.Set("Cache-Control", "no-store")
	if e.Challenge != "" {
		h.Set("WWW-Authenticate", e.Challenge)
	}
	if e.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
}

// texts are what the caller is told, by code.
var texts = map[string]string{
	"":                                 "an access token is needed, in the Authorization header",
	"invalid_request":                  "there must be one Authorization header, with one bearer token",
	"invalid_token":                    "the access token is expired, revoked, or not for this API",
	"insufficient_scope":               "the access token lacks a scope that is needed here",
	"insufficient_user_authentication": "a more recent or a stronger sign-in is needed here",
	"server_error":                     "the access token cannot be checked at the moment; try again",
}

// writeError is the default of [Config.Refused].
func writeError(w http.ResponseWriter, _ *http.Request, e *Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	body := struct {
		Error       string `json:"error,omitempty"`
		Description string `json:"error_description"`
	}{e.Code, texts[e.Code]}
	_ = json.NewEncoder(w).Encode(body) // a client that went away is not an error here
}
