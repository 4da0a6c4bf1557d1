package browser

import (
	"cmp"
	"crypto/subtle"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

const (
	bindingPrefix = "curfew_lb_" // of the seal

	// bindingLife is how long a login may take from the authorization request
	// to the callback to be bound: a page to sign in at may stay open all day.
	bindingLife = 24 * time.Hour

	// silentLife is how long the provider may take to answer prompt=none.
	silentLife = 2 * time.Minute

	// openPlaces is how many logins one browser may have under way, in as many
	// tabs. With one more the oldest is forgotten. Those with prompt=none, which no
	// user waits for, have silentPlaces of their own and push none of these out. With
	// IDs of auth requests that are longer than longBoundID there are half as many, or
	// all of them would not fit into 8 kB.
	openPlaces, silentPlaces, longBoundID = 12, 4, 100

	// maxForgotten bounds how many cookies one response deletes. All headers of a
	// response have to fit into 4 kB for nginx.
	maxForgotten = 12

	// maxBindings bounds how many are looked at: those of former versions too, each
	// of which has a name of its own.
	maxBindings = openPlaces + silentPlaces + 32

	// maxBoundID bounds the ID of an auth request that is bound: it is in a
	// cookie.
	maxBoundID = 256
)

// Cookies are those of one request, and those that its response sets.
type Cookies struct {
	Held []*http.Cookie
	Sent []*http.Cookie
}

// Set sets a cookie in the response: the last one of a name counts.
func (c *Cookies) Set(cookie *http.Cookie) {
	c.Sent = slices.DeleteFunc(c.Sent, func(old *http.Cookie) bool { return old.Name == cookie.Name })
	c.Sent = append(c.Sent, cookie)
}

// A Keeper seals and opens bindings.
type Keeper struct {
	Ring *seal.Ring
	Now  func() time.Time
}

// Bind keeps a binding in the browser, which has it from now on: the answer may come
// in this very response. One of an auth request with a very long ID is not kept.
func (k *Keeper) Bind(c *Cookies, issuer string, b Binding) {
	if len(b.Request) > maxBoundID {
		return
	}
	names := NamesOf(issuer)
	life := bindingLife
	if b.Silent {
		life = silentLife
	}
	cookie := names.Cookie(k.placeFor(c, issuer, names, &b), k.seal(issuer, b), int(life/time.Second))
	c.Set(cookie)
	c.Held = append(c.Held, cookie)
}

// Forget lets a binding go at once.
func (k *Keeper) Forget(c *Cookies, issuer string, b Binding) {
	c.Set(NamesOf(issuer).Cookie(b.name, "", -1))
}

// Answered lets a binding go once the code is late: until then the callback may be
// loaded again.
func (k *Keeper) Answered(c *Cookies, issuer string, b Binding, codeLifetime time.Duration) {
	b.Done = true
	c.Set(NamesOf(issuer).Cookie(b.name, k.seal(issuer, b), max(1, int(codeLifetime/time.Second))))
}

// Bindings returns the browser's bindings, the oldest first. What cannot be opened
// is no binding.
func (k *Keeper) Bindings(c *Cookies, issuer string) []Binding {
	good, _ := k.bindings(c, issuer, NamesOf(issuer))
	return good
}

// Binding returns that of one auth request.
func (k *Keeper) Binding(held []*http.Cookie, issuer, request string) (Binding, bool) {
	for _, b := range k.Bindings(&Cookies{Held: held}, issuer) {
		if b.Request == request {
			return b, true
		}
	}
	return Binding{}, false
}

// A Binding is what the browser keeps of an authorization request: sealed, so
// that nobody can make or change one.
type Binding struct {
	Request string    // the ID of the auth request
	Made    time.Time // when the application asked
	Silent  bool      // prompt=none
	MaxAge  int64     // seconds; negative: not asked for. prompt=login is 0 (OpenID Connect Core 1.0 section 3.1.2.1)
	Hint    []byte    // hash of the id_token_hint's subject; nil: there was none
	Done    bool      // the callback has answered

	name string // of the cookie that it was found in; not sealed
}

const (
	bindingSilent = 1 << iota
	bindingMaxAge
	bindingHint
	bindingDone
)

// IssuerMark tells the issuers of a host apart in what is sealed.
func IssuerMark(issuer string) string {
	sum := seal.Digest("binding", issuer)
	return string(sum[:8])
}

// HintMark is the Hint of a subject.
func HintMark(subject store.Subject) []byte {
	sum := seal.Digest("hint", subject.Issuer, subject.ID)
	return sum[:16]
}

func (k *Keeper) seal(issuer string, b Binding) string {
	var flags uint64
	if b.Silent {
		flags |= bindingSilent
	}
	if b.MaxAge >= 0 {
		flags |= bindingMaxAge
	}
	if b.Hint != nil {
		flags |= bindingHint
	}
	if b.Done {
		flags |= bindingDone
	}
	w := seal.NewRecord()
	w.Raw([]byte(IssuerMark(issuer)))
	w.Text(b.Request)
	w.Time(b.Made)
	w.Number(flags)
	if b.MaxAge >= 0 {
		w.Number(uint64(b.MaxAge))
	}
	w.Raw(b.Hint)
	return k.Ring.Seal(bindingPrefix, w.Bytes())
}

func (k *Keeper) open(issuer, text string, now time.Time) (Binding, error) {
	record, err := k.Ring.Open(bindingPrefix, text, now)
	if err != nil {
		return Binding{}, err
	}
	d := seal.ReadRecord(record)
	mark := d.Raw(8)
	b := Binding{Request: d.Text(), Made: d.Time(), MaxAge: -1}
	flags := d.Number()
	b.Silent, b.Done = flags&bindingSilent != 0, flags&bindingDone != 0
	if flags&bindingMaxAge != 0 {
		b.MaxAge = int64(min(d.Number(), math.MaxInt64))
	}
	if flags&bindingHint != 0 {
		b.Hint = []byte(d.Raw(16))
	}
	if !d.Done() || mark != IssuerMark(issuer) {
		return Binding{}, seal.ErrBroken
	}
	if age := now.Sub(b.Made); age >= bindingLife || age < -bindingLife {
		return Binding{}, seal.ErrBroken
	}
	return b, nil
}

// bindings returns the good ones among the browser's bindings, the oldest first,
// and the names of the others.
func (k *Keeper) bindings(c *Cookies, issuer string, names Names) (good []Binding, bad []string) {
	now := k.Now()
	// Browsers send the oldest cookies first: those of former versions.
	cookies := slices.SortedStableFunc(slices.Values(c.Held), func(a, b *http.Cookie) int { return cmp.Compare(len(a.Name), len(b.Name)) })
	for _, cookie := range cookies {
		if !strings.HasPrefix(cookie.Name, names.binding) {
			continue
		}
		if len(good)+len(bad) >= maxBindings {
			break // a browser of ours does not have so many
		}
		b, err := k.open(issuer, cookie.Value, now)
		if err != nil || !names.mayBe(cookie.Name, &b) {
			bad = append(bad, cookie.Name)
			continue
		}
		b.name = cookie.Name
		good = append(good, b)
	}
	slices.SortFunc(good, func(a, b Binding) int {
		if n := a.Made.Compare(b.Made); n != 0 {
			return n
		}
		return strings.Compare(a.Request, b.Request)
	})
	return good, bad
}

// placeFor returns the name for a new binding: any that is free, so that tabs which
// begin at once do not all take the same one. If none is, the Binding that is least
// needed makes place: one that the callback has answered, or the oldest. What is
// neither good nor in a place is deleted.
func (k *Keeper) placeFor(c *Cookies, issuer string, names Names, b *Binding) string {
	good, gone := k.bindings(c, issuer, names)
	places := names.places(b)
	gone = slices.DeleteFunc(gone, func(name string) bool { return slices.Contains(places, name) })
	good = slices.DeleteFunc(good, func(other Binding) bool { return other.Silent != b.Silent })
	slices.SortStableFunc(good, func(a, b Binding) int { return cmp.Compare(doneFirst(a), doneFirst(b)) })
	free := slices.DeleteFunc(places, func(name string) bool {
		return slices.ContainsFunc(good, func(b Binding) bool { return b.name == name })
	})
	for ; len(good) >= len(names.places(b)); good = good[1:] {
		if least := good[0].name; slices.Contains(names.places(b), least) {
			free = append(free, least)
		} else {
			gone = append(gone, least) // of a former version
		}
	}
	for _, name := range gone[:min(len(gone), maxForgotten)] {
		c.Set(names.Cookie(name, "", -1))
	}
	return free[rand.IntN(len(free))]
}

func doneFirst(b Binding) int {
	if b.Done {
		return 0
	}
	return 1
}

// Unmet returns why a login is not what the application asked for, or "" if it is.
// An authentication must be as new as max_age says, counted from the request: a user
// who is asked for a consent may take their time. A provider that gives no auth_time
// is believed.
func (b *Binding) Unmet(subject store.Subject, authTime time.Time) string {
	if b.Hint != nil && subtle.ConstantTimeCompare(b.Hint, HintMark(subject)) == 0 {
		return "another user is signed in than id_token_hint names"
	}
	const ages = int64(100 * 365 * 24 * time.Hour / time.Second) // no authentication is older
	if b.MaxAge < 0 || b.MaxAge >= ages || authTime.IsZero() {
		return ""
	}
	at := authTime.UTC().Truncate(time.Microsecond)
	since := b.Made.Add(-time.Duration(b.MaxAge) * time.Second)
	if at.Nanosecond() == 0 { // a provider that keeps whole seconds, as the claim auth_time does
		since = since.Truncate(time.Second)
	}
	if at.Before(since) {
		return "the user did not sign in again as prompt or max_age demands"
	}
	return ""
}
