package provider

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// A begun is what a request has entered in a session for tokens that have not
// left yet. If its response fails, nothing of it happened: a login that failed
// takes no place.
type begun struct {
	session  store.Session
	ruling   ruling
	reserved store.Session // as it was before, a reservation; zero: it was a session already
	grant    store.Grant   // what was entered; zero: the session alone
	before   *store.Grant  // what the grant was before; nil: it is new
	evicted  []store.Grant // what had to make room for it
	code     []byte        // the hash of the code that was redeemed; nil: none was
	redeemed time.Time     // when
}

// begin notes what a request has entered. Outside of HTTP there is no response that
// could fail.
func (h *admissions) begin(ctx context.Context, req *request, b *begun) {
	if req.http != nil {
		req.begun = b
		return
	}
	if b.reserved.ID != "" {
		h.started(ctx, &b.session)
	}
}

// settle decides what becomes of what the request began, as its response begins:
// whatever the client does next comes after it.
func (w *responseWriter) settle(status int) {
	b, alone := w.req.begun, w.req.aloneAndReserved()
	if b == nil && !alone {
		return
	}
	ctx := context.WithoutCancel(w.req.http.Context())
	if w.req.unavailable || w.req.asking != nil || refuses(status, w.Header().Get("Location")) {
		w.hook.takeBack(ctx, w.req)
		return
	}
	w.req.begun = nil
	switch {
	case alone:
		// Without op's DeleteAuthRequest nobody has confirmed it. If it fails, the
		// session is over when its reservation is.
		_ = w.hook.confirmAlone(ctx, w.req)
	case b.reserved.ID != "":
		w.hook.started(ctx, &b.session)
	}
}

// refuses reports whether a response brings no tokens: an error, or a redirect
// with one (RFC 6749 section 4.1.2.1). The address of an application may have an
// "error" of its own: beside tokens it is none.
func refuses(status int, location string) bool {
	if !isRedirect(status) {
		return status >= http.StatusBadRequest
	}
	a, ok := readParams(location)
	return (!ok || a.params.Has("error")) && !a.params.Has("access_token") && !a.params.Has("id_token")
}

// bringsCode reports whether a redirect brings an application a code.
func bringsCode(location string) bool {
	a, ok := readParams(location)
	return ok && a.params.Has("code") && a.params.Has("state")
}

// takeBack takes back what the request began, and nothing that others have gone on with
// meanwhile. If that fails, the session lasts as long as the limits let it.
func (h *admissions) takeBack(ctx context.Context, req *request) {
	b := req.begun
	if b == nil {
		return
	}
	req.begun = nil
	ctx, cancel := h.detach(ctx)
	defer cancel()
	s, err := h.change(ctx, b.session, func(s *store.Session) error {
		if b.grant.ID == "" { // no tokens but an ID token
			if s.End != nil || s.Revision != b.session.Revision {
				return errNoChange
			}
			s.ReservedUntil = b.reserved.ReservedUntil
			h.schedule(s, b.ruling)
			return nil
		}
		g := s.Grant(b.grant.ID)
		if s.End != nil || g == nil || g.Generation != b.grant.Generation || !bytes.Equal(g.NonceHash, b.grant.NonceHash) {
			return errNoChange // others went on with it
		}
		x := session.CodeAt(s.Codes, b.code)
		if b.code == nil || x >= 0 && !s.Codes[x].Used.Equal(b.redeemed) {
			x = -1
		}
		if x >= 0 && s.Codes[x].Again {
			return errNoChange // another request got the same answer
		}
		accessAlone := g.NonceHash == nil
		shared := accessAlone && (b.before != nil || g.Used)
		switch {
		case shared && x < 0:
			return errNoChange
		case shared:
			// Others have access tokens of it. The code is good again all the same.
		case g.Used:
			return errNoChange
		case b.before != nil:
			*g = *b.before
		default:
			session.DropGrant(s, b.grant.ID)
			for _, old := range b.evicted {
				if s.Grant(old.ID) == nil && len(s.Grants) < h.cfg.MaxGrants {
					s.Grants = append(s.Grants, old)
				}
			}
		}
		if x >= 0 {
			s.Codes = slices.Clone(s.Codes)
			if code := &s.Codes[x]; code.Until.Equal(code.Used) { // see issuance.unheard
				code.Until = code.Used.Add(h.cfg.CodeLifetime)
			}
			s.Codes[x].Used, s.Codes[x].Repeat, s.Codes[x].Address = time.Time{}, nil, nil
		}
		if b.reserved.ID != "" && !shared && s.Revision == b.session.Revision { // nobody else has come in since
			s.ReservedUntil = b.reserved.ReservedUntil
		}
		h.schedule(s, b.ruling)
		return nil
	})
	if err == nil && b.reserved.ID != "" && s.End == nil {
		h.started(ctx, &s) // for others, after all
	}
}

// aloneAndReserved reports whether the login of a request is answered by an ID
// token alone, and is a reservation still: no grant of tokens confirms it.
func (req *request) aloneAndReserved() bool {
	return req.admitted && req.session != nil && !req.session.ReservedUntil.IsZero() &&
		req.finished.GetResponseType() == oidc.ResponseTypeIDTokenOnly
}

// confirmAlone makes a session of the reservation of such a login.
func (h *admissions) confirmAlone(ctx context.Context, req *request) error {
	s, err := h.confirm(ctx, *req.session, req.ruling)
	if err != nil {
		return err
	}
	*req.session = s
	return nil
}

// confirmFor is the same for a request whose response may fail yet.
func (h *admissions) confirmFor(ctx context.Context, req *request, reserved store.Session, r ruling) (store.Session, error) {
	s, began, err := h.makeSession(ctx, reserved, r)
	if err == nil && began {
		h.begin(ctx, req, &begun{session: s, ruling: r, reserved: reserved})
	}
	return s, err
}
