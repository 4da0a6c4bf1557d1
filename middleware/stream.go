package middleware

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// streamLook is how often a stream looks whether its session has been ended
	// elsewhere, by another process perhaps.
	streamLook = 30 * time.Second

	// streamGoodbye is what a handler has to write its last words, once the
	// context of the request has ended.
	streamGoodbye = time.Second
)

// watch serves an event stream or a WebSocket, and closes it when its session is
// over, or can be told to go on by the provider alone. The context of the request ends
// then, with the [SignedOutError] or the [UnavailableError] as its cause; a second later
// writes fail, and a connection that was taken over is closed.
func (rp *RelyingParty) watch(w http.ResponseWriter, r *http.Request, h *held, next http.Handler) {
	ctx, cancel := context.WithCancelCause(r.Context())
	sw := &streamWriter{ResponseWriter: w, done: make(chan struct{})}
	go func() {
		if why := rp.sessions.untilOver(h.id, sw.done); why != nil {
			cancel(why)
			sw.close()
		}
	}()
	defer func() {
		cancel(nil)
		if !sw.hijacked() {
			sw.stop()
		}
	}()
	next.ServeHTTP(sw, r.WithContext(ctx))
}

// A streamWriter knows the connection, if the handler takes it over.
type streamWriter struct {
	http.ResponseWriter
	mu   sync.Mutex
	conn net.Conn
	once sync.Once
	done chan struct{} // the stream is over
}

// Unwrap serves http.ResponseController.
func (w *streamWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush serves handlers that look for an http.Flusher.
func (w *streamWriter) Flush() {
	// http.Flusher has no error, so the caller is not told if the writer below cannot
	// flush.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack serves WebSockets.
func (w *streamWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = conn
	return &streamConn{Conn: conn, stop: w.stop}, rw, nil
}

func (w *streamWriter) hijacked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn != nil
}

func (w *streamWriter) stop() { w.once.Do(func() { close(w.done) }) }

// close ends the stream after a moment.
func (w *streamWriter) close() {
	if !w.hijacked() {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(streamGoodbye)) // not all can
		return
	}
	t := time.NewTimer(streamGoodbye)
	defer t.Stop()
	select {
	case <-t.C:
		_ = w.conn.Close() // it is over either way
	case <-w.done:
	}
}

// A streamConn ends the watch when it is closed.
type streamConn struct {
	net.Conn
	stop func()
}

func (c *streamConn) Close() error {
	c.stop()
	return c.Conn.Close()
}
