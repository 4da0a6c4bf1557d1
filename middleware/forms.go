package middleware

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/curfew-oidc/curfew/middleware/internal/seal"
)

const (
	// maxForm bounds the form that is kept while its user signs in again.
	maxForm = 64 << 10

	// maxFields bounds its fields, each of which costs more than its bytes.
	maxFields = 1000

	// maxKept bounds the form as our own page sends it: sealed, in base64.
	maxKept = 4 * maxForm

	// parcels is how many forms of one session wait for their users to come back.
	parcels = 8
)

// secretField finds the names of fields that must not be kept in a page.
var secretField = regexp.MustCompile(`(?i)pass|pwd|secret|token|csrf|xsrf|nonce|credential|otp|totp|mfa|\bpin\b|cvc|cvv|card.?num|iban|private.?key|api.?key|auth.?code|security.?code`)

// A Field is one field of a form.
type Field struct {
	Name  string `json:"n"`
	Value string `json:"v"`
}

// A kept is a form that was posted when the login was over. It travels sealed.
type kept struct {
	Session   string    `json:"session"` // that was over
	Subject   string    `json:"sub"`
	URL       string    `json:"url"`
	Multipart bool      `json:"multipart,omitempty"`
	Fields    []Field   `json:"fields"`
	At        time.Time `json:"at"`
}

// A posted is what was read of a form.
type posted struct {
	fields    []Field
	dropped   []string // names of secrets and files
	multipart bool
	problem   string // why nothing is kept; for the user
}

// forms are those that were posted when the login was over, while their users sign in
// again.
type forms struct {
	app    string
	sealer *seal.Sealer
	now    func() time.Time
	store  SessionStore
	redact func(name string) bool // nil: nothing beside secretField
}

// keepForm answers a form that was posted when the login is over: with a page that
// has all that was typed in it.
func (rp *RelyingParty) keepForm(w http.ResponseWriter, r *http.Request, h *held, out *SignedOutError) {
	p := rp.forms.read(w, r)
	page := PageData{
		Kind: PageForm, Title: "Please sign in again", Text: out.Text, Problem: p.problem,
		Shown: p.fields, Dropped: p.dropped, SignIn: rp.site.signInURL("/"), NewTab: true,
	}
	// Only a form of whom we know can be sent again: it has to be the same user.
	if h != nil && !h.rec.EndedAt.IsZero() && p.problem == "" && r.Method == http.MethodPost {
		plain, err := json.Marshal(kept{
			Session: h.id, Subject: h.rec.Subject, URL: here(r), Multipart: p.multipart, Fields: p.fields, At: rp.now().UTC(),
		})
		if err != nil {
			rp.pages.broken(w, r, err)
			return
		}
		text, err := rp.forms.sealer.Seal("form", plain)
		if err != nil {
			rp.pages.broken(w, r, err)
			return
		}
		page.Action, page.Button = rp.site.base+"resume", "Sign in and go on"
		page.Hidden = []Field{{"kept", text}}
		page.SignIn, page.NewTab = "", false
	}
	rp.pages.render(w, r, http.StatusUnauthorized, page)
}

// read reads a form as far as it may be kept.
func (fs *forms) read(w http.ResponseWriter, r *http.Request) posted {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var p posted
	switch {
	case err != nil:
		p.problem = "What was sent is no form, so it could not be kept."
		return p
	case r.MultipartForm != nil && len(r.MultipartForm.Value)+len(r.MultipartForm.File) > 0: // something in front of us has read it
		p.multipart = true
		for name := range r.MultipartForm.File {
			p.dropped = append(p.dropped, name)
		}
		err = p.values(r.MultipartForm.Value)
	case r.PostForm != nil:
		err = p.values(r.PostForm)
	case mediaType == "application/x-www-form-urlencoded":
		err = p.urlencoded(r.Body)
	case mediaType == "multipart/form-data":
		p.multipart = true
		err = p.parts(multipart.NewReader(r.Body, params["boundary"]))
	default:
		p.problem = "What was sent is no form, so it could not be kept."
		return p
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), len(p.fields) > maxFields:
		return posted{problem: "What you sent is too large to be kept here. Your browser may still have it: go back one page, and copy it before you sign in."}
	case err != nil:
		return posted{problem: "What you sent could not be read completely. Your browser may still have it: go back one page, and copy it before you sign in."}
	}
	p.fields = slices.DeleteFunc(p.fields, func(f Field) bool {
		secret := secretField.MatchString(f.Name) || fs.redact != nil && fs.redact(f.Name)
		if secret {
			p.dropped = append(p.dropped, f.Name)
		}
		return secret
	})
	return p
}

func (p *posted) urlencoded(body io.Reader) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	values, err := url.ParseQuery(string(text))
	if err != nil {
		return err
	}
	return p.values(values)
}

func (p *posted) values(values url.Values) error {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			p.fields = append(p.fields, Field{name, value})
			size += len(name) + len(value)
		}
	}
	if size > maxForm {
		return &http.MaxBytesError{Limit: maxForm}
	}
	return nil
}

func (p *posted) parts(form *multipart.Reader) error {
	for len(p.fields) <= maxFields {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if part.FileName() != "" || part.FormName() == "" {
			p.dropped = append(p.dropped, part.FormName())
			continue
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return err
		}
		p.fields = append(p.fields, Field{part.FormName(), string(value)})
	}
	return nil
}

// resumePage takes a kept form on its way to sign-in, and shows it afterwards, to
// be sent again by a click.
func (rp *RelyingParty) resumePage(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		rp.resume(w, r)
		return
	}
	h, err := rp.check(r)
	rp.cookies.sync(w, r)
	switch {
	case err != nil:
		rp.deny(w, r, h, err)
		return
	case h.rec.Parcel == "":
		redirect(w, "/")
		return
	}
	s, err := rp.sessions.shared.Get(r.Context(), h.rec.Parcel)
	switch {
	case errors.Is(err, ErrNotFound):
		rp.pages.formLost(w, r)
		return
	case err != nil:
		rp.pages.unavailable(w, r, unavailable(rp.events.storeFailed(r.Context(), err)))
		return
	}
	k, ok := rp.forms.open(s.Data)
	if !ok || k.Subject != h.rec.Subject {
		rp.pages.formLost(w, r)
		return
	}
	rp.sendAgain(w, r, k)
}

func (fs *forms) open(text string) (k kept, ok bool) {
	plain, err := fs.sealer.Open("form", text)
	if err != nil || json.Unmarshal(plain, &k) != nil {
		return k, false
	}
	// As long as the page may have been open: as long as it is known why the
	// session ended.
	age := fs.now().Sub(k.At)
	return k, age < keepEnded && age > -clockSkew
}

// resume begins a sign-in that comes back to the form.
func (rp *RelyingParty) resume(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxKept)
	if err := r.ParseForm(); err != nil {
		rp.pages.formLost(w, r)
		return
	}
	text := r.PostForm.Get("kept")
	k, ok := rp.forms.open(text)
	if !ok {
		rp.pages.formLost(w, r)
		return
	}
	h, err := rp.check(r)
	rp.cookies.sync(w, r)
	var out *SignedOutError
	switch {
	case err == nil && h.rec.Subject == k.Subject: // signed in meanwhile, in another tab
		rp.sendAgain(w, r, k)
		return
	case err == nil:
		rp.pages.formLost(w, r)
		return
	case !errors.As(err, &out):
		rp.pages.unavailable(w, r, unavailable(err))
		return
	case h == nil || h.id != k.Session:
		rp.pages.formLost(w, r) // of another browser
		return
	}
	id, err := rp.forms.deposit(r, k, text)
	if err != nil {
		rp.pages.unavailable(w, r, unavailable(rp.events.storeFailed(r.Context(), err)))
		return
	}
	rp.start(w, r, signIn{Return: rp.site.base + "resume", Notice: out.Text, Parcel: id, Subject: k.Subject})
}

// deposit keeps a form for as long as a sign-in may take: a few for each session
// that has ended, so that nobody fills the store.
func (fs *forms) deposit(r *http.Request, k kept, text string) (id string, err error) {
	ctx, now := r.Context(), fs.now()
	s := StoredSession{Data: text, Expires: now.Add(2 * signInTime).UTC().Truncate(time.Microsecond)}
	for i := range parcels {
		s.ID = seal.Digest("parcel", fs.app, k.Session, strconv.Itoa(i))
		err = fs.store.Create(ctx, now, s)
		if !errors.Is(err, ErrConflict) {
			return s.ID, err
		}
		// The same form again, or one that is not waited for any more.
		old, err := fs.store.Get(ctx, s.ID)
		if err == nil && (old.Data == text || !now.Before(old.Expires)) {
			old.Data, old.Expires = text, s.Expires
			err = fs.store.Replace(ctx, old)
			if err == nil {
				return s.ID, nil
			}
		}
		if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			return "", err
		}
	}
	return "", fmt.Errorf("more than %d forms of one session wait to be sent again", parcels)
}

// sendAgain shows the form, with a button that sends it where it was sent before.
func (rp *RelyingParty) sendAgain(w http.ResponseWriter, r *http.Request, k kept) {
	page := PageData{
		Kind: PageSendAgain, Title: "Send it again?", Text: "You are signed in. What you typed has not been sent yet.",
		// With the host: "//other.example/" alone is a path of ours that reads as another site.
		Action: rp.site.origin + k.URL, Button: "Send", Shown: k.Fields, Hidden: k.Fields, Multipart: k.Multipart,
	}
	if rp.cfg.FormToken != nil {
		name, value := rp.cfg.FormToken(w, r)
		page.Hidden = append(slices.DeleteFunc(slices.Clone(k.Fields), func(f Field) bool { return f.Name == name }), Field{name, value})
	}
	rp.pages.render(w, r, http.StatusOK, page)
}
