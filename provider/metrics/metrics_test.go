package metrics_test

import (
	"context"
	"errors"
	"go/ast"
	"go/constant"
	"go/doc"
	"go/parser"
	"go/token"
	"maps"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/faultstore"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/metrics"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// scrape returns what Prometheus is told.
func scrape(t testing.TB, g prometheus.Gatherer) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, w.Code, w.Body)
	return w.Body.String()
}

// samples returns the samples of a scrape, by name and labels.
func samples(t testing.TB, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for line := range strings.Lines(scrape(t, g)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		require.NoError(t, err, line)
		found[line[:i]] = value
	}
	return found
}

// registered returns m in a registry that checks what it collects.
func registered(t testing.TB, m *metrics.Metrics) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(m))
	return r
}

// session returns a session of a user, which is due in 2019.
func session(user string) store.Session {
	at := time.Date(2019, 3, 1, 12, 0, 0, 0, time.UTC)
	subject := store.Subject{Issuer: "https://login.example.com", ID: user}
	return store.Session{
		Format: store.Format, ID: store.Bucket(subject) + "." + user, Subject: subject, Accounts: []string{"default"}, Kind: policy.Browser, Client: "portal",
		Started: at, Authenticated: at, LastActivity: at, Due: at.Add(time.Hour),
		Grants: []store.Grant{{ID: "g", Client: "portal", Authenticated: at}},
	}
}

// constants returns the values of the constants of a type in a file.
func constants(t *testing.T, file, typ string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var values []string
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typ {
				for _, value := range spec.Values {
					lit := value.(*ast.BasicLit)
					values = append(values, constant.StringVal(constant.MakeFromLiteral(lit.Value, lit.Kind, 0)))
				}
			}
		}
		return true
	})
	require.NotEmpty(t, values)
	return values
}

// Every kind of event is counted, by one metric, whether or not anybody thought
// of this package when the kind was added.
func TestEveryEventIsCounted(t *testing.T) {
	counted := map[provider.EventType]string{
		provider.EventStarted:         `curfew_admissions_total{kind="cli"}`,
		provider.EventRefused:         `curfew_refusals_total{reason="concurrency"}`,
		provider.EventAsked:           `curfew_asked_total`,
		provider.EventNotAsAsked:      `curfew_not_as_asked_total`,
		provider.EventPageFailed:      `curfew_page_failures_total`,
		provider.EventEnded:           `curfew_ends_total{reason="concurrency"}`,
		provider.EventRefreshRefused:  `curfew_refresh_refusals_total{reason="concurrency"}`,
		provider.EventReplay:          `curfew_refresh_replays_total`,
		provider.EventRepeat:          `curfew_refresh_repeats_total`,
		provider.EventRepeatMoved:     `curfew_refresh_repeats_elsewhere_total`,
		provider.EventRollback:        `curfew_rollbacks_total`,
		provider.EventWriteLost:       `curfew_writes_lost_total`,
		provider.EventWouldRefuse:     `curfew_observed_refusals_total{reason="concurrency"}`,
		provider.EventWouldEnd:        `curfew_observed_ends_total{reason="concurrency"}`,
		provider.EventOnEndFailed:     `curfew_on_end_failures_total`,
		provider.EventDelivered:       `curfew_logout_deliveries_total{result="delivered"}`,
		provider.EventDeliveryFailed:  `curfew_logout_deliveries_total{result="failed"}`,
		provider.EventDeliveryGivenUp: `curfew_logout_deliveries_total{result="given_up"}`,
		provider.EventSweepFailed:     `curfew_sweep_failures_total`,
		provider.EventGone:            `curfew_users_gone_total`,
		provider.EventSettingsStale:   `curfew_settings_stale_total`,
		provider.EventMisconfigured:   `curfew_misconfigured_total`,
		provider.EventStoreLost:       `curfew_store_losses_total`,
		provider.EventUnavailable:     `curfew_unavailable_total`,
		provider.EventKeyUnknown:      `curfew_keys_unknown_total`,
	}
	m := metrics.New(metrics.Config{})
	r := registered(t, m)
	types := constants(t, "../events.go", "EventType")
	require.Contains(t, types, "session_started", "the test finds the constants")
	for _, typ := range types {
		before := samples(t, r)
		m.Event(t.Context(), provider.Event{Type: provider.EventType(typ), Kind: policy.CLI, Reason: policy.ReasonConcurrency})
		want := maps.Clone(before)
		require.Contains(t, counted, provider.EventType(typ), "the event is not counted")
		require.Contains(t, want, counted[provider.EventType(typ)], "it is not there before the first one")
		want[counted[provider.EventType(typ)]]++
		require.Equal(t, want, samples(t, r), typ)
	}
	require.Len(t, types, len(counted))
}

// The reasons and kinds that there are have a label of their own; everything else
// is "other", so that nobody can make up labels.
func TestLabelsAreBounded(t *testing.T) {
	m := metrics.New(metrics.Config{})
	r := registered(t, m)
	before := samples(t, r)
	all := func(value string) {
		for _, typ := range constants(t, "../events.go", "EventType") {
			m.Event(t.Context(), provider.Event{
				Type: provider.EventType(typ), Kind: policy.Kind(value), Reason: policy.Reason(value), Client: value, SID: value, By: value,
				Subject: store.Subject{Issuer: value, ID: value}, Err: errors.New(value),
			})
		}
	}
	for _, info := range policy.Reasons() {
		reason := string(info.Reason)
		all(reason)
		require.EqualValues(t, 1, samples(t, r)[`curfew_ends_total{reason="`+reason+`"}`])
	}
	require.Zero(t, samples(t, r)[`curfew_ends_total{reason="other"}`])
	for _, kind := range policy.Kinds() {
		all(string(kind))
		require.EqualValues(t, 1, samples(t, r)[`curfew_admissions_total{kind="`+string(kind)+`"}`])
	}
	for _, value := range []string{"made up", "", "other", "\xff"} {
		all(value)
	}
	after := samples(t, r)
	require.Positive(t, after[`curfew_ends_total{reason="other"}`])
	require.Equal(t, slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)), "no series came up")
	m.Event(t.Context(), provider.Event{Type: "of tomorrow"}) // not known: not counted
	require.Equal(t, after, samples(t, r))
}

// The table in the package's documentation is what there is: each metric with
// its type and its labels, and nothing else. The values of the labels are all
// named, too.
func TestTheTableNamesEveryMetric(t *testing.T) {
	m := metrics.New(metrics.Config{})
	s := m.Store(memstore.New())
	_, err := s.Get(t.Context(), "a")
	require.ErrorIs(t, err, store.ErrNotFound)
	type metric struct{ typ, labels string }
	found := map[string]metric{}
	families, err := registered(t, m).Gather()
	require.NoError(t, err)
	values := map[string]bool{}
	for _, family := range families {
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, label.GetName())
		}
		found[family.GetName()] = metric{strings.ToLower(family.GetType().String()), strings.Join(labels, ", ")}
		for _, one := range family.GetMetric() {
			for _, label := range one.GetLabel() {
				values[label.GetValue()] = true
			}
		}
	}

	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "metrics.go", nil, parser.ParseComments)
	require.NoError(t, err)
	pkg, err := doc.NewFromFiles(fset, []*ast.File{file}, "metrics")
	require.NoError(t, err)
	documented := map[string]metric{}
	var columns []int // where they begin
	for line := range strings.Lines(pkg.Doc) {
		switch line = strings.TrimPrefix(strings.TrimRight(line, "\n"), "\t"); {
		case strings.HasPrefix(line, "Metric "):
			for _, name := range []string{"Type", "Labels", "Meaning"} {
				columns = append(columns, strings.Index(line, name))
			}
		case strings.HasPrefix(line, "curfew_"):
			cell := func(from, to int) string { return strings.TrimSpace(line[from:to]) }
			documented[cell(0, columns[0])] = metric{cell(columns[0], columns[1]), cell(columns[1], columns[2])}
			require.NotEmpty(t, line[columns[2]:])
		}
	}
	require.Equal(t, found, documented)
	require.Contains(t, pkg.Doc, "reason: those of [policy.Reasons], other.")
	require.Contains(t, pkg.Doc, "kind: those of [policy.Kinds], other.")
	for value := range values {
		if policy.Reason(value).Known() || policy.Kind(value).Known() {
			continue
		}
		require.Regexp(t, `\b`+value+`\b`, pkg.Doc[strings.Index(pkg.Doc, "Labels:"):])
	}
}

func TestNamesFollowTheConventions(t *testing.T) {
	m := metrics.New(metrics.Config{})
	_, err := m.Store(memstore.New()).Get(t.Context(), "a")
	require.ErrorIs(t, err, store.ErrNotFound)
	problems, err := testutil.GatherAndLint(registered(t, m))
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := registered(t, metrics.New(metrics.Config{})).Gather()
	require.NoError(t, err)
	for _, family := range families {
		require.True(t, strings.HasPrefix(family.GetName(), "curfew_"), family.GetName())
		require.NotEmpty(t, family.GetHelp(), family.GetName())
	}
}

// Two hooks in one process are told apart by a label of the caller's; without it
// the error says what is wrong.
func TestTwoHooks(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	staff, customers := metrics.New(metrics.Config{}), metrics.New(metrics.Config{})
	require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"hook": "staff"}, r).Register(staff))
	require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"hook": "customers"}, r).Register(customers))
	staff.Store(memstore.New())
	filled := memstore.New()
	customers.Store(filled)
	require.NoError(t, filled.Create(t.Context(), session("alice"), 10))
	staff.Event(t.Context(), provider.Event{Type: provider.EventReplay})
	got := samples(t, r)
	require.EqualValues(t, 1, got[`curfew_refresh_replays_total{hook="staff"}`])
	require.Contains(t, got, `curfew_refresh_replays_total{hook="customers"}`)
	require.EqualValues(t, 0, got[`curfew_sessions{hook="staff",state="unended"}`])
	require.EqualValues(t, 1, got[`curfew_sessions{hook="customers",state="unended"}`])

	r = prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(staff))
	err := r.Register(customers)
	var already prometheus.AlreadyRegisteredError
	require.ErrorAs(t, err, &already)
	require.Same(t, staff, already.ExistingCollector)
}

// No gauge is better than a wrong one; that they are missing is counted.
func TestAStoreThatCannotBeAskedHasNoGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := faultstore.New(memstore.New())
		m := metrics.New(metrics.Config{StatsMaxAge: -1, StatsTimeout: time.Second})
		r := registered(t, m)
		require.NotContains(t, scrape(t, r), "curfew_sessions", "no store yet")
		require.Contains(t, scrape(t, r), "curfew_stats_errors_total 0")
		m.Store(faulty)
		require.Contains(t, samples(t, r), `curfew_sessions{state="unended"}`)

		for n, fault := range []faultstore.Fault{faultstore.Before, faultstore.Timeout} {
			faulty.Script(faultstore.Always(fault))
			began := time.Now()
			got := samples(t, r)
			require.Equal(t, fault == faultstore.Timeout, time.Since(began) == time.Second, "as long as it is given")
			for name := range got {
				require.NotContains(t, name, "curfew_sessions")
				require.NotContains(t, name, "curfew_sweep_lag_seconds")
			}
			require.EqualValues(t, n+1, got[`curfew_stats_errors_total`])
			require.EqualValues(t, n+1, got[`curfew_store_errors_total{operation="stats"}`])
		}
		faulty.Script(nil)
		require.Contains(t, samples(t, r), `curfew_sessions{state="unended"}`)
		require.Contains(t, samples(t, r), `curfew_sweep_lag_seconds`)
	})
}

// However many collect, and at once, the store is asked once in a while.
func TestTheGaugesAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New()
		counted := faultstore.New(inner)
		m := metrics.New(metrics.Config{})
		r := registered(t, m)
		m.Store(counted)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { scrape(t, r) })
		}
		wg.Wait()
		require.Equal(t, 1, counted.Calls())
		require.NoError(t, inner.Create(t.Context(), session("alice"), 10))
		time.Sleep(5*time.Second - 1)
		require.EqualValues(t, 0, samples(t, r)[`curfew_sessions{state="unended"}`])
		time.Sleep(time.Nanosecond)
		require.EqualValues(t, 1, samples(t, r)[`curfew_sessions{state="unended"}`])
		require.Equal(t, 2, counted.Calls())

		// A failure is kept as long: a store in trouble is not asked more.
		time.Sleep(5 * time.Second)
		counted.Script(faultstore.Always(faultstore.Before))
		scrape(t, r)
		require.EqualValues(t, 1, samples(t, r)[`curfew_stats_errors_total`])
		require.Equal(t, 3, counted.Calls())
		time.Sleep(5 * time.Second)
		counted.Script(nil)
		require.EqualValues(t, 1, samples(t, r)[`curfew_sessions{state="unended"}`])

		// Another store is asked at once.
		m.Store(memstore.New())
		require.EqualValues(t, 0, samples(t, r)[`curfew_sessions{state="unended"}`])
	})
}

func TestSweepLag(t *testing.T) {
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	m := metrics.New(metrics.Config{StatsMaxAge: -1, Now: func() time.Time { return now }})
	r := registered(t, m)
	sessions := m.Store(memstore.New())
	lag := func() float64 { return samples(t, r)[`curfew_sweep_lag_seconds`] }
	require.Zero(t, lag(), "nothing to sweep")
	s := session("alice")
	s.Due = now.Add(time.Minute)
	require.NoError(t, sessions.Create(t.Context(), s, 10))
	require.Zero(t, lag(), "nothing due")
	now = s.Due
	require.Zero(t, lag())
	now = now.Add(1500 * time.Millisecond)
	require.Equal(t, 1.5, lag())
	due, err := sessions.Due(t.Context(), now, time.Hour, 10)
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.Equal(t, 1.5, lag(), "claimed is not swept")
	s.Revision, s.Due = 1, time.Time{}
	_, err = sessions.Update(t.Context(), s)
	require.NoError(t, err)
	require.Zero(t, lag())
}

func TestEventIsComposable(t *testing.T) {
	m := metrics.New(metrics.Config{})
	r := registered(t, m)
	told := 0
	tee := provider.Tee(m.Event, func(context.Context, provider.Event) { told++ })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { m.Event(context.Background(), provider.Event{Type: provider.EventRepeat}) })
	}
	wg.Wait()
	tee(t.Context(), provider.Event{Type: provider.EventRepeat})
	require.Equal(t, 1, told)
	require.EqualValues(t, 9, samples(t, r)[`curfew_refresh_repeats_total`])
}
