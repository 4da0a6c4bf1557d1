package providertest_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/providertest"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A stranger is a server as others have it: zitadel's example storage, op's provider
// with nothing but what it asks for, and a sign-in page.
type stranger struct {
	wrap      func(*exampleStorage) op.Storage // nil: as it is
	clients   []*storage.Client                // nil: web, web2, spa
	inside    func(next http.Handler) http.Handler
	users     int            // that no test waits for; at least the eight of the docs
	noIssuer  bool           // the callback is mounted without op's issuer interceptor
	limits    *policy.Limits // nil: the recommended ones
	ends      bool           // the Target has EndSessions
	configure func(*providertest.Target)
}

// capAlone are limits that end no session.
var capAlone = &policy.Limits{Concurrent: policy.LimitTo(3), AtLimit: policy.Refuse}

var (
	strangeWeb, strangeWeb2 = "https://app.example.org/cb", "https://app2.example.org/cb"
	strangeSPA              = "https://spa.example.org/cb"
)

func strangeClients() []*storage.Client {
	return []*storage.Client{
		storage.WebClient("web", "web-secret", strangeWeb), storage.WebClient("web2", "web2-secret", strangeWeb2), storage.NativeClient("spa", strangeSPA),
	}
}

// many users let no test wait for another one's to rest.
const many = 64

// strangers are the servers that the kit is tried on, by what is strange.
var strangers = map[string]stranger{
	"as in the docs": {},
	"voids codes":    {users: many, wrap: func(s *exampleStorage) op.Storage { return &voidsCodes{exampleStorage: s, newest: map[string]string{}} }},
	"JWT":            {users: many, wrap: func(s *exampleStorage) op.Storage { return jwtClients{s} }},
	"no secrets": {
		users:   many,
		clients: []*storage.Client{storage.NativeClient("web", strangeWeb), storage.NativeClient("web2", strangeWeb2), storage.NativeClient("spa", strangeSPA)},
		configure: func(t *providertest.Target) {
			t.Web.Secret, t.Web2.Secret, t.Off.ConfidentialClients = "", "", true
		},
	},
	"no public clients": {
		users:   many,
		clients: strangeClients()[:2],
		configure: func(t *providertest.Target) {
			t.Public, t.Off.PublicClients = providertest.Client{}, true
		},
	},
	"no PKCE": {
		users: many,
		inside: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("code_challenge") != "" && r.FormValue("client_id") != "spa" {
					http.Error(w, "what is a code_challenge?", http.StatusBadRequest)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		configure: func(t *providertest.Target) { t.Off.PKCE = true },
	},
	"a cap alone": {limits: capAlone, ends: true},
	"no refresh tokens": {
		users:     many,
		configure: func(t *providertest.Target) { t.Off.RefreshTokens = true },
	},
}

// exampleStorage is zitadel's, but for one lock: the method that looks a refresh token up
// takes none.
type exampleStorage struct {
	*storage.Storage
	mu sync.RWMutex
}

func (s *exampleStorage) GetRefreshTokenInfo(ctx context.Context, client, token string) (string, string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.Storage.GetRefreshTokenInfo(ctx, client, token)
}

func (s *exampleStorage) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
}

func (s *exampleStorage) RevokeToken(ctx context.Context, token, user, client string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Storage.RevokeToken(ctx, token, user, client)
}

func (s *exampleStorage) TerminateSession(ctx context.Context, user, client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Storage.TerminateSession(ctx, user, client)
}

// voidsCodes is a storage where a request has one code at a time.
type voidsCodes struct {
	*exampleStorage
	mu     sync.Mutex
	newest map[string]string // codes by request
}

func (s *voidsCodes) SaveAuthCode(ctx context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest[id] = code
	return s.Storage.SaveAuthCode(ctx, id, code)
}

func (s *voidsCodes) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r, err := s.Storage.AuthRequestByCode(ctx, code)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest[r.GetID()] != code {
		return nil, errors.New("the request has another code")
	}
	return r, nil
}

// jwtClients gives every client JWT access tokens.
type jwtClients struct{ *exampleStorage }

type jwtClient struct{ op.Client }

func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

func (s jwtClients) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return jwtClient{c}, nil
}

// strangeUsers has every name for a user.
type strangeUsers struct{}

func (strangeUsers) GetUserByID(id string) *storage.User {
	return &storage.User{ID: id, Username: id, Password: "wonderland-1", PreferredLanguage: language.English}
}
func (u strangeUsers) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }
func (strangeUsers) ExampleClientID() string                       { return "service" }

// start starts the server, with the hook or without, and returns the Target of
// docs/embedding.md, word for word but for what is strange.
func (x stranger) start(t *testing.T, hooked bool) providertest.Target {
	t.Helper()
	clients := map[string]*storage.Client{}
	list := x.clients
	if list == nil {
		list = strangeClients()
	}
	for _, c := range list {
		clients[c.GetID()] = c
	}
	example := &exampleStorage{Storage: storage.NewStorageWithClients(strangeUsers{}, clients)}
	var s op.Storage = example
	if x.wrap != nil {
		s = x.wrap(example)
	}
	limits := providertest.Limits()
	if x.limits != nil {
		limits = *x.limits
	}
	var endSessions func(user string) error
	mux := http.NewServeMux()
	var handler http.Handler = mux
	if x.inside != nil {
		handler = x.inside(mux)
	}
	var hook *provider.Hook
	if hooked {
		var err error
		hook, err = provider.New(provider.Config{
			Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: limits}}}, Grace: providertest.Grace,
			Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
		})
		require.NoError(t, err)
		s, handler = hook.Storage(s), hook.Handler(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	if x.ends {
		endSessions = func(user string) error {
			if hook == nil {
				return nil
			}
			_, err := hook.EndAll(context.Background(), store.Subject{Issuer: server.URL, ID: user}, policy.ReasonEndedByAdmin, "the kit")
			return err
		}
	}
	p, err := op.NewProvider(&op.Config{
		CryptoKey: sha256.Sum256([]byte("a key")), CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
		SupportedUILocales: []language.Tag{language.English},
	}, s, op.StaticIssuer(server.URL), op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("sign in")) // whoever has gone needs no page
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("id")
		if err := example.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, op.AuthCallbackURL(p)(op.ContextWithIssuer(r.Context(), server.URL), id), http.StatusFound)
	})
	if x.noIssuer {
		mux.HandleFunc("/authorize/callback", func(w http.ResponseWriter, r *http.Request) { op.AuthorizeCallback(w, r, p) })
	}
	mux.Handle("/", p)
	target := providertest.Target{
		Issuer: server.URL,
		Web:    providertest.Client{ID: "web", Secret: "web-secret", RedirectURI: strangeWeb},
		Web2:   providertest.Client{ID: "web2", Secret: "web2-secret", RedirectURI: strangeWeb2},
		Public: providertest.Client{ID: "spa", RedirectURI: strangeSPA},
		Users:  []string{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"},
		SignIn: func(browser *http.Client, page *http.Response, user string) (*http.Response, error) {
			return browser.PostForm(server.URL+"/login", url.Values{
				"id": {page.Request.URL.Query().Get("authRequestID")}, "username": {user}, "password": {"wonderland-1"},
			})
		},
		Limits: limits,
		Grace:  providertest.Grace,
		Off: providertest.Off{
			SingleSignOn: true, DeviceGrant: true, EndSession: true, BackChannelLogout: true, FrontChannelLogout: true,
		},
	}
	target.EndSessions = endSessions
	if x.configure != nil {
		x.configure(&target)
	}
	for i := 9; i <= x.users; i++ {
		target.Users = append(target.Users, fmt.Sprintf("u%d", i))
	}
	return target
}

// TestKitOnStrangers: the kit is green on what others have, with few users.
func TestKitOnStrangers(t *testing.T) {
	t.Parallel()
	for name, x := range strangers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hooktest.Turn(t)
			providertest.Run(t, x.start(t, true))
		})
	}
}

// strangerEnv makes TestOnOneStranger run the kit in a process of its own, where it
// may fail.
const strangerEnv = "PROVIDERTEST_STRANGER"

// TestOnOneStranger runs the kit against one of them, when told to by
// [TestKitFailsOnStrangers].
func TestOnOneStranger(t *testing.T) {
	switch name := os.Getenv(strangerEnv); name {
	case "":
	case "no issuer":
		providertest.Run(t, stranger{noIssuer: true}.start(t, true))
	case "users run out":
		providertest.Run(t, stranger{limits: capAlone}.start(t, true))
	default:
		x, ok := strangers[name]
		require.True(t, ok, name)
		providertest.Run(t, x.start(t, false))
	}
}

// TestKitFailsOnStrangers: without the hook the kit fails on each of them, and so it
// does with the hook and a callback that op's issuer interceptor does not wrap.
func TestKitFailsOnStrangers(t *testing.T) {
	t.Parallel()
	always := []string{
		"rule-1-racing-logins-never-exceed-the-cap",
		"rule-3-a-login-takes-one-slot",
		"rule-4-every-id-token-has-the-same-sid",
		"rule-5-no-token-outlives-its-session",
		"session_expiry-is-the-absolute-end",
	}
	refreshing := slices.Concat(always, []string{
		"rule-4-revocation-ends-one-grant",
		"rule-7-parallel-refreshes-get-the-same-answer",
		"rule-7-a-repeat-within-the-grace-gets-the-same-answer",
		"refresh-token-expiration-members",
	})
	want := map[string][]string{"no issuer": refreshing}
	for name := range strangers {
		want[name] = refreshing
	}
	want["no refresh tokens"] = append(always, "rule-6-an-unused-session-ends")
	want["a cap alone"] = refreshing[:3:3]
	for name, checks := range want {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := runChild(t, name, "/^("+strings.Join(checks, "|")+")$")
			for _, check := range checks {
				require.Contains(t, out, "--- FAIL: TestOnOneStranger/"+check+" ", "%s did not fail\n%s", check, out)
			}
			if name == "no refresh tokens" {
				require.Contains(t, out, "warning: nothing of rule-7 is tested")
			}
		})
	}
}

// TestKitDoesNotWaitForever: sessions that nobody ends and no limit ends use up the
// users, and the kit says so.
func TestKitDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	require.Contains(t, runChild(t, "users run out", ""), "give Target.EndSessions")
}

// runChild runs the kit on a stranger in a process of its own, which must fail, and
// returns what it said.
func runChild(t *testing.T, name, checks string) string {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestOnOneStranger$"+checks, "-test.v", "-test.timeout=5m")
	child.Env = append(os.Environ(), strangerEnv+"="+name)
	out, err := child.CombinedOutput()
	exit, ok := err.(*exec.ExitError)
	require.True(t, ok, "%v\n%s", err, out)
	require.Equal(t, 1, exit.ExitCode(), "it fails, it does not crash\n%s", out)
	return string(out)
}
