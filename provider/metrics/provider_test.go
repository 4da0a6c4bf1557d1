package metrics_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/metrics"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/tracestore"
)

// A provider as an embedder would have it: what happens to it is what Prometheus
// is told, and no more; nobody and nothing is named.
func TestWhatHappensIsWhatIsCounted(t *testing.T) {
	var account policy.Account
	account.Active, account.Inactivity = policy.LimitTo(24*time.Hour), policy.LimitTo(2*time.Hour)
	account.Concurrent, account.AtLimit = policy.LimitTo(2), policy.Refuse
	counted := faultstore.New(memstore.New())
	var log bytes.Buffer
	var ahead atomic.Int64

	m := metrics.New(metrics.Config{StatsMaxAge: -1})
	r := registered(t, m)
	hook, err := provider.New(provider.Config{
		Store:    m.Store(counted),
		Events:   provider.Tee(m.Event, provider.Audit(slog.New(slog.NewTextHandler(&log, nil)))),
		Keys:     provider.Keys{provider.NewKey(time.Now())},
		Settings: provider.StaticSettings(policy.Settings{Accounts: map[string]policy.Account{"default": account}}),
		Now:      func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	require.NoError(t, err)
	s := optest.Start(t, optest.Config{Hook: hook})
	ok := func(r optest.Reply) optest.Reply {
		t.Helper()
		require.Equal(t, http.StatusOK, r.Status, r.Body)
		return r
	}
	refused := func(r optest.Reply, reason policy.Reason) {
		t.Helper()
		require.Equal(t, reason, policy.ReasonOf(r.Description()), r.Body)
	}

	// Two are let in, the third is not; a code that was never redeemed is no
	// admission.
	web := s.Login(optest.Web, "alice")
	cli := ok(s.DeviceLogin(optest.Native, "alice"))
	require.Equal(t, "access_denied", s.Browser().Login(optest.Web2, "alice", nil).Error())
	require.NotEmpty(t, s.Browser().Login(optest.Web, "carol", nil).Code())

	// A refresh, two repeats of it, one of them from elsewhere, and a replay.
	next := ok(s.Refresh(optest.Web, web.RefreshToken()))
	ok(s.Refresh(optest.Web, web.RefreshToken()))
	ok(s.PostFrom(s.ClientFrom("127.0.0.6"), "/oauth/token", optest.Web,
		url.Values{"grant_type": {"refresh_token"}, "refresh_token": {web.RefreshToken()}}))
	last := ok(s.Refresh(optest.Web, next.RefreshToken()))
	ahead.Store(int64(time.Minute)) // the grace is over
	refused(s.Refresh(optest.Web, web.RefreshToken()), policy.ReasonReplay)
	refused(s.Refresh(optest.Web, last.RefreshToken()), policy.ReasonReplay)

	// Ends of other kinds.
	sid := s.Claim(optest.Native, cli, "sid")
	require.NoError(t, hook.End(t.Context(), sid, policy.ReasonEndedByAdmin, "root"))
	refused(s.Refresh(optest.Native, cli.RefreshToken()), policy.ReasonEndedByAdmin)
	bob := s.Login(optest.Web, "bob")
	s.Browser().EndSession(url.Values{"id_token_hint": {bob.IDToken()}})
	bobs, err := hook.Session(t.Context(), s.Claim(optest.Web, bob, "sid"))
	require.NoError(t, err)
	require.Equal(t, policy.ReasonLogout, bobs.End.Reason)

	// The store is away for a moment.
	counted.Script(faultstore.Always(faultstore.Before))
	require.Equal(t, http.StatusServiceUnavailable, s.Refresh(optest.Web, bob.RefreshToken()).Status)
	counted.Script(nil)

	got := samples(t, r)
	happened := map[string]float64{}
	for name, value := range got {
		if value != 0 && !strings.HasPrefix(name, "curfew_store_") {
			happened[name] = value
		}
	}
	require.Equal(t, map[string]float64{
		`curfew_sessions{state="unended"}`:                       1, // carol's, which waits for its code
		`curfew_sessions{state="ended"}`:                         3,
		`curfew_admissions_total{kind="browser"}`:                2,
		`curfew_admissions_total{kind="cli"}`:                    1,
		`curfew_refusals_total{reason="concurrency"}`:            1,
		`curfew_ends_total{reason="replay"}`:                     1,
		`curfew_ends_total{reason="ended_by_admin"}`:             1,
		`curfew_ends_total{reason="logout"}`:                     1,
		`curfew_refresh_refusals_total{reason="replay"}`:         2,
		`curfew_refresh_refusals_total{reason="ended_by_admin"}`: 1,
		`curfew_refresh_replays_total`:                           1,
		`curfew_refresh_repeats_total`:                           2,
		`curfew_refresh_repeats_elsewhere_total`:                 1,
		`curfew_unavailable_total`:                               1,
	}, happened)
	require.Contains(t, got, "curfew_sweep_lag_seconds")

	// The store was asked exactly as often as was counted.
	inner := counted.Counts()
	measured := map[string]int{}
	for name, n := range counts(got) {
		operation, _, _ := strings.Cut(name, " ")
		measured[strings.ReplaceAll(operation, "_", "")] += n
	}
	for method, n := range inner {
		require.Equal(t, n, measured[strings.ToLower(method)], method)
	}
	require.Len(t, inner, len(measured))
	require.Positive(t, got[`curfew_store_errors_total{operation="get"}`])

	// Nobody is named.
	text := scrape(t, r)
	require.Contains(t, log.String(), sid, "the log of events names it")
	for _, name := range []string{
		"alice", "bob", "carol", s.Issuer, sid, bobs.ID, store.Bucket(bobs.Subject) + ".", s.Claim(optest.Web, web, "sid"), "root",
		optest.Web, optest.Native, "127.0.0", optest.RedirectURI,
		web.RefreshToken(), next.RefreshToken(), web.AccessToken(), bob.IDToken(),
	} {
		require.NotContains(t, text, name)
	}
}

// Both wrappers together leave a refresh what it is: one read and one write.
func TestARefreshIsOneReadAndOneWrite(t *testing.T) {
	counted := faultstore.New(memstore.New())
	m := metrics.New(metrics.Config{})
	hook, err := provider.New(provider.Config{
		Store:  m.Store(tracestore.New(counted, noop.NewTracerProvider())),
		Events: m.Event,
		Keys:   provider.Keys{provider.NewKey(time.Now())},
		Settings: provider.StaticSettings(policy.Settings{Accounts: map[string]policy.Account{
			"default": {},
		}}),
	})
	require.NoError(t, err)
	s := optest.Start(t, optest.Config{Hook: hook})
	token := s.Login(optest.Web, "alice").RefreshToken()
	counted.Reset()
	reply := s.Refresh(optest.Web, token)
	require.Equal(t, http.StatusOK, reply.Status, reply.Body)
	require.Equal(t, map[string]int{"Get": 1, "Update": 1}, counted.Counts())
}
