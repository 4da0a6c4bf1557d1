package provider

import (
	"context"
	"errors"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/store"
)

// A core decorates the methods of op.Storage, and those of the optional
// interfaces whose absence it can stand in for. The others are in wrap.go.
//
// It never wraps what the storage returns, but clients: storages type-switch
// on their own requests.
type core struct{ *exchanging }

// answer turns an error of the hook into what op gives to the application:
// refusals as the given OAuth error, everything else as an outage.
func (c *backing) answer(ctx context.Context, req *request, err error, refusal *oidc.Error) *oidc.Error {
	req.private = true
	var refused *refusedError
	if errors.As(err, &refused) {
		return asOAuth(refused, refusal)
	}
	var own *oidc.Error
	if errors.As(err, &own) {
		return own
	}
	return c.outage(ctx, req, err)
}

// asOAuth returns a refusal as the given OAuth error.
func asOAuth(e *refusedError, base *oidc.Error) *oidc.Error {
	base.Description = e.text
	return base.WithParent(e)
}

// outage is the answer when the store or the settings cannot be asked. It is
// not a refusal: what the client holds stays good.
func (c *backing) outage(ctx context.Context, req *request, err error) *oidc.Error {
	req.unavailable = true
	c.h.unavailableEvent(ctx, err)
	return oidc.ErrServerError().WithDescription("%s", unavailableText).WithParent(err)
}

func subjectOf(ctx context.Context, sub string) store.Subject {
	return store.Subject{Issuer: op.IssuerFromContext(ctx), ID: sub}
}

// A storageError is an error of the embedded storage. It is passed on as it
// is: the embedded server is unchanged otherwise.
type storageError struct{ error }

func (e storageError) Unwrap() error { return e.error }

// noteClientCredentials notes a request that has no user session.
func (c *backing) noteClientCredentials(ctx context.Context) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil {
		req.clientCredentials = true
	}
}
