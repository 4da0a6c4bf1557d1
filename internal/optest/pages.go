package optest

import (
	"html/template"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// pages are the sign-in pages of the provider: what op leaves to the embedder.
type pages struct {
	storage  *Storage
	provider *op.Provider
	issuer   string
}

const ssoCookie = "optest_sso"

var form = template.Must(template.New("").Parse(`<!doctype html>
<title>{{.Title}}</title><p>{{.Error}}</p>
<form method="post" action="{{.Action}}">
<input type="hidden" name="{{.IDName}}" value="{{.ID}}">
<input name="username"><input name="password" type="password">
<button name="action" value="allow">Allow</button><button name="action" value="deny">Deny</button>
</form>`))

type formData struct{ Title, Error, Action, IDName, ID string }

func (p *pages) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /login", p.loginPage)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("GET /device", p.devicePage)
	mux.HandleFunc("POST /device", p.device)
	mux.HandleFunc("GET /signed-out", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("signed out")) })
}

func show(w http.ResponseWriter, status int, d formData) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = form.Execute(w, d) // the connection is gone: nobody is there to be told
}

func (p *pages) loginPage(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("authRequestID")
	done, mayAsk, err := p.storage.signedIn(r.Context(), id, cookieValue(r))
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case done:
		p.callback(w, r, id)
	case !mayAsk:
		// From the decorated storage: its answer is an authorization response.
		req, err := p.provider.Storage().AuthRequestByID(op.ContextWithIssuer(r.Context(), p.issuer), id)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		op.AuthRequestError(w, r, req, oidc.ErrLoginRequired(), p.provider)
	default:
		show(w, http.StatusOK, formData{Title: "Sign in", Action: "/login", IDName: "id", ID: id})
	}
}

func (p *pages) login(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	cookie, err := p.storage.signIn(r.Context(), id, r.FormValue("username"), r.FormValue("password"), cookieValue(r))
	if err != nil {
		show(w, http.StatusForbidden, formData{Title: "Sign in", Error: err.Error(), Action: "/login", IDName: "id", ID: id})
		return
	}
	if cookie != "" {
		http.SetCookie(w, &http.Cookie{Name: ssoCookie, Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
	p.callback(w, r, id)
}

func (p *pages) callback(w http.ResponseWriter, r *http.Request, id string) {
	http.Redirect(w, r, op.AuthCallbackURL(p.provider)(op.ContextWithIssuer(r.Context(), p.issuer), id), http.StatusFound)
}

func (p *pages) devicePage(w http.ResponseWriter, r *http.Request) {
	show(w, http.StatusOK, formData{Title: "Device", Action: "/device", IDName: "user_code", ID: r.FormValue("user_code")})
}

func (p *pages) device(w http.ResponseWriter, r *http.Request) {
	code := r.FormValue("user_code")
	err := p.storage.decideDevice(code, r.FormValue("username"), r.FormValue("password"), r.FormValue("action") != "deny")
	if err != nil {
		show(w, http.StatusForbidden, formData{Title: "Device", Error: err.Error(), Action: "/device", IDName: "user_code", ID: code})
		return
	}
	_, _ = w.Write([]byte("You can return to your device."))
}

// endSSO forgets the browser's sign-in when it signs out, as a provider with a
// single sign-on does.
func (p *pages) endSSO(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cookie := cookieValue(r); cookie != "" && r.URL.Path == p.provider.EndSessionEndpoint().Relative() {
			p.storage.endSSO(cookie)
		}
		next.ServeHTTP(w, r)
	})
}

func cookieValue(r *http.Request) string {
	c, err := r.Cookie(ssoCookie)
	if err != nil {
		return ""
	}
	return c.Value
}
