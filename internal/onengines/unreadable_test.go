package onengines

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// damageable opens a store in a file, and returns how to damage a session in it, and how
// to mend all again.
func damageable(t *testing.T) (s store.Store, damage func(id string), mend func()) {
	t.Helper()
	sessions, db := openSQLite(t, filepath.Join(t.TempDir(), "s.db"))
	exec := func(query string, args ...any) {
		t.Helper()
		result, err := db.Exec(query, args...)
		require.NoError(t, err)
		n, err := result.RowsAffected()
		require.NoError(t, err)
		require.Positive(t, n)
	}
	return sessions,
		func(id string) {
			exec(`UPDATE curfew_sessions SET document = CAST('!' || document AS BLOB) WHERE id = ?`, id)
		},
		func() {
			exec(`UPDATE curfew_sessions SET document = CAST(substr(document, 2) AS BLOB) WHERE substr(document, 1, 1) = CAST('!' AS BLOB)`)
		}
}

// Sessions that cannot be read are told of, and hold up nothing: what else is due ends,
// whichever it comes after, and changed settings are applied to everybody else, and to
// them when they are mended.
func TestASweepGoesOnPastWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	s, damage, mend := damageable(t)
	var ahead atomic.Int64
	sleep := func(d time.Duration) { ahead.Add(int64(d)) }
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	settings := hooktest.Limits(24*time.Hour, 0, 0, 0)
	x := hooktest.Tenants(t, s, policy.Account{}, func(cfg *provider.Config) { cfg.Now, cfg.Settings = now, hooktest.OfAll(&settings) })
	began := now().Add(-23 * time.Hour)
	var over, damaged []store.Session
	for i := range 120 { // more than a batch
		damaged = append(damaged, x.Session(t, fmt.Sprint("acme.broken", i/2), i, began.Add(time.Duration(i)*time.Second), began.Add(24*time.Hour)))
	}
	for i := range 3 {
		over = append(over, x.Session(t, fmt.Sprint("acme.user", i), 0, began, began.Add(24*time.Hour+time.Second)))
	}
	x.Session(t, "acme.other", 0, now(), now().Add(24*time.Hour))
	extra := x.Session(t, "acme.other", 1, now().Add(-time.Minute), now().Add(24*time.Hour))
	require.NoError(t, x.Hook.Sweep(t.Context()))
	sleep(time.Minute)
	require.NoError(t, x.Hook.Sweep(t.Context())) // the settings are applied

	for _, s := range damaged {
		damage(s.ID)
	}
	sleep(time.Hour)
	err := x.Hook.Sweep(t.Context())
	require.ErrorIs(t, err, store.ErrUnreadable)
	require.ErrorContains(t, err, damaged[0].ID)
	require.Less(t, len(strings.Split(err.Error(), "\n")), 120, "however many there are")
	for _, s := range over {
		require.Equal(t, policy.ReasonActiveLimit, x.Ended(t, s.ID).Reason)
	}

	settings = hooktest.Limits(48*time.Hour, 0, 1, policy.EndOldest)
	x.Hook.Changed("acme")
	require.ErrorIs(t, x.Hook.Sweep(t.Context()), store.ErrUnreadable, "to them the settings are not applied")
	require.Equal(t, policy.ReasonPolicyChange, x.Ended(t, extra.ID).Reason)
	sleep(time.Minute)
	require.ErrorIs(t, x.Hook.Sweep(t.Context()), store.ErrUnreadable)
	mend()
	sleep(2 * time.Hour)
	require.NoError(t, x.Hook.Sweep(t.Context()))
	for i, s := range damaged {
		if end := x.Ended(t, s.ID); i%2 == 0 {
			require.Equal(t, policy.ReasonPolicyChange, end.Reason)
		} else {
			require.Nil(t, end)
		}
	}
}

// A sign-out beside a session that cannot be read is not taken for the user's last one:
// the storage would end that one's tokens too, and it may be live.
func TestASignOutBesideASessionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	sessions, damage, mend := damageable(t)
	s := hooktest.Start(t, hooktest.Limits(8*time.Hour, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		p.Store = sessions
		o.InMemory = true
	})
	broken, leaving := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
	damage(s.SID(t, optest.Web, broken))
	require.Less(t, s.Browser().EndSession(url.Values{"id_token_hint": {leaving.IDToken()}}).Status, 400)
	hooktest.RefusedFor(t, s.Refresh(optest.Web, leaving.RefreshToken()), policy.ReasonLogout)
	mend()
	hooktest.OK(t, s.Refresh(optest.Web, broken.RefreshToken()))
}

// Of a user with a session that cannot be read: the others go on, nobody is admitted
// while the cap cannot be counted, and an end of all ends what there is, now and when it
// is mended.
func TestAUserWithASessionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	sessions, damage, mend := damageable(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s := hooktest.Start(t, hooktest.Limits(0, time.Hour, 5, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		p.Store, p.Now = sessions, now
		o.InMemory = true
	})
	broken, other, leaving := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
	bobs := s.Login(optest.Web, "bob")
	brokenSID, otherSID := s.SID(t, optest.Web, broken), s.SID(t, optest.Web, other)
	damage(brokenSID)

	// Nobody knows whether it goes on: not a word of an end.
	for _, r := range []optest.Reply{s.Refresh(optest.Web, broken.RefreshToken()), s.Introspect(optest.Web, broken.AccessToken()), s.Userinfo(broken.AccessToken())} {
		require.Equal(t, http.StatusServiceUnavailable, r.Status, "%s", r.Body)
		require.NotEmpty(t, r.Header.Get("Retry-After"))
	}
	unavailable := s.Seen(provider.EventUnavailable)
	require.NotEmpty(t, unavailable)
	require.ErrorIs(t, unavailable[len(unavailable)-1].Err, store.ErrUnreadable)
	require.ErrorContains(t, unavailable[len(unavailable)-1].Err, brokenSID)

	other = hooktest.OK(t, s.Refresh(optest.Web, other.RefreshToken()))
	before := len(s.Seen(provider.EventUnavailable))
	login := s.Browser().Login(optest.Web, "alice", nil)
	require.Empty(t, login.Code(), "the cap cannot be counted")
	require.Greater(t, len(s.Seen(provider.EventUnavailable)), before)
	s.Login(optest.Web, "bob")

	// Who signs out does so. What is left of the user is not taken for nothing.
	require.Less(t, s.Browser().EndSession(url.Values{"id_token_hint": {leaving.String("id_token")}}).Status, 500)
	hooktest.RefusedFor(t, s.Refresh(optest.Web, leaving.RefreshToken()), policy.ReasonLogout)
	other = hooktest.OK(t, s.Refresh(optest.Web, other.RefreshToken()))

	page, _, err := s.Hook.List(t.Context(), store.Filter{State: store.Unended}, "", 10)
	require.ErrorIs(t, err, store.ErrUnreadable)
	require.Len(t, page, 3)
	require.ErrorIs(t, s.Hook.Preview(t.Context(), "default", hooktest.Limits(0, time.Hour, 1, policy.EndOldest), func(store.Session, policy.Reason) {}),
		store.ErrUnreadable, "nobody knows whether it would end")

	n, err := s.Hook.EndAll(t.Context(), s.Subject("alice"), policy.ReasonAccountDisabled, "root")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	hooktest.RefusedFor(t, s.Refresh(optest.Web, other.RefreshToken()), policy.ReasonAccountDisabled)
	ended, err := s.Hook.Session(t.Context(), otherSID)
	require.NoError(t, err)
	require.Equal(t, policy.ReasonAccountDisabled, ended.End.Reason)
	hooktest.OK(t, s.Refresh(optest.Web, bobs.RefreshToken()))

	// The fence is put off, as what is due is: it stands in no other's way.
	ahead.Store(int64(2 * time.Minute))
	require.ErrorIs(t, s.Hook.Sweep(t.Context()), store.ErrUnreadable)
	fences, err := sessions.DueFences(t.Context(), now(), 10)
	require.NoError(t, err)
	require.Empty(t, fences)
	mend()
	hooktest.RefusedFor(t, s.Refresh(optest.Web, broken.RefreshToken()), policy.ReasonAccountDisabled)
	ahead.Store(int64(13 * time.Minute))
	require.NoError(t, s.Hook.Sweep(t.Context()))
	mended, err := sessions.Get(t.Context(), brokenSID)
	require.NoError(t, err)
	require.Equal(t, policy.ReasonAccountDisabled, mended.End.Reason, "in its document too")
}

// A walk comes to the accounts of those that can be read.
func TestAWalkGoesOnPastWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	s, damage, _ := damageable(t)
	x := hooktest.Tenants(t, s, hooktest.Limits(0, 0, 1, policy.EndOldest), nil)
	for _, user := range []string{"acme.alice", "beta.bob", "gamma.carol"} {
		damage(x.Session(t, user, 0, time.Now(), time.Time{}).ID)
	}
	for n := range 2 {
		x.Session(t, "delta.dan", n, time.Now(), time.Time{})
	}
	require.ErrorIs(t, x.Hook.Sweep(t.Context()), store.ErrUnreadable)
	require.Equal(t, 1, x.Unended(t, "delta"))
}

// A session that ended and cannot be read keeps its user out nowhere.
func TestAUserBesideAnEndedSessionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	sessions, damage, _ := damageable(t)
	s := hooktest.Start(t, hooktest.Limits(8*time.Hour, time.Hour, 2, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		o.Storage = optest.NewStorage()
		o.Storage.SSO = true
		p.Store = sessions
	})
	sid := s.SID(t, optest.Web, s.Login(optest.Web, "alice"))
	require.NoError(t, s.Hook.End(t.Context(), sid, policy.ReasonLogout, ""))
	damage(sid)
	s.Login(optest.Web, "alice")
	hooktest.OK(t, s.DeviceLogin(optest.Native, "alice"))
}
