package provider_test

import (
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// damageable opens a store in a file, and returns how to damage a session in it, and how
// to mend all again.
func damageable(t *testing.T) (s store.Store, damage func(id string), mend func()) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "s.db")+"?_pragma=busy_timeout(1000)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s, err = sqlitestore.New(t.Context(), db)
	require.NoError(t, err)
	exec := func(query string, args ...any) {
		t.Helper()
		result, err := db.Exec(query, args...)
		require.NoError(t, err)
		n, err := result.RowsAffected()
		require.NoError(t, err)
		require.Positive(t, n)
	}
	return s,
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
	settings := limits(24*time.Hour, 0, 0, 0)
	x := tenants(t, s, policy.Account{}, func(cfg *provider.Config) { cfg.Now, cfg.Settings = now, accountOfAll{&settings} })
	began := now().Add(-23 * time.Hour)
	var over, damaged []store.Session
	for i := range 120 { // more than a batch
		damaged = append(damaged, x.session(t, fmt.Sprint("acme.broken", i/2), i, began.Add(time.Duration(i)*time.Second), began.Add(24*time.Hour)))
	}
	for i := range 3 {
		over = append(over, x.session(t, fmt.Sprint("acme.user", i), 0, began, began.Add(24*time.Hour+time.Second)))
	}
	x.session(t, "acme.other", 0, now(), now().Add(24*time.Hour))
	extra := x.session(t, "acme.other", 1, now().Add(-time.Minute), now().Add(24*time.Hour))
	require.NoError(t, x.hook.Sweep(t.Context()))
	sleep(time.Minute)
	require.NoError(t, x.hook.Sweep(t.Context())) // the settings are applied

	for _, s := range damaged {
		damage(s.ID)
	}
	sleep(time.Hour)
	err := x.hook.Sweep(t.Context())
	require.ErrorIs(t, err, store.ErrUnreadable)
	require.ErrorContains(t, err, damaged[0].ID)
	require.Less(t, len(strings.Split(err.Error(), "\n")), 120, "however many there are")
	for _, s := range over {
		require.Equal(t, policy.ReasonActiveLimit, x.ended(t, s.ID).Reason)
	}

	settings = limits(48*time.Hour, 0, 1, policy.EndOldest)
	x.hook.Changed("acme")
	require.ErrorIs(t, x.hook.Sweep(t.Context()), store.ErrUnreadable, "to them the settings are not applied")
	require.Equal(t, policy.ReasonPolicyChange, x.ended(t, extra.ID).Reason)
	sleep(time.Minute)
	require.ErrorIs(t, x.hook.Sweep(t.Context()), store.ErrUnreadable)
	mend()
	sleep(2 * time.Hour)
	require.NoError(t, x.hook.Sweep(t.Context()))
	for i, s := range damaged {
		if end := x.ended(t, s.ID); i%2 == 0 {
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
	s := start(t, limits(8*time.Hour, time.Hour, 0, 0), func(p *provider.Config, o *optest.Config) {
		p.Store = sessions
		o.InMemory = true
	})
	broken, leaving := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
	damage(s.sid(t, optest.Web, broken))
	require.Less(t, s.Browser().EndSession(url.Values{"id_token_hint": {leaving.IDToken()}}).Status, 400)
	refusedFor(t, s.Refresh(optest.Web, leaving.RefreshToken()), policy.ReasonLogout)
	mend()
	ok(t, s.Refresh(optest.Web, broken.RefreshToken()))
}

// Of a user with a session that cannot be read: the others go on, nobody is admitted
// while the cap cannot be counted, and an end of all ends what there is, now and when it
// is mended.
func TestAUserWithASessionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	sessions, damage, mend := damageable(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s := start(t, limits(0, time.Hour, 5, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		p.Store, p.Now = sessions, now
		o.InMemory = true
	})
	broken, other, leaving := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
	bobs := s.Login(optest.Web, "bob")
	brokenSID, otherSID := s.sid(t, optest.Web, broken), s.sid(t, optest.Web, other)
	damage(brokenSID)

	// Nobody knows whether it goes on: not a word of an end.
	for _, r := range []optest.Reply{s.Refresh(optest.Web, broken.RefreshToken()), s.Introspect(optest.Web, broken.AccessToken()), s.Userinfo(broken.AccessToken())} {
		require.Equal(t, http.StatusServiceUnavailable, r.Status, "%s", r.Body)
		require.NotEmpty(t, r.Header.Get("Retry-After"))
	}
	unavailable := s.seen(provider.EventUnavailable)
	require.NotEmpty(t, unavailable)
	require.ErrorIs(t, unavailable[len(unavailable)-1].Err, store.ErrUnreadable)
	require.ErrorContains(t, unavailable[len(unavailable)-1].Err, brokenSID)

	other = ok(t, s.Refresh(optest.Web, other.RefreshToken()))
	before := len(s.seen(provider.EventUnavailable))
	login := s.Browser().Login(optest.Web, "alice", nil)
	require.Empty(t, login.Code(), "the cap cannot be counted")
	require.Greater(t, len(s.seen(provider.EventUnavailable)), before)
	s.Login(optest.Web, "bob")

	// Who signs out does so. What is left of the user is not taken for nothing.
	require.Less(t, s.Browser().EndSession(url.Values{"id_token_hint": {leaving.String("id_token")}}).Status, 500)
	refusedFor(t, s.Refresh(optest.Web, leaving.RefreshToken()), policy.ReasonLogout)
	other = ok(t, s.Refresh(optest.Web, other.RefreshToken()))

	page, _, err := s.hook.List(t.Context(), store.Filter{State: store.Unended}, "", 10)
	require.ErrorIs(t, err, store.ErrUnreadable)
	require.Len(t, page, 3)
	require.ErrorIs(t, s.hook.Preview(t.Context(), "default", limits(0, time.Hour, 1, policy.EndOldest), func(store.Session, policy.Reason) {}),
		store.ErrUnreadable, "nobody knows whether it would end")

	n, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	refusedFor(t, s.Refresh(optest.Web, other.RefreshToken()), policy.ReasonAccountDisabled)
	ended, err := s.hook.Session(t.Context(), otherSID)
	require.NoError(t, err)
	require.Equal(t, policy.ReasonAccountDisabled, ended.End.Reason)
	ok(t, s.Refresh(optest.Web, bobs.RefreshToken()))

	// The fence is put off, as what is due is: it stands in no other's way.
	ahead.Store(int64(2 * time.Minute))
	require.ErrorIs(t, s.hook.Sweep(t.Context()), store.ErrUnreadable)
	fences, err := sessions.DueFences(t.Context(), now(), 10)
	require.NoError(t, err)
	require.Empty(t, fences)
	mend()
	refusedFor(t, s.Refresh(optest.Web, broken.RefreshToken()), policy.ReasonAccountDisabled)
	ahead.Store(int64(13 * time.Minute))
	require.NoError(t, s.hook.Sweep(t.Context()))
	mended, err := sessions.Get(t.Context(), brokenSID)
	require.NoError(t, err)
	require.Equal(t, policy.ReasonAccountDisabled, mended.End.Reason, "in its document too")
}

// A walk comes to the accounts of those that can be read.
func TestAWalkGoesOnPastWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	s, damage, _ := damageable(t)
	x := tenants(t, s, limits(0, 0, 1, policy.EndOldest), nil)
	for _, user := range []string{"acme.alice", "beta.bob", "gamma.carol"} {
		damage(x.session(t, user, 0, time.Now(), time.Time{}).ID)
	}
	for n := range 2 {
		x.session(t, "delta.dan", n, time.Now(), time.Time{})
	}
	require.ErrorIs(t, x.hook.Sweep(t.Context()), store.ErrUnreadable)
	require.Equal(t, 1, x.unended(t, "delta"))
}
