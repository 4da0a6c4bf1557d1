package main

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// atLimit returns the flags for a provider where a user may have one session.
func atLimit(t *testing.T, action string) []string {
	t.Helper()
	dir, args := folder(t)
	return append(args, "-settings", put(t, dir, "settings.yaml", "accounts: {default: {concurrent: 1, at_limit: "+action+"}}\n"))
}

// The second sign-in at cap 1 is asked, ends the first, and goes on.
func TestAskInTheBrowser(t *testing.T) {
	s := start(t, atLimit(t, "ask")...)
	a := s.app("web")
	first, token := s.login(a)
	b := newBrowser(t)
	p := b.signIn(b.get(a.url()), "alice", alicePassword)
	require.Equal(t, http.StatusForbidden, p.status, p.body)
	require.Contains(t, p.body, "You have too many sign-ins")
	p = b.submit(p, nil) // with the one check box that there is
	require.NotEmpty(t, p.params.Get("code"), "%d %s", p.status, p.body)
	require.Equal(t, "state-1", p.params.Get("state"))
	_, err := a.refresh(t, token)
	require.ErrorContains(t, err, "ended_by_user: ")
	require.Contains(t, first.get(s.issuer+"/").body, "You ended this sign-in from another one.")

	_, err = a.redeem(t, p.params.Get("code"))
	require.NoError(t, err)
	c := newBrowser(t)
	p = c.signIn(c.get(a.url()), "alice", alicePassword)
	p = c.submit(p, nil, "cancel")
	require.Equal(t, "access_denied", p.params.Get("error"))
	require.Contains(t, p.params.Get("error_description"), "used=1 max=1;")
	require.Equal(t, "state-1", p.params.Get("state"))
}

// deviceAt takes a new device to the question whether to connect it, and returns
// its code.
func (s *server) deviceAt(t *testing.T, b *browser) (p page, code string) {
	t.Helper()
	r := s.api("/device_authorization", "cli", "", url.Values{"scope": {"openid offline_access"}})
	require.Equal(t, http.StatusOK, r.status, r.body)
	p = b.submit(b.get(r.json["verification_uri_complete"].(string)), nil)
	p = b.signIn(p, "alice", alicePassword)
	require.Contains(t, p.body, "Connect this device?")
	return p, r.json["device_code"].(string)
}

// A device at the cap: its user is asked on the verification page, ends the first
// session, and the device is connected; or gives it up, and it is denied.
func TestAskForADevice(t *testing.T) {
	s := start(t, atLimit(t, "ask")...)
	a := s.app("web")
	_, token := s.login(a)
	b := newBrowser(t)

	p, code := s.deviceAt(t, b)
	p = b.submit(p, nil)
	require.Equal(t, http.StatusForbidden, p.status)
	require.Contains(t, p.body, "You have too many sign-ins")
	require.Equal(t, "authorization_pending", s.poll(code).json["error"], "nothing is decided yet")
	p = b.submit(p, nil, "cancel")
	require.Contains(t, p.body, "Your device is not connected")
	require.Equal(t, "access_denied", s.poll(code).json["error"])
	_, err := a.refresh(t, token)
	require.NoError(t, err, "nothing ended")

	p, code = s.deviceAt(t, b)
	p = b.submit(p, nil)
	p = b.submit(p, nil) // with the one check box that there is
	require.Contains(t, p.body, "Your device is connected")
	require.Equal(t, http.StatusOK, s.poll(code).status)
	_, err = a.refresh(t, token)
	require.Error(t, err)
}

// Where the cap refuses, the page says so, and the device hears it as well.
func TestADeviceWithoutRoomIsNotCalledConnected(t *testing.T) {
	s := start(t, atLimit(t, "refuse")...)
	s.login(s.app("web"))
	b := newBrowser(t)
	p, code := s.deviceAt(t, b)
	p = b.submit(p, nil)
	require.Equal(t, http.StatusForbidden, p.status)
	require.Contains(t, p.body, "Your device is not connected")
	require.Contains(t, p.body, "The limit is 1 at a time, and you have 1.")
	require.NotContains(t, p.body, "is connected")
	r := s.poll(code)
	require.Equal(t, "access_denied", r.json["error"])
	require.Contains(t, r.json["error_description"], "concurrency: used=1 max=1")
}

// Another login may take the place between the approval and the device's next
// poll: the device is told where its user can make room.
func TestADeviceThatComesTooLateIsToldWhereToMakeRoom(t *testing.T) {
	for _, action := range []string{"ask", "refuse"} {
		t.Run(action, func(t *testing.T) {
			s := start(t, atLimit(t, action)...)
			b := newBrowser(t)
			p, code := s.deviceAt(t, b)
			require.Contains(t, b.submit(p, nil).body, "Your device is connected")
			s.login(s.app("web"))
			r := s.poll(code)
			require.Equal(t, "access_denied", r.json["error"], r.body)
			require.Contains(t, r.json["error_description"], "used=1 max=1;")
			require.Contains(t, r.json["error_description"], s.issuer+"/sessions/")
			require.Less(t, newBrowser(t).get(s.issuer+"/sessions/").status, 500)
			require.NotEqual(t, http.StatusNotFound, newBrowser(t).get(s.issuer+"/sessions/").status, "there is such a page")
		})
	}
}
