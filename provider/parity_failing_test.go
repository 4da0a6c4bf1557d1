package provider_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// failing makes one method of a storage fail.
type failing struct {
	mu     sync.Mutex
	method string
	err    error
}

func (f *failing) set(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.method, f.err = method, err
}

func (f *failing) before(_ context.Context, method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.method == method {
		return f.err
	}
	return nil
}

// storageErrors lets each storage call of each flow fail with each kind of
// error, once, and then does the same again without the failure.
func storageErrors(w *world) {
	w.readKeys()
	kinds := map[string]func() error{
		"plain":       func() error { return errors.New("disk on fire") },
		"grant":       func() error { return oidc.ErrInvalidGrant().WithDescription("no more") },
		"server":      func() error { return oidc.ErrServerError().WithDescription("sorry") },
		"status":      func() error { return op.NewStatusError(oidc.ErrServerError().WithDescription("later"), 503) },
		"not a token": func() error { return op.ErrInvalidRefreshToken },
	}
	for _, kind := range []string{"plain", "grant", "server", "status", "not a token"} {
		// try does something with one method failing, then again.
		try := func(step, method string, do func(step string) reply) {
			step = fmt.Sprintf("%s, %s fails (%s)", step, method, kind)
			w.failing.set(method, kinds[kind]())
			do(step)
			w.failing.set("", nil)
			do(step + ", and not any more")
		}
		visit := func(path string) func(string) reply {
			return func(step string) reply { return w.do(step, w.request(http.MethodGet, path, "")) }
		}
		id := func(s string) string { return s + " " + kind }

		for _, method := range []string{"GetClientByClientID", "CreateAuthRequest"} {
			try("authorize", method, func(step string) reply { return w.get(step, w.authorizePath, w.authorization("web")) })
		}
		for _, method := range []string{"AuthRequestByID", "GetClientByClientID", "SaveAuthCode"} {
			try("callback", method, visit(w.start(id("callback "+method), "web", "user")))
		}
		for _, method := range []string{"CreateAccessToken", "SetUserinfoFromRequest", "DeleteAuthRequest"} {
			try("implicit", method, visit(w.start(id("implicit "+method), "implicit", "user", "response_type", "id_token token")))
			try("id_token", method, visit(w.start(id("id_token "+method), "implicit", "user", "response_type", "id_token")))
		}
		for _, method := range []string{
			"AuthRequestByCode", "GetClientByClientID", "AuthorizeClientIDSecret", "CreateAccessAndRefreshTokens",
			"SetUserinfoFromRequest", "DeleteAuthRequest",
		} {
			code := w.front(id("code "+method), "web", "user").Get("code")
			try("code", method, func(step string) reply { return w.post(step, tokenPath, as("web"), redeem(code)) })
		}
		code := w.front(id("code CreateAccessToken"), "web", "user", "scope", "openid").Get("code")
		try("code", "CreateAccessToken", func(step string) reply { return w.post(step, tokenPath, as("web"), redeem(code)) })
		for _, method := range []string{
			"GetClientByClientID", "AuthorizeClientIDSecret", "TokenRequestByRefreshToken", "CreateAccessAndRefreshTokens",
		} {
			r := w.login(id("refresh "+method), "web", "user")
			try("refresh", method, func(step string) reply { return w.post(step, tokenPath, as("web"), refreshing(r.str("refresh_token"))) })
		}

		r := w.tokens(id("use"), "web", "user")
		try("userinfo", "SetUserinfoFromToken", func(step string) reply { return w.userinfo(step, r.str("access_token")) })
		for _, method := range []string{"AuthorizeClientIDSecret", "SetIntrospectionFromToken"} {
			try("introspect", method, func(step string) reply {
				return w.post(step, introspectPath, as("web"), form("token", r.str("access_token")))
			})
		}
		for _, method := range []string{"AuthorizeClientIDSecret", "GetRefreshTokenInfo", "RevokeToken"} {
			r := w.tokens(id("revoke "+method), "web", "user")
			for _, token := range []string{"access_token", "refresh_token"} {
				try("revoke "+token, method, func(step string) reply {
					return w.post(step, "/revoke", as("web"), form("token", r.str(token)))
				})
			}
			w.post(id("revoke "+method)+": refresh", tokenPath, as("web"), refreshing(r.str("refresh_token")))
		}
		for _, method := range []string{"GetClientByClientID", "TerminateSession"} {
			// The only session of this user with this client, or the hook
			// would not call TerminateSession.
			r := w.login(id("end "+method), "web", "admin")
			try("end_session", method, func(step string) reply {
				return w.get(step, "/end_session", form("id_token_hint", r.str("id_token")))
			})
			w.post(id("end "+method)+": refresh", tokenPath, as("web"), refreshing(r.str("refresh_token")))
		}

		for _, method := range []string{
			"AuthorizeClientIDSecret", "GetDeviceAuthorizatonState", "GetClientByClientID", "CreateAccessAndRefreshTokens", "SetUserinfoFromRequest",
		} {
			begun := w.post(id("device "+method)+": begin", "/device_authorization", as("device"), form("scope", "openid offline_access"))
			w.approve(w, id("device "+method)+": approve", begun.str("user_code"), "user", "allowed")
			try("device", method, func(step string) reply {
				return w.post(step, tokenPath, as("device"),
					form("grant_type", "urn:ietf:params:oauth:grant-type:device_code", "device_code", begun.str("device_code")))
			})
		}
		admin := w.tokens(id("exchange"), "exchange", "admin")
		for _, c := range []struct{ method, subject, requested string }{
			{"AuthorizeClientIDSecret", accessType, accessType},
			{"GetClientByClientID", accessType, accessType},
			{"ValidateTokenExchangeRequest", accessType, accessType},
			{"CreateAccessToken", accessType, accessType},
			{"CreateAccessAndRefreshTokens", accessType, refreshType},
			{"TokenRequestByRefreshToken", refreshType, accessType},
		} {
			token := admin.str("access_token")
			if c.subject == refreshType {
				token = admin.str("refresh_token")
			}
			try("exchange", c.method, func(step string) reply {
				return w.post(step, tokenPath, as("exchange"), exchanging(token, c.subject, "requested_token_type", c.requested))
			})
		}
		try("client credentials", "CreateAccessToken", func(step string) reply {
			return w.post(step, tokenPath, "sid1:verysecret", form("grant_type", "client_credentials", "scope", "openid"))
		})
	}
}
