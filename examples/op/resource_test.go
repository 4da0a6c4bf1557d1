package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/middleware/resource"
)

// An API that checks this provider's tokens with package middleware: an ended
// session's token is refused there, and an outage of the store is none.
func TestResourceServer(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	api, err := resource.New(resource.Config{
		Issuer: s.issuer, Audience: "web", CacheFor: -1,
		Introspection: &resource.Introspection{ClientID: "web", ClientSecret: webSecret},
	})
	require.NoError(t, err)
	spa, err := resource.New(resource.Config{Issuer: s.issuer, Audience: "spa", InsecureAcceptPlainJWT: true})
	require.NoError(t, err)
	call := func(api *resource.Server, token string) (status int, sid string) {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		rec := httptest.NewRecorder()
		api.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			require.Equal(t, "sub-alice", resource.Subject(r.Context()))
			_ = json.NewEncoder(w).Encode(resource.SID(r.Context()))
		})).ServeHTTP(rec, req)
		_ = json.Unmarshal(rec.Body.Bytes(), &sid) // of a refusal: no string
		return rec.Code, sid
	}
	web := s.app("web")
	b, token := s.login(web)
	status, sid := call(api, token.AccessToken)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, web.claims(t, token)["sid"], sid)
	_, jwt := s.login(s.app("spa"))
	status, _ = call(spa, jwt.AccessToken)
	require.Equal(t, http.StatusOK, status)
	status, _ = call(api, jwt.AccessToken)
	require.Equal(t, http.StatusUnauthorized, status, "it is for another audience")

	require.Equal(t, http.StatusOK, b.get(s.issuer+"/end_session?id_token_hint="+token.Extra("id_token").(string)).status)
	status, _ = call(api, token.AccessToken)
	require.Equal(t, http.StatusUnauthorized, status)
}
