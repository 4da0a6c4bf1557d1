package session

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// The document of a session that begins has all that is known of its login.
func TestASessionThatBegins(t *testing.T) {
	t.Parallel()
	terms := termsWith(policy.Account{}, func(t *Terms) { t.Accounts, t.Who = []string{"default"}, "fingerprint" })
	l := Login{
		Subject: alice, Client: "app", Kind: policy.Browser, SID: "sid-new", Authenticated: now.Add(-time.Hour), AMR: []string{"pwd"}, ACR: "gold",
		ClientName: "App", Address: "192.0.2.0/24", UserAgent: "agent", Mark: mark, Place: place,
	}
	want := store.Session{
		Format: store.Format, ID: "sid-new", Subject: alice, Accounts: []string{"default"}, Who: "fingerprint", Kind: policy.Browser, Client: "app", Place: place,
		Started: now.Add(-time.Hour), Authenticated: now.Add(-time.Hour), LastActivity: now, ActivityClass: policy.Interactive,
		AMR: []string{"pwd"}, ACR: "gold", ClientNames: []string{"App"}, Address: "192.0.2.0/24", UserAgent: "agent",
		ReservedUntil: now.Add(lifetime), Codes: []store.Code{{Hash: mark, Until: now.Add(lifetime)}},
	}
	require.Equal(t, want, l.Session(terms, now))

	for _, at := range []time.Time{{}, now.Add(time.Second)} { // the provider does not say, or its clock is ahead
		l.Authenticated, want.Started, want.Authenticated = at, now, now
		require.Equal(t, want, l.Session(terms, now))
	}

	l.Authenticated, l.Mark, l.NoTokens = now.Add(-time.Hour), nil, true
	want.Started, want.Authenticated, want.Codes = l.Authenticated, l.Authenticated, nil
	want.Grants = []store.Grant{{
		ID: AccessGrantID("app", l.Authenticated, ""), Client: "app", Authenticated: l.Authenticated, Rotated: now, Generation: uint64(now.UnixMicro()),
	}}
	require.Equal(t, want, l.Session(terms, now))

	l.NoTokens, l.Parent = false, &store.Session{ID: "sid-p", Subject: store.Subject{Issuer: alice.Issuer, ID: "bob"}}
	want.Grants, want.Parent, want.Actor, want.Started = nil, "sid-p", "bob", now
	require.Equal(t, want, l.Session(terms, now))

	l.Parent, l.Adopted, l.Grants = nil, true, []store.Grant{{ID: "grant", Client: "app"}}
	want.Parent, want.Actor, want.Started, want.Adopted, want.Grants, want.ReservedUntil = "", "", l.Authenticated, true, l.Grants, time.Time{}
	require.Equal(t, want, l.Session(terms, now))
}

// What a login changes in a session that it comes into, and nothing else.
func TestALoginThatEntersASession(t *testing.T) {
	t.Parallel()
	all := termsWith(policy.Account{Limits: policy.Limits{Activity: policy.ClassesOf(policy.Interactive, policy.Silent)}}, nil)
	prompted := termsWith(policy.Account{}, nil) // by default what is silent does not count
	held := at("sid-s", time.Hour, time.Minute)
	held.Place, held.AMR, held.ACR, held.ClientNames = place, []string{"pwd"}, "gold", []string{"One"}
	grant := store.Grant{ID: AccessGrantID("app", held.Authenticated, ""), Client: "app", Authenticated: held.Authenticated, Rotated: now, Generation: uint64(now.UnixMicro())}
	old := grant
	old.Generation = 7
	for name, x := range map[string]struct {
		terms *Terms
		login Login
		held  func(*store.Session)
		want  func(*store.Session)
	}{
		"nothing": {prompted, Login{}, func(*store.Session) {}, func(*store.Session) {}},
		"activity": {prompted, Login{Prompted: true}, func(*store.Session) {}, func(s *store.Session) {
			s.LastActivity, s.ActivityClass = now, policy.Interactive
		}},
		"silent activity": {all, Login{}, func(*store.Session) {}, func(s *store.Session) { s.LastActivity, s.ActivityClass = now, policy.Silent }},
		"new credentials": {prompted, Login{Authenticated: now, AMR: []string{"otp"}, ACR: "silver"}, func(*store.Session) {}, func(s *store.Session) {
			s.Authenticated, s.AMR, s.ACR, s.LastActivity, s.ActivityClass = now, []string{"otp"}, "silver", now, policy.Interactive
		}},
		"those that it has":            {prompted, Login{Authenticated: held.Authenticated, AMR: []string{"otp"}}, func(*store.Session) {}, func(*store.Session) {}},
		"credentials of the future":    {prompted, Login{Authenticated: now.Add(time.Microsecond), AMR: []string{"otp"}}, func(*store.Session) {}, func(*store.Session) {}},
		"a name":                       {prompted, Login{ClientName: "Two"}, func(*store.Session) {}, func(s *store.Session) { s.ClientNames = []string{"One", "Two"} }},
		"a place where none was noted": {prompted, Login{Place: otherTab}, func(s *store.Session) { s.Place = nil }, func(s *store.Session) { s.Place = otherTab }},
		"no other place":               {prompted, Login{Place: otherTab}, func(*store.Session) {}, func(*store.Session) {}},
		"a mark": {prompted, Login{Mark: mark}, func(*store.Session) {}, func(s *store.Session) {
			s.Codes = []store.Code{{Hash: mark, Until: now.Add(lifetime)}}
		}},
		"a mark that is there": {prompted, Login{Mark: mark}, func(s *store.Session) { s.Codes = []store.Code{{Hash: mark, Until: now}} }, func(*store.Session) {}},
		"a mark in a reservation": {prompted, Login{Mark: mark}, func(s *store.Session) { s.ReservedUntil = now.Add(time.Second) }, func(s *store.Session) {
			s.Codes = []store.Code{{Hash: mark, Until: now.Add(time.Second)}}
		}},
		"a mark in one that lasts longer": {prompted, Login{Mark: mark}, func(s *store.Session) { s.ReservedUntil = now.Add(time.Hour) }, func(s *store.Session) {
			s.Codes = []store.Code{{Hash: mark, Until: now.Add(lifetime)}}
		}},
		"an ID token alone": {prompted, Login{NoTokens: true}, func(*store.Session) {}, func(s *store.Session) { s.Grants = []store.Grant{grant} }},
		"another one":       {prompted, Login{NoTokens: true}, func(s *store.Session) { s.Grants = []store.Grant{old} }, func(*store.Session) {}},
		"its first secret":  {prompted, Login{Browser: &Browser{Next: next}}, func(*store.Session) {}, func(s *store.Session) { s.BrowserHash = next }},
		"its secret, shown": {prompted, Login{Browser: &Browser{Shown: shown, Next: next}}, func(s *store.Session) { s.BrowserHash = shown }, func(*store.Session) {}},
		"one more secret": {prompted, Login{Browser: &Browser{Next: next}}, func(s *store.Session) { s.BrowserHash = shown }, func(s *store.Session) {
			s.BrowserHash = append(append([]byte{}, shown...), next...)
		}},
		"no secret": {prompted, Login{Browser: &Browser{}}, func(s *store.Session) { s.BrowserHash = shown }, func(*store.Session) {}},
		"a new secret with new credentials": {prompted, Login{Authenticated: now, Browser: &Browser{Shown: shown, Next: next}},
			func(s *store.Session) { s.BrowserHash = append(append([]byte{}, shown...), otherHash...) }, func(s *store.Session) {
				s.Authenticated, s.AMR, s.ACR, s.LastActivity, s.ActivityClass, s.BrowserHash = now, nil, "", now, policy.Interactive, next
			}},
		"new credentials without a secret": {prompted, Login{Authenticated: now, Browser: &Browser{Shown: shown}}, func(s *store.Session) { s.BrowserHash = shown }, func(s *store.Session) {
			s.Authenticated, s.AMR, s.ACR, s.LastActivity, s.ActivityClass = now, nil, "", now, policy.Interactive
		}},
		"the thirteenth secret": {prompted, Login{Browser: &Browser{Next: next}}, func(s *store.Session) {
			s.BrowserHash = append(append([]byte{}, shown...), []byte(strings.Repeat(string(otherHash), maxSecrets-1))...)
		}, func(s *store.Session) {
			s.BrowserHash = append([]byte(strings.Repeat(string(otherHash), maxSecrets-1)), next...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := held.Clone()
			x.held(&got)
			want := got.Clone()
			x.want(&want)
			x.login.Client = "app"
			x.login.Enter(&got, x.terms, now)
			require.Equal(t, want, got)
		})
	}
}

var otherHash = []byte(strings.Repeat("o", 32))

// Of a place are the sessions that note it, and those of earlier versions, which noted
// none, by their IDs.
func TestTheSessionsOfAPlace(t *testing.T) {
	t.Parallel()
	l := Login{Place: place, Former: "sid-former"}
	for _, x := range []struct {
		place      []byte
		id, newest string
		want       bool
	}{
		{place, "sid-s", "", true},
		{otherTab, "sid-s", "", false},
		{otherTab, "sid-former", "sid-former", false},
		{nil, "sid-former", "", true},
		{nil, "sid-newest", "sid-newest", true},
		{nil, "sid-s", "sid-newest", false},
		{nil, "", "", false},
	} {
		s := store.Session{ID: x.id, Place: x.place}
		require.Equal(t, x.want, l.in(&s, x.newest), "%+v", x)
		require.False(t, (&Login{Former: "sid-former"}).in(&s, x.newest), "a login without a place: %+v", x)
	}
}

// A code is late from its time on, to the moment.
func TestWhenACodeIsLate(t *testing.T) {
	t.Parallel()
	l := Login{Mark: mark}
	s := store.Session{Codes: []store.Code{{Hash: mark, Until: now}}}
	require.False(t, l.Late(&s, now.Add(-1)))
	require.True(t, l.Late(&s, now))
	require.False(t, (&Login{Mark: otherTab}).Late(&s, now), "it is not listed")
}

// A list of codes forgets those that are long over, and the oldest beyond its bound.
func TestTheCodesOfASession(t *testing.T) {
	t.Parallel()
	code := func(i int, until time.Time) store.Code { return store.Code{Hash: fmt.Append(nil, i), Until: until} }
	over, recent := code(1, now.Add(-codeRemembered)), code(2, now.Add(1-codeRemembered))
	require.Equal(t, []store.Code{recent, code(3, now)}, WithCode([]store.Code{over, recent}, code(3, now), now))
	var codes []store.Code
	for i := range maxCodes + 1 {
		codes = WithCode(codes, code(i, now), now)
	}
	require.Len(t, codes, maxCodes)
	require.Equal(t, code(1, now), codes[0])

	for i := range codes {
		codes[i].Repeat, codes[i].Address = []byte("answer"), []byte("address")
	}
	without := WithoutAnswers(codes, func(c store.Code) bool { return string(c.Hash) == "2" })
	require.Equal(t, code(2, now), without[1])
	require.Equal(t, codes[0], without[0])
	require.NotEmpty(t, codes[1].Repeat, "what was passed is written to")
}

// With too many grants a revoked one goes first, then the longest unused of the same
// client, and then of all.
func TestWhichGrantMakesRoom(t *testing.T) {
	t.Parallel()
	grant := func(id, client string, rotated time.Duration) store.Grant {
		return store.Grant{ID: id, Client: client, Rotated: now.Add(-rotated)}
	}
	revoked := grant("r", "b", 0)
	revoked.Revoked = now
	ids := func(s *store.Session) (ids string) {
		for _, g := range s.Grants {
			ids += g.ID
		}
		return ids
	}
	s := store.Session{Grants: []store.Grant{grant("x", "b", 9), grant("y", "a", 2), grant("z", "a", 1), revoked}}
	for _, want := range []string{"xyz1", "xz12", "x123"} {
		PutGrant(&s, grant(want[len(want)-1:], "a", 0), 4)
		require.Equal(t, want, ids(&s))
	}
	PutGrant(&s, grant("c", "c", 0), 4)
	require.Equal(t, "123c", ids(&s))
	s.Grants[0].Unknown = map[string]json.RawMessage{"later": json.RawMessage("1")} // of a version after this one
	PutGrant(&s, grant("1", "d", 0), 4)
	require.Equal(t, "123c", ids(&s), "it takes its own place")
	require.Equal(t, "d", s.Grants[0].Client)
	require.Contains(t, s.Grants[0].Unknown, "later")
}

// The names of a session's clients: the first one and the latest stay.
func TestTheNamesOfASession(t *testing.T) {
	t.Parallel()
	require.Nil(t, WithName(nil, ""))
	require.Equal(t, []string{"a"}, WithName([]string{"a"}, "a"))
	var names []string
	for i := range maxClientNames + 2 {
		names = WithName(names, fmt.Sprint(i))
		require.LessOrEqual(t, len(names), maxClientNames)
	}
	require.Equal(t, []string{"0", "3", "4", "5", "6", "7", "8", "9", "10", "11"}, names)
}

// Tokens rest on the older one of two authentications, as stores keep times.
func TestWhatTokensRestOn(t *testing.T) {
	t.Parallel()
	s := at("sid-s", time.Hour, 0)
	for _, x := range []struct{ login, want time.Time }{
		{time.Time{}, s.Authenticated}, {now, s.Authenticated}, {s.Authenticated, s.Authenticated},
		{s.Authenticated.Add(-time.Minute + 999), s.Authenticated.Add(-time.Minute)},
	} {
		require.Equal(t, x.want, RestsOn(x.login, &s))
	}
	require.NotEqual(t, AccessGrantID("app", now, ""), AccessGrantID("app", now, "gold"))
}

// A clock that was stepped back moves no activity.
func TestActivityOfAClockSteppedBack(t *testing.T) {
	t.Parallel()
	s := at("sid-s", time.Hour, 0)
	Slide(&s, termsOf["none"].Rules, "app", now.Add(-time.Second), policy.Interactive)
	require.Equal(t, at("sid-s", time.Hour, 0), s)
}
