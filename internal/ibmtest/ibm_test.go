package ibmtest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	iam "github.com/IBM/platform-services-go-sdk/iamidentityv1"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// account needs escaping in an address.
const account = "a/1 b"

// A server is the API over HTTP, administered by who has the token "root" or
// "eve".
type server struct {
	t     testing.TB
	url   string
	store store.Store
}

func start(t testing.TB, change func(*admin.Config)) *server {
	t.Helper()
	s := &server{t: t, store: memstore.New()}
	hook, err := provider.New(provider.Config{Store: s.store, Keys: provider.Keys{provider.NewKey(time.Now())}})
	require.NoError(t, err)
	cfg := admin.Config{
		Hook: hook, Store: s.store, Issuer: "https://op.example.com",
		Authorize: func(_ context.Context, r *http.Request, _ admin.Action, name string) (admin.Actor, error) {
			token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			switch {
			case !ok || token == "":
				return admin.Actor{}, admin.ErrUnauthenticated
			case token == "member" || name != account:
				return admin.Actor{}, admin.ErrForbidden
			}
			return admin.Actor{ID: "IBMid-" + token}, nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	api, err := admin.New(cfg)
	require.NoError(t, err)
	web := httptest.NewServer(api)
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

// client is IBM's client, as its documentation says to make it.
func (s *server) client(token string) *iam.IamIdentityV1 {
	s.t.Helper()
	var authenticator core.Authenticator = &core.BearerTokenAuthenticator{BearerToken: token}
	if token == "" {
		authenticator = &core.NoAuthAuthenticator{}
	}
	c, err := iam.NewIamIdentityV1(&iam.IamIdentityV1Options{URL: s.url, Authenticator: authenticator})
	require.NoError(s.t, err)
	return c
}

func read(t testing.TB, c *iam.IamIdentityV1) (*iam.AccountSettingsResponse, *core.DetailedResponse) {
	t.Helper()
	options := c.NewGetAccountSettingsOptions(account)
	options.SetIncludeHistory(true)
	settings, response, err := c.GetAccountSettings(options)
	require.NoError(t, err)
	require.Equal(t, 200, response.StatusCode)
	return settings, response
}

func TestReadAndUpdate(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	c := s.client("root")

	// Nothing was set: the service's defaults, and no list that is missing.
	settings, response := read(t, c)
	require.Equal(t, account, *settings.AccountID)
	require.Equal(t, response.GetHeaders().Get("ETag"), *settings.EntityTag, "raw, as in the body")
	for name, value := range map[string]*string{
		"session_expiration": settings.SessionExpirationInSeconds, "session_invalidation": settings.SessionInvalidationInSeconds,
		"max_sessions": settings.MaxSessionsPerIdentity, "access token": settings.SystemAccessTokenExpirationInSeconds,
		"refresh token": settings.SystemRefreshTokenExpirationInSeconds, "service ID": settings.RestrictCreateServiceID, "API key": settings.RestrictCreatePlatformApikey,
	} {
		require.Equal(t, "NOT_SET", *value, name)
	}
	require.Equal(t, "NONE", *settings.Mfa)
	require.Equal(t, "NOT_RESTRICTED", *settings.RestrictUserListVisibility)
	require.Empty(t, *settings.AllowedIPAddresses)
	require.NotNil(t, settings.UserMfa)
	require.NotNil(t, settings.RestrictUserDomains)
	require.NotNil(t, settings.History)
	require.NotNil(t, settings.Context.TransactionID)

	// An update of everything there is.
	update := c.NewUpdateAccountSettingsOptions(*settings.EntityTag, account)
	update.SetSessionExpirationInSeconds("43200")
	update.SetSessionInvalidationInSeconds("1800")
	update.SetMaxSessionsPerIdentity("5")
	update.SetRestrictCreateServiceID("RESTRICTED")
	update.SetRestrictCreatePlatformApikey("NOT_RESTRICTED")
	update.SetRestrictUserListVisibility("RESTRICTED")
	update.SetAllowedIPAddresses("192.0.2.0/24,2001:db8::/32")
	update.SetMfa("LEVEL3")
	update.SetUserMfa([]iam.UserMfa{{IamID: core.StringPtr("IBMid-1"), Mfa: core.StringPtr("NONE")}})
	update.SetSystemAccessTokenExpirationInSeconds("3600")
	update.SetSystemRefreshTokenExpirationInSeconds("259200")
	update.SetRestrictUserDomains([]iam.AccountSettingsUserDomainRestriction{{
		RealmID: core.StringPtr("IBMid"), InvitationEmailAllowPatterns: []string{"*@example.com"}, RestrictInvitation: core.BoolPtr(true),
	}})
	updated, response, err := c.UpdateAccountSettings(update)
	require.NoError(t, err)
	require.Equal(t, 200, response.StatusCode)
	require.NotEqual(t, *settings.EntityTag, *updated.EntityTag)
	require.Len(t, updated.History, 1)
	require.Equal(t, "IBMid-root", *updated.History[0].IamID)
	require.Equal(t, account, *updated.History[0].IamIDAccount)
	require.Contains(t, updated.History[0].Params, "session_expiration_in_seconds")
	require.Contains(t, updated.History[0].Params, "mfa")
	_, err = time.Parse(time.RFC3339Nano, *updated.History[0].Timestamp)
	require.NoError(t, err)

	// It is what is in force, and what is none of our business came back.
	limits, _, err := provider.LoadAccount(t.Context(), s.store, account)
	require.NoError(t, err)
	require.Equal(t, policy.Limits{
		Active: policy.LimitTo(12 * time.Hour), Inactivity: policy.LimitTo(30 * time.Minute), Concurrent: policy.LimitTo(5),
	}, limits.Limits)
	again, _ := read(t, c)
	require.Equal(t, "LEVEL3", *again.Mfa)
	require.Equal(t, "192.0.2.0/24,2001:db8::/32", *again.AllowedIPAddresses)
	require.Equal(t, "IBMid-1", *again.UserMfa[0].IamID)
	require.Equal(t, []string{"*@example.com"}, again.RestrictUserDomains[0].InvitationEmailAllowPatterns)
	require.True(t, *again.RestrictUserDomains[0].RestrictInvitation)
	require.Equal(t, "259200", *again.SystemRefreshTokenExpirationInSeconds)
	require.Equal(t, *updated.EntityTag, *again.EntityTag)

	// One field alone: the others stay, though the method is PUT.
	update = c.NewUpdateAccountSettingsOptions("*", account)
	update.SetMaxSessionsPerIdentity("NOT_SET")
	updated, _, err = c.UpdateAccountSettings(update)
	require.NoError(t, err)
	require.Equal(t, "NOT_SET", *updated.MaxSessionsPerIdentity)
	require.Equal(t, "43200", *updated.SessionExpirationInSeconds)
	require.Equal(t, "LEVEL3", *updated.Mfa)
	require.Equal(t, []string{"max_sessions_per_identity"}, updated.History[0].Params)

	// A list is cleared by an empty one, a realm removed by its name alone.
	update = c.NewUpdateAccountSettingsOptions(*updated.EntityTag, account)
	update.SetUserMfa([]iam.UserMfa{})
	update.SetRestrictUserDomains([]iam.AccountSettingsUserDomainRestriction{{RealmID: core.StringPtr("IBMid")}})
	updated, _, err = c.UpdateAccountSettings(update)
	require.NoError(t, err)
	require.Empty(t, updated.UserMfa)
	require.NotNil(t, updated.UserMfa)
	require.Empty(t, updated.RestrictUserDomains)
	require.NotNil(t, updated.RestrictUserDomains)

	// Without history it is empty, not missing.
	settings, _, err = c.GetAccountSettings(c.NewGetAccountSettingsOptions(account))
	require.NoError(t, err)
	require.NotNil(t, settings.History)
	require.Empty(t, settings.History)
}

func TestEffective(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	c := s.client("root")
	update := c.NewUpdateAccountSettingsOptions("*", account)
	update.SetSessionExpirationInSeconds("43200")
	update.SetMfa("TOTP")
	_, _, err := c.UpdateAccountSettings(update)
	require.NoError(t, err)
	options := c.NewGetEffectiveAccountSettingsOptions(account)
	options.SetIncludeHistory(true)
	options.SetResolveUserMfa(true)
	effective, response, err := c.GetEffectiveAccountSettings(options)
	require.NoError(t, err)
	require.Equal(t, 200, response.StatusCode)
	require.Equal(t, account, *effective.AccountID)
	require.Equal(t, "43200", *effective.Effective.SessionExpirationInSeconds)
	require.Equal(t, "TOTP", *effective.Effective.Mfa)
	require.Equal(t, "NOT_SET", *effective.Effective.MaxSessionsPerIdentity)
	require.Equal(t, "43200", *effective.Account.SessionExpirationInSeconds)
	require.Len(t, effective.Account.History, 1)
	require.Empty(t, effective.AssignedTemplates)
}

// problem is what IBM's client makes of an error.
func problem(t testing.TB, response *core.DetailedResponse, err error) iam.ExceptionResponse {
	t.Helper()
	require.Error(t, err)
	require.NotNil(t, response)
	body, jsonErr := json.Marshal(response.Result)
	require.NoError(t, jsonErr)
	var raw map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(body, &raw))
	var e *iam.ExceptionResponse
	require.NoError(t, iam.UnmarshalExceptionResponse(raw, &e))
	require.NotEmpty(t, e.Errors)
	require.Equal(t, *e.Errors[0].Message, err.Error(), "the text that the client shows")
	require.NotEmpty(t, *e.Trace)
	return *e
}

func TestErrorsAreInItsForm(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	c := s.client("root")
	before, _ := read(t, c)

	set := func(change func(*iam.UpdateAccountSettingsOptions)) (*core.DetailedResponse, error) {
		update := c.NewUpdateAccountSettingsOptions(*before.EntityTag, account)
		change(update)
		_, response, err := c.UpdateAccountSettings(update)
		return response, err
	}
	for name, change := range map[string]func(*iam.UpdateAccountSettingsOptions){
		"session_expiration_in_seconds":              func(o *iam.UpdateAccountSettingsOptions) { o.SetSessionExpirationInSeconds("899") },
		"session_invalidation_in_seconds":            func(o *iam.UpdateAccountSettingsOptions) { o.SetSessionInvalidationInSeconds("0900") },
		"max_sessions_per_identity":                  func(o *iam.UpdateAccountSettingsOptions) { o.SetMaxSessionsPerIdentity("0") },
		"mfa":                                        func(o *iam.UpdateAccountSettingsOptions) { o.SetMfa("SMS") },
		"system_access_token_expiration_in_seconds":  func(o *iam.UpdateAccountSettingsOptions) { o.SetSystemAccessTokenExpirationInSeconds("3601") },
		"system_refresh_token_expiration_in_seconds": func(o *iam.UpdateAccountSettingsOptions) { o.SetSystemRefreshTokenExpirationInSeconds("1.5") },
		"restrict_create_service_id":                 func(o *iam.UpdateAccountSettingsOptions) { o.SetRestrictCreateServiceID("yes") },
	} {
		response, err := set(change)
		e := problem(t, response, err)
		require.Equal(t, 400, response.StatusCode, name)
		require.Equal(t, "400", *e.StatusCode, name)
		require.Contains(t, *e.Errors[0].Message, name)
	}
	// One field that is right beside one that is wrong: no partial write.
	response, err := set(func(o *iam.UpdateAccountSettingsOptions) {
		o.SetSessionExpirationInSeconds("3600")
		o.SetMfa("LEVEL1")
		o.SetMaxSessionsPerIdentity("-1")
	})
	require.Equal(t, 400, response.StatusCode)
	require.Contains(t, err.Error(), "max_sessions_per_identity")
	after, _ := read(t, c)
	require.Equal(t, *before.EntityTag, *after.EntityTag)
	require.Empty(t, after.History)

	_, response, err = s.client("").GetAccountSettings(c.NewGetAccountSettingsOptions(account))
	e := problem(t, response, err)
	require.Equal(t, 401, response.StatusCode)
	require.Equal(t, "BXNIM0308E", *e.Errors[0].MessageCode)
	_, response, err = s.client("member").GetAccountSettings(c.NewGetAccountSettingsOptions(account))
	problem(t, response, err)
	require.Equal(t, 403, response.StatusCode)
	_, response, err = c.GetAccountSettings(c.NewGetAccountSettingsOptions("another"))
	problem(t, response, err)
	require.Equal(t, 403, response.StatusCode)
}

// Two administrators read the same version and both save: the second is told,
// reads again, and loses nothing of the first.
func TestTwoAdministratorsSaveAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	first, second := s.client("root"), s.client("eve")
	seen, _ := read(t, first)

	save := func(c *iam.IamIdentityV1, tag string, change func(*iam.UpdateAccountSettingsOptions)) (*core.DetailedResponse, error) {
		update := c.NewUpdateAccountSettingsOptions(tag, account)
		change(update)
		_, response, err := c.UpdateAccountSettings(update)
		return response, err
	}
	changes := []func(*iam.UpdateAccountSettingsOptions){
		func(o *iam.UpdateAccountSettingsOptions) { o.SetSessionExpirationInSeconds("43200") },
		func(o *iam.UpdateAccountSettingsOptions) { o.SetMfa("LEVEL2") },
	}
	var wg sync.WaitGroup
	responses, errs := make([]*core.DetailedResponse, 2), make([]error, 2)
	for i, c := range []*iam.IamIdentityV1{first, second} {
		wg.Go(func() { responses[i], errs[i] = save(c, *seen.EntityTag, changes[i]) })
	}
	wg.Wait()
	codes := []int{responses[0].StatusCode, responses[1].StatusCode}
	slices.Sort(codes)
	require.Equal(t, []int{200, 409}, codes)
	loser := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	e := problem(t, responses[loser], errs[loser])
	require.Equal(t, "409", *e.StatusCode)
	require.Equal(t, "stale", *e.Errors[0].Code)

	now, _ := read(t, first)
	require.Len(t, now.History, 1)
	c := []*iam.IamIdentityV1{first, second}[loser]
	_, err := save(c, *now.EntityTag, changes[loser])
	require.NoError(t, err)
	now, _ = read(t, first)
	require.Equal(t, "43200", *now.SessionExpirationInSeconds)
	require.Equal(t, "LEVEL2", *now.Mfa)
	require.Len(t, now.History, 2)
}

// The range is a profile: the documented one, or that of IBM's own API.
func TestRanges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change              func(*admin.Config)
		expiration, invalid string
		more                string // too much
	}{
		"documented": {nil, "2592000", "86400", "2592001"},
		"IBM's":      {func(c *admin.Config) { c.Range = admin.IBMRange }, "86400", "7200", "86401"},
	} {
		client := start(t, c.change).client("root")
		update := client.NewUpdateAccountSettingsOptions("*", account)
		update.SetSessionExpirationInSeconds(c.expiration)
		update.SetSessionInvalidationInSeconds(c.invalid)
		got, _, err := client.UpdateAccountSettings(update)
		require.NoError(t, err, name)
		require.Equal(t, c.expiration, *got.SessionExpirationInSeconds, name)
		update = client.NewUpdateAccountSettingsOptions("*", account)
		update.SetSessionExpirationInSeconds(c.more)
		_, response, err := client.UpdateAccountSettings(update)
		require.Equal(t, 400, response.StatusCode, name)
		require.ErrorContains(t, err, "session_expiration_in_seconds", name)
	}
}

// What has no word in the form is not lost by a client of the form: other scopes,
// and an expressly unlimited value that reads as NOT_SET.
func TestTheRestOfTheSettingsStays(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	full := policy.Account{
		Limits: policy.Limits{Active: policy.Unlimited[time.Duration](), Inactivity: policy.LimitTo(time.Hour + time.Millisecond), AtLimit: policy.EndIdlest},
		Kinds:  map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(12 * time.Hour)}},
		Users:  map[string]policy.Limits{"root": {Concurrent: policy.LimitTo(1)}},
	}
	_, err := provider.SaveAccount(t.Context(), s.store, account, full, 0, "test", "", time.Now())
	require.NoError(t, err)
	c := s.client("root")
	c.SetEnableGzipCompression(true) // as its callers may
	seen, _ := read(t, c)
	require.Equal(t, "NOT_SET", *seen.SessionExpirationInSeconds)
	require.Equal(t, "3600", *seen.SessionInvalidationInSeconds)

	// All of it back as it was read.
	update := c.NewUpdateAccountSettingsOptions(*seen.EntityTag, account)
	update.SetSessionExpirationInSeconds(*seen.SessionExpirationInSeconds)
	update.SetSessionInvalidationInSeconds(*seen.SessionInvalidationInSeconds)
	update.SetMaxSessionsPerIdentity("4")
	_, _, err = c.UpdateAccountSettings(update)
	require.NoError(t, err)
	want := full
	want.Concurrent = policy.LimitTo(4)
	got, _, err := provider.LoadAccount(t.Context(), s.store, account)
	require.NoError(t, err)
	require.Equal(t, want, got)

	// And what our form saves keeps what only this one knows.
	update = c.NewUpdateAccountSettingsOptions("*", account)
	update.SetMfa("TOTP4ALL")
	_, _, err = c.UpdateAccountSettings(update)
	require.NoError(t, err)
	req, err := http.NewRequest(http.MethodPut, s.url+"/v1/accounts/a%2F1%20b/settings", strings.NewReader(`{"settings":{"active":"8h"}}`))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer root")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("If-Match", "*")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	now, _ := read(t, c)
	require.Equal(t, "28800", *now.SessionExpirationInSeconds)
	require.Equal(t, "TOTP4ALL", *now.Mfa)
}
