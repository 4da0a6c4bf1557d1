package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
)

// tell enters in the clients file how the client "web" is told of ends.
func tell(t *testing.T, dir, back, front string) {
	t.Helper()
	clients, err := os.ReadFile(filepath.Join(dir, "clients.json"))
	require.NoError(t, err)
	const none = `"backchannel_logout_uri": ""`
	require.Contains(t, string(clients), none)
	put(t, dir, "clients.json", strings.Replace(string(clients), none,
		`"backchannel_logout_uri": "`+back+`", "frontchannel_logout_uri": "`+front+`"`, 1))
}

// Whoever signs out of the provider signs out of its applications: in the clients
// file is how they are told.
func TestApplicationsAreToldOfASignOut(t *testing.T) {
	var mu sync.Mutex
	var got []string
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.PostFormValue("logout_token"))
	}))
	defer app.Close()
	told := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), got...)
	}

	dir, args := folder(t)
	u, err := url.Parse(redirectURI)
	require.NoError(t, err)
	front := u.Scheme + "://" + u.Host + "/front"
	tell(t, dir, app.URL, front)
	s := start(t, args...)
	a := s.app("web")
	var metadata map[string]any
	require.NoError(t, a.provider.Claims(&metadata))
	for _, member := range []string{"backchannel_logout_supported", "backchannel_logout_session_supported", "frontchannel_logout_supported", "frontchannel_logout_session_supported"} {
		require.Equal(t, true, metadata[member], member)
	}

	b, token := s.login(a)
	sid := a.claims(t, token)["sid"]
	p := b.get(s.issuer + "/end_session?" + url.Values{"id_token_hint": {token.Extra("id_token").(string)}, "post_logout_redirect_uri": {"http://127.0.0.1:9999/bye"}}.Encode())
	require.Equal(t, http.StatusOK, p.status, p.body)
	require.Contains(t, p.body, `<iframe src="`+front+`?`)
	require.Contains(t, p.header.Get("Content-Security-Policy"), "frame-src "+u.Scheme+"://"+u.Host+";")
	require.Len(t, told(), 1, "before the browser goes on")
	verifier := a.provider.VerifierContext(t.Context(), &oidc.Config{ClientID: "web", SupportedSigningAlgs: []string{"ES256"}})
	logout, err := verifier.VerifyLogout(t.Context(), told()[0])
	require.NoError(t, err)
	require.Equal(t, sid, logout.SessionID)
	require.Empty(t, logout.Subject, "an application that ends all sessions of a user by it would end those that began since")
	require.NotContains(t, s.stderr.String(), told()[0], "no token is logged")

	// Without a hint the user is asked, and the answer ends all there is.
	b, token = s.login(a)
	p = b.get(s.issuer + "/end_session")
	require.Contains(t, p.body, "<h1>Sign out?</h1>")
	_, err = a.refresh(t, token)
	require.NoError(t, err)
	require.Len(t, told(), 1)
}
