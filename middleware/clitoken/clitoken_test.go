package clitoken_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware/clitoken"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// old returns a file with a login whose access token has expired.
func old(t *testing.T) *clitoken.File {
	t.Helper()
	f := clitoken.Open(filepath.Join(t.TempDir(), "a", "b"), "https://login.example.com", "cli")
	require.NoError(t, f.Save(t.Context(), clitoken.Login{
		Issuer: "https://login.example.com", ClientID: "cli", Subject: "alice",
		AccessToken: "access-0", Expiry: time.Now().Add(-time.Second), RefreshToken: "refresh-0",
	}))
	return f
}

func content(t *testing.T, f *clitoken.File) string {
	t.Helper()
	body, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	return string(body)
}

// renewed is a refresh that works.
func renewed(_ context.Context, l clitoken.Login) (clitoken.Login, error) {
	l.AccessToken, l.RefreshToken, l.Expiry = l.AccessToken+"+", l.RefreshToken+"+", time.Now().UTC().Add(time.Hour)
	return l, nil
}

func TestOneRefreshForAll(t *testing.T) {
	t.Parallel()
	f := old(t)
	var refreshes atomic.Int32
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			// A File of its own, as in another process.
			own := clitoken.Open(filepath.Dir(f.Path()), "https://login.example.com", "cli")
			l, err := own.Token(t.Context(), "", func(ctx context.Context, l clitoken.Login) (clitoken.Login, error) {
				refreshes.Add(1)
				return renewed(ctx, l)
			})
			if err != nil || l.AccessToken != "access-0+" {
				t.Error(l.AccessToken, err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, refreshes.Load())
}

// Access tokens that live shorter than the margin are shared by those who waited.
func TestShortAccessTokensAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := old(t)
		var refreshes atomic.Int32
		release := make(chan struct{})
		short := func(ctx context.Context, l clitoken.Login) (clitoken.Login, error) {
			refreshes.Add(1)
			<-release
			l, err := renewed(ctx, l)
			l.Expiry = time.Now().UTC().Add(5 * time.Second)
			return l, err
		}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if l, err := f.Token(t.Context(), "", short); err != nil || l.AccessToken != "access-0+" {
					t.Error(l.AccessToken, err)
				}
			})
		}
		synctest.Wait() // one refreshes, five wait for the lock
		close(release)
		wg.Wait()
		require.EqualValues(t, 1, refreshes.Load())
	})
}

// An access token that was refused is refreshed though it looks good, once.
func TestARefusedAccessToken(t *testing.T) {
	t.Parallel()
	f := old(t)
	l, err := f.Token(t.Context(), "", renewed)
	require.NoError(t, err)
	again, err := f.Token(t.Context(), "", nil)
	require.NoError(t, err)
	require.Equal(t, l, again)
	again, err = f.Token(t.Context(), "access-0", nil)
	require.NoError(t, err, "another one is there by now")
	require.Equal(t, l, again)
	again, err = f.Token(t.Context(), l.AccessToken, renewed)
	require.NoError(t, err)
	require.Equal(t, "access-0++", again.AccessToken)
}

func TestALoginThatIsOver(t *testing.T) {
	t.Parallel()
	f := old(t)
	asked := 0
	end := func(context.Context, clitoken.Login) (clitoken.Login, error) {
		asked++
		return clitoken.Login{}, &clitoken.EndedError{Description: "inactivity: because", At: time.Now().UTC()}
	}
	for range 3 {
		_, err := f.Token(t.Context(), "", end)
		var over *clitoken.EndedError
		require.ErrorAs(t, err, &over)
		require.Equal(t, "inactivity: because", over.Description)
	}
	require.Equal(t, 1, asked)
	require.NotContains(t, content(t, f), "refresh-0")
	l, err := f.Load()
	require.NoError(t, err)
	require.Equal(t, "alice", l.Subject)
	require.NotNil(t, l.Ended)

	f = old(t)
	l, err = f.Load()
	require.NoError(t, err)
	l.RefreshToken = ""
	require.NoError(t, f.Save(t.Context(), l))
	var over *clitoken.EndedError
	_, err = f.Token(t.Context(), "", end)
	require.ErrorAs(t, err, &over)
	require.Contains(t, over.Description, "no refresh token")
}

// Whatever goes wrong but invalid_grant, the file stays as it is.
func TestAFailureLosesNothing(t *testing.T) {
	t.Parallel()
	f := old(t)
	before := content(t, f)
	broken := errors.New("no network")
	_, err := f.Token(t.Context(), "", func(context.Context, clitoken.Login) (clitoken.Login, error) { return clitoken.Login{}, broken })
	require.ErrorIs(t, err, broken)
	require.Equal(t, before, content(t, f))
	require.ErrorIs(t, f.Remove(t.Context(), func(context.Context, clitoken.Login) error { return broken }), broken)
	require.Equal(t, before, content(t, f))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(f.Path()), "*.new"))
	require.NoError(t, err)
	require.Empty(t, left)

	// Where the new version cannot be written the provider is not asked at all: a
	// folder in its place will do.
	require.NoError(t, os.MkdirAll(f.Path()+".new/x", 0o700))
	_, err = f.Token(t.Context(), "", func(context.Context, clitoken.Login) (clitoken.Login, error) {
		t.Error("the refresh token was spent")
		return clitoken.Login{}, nil
	})
	require.Error(t, err)
	require.Equal(t, before, content(t, f))
	require.NoError(t, os.RemoveAll(f.Path()+".new"))

	require.NoError(t, f.Remove(t.Context(), func(_ context.Context, l clitoken.Login) error {
		require.Equal(t, "refresh-0", l.RefreshToken)
		return nil
	}))
	_, err = f.Load()
	require.ErrorIs(t, err, clitoken.ErrNoLogin)
	_, err = f.Token(t.Context(), "", nil)
	require.ErrorIs(t, err, clitoken.ErrNoLogin)
	require.ErrorIs(t, f.Remove(t.Context(), nil), clitoken.ErrNoLogin)
}

type answer func() *http.Response

func (a answer) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

// What a proxy answers for a provider that is down signs nobody out, whatever words
// are in it.
func TestOnlyTheProviderEndsALogin(t *testing.T) {
	t.Parallel()
	const body = `{"error":"invalid_grant","error_description":"inactivity: because"}`
	for name, tt := range map[string]struct {
		status    int
		mediaType string
		over      bool
	}{
		"the provider": {http.StatusBadRequest, "application/json", true},
		"bad gateway":  {http.StatusBadGateway, "application/json", false},
		"error page":   {http.StatusBadRequest, "text/html", false},
		"rate limit":   {http.StatusTooManyRequests, "application/json", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := old(t)
			before := content(t, f)
			ctx := oidc.ClientContext(t.Context(), &http.Client{Transport: answer(func() *http.Response {
				return &http.Response{
					StatusCode: tt.status, Header: http.Header{"Content-Type": {tt.mediaType}}, Body: io.NopCloser(strings.NewReader(body)),
				}
			})})
			config := &oauth2.Config{ClientID: "cli", Endpoint: oauth2.Endpoint{
				TokenURL: "https://login.example.com/token", AuthStyle: oauth2.AuthStyleInParams,
			}}
			_, err := f.Token(ctx, "", clitoken.Refresher(config, nil))
			var over *clitoken.EndedError
			require.Equal(t, tt.over, errors.As(err, &over), err)
			require.Equal(t, tt.over, before != content(t, f))
		})
	}
}

// A refresh that has begun is finished and kept when its caller is interrupted.
func TestAnInterruptedRefreshIsKept(t *testing.T) {
	t.Parallel()
	f := old(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := f.Token(ctx, "", func(ctx context.Context, l clitoken.Login) (clitoken.Login, error) {
		cancel()
		require.NoError(t, ctx.Err())
		return renewed(ctx, l)
	})
	require.NoError(t, err)
	require.Contains(t, content(t, f), `"refresh-0+"`)
}

// Who waits for the lock waits for as long as the context says.
func TestBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := old(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := f.Token(t.Context(), "", func(_ context.Context, l clitoken.Login) (clitoken.Login, error) {
			began := time.Now()
			_, err := f.Token(ctx, "", nil)
			require.Equal(t, 20*time.Second, time.Since(began))
			require.ErrorIs(t, err, clitoken.ErrBusy)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, f.Save(ctx, l), clitoken.ErrBusy)
			require.ErrorIs(t, f.Remove(ctx, nil), clitoken.ErrBusy)
			return renewed(ctx, l)
		})
		require.NoError(t, err)
	})
}

func TestTheFile(t *testing.T) {
	t.Parallel()
	f := old(t)
	dir := filepath.Dir(f.Path())
	for path, mode := range map[string]os.FileMode{dir: 0o700, f.Path(): 0o600, f.Path() + ".lock": 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	// What a crash left, or somebody put there, is neither followed nor used.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.WriteFile(elsewhere, []byte("mine"), 0o644))
	require.NoError(t, os.Symlink(elsewhere, f.Path()+".new"))
	_, err := f.Token(t.Context(), "", renewed)
	require.NoError(t, err)
	body, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.Equal(t, "mine", string(body))
	require.NoError(t, os.WriteFile(f.Path()+".new", []byte("half a fi"), 0o644))
	l, err := f.Token(t.Context(), "access-0+", renewed)
	require.NoError(t, err)
	info, err := os.Stat(f.Path())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.Chmod(f.Path(), 0o640))
	_, err = f.Load()
	require.ErrorContains(t, err, "has mode 0640")
	require.NoError(t, os.Chmod(f.Path(), 0o600))
	for _, text := range []string{"", "{", `{"access_token": 1, "refresh_token": "secret-1"}`, "[]"} {
		require.NoError(t, os.WriteFile(f.Path(), []byte(text), 0o600))
		_, err = f.Token(t.Context(), "", renewed)
		require.ErrorContains(t, err, "is damaged; remove it")
		require.NotErrorIs(t, err, clitoken.ErrNoLogin)
		require.NotContains(t, err.Error(), "secret-1")
	}
	require.NoError(t, f.Save(t.Context(), l), "signing in again mends it")

	one := clitoken.Open(dir, "https://a", "b").Path()
	require.NotEqual(t, one, clitoken.Open(dir, "https://a", "c").Path())
	require.NotEqual(t, one, clitoken.Open(dir, "https://ab", "").Path())
	require.Equal(t, one, clitoken.Open(dir, "https://a", "b").Path())
}

// With a real provider, over hours: what its responses say is kept, and its reason
// when it is over.
func TestWithTheProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hook, err := provider.New(provider.Config{
			Store: memstore.New(), Keys: provider.Keys{provider.NewKey(time.Now())},
			Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: policy.Limits{
				Active: policy.LimitTo(8 * time.Hour), Inactivity: policy.LimitTo(2 * time.Hour),
			}}}},
		})
		require.NoError(t, err)
		s := optest.Start(t, optest.Config{InMemory: true, Hook: hook})
		ctx := oidc.ClientContext(t.Context(), s.HTTP)
		p, err := oidc.NewProvider(ctx, s.Issuer)
		require.NoError(t, err)
		config := &oauth2.Config{ClientID: optest.Native, Endpoint: p.Endpoint(), Scopes: []string{"openid", "profile", "offline_access"}}
		config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
		verifier := p.VerifierContext(ctx, &oidc.Config{ClientID: optest.Native})
		signIn := func(user string) clitoken.Login {
			device, err := config.DeviceAuth(ctx)
			require.NoError(t, err)
			s.DeviceApprove(optest.Reply{JSON: map[string]any{"verification_uri_complete": device.VerificationURIComplete}}, user)
			token, err := config.DeviceAccessToken(ctx, device)
			require.NoError(t, err)
			l, err := clitoken.FromToken(ctx, config, verifier, token)
			require.NoError(t, err)
			return l
		}
		l := signIn("alice")
		signedIn := l.SignedIn
		require.Equal(t, optest.SubjectOf("alice"), l.Subject)
		require.WithinDuration(t, time.Now(), signedIn, 2*time.Second)
		require.WithinDuration(t, signedIn.Add(8*time.Hour), l.Ends, 2*time.Second)
		require.WithinDuration(t, time.Now().Add(2*time.Hour), l.EndsUnused, 2*time.Second)

		f := clitoken.Open(filepath.Join(t.TempDir(), "own"), s.Issuer, optest.Native)
		require.NoError(t, f.Save(ctx, l))
		refresh := clitoken.Refresher(config, verifier)
		for range 4 {
			time.Sleep(90 * time.Minute)
			next, err := f.Token(ctx, "", refresh)
			require.NoError(t, err)
			require.NotEqual(t, l.AccessToken, next.AccessToken)
			require.Equal(t, signedIn, next.SignedIn)
			require.WithinDuration(t, l.Ends, next.Ends, 2*time.Second, "it does not move")
			l = next
		}
		time.Sleep(2 * time.Hour)
		_, err = f.Token(ctx, "", refresh)
		var over *clitoken.EndedError
		require.ErrorAs(t, err, &over)
		require.Contains(t, over.Description, "active_limit: ")

		// Somebody else's refresh token: the file is alice's still.
		l, bob := signIn("alice"), signIn("bob")
		l.RefreshToken, l.Expiry = bob.RefreshToken, time.Now()
		require.NoError(t, f.Save(ctx, l))
		before := content(t, f)
		_, err = f.Token(ctx, "", refresh)
		require.ErrorContains(t, err, "of somebody else")
		require.Equal(t, before, content(t, f))

		// A token that is no ID token of ours is no login.
		_, err = clitoken.FromToken(ctx, config, verifier, &oauth2.Token{AccessToken: "a"})
		require.ErrorContains(t, err, "no ID token")
		_, err = clitoken.FromToken(ctx, config, verifier, (&oauth2.Token{AccessToken: "a"}).WithExtra(map[string]any{"id_token": "x.y.z"}))
		require.ErrorContains(t, err, "the ID token is not good")

		// A client that is refused is the operator's mistake, not the end of the login.
		wrong := *config
		wrong.ClientID = "nobody"
		_, err = clitoken.Refresher(&wrong, verifier)(ctx, l)
		var refused *oauth2.RetrieveError
		require.ErrorAs(t, err, &refused)
		require.NotErrorAs(t, err, &over)
		require.NotEqual(t, http.StatusOK, refused.Response.StatusCode)
	})
}
