package providertest_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/providertest"
)

// TestGoCodeInDocs in internal/doctest finds the Go code of the documents here, word for word.

// In a test of the provider: every rule, over HTTP.
func ExampleRun() {
	testServer := func(t *testing.T, startProvider func(*testing.T, provider.Config) *httptest.Server) {
		server := startProvider(t, provider.Config{
			Settings: provider.StaticSettings(providertest.Settings()), Grace: providertest.Grace,
		})
		providertest.Run(t, providertest.Target{
			Issuer: server.URL,
			Web:    providertest.Client{ID: "web", Secret: "web-secret", RedirectURI: "https://app.example.org/cb"},
			Web2:   providertest.Client{ID: "web2", Secret: "web2-secret", RedirectURI: "https://app2.example.org/cb"},
			Public: providertest.Client{ID: "spa", RedirectURI: "https://spa.example.org/cb"},
			Users:  []string{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"},
			SignIn: func(browser *http.Client, page *http.Response, user string) (*http.Response, error) {
				return browser.PostForm(server.URL+"/login", url.Values{
					"id": {page.Request.URL.Query().Get("authRequestID")}, "username": {user}, "password": {"wonderland-1"},
				})
			},
			Limits: providertest.Limits(),
			Grace:  providertest.Grace,
			Off: providertest.Off{
				SingleSignOn: true, DeviceGrant: true, EndSession: true, BackChannelLogout: true, FrontChannelLogout: true,
			},
		})
	}
	_ = testServer
}
