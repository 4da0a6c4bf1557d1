package provider

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"html/template"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/internal/paged"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// What the user is asked, and told, when an application signs them out: OpenID
// Connect RP-Initiated Logout 1.0.

//go:embed templates/logout.html
var logoutFiles embed.FS

var defaultLogoutTemplate = template.Must(template.ParseFS(logoutFiles, "templates/logout.html"))

// A LogoutPage is what [Logout.Template] is executed with. One of Confirm, Stayed
// and Frames is set. Its Content-Security-Policy allows no script, images and
// fonts from the same server, and the styles that have Nonce in their nonce
// attribute.
type LogoutPage struct {
	PageTexts

	// Confirm asks whether the user wants to sign out.
	Confirm *LogoutConfirm

	// Stayed says that the user chose not to sign out.
	Stayed bool

	// Frames are the addresses that notify applications through the browser (Front-Channel Logout
	// 1.0 section 2): put each into a hidden iframe. Then the browser goes on to Continue, by a
	// link or, after Seconds, by <meta http-equiv="refresh">.
	Frames   []string
	Continue string
	Seconds  int

	Nonce string
}

// A LogoutConfirm is a form: method "post", action Action, a hidden input for each
// of Hidden, and two buttons named "curfew_answer", of which one has the value
// "yes".
type LogoutConfirm struct {
	Action string
	Hidden []LogoutField

	// To is the host to which the user goes after signing out, if that is another server. Client is
	// the client_id of the application that asks; empty if unknown.
	To, Client string
}

// A LogoutField is a hidden input.
type LogoutField struct{ Name, Value string }

const (
	logoutSeconds = 3 // for frames to load

	confirmPrefix = "curfew_lo_" // of the seal
	confirmLife   = 10 * time.Minute
	confirmField  = "curfew_logout"
	answerField   = "curfew_answer"

	maxPosted = 64 << 10
)

// sealConfirm seals that this browser was asked whether its session is to end.
func (h *pages) sealConfirm(s *store.Session, at time.Time) string {
	w := seal.NewRecord()
	w.Raw([]byte(browser.IssuerMark(s.Subject.Issuer)))
	w.Text(s.ID)
	w.Time(at)
	return h.ring.Seal(confirmPrefix, w.Bytes())
}

// confirms reports whether a text was sealed for the session a short while ago.
func (h *pages) confirms(text string, s *store.Session, now time.Time) bool {
	record, err := h.ring.Open(confirmPrefix, text, now)
	if err != nil {
		return false
	}
	d := seal.ReadRecord(record)
	mark, sid, at := d.Raw(8), d.Text(), d.Time()
	age := now.Sub(at)
	return d.Done() && mark == browser.IssuerMark(s.Subject.Issuer) && sid == s.ID && age >= 0 && age < confirmLife
}

// keepForm keeps a copy of the form that is posted: op reads it where nobody else
// sees it, and tells the storage only a part of a token that is presented in it. A
// page that asks has to send it again, and an authorization request says in it where
// it wants its answer.
func (h *Hook) keepForm(req *request, r *http.Request) {
	if !isForm(r) {
		return
	}
	req.posted = &bytes.Buffer{}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r.Body, &bounded{req.posted, maxPosted}), r.Body}
}

// A bounded writer drops what is too much.
type bounded struct {
	b   *bytes.Buffer
	max int
}

func (w *bounded) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), w.max-w.b.Len())])
	return len(p), nil
}

// logoutForm returns the parameters of a request to the end_session endpoint, and
// those that were posted. What something outside of the handler has parsed before is what
// op takes, and nobody reads it again.
func (req *request) logoutForm() (all, posted url.Values) {
	all, posted = url.Values{}, url.Values{}
	switch {
	case req.http == nil:
	case req.http.Form != nil:
		maps.Copy(all, req.http.Form)
		maps.Copy(posted, req.http.PostForm)
		return all, posted
	default:
		all = req.http.URL.Query()
	}
	if req.posted != nil && req.posted.Len() < maxPosted {
		posted, _ = url.ParseQuery(req.posted.String()) // what can be read of it: op has judged it
	}
	for name, values := range posted {
		all[name] = append(all[name], values...)
	}
	return all, posted
}

// A logoutTarget is the session that a request to sign out is about.
type logoutTarget struct {
	ask       *LogoutPage // the user has to be asked, or told, first
	sid, user string
	confirmed *store.Session // the browser's, which it is about whatever the hint says; nil: the user was not asked
	hinted    string         // the same user's session that the hint names, if that is another one
}

// request returns what the embedded storage is told. What the user has confirmed is
// as good as a hint of the session, and storages that take the user on to the
// application look for one. An application that is not known has nothing to go on
// to: op has judged no address.
func (w *logoutTarget) request(er *op.EndSessionRequest) *op.EndSessionRequest {
	s := w.confirmed
	if s == nil {
		return er
	}
	own := *er
	own.UserID, own.IDTokenHintClaims = w.user, nil
	if er.ClientID != "" {
		own.IDTokenHintClaims = &oidc.IDTokenClaims{SessionID: s.ID, TokenClaims: oidc.TokenClaims{
			Issuer: s.Subject.Issuer, Subject: s.Subject.ID, Audience: oidc.Audience{er.ClientID}, AuthorizedParty: er.ClientID, ClientID: er.ClientID,
			AuthTime: oidc.FromTime(s.Authenticated),
		}}
	}
	return &own
}

// whoseLogout finds out which session a request to sign out is about. Without a
// hint, or with one that is not of the session in this browser, the user must be
// asked (RP-Initiated Logout 1.0 section 2): anybody can send a browser here.
// Where the browser shows no session there is nothing to ask about; then the hint
// is what counts.
func (c *core) whoseLogout(ctx context.Context, req *request, er *op.EndSessionRequest) (logoutTarget, error) {
	w := logoutTarget{user: er.UserID}
	if er.IDTokenHintClaims != nil {
		w.sid = er.IDTokenHintClaims.SessionID
	}
	s, live, err := c.h.browserSession(ctx, req)
	if err != nil || !live || w.sid == s.ID {
		return w, err
	}
	all, posted := req.logoutForm()
	if req.http.Method != http.MethodPost || !c.h.confirms(posted.Get(confirmField), &s, c.h.now()) ||
		!fromOwnPage(req.http, s.Subject.Issuer) {
		w.ask = &LogoutPage{Confirm: c.confirmation(req, er, &s, all)}
		return w, nil
	}
	if posted.Get(answerField) != "yes" {
		w.ask = &LogoutPage{Stayed: true}
		return w, nil
	}
	confirmed := logoutTarget{sid: s.ID, user: s.Subject.ID, confirmed: &s}
	if w.user == confirmed.user {
		// The application's own, such as that of a native one, which has no
		// part in the browser's: it is what the user meant to sign out of.
		confirmed.hinted = w.sid
	}
	return confirmed, nil
}

// confirmation is the form that asks. It sends the application's parameters
// again, so that op judges them again.
func (c *core) confirmation(req *request, er *op.EndSessionRequest, s *store.Session, all url.Values) *LogoutConfirm {
	f := &LogoutConfirm{Action: sameAddress(req.http.URL.Path), Client: er.ClientID}
	if to, err := url.Parse(er.RedirectURI); err == nil && !strings.EqualFold(to.Host, req.http.Host) {
		f.To = to.Host
	}
	delete(all, confirmField)
	delete(all, answerField)
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range all[name] {
			f.Hidden = append(f.Hidden, LogoutField{name, value})
		}
	}
	f.Hidden = append(f.Hidden, LogoutField{confirmField, c.h.sealConfirm(s, c.h.now())})
	return f
}

// sameAddress is a reference to the address that a browser is at, without its
// query. What is in front of the last part of the path may be somebody else's, such
// as a proxy's.
func sameAddress(p string) string { return "./" + p[strings.LastIndexByte(p, '/')+1:] }

// leave waits until the applications of a session that was signed out of were
// told once, which RP-Initiated Logout 1.0 section 2 wants before the user goes
// on, but not for longer than Logout.Timeout. It makes the page that tells those
// that are told through the browser.
func (c *core) leave(ctx context.Context, req *request, ended []endedLogout, redirect string) {
	wait, cancel := context.WithTimeout(ctx, c.h.cfg.Logout.Timeout)
	defer cancel()
	var frames []string
	for i := range ended {
		select {
		case <-ended[i].told:
		case <-wait.Done():
		}
		frames = append(frames, c.h.frames(ctx, &ended[i].session)...)
	}
	if len(frames) > 0 {
		req.page = &LogoutPage{Frames: frames, Continue: redirect, Seconds: logoutSeconds}
	}
}

// errFrontChannel is why an application is not told through the browser.
var errFrontChannel = errors.New("frontchannel_logout_uri is not an address that a frame may have")

// frames returns the addresses that tell the applications of a session of its
// end: Front-Channel Logout 1.0 section 2. An application whose address cannot be
// had is left out: it has the back channel.
func (h *pages) frames(ctx context.Context, s *store.Session) []string {
	if !h.cfg.Logout.FrontChannel {
		return nil
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	var frames []string
	for _, client := range notify.Clients(s) {
		uris, err := h.cfg.Logout.URIs(ctx, client)
		if err != nil || uris.FrontChannel == "" {
			continue
		}
		u, err := notify.CheckURI(uris.FrontChannel, h.cfg.Logout.Loopback)
		if err != nil || origin(u) == "" {
			h.event(ctx, Event{Type: EventDeliveryFailed, Subject: s.Subject, SID: s.ID, Client: client, Kind: s.Kind, Reason: s.End.Reason, Err: errFrontChannel})
			continue
		}
		q := u.Query()
		q.Set("iss", s.Subject.Issuer)
		q.Set("sid", s.ID)
		u.RawQuery = q.Encode()
		frames = append(frames, u.String())
	}
	return frames
}

// origin returns where a frame comes from, as a Content-Security-Policy names it;
// empty if it cannot.
func origin(u *url.URL) string {
	if strings.ContainsFunc(u.Host, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(".-_:[]", c))
	}) {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// writeLogoutPage writes a page instead of what op has written.
func (h *pages) writeLogoutPage(w http.ResponseWriter, r *http.Request, p *LogoutPage) {
	p.PageTexts, p.Nonce = textsFor(r), newStyleNonce()
	frames := "'none'"
	if origins := originsOf(p.Frames); len(origins) > 0 {
		frames = strings.Join(origins, " ")
	}
	// No form-action: it would keep the browser from where op redirects to.
	h.execute(w, r, http.StatusOK, ownPolicy(p.Nonce)+"; frame-src "+frames, p,
		ownTemplate{"Logout.Template", h.cfg.Logout.Template, defaultLogoutTemplate})
}

func originsOf(addresses []string) []string {
	var list []string
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil {
			continue
		}
		if o := origin(u); !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	return list
}

// TerminateSessionFromRequest ends the session that the hint names, the "sid" of
// an ID token that op has verified (RP-Initiated Logout 1.0 section 2), or the
// browser's, once its user has said so.
func (c *core) TerminateSessionFromRequest(ctx context.Context, er *op.EndSessionRequest) (string, error) {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return "", c.noHandler(ctx)
	}
	if err := c.issued(ctx); err != nil {
		return "", err
	}
	if err := c.checkLogoutHint(ctx, req, er); err != nil {
		return "", err
	}
	w, err := c.whoseLogout(ctx, req, er)
	if err != nil {
		return "", c.outage(ctx, req, err)
	}
	if w.ask != nil {
		req.page = w.ask
		return er.RedirectURI, nil // which the page takes the place of
	}
	redirect := er.RedirectURI
	own, precise := c.Storage.(op.CanTerminateSessionFromRequest)
	if precise {
		var err error
		if redirect, err = own.TerminateSessionFromRequest(ctx, w.request(er)); err != nil {
			return "", err
		}
	}
	last := true
	var ended []endedLogout
	if w.user != "" {
		var err error
		if last, ended, err = c.logout(ctx, w.user, er.ClientID, w.sid, w.hinted); err != nil {
			return "", c.outage(ctx, req, err)
		}
	}
	if !precise && last {
		if err := c.Storage.TerminateSession(ctx, w.user, er.ClientID); err != nil {
			return "", err
		}
	}
	// The browser keeps its cookie, which is good for nothing any more but to say
	// why: without it the provider's own sign-on could continue what has ended.
	c.leave(ctx, req, ended, redirect)
	return redirect, nil
}

// An endedLogout is a session that a logout ended, and when its applications were
// told.
type endedLogout struct {
	session store.Session
	told    <-chan struct{}
}

// logout ends sessions of a subject, and reports whether none with the client is
// left that is live: TerminateSession of a typical storage ends them all. An empty
// ID is none: a hint from before the installation has no other.
func (c *core) logout(ctx context.Context, userID, clientID string, sids ...string) (last bool, ended []endedLogout, err error) {
	h := c.h
	ctx = context.WithoutCancel(ctx) // of which each step has a time of its own: OnEnd may use up its
	subject := subjectOf(ctx, userID)
	for _, sid := range sids {
		if sid == "" {
			continue
		}
		s, told, err := c.logoutOf(ctx, subject, sid)
		if err != nil {
			return false, ended, err
		}
		if told != nil {
			ended = append(ended, endedLogout{s, told})
		}
	}
	for _, err := range paged.All(func(cursor string) ([]store.Session, string, error) {
		return h.List(ctx, store.Filter{Subject: subject, Client: clientID, State: store.Unended}, cursor, 100)
	}) {
		if errors.Is(err, store.ErrUnreadable) {
			err = nil // it may be one that is live
		}
		return false, ended, err
	}
	return true, ended, nil
}

// logoutOf ends one session, if it is the subject's and has not ended; told is nil
// if not.
func (c *core) logoutOf(ctx context.Context, subject store.Subject, sid string) (s store.Session, told <-chan struct{}, err error) {
	h := c.h
	ctx, cancel := h.detach(ctx)
	defer cancel()
	s, err = h.getOrLost(ctx, sid)
	if errors.Is(err, store.ErrNotFound) || err == nil && (s.Subject != subject || s.End != nil) {
		return s, nil, nil
	}
	if err != nil {
		return s, nil, err
	}
	return h.endTelling(ctx, s, h.rulesToEnd(ctx, &s), policy.ReasonLogout, subject.ID)
}

// TerminateSession is called by op only where TerminateSessionFromRequest is
// missing, which it is not. An embedder who calls it means the user's sessions
// with the client, as the storage does.
func (c *core) TerminateSession(ctx context.Context, userID, clientID string) error {
	return c.Storage.TerminateSession(ctx, userID, clientID)
}
