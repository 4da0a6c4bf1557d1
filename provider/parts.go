package provider

import "github.com/zitadel/oidc/v3/pkg/op"

// The storage that op sees is built in one row of parts, as the hook is: each has the
// one below it in it, and knows nothing of those above.
//
//	core        signing out, and revocation
//	exchanging  tokens that are exchanged for others
//	issuing     the first tokens of a login
//	rotating    refresh tokens
//	signingIn   auth requests and device codes, up to their session
//	reading     access tokens: introspection and userinfo
//	backing     the embedder's storage, and answers to op

// A backing is the storage that is decorated.
type backing struct {
	op.Storage
	h *Hook
}

// A reading answers what an access token is asked for.
type reading struct{ *backing }

// A signingIn leads logins to their sessions.
type signingIn struct{ *reading }

// A rotating exchanges refresh tokens.
type rotating struct{ *signingIn }

// An issuing makes the first tokens of a login.
type issuing struct{ *rotating }

// An exchanging looks up what is exchanged for other tokens.
type exchanging struct{ *issuing }

func newCore(storage op.Storage, h *Hook) *core {
	b := &backing{Storage: storage, h: h}
	return &core{&exchanging{&issuing{&rotating{&signingIn{&reading{b}}}}}}
}
