package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/proctest"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// Each mistake ends the program with exit code 2 before it touches anything, and
// says which flag or field it is.
func TestBadFlags(t *testing.T) {
	dir, _ := folder(t)
	cheap := filepath.Join(dir, "users.yaml")
	keys, users := filepath.Join(dir, "keys.json"), put(t, dir, "plain.yaml", "- {username: u, password: p, sub: s}")
	clients := put(t, dir, "clients.json", `[{"client_id": "c", "client_secret": "x", "type": "web", "redirect_uris": ["https://a.example/cb"], "grant_types": ["authorization_code"]}]`)
	for _, test := range []struct {
		args []string
		env  string // NAME=value
		want string
	}{
		{args: []string{"-nonsense"}, want: "-nonsense"},
		{args: []string{"serve"}, want: `"serve"`},
		{args: []string{"-listen", "nonsense"}, want: "-listen"},
		{args: []string{"-listen", "127.0.0.1:999999"}, want: "-listen"},
		{args: []string{"-listen", "127.0.0.1:-1"}, want: "-listen"},
		{args: []string{"-listen", ":0"}, want: "-issuer: it is required if"},
		{args: []string{"-issuer", "login.example.com"}, want: "-issuer"},
		{args: []string{"-issuer", "https://"}, want: "-issuer"},
		{args: []string{"-issuer", "ftp://login.example.com"}, want: "is not https"},
		{args: []string{"-issuer", "http://login.example.com"}, want: "loopback only"},
		{args: []string{"-issuer", "https://login.example.com/path"}, want: "more than a scheme"},
		{args: []string{"-issuer", "https://login.example.com/"}, want: "more than a scheme"},
		{args: []string{"-issuer", "https://login.example.com?q"}, want: "more than a scheme"},
		{args: []string{"-issuer", "https://login.example.com#f"}, want: "more than a scheme"},
		{args: []string{"-issuer", "https://u@login.example.com"}, want: "more than a scheme"},
		{args: []string{"-issuer", "HTTPS://login.example.com"}, want: "capital letters"}, // would pass for a local one
		{args: []string{"-issuer", "https://Login.example.com"}, want: "capital letters"},
		{args: []string{"-issuer", "https://login.example.com:"}, want: "port"},
		{args: []string{"-issuer", "http://127.0.0.1:0"}, want: "port"},
		{args: []string{"-issuer", "http://127.0.0.1:99999"}, want: "port"},
		{args: []string{"-issuer", "https://login.example.com", "-clients", clients, "-users", ""}, want: "-users: it is required if others"},
		{args: []string{"-issuer", "https://login.example.com", "-users", users}, want: "-clients: it is required if others"},
		{args: []string{"-store", "sqlite:"}, want: "-store"},
		{args: []string{"-store", ""}, want: "-store"},
		{args: []string{"-store", "sqlite:" + dir}, want: "-store"},
		{args: []string{"-store", "sqlite:" + users}, want: "-store"},
		{args: []string{"-store", "sqlite:" + filepath.Join(users, "under-a-file")}, want: "-store"},
		{args: []string{"-signing-alg", "HS256"}, want: "-signing-alg"},
		{args: []string{"-floor", "0s"}, want: "-floor"},
		{args: []string{"-floor", "-1h"}, want: "-floor"},
		{args: []string{"-floor", "25h"}, want: "-floor"},
		{args: []string{"-floor", "15"}, want: "-floor"},
		{env: "CURFEW_FLOOR=15", want: "CURFEW_FLOOR"},
		{env: "CURFEW_SIGNING_ALG=none", want: "-signing-alg"},
		{args: []string{"-users", filepath.Join(dir, "missing")}, want: "-users"},
		{args: []string{"-users", dir}, want: "not a regular file"},
		{args: []string{"-clients", filepath.Join(dir, "missing")}, want: "-clients"},
		{args: []string{"-settings", filepath.Join(dir, "missing")}, want: "-settings"},
		{args: []string{"-check-settings"}, want: "-settings"},
		{args: []string{"-metrics", "9464"}, want: "-metrics"},
		{args: []string{"-logout-allow", "10.0.0.0/8,internal"}, want: "-logout-allow: \"internal\""},
		{args: []string{"-logout-allow", "10.1.2.3/8"}, want: "10.0.0.0/8"},
		{args: []string{"-logout-allow", "::ffff:10.0.0.0/104"}, want: "-logout-allow"},
		{args: []string{"-metrics", "127.0.0.1:-1"}, want: "-metrics"},
		{args: []string{"-keys", dir}, want: "-keys"},
		{args: []string{"-keys", filepath.Join(users, "under-a-file")}, want: "-keys"},
	} {
		t.Run(strings.Join(test.args, " ")+test.env, func(t *testing.T) {
			getenv := func(name string) string {
				if n, v, ok := strings.Cut(test.env, "="); ok && n == name {
					return v
				}
				return ""
			}
			code, said := exit(t, getenv, append([]string{"-keys", keys, "-store", "memory", "-users", cheap}, test.args...)...)
			require.Equal(t, 2, code, said)
			require.Contains(t, said, test.want)
			require.NotContains(t, said, "ready")
		})
	}
	code, said := exit(t, noEnv, "-store", "memory")
	require.Equal(t, 2, code)
	require.Contains(t, said, "-keys: there is no default")
	code, said = exit(t, noEnv, "-help")
	require.Zero(t, code)
	require.Contains(t, said, "-check-settings")
}

func TestBadUsers(t *testing.T) {
	dir := t.TempDir()
	const secret = "hunter2-hunter2"
	for name, test := range map[string]struct{ file, want string }{
		"empty":              {"", "no users"},
		"empty list":         {"[]", "no users"},
		"null entry":         {"- null", "entry 1: it is empty"},
		"no YAML":            {"- {username: [", "line 1"},
		"no list":            {"username: alice", "line 1"},
		"a scalar":           {secret, "line 1"},
		"wrong type":         {"- {username: a, password: [" + secret + "], sub: a}", "line 1"},
		"unknown field":      {"- {username: a, password: " + secret + ", sub: a, email: x}", "email"},
		"duplicate field":    {"- {username: a, password: " + secret + ", password: x, sub: a}", "already defined"},
		"second document":    {"- {username: a, password: " + secret + ", sub: a}\n---\n- {}", "second document"},
		"no username":        {"- {password: " + secret + ", sub: a}", "entry 1: username"},
		"padded username":    {"- {username: ' a', password: " + secret + ", sub: a}", "entry 1: username"},
		"long username":      {"- {username: " + strings.Repeat("a", 256) + ", password: " + secret + ", sub: a}", "entry 1: username"},
		"duplicate username": {"- {username: a, password: " + secret + ", sub: a}\n- {username: a, password: " + secret + ", sub: b}", "entry 2: username"},
		"no sub":             {"- {username: a, password: " + secret + "}", "entry 1: sub"},
		"sub with colon":     {"- {username: a, password: " + secret + ", sub: 'a:b'}", "entry 1: sub"},
		"sub with umlaut":    {"- {username: a, password: " + secret + ", sub: ä}", "entry 1: sub"},
		"duplicate sub":      {"- {username: a, password: " + secret + ", sub: a}\n- {username: b, password: " + secret + ", sub: a}", "entry 2: sub"},
		"no password":        {"- {username: a, sub: a}", "entry 1: password"},
		"both passwords":     {"- {username: a, password: " + secret + ", password_hash: " + secret + ", sub: a}", "entry 1: password"},
		"long password":      {"- {username: a, password: " + strings.Repeat(secret, 5) + ", sub: a}", "72 bytes"},
		"bad hash":           {"- {username: a, password_hash: " + secret + ", sub: a}", "entry 1: password_hash"},
		"costly hash":        {"- {username: a, password_hash: $2a$31$" + strings.Repeat("a", 53) + ", sub: a}", "at most 16"},
		"empty account":      {"- {username: a, password: " + secret + ", sub: a, accounts: ['']}", "entry 1: accounts"},
		"account twice":      {"- {username: a, password: " + secret + ", sub: a, accounts: [x, x]}", "entry 1: accounts"},
		"group twice":        {"- {username: a, password: " + secret + ", sub: a, groups: [x, x]}", "entry 1: groups"},
		"unknown role":       {"- {username: a, password: " + secret + ", sub: a, roles: [adminstrator]}", "entry 1: roles"},
		"sub of a client":    {"- {username: a, password: " + secret + ", sub: cli}", "client_id"},
	} {
		t.Run(name, func(t *testing.T) {
			code, said := exit(t, noEnv, "-store", "memory", "-keys", filepath.Join(dir, "keys.json"), "-users", put(t, dir, "users.yaml", test.file))
			require.Equal(t, 2, code, said)
			require.Contains(t, said, "-users: ")
			require.Contains(t, said, test.want)
			require.NotContains(t, said, "hunter2", "no password is repeated")
		})
	}
}

func TestBadClients(t *testing.T) {
	dir, _ := folder(t)
	users := filepath.Join(dir, "users.yaml")
	const web = `"client_id": "c", "client_secret": "hunter2", "type": "web"`
	const code = `"redirect_uris": ["https://a.example/cb"], "grant_types": ["authorization_code"]`
	for name, test := range map[string]struct{ file, want string }{
		"empty":                 {"", "not JSON"},
		"empty list":            {"[]", "no clients"},
		"cut off":               {"[{" + web, "not JSON: it ends too early"},
		"cut off between":       {"[[[[", "not JSON: it ends too early"},
		"cut off in a name":     {`[{"client`, "not JSON: it ends too early"},
		"cut off at a value":    {`[{"client_id":`, "not JSON: it ends too early"},
		"no list":               {"{}", "line 1"},
		"trailing":              {"[{" + web + "," + code + "}] x", "after the end"},
		"unknown member":        {"[{" + web + "," + code + `, "scope": "x"}]`, "scope"},
		"duplicate member":      {"[{" + web + "," + code + `, "type": "spa"}]`, `"type" appears twice in entry 1`},
		"duplicate in capitals": {"[{" + web + "," + code + `, "Type": "spa"}]`, `"Type" appears twice in entry 1`},
		"wrong type":            {"[{" + web + `, "redirect_uris": "x"}]`, "redirect_uris"},
		"no client_id":          {`[{"type": "spa",` + code + "}]", "entry 1: client_id"},
		"client_id with colon":  {`[{"client_id": "a:b", "type": "spa",` + code + "}]", "entry 1: client_id"},
		"duplicate client_id":   {"[{" + web + "," + code + "},{" + web + "," + code + "}]", "entry 2: client_id"},
		"unknown type":          {`[{"client_id": "c", "type": "desktop",` + code + "}]", "entry 1: type"},
		"web without secret":    {`[{"client_id": "c", "type": "web",` + code + "}]", "entry 1: client_secret"},
		"spa with secret":       {`[{"client_id": "c", "type": "spa", "client_secret": "hunter2",` + code + "}]", "entry 1: client_secret"},
		"unknown token type":    {"[{" + web + "," + code + `, "access_token_type": "paseto"}]`, "access_token_type"},
		"hybrid":                {"[{" + web + "," + code + `, "response_types": ["code id_token"]}]`, "response_types"},
		"no grants":             {"[{" + web + `, "redirect_uris": ["https://a.example/cb"]}]`, "grant_types"},
		"unknown grant":         {"[{" + web + `, "grant_types": ["password"]}]`, "grant_types"},
		"grant twice":           {"[{" + web + `, "grant_types": ["refresh_token", "refresh_token"]}]`, "twice"},
		"public client_credentials": {`[{"client_id": "c", "type": "spa", "redirect_uris": ["https://a.example/cb"],
			"grant_types": ["client_credentials"]}]`, "needs a client that can authenticate"},
		"no redirect":             {"[{" + web + `, "grant_types": ["authorization_code"]}]`, "redirect_uris"},
		"http redirect":           {"[{" + web + `, "redirect_uris": ["http://a.example/cb"], "grant_types": ["authorization_code"]}]`, "loopback only"},
		"http, almost":            {"[{" + web + `, "redirect_uris": ["http://127.0.0.1.a.example/cb"], "grant_types": ["authorization_code"]}]`, "loopback only"},
		"http, user":              {"[{" + web + `, "redirect_uris": ["http://127.0.0.1@a.example/cb"], "grant_types": ["authorization_code"]}]`, "username"},
		"fragment":                {"[{" + web + `, "redirect_uris": ["https://a.example/cb#f"], "grant_types": ["authorization_code"]}]`, "fragment"},
		"relative":                {"[{" + web + `, "redirect_uris": ["/cb"], "grant_types": ["authorization_code"]}]`, "absolute"},
		"script":                  {"[{" + web + `, "redirect_uris": ["javascript:alert(1)"], "grant_types": ["authorization_code"]}]`, "must be https"},
		"native script":           {`[{"client_id": "c", "type": "native", "redirect_uris": ["javascript:alert(1)"], "grant_types": ["authorization_code"]}]`, "must be https"},
		"redirect twice":          {"[{" + web + `, "redirect_uris": ["https://a.example/cb", "https://a.example/cb"], "grant_types": ["authorization_code"]}]`, "twice"},
		"http after logout":       {"[{" + web + "," + code + `, "post_logout_redirect_uris": ["http://a.example/"]}]`, "post_logout_redirect_uris"},
		"front channel elsewhere": {"[{" + web + "," + code + `, "frontchannel_logout_uri": "https://elsewhere.example/"}]`, "frontchannel_logout_uri"},
		"http front channel":      {"[{" + web + "," + code + `, "frontchannel_logout_uri": "http://a.example/"}]`, "frontchannel_logout_uri"},
		"http back channel":       {"[{" + web + "," + code + `, "backchannel_logout_uri": "http://a.example/"}]`, "backchannel_logout_uri"},
	} {
		t.Run(name, func(t *testing.T) {
			code, said := exit(t, noEnv, "-store", "memory", "-keys", filepath.Join(dir, "keys.json"), "-users", users, "-clients", put(t, dir, "clients.json", test.file))
			require.Equal(t, 2, code, said)
			require.Contains(t, said, "-clients: ")
			require.Contains(t, said, test.want)
			require.NotContains(t, said, "hunter2", "no secret is repeated")
		})
	}
}

func TestFilesOfTheIssue(t *testing.T) {
	dir := t.TempDir()
	users := put(t, dir, "users.yaml", `
- {username: alice, password: wonderland-1, sub: alice, accounts: [default], groups: []}
- {username: root, password: owner-3, sub: root, roles: [administrator]}
`)
	clients := put(t, dir, "clients.json", `[{"client_id": "web", "client_secret": "web-secret", "type": "web", "redirect_uris": ["http://127.0.0.1:9999/cb"],
  "grant_types": ["authorization_code", "refresh_token"], "access_token_type": "opaque",
  "post_logout_redirect_uris": [], "backchannel_logout_uri": ""},
 {"client_id": "cli", "type": "native", "redirect_uris": ["http://127.0.0.1/cb"],
  "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]}]`)
	settings := put(t, dir, "settings.yaml", `# settings.yaml: every scope shown once
accounts:
  default:
    active: 24h
    inactivity: 2h
    concurrent: 3              # or unlimited
    at_limit: refuse           # end_oldest, end_idlest, ask
    activity: [interactive, refresh, userinfo, introspection, heartbeat]
    kinds:
      cli: {inactivity: 12h, concurrent: unlimited}
    clients:
      payroll: {active: 8h}
    groups:
      contractors: {concurrent: 1}
    users:
      root: {inactivity: 15m}
`)
	args := []string{"-users", users, "-clients", clients, "-settings", settings, "-store", "memory", "-keys", filepath.Join(dir, "keys.json")}
	code, said := exit(t, noEnv, append(args, "-check-settings")...)
	require.Zero(t, code, said)
	require.Contains(t, said, "alice, command line:\n  active: 24h")
	require.Contains(t, said, "inactivity: 15m")
	require.Contains(t, said, `there is no client "payroll"`)
	require.Contains(t, said, `no user is in the group "contractors"`)
	require.NoFileExists(t, filepath.Join(dir, "keys.json"), "checking makes nothing")

	s := start(t, append(args, "-listen", "127.0.0.1:0")...)
	s.login(s.app("web"))
	require.NotContains(t, s.stdout.String(), alicePassword)
}

func TestBadSettings(t *testing.T) {
	dir, args := folder(t)
	for name, test := range map[string]struct{ file, want string }{
		"no YAML":     {"accounts: {", "line"},
		"unknown":     {"accounts: {default: {idle: 1h}}", "accounts.default.idle"},
		"no unit":     {"accounts: {default: {active: 24}}", "accounts.default.active"},
		"below floor": {"accounts: {default: {inactivity: 14m59s}}", "accounts.default.inactivity"},
		"too long":    {"accounts: {default: {active: 721h}}", "accounts.default.active"},
		"no cap":      {"accounts: {default: {concurrent: 0}}", "accounts.default.concurrent"},
	} {
		t.Run(name, func(t *testing.T) {
			settings := put(t, dir, "settings.yaml", test.file)
			for _, more := range [][]string{{}, {"-check-settings"}} {
				code, said := exit(t, noEnv, append(append(args, "-settings", settings), more...)...)
				require.Equal(t, 2, code, said)
				require.Contains(t, said, "-settings: ")
				require.Contains(t, said, test.want)
			}
		})
	}
}

func TestSettingsReload(t *testing.T) {
	dir, args := folder(t)
	settings := put(t, dir, "settings.yaml", "accounts: {default: {concurrent: 1}}")
	s := start(t, append(args, "-settings", settings)...)
	a := s.app("web")
	s.login(a)
	refused := func() bool {
		b := newBrowser(t)
		return b.signIn(b.get(a.url()), "alice", alicePassword).params.Get("error") == "access_denied"
	}
	require.True(t, refused())

	put(t, dir, "settings.yaml", "accounts: {default: {concurrent: none}}")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	proctest.Eventually(t, func() bool { return strings.Contains(s.stderr.String(), "the settings stay what they were") })
	require.Contains(t, s.stderr.String(), "accounts.default.concurrent")
	require.True(t, refused(), "a bad file changes nothing")

	put(t, dir, "settings.yaml", "accounts: {default: {concurrent: 2}}")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	proctest.Eventually(t, func() bool { return !refused() })
}

func TestStoredSettings(t *testing.T) {
	_, args := folder(t)
	s := start(t, args...)
	require.Contains(t, s.stderr.String(), "started")
	a := s.app("web")
	for range 3 {
		s.login(a)
	}
	b := newBrowser(t)
	p := b.signIn(b.get(a.url()), "alice", alicePassword)
	require.Contains(t, p.params.Get("error_description"), "used=3 max=3", "the demo settings")

	// A first start overwrites nothing.
	docs := memstore.New()
	log := testLog(t)
	account := demoAccount(time.Minute)
	account.Kinds = nil
	_, err := provider.SaveAccount(t.Context(), docs, "default", account, 0, "me", "", time.Now())
	require.NoError(t, err)
	require.NoError(t, seedSettings(t.Context(), docs, time.Minute, log))
	stored, version, err := provider.LoadAccount(t.Context(), docs, "default")
	require.NoError(t, err)
	require.Equal(t, account, stored)
	require.EqualValues(t, 1, version)
	for _, floor := range []time.Duration{time.Second, 15 * time.Minute, 3 * time.Hour, 24 * time.Hour} {
		require.NoError(t, demoAccount(floor).Validate(rangeFrom(floor)), floor)
	}
}

func TestKeysFile(t *testing.T) {
	eachDocuments(t, testKeysFile)
}

// eachDocuments runs a test with each store in which the memory of the keys may
// be.
func eachDocuments(t *testing.T, test func(t *testing.T, docs store.Documents)) {
	t.Run("memory", func(t *testing.T) { test(t, memstore.New()) })
	for name, newStore := range sharedStores {
		t.Run(name, func(t *testing.T) {
			at, err := parseStore(newStore(t))
			require.NoError(t, err)
			db, err := openDatabase(t.Context(), at)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.close()) })
			test(t, db.sessions)
		})
	}
}

func testKeysFile(t *testing.T, docs store.Documents) {
	ctx := context.Background()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.json")

	made, err := openKeys(ctx, path, "", docs, false, now)
	require.NoError(t, err)
	require.Equal(t, jose.RS256, made.signing[0].SignatureAlgorithm())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing is left lying around")
	again, err := openKeys(ctx, path, "RS256", docs, false, now)
	require.NoError(t, err)
	require.Equal(t, made.sealing, again.sealing)
	require.Equal(t, made.crypto, again.crypto)

	// What the store remembers gives nothing away.
	doc, err := docs.Document(ctx, ringDocument)
	require.NoError(t, err)
	original, err := os.ReadFile(path)
	require.NoError(t, err)
	var file keysFile
	require.NoError(t, json.Unmarshal(original, &file))
	require.NotContains(t, string(doc.Body), file.CryptoKey)
	for _, part := range strings.Split(file.SealingKeys[0], ".") {
		require.NotContains(t, string(doc.Body), part)
	}

	fails := func(name, want string) {
		t.Helper()
		_, err := openKeys(ctx, path, "", docs, false, now)
		var usage *usageError
		require.ErrorAs(t, err, &usage, name)
		require.Equal(t, "keys", usage.flag, name)
		require.ErrorContains(t, err, want, name)
		for _, secret := range append(file.SealingKeys, file.CryptoKey) {
			require.NotContains(t, err.Error(), secret[len(secret)-20:], name)
		}
	}
	write := func(change func(f *keysFile)) {
		t.Helper()
		var f keysFile
		require.NoError(t, json.Unmarshal(original, &f))
		change(&f)
		body, err := json.Marshal(f)
		require.NoError(t, err)
		put(t, dir, "keys.json", string(body))
	}
	other, err := newKeysFile(jose.ES256, now)
	require.NoError(t, err)

	_, err = openKeys(ctx, path, jose.ES256, docs, false, now)
	require.ErrorContains(t, err, "-signing-alg: ES256 was asked for")
	for _, mode := range []os.FileMode{0o644, 0o640, 0o606, 0o620} {
		require.NoError(t, os.Chmod(path, mode))
		fails(mode.String(), "has mode")
	}
	require.NoError(t, os.Remove(path))
	fails("missing", "does not exist, but the store was used with keys")
	require.NoFileExists(t, path, "no others are made in their place")
	put(t, dir, "keys.json", "")
	fails("empty", "not JSON")
	put(t, dir, "keys.json", string(original[:len(original)/2]))
	fails("half", "not JSON")
	put(t, dir, "keys.json", strings.Replace(string(original), `"crypto_key"`, `"cryptokey"`, 1))
	fails("unknown member", "cryptokey")
	for name, test := range map[string]struct {
		change func(f *keysFile)
		want   string
	}{
		"no signing key":      {func(f *keysFile) { f.SigningKeys = nil }, "signing_keys: at least one is required"},
		"no sealing key":      {func(f *keysFile) { f.SealingKeys = nil }, "sealing_keys: at least one is required"},
		"bad sealing key":     {func(f *keysFile) { f.SealingKeys[0] = "x" + f.SealingKeys[0] }, "sealing_keys[0]"},
		"no crypto key":       {func(f *keysFile) { f.CryptoKey = "" }, "crypto_key: want 32 bytes"},
		"short crypto key":    {func(f *keysFile) { f.CryptoKey = f.CryptoKey[:10] }, "crypto_key: want 32 bytes"},
		"public signing key":  {func(f *keysFile) { f.SigningKeys[0] = f.SigningKeys[0].Public() }, "signing_keys[0]: it must be a private"},
		"wrong alg":           {func(f *keysFile) { f.SigningKeys[0].Algorithm = "RS512" }, "signing_keys[0]"},
		"no kid":              {func(f *keysFile) { f.SigningKeys[0].KeyID = "" }, "kid is missing"},
		"kid twice":           {func(f *keysFile) { f.SigningKeys = append(f.SigningKeys, f.SigningKeys[0]) }, "kid is missing or not unique"},
		"another sealing key": {func(f *keysFile) { f.SealingKeys = other.SealingKeys }, "the sealing key " + made.sealing[0].ID()},
		"another crypto key":  {func(f *keysFile) { f.CryptoKey = other.CryptoKey }, "the crypto key"},
		"another signing key": {func(f *keysFile) { f.SigningKeys = other.SigningKeys }, "the signing key " + made.signing[0].ID()},
		"all others":          {func(f *keysFile) { *f = *other }, "the sealing key"},
	} {
		write(test.change)
		fails(name, test.want)
	}
	after, err := docs.Document(ctx, ringDocument)
	require.NoError(t, err)
	require.Equal(t, doc, after, "a refused start changes nothing")

	// Rotation: add, move to the front, remove when nothing needs it any more.
	write(func(f *keysFile) { f.SealingKeys = append(f.SealingKeys, other.SealingKeys...) })
	_, err = openKeys(ctx, path, "", docs, false, now)
	require.NoError(t, err)
	write(func(f *keysFile) { f.SealingKeys = append(other.SealingKeys, f.SealingKeys...) })
	_, err = openKeys(ctx, path, "", docs, false, now)
	require.NoError(t, err)
	write(func(f *keysFile) { f.SealingKeys = other.SealingKeys })
	now = now.Add(keyRetention - time.Second)
	fails("removed too early", "the sealing key "+made.sealing[0].ID())
	now = now.Add(time.Second)
	_, err = openKeys(ctx, path, "", docs, false, now)
	require.NoError(t, err)
	put(t, dir, "keys.json", string(original))
	fails("and back", "the sealing key")
}

// Processes that start at the same time agree on one file.
func TestKeysFileRace(t *testing.T) { eachDocuments(t, testKeysFileRace) }

func testKeysFileRace(t *testing.T, docs store.Documents) {
	path := filepath.Join(t.TempDir(), "keys.json")
	type result struct {
		id  string
		err error
	}
	results := make(chan result, 8)
	for range cap(results) {
		go func() {
			k, err := openKeys(context.Background(), path, jose.ES256, docs, false, time.Now())
			if err != nil {
				results <- result{err: err}
				return
			}
			results <- result{id: k.sealing[0].ID()}
		}()
	}
	first := <-results
	require.NoError(t, first.err)
	for range cap(results) - 1 {
		require.Equal(t, first, <-results)
	}
}
