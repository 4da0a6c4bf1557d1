package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A line is one line of the table of costs.
type line struct {
	flow, alg, engine     string
	pairing               pairing
	bare, hook            cost
	reads, writes, others float64 // of sessions, in one step with the hook
}

// A report is everything that was measured.
type report struct {
	size                       size
	machine                    machine
	lines                      []line
	refreshGrowth, loginGrowth pairing
	admission                  pairing
}

// A bar is a promise, and what became of it.
type bar struct {
	what, measured, allowed string
	met                     bool
}

// claimsFlow is the line of op alone, with the claims that the hook adds put into
// the ID token by the storage.
const claimsFlow = "refresh, without hook, `sid` and `session_expiry` by the storage"

// claims returns the allocations that op itself adds for the claims.
func (r *report) claims(alg string) int64 {
	for _, l := range r.lines {
		if l.flow == claimsFlow && l.alg == alg {
			return int64(l.hook.allocs) - int64(l.bare.allocs)
		}
	}
	return 0
}

func (r *report) bars() []bar {
	var bars []bar
	for _, l := range r.lines {
		if l.flow != "refresh" || l.engine != "memory" {
			continue
		}
		added := median(l.pairing.added)
		share := 100 * float64(added) / float64(median(l.pairing.a))
		claims := r.claims(l.alg)
		allocs := int64(l.hook.allocs) - int64(l.bare.allocs) - claims
		if l.alg == "RS256" {
			bars = append(bars, bar{"The hook's share of an RS256 refresh", fmt.Sprintf("%.1f %%", share), fmt.Sprintf("%.0f %%", maxShare), share <= maxShare})
		}
		bars = append(bars,
			bar{l.alg + " refresh, time added", micro(added), micro(maxAdded), added <= maxAdded},
			bar{fmt.Sprintf("%s refresh, allocations added, less the %d of op itself for more claims", l.alg, claims), fmt.Sprint(allocs), fmt.Sprint(maxAllocs), allocs <= maxAllocs},
			bar{l.alg + " refresh, sessions read, written, other calls", fmt.Sprintf("%g, %g, %g", l.reads, l.writes, l.others), "1, 1, 0",
				l.reads == 1 && l.writes == 1 && l.others == 0},
		)
	}
	if len(bars) == 0 {
		bars = append(bars, bar{"A refresh on the memory store", "not measured", "measured", false})
	}
	for _, g := range []struct {
		what string
		p    pairing
	}{{"refresh", r.refreshGrowth}, {"login", r.loginGrowth}} {
		growth := float64(median(g.p.b)) / float64(median(g.p.a))
		bars = append(bars, bar{fmt.Sprintf("A %s with %d sessions, against %d", g.what, r.size.sessions, fewSessions),
			fmt.Sprintf("%.2f", growth), fmt.Sprint(maxGrowth), growth <= maxGrowth && growth > 0})
	}
	admission := median(r.admission.b)
	return append(bars, bar{fmt.Sprintf("The callback at a cap of %d, on SQLite", admissionCap), micro(admission), micro(maxAdmission),
		admission <= maxAdmission && admission > 0})
}

// missed returns the bars of a list that were missed.
func missed(bars []bar) []string {
	var missed []string
	for _, b := range bars {
		if !b.met {
			missed = append(missed, fmt.Sprintf("%s: %s, allowed %s", b.what, b.measured, b.allowed))
		}
	}
	return missed
}

// writeBars writes a list of bars as a table.
func writeBars(b *strings.Builder, bars []bar) {
	b.WriteString("\n| bar | measured | allowed | |\n|---|---|---|---|\n")
	for _, bar := range bars {
		verdict := "met"
		if !bar.met {
			verdict = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", bar.what, bar.measured, bar.allowed, verdict)
	}
}

// String returns the report in Markdown.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d runs of %d pairs.\n\n", r.machine, r.size.runs, r.size.steps)
	b.WriteString("| flow | signature | store | bare op | with the hook | added: median (least to most of the runs) | allocations | kB |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, l := range r.lines {
		p := l.pairing
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s (%s to %s) | %d → %d | %.1f → %.1f |\n", l.flow, l.alg, l.engine,
			micro(median(p.a)), micro(median(p.b)), micro(median(p.added)), micro(slices.Min(p.added)), micro(slices.Max(p.added)),
			l.bare.allocs, l.hook.allocs, float64(l.bare.bytes)/1000, float64(l.hook.bytes)/1000)
	}
	writeBars(&b, r.bars())
	return b.String()
}

func micro(d time.Duration) string {
	us := float64(d) / float64(time.Microsecond)
	if us < 100 {
		return fmt.Sprintf("%.1f µs", us)
	}
	return fmt.Sprintf("%.0f µs", us)
}

// A machine is where it was measured.
type machine struct {
	cpu, system, versions string
	cores                 int
	sync                  time.Duration
	at                    time.Time
}

// addEngine names the version of an engine that was measured.
func (m *machine) addEngine(name, version string) {
	if version != "" {
		m.versions += ", " + name + " " + version
	}
}

func (m machine) String() string {
	return fmt.Sprintf("Measured by `make bench` on %s: %s, %d cores, %s; %s. A 4 KiB write with fsync takes %s there.",
		m.at.UTC().Format(time.DateOnly), m.cpu, m.cores, m.system, m.versions, micro(m.sync))
}

// describe describes this machine; the directory is where databases go.
func describe(dir string) (machine, error) {
	m := machine{
		cpu: "unknown processor", system: runtime.GOOS + "/" + runtime.GOARCH,
		versions: runtime.Version(), cores: runtime.GOMAXPROCS(0), at: time.Now(),
	}
	// Only Linux has these files; elsewhere the description is shorter.
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(info)) {
			if name, value, _ := strings.Cut(l, ":"); strings.TrimSpace(name) == "model name" {
				m.cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.system += " " + strings.TrimSpace(string(release))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "github.com/zitadel/oidc/v3" {
				m.versions += ", op " + dep.Version
			}
		}
	}
	var err error
	m.sync, err = syncTime(dir)
	return m, err
}

// syncTime returns the median time of a write that is made durable: a durable
// store cannot be faster than the disk.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // what is in it does not matter
	block := make([]byte, 4096)
	var took []time.Duration
	for range 50 {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	return median(took), nil
}

// markers return the lines that what is written by a part is between.
func markers(part string) (begin, end string) {
	line := "<!-- written by make bench, " + part + ": "
	return line + "begin -->\n", line + "end -->\n"
}

// replaceBlock replaces what is between a part's markers in a file. The rest of
// it, the blocks of other parts included, stays as it is.
func replaceBlock(file, part, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := markers(part)
	head, rest, ok := bytes.Cut(old, []byte(begin))
	if !ok {
		return fmt.Errorf("%s: no marker %q", file, begin)
	}
	_, tail, ok := bytes.Cut(rest, []byte(end))
	if !ok {
		return fmt.Errorf("%s: no marker %q", file, end)
	}
	return os.WriteFile(file, slices.Concat(head, []byte(begin), []byte(text), []byte(end), tail), 0o644)
}
