package provider_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// A world is one provider, with or without the hook, and what was seen of it.
// Two worlds to which the same is done are compared by what they answered.
type world struct {
	t         *testing.T
	hooked    bool
	issuer    string
	send      func(*http.Request) (*http.Response, error)
	crypto    op.Crypto    // the provider's, to look into its opaque tokens
	oldCrypto op.Decrypter // see tokens

	authorizePath, loginPath string
	users                    map[string]credentials // "admin" may exchange tokens, "user" may not
	approve                  func(w *world, step, userCode, user, decision string)

	failing *failing // nil: nothing can be made to fail

	cookies []*http.Cookie // of the browser in which the last login began

	keys jose.JSONWebKeySet
	code string // the last that was sent
	seen []observation
}

type credentials struct{ name, password, subject string }

// An observation is an answer in fields that can be compared: what cannot be
// equal, such as a token, is replaced by what it is.
type observation struct {
	step   string
	fields map[string]string
}

// A reply is an answer as it is.
type reply struct {
	status int
	header http.Header
	body   string
	json   map[string]any
	params url.Values // of the redirect or the form to the application
}

func (r reply) str(name string) string {
	s, _ := r.json[name].(string)
	return s
}

// do sends a request and notes the answer.
func (w *world) do(step string, req *http.Request) reply {
	w.t.Helper()
	resp, err := w.send(req)
	if err != nil {
		w.seen = append(w.seen, observation{step, map[string]string{"status": "connection closed"}})
		return reply{}
	}
	body, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	require.NoError(w.t, resp.Body.Close())
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(body), params: url.Values{}}
	f := map[string]string{"status": fmt.Sprint(resp.StatusCode)}
	for name, values := range resp.Header {
		switch name {
		case "Date", "Content-Length", "X-Request-Id": // the time, the length of tokens, the example's counter
		case "Location":
			w.location(f, &r, values[0])
		case "Set-Cookie":
			f["header."+name] = cookieNames(values)
		default:
			f["header."+name] = strings.Join(values, ", ")
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	switch err := decoder.Decode(&value); {
	case err == nil && value != nil && !decoder.More():
		r.json, _ = value.(map[string]any)
		w.put(f, "body", value)
		w.hashes(f, "body", r.str("access_token"))
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		// The page of a redirect repeats the address.
		f["body"] = strings.ReplaceAll(string(body), html.EscapeString(resp.Header.Get("Location")), "<location>")
	default:
		f["body"] = w.page(f, &r, string(body))
	}
	w.seen = append(w.seen, observation{step, f})
	return r
}

// cookieNames returns what cookies are set. Those of the hook are named after
// the issuer and the auth request.
func cookieNames(values []string) string {
	names := make([]string, len(values))
	for i, v := range values {
		name, _, _ := strings.Cut(v, "=")
		names[i] = hookCookie.ReplaceAllString(name, "<$1 cookie>")
	}
	return strings.Join(names, ", ")
}

var hookCookie = regexp.MustCompile(`^curfew-(login|session)-[0-9a-f-]+$`)

func (w *world) location(f map[string]string, r *reply, location string) {
	u, err := url.Parse(location)
	require.NoError(w.t, err)
	query, fragment := u.Query(), url.Values{}
	if u.EscapedFragment() != "" {
		fragment, err = url.ParseQuery(u.EscapedFragment())
		require.NoError(w.t, err)
	}
	u.RawQuery, u.Fragment, u.RawFragment = "", "", ""
	f["location"] = u.String()
	for part, params := range map[string]url.Values{"query": query, "fragment": fragment} {
		for name, values := range params {
			w.put(f, "location."+part+"."+name, strings.Join(values, ", "))
			r.params[name] = values
		}
	}
	w.hashes(f, "location.query", query.Get("access_token"))
	w.hashes(f, "location.fragment", fragment.Get("access_token"))
}

var (
	inputTag = regexp.MustCompile(`<input[^>]* name="([^"]*)"[^>]* value="([^"]*)"[^>]*>`)

	uuidText    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	sealedText  = regexp.MustCompile(`curfew_(rt|at|rp)_[0-9a-f]{12}\.[A-Za-z0-9_-]+`)
	sidText     = regexp.MustCompile(`^[0-9a-f]{2}\.[A-Za-z0-9_-]{24}$`)
	userCode    = regexp.MustCompile(`\b[B-Z]{4}-[B-Z]{4}\b`)
	jwtText     = regexp.MustCompile(`^eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)
	longNumbers = regexp.MustCompile(`^[A-Za-z0-9_-]{300,}$`)
)

// page notes the form fields of a page and returns the rest.
func (w *world) page(f map[string]string, r *reply, body string) string {
	for _, input := range inputTag.FindAllStringSubmatch(body, -1) {
		name, value := input[1], html.UnescapeString(input[2])
		w.put(f, "form."+name, value)
		r.params.Set(name, value)
		if value != "" {
			body = strings.ReplaceAll(body, input[2], "<"+name+">")
		}
	}
	w.hashes(f, "form", r.params.Get("access_token"))
	return plain(body)
}

func plain(text string) string {
	text = sealedText.ReplaceAllString(text, "<sealed $1>")
	text = uuidText.ReplaceAllString(text, "<uuid>")
	return userCode.ReplaceAllString(text, "<user code>")
}

// put notes a value, and what is inside of it.
func (w *world) put(f map[string]string, key string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			w.put(f, key+"."+name, member)
		}
		f[key] = "<object>"
	case []any:
		for i, member := range v {
			w.put(f, fmt.Sprintf("%s.%d", key, i), member)
		}
		f[key] = fmt.Sprintf("<list of %d>", len(v))
	case string:
		w.putString(f, key, v)
	default:
		f[key] = fmt.Sprint(v)
	}
}

func (w *world) putString(f map[string]string, key, v string) {
	switch {
	case jwtText.MatchString(v):
		f[key] = "<jwt>"
		token, err := jwt.ParseSigned(v, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
		require.NoError(w.t, err)
		f[key+".alg"], f[key+".kid"] = token.Headers[0].Algorithm, plain(token.Headers[0].KeyID)
		claims := map[string]any{}
		require.NoError(w.t, token.Claims(w.keys, &claims), "%s is not signed with the provider's key", key)
		w.put(f, key, claims)
		f[key] = "<jwt>"
	case strings.HasSuffix(key, ".device_code"):
		f[key] = fmt.Sprintf("<%d random characters>", len(v))
	case sidText.MatchString(v):
		f[key] = "<sid>"
	case longNumbers.MatchString(v) && strings.HasSuffix(key, ".n"):
		f[key] = "<modulus>"
	default:
		if inside, err := w.crypto.Decrypt(v); err == nil && len(v) > 20 {
			f[key] = "<encrypted>"
			for i, part := range strings.Split(inside, ":") {
				f[fmt.Sprintf("%s.%d", key, i)] = plain(part)
			}
			return
		}
		f[key] = plain(v)
	}
}

// hashes replaces at_hash and c_hash by whether they are right.
func (w *world) hashes(f map[string]string, prefix, access string) {
	for name, of := range map[string]string{"at_hash": access, "c_hash": w.code} {
		key := prefix + ".id_token." + name
		if _, ok := f[key]; !ok {
			continue
		}
		want, err := oidc.ClaimHash(of, jose.RS256)
		require.NoError(w.t, err)
		if f[key] == want {
			f[key] = "<right>"
		}
	}
}

// get and post send a request. auth is "client:secret" for HTTP Basic, or a
// client ID alone for the body, or empty. The parameters are pairs.
func (w *world) get(step, path string, params url.Values) reply {
	w.t.Helper()
	return w.do(step, w.request(http.MethodGet, path+"?"+params.Encode(), ""))
}

func (w *world) post(step, path, auth string, params url.Values) reply {
	w.t.Helper()
	body := url.Values{}
	maps.Copy(body, params)
	w.code = params.Get("code")
	client, secret, basic := strings.Cut(auth, ":")
	if auth != "" && !basic {
		body.Set("client_id", auth)
	}
	req := w.request(http.MethodPost, path, body.Encode())
	if basic {
		req.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	}
	return w.do(step, req)
}

func (w *world) request(method, path, body string) *http.Request {
	req, err := http.NewRequest(method, w.issuer+path, strings.NewReader(body))
	require.NoError(w.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req
}

// form makes parameters of pairs of names and values.
func form(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// with returns the parameters with others set; an empty value removes one.
func with(v url.Values, pairs ...string) url.Values {
	v = maps.Clone(v)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			v.Del(pairs[i])
			continue
		}
		v[pairs[i]] = []string{pairs[i+1]}
	}
	return v
}

// serviceKey signs what the client "service" sends.
var serviceKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// signed returns claims signed by "service", with some changed; nil removes one.
func (w *world) signed(key crypto.Signer, change map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "key1"}}, nil)
	require.NoError(w.t, err)
	now := time.Now()
	claims := map[string]any{
		"iss": "service", "sub": "service", "aud": w.issuer, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(w.t, err)
	return text
}

// A deviation is a difference that is meant.
type deviation struct {
	step         *regexp.Regexp // in which steps
	field        *regexp.Regexp // in which field of the answer; nil: it is another answer altogether
	bare, hooked *regexp.Regexp // what it is without and with the hook; nothing is ""
	reason       string
	seen         bool
}

// differs is a deviation in one field.
func differs(step, field, bare, hooked, reason string) *deviation {
	return &deviation{step: whole(step), field: whole(field), bare: whole(bare), hooked: whole(hooked), reason: reason}
}

// answers is a deviation in all of an answer: see observation.outcome.
func answers(step, bare, hooked, reason string) *deviation {
	return &deviation{step: whole(step), bare: whole(bare), hooked: whole(hooked), reason: reason}
}

func whole(pattern string) *regexp.Regexp { return regexp.MustCompile("^(?:" + pattern + ")$") }

// outcome is an answer in short: status, error and description.
func (o observation) outcome() string {
	return strings.TrimSpace(o.fields["status"] + " " + o.fields["body.error"] + " " + o.fields["body.error_description"])
}

// compare fails on every difference that is not meant.
func compare(t *testing.T, bare, hooked []observation, meant []*deviation) {
	t.Helper()
	steps := func(seen []observation) string {
		names := make([]string, len(seen))
		for i := range seen {
			names[i] = seen[i].step
		}
		return strings.Join(names, "\n")
	}
	require.Equal(t, steps(bare), steps(hooked))
	names := map[string]bool{}
	for i, b := range bare {
		require.False(t, names[b.step], "two steps are called %q", b.step)
		names[b.step] = true
		h := hooked[i]
		if isMeant(meant, b.step, nil, b.outcome(), h.outcome()) {
			continue
		}
		fields := maps.Clone(b.fields)
		maps.Copy(fields, h.fields)
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			was, is := b.fields[field], h.fields[field]
			if was != is && !isMeant(meant, b.step, &field, was, is) {
				t.Errorf("%s: %s\n  without the hook: %q\n  with the hook:    %q", b.step, field, was, is)
			}
		}
	}
}

func isMeant(meant []*deviation, step string, field *string, was, is string) bool {
	for _, d := range meant {
		if (d.field == nil) == (field == nil) && (field == nil || d.field.MatchString(*field)) &&
			d.step.MatchString(step) && d.bare.MatchString(was) && d.hooked.MatchString(is) {
			d.seen = true
			return true
		}
	}
	return false
}
