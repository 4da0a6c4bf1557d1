package providertest

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

// rules are the rules of docs/rules.md that can be seen from outside, by
// number.
func rules() []check {
	return []check{
		{name: "rule-1-racing-logins-never-exceed-the-cap", needs: all(needsCap, needsRefusal), run: racingLogins},
		{name: "rule-1-racing-logins-end-the-surplus", needs: all(needsCap, needsEviction), run: racingEvictions},
		{name: "rule-2-code-and-device-logins-share-the-cap", needs: all(needsRefresh, needsCap, needsRefusal, needsDevice, needsRevocation), run: sharedCap},
		{name: "rule-3-a-login-takes-one-slot", needs: all(needsCap), run: oneSlot},
		{name: "rule-3-a-device-login-is-one-session", needs: needsDevice, run: oneDeviceSession},
		{name: "rule-3-a-second-application-joins-the-session", needs: needsSSO, run: secondApplication},
		{name: "rule-3-a-second-application-joins-a-busy-session", waits: true, needs: all(needsRefresh, needsSSO, needsInactivity), run: busyJoin},
		{name: "rule-3-reauthentication-takes-no-slot", needs: all(needsCap, needsSSO), run: reauthentication},
		{name: "rule-4-every-id-token-has-the-same-sid", needs: needsTwo, run: stableClaims},
		{name: "rule-4-signing-out-ends-one-session", needs: all(needsEndSession, needsTwo), run: signingOut},
		{name: "rule-4-revocation-ends-one-device-session", needs: all(needsRefresh, needsRevocation, needsDevice, needsTwo), run: deviceRevocation},
		{name: "rule-4-revocation-ends-one-grant", needs: all(needsRefresh, needsRevocation, needsTwo), run: webRevocation},
		{name: "rule-4-only-the-right-client-revokes", needs: all(needsRefresh, needsRevocation), run: foreignRevocation},
		{name: "rule-5-no-token-outlives-its-session", needs: needsActive, run: tokenLifetimes},
		{name: "rule-5-the-absolute-end-does-not-move", waits: true, needs: all(needsRefresh, needsActive), run: absoluteEnd},
		{name: "rule-6-an-unused-session-ends", waits: true, needs: needsInactivity, run: idleEnd},
		{name: "rule-6-single-sign-on-does-not-revive-a-session", waits: true, needs: all(needsInactivity, needsSSO), run: idleSingleSignOn},
		{name: "rule-6-refreshing-keeps-a-session", waits: true, needs: all(needsRefresh, needsInactivity), run: keptByRefresh},
		{name: "rule-6-userinfo-keeps-a-session", waits: true, needs: all(needsRefresh, needsInactivity, needsUserinfoActivity), run: keptByUserinfo},
		{name: "rule-6-the-wrong-client-keeps-nothing", waits: true, needs: all(needsRefresh, needsInactivity), run: wrongClientKeepsNothing},
		{name: "rule-7-parallel-refreshes-get-the-same-answer", needs: all(needsGrace, needsRotation), run: parallelRefreshes},
		{name: "rule-7-a-repeat-within-the-grace-gets-the-same-answer", needs: all(needsGrace, needsRotation), run: repeated},
		{name: "rule-7-a-lost-response-is-mended", waits: true,
			needs: all(needsRotation, needsTimeForGrace, unless(func(o Off) bool { return o.LostResponse }, "LostResponse")), run: lostResponse},
		{name: "rule-7-without-lost-response-a-late-repeat-is-a-replay", waits: true,
			needs: all(needsRotation, needsTimeForGrace, needsLostResponseOff), run: lateRepeat},
		{name: "rule-7-replay-ends-that-session-only", waits: true, needs: all(needsRotation, needsTwo, needsTimeForGrace), run: replay},
		{name: "rule-7-two-refreshes-then-a-theft", waits: true, needs: all(needsRotation, needsTimeForGrace), run: voidSuccessor},
		{name: "rule-9-the-reason-stays", needs: all(needsRefresh, needsEndSession), run: reasonStays},
		{name: "rule-9-an-evicted-session-says-so", needs: all(needsCap, needsEviction), run: evictionReason},
		{name: "rule-12-mangled-tokens-are-client-errors", needs: needsTwo, run: mangledTokens},
		{name: "session_expiry-is-the-absolute-end", needs: needsActive, run: sessionExpiry},
		{name: "refresh-token-expiration-members", needs: all(needsRefresh, needsMembers), run: expirationMembers},
		{name: "refresh-token-expiration-members-are-absent-without-limits", needs: all(needsRefresh, needsMembers, needsNoLimits), run: noExpirationMembers},
	}
}

func needsLostResponseOff(k *kit) string {
	if !k.Off.LostResponse {
		return "Off.LostResponse is not set"
	}
	return ""
}

// racers is how many logins race for a cap: more than any cap that is tested
// admits.
const racers = 16

// A racer is how one of the racing logins ended.
type racer struct {
	session *session
	refused bool
	how     string
}

// race lets logins race through code and device flow, up to their first tokens.
func race(t *testing.T, k *kit, user string) []racer {
	t.Helper()
	limit, _ := k.Limits.Concurrent.Value()
	n := racers + limit
	gun := make(chan struct{})
	results := make(chan racer, n)
	var wg sync.WaitGroup
	for i := range n {
		c := []Client{k.Web, k.Device, k.Public}[i%3]
		if c.ID == k.Device.ID && k.Off.DeviceGrant {
			c = k.Web2
		}
		b := k.browser()
		login := func() (reply, string) { return k.raceByDevice(user, gun) }
		if c.ID != k.Device.ID || k.Off.DeviceGrant {
			// Up to the sign-in page before the gun, to be close together.
			at, err := b.authorize(c, nil)
			require.NoError(t, err)
			require.False(t, at.atApplication(), "a new browser is asked for credentials: %s", at)
			login = func() (reply, string) { return k.raceByCode(b, c, at, user, gun) }
		}
		wg.Go(func() {
			before := time.Now()
			r, how := login()
			result := racer{how: fmt.Sprintf("%s: %s %s", c.ID, how, r)}
			if r.ok() {
				result.session = k.session(c, user, b, r, before)
			} else {
				result.refused = r.err() == "access_denied" || r.err() == "invalid_grant"
			}
			results <- result
		})
	}
	close(gun)
	wg.Wait()
	close(results)
	var all []racer
	for r := range results {
		if r.session != nil {
			t.Cleanup(r.session.signOut)
		}
		all = append(all, r)
	}
	return all
}

func (k *kit) raceByCode(b *browser, c Client, at visit, user string, gun <-chan struct{}) (reply, string) {
	<-gun
	v, err := b.signIn(at, user)
	switch {
	case err != nil:
		return reply{}, err.Error()
	case v.code() == "":
		// As if the refusal had come from the token endpoint. With Ask a
		// page of the provider is a refusal too.
		r := reply{json: map[string]any{"error": v.err(), "error_description": v.params.Get("error_description")}}
		if k.Limits.AtLimit == policy.Ask && !v.atApplication() {
			r.json["error"] = "access_denied"
		}
		return r, v.String()
	}
	return k.redeem(c, v.code()), "code"
}

func (k *kit) raceByDevice(user string, gun <-chan struct{}) (reply, string) {
	<-gun
	code, err := k.approvedDevice(user)
	if err != nil {
		return reply{}, err.Error()
	}
	return k.poll(code), "device code"
}

func racingLogins(t *testing.T, k *kit) {
	limit, _ := k.Limits.Concurrent.Value()
	user := k.user(t)
	var won []*session
	for _, r := range race(t, k, user) {
		if r.session != nil {
			won = append(won, r.session)
			continue
		}
		require.True(t, r.refused, "neither admitted nor refused: %s", r.how)
	}
	require.Len(t, won, limit, "of %d racing logins exactly the cap is admitted", racers+limit)
	sids := map[string]bool{}
	for _, s := range won {
		s.mustLive(t)
		sids[s.sid(t)] = true
	}
	require.Len(t, sids, limit, "each is a session of its own")
	mustBeRefused(t, k, k.Web, user)
}

// mustBeRefused checks that one more login by code is refused for the cap: by
// redirect, with what the application needs to say.
func mustBeRefused(t *testing.T, k *kit, c Client, user string) {
	t.Helper()
	limit, _ := k.Limits.Concurrent.Value()
	v, err := k.browser().login(c, user, nil)
	require.NoError(t, err)
	require.Empty(t, v.code(), "a login too many was admitted")
	if k.Limits.AtLimit == policy.Ask && !v.atApplication() {
		return // the user is asked
	}
	require.Equal(t, "access_denied", v.err(), "%s", v)
	require.Equal(t, state, v.params.Get("state"))
	mustNameTheCap(t, v.params.Get("error_description"), limit)
}

func mustNameTheCap(t *testing.T, description string, limit int) {
	t.Helper()
	require.Equal(t, policy.ReasonConcurrency, reasonOf(description), "%q", description)
	require.Contains(t, description, fmt.Sprintf("used=%d", limit))
	require.Contains(t, description, fmt.Sprintf("max=%d", limit))
}

func racingEvictions(t *testing.T, k *kit) {
	limit, _ := k.Limits.Concurrent.Value()
	var live, over int
	for _, r := range race(t, k, k.user(t)) {
		if r.session == nil {
			require.True(t, r.refused, "neither admitted nor ended: %s", r.how)
			over++
			continue
		}
		if r.session.lives(t, policy.ReasonConcurrency) {
			live++
		} else {
			over++
		}
	}
	require.Equal(t, limit, live, "sessions left of %d racing logins", racers+limit)
	require.Equal(t, racers, over)
}

// lives reports whether the session lives. If not, it must have ended for the
// reason.
func (s *session) lives(t *testing.T, reason policy.Reason) bool {
	t.Helper()
	if s.k.Off.RefreshTokens {
		return s.k.userinfo(s.now.access()).ok()
	}
	r := s.refresh()
	if !r.ok() {
		mustRefuse(t, r, reason)
	}
	return r.ok()
}

// sharedCap fills the cap from both sides, and frees a slot again.
func sharedCap(t *testing.T, k *kit) {
	limit, _ := k.Limits.Concurrent.Value()
	user := k.user(t)
	var held []*session
	for i := range limit {
		if i%2 == 0 {
			held = append(held, k.startDevice(t, user))
		} else {
			held = append(held, k.start(t, k.Web, user))
		}
	}
	mustBeRefused(t, k, k.Public, user)

	code, err := k.approvedDevice(user)
	require.NoError(t, err)
	r := k.poll(code)
	require.Equal(t, http.StatusBadRequest, r.status, "%s", r)
	require.Equal(t, "access_denied", r.err(), "RFC 8628 section 3.5: the device stops polling; %s", r)
	mustNameTheCap(t, r.str("error_description"), limit)
	mustBeWellFormed(t, r)

	for _, s := range held {
		s.mustLive(t) // a refused login takes nothing from the others
	}
	require.True(t, k.revoke(k.Device, held[0].now.refresh()).ok())
	k.start(t, k.Web, user).mustLive(t) // the slot is free at once
}

// oneSlot does with a login what browsers and networks do: the callback is
// reloaded, the code is sent twice, the tokens are refreshed. Exactly the
// other slots must be left.
func oneSlot(t *testing.T, k *kit) {
	limit, _ := k.Limits.Concurrent.Value()
	user := k.user(t)
	b := k.browser()
	before := time.Now()
	v, err := b.login(k.Web, user, nil)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "%s", v)
	callback, code := v.page.Request, v.code()
	reload := func() {
		if callback.Method == http.MethodGet {
			again, err := b.get(callback.URL.String())
			require.NoError(t, err)
			require.Less(t, again.page.StatusCode, 500, "reloaded callback: %s", again)
			require.NotEqual(t, "access_denied", again.err(), "a reloaded callback is not a login: %s", again)
			if newer := again.code(); newer != "" && newer != code {
				k.pool.over(code)
				k.pool.began(newer, user)
				code = newer // a storage may void a code when the request gets another one
			}
		} else {
			t.Logf("the callback cannot be reloaded: it is a %s", callback.Method)
		}
	}
	reload()
	reload()

	// The code is sent several times at once. Which one wins is open.
	redeemed := code
	answers := make(chan reply, 3)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() { answers <- k.redeem(k.Web, redeemed) })
	}
	wg.Wait()
	close(answers)
	var won []*session
	over := false
	for r := range answers {
		if !r.ok() {
			mustRefuse(t, r, "")
			continue
		}
		s := k.redeemed(t, k.Web, user, b, r, before)
		if info := k.userinfo(r.access()); !info.ok() {
			// RFC 6749 section 4.1.2: a server should revoke what came of a
			// code that is used twice. Then the slot is free.
			s.mustBeOver(t, policy.ReasonReplay)
			over = true
		}
		won = append(won, s)
		require.Equal(t, won[0].sid(t), s.sid(t), "one code, one session")
	}
	require.NotEmpty(t, won, "no redemption of the code worked")
	reload()

	left := limit - 1
	if over {
		left = limit
	}
	others := make([]*session, 0, limit)
	for range left {
		others = append(others, k.start(t, k.Web, user))
	}
	for _, o := range others {
		o.mustLive(t)
	}
	if !k.evicts() {
		mustBeRefused(t, k, k.Web, user)
	}
	if over {
		return
	}
	if len(won) == 1 {
		won[0].mustLive(t)
		return
	}
	// RFC 6749 section 4.1.2: a code must not be used more than once. A storage
	// that does not see to that gives several refresh tokens to one grant, of
	// which one is good. That the session was not evicted can still be seen.
	t.Logf("warning: %d parallel requests got tokens for one code", len(won))
	won[0].lives(t, policy.ReasonReplay)
}

func oneDeviceSession(t *testing.T, k *kit) {
	user := k.user(t)
	before := time.Now()
	code, err := k.approvedDevice(user)
	require.NoError(t, err)
	answers := make(chan reply, 4)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() { answers <- k.poll(code) })
	}
	wg.Wait()
	close(answers)
	sids := map[string]bool{}
	for r := range answers {
		if !r.ok() { // a device code may be for one use
			require.Equal(t, http.StatusBadRequest, r.status, "%s", r)
			continue
		}
		sids[k.redeemed(t, k.Device, user, k.browser(), r, before).sid(t)] = true
	}
	require.Len(t, sids, 1, "one approval, one session")
}

func secondApplication(t *testing.T, k *kit) {
	user := k.user(t)
	s := k.start(t, k.Web, user)
	v, err := s.browser.authorize(k.Web2, nil)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "the second application needs no credentials: %s", v)
	second := k.redeemed(t, k.Web2, user, s.browser, k.redeem(k.Web2, v.code()), s.before)
	require.Equal(t, s.sid(t), second.sid(t))
	require.Equal(t, s.claims(t)["auth_time"], second.claims(t)["auth_time"])
	second.mustLive(t)
	s.mustLive(t)
}

// busyJoin joins a session that is older than the inactivity window, and was
// used all the time.
func busyJoin(t *testing.T, k *kit) {
	idle, _ := k.Limits.Inactivity.Value()
	active, hasActive := k.Limits.Active.Value()
	if hasActive && active < idle+4*time.Second {
		t.Logf("not applicable: Limits.Active is not well above Limits.Inactivity")
		return
	}
	kept(t, k, k.Web, func(t *testing.T, s *session) bool {
		for time.Since(s.after) < idle+time.Second {
			last := s.sent
			time.Sleep(idle / 4)
			r := s.refresh()
			if time.Since(last) > idle {
				return false
			}
			require.True(t, r.ok(), "%s", r)
		}
		v, err := s.browser.authorize(k.Web2, nil)
		if time.Since(s.sent) > idle {
			return false
		}
		require.NoError(t, err)
		require.NotEmpty(t, v.code(), "the second application needs no credentials: %s", v)
		second := k.redeemed(t, k.Web2, s.user, s.browser, k.redeem(k.Web2, v.code()), s.before)
		require.Equal(t, s.sid(t), second.sid(t))
		silently(t, s, nil)
		silently(t, s, url.Values{"id_token_hint": {s.now.id()}})
		return true
	})
}

// reauthentication asks for credentials again in a session while every slot is
// taken.
func reauthentication(t *testing.T, k *kit) {
	limit, _ := k.Limits.Concurrent.Value()
	user := k.user(t)
	var held []*session
	for range limit {
		held = append(held, k.start(t, k.Web, user))
	}
	s := held[0]
	again := k.startIn(t, s.browser, k.Web, user, url.Values{"prompt": {"login"}})
	require.Equal(t, s.sid(t), again.sid(t), "the session goes on")
	again.mustLive(t)
	for _, other := range held[1:] {
		other.mustLive(t)
	}
}

// stableClaims compares every ID token of a session with its first.
func stableClaims(t *testing.T, k *kit) {
	users := k.takeUsers(t, 2)
	clients := []Client{k.Web, k.Public}
	if !k.Off.DeviceGrant {
		clients = append(clients, k.Device)
	}
	sids := map[string]bool{}
	for i, c := range clients {
		var s *session
		if c.ID == k.Device.ID && !k.Off.DeviceGrant {
			s = k.startDevice(t, users[i%2])
		} else {
			s = k.start(t, c, users[i%2])
		}
		first := s.claims(t)
		sids[s.sid(t)] = true
		for range 3 {
			s.renew(t)
			if s.now.id() == "" {
				continue // OpenID Connect Core 1.0 section 12.2 leaves it out
			}
			now := s.claims(t)
			for _, name := range []string{"iss", "sub", "sid", "auth_time", "session_expiry"} {
				require.Equal(t, first[name], now[name], "%s: %s changed by a refresh", c.ID, name)
			}
		}
		require.NotZero(t, number(t, first, "auth_time"))
	}
	require.Len(t, sids, len(clients), "each login is a session of its own")
}

// twoSessions returns two sessions of one user.
func twoSessions(t *testing.T, k *kit, start func(user string) *session) (a, b *session) {
	user := k.user(t)
	return start(user), start(user)
}

func signingOut(t *testing.T, k *kit) {
	for _, c := range []Client{k.Web, k.Public} {
		ended, other := twoSessions(t, k, func(user string) *session { return k.start(t, c, user) })
		ended.mustLive(t)
		// From a browser without cookies: the hint says which session.
		_, err := k.browser().endSession(url.Values{"id_token_hint": {ended.now.id()}})
		require.NoError(t, err)
		ended.mustBeOver(t, policy.ReasonLogout)
		other.mustLive(t)
	}
}

func deviceRevocation(t *testing.T, k *kit) {
	ended, other := twoSessions(t, k, func(user string) *session { return k.startDevice(t, user) })
	ended.mustLive(t)
	require.True(t, k.revoke(k.Device, ended.now.refresh()).ok())
	ended.mustBeOver(t, policy.ReasonRevoked)
	other.mustLive(t)
	require.True(t, k.revoke(k.Device, ended.now.refresh()).ok(), "RFC 7009 section 2.2: revoking again is no error")
}

func webRevocation(t *testing.T, k *kit) {
	ended, other := twoSessions(t, k, func(user string) *session { return k.start(t, k.Web, user) })
	ended.mustLive(t)
	require.True(t, k.revoke(k.Web, ended.now.refresh()).ok())
	ended.mustBeOver(t, policy.ReasonRevoked)
	other.mustLive(t)
}

func foreignRevocation(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	for _, token := range []string{s.now.refresh(), s.now.access()} {
		r := k.revoke(k.Web2, token)
		require.True(t, r.status >= 200 && r.status < 500, "%s", r)
	}
	s.mustLive(t)
}

// tokenLifetimes checks that every token ends with the session at the latest,
// and access tokens within the inactivity window.
func tokenLifetimes(t *testing.T, k *kit) {
	user := k.user(t)
	for _, s := range []*session{k.start(t, k.Web, user), k.start(t, k.Public, user)} {
		end := number(t, s.claims(t), "session_expiry")
		for range 2 {
			require.LessOrEqual(t, number(t, s.claims(t), "exp"), end, "ID token")
			lives, ok := s.now.json["expires_in"].(float64)
			require.True(t, ok, "no expires_in: %s", s.now)
			// Both ends in whole seconds: one second of rounding.
			require.LessOrEqual(t, float64(s.sent.Unix())+lives, end+1, "access token")
			if idle, ok := k.Limits.Inactivity.Value(); ok {
				require.Less(t, lives, idle.Seconds(), "an access token must be refreshed before the session is idle")
			}
			if s.introspects() {
				r := k.introspect(s.client, s.now.access())
				if r.json["active"] == true {
					require.LessOrEqual(t, number(t, r.json, "exp"), end, "introspection: %s", r)
				}
			}
			s.renew(t)
		}
	}
}

// lastMoment is how close to its end a session may refuse to give out tokens:
// expires_in counts whole seconds, and a token that is over is none.
const lastMoment = 1100 * time.Millisecond

// absoluteEnd keeps a session as busy as possible until it is refused.
func absoluteEnd(t *testing.T, k *kit) {
	active, _ := k.Limits.Active.Value()
	s := k.start(t, k.Web, k.user(t))
	first := s.claims(t)
	step := active / 20
	if idle, ok := k.Limits.Inactivity.Value(); ok {
		step = min(step, idle/8)
	}
	deadline := time.Now().Add(active + time.Minute)
	for {
		require.True(t, time.Now().Before(deadline), "still alive long after its end")
		sent := time.Now()
		r := s.refresh()
		got := time.Now()
		if !r.ok() {
			require.False(t, got.Before(s.before.Add(active-lastMoment)), "refused %s before its end: %s", s.before.Add(active).Sub(got), r)
			mustRefuse(t, r, policy.ReasonActiveLimit)
			break
		}
		require.True(t, sent.Before(s.after.Add(active)), "refreshed %s after its end", sent.Sub(s.after.Add(active)))
		now := s.claims(t)
		for _, name := range []string{"sid", "auth_time", "session_expiry"} {
			require.Equal(t, first[name], now[name], "%s moved", name)
		}
		k.userinfo(s.now.access())
		if s.introspects() {
			k.introspect(s.client, s.now.access())
		}
		time.Sleep(step)
	}
	for time.Now().Before(s.after.Add(active)) { // what lastMoment left
		time.Sleep(10 * time.Millisecond)
	}
	s.mustBeOver(t, policy.ReasonActiveLimit)

	again := s.mustSignInAnew(t)
	require.Greater(t, number(t, again.claims(t), "session_expiry"), number(t, first, "session_expiry"))
	again.mustLive(t)
}

// mustSignInAnew checks of a session that is over that only credentials begin a
// new one in its browser, not the provider's own single sign-on.
func (s *session) mustSignInAnew(t *testing.T) *session {
	t.Helper()
	v, err := s.browser.authorize(s.client, url.Values{"prompt": {"none"}})
	require.NoError(t, err)
	mustNeedUser(t, v)
	// The provider may still think that the user is signed in. Then the first
	// request is refused, and it must know better at the next one.
	if v, err = s.browser.authorize(s.client, nil); err == nil && v.atApplication() {
		require.Equal(t, "login_required", v.err(), "%s", v)
		v, err = s.browser.authorize(s.client, nil)
	}
	require.NoError(t, err)
	require.False(t, v.atApplication(), "the user must be asked for credentials: %s", v)
	before := time.Now()
	v, err = s.browser.signIn(v, s.user)
	require.NoError(t, err)
	require.NotEmpty(t, v.code(), "%s", v)
	again := s.k.redeemed(t, s.client, s.user, s.browser, s.k.redeem(s.client, v.code()), before)
	require.NotEqual(t, s.sid(t), again.sid(t), "another session")
	return again
}

// idleSingleSignOn leaves a session alone until it is over, and is the first to
// notice, through the provider's own single sign-on.
func idleSingleSignOn(t *testing.T, k *kit) {
	idle, _ := k.Limits.Inactivity.Value()
	s := k.start(t, k.Web, k.user(t))
	time.Sleep(time.Until(s.got.Add(idle)))
	again := s.mustSignInAnew(t)
	again.mustLive(t)
	s.mustBeOver(t, policy.ReasonInactivity)
}

func idleEnd(t *testing.T, k *kit) {
	idle, _ := k.Limits.Inactivity.Value()
	s := k.start(t, k.Web, k.user(t))
	time.Sleep(time.Until(s.got.Add(idle)))
	if !k.Off.RefreshTokens {
		mustRefuse(t, s.refresh(), policy.ReasonInactivity)
	}
	s.mustBeOver(t, policy.ReasonInactivity)
}

// attempts is how often a test with a time to keep is tried on a machine that
// is too busy to keep it.
const attempts = 4

// kept runs a test of a session for which time counts, and tries again with
// another one when the machine was too slow for it.
func kept(t *testing.T, k *kit, c Client, try func(t *testing.T, s *session) (inTime bool)) {
	t.Helper()
	user := k.user(t)
	for range attempts {
		s := k.start(t, c, user)
		if try(t, s) {
			return
		}
		s.signOut()
	}
	require.Fail(t, "the machine is too slow for the limits; give longer ones")
}

func keptByRefresh(t *testing.T, k *kit) {
	idle, _ := k.Limits.Inactivity.Value()
	active, hasActive := k.Limits.Active.Value()
	kept(t, k, k.Web, func(t *testing.T, s *session) bool {
		// Just before the window closes, and so often that without sliding
		// it would have closed.
		for _, wait := range []time.Duration{idle * 9 / 10, idle * 9 / 10} {
			last := s.sent // the earliest that the last activity can have been
			time.Sleep(time.Until(last.Add(wait)))
			r := s.refresh()
			late := !time.Now().Before(last.Add(idle)) || hasActive && time.Since(s.before) > active-lastMoment
			if late {
				return false
			}
			require.True(t, r.ok(), "refreshed %s after the last time, of %s allowed: %s", time.Since(last), idle, r)
		}
		return true
	})
}

func keptByUserinfo(t *testing.T, k *kit) {
	idle, _ := k.Limits.Inactivity.Value()
	active, hasActive := k.Limits.Active.Value()
	kept(t, k, k.Web, func(t *testing.T, s *session) bool {
		// Half of the window is how long access tokens live at the least of
		// its clamps; a third leaves room.
		time.Sleep(time.Until(s.sent.Add(idle / 3)))
		used := time.Now()
		info := k.userinfo(s.now.access())
		if time.Since(s.sent) >= idle/2-time.Second {
			return false
		}
		require.True(t, info.ok(), "userinfo: %s", info)
		time.Sleep(time.Until(s.got.Add(idle)))
		r := s.refresh()
		// Such activity may be written up to a sixtieth of the window late.
		late := !time.Now().Before(used.Add(idle-idle/60)) || hasActive && time.Since(s.before) > active-lastMoment
		if late {
			return false
		}
		require.True(t, r.ok(), "userinfo did not count as activity: %s", r)
		return true
	})
}

func wrongClientKeepsNothing(t *testing.T, k *kit) {
	idle, _ := k.Limits.Inactivity.Value()
	s := k.start(t, k.Web, k.user(t))
	time.Sleep(time.Until(s.sent.Add(idle * 6 / 10)))
	wrong := k.refresh(k.Web2, s.now.refresh())
	require.Equal(t, http.StatusBadRequest, wrong.status, "%s", wrong)
	require.Equal(t, "invalid_grant", wrong.err(), "%s", wrong)
	public := k.refresh(k.Public, s.now.refresh())
	require.Equal(t, "invalid_grant", public.err(), "%s", public)
	if !k.Off.ConfidentialClients {
		bad := k.Web
		bad.Secret += "-wrong"
		r := k.refresh(bad, s.now.refresh())
		require.True(t, r.status == 400 || r.status == 401, "%s", r)
	}
	time.Sleep(time.Until(s.got.Add(idle)))
	mustRefuse(t, s.refresh(), policy.ReasonInactivity)
}

func parallelRefreshes(t *testing.T, k *kit) {
	for _, c := range []Client{k.Web, k.Public} {
		kept(t, k, c, func(t *testing.T, s *session) bool {
			for range 2 {
				if !parallelRefresh(t, s) {
					return false
				}
			}
			return true
		})
	}
}

// parallelRefresh uses one refresh token ten times at once. It is not in time
// if that took longer than the grace.
func parallelRefresh(t *testing.T, s *session) (inTime bool) {
	t.Helper()
	k, before := s.k, s.now.refresh()
	began := time.Now()
	answers := make(chan reply, 10)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() { answers <- k.refresh(s.client, before) })
	}
	wg.Wait()
	close(answers)
	took := time.Since(began)
	if took >= k.grace() {
		return false
	}
	s.sent, s.got = began, time.Now()
	successors := map[string]bool{}
	for r := range answers {
		require.True(t, r.ok(), "%s", r)
		successors[r.refresh()] = true
		require.Equal(t, s.sid(t), k.claims(t, s.client, r.id())["sid"])
		s.now = r
		info := k.userinfo(r.access())
		if lives, ok := r.json["expires_in"].(float64); ok && time.Since(began) > time.Duration(lives)*time.Second {
			return false
		}
		require.True(t, info.ok(), "each access token works: %s", info)
	}
	require.Len(t, successors, 1, "all get the same refresh token")
	require.NotEqual(t, before, s.now.refresh(), "and it is a new one")
	s.mustLive(t)
	return true
}

func repeated(t *testing.T, k *kit) {
	kept(t, k, k.Web, func(t *testing.T, s *session) bool {
		first := s.now.refresh()
		s.mustRefresh(t)
		again := k.refresh(k.Web, first)
		if time.Since(s.sent) >= k.grace() {
			return false
		}
		require.True(t, again.ok(), "%s", again)
		require.Equal(t, s.now.refresh(), again.refresh())
		s.mustLive(t)
		return true
	})
}

// pass lets the grace of the newest rotation pass.
func (s *session) pass(grace time.Duration) {
	time.Sleep(time.Until(s.got.Add(grace + 50*time.Millisecond)))
}

func lostResponse(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	first := s.now.refresh()
	s.mustRefresh(t) // its answer never arrives
	lost := s.now
	s.pass(k.grace())
	r := k.refresh(k.Web, first)
	require.True(t, r.ok(), "the client tries again with what it has: %s", r)
	require.NotEqual(t, lost.refresh(), r.refresh(), "a fresh successor")
	require.NotEqual(t, first, r.refresh())
	s.now = r
	s.mustLive(t)
}

func lateRepeat(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	first := s.now.refresh()
	s.mustRefresh(t)
	s.pass(k.grace())
	mustRefuse(t, k.refresh(k.Web, first), policy.ReasonReplay)
	s.mustBeOver(t, policy.ReasonReplay)
}

func replay(t *testing.T, k *kit) {
	users := k.takeUsers(t, 2)
	var stolen, others []*session
	var spent []string
	for i, c := range []Client{k.Web, k.Public} {
		s := k.start(t, c, users[i])
		stolen, others = append(stolen, s), append(others, k.start(t, c, users[i]))
		spent = append(spent, s.now.refresh())
		s.mustRefresh(t)
		s.mustRefresh(t)
	}
	for _, s := range stolen {
		s.pass(k.grace()) // now the first token is older than what may be repeated
	}
	for i, s := range stolen {
		mustRefuse(t, k.refresh(k.other(s.client), spent[i]), "")
		s.mustLive(t) // the wrong client replays nothing

		mustRefuse(t, k.refresh(s.client, spent[i]), policy.ReasonReplay)
		s.mustBeOver(t, policy.ReasonReplay)
		others[i].mustLive(t)
	}
}

// other is an application that a token is not for.
func (k *kit) other(c Client) Client {
	if c.ID == k.Web2.ID {
		return k.Web
	}
	return k.Web2
}

// voidSuccessor lets both holders of a copied token refresh with it, one after
// the other: whoever comes second with a void token ends the session.
func voidSuccessor(t *testing.T, k *kit) {
	if k.Off.LostResponse {
		// Then the second refresh is the replay already: see lateRepeat.
		t.Logf("Off.LostResponse is set: the second refresh is refused")
	}
	s := k.start(t, k.Web, k.user(t))
	copied := s.now.refresh()
	s.mustRefresh(t)
	thiefs := s.now
	s.pass(k.grace())
	r := k.refresh(k.Web, copied)
	if k.Off.LostResponse {
		mustRefuse(t, r, policy.ReasonReplay)
	} else {
		require.True(t, r.ok(), "%s", r)
		mustRefuse(t, k.refresh(k.Web, thiefs.refresh()), policy.ReasonReplay)
		s.now = r
	}
	s.mustBeOver(t, policy.ReasonReplay)
}

func reasonStays(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	_, err := s.browser.endSession(url.Values{"id_token_hint": {s.now.id()}})
	require.NoError(t, err)
	for range 3 {
		s.mustBeOver(t, policy.ReasonLogout)
	}
}

func evictionReason(t *testing.T, k *kit) {
	limit, _ := k.Limits.Concurrent.Value()
	user := k.user(t)
	var held []*session
	for range limit + 1 {
		held = append(held, k.start(t, k.Web, user))
	}
	held[0].mustBeOver(t, policy.ReasonConcurrency) // the oldest, and the longest unused
	for _, s := range held[1:] {
		s.mustLive(t)
	}
}

func sessionExpiry(t *testing.T, k *kit) {
	active, _ := k.Limits.Active.Value()
	s := k.start(t, k.Web, k.user(t))
	claims := s.claims(t)
	end := number(t, claims, "session_expiry")
	// auth_time and session_expiry are in whole seconds: one of rounding.
	require.InDelta(t, number(t, claims, "auth_time")+active.Seconds(), end, 1)
	s.renew(t)
	require.Equal(t, end, number(t, s.claims(t), "session_expiry"))
}

// expirationMembers checks draft-ietf-oauth-refresh-token-expiration-03 section
// 6.1, on the first response and after some time.
func expirationMembers(t *testing.T, k *kit) {
	active, hasActive := k.Limits.Active.Value()
	idle, hasIdle := k.Limits.Inactivity.Value()
	s := k.start(t, k.Web, k.user(t))
	for range 3 {
		remaining, ok := s.now.json["authorization_expires_in"].(float64)
		require.Equal(t, hasActive, ok, "authorization_expires_in: %s", s.now)
		timeout, has := s.now.json["refresh_token_timeout"].(float64)
		require.Equal(t, hasIdle, has, "refresh_token_timeout: %s", s.now)
		if hasActive {
			// Counted from the sign-in to the response, both not exactly
			// known here, and rounded down.
			most := active - s.sent.Sub(s.after)
			least := active - s.got.Sub(s.before) - time.Second
			require.LessOrEqual(t, remaining, most.Seconds())
			require.GreaterOrEqual(t, remaining, least.Seconds())
		}
		if hasIdle {
			want := idle.Seconds()
			if hasActive {
				want = min(want, remaining)
				require.LessOrEqual(t, timeout, remaining)
			}
			require.InDelta(t, want, timeout, 1)
		}
		time.Sleep(100 * time.Millisecond)
		s.mustRefresh(t)
	}
}

func noExpirationMembers(t *testing.T, k *kit) {
	s := k.start(t, k.Web, k.user(t))
	s.mustRefresh(t)
	require.NotContains(t, s.now.json, "authorization_expires_in")
	require.NotContains(t, s.now.json, "refresh_token_timeout")
}
