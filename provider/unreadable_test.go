package provider_test

import (
	"database/sql"
	"fmt"
	"net/http"
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

// damageable opens a store in a file, and returns how to damage a session in it.
func damageable(t *testing.T) (store.Store, func(id string)) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "s.db")+"?_pragma=busy_timeout(1000)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s, err := sqlitestore.New(t.Context(), db)
	require.NoError(t, err)
	return s, func(id string) {
		t.Helper()
		result, err := db.Exec(`UPDATE curfew_sessions SET document = x'00ff' WHERE id = ?`, id)
		require.NoError(t, err)
		n, err := result.RowsAffected()
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
}

// Sessions that cannot be read are told of by each sweep whose lease they come up in, and
// hold up nothing: what else is due ends, whichever it comes after, and changed settings
// are applied to everybody else.
func TestASweepGoesOnPastWhatCannotBeRead(t *testing.T) {
	s, damage := damageable(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	settings := limits(time.Hour, 0, 0, 0)
	x := tenants(t, s, policy.Account{}, func(cfg *provider.Config) { cfg.Now, cfg.Settings = now, accountOfAll{&settings} })
	began := time.Now().Add(-30 * time.Minute)
	var over, damaged []store.Session
	for i := range 120 { // more than a batch
		one := x.session(t, "acme.broken", i, began, began.Add(time.Hour))
		damage(one.ID)
		damaged = append(damaged, one)
	}
	for i := range 3 {
		over = append(over, x.session(t, fmt.Sprint("acme.user", i), 0, began, began.Add(time.Hour+time.Second)))
	}
	live := x.session(t, "acme.other", 0, time.Now(), time.Now().Add(time.Hour))
	extra := x.session(t, "acme.other", 1, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	ahead.Store(int64(31 * time.Minute))

	err := x.hook.Sweep(t.Context())
	require.ErrorIs(t, err, store.ErrUnreadable)
	require.ErrorContains(t, err, damaged[0].ID)
	require.Less(t, len(strings.Split(err.Error(), "\n")), 120, "however many there are")
	for _, one := range over {
		require.Equal(t, policy.ReasonActiveLimit, x.ended(t, one.ID).Reason)
	}
	require.Nil(t, x.ended(t, live.ID))

	settings = limits(time.Hour, 0, 1, policy.EndOldest)
	x.hook.Changed("acme")
	require.ErrorIs(t, x.hook.Sweep(t.Context()), store.ErrUnreadable, "to them the settings are not applied")
	require.Nil(t, x.ended(t, live.ID))
	require.Equal(t, policy.ReasonPolicyChange, x.ended(t, extra.ID).Reason)
}

// Of a user with a session that cannot be read: the others go on, nobody is admitted
// while the cap cannot be counted, and an end of all ends what there is, now and when it
// is mended.
func TestAUserWithASessionThatCannotBeRead(t *testing.T) {
	sessions, damage := damageable(t)
	s := start(t, limits(0, time.Hour, 5, policy.Refuse), func(p *provider.Config, o *optest.Config) {
		p.Store = sessions
		o.InMemory = true
	})
	broken, other := s.Login(optest.Web, "alice"), s.Login(optest.Web, "alice")
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

	page, _, err := s.hook.List(t.Context(), store.Filter{State: store.Unended}, "", 10)
	require.ErrorIs(t, err, store.ErrUnreadable)
	require.Len(t, page, 3)

	n, err := s.hook.EndAll(t.Context(), s.subject("alice"), policy.ReasonAccountDisabled, "root")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	refusedFor(t, s.Refresh(optest.Web, other.RefreshToken()), policy.ReasonAccountDisabled)
	ended, err := s.hook.Session(t.Context(), otherSID)
	require.NoError(t, err)
	require.Equal(t, policy.ReasonAccountDisabled, ended.End.Reason)
	ok(t, s.Refresh(optest.Web, bobs.RefreshToken()))
}
