// Rp is a small web application that signs its users in at an OpenID provider: an
// example of what package middleware does for an application. It keeps notes.
//
// Start it beside examples/op, which knows it, or give it another provider:
//
//	rp -issuer https://login.example.com -client-id notes -url https://notes.example.com
//
//	main.go    start and end
//	config.go  flags, and the file with the key
//	notes.go   the application: it asks middleware.SessionFrom who it is, and nothing else
//	static/    the countdown and the script call
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
	"syscall"
	"time"

	"github.com/curfew-oidc/curfew/middleware"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr), os.Stderr))
}

// exitCode says what went wrong: 2 for what the operator gave, 1 for the rest.
func exitCode(err error, stderr io.Writer) int {
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		if !usage.said {
			fmt.Fprintln(stderr, "rp:", err)
		}
		return 2
	}
	fmt.Fprintln(stderr, "rp:", err)
	return 1
}

// run is the whole program. It returns when the context ends, and everything is
// put away.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	c, err := parseConfig(args, getenv, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	key, err := c.openKey()
	if err != nil {
		return &usageError{err: fmt.Errorf("-key: %w", err)}
	}
	store, closeStore, err := c.openStore(ctx)
	if err != nil {
		return &usageError{err: fmt.Errorf("-store: %w", err)}
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return &usageError{err: fmt.Errorf("-listen: %w", err)}
	}
	defer listener.Close() // again: the server closes it, if there is one
	if c.url == "" {
		c.url = "http://" + listener.Addr().String()
	}

	rp, err := middleware.New(middleware.Config{
		Issuer: c.issuer, ClientID: c.clientID, ClientSecret: c.clientSecret,
		RedirectURL: c.url + "/cb", PostLogoutURL: c.url + "/",
		Keys: [][]byte{key}, Store: store, InCookies: c.store == "cookies",
		Events: middleware.LogEvents(log),
	})
	if err != nil {
		return &usageError{err: err}
	}
	server := &http.Server{
		Handler:           newNotes(c).handler(rp),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second, // a refresh may take 10
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("started", "url", c.url, "listen", listener.Addr().String(), "issuer", c.issuer, "store", c.store)
	if _, err := fmt.Fprintf(stdout, "The application %s is ready: open it in a browser and sign in.\n", c.url); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(draining); err != nil {
		return errors.Join(fmt.Errorf("not all requests were answered: %w", err), server.Close())
	}
	return nil
}
