package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// adoptable looks at a refresh token that the hook did not seal. One from
// before the installation becomes generation 0 of a session of its own, named
// by a MAC of the token, so that it is adopted once.
//
// Where the storage rotates, it does not know the old token any more once it
// was adopted, and so neither do we: presented again, it is refused as by the
// bare server.
func (c *rotating) adoptable(ctx context.Context, req *request, presented string) (op.RefreshTokenRequest, error) {
	h := c.h
	if !h.now().Before(h.cfg.AdoptUntil) {
		return nil, op.ErrInvalidRefreshToken
	}
	if err := c.lock(ctx, req, "bare "+session.GrantID("bare", presented)); err != nil {
		return nil, c.outage(ctx, req, err)
	}
	ir, err := c.Storage.TokenRequestByRefreshToken(ctx, presented)
	if err != nil {
		return nil, err
	}
	st := &refreshState{presented: presented}
	st.token.Client = ir.GetClientID() // op compares it before it asks for the answer
	installation, err := h.watch.installed(ctx)
	if err != nil {
		return c.refused(req, st, err), nil
	}
	subject := subjectOf(ctx, ir.GetSubject())
	st.token = adoptedToken(installation.key, presented, subject)
	st.token.Client, st.token.Scopes = ir.GetClientID(), ir.GetScopes()
	st.token.Authenticated = ir.GetAuthTime().UTC().Truncate(time.Microsecond)
	st.session, err = h.get(ctx, st.token.SID)
	if err == nil {
		if err := c.asAdopted(ctx, st); err != nil {
			return c.refused(req, st, err), nil
		}
		return c.request(ctx, req, st)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return c.refused(req, st, err), nil
	}

	if st.token.Authenticated.IsZero() || !st.token.Authenticated.Before(installation.at) {
		return nil, fmt.Errorf("%w: not sealed, and not from before the installation", op.ErrInvalidRefreshToken)
	}
	client, err := c.clientOf(ctx, req, ir.GetClientID())
	if err != nil {
		return nil, err
	}
	if st.ruling, err = h.rules(ctx, subject, false); err != nil {
		return c.refused(req, st, err), nil
	}
	l := h.asks(ctx, req, Login{Subject: subject, Client: client, AuthTime: st.token.Authenticated})
	l.Adopted, l.AMR, l.SID, l.Lasting = true, ir.GetAMR(), st.token.SID, false
	st.adopt = &l
	if err := h.ofTheseCredentials(ctx, st); err != nil {
		return c.refused(req, st, err), nil
	}
	l.Grants = []store.Grant{{
		ID: st.token.Grant, Client: st.token.Client, Authenticated: l.Authenticated, NonceHash: st.token.Nonce.Hash(),
	}}
	st.session = l.Session(h.terms(st.ruling), h.now())
	h.schedule(&st.session, st.ruling)
	if err := c.judge(st); err != nil {
		return c.refused(req, st, err), nil
	}
	req.refresh = st
	return ir, nil
}

// ofTheseCredentials refuses a token from before the user's credentials were changed.
func (h *admissions) ofTheseCredentials(ctx context.Context, st *refreshState) error {
	outdated, err := h.outdated(ctx, st.token.Subject, st.token.Authenticated)
	if err == nil && outdated {
		err = errOldCredentials
	}
	return err
}

var errOldCredentials = &refusedError{reason: policy.ReasonCredentialChange, text: policy.ReasonCredentialChange.Info().Description(), over: true}

// asAdopted looks at the session of an adopted token that is in the store, for no
// more than that perhaps: an earlier try may have failed before it could tell
// whether the session may begin. Such a session is of no use to anybody, and ends if
// it may not.
func (c *rotating) asAdopted(ctx context.Context, st *refreshState) error {
	s := &st.session
	if s.End != nil || len(s.Grants) != 1 || s.Grants[0].Generation > 0 {
		return nil // tokens were issued in it, and who changes the credentials decides about it
	}
	err := c.h.ofTheseCredentials(ctx, st)
	if !errors.Is(err, errOldCredentials) {
		return err
	}
	ctx, cancel := c.h.detach(ctx)
	defer cancel()
	_, _, endErr := c.h.end(ctx, *s, c.h.rulesToEnd(ctx, s), policy.ReasonCredentialChange, "")
	return cmp.Or(endErr, err)
}

// adopt makes the session of an adopted token. It comes before the storage
// exchanges the token: after it the token is the current one of a grant like
// any other.
func (c *rotating) adopt(ctx context.Context, st *refreshState) error {
	if st.adopt == nil {
		return nil
	}
	ctx, cancel := c.h.detach(ctx)
	defer cancel()
	_, _, err := c.h.enterSession(ctx, st.adopt, st.ruling)
	if err != nil && !errors.Is(err, store.ErrExists) { // by another process, or an earlier try
		return err
	}
	if st.session, err = c.h.load(ctx, st.session.ID); err != nil {
		return err
	}
	if err := c.asAdopted(ctx, st); err != nil {
		return err // the next try asks again
	}
	st.adopt = nil
	return c.judge(st)
}
