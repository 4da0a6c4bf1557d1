// Minimal is the smallest OpenID provider whose logins end when the policy says so:
// op, the storage of its own example, one page to sign in at, and the hook. Read
// newProvider first. To see a login be refused, and end, start it and then the
// web application, and sign in from three browsers as test-user2, verysecure:
//
//	go run ./minimal
//	CURFEW_RP_CLIENT_SECRET=secret go run ./rp -client-id web
//
// It forgets everything when it ends. The example for production is examples/op.
package main

import (
	"context"
	"html/template"
	"log"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store/memstore"
)

const issuer = "http://127.0.0.1:9998"

func main() {
	hook, handler, err := newProvider()
	if err != nil {
		log.Fatal(err)
	}
	// Ends what nobody uses any more. The limits hold without it.
	go func() { log.Print(hook.Run(context.Background())) }()
	log.Print("starting at ", issuer)
	log.Fatal(http.ListenAndServe("127.0.0.1:9998", handler))
}

// newProvider makes a provider of which a user may have two logins, each for twelve
// hours, and none that is left alone for half an hour.
func newProvider() (*provider.Hook, http.Handler, error) {
	application := storage.WebClient("web", "secret", "http://127.0.0.1:9999/cb")
	users := storage.NewStorageWithClients(storage.NewUserStore(issuer), map[string]*storage.Client{"web": application})

	hook, err := provider.New(provider.Config{
		Store: memstore.New(),
		Keys:  provider.Keys{provider.NewKey(time.Now())},
		Settings: provider.StaticSettings{Accounts: map[string]policy.Account{"default": {Limits: policy.Limits{
			Active:     policy.LimitTo(12 * time.Hour),
			Inactivity: policy.LimitTo(30 * time.Minute),
			Concurrent: policy.LimitTo(2),
		}}}},
	})
	if err != nil {
		return nil, nil, err
	}
	p, err := op.NewProvider(&op.Config{
		CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
	}, hook.Storage(users), op.StaticIssuer(issuer), op.WithAllowInsecure())
	if err != nil {
		return nil, nil, err
	}

	page := &signIn{hook: hook, users: users, callback: op.AuthCallbackURL(p)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login/username", page.show)
	mux.HandleFunc("POST /login/username", page.check)
	mux.Handle("/", p)
	handler := hook.Handler(mux)
	return hook, handler, hook.Check(context.Background(), p)
}

// signIn is the page to sign in at, which op leaves to its embedder.
type signIn struct {
	hook     *provider.Hook
	users    *storage.Storage
	callback func(ctx context.Context, authRequestID string) string
}

var form = template.Must(template.New("").Parse(`<!doctype html><title>Sign in</title>
<p>{{.Why}}</p>
<form method="post">
<input type="hidden" name="authRequestID" value="{{.AuthRequest}}">
<label>User <input name="username"></label>
<label>Password <input name="password" type="password"></label>
<button>Sign in</button>
</form>`))

// show asks for a password, and says why the browser's last login is over.
func (p *signIn) show(w http.ResponseWriter, r *http.Request) {
	ended, _ := p.hook.BrowserSession(r, issuer) // without it the page says nothing of it
	p.ask(w, r, http.StatusOK, provider.Describe(ended))
}

// check takes a password, from the browser that the login began in.
func (p *signIn) check(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("authRequestID")
	if !p.hook.StartedHere(r, issuer, id) {
		http.Error(w, "begin again at the application", http.StatusForbidden)
		return
	}
	if err := p.users.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
		p.ask(w, r, http.StatusForbidden, err.Error())
		return
	}
	http.Redirect(w, r, p.callback(op.ContextWithIssuer(r.Context(), issuer), id), http.StatusFound)
}

func (p *signIn) ask(w http.ResponseWriter, r *http.Request, status int, why string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = form.Execute(w, map[string]string{"Why": why, "AuthRequest": r.FormValue("authRequestID")}) // nobody is left to tell
}
