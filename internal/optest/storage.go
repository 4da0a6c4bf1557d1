package optest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Password is every user's. Every name but "nobody" is a user, whose subject
// is [SubjectOf] the name. Users whose names start with "admin" may exchange
// tokens.
const Password = "correct horse"

// SubjectOf returns the subject ("sub") of the user with the given name.
func SubjectOf(name string) string { return "id-" + name }

type users struct{}

func (users) GetUserByUsername(name string) *storage.User {
	if name == "" || name == "nobody" {
		return nil
	}
	return &storage.User{
		ID: SubjectOf(name), Username: name, Password: Password,
		FirstName: name, LastName: "Test", Email: name + "@example.org", EmailVerified: true,
		IsAdmin: strings.HasPrefix(name, "admin"),
	}
}

func (u users) GetUserByID(id string) *storage.User {
	name, ok := strings.CutPrefix(id, SubjectOf(""))
	if !ok {
		return nil
	}
	return u.GetUserByUsername(name)
}

func (users) ExampleClientID() string { return Service }

// serviceKey signs the assertions of [Service].
var serviceKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// Storage is the library's example storage, which rotates refresh tokens, with
// what its clients cannot express and what it leaves broken: its device grant
// has no client, no subject and no auth_time, and it reads maps without its
// lock. It has the same optional interfaces.
type Storage struct {
	*storage.Storage

	// SSO gives the provider a single sign-on of its own: a cookie of the
	// sign-in page, so that a second authorization request from the same
	// browser asks for no password, and prompt=none can succeed. Set it
	// before the storage is used.
	SSO bool

	// SID names the hook's session of the request in a context, such as
	// provider.SessionID. With it the storage knows which sign-in belongs to
	// a session; see [Storage.EndSession]. Nil: it does not.
	SID func(ctx context.Context) string

	mu       sync.Mutex
	clients  map[string]op.Client
	requests map[string]*AuthRequest                 // only with SSO
	logins   map[string]*login                       // by cookie; only with SSO
	sessions map[string]string                       // cookie by sid; only with SSO and SID
	devices  map[string]*op.DeviceAuthorizationState // by device code
	codes    map[string]string                       // device code by user code
}

// NewStorage returns a storage with [DefaultClients] and the given ones, which
// replace those with the same ID.
func NewStorage(more ...op.Client) *Storage {
	s := &Storage{
		clients:  map[string]op.Client{},
		requests: map[string]*AuthRequest{},
		logins:   map[string]*login{},
		sessions: map[string]string{},
		devices:  map[string]*op.DeviceAuthorizationState{},
		codes:    map[string]string{},
	}
	// The example keeps the secrets, and which clients exist.
	secrets := map[string]*storage.Client{}
	all := make([]op.Client, 0, len(more)+10)
	for _, c := range DefaultClients() {
		all = append(all, c)
	}
	for _, c := range append(all, more...) {
		s.clients[c.GetID()] = c
		var secret string
		if with, ok := c.(interface{ Secret() string }); ok {
			secret = with.Secret()
		}
		secrets[c.GetID()] = storage.WebClient(c.GetID(), secret)
	}
	s.Storage = newExample(secrets)
	return s
}

// Client returns a client by ID, nil if there is none.
func (s *Storage) Client(id string) op.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[id]
}

// SetClient adds or replaces a client whose ID was given to NewStorage.
func (s *Storage) SetClient(c op.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.GetID()] = c
}

func (s *Storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if c := s.Client(id); c != nil {
		return c, nil
	}
	return nil, errors.New("client not found")
}

func (s *Storage) GetKeyByIDAndClientID(ctx context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	if clientID != Service || keyID != storage.ServiceUserKeyID {
		return nil, errors.New("key not found")
	}
	return &jose.JSONWebKey{KeyID: keyID, Use: "sig", Key: serviceKey().Public()}, nil
}

// A login is one sign-in of a user.
type login struct {
	cookie  string
	subject string
	at      time.Time
}

// An AuthRequest is the example's, whose user may have signed in earlier.
type AuthRequest struct {
	*storage.AuthRequest
	login atomic.Pointer[login]
}

func (r *AuthRequest) Done() bool { return r.login.Load() != nil }

func (r *AuthRequest) GetSubject() string {
	if l := r.login.Load(); l != nil {
		return l.subject
	}
	return r.AuthRequest.GetSubject()
}

func (r *AuthRequest) GetAuthTime() time.Time {
	if l := r.login.Load(); l != nil {
		return l.at
	}
	return time.Time{}
}

func (r *AuthRequest) GetAMR() []string {
	if r.Done() {
		return []string{"pwd"}
	}
	return nil
}

// SSOSession returns the ID of the provider's own session that answered the
// request, for provider.Config.SSOSession. Empty if it has none.
func SSOSession(r op.AuthRequest) string {
	if r, ok := r.(*AuthRequest); ok {
		if l := r.login.Load(); l != nil {
			return l.cookie
		}
	}
	return ""
}

func (s *Storage) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, userID string) (op.AuthRequest, error) {
	if !s.SSO {
		return s.Storage.CreateAuthRequest(ctx, req, userID)
	}
	// The example refuses prompt=none. Here the sign-in page answers it.
	asked := *req
	asked.Prompt = nil
	made, err := s.Storage.CreateAuthRequest(ctx, &asked, userID)
	if err != nil {
		return nil, err
	}
	r := &AuthRequest{AuthRequest: made.(*storage.AuthRequest)}
	r.Prompt = storage.PromptToInternal(req.Prompt)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[r.ID] = r
	return r, nil
}

func (s *Storage) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	r, err := s.Storage.AuthRequestByID(ctx, id)
	return s.ours(r, err)
}

func (s *Storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r, err := s.Storage.AuthRequestByCode(ctx, code)
	return s.ours(r, err)
}

func (s *Storage) ours(r op.AuthRequest, err error) (op.AuthRequest, error) {
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ours, ok := s.requests[r.GetID()]; ok {
		return ours, nil
	}
	return r, nil
}

func (s *Storage) DeleteAuthRequest(ctx context.Context, id string) error {
	s.mu.Lock()
	delete(s.requests, id)
	s.mu.Unlock()
	return s.Storage.DeleteAuthRequest(ctx, id)
}

// signIn checks the password and answers the request. before is the browser's
// cookie: the same user's login goes on under it. The cookie is empty unless
// there is single sign-on.
// SignIn signs a user in to an auth request, as the page does.
func (s *Storage) SignIn(ctx context.Context, id, user string) error {
	_, err := s.signIn(ctx, id, user, Password, "")
	return err
}

func (s *Storage) signIn(ctx context.Context, id, username, password, before string) (cookie string, err error) {
	if !s.SSO {
		return "", s.CheckUsernamePassword(username, password, id)
	}
	if err := s.CheckUsernamePasswordSimple(username, password); err != nil {
		return "", err
	}
	r, err := s.AuthRequestByID(ctx, id)
	if err != nil {
		return "", err
	}
	l := &login{cookie: rand.Text(), subject: SubjectOf(username), at: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.logins[before]; old != nil && old.subject == l.subject {
		l.cookie = before
	}
	s.logins[l.cookie] = l
	r.(*AuthRequest).login.Store(l)
	return l.cookie, nil
}

// signedIn answers the request from an earlier sign-in, if the request allows
// that. If it does not, and the user must not be asked, mayAsk is false.
func (s *Storage) signedIn(ctx context.Context, id, cookie string) (done, mayAsk bool, err error) {
	if !s.SSO {
		return false, true, nil
	}
	found, err := s.AuthRequestByID(ctx, id)
	if err != nil {
		return false, false, err
	}
	r := found.(*AuthRequest)
	s.mu.Lock()
	l := s.logins[cookie]
	s.mu.Unlock()
	mayAsk = !slices.Contains(r.Prompt, oidc.PromptNone)
	switch {
	case l == nil,
		slices.Contains(r.Prompt, oidc.PromptLogin),
		r.MaxAuthAge != nil && time.Since(l.at) > *r.MaxAuthAge,
		r.UserID != "" && r.UserID != l.subject:
		return false, mayAsk, nil
	}
	r.login.Store(l)
	return true, mayAsk, nil
}

func (s *Storage) SaveAuthCode(ctx context.Context, id, code string) error {
	if s.SID != nil {
		s.mu.Lock()
		if r := s.requests[id]; r != nil && r.Done() {
			s.sessions[s.SID(ctx)] = r.login.Load().cookie
		}
		s.mu.Unlock()
	}
	return s.Storage.SaveAuthCode(ctx, id, code)
}

// EndSession forgets the sign-in of a session, for provider.Config.OnEnd.
func (s *Storage) EndSession(sid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logins, s.sessions[sid])
	delete(s.sessions, sid)
}

// endSSO forgets a sign-in.
func (s *Storage) endSSO(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logins, cookie)
}

// asExchange is a request that the example does not know how to read, in the
// one form in which it takes client, subject and auth_time from an interface.
type asExchange struct {
	op.TokenExchangeRequest // nil: the example asks for nothing else
	of                      op.IDTokenRequest
}

func (r asExchange) GetSubject() string     { return r.of.GetSubject() }
func (r asExchange) GetClientID() string    { return r.of.GetClientID() }
func (r asExchange) GetAuthTime() time.Time { return r.of.GetAuthTime() }
func (r asExchange) GetAudience() []string  { return r.of.GetAudience() }
func (r asExchange) GetScopes() []string    { return r.of.GetScopes() }

func (s *Storage) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	switch r := request.(type) {
	case *AuthRequest:
		request = asExchange{of: r}
	case *op.DeviceAuthorizationState:
		request = asExchange{of: r}
	case *storage.RefreshTokenRequest:
		request = asExchange{of: r}
	}
	return s.Storage.CreateAccessToken(ctx, request)
}

func (s *Storage) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	switch r := request.(type) {
	case *AuthRequest:
		request = asExchange{of: r}
	case *op.DeviceAuthorizationState:
		request = asExchange{of: r}
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
}

// TokenRequestByRefreshToken returns a copy, because op writes the scopes into
// it, and the example has them in common with all later refreshes.
func (s *Storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	r, err := s.Storage.TokenRequestByRefreshToken(ctx, token)
	if err != nil {
		return nil, err
	}
	return &storage.RefreshTokenRequest{RefreshToken: &storage.RefreshToken{
		ID: token, Token: token,
		AuthTime: r.GetAuthTime(), AMR: []string{"pwd"}, Audience: r.GetAudience(),
		UserID: r.GetSubject(), ApplicationID: r.GetClientID(), Scopes: r.GetScopes(),
	}}, nil
}

func (s *Storage) GetRefreshTokenInfo(ctx context.Context, clientID, token string) (userID, tokenID string, err error) {
	r, err := s.Storage.TokenRequestByRefreshToken(ctx, token)
	if err != nil {
		return "", "", op.ErrInvalidRefreshToken
	}
	return r.GetSubject(), token, nil
}

// ValidateTokenExchangeRequest refuses a subject that is no user, for which the
// example panics.
func (s *Storage) ValidateTokenExchangeRequest(ctx context.Context, r op.TokenExchangeRequest) error {
	if (users{}).GetUserByID(r.GetExchangeSubject()) == nil {
		return oidc.ErrInvalidRequest().WithDescription("unknown subject")
	}
	return s.Storage.ValidateTokenExchangeRequest(ctx, r)
}

func (s *Storage) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.codes[userCode]; ok {
		return op.ErrDuplicateUserCode
	}
	s.codes[userCode] = deviceCode
	s.devices[deviceCode] = &op.DeviceAuthorizationState{
		ClientID: clientID, Audience: []string{clientID}, Scopes: scopes, Expires: expires,
	}
	return nil
}

func (s *Storage) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[deviceCode]
	if !ok || d.ClientID != clientID {
		return nil, errors.New("device code not found for client")
	}
	state := *d
	return &state, nil
}

// decideDevice approves or denies the device with the user code.
func (s *Storage) decideDevice(userCode, username, password string, approve bool) error {
	if err := s.CheckUsernamePasswordSimple(username, password); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[s.codes[userCode]]
	if !ok {
		return errors.New("user code not found")
	}
	if !approve {
		d.Denied = true
		return nil
	}
	d.Done, d.Subject, d.AMR, d.AuthTime = true, SubjectOf(username), []string{"pwd"}, time.Now()
	return nil
}
