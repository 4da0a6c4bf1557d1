package middleware_test

import (
	"bytes"
	"fmt"
	"html"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/middleware"
)

// A path that begins with two slashes reads as another host where it stands alone: a
// form that was posted there is sent again to this site, with its new token, and to
// no other.
func TestKeptFormIsSentToThisSite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) {
			c.FormToken = func(http.ResponseWriter, *http.Request) (string, string) { return "csrf", "fresh" }
		}))
		w.serve(appHost, w.rp.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "%s %s %s", r.Method, r.RequestURI, r.FormValue("text"))
		})))
		b := w.browser()
		b.login("/page")
		for _, path := range []string{"//evil.example/x?y=1", "/%2Fevil.example/x", "/x?next=//evil.example"} {
			time.Sleep(3 * time.Hour)
			p := b.signIn(b.submit(b.post(appURL+path, url.Values{"text": {"typed"}}), nil), "alice")
			require.Equal(t, "/auth/resume", p.url.Path, p.body)
			action := formTag.FindStringSubmatch(p.body)
			require.NotNil(t, action, p.body)
			to, err := p.url.Parse(html.UnescapeString(action[1]))
			require.NoError(t, err)
			require.Equal(t, appHost, to.Host, path)
			require.Equal(t, "POST "+path+" typed", b.submit(p, nil).body)
		}
	})
}

func TestPostedFormIsKept(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		b := w.browser()
		b.login("/page")
		form := url.Values{"text": {"<b>long & dear", "second"}, "password": {"hunter2"}, "csrf_token": {"old"}, "amount": {"7"}}
		require.Contains(t, b.post("/form", form).body, "form of")
		time.Sleep(3 * time.Hour)
		p := b.post("/form?id=3", form)
		require.Equal(t, http.StatusUnauthorized, p.status)
		require.Contains(t, p.body, "You were signed out after 2 hours without activity.")
		require.Contains(t, p.body, "&lt;b&gt;long &amp; dear")
		require.NotContains(t, p.body, "hunter2")
		require.Contains(t, p.body, "csrf_token, password")
		p = b.signIn(b.submit(p, nil), "alice")
		require.Equal(t, "/auth/resume", p.url.Path)
		require.Contains(t, p.body, `action="`+appURL+`/form?id=3"`)
		p = b.submit(p, nil)
		require.Equal(t, http.StatusOK, p.status)
		require.Contains(t, p.body, "form of "+optest.SubjectOf("alice")+": "+url.Values{"text": form["text"], "amount": {"7"}}.Encode())
	})
}

// Of somebody else's form nothing is sent.
func TestPostedFormOfAnotherUser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.browser()
		b.login("/page")
		time.Sleep(3 * time.Hour)
		p := b.post("/form", url.Values{"text": {"of alice"}})
		p = b.signIn(b.submit(p, nil), "bob")
		require.NotContains(t, p.body, "of alice")
		require.Contains(t, p.body, "home of "+optest.SubjectOf("bob"))
		require.Contains(t, p.body, "somebody else had typed it")
	})
}

// Forms of all kinds, as far as they may be kept.
func TestFormsThatAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, with(func(c *middleware.Config) {
			c.RedactField = func(name string) bool { return name == "diagnosis" }
			c.FormToken = func(http.ResponseWriter, *http.Request) (string, string) { return "csrf", "fresh" }
		}))
		defer time.Sleep(time.Second) // the server lingers after a request that was too large
		b := w.browser()
		b.login("/page")
		time.Sleep(3 * time.Hour)
		multi := func(fields map[string]string, file string) (string, string) {
			var body bytes.Buffer
			m := multipart.NewWriter(&body)
			for name, value := range fields {
				require.NoError(t, m.WriteField(name, value))
			}
			if file != "" {
				part, err := m.CreateFormFile("upload", "passport.png")
				require.NoError(t, err)
				_, err = part.Write([]byte(file))
				require.NoError(t, err)
			}
			require.NoError(t, m.Close())
			return m.FormDataContentType(), body.String()
		}
		multipartType, multipartBody := multi(map[string]string{"text": "of several parts"}, "file-content")
		hugeType, hugeBody := multi(map[string]string{"text": strings.Repeat("y", 70<<10)}, "")
		const form = "application/x-www-form-urlencoded"
		for name, test := range map[string]struct {
			contentType, body string
			shows, hides      []string
			sends             string
		}{
			"secrets": {form, "text=kept&passwd=hunter-number-1&new_password=hunter-number-2&api_key=hunter-number-3&card_number=hunter-number-4&diagnosis=hunter-number-5&CSRF=hunter-number-6&otp=hunter-number-7",
				[]string{"kept", "diagnosis"}, []string{"hunter-number"}, "csrf=fresh&text=kept"},
			"injection":       {form, url.Values{`"><script>`: {`</dd><script>alert(1)</script>`}}.Encode(), []string{"&lt;script&gt;"}, []string{"<script>"}, ""},
			"several parts":   {multipartType, multipartBody, []string{"of several parts", "upload"}, []string{"file-content"}, "csrf=fresh&text=of+several+parts"},
			"too large":       {form, "text=" + strings.Repeat("x", 65<<10), []string{"too large"}, []string{"xxxx"}, ""},
			"too large parts": {hugeType, hugeBody, []string{"too large"}, []string{"yyyy"}, ""},
			"just fits":       {form, "text=" + strings.Repeat("z", 64<<10-5), []string{"zzzz"}, nil, ""},
			"many fields":     {form, strings.Repeat("a=1&", 1200), []string{"too large"}, nil, ""},
			"no form":         {"application/json", `{"a":1}`, []string{"is no form"}, nil, ""},
			"bad encoding":    {form, "a=%zz", []string{"could not be read"}, nil, ""},
			"no type":         {"", "a=1", []string{"is no form"}, nil, ""},
			"cut off":         {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb", []string{"could not be read"}, nil, ""},
			"empty":           {form, "", []string{"Sign in and go on"}, nil, ""},
		} {
			req := request(t, http.MethodPost, "/form", strings.NewReader(test.body), navigate)
			req.Header.Set("Content-Type", test.contentType)
			req.Header.Set("Origin", appURL)
			p := b.once(req)
			require.Equal(t, http.StatusUnauthorized, p.status, name)
			for _, text := range test.shows {
				require.Contains(t, p.body, text, name)
			}
			for _, text := range test.hides {
				require.NotContains(t, p.body, text, name)
			}
			if test.sends == "" {
				continue
			}
			// Cancelled once: it is not lost by that.
			at := b.submit(p, nil)
			require.Equal(t, opHost, at.url.Host)
			state := ""
			for _, via := range at.via {
				if u, err := url.Parse(via); err == nil && u.Query().Has("state") {
					state = u.Query().Get("state")
				}
			}
			at = b.visit("/cb?error=access_denied&state=" + state)
			_, again, ok := strings.Cut(at.body, `id="signin" href="`)
			require.True(t, ok, at.body)
			again, _, _ = strings.Cut(again, `"`)
			p = b.signIn(b.visit(again), "alice")
			require.Equal(t, "/auth/resume", p.url.Path, p.body)
			require.Contains(t, p.body, `value="fresh"`, name)
			multipartForm := strings.HasPrefix(test.contentType, "multipart")
			require.Equal(t, multipartForm, strings.Contains(p.body, `enctype="multipart/form-data"`), name)
			require.Contains(t, b.submit(p, nil).body, ": "+test.sends)
			time.Sleep(3 * time.Hour)
		}
	})
}

// A kept form is worth nothing in another browser.
func TestKeptFormOfAnotherBrowser(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, c := w.browser(), w.browser()
		a.login("/page")
		time.Sleep(3 * time.Hour)
		kept := a.post("/form", url.Values{"text": {"of alice"}})
		p := c.submit(kept, nil)
		require.Equal(t, http.StatusBadRequest, p.status)
		require.NotContains(t, p.body, "of alice")
		c.signIn(c.visit("/page"), "bob")
		p = c.submit(kept, nil)
		require.Equal(t, http.StatusBadRequest, p.status)
		require.NotContains(t, p.body, "of alice")

		// Nor in one whose own login is over.
		d := w.browser()
		d.signIn(d.visit("/page"), "bob")
		a.login("/page")
		time.Sleep(3 * time.Hour)
		kept = a.post("/form", url.Values{"text": {"of alice"}})
		require.Equal(t, http.StatusUnauthorized, d.post("/form", url.Values{"text": {"of bob"}}).status)
		require.Equal(t, http.StatusBadRequest, d.submit(kept, nil).status)

		// Signed in again in another tab meanwhile: sent without another sign-in.
		a.login("/page")
		p = a.submit(kept, nil)
		require.Equal(t, "/auth/resume", p.url.Path)
		require.Contains(t, a.submit(p, nil).body, "form of "+optest.SubjectOf("alice")+": text=of+alice")
		p = a.post("/auth/resume", url.Values{"kept": {"x"}})
		require.Equal(t, http.StatusBadRequest, p.status)
	})
}
