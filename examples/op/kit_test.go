package main

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/curfew-oidc/curfew/provider/providertest"
)

// The kit, on this provider with its sign-on: prompt=none can succeed.
func TestKit(t *testing.T) {
	t.Parallel()
	dir, args := folder(t)
	hash, err := bcrypt.GenerateFromPassword([]byte(alicePassword), bcrypt.MinCost)
	require.NoError(t, err)
	var file strings.Builder
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprint("u", i))
		fmt.Fprintf(&file, "- {username: u%d, password_hash: %q, sub: sub-u%d}\n", i, hash, i)
	}
	put(t, dir, "users.yaml", file.String())
	settings := put(t, dir, "settings.yaml", "accounts: {default: {active: 30s, inactivity: 12s, concurrent: 3, at_limit: refuse}}")
	back, err := net.Listen("tcp", "127.0.0.1:0") // the kit closes it
	require.NoError(t, err)
	const front = "http://127.0.0.1:9999/front"
	tell(t, dir, "http://"+back.Addr().String()+"/backchannel", front)
	s := start(t, append(args, "-floor", "1s", "-settings", settings)...)

	// submit sends the first form of a page, filled in.
	submit := func(browser *http.Client, page *http.Response, fields map[string]string) (*http.Response, error) {
		body, err := io.ReadAll(page.Body)
		if err != nil {
			return nil, err
		}
		form := formTag.FindStringSubmatch(string(body))
		if form == nil {
			return nil, fmt.Errorf("no form at %s: %s", page.Request.URL, body)
		}
		values := url.Values{}
		for _, tag := range inputTag.FindAllStringSubmatch(form[2], -1) {
			if a := attributes(tag[1]); a["type"] != "submit" {
				values.Set(a["name"], html.UnescapeString(a["value"]))
			}
		}
		for name, value := range fields {
			values.Set(name, value)
		}
		target, err := page.Request.URL.Parse(attributes(form[1])["action"])
		if err != nil {
			return nil, err
		}
		return browser.PostForm(target.String(), values)
	}
	target := providertest.Target{
		Issuer: s.issuer,
		Web:    providertest.Client{ID: "web", Secret: webSecret, RedirectURI: redirectURI, PostLogoutRedirectURI: "http://127.0.0.1:9999/bye"},
		Web2:   providertest.Client{ID: "other", Secret: "other-secret", RedirectURI: redirectURI},
		Public: providertest.Client{ID: "spa", RedirectURI: redirectURI},
		Device: providertest.Client{ID: "cli"},
		Users:  names,
		SignIn: func(browser *http.Client, page *http.Response, user string) (*http.Response, error) {
			return submit(browser, page, map[string]string{"username": user, "password": alicePassword})
		},
		ApproveDevice: func(browser *http.Client, page *http.Response, user string) error {
			for _, fields := range []map[string]string{{}, {"username": user, "password": alicePassword}, {"action": "approve"}} {
				next, err := submit(browser, page, fields)
				if err != nil {
					return err
				}
				body, err := io.ReadAll(next.Body)
				_ = next.Body.Close() // read to the end, or failed already
				if err != nil {
					return err
				}
				next.Body = io.NopCloser(bytes.NewReader(body))
				page = next
			}
			return nil
		},
		Limits:                providertest.Limits(),
		ConfirmLogout:         providertest.ConfirmLogout,
		BackChannelLogout:     back,
		FrontChannelLogoutURI: front,
	}
	providertest.Run(t, target)
}
