package session

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// What there is to know of a login and of the sessions of its subject, each in as many
// ways as make a difference. S is the one session that the login may have to do with.
type facts struct {
	naming  string // what names the login
	seen    string // first, again, unknown
	browser string // none, unbound, bound, cookie
	silent  bool
	canAsk  bool
	auth    string // unknown, old (that of S), new, ancient
	stale   string // "", outdated, fenced (what is old is from before the fence)
	in      string // how S stands to the login: none (there is no S), other, lists, forgot, cookie, tab, place
	state   string // of S: live, reserved, lapsing, lapsed, over, almost over
	apart   bool   // S is of another kind
	other   bool   // there is another live session
	cap     string // none, refuse, evict, ask: of one session; room: of three
	ended   string // what there is among those that ended: none, lists, place, full
	looked  bool
}

const (
	coded    = "code"     // an authorization request, in a browser
	sso      = "sso"      // the same, at a provider with a session of its own
	native   = "native"   // the same, for an application that joins nothing
	device   = "device"   // a device code
	service  = "service"  // an assertion
	exchange = "exchange" // a token of another provider
)

var (
	now      = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	alice    = store.Subject{Issuer: "https://login.example.com", ID: "alice"}
	mark     = []byte("mark-of-the-login")
	place    = []byte("place-of-a-login")
	shown    = []byte(strings.Repeat("s", 32))
	next     = []byte(strings.Repeat("n", 32))
	otherTab = []byte("mark-of-a-tab-1")
)

const (
	active   = 8 * time.Hour
	lifetime = time.Minute
)

// everyFacts calls try for every combination that can be.
func everyFacts(try func(f facts)) {
	type way struct {
		naming, seen, browser string
		silent, canAsk        bool
	}
	var ways []way
	for _, naming := range []string{coded, sso, native} {
		for _, seen := range []string{"unknown", "again"} {
			ways = append(ways, way{naming, seen, "none", false, false}, way{naming, seen, "unbound", false, false})
		}
		for _, seen := range []string{"first", "again"} {
			for _, browser := range []string{"bound", "cookie"} {
				if naming == native && browser == "cookie" {
					continue
				}
				ways = append(ways, way{naming, seen, browser, true, false}, way{naming, seen, browser, false, true}, way{naming, seen, browser, false, false})
			}
		}
	}
	for _, naming := range []string{device, service, exchange} {
		ways = append(ways, way{naming, "unknown", "none", false, false})
	}
	for _, w := range ways {
		for _, auth := range []string{"unknown", "old", "new", "ancient"} {
			for _, stale := range []string{"", "outdated", "fenced"} {
				for _, in := range []string{"none", "other", "lists", "forgot", "cookie", "tab", "own tab", "place"} {
					for _, state := range []string{"live", "reserved", "lapsing", "lapsed", "over", "almost over"} {
						for _, apart := range []bool{false, true} {
							f := facts{naming: w.naming, seen: w.seen, browser: w.browser, silent: w.silent, canAsk: w.canAsk, auth: auth, stale: stale, in: in, state: state, apart: apart}
							if !f.possible() {
								continue
							}
							for _, other := range []bool{false, true} {
								for _, at := range []string{"none", "refuse", "evict", "ask", "room"} {
									f.other, f.cap, f.ended, f.looked = other, at, "none", false
									try(f)
									if l := f.login(); l.Decide(f.terms(), f.view()).Act != Look {
										continue
									}
									f.looked = true
									for _, ended := range []string{"none", "lists", "place", "full"} {
										f.ended = ended
										try(f)
									}
								}
							}
						}
					}
				}
			}
		}
	}
}

func (f *facts) possible() bool {
	marked := f.naming != service && f.naming != exchange
	switch f.in {
	case "none":
		return f.state == "live" && !f.apart
	case "lists":
		return marked && f.seen != "first" // what answered nothing yet is in no list
	case "forgot":
		return marked && f.naming != device && f.seen != "first"
	case "cookie":
		return f.browser == "cookie" || f.browser == "unbound" && f.naming == coded
	case "tab", "own tab":
		return f.browser == "bound" || f.browser == "cookie"
	case "place":
		return f.naming == sso || f.naming == service || f.naming == exchange
	}
	return true
}

func (f *facts) reserved() bool { return f.state == "reserved" || f.state == "lapsing" }
func (f *facts) over() bool     { return f.state == "over" || f.state == "lapsed" }
func (f *facts) fenced() bool {
	return f.stale == "fenced" && (f.auth == "old" || f.auth == "ancient")
}

// began is when the credentials of S were entered.
func (f *facts) began() time.Time {
	switch f.state {
	case "over":
		return now.Add(-active - time.Hour)
	case "almost over":
		return now.Add(-active + 5*time.Minute)
	}
	return now.Add(-time.Hour)
}

func (f *facts) login() *Login {
	l := &Login{
		Subject: alice, Client: "app", Kind: policy.Browser, SID: "sid-new", Outdated: f.stale == "outdated",
		Silent: f.silent, Prompted: !f.silent && (f.browser == "bound" || f.browser == "cookie"), CanAsk: f.canAsk,
		First: f.seen == "first", Again: f.seen == "again", Unbound: f.browser == "unbound", Former: "sid-former",
	}
	if f.in == "forgot" {
		l.SID = "sid-s"
	}
	if f.naming != service && f.naming != exchange {
		l.Mark = mark
	}
	if f.naming == sso || f.naming == service || f.naming == exchange {
		l.Place = place
	}
	l.Lasting = f.naming == device || f.naming == service || f.naming == exchange
	l.Current = f.naming == service
	if (f.browser == "bound" || f.browser == "cookie") && f.naming != native {
		l.Browser = &Browser{Logins: [][]byte{mark, otherTab}, Next: next}
		if f.browser == "cookie" {
			l.Browser.Shown = shown
		}
	}
	if f.browser == "unbound" && f.naming != native {
		l.Browser = &Browser{Shown: shown}
	}
	switch f.auth {
	case "old":
		l.Authenticated = f.began()
	case "new":
		l.Authenticated = now.Add(-time.Second)
	case "ancient":
		l.Authenticated = now.Add(-active - 2*time.Hour)
	}
	return l
}

func (f *facts) session() store.Session {
	s := store.Session{ID: "sid-s", Subject: alice, Kind: policy.Browser, Client: "app", Started: f.began(), Authenticated: f.began(), LastActivity: now.Add(-time.Minute)}
	if f.apart {
		s.Kind = policy.CLI
	}
	until := now.Add(30 * time.Second)
	switch f.state {
	case "reserved":
		s.ReservedUntil = now.Add(50 * time.Second)
	case "lapsing":
		s.ReservedUntil = now.Add(10 * time.Second)
	case "lapsed":
		s.ReservedUntil = now.Add(-10 * time.Second)
	}
	switch f.in {
	case "lists":
		if !s.ReservedUntil.IsZero() {
			until = s.ReservedUntil
		} else if f.state == "almost over" {
			until = now // the code is late
		}
		s.Codes = []store.Code{{Hash: mark, Until: until}}
	case "cookie":
		s.BrowserHash = shown
	case "tab":
		s.Codes, s.BrowserHash = []store.Code{{Hash: otherTab, Until: until}}, next
	case "own tab": // of a command line
		s.Codes = []store.Code{{Hash: otherTab, Until: until}}
	case "place":
		s.Place = place
	}
	return s
}

func (f *facts) terms() *Terms { return termsOf[f.cap] }

// termsOf has the terms of each cap.
var termsOf = func() map[string]*Terms {
	of := map[string]*Terms{}
	for name, c := range map[string]policy.Limits{
		"none": {}, "refuse": {Concurrent: policy.LimitTo(1), AtLimit: policy.Refuse}, "evict": {Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest},
		"ask": {Concurrent: policy.LimitTo(1), AtLimit: policy.Ask}, "room": {Concurrent: policy.LimitTo(3), AtLimit: policy.Refuse},
	} {
		c.Active, c.Inactivity = policy.LimitTo(active), policy.LimitTo(2*time.Hour)
		settings := policy.Settings{Accounts: map[string]policy.Account{"default": {Limits: c}}}
		of[name] = &Terms{
			Rules:        settings.Rules(policy.Who{User: alice.ID, Memberships: []policy.Membership{{Account: "default"}}}),
			CodeLifetime: lifetime, Remainder: 10 * time.Minute, MaxSessions: 100, MaxGrants: 10,
		}
	}
	return of
}()

func (f *facts) view() *View {
	v := &View{Now: now, Looked: f.looked}
	if f.in != "none" {
		v.Held = append(v.Held, f.session())
	}
	if f.other {
		at := now.Add(-20 * time.Minute)
		v.Held = append(v.Held, store.Session{ID: "sid-other", Subject: alice, Kind: policy.Browser, Started: at, Authenticated: at, LastActivity: at})
	}
	if f.stale == "fenced" {
		v.Fence = store.Fence{Subject: alice, At: now.Add(-30 * time.Minute), Reason: policy.ReasonEndedByAdmin}
	}
	e := store.Session{ID: "sid-ended", Subject: alice, Started: f.began(), Authenticated: f.began(), End: &store.End{At: now.Add(-10 * time.Minute), Reason: policy.ReasonLogout}}
	switch f.ended {
	case "lists":
		e.Codes = []store.Code{{Hash: mark, Until: now}}
	case "place":
		e.Place = place
	case "full":
		for i := range maxCodes {
			e.Codes = append(e.Codes, store.Code{Hash: fmt.Append(nil, i), Until: now.Add(-time.Hour)})
		}
	}
	if f.ended != "none" {
		v.Ended = []store.Session{e}
	}
	return v
}

// What the conditions of the table in docs/architecture.md mean. They are written down
// here from the facts, without the code that decides.
var conditions = map[string]func(f *facts) bool{
	"a session lists it":                 func(f *facts) bool { return f.in == "lists" && !(f.naming == device && f.state == "lapsed") },
	"that is a reservation which lapsed": func(f *facts) bool { return f.state == "lapsed" },
	"that is over":                       func(f *facts) bool { return f.state == "over" },
	"its code is late":                   func(f *facts) bool { return f.in == "lists" && f.state == "almost over" },
	"its own session forgot it":          func(f *facts) bool { return f.in == "forgot" },
	"it may have joined one before": func(f *facts) bool {
		return f.named() && (f.seen == "again" || f.seen == "unknown" && (f.browser == "unbound" || f.naming == sso))
	},
	"nobody looked at sessions that ended": func(f *facts) bool { return !f.looked },
	"one that ended lists it":              func(f *facts) bool { return f.ended == "lists" },
	"one that forgot some may have listed it": func(f *facts) bool {
		return f.ended == "full" && (f.seen == "again" || f.browser == "unbound" && f.naming != sso && f.auth == "old")
	},
	"a session is its home":                      (*facts).home,
	"its credentials are stale for that":         (*facts).staleThere,
	"too little is left of that":                 func(f *facts) bool { return f.auth == "ancient" || f.state == "almost over" && f.auth == "old" },
	"prompt=none, and nobody is signed in there": func(f *facts) bool { return f.silent && f.naming == coded && !f.tellsApart() },
	"it has a place":                             func(f *facts) bool { return f.naming == sso || f.naming == service || f.naming == exchange },
	"what it rests on does not go on":            func(f *facts) bool { return f.naming != service },
	"a session of its place is over since":       func(f *facts) bool { return f.in == "place" && f.state == "over" && f.auth != "new" },
	"a session of its place ended since":         func(f *facts) bool { return f.ended == "place" && f.auth != "new" },
	"its credentials are stale":                  func(f *facts) bool { return f.stale == "outdated" || f.fenced() },
	"they are too old": func(f *facts) bool {
		return f.auth == "ancient" || f.auth == "old" && (f.state == "over" || f.state == "almost over")
	},
	"a cap has no room":            func(f *facts) bool { return (f.cap == "refuse" || f.cap == "ask") && f.counted() > 0 },
	"it asks, and the user can be": func(f *facts) bool { return f.cap == "ask" && f.canAsk },
	"a cap evicts, and nobody knows whether the user is there": func(f *facts) bool {
		return f.cap == "evict" && f.counted() > 0 && f.browser == "unbound" && f.auth == "old" && f.in != "none" && !f.yields()
	},
	"otherwise": func(*facts) bool { return true },
}

// named reports whether an authorization code names the login.
func (f *facts) named() bool { return f.naming == coded || f.naming == sso || f.naming == native }

func (f *facts) related() bool {
	switch f.in {
	case "cookie", "tab":
		return f.naming == coded && (f.browser != "unbound" || f.auth == "old")
	case "place":
		return true
	}
	return false
}

func (f *facts) tellsApart() bool {
	return f.related() && f.in != "place" && f.apart && !f.over()
}
func (f *facts) joinable() bool { return f.related() && (f.in == "place" || !f.apart) && !f.over() }
func (f *facts) home() bool     { return f.joinable() && f.state != "lapsing" }
func (f *facts) yields() bool   { return f.joinable() && f.state == "lapsing" }

func (f *facts) staleThere() bool {
	return (f.stale == "outdated" || f.fenced()) && (f.reserved() || f.auth == "new")
}

// counted is how many sessions count beside the login.
func (f *facts) counted() (n int) {
	if f.in != "none" && !f.over() && !f.yields() {
		n++
	}
	if f.other {
		n++
	}
	return n
}

var outcomes = map[string]func(Verdict) bool{
	"go on in it":      func(v Verdict) bool { return v.Act == GoOn && v.Session == "sid-s" },
	"join it":          func(v Verdict) bool { return v.Act == Join && v.Session == "sid-s" },
	"look":             func(v Verdict) bool { return v.Act == Look },
	"ask":              func(v Verdict) bool { return v.Act == Ask },
	"begin":            func(v Verdict) bool { return v.Act == Begin },
	"refuse: late":     func(v Verdict) bool { return v.Act == Refuse && v.Refusal == Late },
	"refuse: over":     func(v Verdict) bool { return v.Act == Refuse && v.Refusal == Over },
	"refuse: ended":    func(v Verdict) bool { return v.Act == Refuse && v.Refusal == Ended && v.Session == "sid-ended" },
	"refuse: nobody":   func(v Verdict) bool { return v.Act == Refuse && v.Refusal == Nobody },
	"refuse: too many": func(v Verdict) bool { return v.Act == Refuse && v.Refusal == TooMany },
}

type row struct {
	when []string
	then string
	hits int
}

// table reads the rows of the table of admission in the document.
func table(t *testing.T) (rows []*row) {
	text, err := os.ReadFile("../../../docs/architecture.md")
	require.NoError(t, err)
	_, text2, found := strings.Cut(string(text), "| The first that holds | The login |\n|---|---|\n")
	require.True(t, found, "the table of admission is not there")
	for line := range strings.Lines(text2) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 4 {
			break
		}
		r := &row{then: strings.Trim(cells[2], " *")}
		for when := range strings.SplitSeq(strings.TrimSpace(cells[1]), "; ") {
			require.Contains(t, conditions, when)
			r.when = append(r.when, when)
		}
		require.Contains(t, outcomes, r.then)
		rows = append(rows, r)
	}
	return rows
}

func (r *row) holds(f *facts) bool {
	for _, when := range r.when {
		if !conditions[when](f) {
			return false
		}
	}
	return true
}

// The table in docs/architecture.md is what the code decides, for every combination of
// facts; and each of its rows decides some.
func TestTheTableOfAdmission(t *testing.T) {
	t.Parallel()
	rows := table(t)
	n := 0
	everyFacts(func(f facts) {
		n++
		got := f.login().Decide(f.terms(), f.view())
		for _, r := range rows {
			if !r.holds(&f) {
				continue
			}
			r.hits++
			if !outcomes[r.then](got) {
				t.Fatalf("%+v\nthe table: %s\nthe code: %+v", f, r.then, got)
			}
			return
		}
		t.Fatalf("%+v: no row holds", f)
	})
	require.Greater(t, n, 50_000)
	t.Log(n, "combinations")
	for _, r := range rows {
		require.NotZero(t, r.hits, "%v is never reached", r.when)
	}
}

// What rules 1, 2, 3, 5, 9 and 14 say of an admission holds for every combination.
func TestTheRulesOfAdmission(t *testing.T) {
	t.Parallel()
	everyFacts(func(f facts) {
		l, terms, v := f.login(), f.terms(), f.view()
		got := l.Decide(terms, v)
		fail := func(rule int, what string) { t.Fatalf("rule %d: %s\n%+v\n%+v", rule, what, f, got) }
		ending := map[string]policy.Reason{}
		for _, e := range got.End {
			ending[e.ID] = e.Reason
		}
		switch got.Act {
		case Begin:
			began := l.Session(terms, now)
			if !began.Started.Equal(l.Authenticated) && !l.Authenticated.IsZero() || began.Authenticated.After(now) {
				fail(5, "a session begins with the credentials that it rests on")
			}
			if began.ReservedUntil.IsZero() || began.ReservedUntil.After(now.Add(lifetime)) {
				fail(14, "a login that begins is a reservation of one code's lifetime")
			}
			if w := terms.Rules.Window(began.Policy(), policy.Use{}); !w.End.After(now) || v.Fence.Past(began.Started) || l.Outdated {
				fail(5, "what is over begins nothing")
			}
			live, capped := 1, map[string]int{"refuse": 1, "evict": 1, "ask": 1, "room": 3}[f.cap]
			for _, s := range v.Held {
				if _, ends := ending[s.ID]; !ends && terms.Rules.Check(now, s.Policy(), policy.Use{}).Allow {
					live++
				}
				if s.ID == l.SID && !l.Lasting {
					fail(3, "one login is one session")
				}
			}
			if capped > 0 && live > capped {
				fail(1, fmt.Sprintf("%d live sessions", live))
			}
			for id, reason := range ending {
				if reason == policy.ReasonConcurrency && f.cap != "evict" {
					fail(14, "a cap that does not evict ended "+id)
				}
				if reason == policy.ReasonAbandoned && !f.yields() && f.state != "lapsed" {
					fail(14, "a login that is none of this one's gave way: "+id)
				}
			}
			if f.home() {
				fail(3, "a login whose session is there took another slot")
			}
		case GoOn, Join:
			if len(got.End) > 0 {
				fail(3, "a login that takes no slot ended "+fmt.Sprint(got.End))
			}
			s := f.session()
			was := s.Clone()
			l.Enter(&s, terms, now)
			if s.ReservedUntil.After(was.ReservedUntil) || !s.ReservedUntil.IsZero() && was.ReservedUntil.IsZero() {
				fail(14, "a reservation was extended")
			}
			if l.Mark != nil {
				until := s.Codes[CodeAt(s.Codes, mark)].Until
				if f.in == "lists" && !until.Equal(was.Codes[CodeAt(was.Codes, mark)].Until) || until.After(now.Add(lifetime)) {
					fail(14, "a code's time was extended")
				}
			}
			if !s.Authenticated.Equal(was.Authenticated) && f.auth != "new" {
				fail(5, "limits start anew without new credentials")
			}
			if !s.Authenticated.Equal(was.Authenticated) && (f.stale == "outdated" || f.fenced()) {
				fail(9, "stale credentials started new limits")
			}
			if !s.Started.Equal(was.Started) || s.ID != was.ID || s.End != nil {
				fail(3, "another session came of it")
			}
			if f.over() {
				fail(9, "a session that is over was used")
			}
		default:
			if len(got.End) > 0 {
				fail(14, "a login that takes no session ended "+fmt.Sprint(got.End))
			}
			if (got.Act == Ask || got.Act == Refuse && (got.Refusal == TooMany || got.Refusal == Over)) && got.Decision.Reason == "" {
				fail(9, "a refusal without a reason")
			}
			if got.Act == Refuse && got.Refusal == TooMany && got.Decision.Used < got.Decision.Max {
				fail(1, "refused although there is room")
			}
			if got.Act == Ask && !f.canAsk || got.Act == Look && f.looked {
				fail(2, "it can be decided no further")
			}
		}
	})
}

// The zero verdict refuses.
func TestTheZeroVerdictRefuses(t *testing.T) {
	t.Parallel()
	require.Equal(t, Refuse, Verdict{}.Act)
}

// termsWith are terms of one account.
func termsWith(a policy.Account, change func(*Terms)) *Terms {
	who := policy.Who{User: alice.ID, Memberships: []policy.Membership{{Account: "default"}}}
	settings := policy.Settings{Accounts: map[string]policy.Account{"default": a}}
	t := &Terms{Rules: settings.Rules(who), CodeLifetime: lifetime, Remainder: 10 * time.Minute, MaxSessions: 100, MaxGrants: 10}
	if observed, ok := settings.Observed(who); ok {
		t.Observed = &observed
	}
	if change != nil {
		change(t)
	}
	return t
}

// at is a session that began some time ago, and was used since.
func at(id string, began, used time.Duration) store.Session {
	return store.Session{
		ID: id, Subject: alice, Kind: policy.Browser, Client: "app",
		Started: now.Add(-began), Authenticated: now.Add(-began), LastActivity: now.Add(-used),
	}
}

// What the facts of the table do not tell apart: equal times, several sessions of one
// browser or one authentication, and what a verdict says beside its act.
func TestTheEdgesOfAdmission(t *testing.T) {
	t.Parallel()
	browser := &Browser{Logins: [][]byte{otherTab}, Shown: shown, Next: next}
	tab, cookie := at("sid-tab", time.Hour, 0), at("sid-cookie", time.Hour, 0)
	tab.Codes, cookie.BrowserHash = []store.Code{{Hash: otherTab, Until: now.Add(time.Second)}}, shown
	tab.BrowserHash = next
	reserved := func(s store.Session, left time.Duration) store.Session {
		s.ReservedUntil = now.Add(left)
		return s
	}
	lists := func(s store.Session, until time.Duration) store.Session {
		s.Codes = []store.Code{{Hash: mark, Until: now.Add(until)}}
		return s
	}
	full := func(s store.Session) store.Session {
		for i := range maxCodes {
			s.Codes = append(s.Codes, store.Code{Hash: fmt.Append(nil, i), Until: now.Add(-time.Hour)})
		}
		return s
	}
	redeemed := func(s store.Session) store.Session {
		s.Codes[7].Used = s.Codes[7].Until
		return s
	}
	byAnother := func(s store.Session) store.Session {
		s.Client = "app-2"
		return s
	}
	ended := func(s store.Session, reason policy.Reason, since time.Duration) store.Session {
		s.Place, s.End = place, &store.End{At: now.Add(-since), Reason: reason}
		return s
	}
	of := func(kind policy.Kind, s store.Session) store.Session {
		s.Kind = kind
		return s
	}
	began := Verdict{Act: Begin, Observed: policy.Decision{Allow: true}}
	beganFor := func(id string, reason policy.Reason) Verdict {
		return Verdict{Act: Begin, Observed: policy.Decision{Allow: true}, End: []policy.Ending{{ID: id, Reason: reason}}}
	}
	tooMany := func(used, most int) Verdict {
		return Verdict{Refusal: TooMany, Decision: policy.Decision{Reason: policy.ReasonConcurrency, Used: used, Max: most}}
	}
	overAt := func(end time.Duration) Verdict {
		return over(policy.Decision{Reason: policy.ReasonActiveLimit, At: now.Add(end), Limit: active})
	}
	none, evict, refuse := termsOf["none"], termsOf["evict"], termsOf["refuse"]
	signOn := func(ago time.Duration) Login { return Login{First: true, Authenticated: now.Add(-ago)} }
	frame := Login{Unbound: true, First: true, Authenticated: now.Add(-time.Hour)}
	adopted := func(ago time.Duration) Login { return Login{Adopted: true, Authenticated: now.Add(-ago)} }
	placed := Login{Place: place, First: true, Authenticated: now.Add(-time.Hour)}
	kept := policy.Limits{Active: policy.LimitTo(active), Inactivity: policy.LimitTo(30 * time.Minute)}

	for _, x := range []struct {
		name  string
		terms *Terms
		login Login
		held  []store.Session
		ended []store.Session
		want  Verdict
	}{
		{"a code that says it is good in a reservation that lapsed", none, Login{Mark: mark, Again: true},
			[]store.Session{lists(reserved(at("sid-s", time.Hour, 0), -time.Second), time.Minute)}, nil, Verdict{Refusal: Late}},

		{"the cookie's session before that of a tab", none, Login{Browser: browser, First: true}, []store.Session{tab, cookie}, nil, Verdict{Act: Join, Session: "sid-cookie"}},
		{"the cookie's session, whichever comes first", none, Login{Browser: browser, First: true}, []store.Session{cookie, tab}, nil, Verdict{Act: Join, Session: "sid-cookie"}},
		{"half of a reservation's time", none, Login{Browser: browser, First: true}, []store.Session{reserved(tab, lifetime/2)}, nil, Verdict{Act: Join, Session: "sid-tab"}},
		{"a session of another kind keeps its cookie", none, Login{Browser: browser, First: true}, []store.Session{of(policy.CLI, cookie)}, nil,
			Verdict{Act: Begin, Observed: policy.Decision{Allow: true}, Apart: true}},

		{"a cap that does not count the session tells it apart", termsWith(policy.Account{Clients: map[string]policy.Limits{"app": {Concurrent: policy.LimitTo(2)}}}, nil),
			Login{Browser: browser, First: true}, []store.Session{byAnother(cookie)}, nil,
			Verdict{Act: Begin, Observed: policy.Decision{Allow: true}, Apart: true}},

		{"a session of codes that were listed at their redemption forgot none", none, Login{Mark: mark, Again: true},
			[]store.Session{redeemed(full(at("sid-s", time.Hour, 0)))}, []store.Session{}, began},
		{"a live session that forgot some", none, Login{Mark: mark, Again: true}, []store.Session{full(at("sid-s", time.Hour, 0))}, []store.Session{}, Verdict{Refusal: Late}},
		{"a login of its place that came to nothing", none, placed, nil, []store.Session{ended(at("sid-s", time.Hour, 0), policy.ReasonAbandoned, time.Minute)}, began},
		{"credentials from before the end", none, placed, nil, []store.Session{ended(at("sid-s", 2*time.Hour, 0), policy.ReasonLogout, time.Hour-time.Microsecond)},
			Verdict{Refusal: Ended, Session: "sid-s"}},
		{"credentials from the moment of the end", none, placed, nil, []store.Session{ended(at("sid-s", 2*time.Hour, 0), policy.ReasonLogout, time.Hour)}, began},

		{"a token from before the installation is not refused", refuse, adopted(time.Hour), []store.Session{full(at("sid-s", time.Hour, 0))}, nil, began},
		{"nor if its session is there", none, adopted(time.Hour), []store.Session{at("sid-new", time.Hour, 0)}, nil, began},
		{"whatever its age", none, adopted(2 * active), nil, nil, began},
		{"and makes room", evict, adopted(time.Hour), []store.Session{at("sid-s", time.Hour, 0)}, nil, beganFor("sid-s", policy.ReasonConcurrency)},

		{"a cap that evicts names its numbers to a frame", evict, frame, []store.Session{at("sid-s", time.Hour, 0)}, nil, tooMany(1, 1)},
		{"and those of the cap without room", termsWith(policy.Account{
			Limits: policy.Limits{Concurrent: policy.LimitTo(2), AtLimit: policy.EndOldest},
			Kinds:  map[policy.Kind]policy.Limits{policy.CLI: {Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest}},
		}, nil), frame, []store.Session{of(policy.CLI, at("sid-c", time.Hour, 0)), at("sid-s", time.Hour, 0)}, nil, tooMany(2, 2)},
		{"counting what counts", termsWith(policy.Account{Kinds: map[policy.Kind]policy.Limits{
			policy.Browser: {Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest},
		}}, nil), frame, []store.Session{
			of(policy.CLI, at("sid-c", time.Hour, 0)), at("sid-s", time.Hour, 0), reserved(at("sid-l", time.Hour, 0), -time.Second),
		}, nil, tooMany(1, 1)},
		{"the narrow one first", termsWith(policy.Account{
			Limits: policy.Limits{Concurrent: policy.LimitTo(2), AtLimit: policy.EndOldest},
			Kinds:  map[policy.Kind]policy.Limits{policy.Browser: {Concurrent: policy.LimitTo(1), AtLimit: policy.EndOldest}},
		}, nil), frame, []store.Session{of(policy.CLI, at("sid-c", time.Hour, 0)), at("sid-s", time.Hour, 0)}, nil, tooMany(1, 1)},

		{"the bound ends the longest unused", termsWith(policy.Account{}, func(t *Terms) { t.MaxSessions = 2 }), signOn(time.Second),
			[]store.Session{at("sid-a", time.Hour, time.Second), at("sid-b", time.Minute, 2*time.Second)}, nil, beganFor("sid-b", policy.ReasonConcurrency)},
		{"as many as the bound", termsWith(policy.Account{}, func(t *Terms) { t.MaxSessions = 3 }), signOn(time.Second),
			[]store.Session{at("sid-a", time.Hour, time.Second), at("sid-b", time.Minute, 2*time.Second)}, nil, began},
		{"what ends for a cap is not beyond the bound too", termsWith(policy.Account{Limits: policy.Limits{Concurrent: policy.LimitTo(2), AtLimit: policy.EndOldest}},
			func(t *Terms) { t.MaxSessions = 2 }), signOn(time.Second),
			[]store.Session{at("sid-a", time.Hour, time.Second), at("sid-b", time.Minute, 2*time.Second)}, nil, beganFor("sid-a", policy.ReasonConcurrency)},

		{"what ends for a cap is none of the longest unused", termsWith(policy.Account{Limits: policy.Limits{Concurrent: policy.LimitTo(2), AtLimit: policy.EndOldest}},
			func(t *Terms) { t.MaxSessions = 1 }), signOn(time.Second),
			[]store.Session{at("sid-a", time.Hour, 2*time.Second), at("sid-b", time.Minute, time.Second)}, nil,
			Verdict{Act: Begin, Observed: policy.Decision{Allow: true}, End: []policy.Ending{
				{ID: "sid-a", Reason: policy.ReasonConcurrency}, {ID: "sid-b", Reason: policy.ReasonConcurrency},
			}}},

		{"a policy that observes refuses nothing", termsWith(policy.Account{Observe: true, Limits: policy.Limits{Concurrent: policy.LimitTo(1), AtLimit: policy.Refuse}}, nil),
			signOn(time.Second), []store.Session{at("sid-s", time.Hour, 0)}, nil, Verdict{Act: Begin, Observed: policy.Decision{Reason: policy.ReasonConcurrency, Used: 1, Max: 1}}},
		{"and says what is too old", termsWith(policy.Account{Observe: true, Limits: kept}, nil), signOn(time.Hour), nil, nil,
			Verdict{Act: Begin, Observed: policy.Decision{Reason: policy.ReasonInactivity, At: now.Add(-30 * time.Minute), Limit: 30 * time.Minute}}},

		{"a sign-on that nothing used since", termsWith(policy.Account{Limits: kept}, nil), signOn(time.Hour), nil, nil,
			over(policy.Decision{Reason: policy.ReasonInactivity, At: now.Add(-30 * time.Minute), Limit: 30 * time.Minute})},
		{"one that another session used", termsWith(policy.Account{Limits: kept}, nil), signOn(time.Hour),
			[]store.Session{at("sid-a", time.Hour, time.Minute), at("sid-b", time.Hour, 29*time.Minute)}, nil, began},
		{"the latest use counts", termsWith(policy.Account{Limits: kept, Kinds: map[policy.Kind]policy.Limits{policy.CLI: {Inactivity: policy.LimitTo(active)}}}, nil), signOn(time.Hour),
			[]store.Session{at("sid-a", time.Hour, time.Minute), of(policy.CLI, at("sid-b", time.Hour, 50*time.Minute))}, nil, began},
		{"or rests on others than those", termsWith(policy.Account{Limits: kept}, nil), signOn(time.Hour), []store.Session{at("sid-a", 2*time.Hour, time.Minute)}, nil,
			over(policy.Decision{Reason: policy.ReasonInactivity, At: now.Add(-30 * time.Minute), Limit: 30 * time.Minute})},
		{"or that is over itself", termsWith(policy.Account{Limits: kept}, nil), signOn(time.Hour), []store.Session{reserved(at("sid-a", time.Hour, 0), -time.Second)}, nil,
			over(policy.Decision{Reason: policy.ReasonInactivity, At: now.Add(-30 * time.Minute), Limit: 30 * time.Minute})},
		{"what is made from a session that is in use", termsWith(policy.Account{Limits: kept}, nil),
			Login{Authenticated: now.Add(-time.Hour), Parent: &store.Session{ID: "sid-p", Subject: store.Subject{Issuer: alice.Issuer, ID: "bob"}}}, nil, nil, began},

		{"as much as must be left", none, signOn(active - 10*time.Minute), []store.Session{at("sid-a", active-10*time.Minute, 0)}, nil, began},
		{"less than must be left", none, signOn(active - 10*time.Minute + time.Microsecond), []store.Session{at("sid-a", active-10*time.Minute+time.Microsecond, 0)}, nil,
			overAt(10*time.Minute - time.Microsecond)},
		{"a tenth of a short limit", termsWith(policy.Account{Limits: policy.Limits{Active: policy.LimitTo(time.Hour)}}, nil), signOn(54 * time.Minute), nil, nil, began},
		{"no active limit", termsWith(policy.Account{}, nil), signOn(1000 * time.Hour), nil, nil, began},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			l := x.login
			l.Subject, l.Client, l.Kind, l.SID = alice, "app", policy.Browser, "sid-new"
			got := l.Decide(x.terms, &View{Now: now, Held: x.held, Ended: x.ended, Looked: x.ended != nil})
			require.Equal(t, x.want, got)
		})
	}
}

// A refusal of what is stale says what made it that.
func TestWhatMadeALoginStale(t *testing.T) {
	t.Parallel()
	fence := store.Fence{Subject: alice, At: now.Add(-time.Minute), Reason: policy.ReasonEndedByAdmin}
	s := at("sid-s", 2*time.Hour, 0)
	s.BrowserHash = shown
	for _, held := range [][]store.Session{nil, {s}} { // it would begin one, or renew that
		l := Login{Authenticated: now.Add(-time.Hour), First: true, Browser: &Browser{Shown: shown}, Kind: policy.Browser}
		v := &View{Now: now, Held: held, Fence: fence}
		require.Equal(t, over(policy.Decision{Reason: policy.ReasonEndedByAdmin}), l.Decide(termsOf["none"], v))
		v.Fence, l.Outdated = store.Fence{}, true
		require.Equal(t, over(policy.Decision{Reason: policy.ReasonCredentialChange}), l.Decide(termsOf["none"], v))
	}
}
