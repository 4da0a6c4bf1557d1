package provider

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
)

// ErrMisconfigured is wrapped by the errors of [Hook.Check], and by the error of
// an [EventMisconfigured]: the provider is set up so that the limits do not hold.
var ErrMisconfigured = errors.New("curfew: the provider is not set up completely")

// A setupError is a mistake in the set-up.
type setupError struct{ text string }

func (e *setupError) Error() string { return "curfew: " + e.text }
func (e *setupError) Unwrap() error { return ErrMisconfigured }

func setup(text string) error { return &setupError{text} }

var (
	errNoHandler = setup("hook.Handler does not wrap the provider's HTTP handler, or not this storage call: " +
		"for a job outside of HTTP use Hook.JobContext")
	errOverHandler = setup("a storage call came after the response: " +
		"something inside of hook.Handler answers before the provider is done, such as http.TimeoutHandler")
	errNeverDecorated = setup("hook.Storage was not called: the provider works on a storage that knows no limits")
	errNotDecorated   = setup("a code was issued without this hook: the provider must be made with what hook.Storage returns")
	errDecoratedTwice = setup("hook.Storage was called with a storage that a hook has decorated: it is decorated once")
	errNoIssuer       = setup("there is no issuer in the context: op.AuthorizeCallback and op's other functions " +
		"must run inside of op.IssuerInterceptor, as op.AuthorizeCallbackHandler does")

	// errRawClient: its ID token would outlive the session and have no sid.
	errRawClient = setup("the client that tokens are made for must come from the decorated storage, in the same request")

	// errRawRequest is the same for an auth request that is only answered by an ID
	// token: nobody can shorten that any more.
	errRawRequest = setup("the auth request of an authorization response must come from the decorated storage")
)

// issued reports that there is no issuer: the session of a login would be of
// another subject than that of its tokens.
func (c *backing) issued(ctx context.Context) error {
	if op.IssuerFromContext(ctx) == "" {
		return c.h.misconfiguredAnswer(ctx, errNoIssuer)
	}
	return nil
}

// errMovingAuthTime and errAuthTimeNow: such a login never reaches the active limit.
var (
	errMovingAuthTime = setup("the auth_time of one login differs from call to call: " +
		"AuthRequest.GetAuthTime must return when the user entered their credentials, or the zero time")
	errAuthTimeNow = setup("the auth_time of a login that the provider remembered is the time of the request: " +
		"AuthRequest.GetAuthTime must return when the user entered their credentials, or the zero time")
)

// firstAuthTime is before all logins there are: an auth_time before it stands for
// something else.
var firstAuthTime = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// setUpFor reports what keeps a login from being judged: an issuer that is missing,
// an auth_time that is none. Taken for a login of long ago it would be refused as one
// that is over, each time.
func (c *backing) setUpFor(ctx context.Context, authTime time.Time) error {
	if !authTime.IsZero() && authTime.Before(firstAuthTime) {
		return c.h.misconfiguredAnswer(ctx, setup("the auth_time of a login is "+authTime.UTC().Format(time.RFC3339)+
			": AuthRequest.GetAuthTime must return when the user entered their credentials, or the zero time"))
	}
	return c.issued(ctx)
}

// maxRange is what no limit may exceed.
var maxRange = policy.Range{ActiveMax: policy.DefaultRange.ActiveMax, InactivityMax: policy.DefaultRange.InactivityMax}

// checkSettings tells of settings that limit nothing, or cannot be meant.
func (h *rulebook) checkSettings(ctx context.Context, account string, a policy.Account) {
	if a.Limits == (policy.Limits{}) && len(a.Kinds)+len(a.Clients)+len(a.Groups)+len(a.Users) == 0 {
		if h.mistakes.first("no settings") {
			h.event(ctx, Event{Type: EventMisconfigured, Err: setup(fmt.Sprintf("account %q has no settings: its logins are not limited", account))})
		}
		return
	}
	if err := a.Validate(maxRange); err != nil {
		h.misconfigured(ctx, fmt.Errorf("%w: settings of account %q: %w", ErrMisconfigured, account, err))
	}
}

// maxMistakes bounds how many mistakes are told of, each once.
const maxMistakes = 100

// mistakes are those that were told of.
type mistakes struct {
	mu   sync.Mutex
	seen map[string]bool
}

// first reports whether a mistake was not told of yet, and notes that it is.
func (m *mistakes) first(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[text] || len(m.seen) >= maxMistakes {
		return false
	}
	if m.seen == nil {
		m.seen = map[string]bool{}
	}
	m.seen[text] = true
	return true
}

// misconfigured tells of a mistake in the set-up, at its first sight.
func (h *base) misconfigured(ctx context.Context, mistake error) {
	if h.mistakes.first(mistake.Error()) {
		h.event(ctx, Event{Type: EventMisconfigured, Err: mistake})
	}
}

// misconfiguredAnswer tells of a mistake, and returns what op answers: a fault of
// the server, which is not the user's or the application's.
func (h *Hook) misconfiguredAnswer(ctx context.Context, mistake error) *oidc.Error {
	h.misconfigured(ctx, mistake)
	return oidc.ErrServerError().WithDescription("the server is not set up completely").WithParent(mistake)
}

// noHandler is the answer where a storage call finds no request.
func (c *backing) noHandler(ctx context.Context) *oidc.Error {
	if c.h.requestFrom(ctx) != nil {
		return c.h.misconfiguredAnswer(ctx, errOverHandler)
	}
	return c.h.misconfiguredAnswer(ctx, errNoHandler)
}

// Unwrap returns the storage that [Hook.Storage] decorated. A storage that is not
// decorated is returned as it is.
func Unwrap(s op.Storage) op.Storage {
	for {
		d, ok := s.(decorated)
		if !ok {
			return s
		}
		s = d.decoration().Storage
	}
}

// decorated is how a decorated storage is known.
type decorated interface{ decoration() *backing }

func (c *backing) decoration() *backing { return c }
