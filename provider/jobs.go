package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A provider may make tokens of its own: with op.CreateAccessToken and a token
// request of a type of its own, or in a job that has no HTTP request. The hook
// cannot know whose session they belong to. The context says so.

// JobContext returns a context for one piece of work outside of an HTTP request, such as a job that
// makes a token. It does for the job what [Hook.Handler] and [op.ContextWithIssuer] do for a
// request. Use a new context for each token.
func (h *Hook) JobContext(ctx context.Context, issuer string) context.Context {
	return context.WithValue(op.ContextWithIssuer(ctx, issuer), requestKey{}, &request{hook: h})
}

// statedKey is the key of what the provider states of the tokens that it makes in a
// context: the session's ID, or none.
type statedKey struct{}

// WithoutSession states that the access token made in the context belongs to no session, such as
// the token of a service. It is the storage's own: no limit holds for it, and no end of a session
// ends it. It must not be used for a user who signed in. There
// is no refresh token without a session.
func WithoutSession(ctx context.Context) context.Context {
	return context.WithValue(ctx, statedKey{}, "")
}

// InSession states that tokens made in the context belong to the session with the given ID, the
// "sid". It is for token requests of the provider's own type. The tokens do not outlive the
// session, and end with it. The request must be about the session's user. It has no effect on op's
// own requests, which find their session by themselves. Outside of HTTP use it with
// [Hook.JobContext].
func InSession(ctx context.Context, sid string) context.Context {
	return context.WithValue(ctx, statedKey{}, sid)
}

// statedSession returns what the provider states, and whether it does.
func statedSession(ctx context.Context) (sid string, stated bool) {
	sid, stated = ctx.Value(statedKey{}).(string)
	return sid, stated
}

// withoutSession reports whether the provider states that there is no session.
func withoutSession(ctx context.Context) bool {
	sid, stated := statedSession(ctx)
	return stated && sid == ""
}

// errNoRefresh is the answer to a refresh token that is to belong to no session.
var errNoRefresh = setup("a refresh token cannot be made without a session: see provider.WithoutSession")

// unknownRequest is the answer to a token request of a type that op does not have.
func unknownRequest(tr op.TokenRequest) error {
	return setup(fmt.Sprintf("whose session a token request of type %T belongs to is not known: "+
		"say so with provider.InSession or provider.WithoutSession", tr))
}

// inSession finds the session that the provider states for a token request.
func (c *signingIn) inSession(ctx context.Context, req *request, tr op.TokenRequest, sid string) (store.Session, ruling, string, error) {
	client := ""
	if own, ok := tr.(interface{ GetClientID() string }); ok {
		client = own.GetClientID()
	} else if req.client != nil {
		client = req.client.GetID()
	}
	if client == "" {
		return store.Session{}, ruling{}, "", c.h.misconfiguredAnswer(ctx, errRawClient)
	}
	s, err := c.h.getWithParent(ctx, sid)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Session{}, ruling{}, "", errUnknownSession
	case err != nil:
		return store.Session{}, ruling{}, "", err
	case s.Subject != subjectOf(ctx, tr.GetSubject()):
		return store.Session{}, ruling{}, "", oidc.ErrServerError().WithDescription("the session is another user's")
	}
	s, r, err := c.h.inUse(ctx, s)
	if err == nil {
		r, err = c.h.withParents(ctx, s, r)
	}
	if err == nil {
		err = usable(&s, r, c.h.now(), policy.Use{Client: client})
	}
	return s, r, client, err
}
