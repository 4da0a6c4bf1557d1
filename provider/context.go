package provider

import "context"

// SessionID returns the "sid" of the login session that the HTTP request in the
// context turned out to belong to; empty if it belongs to none, or if that is
// not known yet. It is known when the storage's SaveAuthCode, CreateAccessToken,
// CreateAccessAndRefreshTokens and DeleteAuthRequest are called: a storage that
// keeps it with its tokens can remove them in [Config.OnEnd].
func SessionID(ctx context.Context) string {
	req, _ := ctx.Value(requestKey{}).(*request)
	for ; req != nil; req = req.outer { // of each hook
		if req.session != nil {
			return req.session.ID
		}
	}
	return ""
}
