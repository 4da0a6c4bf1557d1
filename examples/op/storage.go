package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// How long what the provider keeps is good for. How long a login lasts is not
// among it: that is for the hook to say.
const (
	signInLifetime = 30 * time.Minute // from the authorization request to the password
	codeLifetime   = 5 * time.Minute  // the hook's, of 60 s, ends first
	accessLifetime = 5 * time.Minute  // a JWT lives to its end wherever it is checked offline
	idLifetime     = time.Hour
	deviceLifetime = 10 * time.Minute
	deviceInterval = 5 * time.Second

	// A refresh token ends with its session, which removes it. This is for
	// those that no session knows, because the hook's write failed.
	refreshLifetime = 90 * 24 * time.Hour

	// A used code and a device code that is over are kept for longer, to say
	// why.
	codeMemory   = time.Hour
	deviceMemory = 5 * time.Minute
)

// A storage is op.Storage over a key/value store. It keeps nothing in memory
// but what was read from files: any process can go on where another one stopped.
//
// Codes, tokens and cookies appear in the store as SHA-256 only. They are random,
// with 128 bits at least, so a plain hash cannot be reversed by trying.
type storage struct {
	kv      kv.Store
	users   *users
	clients map[string]*client
	keys    *keys

	// end is Hook.End, set once there is a hook.
	end func(ctx context.Context, sid string, reason policy.Reason, by string) error
}

var _ interface {
	op.Storage
	op.ClientCredentialsStorage
	op.TokenExchangeStorage
	op.DeviceAuthorizationStorage
	op.CanSetUserinfoFromRequest
	op.CanTerminateSessionFromRequest
} = (*storage)(nil)

// The kinds of records. The key of a record is its kind and the hash of the
// secret that finds it.
const (
	kindRequest  = "request/"  // authRequest, by ID
	kindCode     = "code/"     // codeRecord
	kindAccess   = "access/"   // accessRecord, by token ID
	kindRefresh  = "refresh/"  // refreshRecord
	kindDevice   = "device/"   // deviceRecord
	kindUserCode = "usercode/" // string: the key of the device record
	kindConfirm  = "confirm/"  // confirmRecord
)

func keyOf(kind, secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return kind + base64.RawURLEncoding.EncodeToString(sum[:])
}

// newSecret returns 256 random bits, without a colon or a dot.
func newSecret() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

var errExpired = fmt.Errorf("expired: %w", kv.ErrNotFound)

// read fills v with a record that is not over. If there is none the error wraps
// kv.ErrNotFound; any other error means that the store could not answer, which
// the request's outage then says.
func (s *storage) read(ctx context.Context, key string, v any) (kv.Record, error) {
	r, err := s.kv.Get(ctx, key)
	if err != nil {
		return r, noteOutage(ctx, err)
	}
	if !time.Now().Before(r.Expires) {
		return r, errExpired
	}
	if err := json.Unmarshal(r.Value, v); err != nil {
		return r, noteOutage(ctx, fmt.Errorf("record %s: %w", key, err))
	}
	return r, nil
}

// write writes v over the record r, which was read, or is new.
func (s *storage) write(ctx context.Context, r kv.Record, v any) error {
	var err error
	if r.Value, err = json.Marshal(v); err != nil {
		return fmt.Errorf("record %s: %w", r.Key, err)
	}
	return noteOutage(ctx, s.kv.Put(ctx, r))
}

func (s *storage) remove(ctx context.Context, key string) error {
	return noteOutage(ctx, s.kv.Delete(ctx, key))
}

// failed is the answer to a client when the store could not answer.
func failed(err error) *oidc.Error {
	return oidc.ErrServerError().WithDescription("the provider cannot answer at the moment; try again").WithParent(err)
}

// sweep removes what is over.
func (s *storage) sweep(ctx context.Context) error {
	const batch = 500 // a write lock is not held for longer
	for {
		n, err := s.kv.Sweep(ctx, time.Now(), batch)
		if err != nil || n < batch {
			return err
		}
	}
}

// ended is the hook's Config.OnEnd: nothing that was issued in the session is
// needed any more.
func (s *storage) ended(ctx context.Context, session store.Session) error {
	return s.kv.DeleteGroup(ctx, session.ID)
}

// Health implements op.Storage. Anybody may ask, as often as they like: it reads.
func (s *storage) Health(ctx context.Context) error {
	if _, err := s.kv.Get(ctx, "health"); err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	return nil
}

// probe writes a record and removes it.
func (s *storage) probe(ctx context.Context) error {
	r := kv.Record{Key: "probe/" + rand.Text(), Expires: time.Now().Add(time.Minute)}
	if err := s.kv.Put(ctx, r); err != nil {
		return err
	}
	return s.kv.Delete(ctx, r.Key)
}

// An authRequest is op.AuthRequest. Its ID is no credential: it is good
// for a code only in the browser that it was made in, see callback in pages.go.
type authRequest struct {
	ID              string                   `json:"id"`
	ClientID        string                   `json:"client_id"`
	RedirectURI     string                   `json:"redirect_uri"`
	Scopes          []string                 `json:"scopes"`
	State           string                   `json:"state,omitempty"`
	Nonce           string                   `json:"nonce,omitempty"`
	ResponseType    oidc.ResponseType        `json:"response_type"`
	ResponseMode    oidc.ResponseMode        `json:"response_mode,omitempty"`
	Challenge       string                   `json:"code_challenge,omitempty"`
	ChallengeMethod oidc.CodeChallengeMethod `json:"code_challenge_method,omitempty"`
	LoginHint       string                   `json:"login_hint,omitempty"`
	HintSubject     string                   `json:"hint_sub,omitempty"` // of the id_token_hint
	Silent          bool                     `json:"silent,omitempty"`   // prompt=none: without a page
	Asks            bool                     `json:"asks,omitempty"`     // any other prompt: with one
	MaxAge          *uint                    `json:"max_age,omitempty"`
	Browser         string                   `json:"browser_mark,omitempty"` // a hash; "browser" was another thing in the first release
	Again           bool                     `json:"again,omitempty"`        // it was lost once, and began again

	// Set when the user signed in.
	Subject  string    `json:"sub,omitempty"`
	AuthTime time.Time `json:"auth_time,omitzero"`
}

func (r *authRequest) GetID() string                      { return r.ID }
func (r *authRequest) GetACR() string                     { return acr }
func (r *authRequest) GetAMR() []string                   { return amr }
func (r *authRequest) GetAudience() []string              { return []string{r.ClientID} }
func (r *authRequest) GetAuthTime() time.Time             { return r.AuthTime }
func (r *authRequest) GetClientID() string                { return r.ClientID }
func (r *authRequest) GetNonce() string                   { return r.Nonce }
func (r *authRequest) GetRedirectURI() string             { return r.RedirectURI }
func (r *authRequest) GetResponseType() oidc.ResponseType { return r.ResponseType }
func (r *authRequest) GetResponseMode() oidc.ResponseMode { return r.ResponseMode }
func (r *authRequest) GetScopes() []string                { return r.Scopes }
func (r *authRequest) GetState() string                   { return r.State }
func (r *authRequest) GetSubject() string                 { return r.Subject }
func (r *authRequest) Done() bool                         { return r.Subject != "" }

func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	if r.Challenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.Challenge, Method: r.ChallengeMethod}
}

// again is the authorization request once more, as the application made it. One with
// an id_token_hint is not kept for that.
func (r *authRequest) again() (url.Values, bool) {
	q := url.Values{"again": {"1"}}
	for name, value := range map[string]string{
		"client_id": r.ClientID, "redirect_uri": r.RedirectURI, "scope": strings.Join(r.Scopes, " "), "state": r.State, "nonce": r.Nonce,
		"response_type": string(r.ResponseType), "response_mode": string(r.ResponseMode),
		"code_challenge": r.Challenge, "code_challenge_method": string(r.ChallengeMethod), "login_hint": r.LoginHint,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	switch {
	case r.Silent:
		q.Set("prompt", oidc.PromptNone)
	case r.Asks:
		q.Set("prompt", oidc.PromptLogin)
	}
	if r.MaxAge != nil {
		q.Set("max_age", strconv.FormatUint(uint64(*r.MaxAge), 10))
	}
	return q, r.HintSubject == ""
}

// amr is how users sign in here: with a password (RFC 8176 section 2). acr says the
// same, in the words of a registered class of authentication.
var amr = []string{"pwd"}

const acr = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"

// CreateAuthRequest implements op.Storage.
func (s *storage) CreateAuthRequest(ctx context.Context, ar *oidc.AuthRequest, hintSubject string) (op.AuthRequest, error) {
	c, ok := s.clients[ar.ClientID]
	if !ok {
		return nil, errUnknownClient()
	}
	if ar.ResponseType != oidc.ResponseTypeCode && ar.Nonce == "" {
		// OpenID Connect Core 1.0 section 3.2.2.1. op does not ask for it.
		return nil, oidc.ErrInvalidRequest().WithDescription("nonce is missing: an ID token that comes without a code has to have one")
	}
	if ar.ResponseType == oidc.ResponseTypeCode {
		// RFC 9700 section 2.1.1. op asks for it only when the code comes back.
		if ar.CodeChallenge == "" && c.AuthMethod() == oidc.AuthMethodNone {
			return nil, oidc.ErrInvalidRequest().WithDescription("code_challenge is missing: a client without a secret has to use PKCE")
		}
		if ar.CodeChallenge != "" && ar.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
			return nil, oidc.ErrInvalidRequest().WithDescription("code_challenge_method has to be S256")
		}
	}
	r := &authRequest{
		ID: newSecret(), ClientID: ar.ClientID, RedirectURI: ar.RedirectURI, Scopes: ar.Scopes, State: ar.State, Nonce: ar.Nonce,
		ResponseType: ar.ResponseType, ResponseMode: ar.ResponseMode,
		Challenge: ar.CodeChallenge, ChallengeMethod: ar.CodeChallengeMethod,
		LoginHint: ar.LoginHint, HintSubject: hintSubject, MaxAge: ar.MaxAge, Browser: callFrom(ctx).browser, Again: callFrom(ctx).again,
	}
	r.Silent = slices.Contains(ar.Prompt, oidc.PromptNone)
	r.Asks = len(ar.Prompt) > 0 && !r.Silent
	if err := s.write(ctx, kv.Record{Key: keyOf(kindRequest, r.ID), Expires: time.Now().Add(signInLifetime)}, r); err != nil {
		return nil, failed(err)
	}
	return r, nil
}

func (s *storage) authRequest(ctx context.Context, id string) (*authRequest, kv.Record, error) {
	r := &authRequest{}
	record, err := s.read(ctx, keyOf(kindRequest, id), r)
	return r, record, err
}

// AuthRequestByID implements op.Storage.
func (s *storage) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	r, _, err := s.authRequest(ctx, id)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, oidc.ErrInvalidRequest().WithDescription("this sign-in is not known any more").WithParent(err)
	case err != nil:
		return nil, failed(err)
	}
	return r, nil
}

// errSignedIn is returned by signIn for a request that another user signed in to.
// It must not change its user: there may be a code for it.
var errSignedIn = errors.New("somebody signed in already")

// continues reports whether a request may be answered by a session that the
// browser has, without asking for the password (OpenID Connect Core 1.0 section
// 3.1.2.1). An application on a device never: others there can ask in its name
// (RFC 8252 section 8.6).
func (s *storage) continues(r *authRequest, session store.Session) bool {
	c, ok := s.clients[r.ClientID]
	switch {
	case !ok, c.ApplicationType() == op.ApplicationTypeNative:
	case s.users.bySubject[session.Subject.ID] == nil: // taken out of the users file
	case r.Asks:
	case r.HintSubject != "" && r.HintSubject != session.Subject.ID:
	case r.MaxAge != nil && time.Since(session.Authenticated) >= time.Duration(min(*r.MaxAge, maxMaxAge))*time.Second:
	default:
		return true
	}
	return false
}

const maxMaxAge = 100 * 365 * 24 * 60 * 60 // in seconds: no sign-in is older

// signIn records who answered an auth request, and when they entered their
// password. Whoever tries twice, because the first answer was lost or the button
// was pressed twice, signed in by what came first.
func (s *storage) signIn(ctx context.Context, id, subject string, authTime time.Time) error {
	for {
		r, record, err := s.authRequest(ctx, id)
		switch {
		case err != nil:
			return err
		case r.Done() && r.Subject == subject:
			return nil
		case r.Done():
			return errSignedIn
		}
		r.Subject, r.AuthTime = subject, authTime.UTC()
		if err = s.write(ctx, record, r); !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
}

// A codeRecord is an authorization code. It outlives its request, so that a code
// that comes back a second time is known.
type codeRecord struct {
	RequestID string    `json:"request_id"`
	SID       string    `json:"sid"`
	Valid     time.Time `json:"valid"`            // until when
	Issued    bool      `json:"issued,omitempty"` // tokens were made for it
}

// SaveAuthCode implements op.Storage.
func (s *storage) SaveAuthCode(ctx context.Context, id, code string) error {
	now := time.Now()
	sid := provider.SessionID(ctx)
	record := kv.Record{Key: keyOf(kindCode, code), Group: sid, Expires: now.Add(codeMemory)}
	if err := s.write(ctx, record, codeRecord{RequestID: id, SID: sid, Valid: now.Add(codeLifetime)}); err != nil {
		return failed(err)
	}
	return nil
}

// AuthRequestByCode implements op.Storage. A code works once (RFC 6749 section
// 4.1.2): DeleteAuthRequest takes its request away. One that comes again ends
// the session that it made, and so everything that was issued with it: nobody can
// tell who has it beside the client.
func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	var c codeRecord
	key := keyOf(kindCode, code)
	if _, err := s.read(ctx, key, &c); err != nil {
		return nil, err // op answers invalid_grant to all of it, and the outage 503
	}
	r, _, err := s.authRequest(ctx, c.RequestID)
	switch {
	case errors.Is(err, kv.ErrNotFound) && c.Issued:
		return nil, s.reused(ctx, c.SID)
	case err != nil:
		return nil, err
	case !time.Now().Before(c.Valid):
		return nil, errors.New("the code is too old")
	}
	callFrom(ctx).code = key
	return r, nil
}

func (s *storage) reused(ctx context.Context, sid string) error {
	if err := s.end(ctx, sid, policy.ReasonReplay, ""); err != nil && !errors.Is(err, store.ErrNotFound) {
		return noteOutage(ctx, fmt.Errorf("end the session of a code that was used twice: %w", err))
	}
	return oidc.ErrInvalidGrant().WithDescription("the code was used before")
}

// DeleteAuthRequest implements op.Storage. It is the last thing that happens
// before tokens are handed out, and of two requests with one code only one gets
// to do it.
func (s *storage) DeleteAuthRequest(ctx context.Context, id string) error {
	key := keyOf(kindRequest, id)
	call := callFrom(ctx)
	err := s.remove(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound) && call.code != "":
		return s.reused(ctx, provider.SessionID(ctx))
	case errors.Is(err, kv.ErrNotFound):
		return nil // an implicit flow: the same callback, at the same time
	case err != nil:
		return failed(err)
	}
	return nil
}

// An accessRecord is an access token.
type accessRecord struct {
	ClientID string    `json:"client_id"`
	Subject  string    `json:"sub"`
	Audience []string  `json:"aud"`
	Scopes   []string  `json:"scopes"`
	Expires  time.Time `json:"exp"`
	Machine  bool      `json:"machine,omitempty"` // the client acts for itself
}

// A refreshRecord is a refresh token.
type refreshRecord struct {
	ClientID string    `json:"client_id"`
	Subject  string    `json:"sub"`
	Audience []string  `json:"aud"`
	Scopes   []string  `json:"scopes"`
	AuthTime time.Time `json:"auth_time"`
	AMR      []string  `json:"amr,omitempty"`
	SID      string    `json:"sid"`
}

// CreateAccessToken implements op.Storage.
func (s *storage) CreateAccessToken(ctx context.Context, tr op.TokenRequest) (id string, expires time.Time, err error) {
	client, ok := tr.(interface{ GetClientID() string })
	if !ok {
		return "", time.Time{}, oidc.ErrServerError().WithDescription("unknown kind of token request")
	}
	_, machine := tr.(*clientRequest)
	audience := tr.GetAudience()
	if len(audience) == 0 { // an exchange that named none
		audience = []string{client.GetClientID()}
	}
	id, expires = newSecret(), time.Now().Add(accessLifetime).UTC()
	record := kv.Record{Key: keyOf(kindAccess, id), Group: provider.SessionID(ctx), Expires: expires}
	err = s.write(ctx, record, accessRecord{
		ClientID: client.GetClientID(), Subject: tr.GetSubject(), Audience: audience, Scopes: tr.GetScopes(),
		Expires: expires, Machine: machine,
	})
	if err == nil {
		err = s.markIssued(ctx)
	}
	if err != nil {
		return "", time.Time{}, failed(err)
	}
	return id, expires, nil
}

// markIssued notes that tokens were made for the code of this HTTP request. The
// code stays good until DeleteAuthRequest: should the hook's write fail in
// between, the client's next try succeeds.
func (s *storage) markIssued(ctx context.Context) error {
	key := callFrom(ctx).code
	if key == "" {
		return nil
	}
	var c codeRecord
	record, err := s.read(ctx, key, &c)
	if err != nil || c.Issued {
		return err
	}
	c.Issued = true
	if err := s.write(ctx, record, c); !errors.Is(err, kv.ErrConflict) {
		return err
	}
	return nil // somebody else has just noted it
}

// CreateAccessAndRefreshTokens implements op.Storage.
//
// It does not rotate: an exchanged refresh token comes back as it is. What the
// client holds is the hook's sealed token, which rotates, with its own detection
// of replays; this one inside never leaves the provider. Rotating it too would
// only add a moment between the storage's write and the hook's in which a crash
// leaves the client with a token that one of them does not accept. So it would
// be a second lock on the same door, that sometimes locks the owner out.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, tr op.TokenRequest, current string) (accessID, refresh string, expires time.Time, err error) {
	now := time.Now()
	if refresh = current; refresh == "" {
		ir, ok := tr.(op.IDTokenRequest)
		if !ok {
			return "", "", time.Time{}, oidc.ErrServerError().WithDescription("unknown kind of token request")
		}
		refresh = newSecret()
		sid := provider.SessionID(ctx)
		record := kv.Record{Key: keyOf(kindRefresh, refresh), Group: sid, Expires: now.Add(refreshLifetime)}
		err = s.write(ctx, record, refreshRecord{
			ClientID: ir.GetClientID(), Subject: ir.GetSubject(), Audience: ir.GetAudience(), Scopes: ir.GetScopes(),
			AuthTime: ir.GetAuthTime(), AMR: ir.GetAMR(), SID: sid,
		})
	} else {
		var r refreshRecord
		var record kv.Record
		record, err = s.read(ctx, keyOf(kindRefresh, current), &r)
		if errors.Is(err, kv.ErrNotFound) {
			return "", "", time.Time{}, oidc.ErrInvalidGrant().WithDescription("the refresh token was revoked").WithParent(err)
		}
		// It lives on, at a write a day.
		if err == nil && record.Expires.Before(now.Add(refreshLifetime-24*time.Hour)) {
			record.Expires = now.Add(refreshLifetime)
			if err = s.write(ctx, record, r); errors.Is(err, kv.ErrConflict) {
				err = nil // another request did it
			}
		}
	}
	if err != nil {
		return "", "", time.Time{}, failed(err)
	}
	accessID, expires, err = s.CreateAccessToken(ctx, tr)
	return accessID, refresh, expires, err
}

// A refreshRequest is op.RefreshTokenRequest.
type refreshRequest struct {
	refreshRecord
	scopes []string // those asked for
}

func (r *refreshRequest) GetAMR() []string                 { return r.AMR }
func (r *refreshRequest) GetAudience() []string            { return r.Audience }
func (r *refreshRequest) GetAuthTime() time.Time           { return r.AuthTime }
func (r *refreshRequest) GetClientID() string              { return r.ClientID }
func (r *refreshRequest) GetScopes() []string              { return r.scopes }
func (r *refreshRequest) GetSubject() string               { return r.Subject }
func (r *refreshRequest) SetCurrentScopes(scopes []string) { r.scopes = scopes }

// TokenRequestByRefreshToken implements op.Storage.
func (s *storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	var r refreshRecord
	if _, err := s.read(ctx, keyOf(kindRefresh, token), &r); err != nil {
		return nil, err // op answers invalid_grant to all of it, and the outage 503
	}
	if s.users.bySubject[r.Subject] == nil {
		// Taken out of the users file: the login ends, and says why.
		if err := s.end(ctx, r.SID, policy.ReasonAccountDisabled, ""); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, noteOutage(ctx, err)
		}
		return nil, errUnknownUser
	}
	return &refreshRequest{r, r.Scopes}, nil
}

var errUnknownUser = errors.New("the user does not exist any more")

// GetRefreshTokenInfo implements op.Storage: revocation passes the ID on, which
// here is the token.
func (s *storage) GetRefreshTokenInfo(ctx context.Context, _, token string) (userID, tokenID string, err error) {
	var r refreshRecord
	_, err = s.read(ctx, keyOf(kindRefresh, token), &r)
	if errors.Is(err, kv.ErrNotFound) {
		return "", "", op.ErrInvalidRefreshToken
	}
	return r.Subject, token, err
}

// RevokeToken implements op.Storage, for access-token IDs and refresh tokens.
func (s *storage) RevokeToken(ctx context.Context, tokenOrID, _, clientID string) *oidc.Error {
	for _, kind := range []string{kindAccess, kindRefresh} {
		key := keyOf(kind, tokenOrID)
		var r struct {
			ClientID string `json:"client_id"`
		}
		_, err := s.read(ctx, key, &r)
		if err == nil && r.ClientID != clientID {
			return oidc.ErrInvalidClient().WithDescription("the token was not issued for this client")
		}
		if err == nil {
			err = s.remove(ctx, key)
		}
		if err != nil && !errors.Is(err, kv.ErrNotFound) { // not found is fine: RFC 7009 section 2.2
			return failed(err)
		}
	}
	return nil
}

// TerminateSessionFromRequest implements op.CanTerminateSessionFromRequest. The
// hook ends the session that the ID token names, or that the user has said yes for,
// and ended removes what is kept of it. The address is one that the client has
// registered, or the home page (RP-Initiated Logout 1.0 sections 2 and 3).
func (s *storage) TerminateSessionFromRequest(_ context.Context, r *op.EndSessionRequest) (string, error) {
	return r.RedirectURI, nil
}

// TerminateSession implements op.Storage. op prefers the method above.
func (s *storage) TerminateSession(context.Context, string, string) error {
	return errors.New("a session is ended by its ID: see TerminateSessionFromRequest")
}

// SetUserinfoFromScopes implements op.Storage; SetUserinfoFromRequest does the
// work.
func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest implements op.CanSetUserinfoFromRequest, for ID tokens.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	return s.setUserinfo(info, r.GetSubject(), scopes)
}

func (s *storage) setUserinfo(info *oidc.UserInfo, subject string, scopes []string) error {
	u := s.users.bySubject[subject]
	if u == nil {
		return oidc.ErrInvalidGrant().WithParent(errUnknownUser)
	}
	info.Subject = u.Subject
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name, info.PreferredUsername = cmp.Or(u.Name, u.Username), u.Username
	}
	if slices.Contains(scopes, oidc.ScopeEmail) && u.Email != "" {
		info.Email, info.EmailVerified = u.Email, true // the operator says so
	}
	return nil
}

// accessToken reads an access token that belongs to the subject.
func (s *storage) accessToken(ctx context.Context, id, subject string) (accessRecord, error) {
	var r accessRecord
	if _, err := s.read(ctx, keyOf(kindAccess, id), &r); err != nil {
		return r, err
	}
	if r.Subject != subject || !r.Machine && s.users.bySubject[subject] == nil {
		return r, errUnknownUser
	}
	return r, nil
}

// SetUserinfoFromToken implements op.Storage.
func (s *storage) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, _ string) error {
	r, err := s.accessToken(ctx, tokenID, subject)
	if err == nil && (r.Machine || !slices.Contains(r.Scopes, oidc.ScopeOpenID)) {
		err = errors.New("the token is not for a user's claims")
	}
	if err != nil {
		return oidc.ErrAccessDenied().WithDescription("the access token is not valid here").WithParent(err)
	}
	return s.setUserinfo(info, subject, r.Scopes)
}

// SetIntrospectionFromToken implements op.Storage. A client that is not
// in the token's audience learns nothing about it.
func (s *storage) SetIntrospectionFromToken(ctx context.Context, resp *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	r, err := s.accessToken(ctx, tokenID, subject)
	if err != nil {
		return err
	}
	if !slices.Contains(r.Audience, clientID) {
		return errors.New("the token is for others")
	}
	if !r.Machine {
		info := &oidc.UserInfo{}
		if err := s.setUserinfo(info, subject, r.Scopes); err != nil {
			return err
		}
		resp.SetUserInfo(info)
	}
	resp.Subject = subject
	resp.Expiration = oidc.FromTime(r.Expires)
	resp.Scope, resp.ClientID, resp.Audience = r.Scopes, r.ClientID, r.Audience
	resp.TokenType = oidc.BearerToken
	return nil
}

// GetPrivateClaimsFromScopes implements op.Storage: JWT access tokens have no
// claims of their own.
func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// SigningKey, SignatureAlgorithms and KeySet implement op.Storage.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.keys.signing[0], nil }

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{s.keys.signing[0].SignatureAlgorithm()}, nil
}

func (s *storage) KeySet(context.Context) ([]op.Key, error) { return s.keys.public(), nil }

func errUnknownClient() *oidc.Error {
	return oidc.ErrInvalidClient().WithDescription("the client is not known")
}

// GetClientByClientID implements op.Storage.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := s.clients[id]
	if !ok {
		return nil, errUnknownClient()
	}
	return c, nil
}

// AuthorizeClientIDSecret implements op.Storage.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	c, ok := s.clients[id]
	if !ok || !c.checkSecret(secret) {
		return oidc.ErrInvalidClient().WithDescription("the client is not known, or its secret is wrong")
	}
	return nil
}

// No client here has a key, for the JWT profile grant or to authenticate with.
// op advertises the grant all the same.
func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errors.New("clients have no keys here")
}

// ValidateJWTProfileScopes implements op.Storage.
func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, oidc.ErrUnauthorizedClient().WithDescription("the JWT profile grant is not supported")
}

// A clientRequest is a client that acts for itself.
type clientRequest struct {
	id     string
	scopes []string
}

func (r *clientRequest) GetSubject() string    { return r.id }
func (r *clientRequest) GetAudience() []string { return []string{r.id} }
func (r *clientRequest) GetScopes() []string   { return r.scopes }
func (r *clientRequest) GetClientID() string   { return r.id }

// ClientCredentials implements op.ClientCredentialsStorage.
func (s *storage) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := s.AuthorizeClientIDSecret(ctx, id, secret); err != nil {
		return nil, err
	}
	return s.GetClientByClientID(ctx, id)
}

// ClientCredentialsTokenRequest implements op.ClientCredentialsStorage. Most of
// the scopes say something about a user, so such a token gets those only that the
// clients file gives to the client.
func (s *storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	granted := []string{}
	for _, scope := range scopes {
		if c := s.clients[id]; c != nil && slices.Contains(c.entry.Scopes, scope) && !slices.Contains(granted, scope) {
			granted = append(granted, scope)
		}
	}
	return &clientRequest{id: id, scopes: granted}, nil
}
