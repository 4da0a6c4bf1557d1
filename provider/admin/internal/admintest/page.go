package admintest

import (
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
)

// A Page is a page of the console.
type Page struct {
	Status   int
	Header   http.Header
	Body     string
	Location string
	address  string
	w        *World
	token    string
}

// Page opens a page of the console, or sends a form to it; headers come in pairs.
func (w *World) Page(method, path, token string, form url.Values, headers ...string) Page {
	w.T.Helper()
	address := path
	if !strings.Contains(path, "://") {
		address = w.Issuer + "/console/" + path
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, address, body)
	require.NoError(w.T, err)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := *w.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	require.NoError(w.T, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(w.T, err)
	p := Page{resp.StatusCode, resp.Header, string(data), resp.Header.Get("Location"), address, w, token}
	w.checkPage(p)
	return p
}

var nothingElse = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

var (
	tags     = regexp.MustCompile(`<[^>]*>`)
	values   = regexp.MustCompile(`="[^"]*"`)
	elsewise = regexp.MustCompile(`(?i)\s(src|href|action|formaction|xlink:href)="\s*([a-z]+:|//)`)
	scripted = regexp.MustCompile(`(?i)^<script|\s(on[a-z]+|style|srcdoc)\b`)
)

// checkPage holds what every answer of the console keeps to.
func (w *World) checkPage(p Page) {
	w.T.Helper()
	require.Equal(w.T, nothingElse, p.Header.Get("Content-Security-Policy"), "%s: %d %s", p.address, p.Status, p.Body)
	optest.NobodyElseReads(w.T, p.Header)
	if !strings.Contains(p.address, "/console.css") {
		require.Equal(w.T, "no-store", p.Header.Get("Cache-Control"), p.address)
		for _, tag := range tags.FindAllString(p.Body, -1) {
			require.NotRegexp(w.T, elsewise, tag, p.address)
			require.NotRegexp(w.T, scripted, values.ReplaceAllString(tag, ""), p.address)
		}
	}
	if p.Status/100 != 3 {
		require.NotEmpty(w.T, p.Body, p.address)
	}
}

// Text is what a page shows, as text.
func (p Page) Text() string {
	return strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(p.Body, " "))), " ")
}

var (
	formTag  = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)"[^>]*>(.*?)</form>`)
	inputTag = regexp.MustCompile(`<input ([^>]*)>`)
	attr     = regexp.MustCompile(`([a-z_-]+)="([^"]*)"`)
	optTag   = regexp.MustCompile(`(?s)<select[^>]* name="([^"]*)"[^>]*>(.*?)</select>`)
	chosen   = regexp.MustCompile(`<option value="([^"]*)" selected`)
)

// Form is the form of the page that is sent to the action, as a browser would
// Send it without anything being changed.
func (p Page) Form(action string) url.Values {
	p.w.T.Helper()
	for _, f := range formTag.FindAllStringSubmatch(p.Body, -1) {
		if !strings.HasSuffix(f[1], action) {
			continue
		}
		values := url.Values{}
		for _, tag := range inputTag.FindAllStringSubmatch(f[2], -1) {
			a := map[string]string{}
			for _, m := range attr.FindAllStringSubmatch(tag[1], -1) {
				a[m[1]] = html.UnescapeString(m[2])
			}
			if (a["type"] == "radio" || a["type"] == "checkbox") && !strings.Contains(tag[1], " checked") {
				continue
			}
			values.Add(a["name"], a["value"])
		}
		for _, s := range optTag.FindAllStringSubmatch(f[2], -1) {
			if m := chosen.FindStringSubmatch(s[2]); m != nil {
				values.Set(s[1], html.UnescapeString(m[1]))
			}
		}
		return values
	}
	require.Fail(p.w.T, "no form to "+action, p.Body)
	return nil
}

// Send sends a form of a page, with some values changed, to where it goes.
func (p Page) Send(action string, pairs ...string) Page {
	p.w.T.Helper()
	form := p.Form(action)
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	to, err := url.Parse(p.address)
	require.NoError(p.w.T, err)
	for _, f := range formTag.FindAllStringSubmatch(p.Body, -1) {
		if strings.HasSuffix(f[1], action) {
			to, err = to.Parse(html.UnescapeString(f[1]))
			require.NoError(p.w.T, err)
			break
		}
	}
	return p.w.Page("POST", to.String(), p.token, form)
}

// Follow goes where an answer leads.
func (p Page) Follow() Page {
	p.w.T.Helper()
	require.Equal(p.w.T, 303, p.Status, p.Text())
	to, err := url.Parse(p.address)
	require.NoError(p.w.T, err)
	to, err = to.Parse(p.Location)
	require.NoError(p.w.T, err)
	return p.w.Page("GET", to.String(), p.token, nil)
}
