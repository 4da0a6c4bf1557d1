package provider

import (
	"context"
	"errors"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider/internal/session"
	"github.com/curfew-oidc/curfew/store"
)

// admitDevice decides about a device login when its tokens are created. The
// device code makes one session, however often it is polled.
func (c *signingIn) admitDevice(ctx context.Context, req *request, t *op.DeviceAuthorizationState) (s store.Session, r ruling, redeemed bool, err error) {
	name := req.deviceCode
	if name == "" { // a provider that keeps device codes by itself
		name = newSID(subjectOf(ctx, t.GetSubject()))
	}
	client, err := c.clientOf(ctx, req, t.GetClientID())
	if err != nil {
		return store.Session{}, ruling{}, false, err
	}
	l := c.h.asks(ctx, req, Login{Subject: subjectOf(ctx, t.GetSubject()), Client: client, Device: true, AuthTime: t.GetAuthTime()})
	l.AMR, l.SID, l.Mark = t.GetAMR(), derivedSID(l.Subject, "device", name), deviceHash(name)
	if s, r, redeemed, err = c.redeemedDevice(ctx, &l, !t.Expires.IsZero() && c.h.now().After(t.Expires.Add(c.h.cfg.CodeLifetime))); redeemed || err != nil {
		return s, r, redeemed, err
	}
	s, r, err = c.h.admit(ctx, l)
	return s, r, false, c.h.withSessionsURL(err)
}

// noteDevice notes the device code that is polled: the login is decided when its
// tokens are created. op tells the storage the device code here and nowhere
// else.
func (c *signingIn) noteDevice(ctx context.Context, deviceCode string) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil {
		req.deviceCode, req.repeatKey = session.GrantID("device code", strings.ToLower(deviceCode)), repeatKey(deviceCode)
	}
}

var errNoCode = errors.New("the device code has characters that none has")

// isCode reports whether a text may be a device code (RFC 6749 appendix A: VSCHAR, and no
// space). Databases that compare without case, as many do unless they are told otherwise,
// also take for equal what has spaces, accents or characters without a width in it; and
// the session of a device code is named by it.
func isCode(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
