package provider

import (
	"context"

	"github.com/curfew-oidc/curfew/provider/internal/browser"
	"github.com/curfew-oidc/curfew/provider/internal/notify"
	"github.com/curfew-oidc/curfew/provider/internal/seal"
)

// What the hook does is done by its parts. Each has the one below it in it, and knows nothing of those above: the compiler holds that.
//
//	Hook        what embedders see
//	pages       the pages that ask
//	cookies     which browser this is
//	sweeps      what is due, and settings that changed
//	admissions  logins
//	members     whose sessions they are: accounts and groups
//	ends        ends, their fences, and who is told of them
//	documents   sessions as they are stored, and as they are now
//	rulebook    the rules in force for a subject
//	base        the configuration, the clock, time-outs, and what is told

// A base is what all parts rest on.
type base struct {
	cfg        Config
	counter    counter
	mistakes   mistakes
	keyUnknown seldom // EventKeyUnknown
}

// A rulebook has the rules in force for a subject: settings that are fresh enough, of
// the accounts that the subject is in, from a store that is the one that it was.
type rulebook struct {
	*base
	settings *settingsCache
	watch    *storeWatch
}

// Documents are the sessions: read as they are now, written by compare-and-swap or in
// one step over those of a subject.
type documents struct {
	*rulebook
	ledger  *notify.Ledger
	signers signers // of what is sent about their ends
}

// Ends end sessions, once each, and see to it that everybody is told.
type ends struct {
	*documents
	outbox      notify.Outbox
	backChannel *notify.BackChannel
}

// Members follow what is said of a subject's accounts and groups.
type members struct{ *ends }

// Admissions give logins their sessions.
type admissions struct{ *members }

// Sweeps do what is due, and apply settings that changed to sessions that nobody uses.
type sweeps struct {
	*admissions
	walker walker
	wake   chan struct{} // holds a value when Run should not wait for its tick
}

// Cookies tell which browser a request comes from.
type cookies struct {
	*sweeps
	ring     *seal.Ring
	browsers *browser.Keeper
}

// Pages ask the user at a cap that asks, and before they are signed out.
type pages struct{ *cookies }

// newEngine puts the parts together.
func newEngine(cfg Config, watch *storeWatch) *sweeps {
	b := &base{cfg: cfg}
	watch.now = b.now
	watch.tell = func(ctx context.Context, err error) { b.event(ctx, Event{Type: EventStoreLost, Err: err}) }
	d := &documents{rulebook: &rulebook{base: b, settings: newSettingsCache(cfg.Settings, cfg.SettingsMaxAge, cfg.StoreTimeout), watch: watch}}
	e := &ends{documents: d}
	d.ledger, e.backChannel = d.newLedger(), e.newBackChannel()
	return &sweeps{admissions: &admissions{members: &members{ends: e}}, wake: make(chan struct{}, 1)}
}
