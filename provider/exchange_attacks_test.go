package provider_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// An exchange that is refused takes nobody's place among the sessions that were made
// from one.
func TestARefusedExchangeEndsNoOtherSession(t *testing.T) {
	t.Parallel()
	s := start(t, limits(8*time.Hour, 0, 1, policy.Refuse), func(p *provider.Config, _ *optest.Config) { p.MaxGrants = 2 })
	mine := s.Login(optest.Exchange, "admin")
	ok(t, s.as(mine.AccessToken(), "u1"))
	ok(t, s.as(mine.AccessToken(), "u2"))
	s.Login(optest.Web, "u3") // whose only place is taken
	notExchanged(t, s.as(mine.AccessToken(), "u3"), "concurrency")
	require.Len(t, s.live(t, "u1"), 1)
	require.Len(t, s.live(t, "u2"), 1)
	ok(t, s.as(mine.AccessToken(), "u4"))
	require.Equal(t, policy.ReasonConcurrency, s.ended(t, "u1").Reason)
	require.Len(t, s.kept(t, s.sid(t, optest.Exchange, mine)).Children, 2)
}

// A noSigner has a key that cannot sign for a while, as one in a device that is away.
type noSigner struct {
	*optest.Storage
	away *atomic.Bool
}

func (s noSigner) SigningKey(ctx context.Context) (op.SigningKey, error) {
	key, err := s.Storage.SigningKey(ctx)
	if s.away.Load() {
		return noKey{key}, err
	}
	return key, err
}

type noKey struct{ op.SigningKey }

func (noKey) Key() any { return nil }

// An ID token that could not be signed in the end makes no session.
func TestAnIDTokenThatIsNotSignedLeavesNoSession(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	s := start(t, limits(8*time.Hour, 0, 1, policy.Refuse), func(_ *provider.Config, o *optest.Config) {
		o.Wrap = func(st *optest.Storage) op.Storage { return noSigner{st, &away} }
	})
	mine := s.Login(optest.Exchange, "admin")
	exchange := func() optest.Reply {
		return s.TokenExchange(optest.Exchange, mine.AccessToken(), optest.AccessTokenType, url.Values{
			"requested_token_type": {optest.IDTokenType}, "scope": {"openid custom_scope:impersonate:" + optest.SubjectOf("bob")},
		})
	}
	away.Store(true)
	require.Equal(t, "server_error", exchange().Error())
	require.Empty(t, s.started(t, "bob"))
	require.Len(t, s.seen(provider.EventStarted), 1, "the administrator's own")
	away.Store(false)
	ok(t, exchange())
	require.Len(t, s.started(t, "bob"), 1)
	require.Len(t, s.seen(provider.EventStarted), 2)
}

// A response that goes out while an exchange is at work: what was not looked up is no
// actor.
func TestAResponseThatEndsWithinAnExchange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls, validated atomic.Int32
		var counting atomic.Bool
		s := start(t, limits(24*time.Hour, 2*time.Hour, 0, 0), func(_ *provider.Config, o *optest.Config) {
			o.InMemory = true
			o.Wrap = func(st *optest.Storage) op.Storage {
				return &optest.Intercepted{Storage: st, Before: func(_ context.Context, method string) error {
					if !counting.Load() {
						return nil
					}
					switch method {
					case "TokenRequestByRefreshToken":
						if calls.Add(1) == 3 {
							time.Sleep(2 * time.Second)
						}
					case "ValidateTokenExchangeRequest":
						validated.Add(1)
					}
					return nil
				}}
			}
			o.Inside = func(_ *op.Provider, next http.Handler) http.Handler {
				return http.TimeoutHandler(next, time.Second, "slow")
			}
		})
		one, two := s.Login(optest.Exchange, "admin"), s.Login(optest.Exchange, "admin2")
		counting.Store(true)
		r := s.TokenExchange(optest.Exchange, one.RefreshToken(), optest.RefreshTokenType, url.Values{
			"requested_token_type": {optest.AccessTokenType}, "actor_token": {two.RefreshToken()}, "actor_token_type": {optest.RefreshTokenType},
		})
		require.Equal(t, http.StatusServiceUnavailable, r.Status, r.Body)
		time.Sleep(time.Minute)
		require.EqualValues(t, 3, calls.Load())
		require.Zero(t, validated.Load(), "the storage judges an actor that nobody looked up")
	})
}

// What is made from a session ends with it, and so no token of it lives longer: not
// where the limits of its own user are wider either.
func TestNoTokenOutlivesTheSessionItWasMadeFrom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := limits(2*time.Hour, 0, 0, 0)
		a.Kinds = map[policy.Kind]policy.Limits{policy.Automation: {Active: policy.Unlimited[time.Duration]()}}
		s := start(t, a, func(p *provider.Config, o *optest.Config) {
			inMemory(p, o)
			clients := optest.DefaultClients()
			client := clients[slices.IndexFunc(clients, func(c *optest.Client) bool { return c.ID == optest.Exchange })]
			client.TokenType = op.AccessTokenTypeJWT
			o.Storage = optest.NewStorage(client)
		})
		mine := s.Login(optest.Exchange, "admin")
		end := time.Now().Add(2 * time.Hour)
		expires := func(jwt string) int64 {
			_, claims := readJWT(t, jwt)
			return int64(claims["exp"].(float64))
		}
		idToken := url.Values{"requested_token_type": {optest.IDTokenType}, "scope": {"openid custom_scope:impersonate:" + optest.SubjectOf("bob")}}

		time.Sleep(2*time.Hour - 3*time.Minute)
		mine = ok(t, s.Refresh(optest.Exchange, mine.RefreshToken()))
		bob := ok(t, s.as(mine.AccessToken(), "bob"))
		carl := ok(t, s.as(ok(t, s.as(mine.AccessToken(), "admin2")).AccessToken(), "carl")) // two in a row
		time.Sleep(time.Minute)
		bob = ok(t, s.Refresh(optest.Exchange, bob.RefreshToken()))
		carl = ok(t, s.Refresh(optest.Exchange, carl.RefreshToken()))
		for name, jwt := range map[string]string{
			"refreshed":                 bob.AccessToken(),
			"refreshed, ID token":       bob.IDToken(),
			"two in a row":              carl.AccessToken(),
			"exchanged for an ID token": ok(t, s.TokenExchange(optest.Exchange, mine.AccessToken(), optest.AccessTokenType, idToken)).AccessToken(),
			"exchanged":                 ok(t, s.as(mine.AccessToken(), "bob")).AccessToken(),
		} {
			require.Equal(t, end.Unix(), expires(jwt), name)
		}
		left, _ := bob.Number("authorization_expires_in")
		require.Equal(t, 120., left)

		time.Sleep(2 * time.Minute)
		refusedFor(t, s.Refresh(optest.Exchange, bob.RefreshToken()), policy.ReasonActiveLimit)
	})
}
