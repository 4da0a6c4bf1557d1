package provider

import (
	"context"
	"errors"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/store"
)

// admitDevice decides about a device login when its tokens are created. The
// device code makes one session, however often it is polled.
func (c *core) admitDevice(ctx context.Context, req *request, t *op.DeviceAuthorizationState) (s store.Session, r ruling, redeemed bool, err error) {
	name := req.deviceCode
	if name == "" { // a provider that keeps device codes by itself
		name = newSID(subjectOf(ctx, t.GetSubject()))
	}
	client, err := c.clientOf(ctx, req, t.GetClientID())
	if err != nil {
		return store.Session{}, ruling{}, false, err
	}
	login := Login{Subject: subjectOf(ctx, t.GetSubject()), Client: client, Device: true, AuthTime: t.GetAuthTime()}
	sid := func(n int) string { return derivedSID(login.Subject, n, "device", name) }
	if !t.Expires.IsZero() && c.h.now().After(t.Expires.Add(c.h.cfg.CodeLifetime)) {
		// op takes a device code that was approved for ever. Its session may
		// have ended and be forgotten: no other one is made of it.
		if first, err := c.h.get(ctx, sid(0)); errors.Is(err, store.ErrNotFound) || err == nil && c.h.cameToNothing(&first) {
			return store.Session{}, ruling{}, false, oidc.ErrExpiredDeviceCode()
		}
	}
	if s, r, redeemed, err = c.redeemedDevice(ctx, sid, deviceHash(name)); redeemed || err != nil {
		return s, r, redeemed, err
	}
	a := c.h.asks(ctx, req, login)
	a.amr, a.reserve, a.sid = t.GetAMR(), true, sid
	s, r, err = c.h.admit(ctx, a)
	return s, r, false, c.h.withSessionsURL(err)
}

// noteDevice notes the device code that is polled: the login is decided when its
// tokens are created. op tells the storage the device code here and nowhere
// else.
func (c *core) noteDevice(ctx context.Context, deviceCode string) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req != nil {
		req.deviceCode, req.repeatKey = grantID("device code", strings.ToLower(deviceCode)), repeatKey(deviceCode)
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
