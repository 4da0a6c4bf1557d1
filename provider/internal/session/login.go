package session

import (
	"bytes"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A Login asks for a session.
type Login struct {
	Subject store.Subject
	Client  string      // its ID
	Kind    policy.Kind // of the session that it begins

	// Authenticated is when the user entered their credentials. Zero: the provider
	// does not say.
	Authenticated time.Time

	// How the user authenticated, and what they would recognise the session by.
	AMR                            []string
	ACR                            string
	ClientName, Address, UserAgent string

	// SID is the ID of the session that the login begins, if it begins one.
	SID string

	// Mark is what a session lists the login by; nil: it is not listed. Place is what
	// names the one session into which logins like this one come: that of the
	// provider's own session, of a service, of an exchange. Nil: there is none.
	// Former is the ID that the versions before this one gave the session of the place.
	Mark, Place []byte
	Former      string

	// Browser is the browser that the login began and came back in. Nil: it is not
	// known, or the login joins no session, as that of a native application. Unbound
	// says that it is not known, although browsers keep our cookies.
	Browser *Browser
	Unbound bool

	// Silent says that the application asked for an answer without the user
	// (prompt=none), Prompted that it did not. Neither: nobody knows. CanAsk says that
	// the user is there, and can be asked which other session to end.
	Silent, Prompted, CanAsk bool

	// First says that nothing was answered to the login before: it is in no session yet.
	// Again says that something was. Neither: nobody knows.
	First, Again bool

	// Current says that what the login rests on was shown just now, or goes on: no
	// session ended after it. Lasting says that what names the login outlives a
	// reservation that came to nothing, as a device code does.
	Current, Lasting bool

	// Outdated says that it rests on credentials that are not the user's any more: it
	// begins no session, and goes on in one that began before and was not ended then.
	Outdated bool

	// NoTokens says that the application gets an ID token and nothing else, so that no
	// grant of tokens says that it was signed in to.
	NoTokens bool

	// Adopted is a login from before the installation, with its grants: it counts, and
	// is not refused for the cap.
	Adopted bool
	Grants  []store.Grant

	// Parent is the session that token exchange makes this one from, of another
	// subject: it rests on the same authentication, and begins only if that goes on.
	Parent *store.Session
}

// Known reports whether the session that the login would begin may: its parent, if it has
// one, knows it.
func (l *Login) Known() bool { return l.Parent == nil || slices.Contains(l.Parent.Children, l.SID) }

// A Browser is what a login shows of the browser that it came back in.
type Browser struct {
	Logins [][]byte // the marks of the logins that it has under way
	Shown  []byte   // hash of the secret in its session cookie; nil: it shows none
	Next   []byte   // hash of the secret that it gets; nil: it gets none
}

// Has reports whether a session is one of this browser: its cookie says so, or a login
// that it has under way is in the session. A session without a cookie is nobody's: that of
// a command line, which signed in by the browser.
func (b *Browser) Has(s *store.Session) bool {
	return b != nil && (Holds(s, b.Shown) ||
		len(s.BrowserHash) > 0 && slices.ContainsFunc(b.Logins, func(mark []byte) bool { return CodeAt(s.Codes, mark) >= 0 }))
}

// Lists reports whether a session has taken the login in.
func (l *Login) Lists(s *store.Session) bool { return l.Mark != nil && CodeAt(s.Codes, l.Mark) >= 0 }

// Late reports whether the login's code in a session has outlived its time. Nothing
// makes that longer: not a callback that is loaded again, nor a session that was there
// before.
func (l *Login) Late(s *store.Session, now time.Time) bool {
	return l.Lists(s) && !now.Before(s.Codes[CodeAt(s.Codes, l.Mark)].Until)
}

// ForgottenBy reports whether the session that the login began does not list it any more.
func (l *Login) ForgottenBy(s *store.Session) bool { return !l.Lists(s) && dropped(s) }

// dropped reports whether a session has listed so many logins that it had to forget
// some: one that is not in its list may be one of them. Where logins are heard of at their
// redemption alone, by a provider that does without the callback, none was forgotten
// that was not redeemed: those have no time left that is longer than their use.
func dropped(s *store.Session) bool {
	return len(s.Codes) >= maxCodes && !slices.ContainsFunc(s.Codes, func(c store.Code) bool { return c.Used.Equal(c.Until) })
}

// renews reports whether the login brings a session newer credentials.
func (l *Login) renews(s *store.Session, now time.Time) bool {
	return l.Authenticated.After(s.Authenticated) && !l.Authenticated.After(now)
}

// restsOnOneOf reports whether the login rests on an authentication that a session rests
// on, or did.
func (l *Login) restsOnOneOf(s *store.Session) bool {
	return !l.Authenticated.Before(s.Started) && !l.Authenticated.After(s.Authenticated)
}

// Session is the session that the login begins.
func (l *Login) Session(t *Terms, now time.Time) store.Session {
	started := l.Authenticated
	if started.IsZero() || started.After(now) {
		started = now
	}
	s := store.Session{
		Format: store.Format, ID: l.SID, Subject: l.Subject,
		Accounts: t.Accounts, Who: t.Who, Kind: l.Kind, Client: l.Client, Place: l.Place,
		Started: started, Authenticated: started, LastActivity: now, ActivityClass: policy.Interactive,
		AMR: l.AMR, ACR: l.ACR, UserAgent: l.UserAgent, Address: l.Address,
		ClientNames: WithName(nil, l.ClientName),
		Adopted:     l.Adopted, Grants: slices.Clone(l.Grants),
	}
	if l.Parent != nil {
		s.Parent, s.Actor, s.Started = l.Parent.ID, l.Parent.Subject.ID, now
	}
	if !l.Adopted {
		s.ReservedUntil = now.Add(t.CodeLifetime)
	}
	l.list(&s, t, now)
	return s
}

// Enter takes the login in a session that there is: one that it goes on in, or joins.
// A re-authentication starts new limits for it; its slot stays the same.
func (l *Login) Enter(s *store.Session, t *Terms, now time.Time) {
	// Without new credentials a request may have been answered behind the user's back
	// (prompt=none). Where nobody knows, it counts as that.
	class := policy.Silent
	if l.Prompted {
		class = policy.Interactive
	}
	renewed := l.renews(s, now)
	if renewed {
		s.Authenticated, s.AMR, s.ACR = l.Authenticated, l.AMR, l.ACR
		class = policy.Interactive
	}
	if l.Browser != nil {
		l.Browser.Keep(s, renewed)
	}
	if s.Place == nil {
		s.Place = l.Place // of a version that noted none
	}
	Slide(s, t.Rules, l.Client, now, class)
	s.ClientNames = WithName(s.ClientNames, l.ClientName)
	l.list(s, t, now)
}

// list enters the login in the list of a session, and the application of one that is
// answered by an ID token alone: it is told of the end like those that have a grant
// (Back-Channel Logout 1.0 section 2.3). A reservation lasts no longer for it.
func (l *Login) list(s *store.Session, t *Terms, now time.Time) {
	if l.Mark != nil && !l.Lists(s) {
		until := now.Add(t.CodeLifetime)
		if !s.ReservedUntil.IsZero() && s.ReservedUntil.Before(until) {
			until = s.ReservedUntil
		}
		s.Codes = WithCode(s.Codes, store.Code{Hash: l.Mark, Until: until}, now)
	}
	if l.NoTokens {
		if id := AccessGrantID(l.Client, s.Authenticated, ""); s.Grant(id) == nil {
			PutGrant(s, store.Grant{ID: id, Client: l.Client, Authenticated: s.Authenticated, Rotated: now, Generation: uint64(now.UnixMicro())}, t.MaxGrants)
		}
	}
}

// in reports whether a session is that of the login's place.
func (l *Login) in(s *store.Session, former string) bool {
	return l.Place != nil && (bytes.Equal(s.Place, l.Place) || s.Place == nil && (s.ID == l.Former || former != "" && s.ID == former))
}
