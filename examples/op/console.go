package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/curfew-oidc/curfew/middleware"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/console"
)

const (
	// consolePath is where administrators find the console.
	consolePath = "/console/"

	// consoleID is the client that the console is.
	consoleID = "console"

	consoleCallback = consolePath + "auth/callback"
)

// consoleSecret derives a secret of the console from the keys: the same in each
// process that has them.
func (k *keys) consoleSecret(purpose string) []byte {
	mac := hmac.New(sha256.New, k.crypto[:])
	mac.Write([]byte("examples/op console " + purpose))
	return mac.Sum(nil)
}

func (k *keys) consoleClientSecret() string {
	return base64.RawURLEncoding.EncodeToString(k.consoleSecret("client secret"))
}

// consoleClient is the client of the console, which no clients file has.
func consoleClient(issuer string, k *keys) (*client, error) {
	return newClient(clientEntry{
		ID: consoleID, Secret: k.consoleClientSecret(), Type: "web", Scopes: []string{adminScope},
		RedirectURIs: []string{issuer + consoleCallback}, PostLogoutRedirectURIs: []string{issuer + "/"},
		GrantTypes: []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken},
	})
}

// console returns the pages for administrators. They are an application of this
// provider like any other: administrators sign in to it by the code flow, and it
// may do what the access token that it gets for them allows. server answers its
// requests to the provider, without the network: the address at which browsers
// find the provider may not be one at which it finds itself.
func (p *pages) console(a *admin.Admin, server http.Handler) (http.Handler, error) {
	pages, err := console.New(console.Config{
		Admin: a,
		Authorize: func(ctx context.Context, r *http.Request, action admin.Action, account string) (admin.Actor, error) {
			s := middleware.SessionFrom(r.Context())
			if s == nil {
				return admin.Actor{}, admin.ErrUnauthenticated
			}
			return p.authorizeToken(ctx, s.AccessToken(), action, account)
		},
		Accounts: func(ctx context.Context, r *http.Request) ([]string, error) {
			s := middleware.SessionFrom(r.Context())
			if s == nil {
				return nil, admin.ErrUnauthenticated
			}
			_, record, err := p.tokenHolder(ctx, s.AccessToken())
			return p.administers(record), err
		},
		TrustedOrigins: []string{p.issuer},
		Home:           "/", SignIn: consolePath + "auth/signin?return=" + consolePath, SignOut: consolePath + "auth/signout",
	})
	if err != nil {
		return nil, err
	}
	rp, err := middleware.New(middleware.Config{
		Issuer: p.issuer, ClientID: consoleID, ClientSecret: p.storage.keys.consoleClientSecret(),
		RedirectURL: p.issuer + consoleCallback, PostLogoutURL: p.issuer + "/",
		Scopes: []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeOfflineAccess, adminScope},
		Keys:   [][]byte{p.storage.keys.consoleSecret("cookies")}, InCookies: true,
		HTTPClient: &http.Client{Transport: inside{server}, Timeout: storeTimeout * 2},
		Events:     middleware.LogEvents(p.log),
	})
	if err != nil {
		return nil, err
	}
	return rp.Handler(http.StripPrefix(strings.TrimSuffix(consolePath, "/"), pages)), nil
}

// inside is an http.RoundTripper whose requests a handler of this process
// answers.
type inside struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (t inside) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.Host, in.RequestURI, in.RemoteAddr = r.URL.Host, r.URL.RequestURI(), "127.0.0.1:0"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &insideWriter{header: http.Header{}}
	t.handler.ServeHTTP(w, in)
	_ = in.Body.Close() // the contract of RoundTrip; there is nothing to lose
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: w.sent, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()),
	}, nil
}

// An insideWriter keeps a response.
type insideWriter struct {
	header, sent http.Header
	status       int
	body         bytes.Buffer
}

func (w *insideWriter) Header() http.Header { return w.header }

func (w *insideWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.sent = status, w.header.Clone()
	}
}

func (w *insideWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
