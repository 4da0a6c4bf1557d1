package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
)

// supportedScopes are all that there are. op checks them for authorization
// requests only.
var supportedScopes = []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess, adminScope}

// onlySupported leaves out what the client may not ask for.
func (s *storage) onlySupported(clientID string, scopes []string) []string {
	c := s.clients[clientID]
	list := []string{}
	for _, scope := range supportedScopes {
		if slices.Contains(scopes, scope) && (scope != adminScope || c != nil && c.IsScopeAllowed(scope)) {
			list = append(list, scope)
		}
	}
	return list
}

// A deviceRecord is a device grant (RFC 8628). Its code may be polled again
// after it brought tokens, until it is over: should they get lost on the way,
// the next poll replaces them, in the same session.
type deviceRecord struct {
	ClientID string    `json:"client_id"`
	Scopes   []string  `json:"scopes"`
	Expires  time.Time `json:"exp"`
	Denied   bool      `json:"denied,omitempty"`
	Subject  string    `json:"sub,omitempty"` // set when the user approved
	AuthTime time.Time `json:"auth_time,omitzero"`
}

func (d *deviceRecord) decided() bool { return d.Denied || d.Subject != "" }

// normalCode is a user code as people may type it (RFC 8628 section 6.1).
func normalCode(code string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToUpper(code))
}

// StoreDeviceAuthorization implements op.DeviceAuthorizationStorage.
func (s *storage) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	key := keyOf(kindDevice, deviceCode)
	err := s.write(ctx, kv.Record{Key: keyOf(kindUserCode, normalCode(userCode)), Expires: expires}, key)
	if errors.Is(err, kv.ErrConflict) {
		return op.ErrDuplicateUserCode
	}
	if err != nil {
		return failed(err)
	}
	record := kv.Record{Key: key, Expires: expires.Add(deviceMemory)}
	if err := s.write(ctx, record, deviceRecord{ClientID: clientID, Scopes: s.onlySupported(clientID, scopes), Expires: expires.UTC()}); err != nil {
		return failed(err)
	}
	return nil
}

// GetDeviceAuthorizatonState implements op.DeviceAuthorizationStorage.
func (s *storage) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	var d deviceRecord
	_, err := s.read(ctx, keyOf(kindDevice, deviceCode), &d)
	if err == nil && d.ClientID != clientID {
		err = errors.New("the device code is another client's")
	}
	if err != nil {
		return nil, err // op answers access_denied to all of it, and the outage 503
	}
	if d.Subject != "" && s.users.bySubject[d.Subject] == nil {
		return nil, errUnknownUser
	}
	return &op.DeviceAuthorizationState{
		ClientID: d.ClientID, Audience: []string{d.ClientID}, Scopes: d.Scopes, Expires: d.Expires,
		Done: d.Subject != "", Denied: d.Denied, Subject: d.Subject, AMR: amr, AuthTime: d.AuthTime,
	}, nil
}

// deviceByUserCode returns an undecided device grant and its key. If there is
// none the error wraps kv.ErrNotFound.
func (s *storage) deviceByUserCode(ctx context.Context, userCode string) (key string, d deviceRecord, err error) {
	if _, err = s.read(ctx, keyOf(kindUserCode, normalCode(userCode)), &key); err != nil {
		return "", d, err
	}
	_, err = s.read(ctx, key, &d)
	if err == nil && (d.decided() || !time.Now().Before(d.Expires)) {
		err = errExpired
	}
	return key, d, err
}

// A confirmRecord is a user who signed in for a device and has not said yes yet.
type confirmRecord struct {
	Device   string    `json:"device"` // the key of the device grant
	ClientID string    `json:"client_id"`
	UserCode string    `json:"user_code"`
	Subject  string    `json:"sub"`
	AuthTime time.Time `json:"auth_time"`
}

const confirmLifetime = 5 * time.Minute

// beginConfirm returns the secret of the confirmation page.
func (s *storage) beginConfirm(ctx context.Context, c confirmRecord) (string, error) {
	secret := newSecret()
	c.AuthTime = time.Now().UTC()
	record := kv.Record{Key: keyOf(kindConfirm, secret), Expires: c.AuthTime.Add(confirmLifetime)}
	return secret, s.write(ctx, record, c)
}

// confirmation returns who is about to decide about a device. If it is too late the
// error wraps kv.ErrNotFound.
func (s *storage) confirmation(ctx context.Context, secret string) (c confirmRecord, err error) {
	if _, err = s.read(ctx, keyOf(kindConfirm, secret), &c); err != nil {
		return c, err
	}
	var d deviceRecord
	_, err = s.read(ctx, c.Device, &d)
	if err == nil && (d.decided() || !time.Now().Before(d.Expires)) {
		err = errExpired
	}
	return c, err
}

// decideDevice records what the user said on the confirmation page, once. If it
// is too late the error wraps kv.ErrNotFound.
func (s *storage) decideDevice(ctx context.Context, secret string, approve bool) error {
	var c confirmRecord
	key := keyOf(kindConfirm, secret)
	if _, err := s.read(ctx, key, &c); err != nil {
		return err
	}
	if err := s.remove(ctx, key); err != nil {
		return err
	}
	var d deviceRecord
	record, err := s.read(ctx, c.Device, &d)
	if err != nil {
		return err
	}
	if d.decided() || !time.Now().Before(d.Expires) {
		return errExpired
	}
	if approve {
		d.Subject, d.AuthTime = c.Subject, c.AuthTime
	} else {
		d.Denied = true
	}
	err = s.write(ctx, record, d)
	if errors.Is(err, kv.ErrConflict) {
		return errExpired // decided by somebody else meanwhile
	}
	return err
}
