package storetest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// full returns a session of alice with every field set, those included that no
// version knows yet.
func full() store.Session {
	s := sample.Full()
	s.ID, s.Subject = sid("full"), alice
	return s
}

// readers are the ways to read the session "full" of alice.
func (f *fixture) readers() map[string]func() store.Session {
	return map[string]func() store.Session{
		"Get":   func() store.Session { return f.get("full") },
		"Admit": func() store.Session { return f.held(alice)[0] },
		"List":  func() store.Session { return f.list(store.Filter{Subject: alice}, 10)[0] },
		"Due": func() store.Session {
			due, err := f.s.Due(f.ctx, time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC), 0, 10)
			require.NoError(f, err)
			require.Len(f, due, 1)
			return due[0]
		},
	}
}

// names differ, byte by byte, and are easily taken for one another.
var names = []string{
	"a", "A", "a ", " a", "a  ", "a\t", "a\n", "a\x00", "a\x00b", "\x00", " ",
	"\u00e9", "e\u0301", "E\u0301", "\u00c9", "\ufb01", "fi", "\u017f", "s", "\u0131", "i", "I", "\u0130", "\u212a", "k",
	"\u200b", "a\u200b", "\ufffd", "\U0001f600", "%", "_", "a%", "'", "''", "\"", "\\", "\\\\", "*", "?", "1", "01", "1.0", "1e0",
	"null", "NULL", "true", "{a}", "a.b", "a:b", "a/b",
	"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000Z", "2006-01-02 15:04:05", "2006-01-02", "0x10", "1_000", "x'61'",
}

var keptTests = []contractTest{
	{"EveryField", func(f *fixture) {
		want := full()
		over := *want.End
		want.End = nil
		want.Revision = 1
		require.NoError(f, f.s.Create(f.ctx, want, many))
		for name, read := range f.readers() {
			require.Equal(f, want, read(), name)
		}
		want.Revision = 2
		require.NoError(f, f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{want}, nil }))
		for name, read := range f.readers() {
			require.Equal(f, want, read(), name)
		}
		want.End = &over
		want = f.update(want)
		for name, read := range f.readers() {
			if name != "Admit" {
				require.Equal(f, want, read(), name)
			}
		}
	}},
	{"UnknownMembers", func(f *fixture) {
		// A newer version wrote members that this one does not know.
		s := full()
		s.End = nil
		big := json.RawMessage(`{"n":12345678901234567890.10,"deep":[[[{"k":"\u0000 é"}]]]}`)
		s.Unknown = map[string]json.RawMessage{"x_new": big}
		f.create(s)
		require.NoError(f, f.s.Admit(f.ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
			held[0].UserAgent = "changed by the older version"
			return held, nil
		}))
		got := f.get("full")
		require.Equal(f, "changed by the older version", got.UserAgent)
		require.JSONEq(f, string(big), string(got.Unknown["x_new"]))
		require.Contains(f, string(got.Unknown["x_new"]), "12345678901234567890.10", "numbers are not rounded")
		require.NotEmpty(f, got.Grants[0].Unknown)
		require.NotEmpty(f, got.Deliveries[1].Unknown)
	}},
	{"Times", func(f *fixture) {
		zone := time.FixedZone("far", -9*3600-30*60)
		s := full()
		s.Started = time.Date(1969, 12, 31, 23, 59, 59, 999999000, zone) // before 1970, and not in UTC
		s.Authenticated = time.Now()                                     // with a monotonic reading
		s.LastActivity = time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
		s.ReservedUntil, s.Due = time.Time{}, time.Date(2500, 1, 1, 0, 0, 0, 1000, zone)
		s.End, s.Grants[0].Rotated, s.Deliveries[0].Next = nil, time.Time{}, at.In(zone)
		f.create(s)
		for name, read := range f.readers() {
			got := read()
			require.Equal(f, s.Started.UTC(), got.Started, name)
			require.Equal(f, s.LastActivity, got.LastActivity, name)
			require.Equal(f, s.Due.UTC(), got.Due, name)
			require.Equal(f, at, got.Deliveries[0].Next, name)
			require.Equal(f, time.Time{}, got.ReservedUntil, name)
			require.Equal(f, time.Time{}, got.Grants[0].Rotated, name)
			require.Equal(f, got.Authenticated.UTC().Round(0), got.Authenticated, name)
			require.WithinDuration(f, s.Authenticated.Round(0), got.Authenticated, time.Microsecond, name)
		}
	}},
	{"TimeZones", func(f *fixture) {
		// Every time, on every level, is returned in UTC, whichever call wrote it.
		zone := time.FixedZone("far", 5*3600+45*60)
		want := full()
		over := *want.End
		want.End = nil
		written := func() store.Session {
			s := want.Clone()
			sample.In(&s, zone)
			return s
		}
		f.create(written())
		want.Revision = 1
		for name, read := range f.readers() {
			require.Equal(f, want, read(), name)
		}
		require.NoError(f, f.s.Admit(f.ctx, alice, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{written()}, nil }))
		want.Revision = 2
		for name, read := range f.readers() {
			require.Equal(f, want, read(), name)
		}
		want.End = &over
		f.update(written())
		want.Revision = 3
		require.Equal(f, want, f.get("full"))
		f.put(store.Document{Key: "k", At: at.In(zone)})
		d, err := f.s.Document(f.ctx, "k")
		require.NoError(f, err)
		require.Equal(f, at, d.At)
		require.Equal(f, at, f.history("k", 0, 10)[0].At)
	}},
	{"ReturnedIsTheCallers", func(f *fixture) {
		want := full()
		want.End, want.Revision = nil, 1
		f.create(want)
		for name, read := range f.readers() {
			got := read()
			sample.Overwrite(&got)
			for after, read := range f.readers() {
				require.Equal(f, want, read(), "%s, after what %s returned was changed", after, name)
			}
		}
		kept := f.get("full")
		next := kept.Clone()
		next.Grants[0].NonceHash = []byte("another")
		f.update(next)
		want.Revision = kept.Revision
		require.Equal(f, want, kept, "a write changed what was returned before")
	}},
	{"ArgumentsAreTheCallers", func(f *fixture) {
		want := full()
		want.End, want.Revision = nil, 1
		arg := want.Clone()
		require.NoError(f, f.s.Create(f.ctx, arg, many))
		sample.Overwrite(&arg)
		require.Equal(f, want, f.get("full"))

		want.UserAgent = "updated"
		arg = want.Clone()
		f.update(arg)
		sample.Overwrite(&arg)
		want.Revision = 2
		require.Equal(f, want, f.get("full"))

		var held, given []store.Session
		require.NoError(f, f.s.Admit(f.ctx, alice, func(now []store.Session, _ store.Fence) ([]store.Session, error) {
			held = now
			next := now[0].Clone()
			next.UserAgent = "admitted"
			other := want.Clone()
			other.ID = sid("other")
			given = []store.Session{next, other}
			return given, nil
		}))
		for i := range given {
			sample.Overwrite(&given[i])
		}
		sample.Overwrite(&held)
		want.UserAgent, want.Revision = "admitted", 3
		require.Equal(f, want, f.get("full"))
		require.Equal(f, want.Grants, f.get("other").Grants)

		// What decide does to held and does not return is not written.
		require.NoError(f, f.s.Admit(f.ctx, alice, func(now []store.Session, _ store.Fence) ([]store.Session, error) {
			for i := range now {
				sample.Overwrite(&now[i])
			}
			return nil, nil
		}))
		require.Equal(f, want, f.get("full"))
	}},
	{"IDs", func(f *fixture) {
		for i, name := range names {
			s := session(name, alice)
			s.UserAgent = fmt.Sprint(i)
			require.NoError(f, f.s.Create(f.ctx, s, many), "%q is taken for another one", name)
		}
		for i, name := range names {
			require.Equal(f, fmt.Sprint(i), f.get(name).UserAgent, "%q", name)
		}
		require.ElementsMatch(f, names, namesOf(f.list(store.Filter{}, 7)))
		require.IsIncreasing(f, ids(f.list(store.Filter{}, 7)), "in the order of the bytes")
		require.IsIncreasing(f, ids(f.held(alice)))
		for i, name := range names {
			s := f.get(name)
			if i%2 == 0 {
				f.update(ended(s, policy.ReasonLogout))
			} else {
				require.NoError(f, f.s.Delete(f.ctx, sid(name), s.Revision))
			}
		}
		require.Empty(f, f.held(alice))
		require.Len(f, f.list(store.Filter{State: store.Ended}, 100), (len(names)+1)/2)
	}},
	{"Subjects", func(f *fixture) {
		for i, name := range names {
			require.NoError(f, f.s.Create(f.ctx, session(fmt.Sprintf("s%d", i), store.Subject{Issuer: "i", ID: name}), many), "%q", name)
			require.NoError(f, f.s.Create(f.ctx, session(fmt.Sprintf("i%d", i), store.Subject{Issuer: name, ID: "i"}), many), "%q", name)
		}
		// Neither do issuer and name run into one another.
		f.create(session("x1", store.Subject{Issuer: "ab", ID: "c"}), session("x2", store.Subject{Issuer: "a", ID: "bc"}),
			session("x3", store.Subject{ID: "abc"}), session("x4", store.Subject{Issuer: "abc"}))
		require.Equal(f, []string{"x1"}, namesOf(f.held(store.Subject{Issuer: "ab", ID: "c"})))
		require.Equal(f, []string{"x3"}, namesOf(f.list(store.Filter{Subject: store.Subject{ID: "abc"}}, 10)))
		for i, name := range names {
			subject := store.Subject{Issuer: "i", ID: name}
			want := []string{fmt.Sprintf("s%d", i)}
			if name == "i" {
				want = []string{fmt.Sprintf("i%d", i), want[0]}
			}
			require.Equal(f, want, namesOf(f.list(store.Filter{Subject: subject}, 10)), "%q", name)
			require.Equal(f, want, namesOf(f.held(subject)), "%q", name)
		}
	}},
	{"FilterNames", func(f *fixture) {
		for i, name := range names {
			s := session(fmt.Sprintf("%03d", i), alice)
			s.Accounts, s.Client, s.Kind = []string{name}, name, policy.Kind(name)
			s.Grants = nil
			f.create(s)
		}
		for i, name := range names {
			want := []string{fmt.Sprintf("%03d", i)}
			require.Equal(f, want, namesOf(f.list(store.Filter{Account: name}, 10)), "account %q", name)
			require.Equal(f, want, namesOf(f.list(store.Filter{Client: name}, 10)), "client %q", name)
			require.Equal(f, want, namesOf(f.list(store.Filter{Kind: policy.Kind(name)}, 10)), "kind %q", name)
		}
		for _, filter := range []store.Filter{{Account: "\xff"}, {Client: "a\xff"}, {Kind: "\xff"}, {Subject: store.Subject{Issuer: "\xff"}}} {
			require.Empty(f, f.list(filter, 10))
		}
	}},
}
