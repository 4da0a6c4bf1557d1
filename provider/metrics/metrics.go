// Package metrics exports metrics of a provider's login sessions to Prometheus.
//
// Three lines switch it on: one makes it, one registers it, and the hook's
// configuration names it twice.
//
//	m := metrics.New(metrics.Config{})
//	prometheus.MustRegister(m)
//	hook, err := provider.New(provider.Config{
//		Store:  m.Store(sessions),
//		Events: provider.Tee(m.Event, provider.Audit(logger)),
//		...
//	})
//
// # Metrics
//
// No label ever holds a subject, the ID of a session or of a client, or anything
// else that a user or an application chose: the values are the ones below, and
// "other" for those that this package does not know.
//
//	Metric                                  Type       Labels              Meaning
//	curfew_sessions                         gauge      state               sessions in the store
//	curfew_sweep_lag_seconds                gauge                          how overdue the most overdue session is
//	curfew_stats_errors_total               counter                        times the store could not be read for the two above
//	curfew_admissions_total                 counter    kind                sessions that began
//	curfew_refusals_total                   counter    reason              logins that the policy refused
//	curfew_asked_total                      counter                        times the page at the cap was shown
//	curfew_not_as_asked_total               counter                        logins refused because they did not meet the application's requirements
//	curfew_ends_total                       counter    reason              sessions that ended
//	curfew_refresh_refusals_total           counter    reason              refreshes refused because the session is over or not known
//	curfew_refresh_replays_total            counter                        spent refresh tokens that were presented
//	curfew_refresh_repeats_total            counter                        refreshes within the grace that got the same answer again
//	curfew_refresh_repeats_elsewhere_total  counter                        repeats within the grace from another address
//	curfew_rollbacks_total                  counter                        refresh tokens newer than the store knew
//	curfew_writes_lost_total                counter                        refreshes answered although the store did not accept the rotation
//	curfew_observed_refusals_total          counter    reason              refusals that an observed policy would have made
//	curfew_observed_ends_total              counter    reason              ends that an observed policy would have made
//	curfew_misconfigured_total              counter                        mistakes in the set-up, each counted once in a process
//	curfew_unavailable_total                counter                        answers of 503, and refused logins, because the store or the settings did not answer
//	curfew_keys_unknown_total               counter                        minutes with answers of 503 for an unknown sealing key; anybody can cause it
//	curfew_users_gone_total                 counter                        sessions whose user was found to be in no account any more
//	curfew_settings_stale_total             counter                        uses of the last known settings, because the settings could not be read
//	curfew_store_losses_total               counter                        times the store was found to have lost its data, once a minute
//	curfew_page_failures_total              counter                        errors of Config.AskTemplate
//	curfew_on_end_failures_total            counter                        errors of Config.OnEnd
//	curfew_logout_deliveries_total          counter    result              notifications of an end that an application accepted or did not accept, and those given up
//	curfew_sweep_failures_total             counter                        sweeps that failed
//	curfew_store_duration_seconds           histogram  operation, outcome  how long calls of the store took
//	curfew_store_errors_total               counter    operation           calls that the store did not answer: outcome timeout or error
//
// Labels:
//
//   - state: unended and ended. Unended are the live sessions, the logins whose code is not
//     redeemed yet, and sessions that are over but not swept yet. Ended are the sessions whose
//     reason is still remembered.
//   - kind: those of [policy.Kinds], other.
//   - reason: those of [policy.Reasons], other.
//   - result: delivered, failed (it is tried again), given_up, other.
//   - operation: get, create, update, admit, list, due, delete, stats, put_fence,
//     move_fence, due_fences, document, put_document, history, drop_document,
//     add_counts, read_counts, drop_counts, count_unended.
//   - outcome: ok; not_found, conflict, exists, full, fenced, declined (by the
//     policy), which are answers; canceled (the caller gave up); timeout, error.
//
// Counters and the histogram describe one process: add them up. The gauges describe the store: all
// processes that share it report the same, so take the maximum. They are read when metrics are
// collected, and are no older than Config.StatsMaxAge; while the store does not answer they are
// absent. The lag is 0 while nothing is overdue; up to provider.Config.SweepEvery is normal. An end
// is counted at least once: it is counted again if the process that noticed it died before it could
// record that.
//
// # Several hooks
//
// A Metrics belongs to one hook. If a process has several hooks, each has its own Metrics,
// distinguished by a label:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"hook": "staff"}, registry).MustRegister(m)
//
// Without the label, registering the second one fails with
// [prometheus.AlreadyRegisteredError].
package metrics

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-oidc/curfew/internal/outcome"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// Config configures [New]. The zero Config is good.
type Config struct {
	// StatsMaxAge is how old the gauges may be: the store is read at most that often, however often
	// metrics are collected. Zero means 5 s; a negative value reads it each time.
	StatsMaxAge time.Duration

	// StatsTimeout bounds that read. Zero, or a negative value, means 2 s:
	// less than Prometheus waits for all metrics, which is 10 s by default.
	StatsTimeout time.Duration

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Metrics is a [prometheus.Collector] of one hook. It is made by [New], and safe
// for concurrent use.
type Metrics struct {
	cfg Config

	admissions, refusals, ends, refreshRefusals                        vector
	observedRefusals, observedEnds, deliveries                         vector
	replays, repeats, repeatsElsewhere                                 prometheus.Counter
	rollbacks, writesLost                                              prometheus.Counter
	unavailable, gone, settingsStale, storeLosses, onEnd, sweep, stats prometheus.Counter
	asked, notAsAsked, pages, mistakes, keysUnknown                    prometheus.Counter
	storeDuration                                                      *prometheus.HistogramVec
	storeErrors                                                        *prometheus.CounterVec
	sessions, sweepLag                                                 *prometheus.Desc

	collectors []prometheus.Collector // all but the gauges

	mu    sync.Mutex
	store store.Store // to ask for the gauges; nil: none yet
	last  reading
}

// A reading is what the store said of its sessions.
type reading struct {
	at    time.Time
	stats store.Stats
	err   error
}

// New returns metrics that count nothing yet.
func New(cfg Config) *Metrics {
	if cfg.StatsMaxAge == 0 {
		cfg.StatsMaxAge = 5 * time.Second
	}
	if cfg.StatsTimeout <= 0 {
		cfg.StatsTimeout = 2 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m := &Metrics{cfg: cfg}

	m.sessions = prometheus.NewDesc("curfew_sessions", "Sessions in the store, by whether they have ended.", []string{"state"}, nil)
	m.sweepLag = prometheus.NewDesc("curfew_sweep_lag_seconds", "How overdue the most overdue session in the store is; 0 if none is.", nil, nil)
	m.stats = m.counter("curfew_stats_errors_total", "Times the store could not be read for the number of its sessions.")

	m.admissions = m.vector("curfew_admissions_total", "Sessions that began.", "kind", kinds)
	m.refusals = m.vector("curfew_refusals_total", "Logins that the policy refused.", "reason", reasons)
	m.asked = m.counter("curfew_asked_total", "Times the page at the cap was shown, to pick a session to end.")
	m.notAsAsked = m.counter("curfew_not_as_asked_total", "Logins refused because they did not meet the application's requirements.")
	m.ends = m.vector("curfew_ends_total", "Sessions that ended.", "reason", reasons)

	m.refreshRefusals = m.vector("curfew_refresh_refusals_total", "Refreshes refused because the session is over or not known.", "reason", reasons)
	m.replays = m.counter("curfew_refresh_replays_total", "Spent refresh tokens that were presented; their sessions end.")
	m.repeats = m.counter("curfew_refresh_repeats_total", "Refreshes within the grace that got the same answer again.")
	m.repeatsElsewhere = m.counter("curfew_refresh_repeats_elsewhere_total", "Refreshes repeated within the grace from another address.")
	m.rollbacks = m.counter("curfew_rollbacks_total", "Refresh tokens newer than the store knew: it lost a write.")
	m.writesLost = m.counter("curfew_writes_lost_total", "Refreshes answered although the store did not accept the rotation.")

	m.observedRefusals = m.vector("curfew_observed_refusals_total", "Refusals that an observed policy would have made.", "reason", reasons)
	m.observedEnds = m.vector("curfew_observed_ends_total", "Ends that an observed policy would have made.", "reason", reasons)

	m.mistakes = m.counter("curfew_misconfigured_total", "Mistakes in the set-up because of which a limit does not hold, each counted once.")
	m.unavailable = m.counter("curfew_unavailable_total", "Answers of 503, and logins refused, because the store or the settings did not answer.")
	m.keysUnknown = m.counter("curfew_keys_unknown_total", "Minutes with answers of 503 because a token or page names a sealing key that this process does not have.")
	m.gone = m.counter("curfew_users_gone_total", "Sessions whose user was found to be in no account any more.")
	m.settingsStale = m.counter("curfew_settings_stale_total", "Uses of the last known settings, because the settings could not be read.")
	m.storeLosses = m.counter("curfew_store_losses_total", "Times the store was found to have lost its data, once a minute.")
	m.onEnd = m.counter("curfew_on_end_failures_total", "Errors of the provider's OnEnd; it is called again.")
	m.deliveries = m.vector("curfew_logout_deliveries_total", "Notifications of an end of a session to an application, by what came of them.", "result", deliveryResults)
	m.pages = m.counter("curfew_page_failures_total", "Errors of the provider's AskTemplate; its users saw the hook's own page.")
	m.sweep = m.counter("curfew_sweep_failures_total", "Sweeps that failed; the sweeper tries again.")

	m.storeDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "curfew_store_duration_seconds",
		Help: "How long calls of the store took, by operation and outcome.",
		// From a read in memory to beyond the time that the hook gives a call.
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"operation", "outcome"})
	m.storeErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "curfew_store_errors_total", Help: "Calls that the store did not answer, by operation.",
	}, []string{"operation"})
	for _, operation := range operations {
		m.storeErrors.WithLabelValues(operation)
	}
	m.collectors = append(m.collectors, m.storeDuration, m.storeErrors)
	return m
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.collectors = append(m.collectors, c)
	return c
}

// other is the value of a label that is not known.
const other = "other"

// The values of the label result.
const delivered, failed, givenUp = "delivered", "failed", "given_up"

var (
	kinds = func() (list []string) {
		for _, kind := range policy.Kinds() {
			list = append(list, string(kind))
		}
		return list
	}()

	deliveryResults = []string{delivered, failed, givenUp}

	reasons = func() (list []string) {
		for _, info := range policy.Reasons() {
			list = append(list, string(info.Reason))
		}
		return list
	}()
)

// A vector counts by one label, whose values are known beforehand.
type vector struct {
	*prometheus.CounterVec
	known []string
}

// vector returns a counter that shows each known value from the beginning: an
// alert on a rate needs the zero before the first one.
func (m *Metrics) vector(name, help, label string, known []string) vector {
	v := vector{prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label}), known}
	for _, value := range known {
		v.WithLabelValues(value)
	}
	v.WithLabelValues(other)
	m.collectors = append(m.collectors, v)
	return v
}

func (v vector) inc(value string) {
	if !slices.Contains(v.known, value) {
		value = other
	}
	v.WithLabelValues(value).Inc()
}

// Event counts an event: it is a [provider.Config] Events function. It does not
// block.
func (m *Metrics) Event(_ context.Context, e provider.Event) {
	switch e.Type {
	case provider.EventStarted:
		m.admissions.inc(string(e.Kind))
	case provider.EventRefused:
		m.refusals.inc(string(e.Reason))
	case provider.EventAsked:
		m.asked.Inc()
	case provider.EventNotAsAsked:
		m.notAsAsked.Inc()
	case provider.EventEnded:
		m.ends.inc(string(e.Reason))
	case provider.EventRefreshRefused:
		m.refreshRefusals.inc(string(e.Reason))
	case provider.EventReplay:
		m.replays.Inc()
	case provider.EventRepeat:
		m.repeats.Inc()
	case provider.EventRepeatMoved:
		m.repeatsElsewhere.Inc()
	case provider.EventRollback:
		m.rollbacks.Inc()
	case provider.EventWriteLost:
		m.writesLost.Inc()
	case provider.EventWouldRefuse:
		m.observedRefusals.inc(string(e.Reason))
	case provider.EventWouldEnd:
		m.observedEnds.inc(string(e.Reason))
	case provider.EventUnavailable:
		m.unavailable.Inc()
	case provider.EventKeyUnknown:
		m.keysUnknown.Inc()
	case provider.EventGone:
		m.gone.Inc()
	case provider.EventSettingsStale:
		m.settingsStale.Inc()
	case provider.EventStoreLost:
		m.storeLosses.Inc()
	case provider.EventOnEndFailed:
		m.onEnd.Inc()
	case provider.EventDelivered:
		m.deliveries.inc(delivered)
	case provider.EventDeliveryFailed:
		m.deliveries.inc(failed)
	case provider.EventDeliveryGivenUp:
		m.deliveries.inc(givenUp)
	case provider.EventPageFailed:
		m.pages.Inc()
	case provider.EventMisconfigured:
		m.mistakes.Inc()
	case provider.EventSweepFailed:
		m.sweep.Inc()
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- m.sessions
	descs <- m.sweepLag
	for _, c := range m.collectors {
		c.Describe(descs)
	}
}

// Collect implements [prometheus.Collector]. It reads the store that was given to [Metrics.Store],
// if any.
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	if r, ok := m.read(); ok && r.err == nil {
		gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		}
		gauge(m.sessions, float64(r.stats.Unended), "unended")
		gauge(m.sessions, float64(r.stats.Ended), "ended")
		lag := time.Duration(0)
		if !r.stats.NextDue.IsZero() {
			lag = max(0, r.at.Sub(r.stats.NextDue))
		}
		gauge(m.sweepLag, lag.Seconds())
	}
	for _, c := range m.collectors {
		c.Collect(metrics)
	}
}

// read returns what the store says of its sessions, or said a moment ago. Those
// who ask at once wait for one answer, and one that failed is as good for all.
func (m *Metrics) read() (r reading, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.store == nil {
		return reading{}, false
	}
	now := m.cfg.Now()
	if age := now.Sub(m.last.at); !m.last.at.IsZero() && age >= 0 && age < m.cfg.StatsMaxAge {
		return m.last, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.StatsTimeout)
	defer cancel()
	m.last = reading{at: now}
	if m.last.stats, m.last.err = m.store.Stats(ctx); m.last.err != nil {
		m.stats.Inc()
	}
	return m.last, true
}

// The values of the label operation.
const (
	opGet         = "get"
	opCreate      = "create"
	opUpdate      = "update"
	opAdmit       = "admit"
	opList        = "list"
	opDue         = "due"
	opDelete      = "delete"
	opStats       = "stats"
	opPutFence    = "put_fence"
	opMoveFence   = "move_fence"
	opDueFences   = "due_fences"
	opDocument    = "document"
	opPutDocument = "put_document"
	opHistory     = "history"

	opDropDocument = "drop_document"

	opAddCounts    = "add_counts"
	opReadCounts   = "read_counts"
	opDropCounts   = "drop_counts"
	opCountUnended = "count_unended"
)

var operations = []string{
	opGet, opCreate, opUpdate, opAdmit, opList, opDue, opDelete, opStats,
	opPutFence, opMoveFence, opDueFences, opDocument, opPutDocument, opHistory, opDropDocument,
	opAddCounts, opReadCounts, opDropCounts, opCountUnended,
}

// called notes a call of the store.
func (m *Metrics) called(operation string, began time.Time, how string) {
	m.storeDuration.WithLabelValues(operation, how).Observe(m.cfg.Now().Sub(began).Seconds())
	if outcome.Outage(how) {
		m.storeErrors.WithLabelValues(operation).Inc()
	}
}
