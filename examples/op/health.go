package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// A health answers who watches over the process: a supervisor, which starts it
// again if it is not up, and a balancer, which sends nobody to where the
// database cannot be reached. These are two questions: to start again a process
// that waits for its database helps nobody.
type health struct {
	// ready returns nil if a login could be made now.
	ready func(ctx context.Context) error
	log   *slog.Logger

	ending atomic.Bool // requests that have begun are answered, and then it ends

	mu    sync.Mutex
	asked time.Time
	last  error
}

const (
	// readyTimeout is for an answer of the store that is still worth sending
	// somebody here. A balancer gives up after a few seconds.
	readyTimeout = time.Second

	// readyFor is how long an answer holds, so that nobody puts load on the
	// database by asking.
	readyFor = time.Second
)

// handler answers GET /healthz and /readyz, and leaves the rest to next.
func (h *health) handler(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h.answer(w, http.StatusOK, "up")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if h.ending.Load() {
			h.answer(w, http.StatusServiceUnavailable, "ending")
			return
		}
		switch err := h.check(r.Context()); { // which is for the log: anybody may ask
		case errors.Is(err, provider.ErrStoreLost):
			h.answer(w, http.StatusServiceUnavailable, "the database has lost its data")
		case err != nil:
			h.answer(w, http.StatusServiceUnavailable, "the database cannot be reached")
		default:
			h.answer(w, http.StatusOK, "ready")
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
			mux.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h *health) answer(w http.ResponseWriter, status int, text string) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusServiceUnavailable {
		header.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // who asked may have gone
}

// check asks the store, for all who want to know at the same time.
func (h *health) check(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.asked.IsZero() && time.Since(h.asked) < readyFor {
		return h.last
	}
	// It is not only for who asked first, and may have gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	err := h.ready(ctx)
	switch {
	case err != nil && h.last == nil:
		h.log.Error("not ready", "error", err)
	case err == nil && h.last != nil:
		h.log.Info("ready again")
	}
	h.asked, h.last = time.Now(), err
	return err
}

// readiness writes a record and admits nobody, because what can only be read, such
// as a standby, is not ready for a login. It asks whether the store is the one that it
// was, for the memory of the keys, and for the settings.
func readiness(st *storage, db *database, settings provider.SettingsSource, storeID func(context.Context) (string, error)) func(ctx context.Context) error {
	nobody := store.Subject{Issuer: "examples/op", ID: "readyz"}
	return func(ctx context.Context) error {
		if _, err := storeID(ctx); err != nil {
			return fmt.Errorf("sessions: %w", err)
		}
		if err := st.probe(ctx); err != nil {
			return fmt.Errorf("records: %w", err)
		}
		if _, err := db.sessions.Document(ctx, ringDocument); err != nil {
			return fmt.Errorf("sessions: %w", err)
		}
		admit := func([]store.Session, store.Fence) ([]store.Session, error) { return nil, nil }
		if err := db.sessions.Admit(ctx, nobody, admit); err != nil {
			return fmt.Errorf("sessions: %w", err)
		}
		// A store that would begin no session, as a Redis that evicts, says so before it
		// says that there is no room.
		none := store.Session{Format: store.Format, ID: store.Bucket(nobody) + "-readyz", Subject: nobody, Started: time.Now()}
		if err := db.sessions.Create(ctx, none, 0); !errors.Is(err, store.ErrFull) {
			return fmt.Errorf("sessions: %w", err)
		}
		if _, err := settings.Account(ctx, "default"); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
		return nil
	}
}
