package optest

import (
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// ownResponse is the callback of a provider that builds the authorization
// response itself: it reads auth requests from its own storage, not the decorated
// one, and calls none of op's callback.
func ownResponse(provider *op.Provider, storage op.Storage) http.Handler {
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	return interceptor.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		ar, err := storage.AuthRequestByID(ctx, r.FormValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if ar.GetResponseType() == oidc.ResponseTypeCode {
			target, err := op.BuildAuthResponseCallbackURL(ctx, ar, provider)
			if err != nil {
				op.AuthRequestError(w, r, ar, err, provider)
				return
			}
			http.Redirect(w, r, target, http.StatusFound)
			return
		}
		client, err := provider.Storage().GetClientByClientID(ctx, ar.GetClientID())
		if err != nil {
			op.AuthRequestError(w, r, ar, err, provider)
			return
		}
		op.AuthResponseToken(w, r, ar, provider, client)
	})
}
