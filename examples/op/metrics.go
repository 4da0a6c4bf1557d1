package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/curfew-oidc/curfew/provider/metrics"
)

// A metricsServer serves metrics to Prometheus, on a listener of its own: how
// many people sign in is nothing for the public.
type metricsServer struct {
	*metrics.Metrics
	server *http.Server
}

// serveMetrics starts the server.
func serveMetrics(ctx context.Context, address string, log *slog.Logger) (*metricsServer, error) {
	m := metrics.New(metrics.Config{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
	}))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s := &metricsServer{m, &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}}
	go func() { _ = s.server.Serve(listener) }() // it returns when the server is closed
	log.Info("metrics", "address", "http://"+listener.Addr().String()+"/metrics")
	return s, nil
}

// close ends it. What Prometheus is being told may be cut off: it asks again.
func (s *metricsServer) close() { _ = s.server.Close() }
