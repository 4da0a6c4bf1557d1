package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// A CheckedProvider has the methods that [Hook.Check] needs. An [op.OpenIDProvider] is one; an
// [op.LegacyServer] returns its own with Provider().
type CheckedProvider interface {
	Storage() op.Storage
	IssuerFromRequest(*http.Request) string
}

// Check reports mistakes in the set-up because of which the limits would not hold in this process.
// Call it at start, after [Hook.Handler], for each provider that uses the hook. The error for such
// a mistake wraps [ErrMisconfigured]; errors of the store and of the storage do not.
//
// If the provider's issuer does not depend on the request, Check also tells the hook that issuer:
// logout tokens can then be sent before its first login.
func (h *Hook) Check(ctx context.Context, p CheckedProvider) error {
	var errs []error
	issuer := ""
	if r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil); err == nil {
		issuer = p.IssuerFromRequest(r)
	}
	d, ok := p.Storage().(decorated)
	switch {
	case !ok && h.decorates.Load() == 0:
		errs = append(errs, errNeverDecorated)
	case !ok:
		errs = append(errs, errNotDecorated)
	case d.decoration().h != h:
		errs = append(errs, errOtherHook)
	default:
		c := d.decoration()
		if _, err := c.Storage.SigningKey(op.ContextWithIssuer(ctx, issuer)); err != nil {
			errs = append(errs, fmt.Errorf("curfew: signing key: %w", err))
		}
		if issuer != p.IssuerFromRequest(&http.Request{Host: "another.invalid", Header: http.Header{}}) {
			issuer = "" // it depends on the request
		}
		h.signers.learn(issuer, c)
	}
	if !h.handles.Load() {
		errs = append(errs, errNoHandler)
	}
	if _, err := h.watch.check(ctx); err != nil {
		errs = append(errs, fmt.Errorf("curfew: the store: %w", err))
	}
	return errors.Join(errs...)
}

// errOtherHook is a provider whose storage another hook has decorated.
var errOtherHook = setup("the provider's storage was decorated by another hook")
