// Op is a complete OpenID provider whose logins end when the policy says so: an
// example in size, production in conduct.
//
// It embeds op by op.NewProvider, with the two lines that install Curfew (see
// newServer). Everything that it has to remember is in one database, beside the
// login sessions: a restart loses nothing, and a login may begin at one process
// and end at another. Start it without flags for a provider with demo users.
//
//	main.go      start and end
//	config.go    flags
//	storeurl.go  where everything is kept, with database.go
//	health.go    for whatever watches the process, with metrics.go
//	keys.go      the keys file, and what the store remembers of it
//	users.go     the users file, passwords
//	clients.go   the clients file
//	settings.go  the settings file
//	logout.go    how applications are told that a session ended
//	admin.go     who may use the settings and sessions API
//	console.go   the console for administrators, and their sign-in to it
//	storage.go   op.Storage, with device.go and exchange.go
//	metadata.go  what applications find out about the provider
//	pages.go     what people see, with sessions.go
//	guard.go     headers and errors of all responses
//	throttle.go  against guessing
//	strict.go    JSON without surprises
//	demo.go      what is there without files
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr), os.Stderr))
}

// exitCode says what went wrong: 2 for what the operator gave, 1 for the rest.
func exitCode(err error, stderr io.Writer) int {
	var usage *usageError
	var quiet *quietError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &quiet):
		return 2
	}
	fmt.Fprintln(stderr, "op:", err)
	if errors.As(err, &usage) || errors.Is(err, errArguments) {
		return 2
	}
	return 1
}

// run is the whole program. It returns when the context ends, and everything is
// put away.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	c, err := parseConfig(args, getenv, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: withoutState}))
	// op logs through the default logger and no other.
	slog.SetDefault(log)

	us, clients, err := readPeople(c)
	if err != nil {
		return err
	}
	var file *fileSettings
	if c.settings != "" {
		file = &fileSettings{path: c.settings, allowed: rangeFrom(c.floor)}
		if err := file.load(); err != nil {
			return &usageError{"settings", err}
		}
		if c.checkSettings {
			return explainSettings(stdout, *file.current.Load(), us, clients, c.baseline)
		}
	}

	if c.needsState {
		if err := os.MkdirAll(c.state, 0o700); err != nil {
			return &usageError{"store", fmt.Errorf("the default folder of -store and -keys cannot be created: %w", err)}
		}
	}
	db, err := openDatabase(ctx, c.store)
	switch {
	case err != nil && c.store.remote():
		return fmt.Errorf("-store: %w", err) // it may be up again when this program is started again
	case err != nil:
		return &usageError{"store", err}
	}
	defer func() { err = errors.Join(err, db.close()) }()
	keys, err := openKeys(ctx, c.keys, c.signingAlg, db.sessions, c.acceptEmptyStore || !c.store.lasts(), time.Now())
	if err != nil {
		return err
	}
	if !c.store.lasts() {
		keys.storeID = "" // of another store
	}
	var settings provider.SettingsSource = storedSettings{db.sessions}
	a := administration{allowed: rangeFrom(c.floor), deployment: deployment(c.baseline, us, clients)}
	if file != nil {
		settings = file
		a.readOnly = "They are in the settings file of the server, which reads it again on SIGHUP."
	} else if c.importFrom != "" {
		if err := importSettings(ctx, db.sessions, c.importFrom, a.allowed, time.Now(), log); err != nil {
			return err
		}
	} else if err := seedSettings(ctx, db.sessions, c.floor, log); err != nil {
		return err
	}

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return &usageError{"listen", err}
	}
	defer listener.Close() // again: the server closes it, if there is one
	issuer := c.issuer
	if issuer == "" {
		issuer = "http://" + listener.Addr().String()
	}
	events := provider.Audit(log)
	if c.metrics != "" {
		m, err := serveMetrics(ctx, c.metrics, log)
		if err != nil {
			return &usageError{"metrics", err}
		}
		defer m.close()
		db.sessions, events = m.Store(db.sessions), provider.Tee(m.Event, events)
	}
	st := &storage{kv: db.records, users: us, clients: clients, keys: keys}
	server, hook, err := newServer(ctx, issuer, st, db, settings, logoutOf(issuer, clients, c.logoutAllow), a, events, log)
	if err != nil {
		return err
	}

	if c.store.lasts() {
		if err := knowStore(ctx, hook, keys, c, log); err != nil {
			return err
		}
	}

	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait() // before the database is closed
	defer stop()
	wg.Go(func() { _ = hook.Run(background) }) // it returns when the context ends, with its error
	wg.Go(func() { sweep(background, st, log) })
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	wg.Go(func() {
		for {
			select {
			case <-background.Done():
				return
			case <-hup:
				if file == nil {
					log.Info("there is no settings file to read again")
					continue
				}
				file.reload(log)
			}
		}
	})

	health := &health{ready: readiness(st, db, settings, hook.StoreID), log: log}
	server.Handler = health.handler(server.Handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("started", "issuer", issuer, "listen", listener.Addr().String(), "store", c.store.where, "keys", c.keys)
	if err := greet(stdout, issuer, c); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	health.ending.Store(true)
	log.Info("ending: answering the requests that have begun")
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(draining); err != nil {
		return errors.Join(fmt.Errorf("not all requests were answered: %w", err), server.Close())
	}
	return nil
}

// knowStore has the keys file say which store the keys are used with. A store that has
// lost what it had is accepted if the operator says so, and else an outage that they
// can end without a new start, by putting it back.
func knowStore(ctx context.Context, hook *provider.Hook, keys *keys, c config, log *slog.Logger) error {
	id, err := hook.StoreID(ctx)
	lost := errors.Is(err, provider.ErrStoreLost)
	switch {
	case lost && c.acceptEmptyStore:
		if id, err = hook.AcceptStore(ctx); err != nil {
			return err
		}
		log.Warn("the store is accepted as new", "store_id", id, "before", keys.storeID)
	case lost:
		log.Error("no login is admitted until the store's data is restored, or this program is started with -accept-empty-store", "error", err)
		return nil
	case err != nil:
		return err
	case c.acceptEmptyStore:
		log.Warn("-accept-empty-store is not needed: the store has lost nothing")
	}
	if id == keys.storeID {
		return nil
	}
	if err := markKeys(c.keys, id); err != nil {
		log.Warn("no file beside the keys names their store, so an empty store would be accepted as new: write the ID to the file KEYS.store, where KEYS is the keys file",
			"store_id", id, "error", err)
	}
	return nil
}

// withoutState keeps "state" out of the log, which op writes there with errors:
// it is what protects the application's callback.
func withoutState(_ []string, a slog.Attr) slog.Attr {
	if a.Key == "state" || a.Key == "session_state" {
		return slog.Attr{}
	}
	return a
}

func readPeople(c config) (*users, map[string]*client, error) {
	us, err := newOrRead(c.users, parseUsers, func() (*users, error) { return newUsers(demoUsers()) })
	if err != nil {
		return nil, nil, &usageError{"users", err}
	}
	clients, err := newOrRead(c.clients, parseClients, func() (map[string]*client, error) { return newClients(demoClients()) })
	if err != nil {
		return nil, nil, &usageError{"clients", err}
	}
	if clients[consoleID] != nil || us.bySubject[consoleID] != nil {
		return nil, nil, &usageError{"clients", fmt.Errorf("%q is the client_id of the provider's own console", consoleID)}
	}
	for id := range clients {
		if us.bySubject[id] != nil {
			// A token of the client would look like the user's: RFC 9700 section 4.15.
			return nil, nil, &usageError{"users", fmt.Errorf("%q is the sub of a user and a client_id", id)}
		}
	}
	return us, clients, nil
}

func newOrRead[T any](path string, parse func([]byte) (T, error), demo func() (T, error)) (v T, err error) {
	if path == "" {
		return demo()
	}
	body, err := readFile(path)
	if err != nil {
		return v, err
	}
	if v, err = parse(body); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// sweepEvery is how often records that are over are removed.
const sweepEvery = time.Minute

func sweep(ctx context.Context, st *storage, log *slog.Logger) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := st.sweep(ctx); err != nil && ctx.Err() == nil {
			log.Error("expired records could not be removed; the program tries again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// maxBody bounds what a request may send: more than any token or form here.
const maxBody = 64 << 10

// newServer puts the provider together.
func newServer(ctx context.Context, issuer string, st *storage, db *database, settings provider.SettingsSource, logout provider.Logout, a administration, events func(context.Context, provider.Event), log *slog.Logger) (*http.Server, *provider.Hook, error) {
	own := settings
	if _, stored := settings.(storedSettings); stored {
		own = nil // the hook reads them itself, and notices if they are gone
	}
	hook, err := provider.New(provider.Config{
		Store: db.sessions, StoreID: st.keys.storeID, Keys: st.keys.sealing, Settings: own,
		Membership: st.users.membership, OnEnd: st.ended, Logout: logout, Events: events,
		SessionsURL: issuer + sessionsPath,
	})
	if err != nil {
		return nil, nil, err
	}
	st.end = hook.End

	config := &op.Config{
		CryptoKey: st.keys.crypto, CryptoKeyId: st.keys.cryptoID(),
		DefaultLogoutRedirectURI: "/",
		CodeMethodS256:           true, AuthMethodPost: true, GrantTypeRefreshToken: true,
		SupportedScopes: supportedScopes,
		SupportedClaims: []string{"sub", "aud", "exp", "iat", "iss", "auth_time", "nonce", "amr", "azp", "sid", "session_expiry", "acr", "name", "preferred_username", "email", "email_verified"},
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime: deviceLifetime, PollInterval: deviceInterval, UserFormPath: "/device", UserCode: op.UserCodeBase20,
		},
	}
	options := []op.Option{
		// Not op's own choice, which also decrypts an older form that nobody
		// has authenticated.
		op.WithCrypto(op.NewAES256GCMCrypto(config.CryptoKey, config.CryptoKeyId)),
	}
	p := &pages{issuer: issuer, storage: st, hook: hook, settings: settings, guesses: newGuesses(), log: log}
	if p.secure = strings.HasPrefix(issuer, "https:"); !p.secure {
		options = append(options, op.WithAllowInsecure()) // on loopback: see checkIssuer
	}
	if p.provider, err = op.NewProvider(config, hook.Storage(st), op.StaticIssuer(issuer), options...); err != nil {
		return nil, nil, err
	}
	if st.clients[consoleID], err = consoleClient(issuer, st.keys); err != nil {
		return nil, nil, err
	}
	handler, err := p.handler()
	if err != nil {
		return nil, nil, err
	}
	api, err := p.api(db.sessions, a)
	if err != nil {
		return nil, nil, err
	}
	all := http.NewServeMux()
	guarded := p.guard(all)
	console, err := p.console(api, guarded)
	if err != nil {
		return nil, nil, err
	}
	all.Handle("/v1/", api) // it bounds bodies itself: a settings document may be larger
	all.Handle(consolePath, console)
	all.Handle("/", hook.Handler(http.MaxBytesHandler(handler, maxBody)))
	if err := hook.Check(ctx, p.provider); errors.Is(err, provider.ErrMisconfigured) { // the store has its turn later
		return nil, nil, err
	}
	return &http.Server{
		Handler:           guarded,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second, // ten times the hook's StoreTimeout: a refresh that waits for others takes several
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}, hook, nil
}
