package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// The demo users and clients are there for who starts the provider without
// files. Their passwords and secrets are known to everybody, so it does not
// start with them where others can get at it.

func demoUsers() []*user {
	return []*user{
		{Username: "alice", Password: "wonderland-1", Subject: "alice", Name: "Alice Liddell", Email: "alice@example.com"},
		{Username: "root", Password: "owner-3", Subject: "root", Roles: []string{administrator}},
	}
}

func demoClients() []clientEntry {
	code := []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
	return []clientEntry{
		{ID: "web", Secret: "web-secret", Type: "web", GrantTypes: code,
			RedirectURIs: []string{"http://127.0.0.1:9999/cb"}, PostLogoutRedirectURIs: []string{"http://127.0.0.1:9999/"},
			BackChannelLogoutURI: "http://127.0.0.1:9999/auth/backchannel"},
		{ID: "spa", Type: "spa", GrantTypes: code, AccessTokenType: "jwt",
			RedirectURIs: []string{"http://127.0.0.1:9999/spa"}, PostLogoutRedirectURIs: []string{"http://127.0.0.1:9999/"}},
		{ID: "cli", Type: "native", GrantTypes: append(code, oidc.GrantTypeDeviceCode), Scopes: []string{adminScope},
			RedirectURIs: []string{"http://127.0.0.1/cb"}},
		{ID: "admin-api", Secret: "admin-api-secret", Type: "web", GrantTypes: []oidc.GrantType{oidc.GrantTypeClientCredentials},
			Scopes: []string{adminScope}, Accounts: []string{"default"}},
	}
}

const demoUsersMessage = `
Users (password):
  alice (wonderland-1)
  root (owner-3), administrator
`

// The commands can be pasted as they are. TestDemoCommands does.
const demoClientsMessage = `
Clients: web (secret web-secret), spa, cli, admin-api (secret admin-api-secret)

Sign a command line in, the way a device does it:

  issuer=ISSUER
  field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
  device=$(curl -s -d client_id=cli -d 'scope=openid profile offline_access' $issuer/device_authorization)
  echo "$device" | field verification_uri_complete

Open the address that this prints, sign in and connect. Then:

  tokens=$(curl -s -d client_id=cli -d grant_type=urn:ietf:params:oauth:grant-type:device_code --data-urlencode "device_code=$(echo "$device" | field device_code)" $issuer/oauth/token)
  echo "$tokens"
  curl -s -H "Authorization: Bearer $(echo "$tokens" | field access_token)" $issuer/userinfo
  tokens=$(curl -s -d client_id=cli -d grant_type=refresh_token --data-urlencode "refresh_token=$(echo "$tokens" | field refresh_token)" $issuer/oauth/token)
  echo "$tokens"

Sign a browser in: open this address.

  ISSUER/authorize?client_id=web&redirect_uri=http%3A%2F%2F127.0.0.1%3A9999%2Fcb&response_type=code&scope=openid+profile+offline_access&state=1

Where it ends nobody knows of this sign-in. Copy the code from the address, and within a minute:

  printf 'code: '; read -r code; curl -s -u web:web-secret -d grant_type=authorization_code --data-urlencode "code=$code" -d redirect_uri=http://127.0.0.1:9999/cb ISSUER/oauth/token

Read the settings, as an administrator or as the client admin-api:

  token=$(curl -s -u admin-api:admin-api-secret -d grant_type=client_credentials -d scope=curfew.admin ISSUER/oauth/token | sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p')
  curl -s -H "Authorization: Bearer $token" ISSUER/v1/accounts/default/settings

ISSUER/ shows who is signed in, until when, and why not any more. At ISSUER/console/
root changes the limits and looks after all sessions.
`

// greet writes the start message.
func greet(w io.Writer, issuer string, c config) error {
	message := fmt.Sprintf("The OpenID provider %s is ready.\n", issuer)
	if c.store.memory() {
		message += "Everything is in memory, and is lost when the provider ends.\n"
	} else {
		message += "It keeps sessions and tokens in " + strings.TrimPrefix(c.store.where, "sqlite:") + ".\n"
	}
	if c.users == "" {
		message += demoUsersMessage
	}
	if c.clients == "" {
		message += demoClientsMessage
	}
	_, err := io.WriteString(w, strings.ReplaceAll(message, "ISSUER", issuer))
	return err
}
