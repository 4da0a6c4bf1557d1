package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// installationKey is the key of the document that records when the hook first
// ran on a store.
const installationKey = "installation"

// installed returns when the hook first ran on the store, and records it if
// nobody did.
func (h *Hook) installed(ctx context.Context) (time.Time, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	for range 2 {
		d, err := h.cfg.Store.Document(ctx, installationKey)
		if err == nil {
			return d.At, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return time.Time{}, err
		}
		now := h.now()
		_, err = h.cfg.Store.PutDocument(ctx, store.Document{Key: installationKey, At: now, Body: []byte("{}")})
		if err == nil {
			return now, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return time.Time{}, err
		}
	}
	return time.Time{}, store.ErrConflict
}

// adoptable looks at a refresh token that the hook did not seal. One from
// before the installation becomes generation 0 of a session of its own, named
// by a MAC of the token, so that it is adopted once.
//
// Where the storage rotates, it does not know the old token any more once it
// was adopted, and so neither do we: presented again, it is refused as by the
// bare server.
func (c *core) adoptable(ctx context.Context, req *request, presented string) (op.RefreshTokenRequest, error) {
	h := c.h
	if !h.now().Before(h.cfg.AdoptUntil) {
		return nil, op.ErrInvalidRefreshToken
	}
	ir, err := c.Storage.TokenRequestByRefreshToken(ctx, presented)
	if err != nil {
		return nil, err
	}
	subject := subjectOf(ctx, ir.GetSubject())
	authTime := ir.GetAuthTime().UTC().Truncate(time.Microsecond)

	st := &refreshState{presented: presented}
	for i, k := range h.ring.keys {
		token := k.adoptedToken(presented, subject)
		token.Client, token.Scopes, token.Authenticated = ir.GetClientID(), ir.GetScopes(), authTime
		if i == 0 {
			st.token = token // the name that it gets if it has none yet
		}
		st.session, err = h.get(ctx, token.SID)
		if err == nil {
			st.token = token
			return c.request(ctx, req, st)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return c.refused(st, err), nil
		}
	}

	installed, err := h.installed(ctx)
	if err != nil {
		return c.refused(st, err), nil
	}
	if authTime.IsZero() || !authTime.Before(installed) {
		return nil, fmt.Errorf("%w: not sealed, and not from before the installation", op.ErrInvalidRefreshToken)
	}
	client, err := c.clientOf(ctx, req, ir.GetClientID())
	if err != nil {
		return nil, err
	}
	if st.ruling, err = h.rules(ctx, subject, false); err != nil {
		return c.refused(st, err), nil
	}
	st.adopt = true
	st.session = h.newSession(ctx, req, st.admission(client, ir.GetAMR()), st.ruling, st.token.SID)
	st.session.Grants = []store.Grant{{
		ID: st.token.Grant, Client: st.token.Client, Authenticated: st.session.Authenticated, NonceHash: nonceHash(st.token.Nonce),
	}}
	if err := c.judge(st); err != nil {
		return c.refused(st, err), nil
	}
	req.refresh = st
	return ir, nil
}

// admission is how the session of an adopted token is admitted.
func (st *refreshState) admission(client op.Client, amr []string) admission {
	return admission{
		login: Login{Subject: st.token.Subject, Client: client, AuthTime: st.token.Authenticated},
		sid:   func(int) string { return st.token.SID },
		adopt: true, amr: amr,
	}
}

// commitAdopted writes the session of an adopted token, which the storage has
// exchanged already.
func (c *core) commitAdopted(ctx context.Context, req *request, tr op.TokenRequest, st *refreshState, a answer, s store.Session, use policy.Use, now time.Time) (answer, error) {
	h := c.h
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		created, err := h.create(ctx, s, st.admission(req.client, s.AMR), st.ruling)
		if err == nil {
			st.session, st.adopt = created, false
			req.belong(h, created, st.ruling, use)
			h.announceExpiry(req, now)
			return a, nil
		}
		var refused *refusedError
		if errors.As(err, &refused) {
			return answer{}, err
		}
		if errors.Is(err, store.ErrExists) {
			return c.lostRace(ctx, req, tr, st, errMoved)
		}
		if !pause(ctx, delay) {
			return answer{}, err
		}
	}
}
