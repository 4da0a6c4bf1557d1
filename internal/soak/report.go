package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

type atLimit = policy.AtLimit

// A report is the figures of all rounds.
type report struct {
	rounds    int
	began     time.Time
	took      time.Duration
	lines     []*line
	histories []*tail
}

// A line is one kind of race on one engine, over all rounds.
type line struct {
	engine string
	mode   atLimit
	what   string
	sum    outcome
}

// A tail is what the histories of one engine showed, over all rounds.
type tail struct {
	engine                            string
	commits, admitted, rotated, swept int
	peak                              int
	requests, outages                 int64
	ends                              map[policy.Reason]int
}

func newReport(rounds int, began time.Time) *report { return &report{rounds: rounds, began: began} }

func (r *report) add(engine string, mode atLimit, what string, o outcome) {
	i := slices.IndexFunc(r.lines, func(l *line) bool { return l.engine == engine && l.mode == mode && l.what == what })
	if i < 0 {
		i, r.lines = len(r.lines), append(r.lines, &line{engine: engine, mode: mode, what: what})
	}
	sum := &r.lines[i].sum
	sum.logins += o.logins
	sum.admitted += o.admitted
	sum.refused += o.refused
	sum.evicted += o.evicted
	sum.refreshes += o.refreshes
	sum.ends += o.ends
}

func (r *report) follow(engine string, history *replay, f *fleet) {
	i := slices.IndexFunc(r.histories, func(t *tail) bool { return t.engine == engine })
	if i < 0 {
		i, r.histories = len(r.histories), append(r.histories, &tail{engine: engine, ends: map[policy.Reason]int{}})
	}
	t := r.histories[i]
	t.commits += history.commits
	t.admitted += history.admitted
	t.rotated += history.rotated
	t.swept += history.swept
	t.peak = max(t.peak, history.peak)
	t.requests += f.requests.Load()
	t.outages += f.outages.Load()
	for reason, n := range history.ends {
		t.ends[reason] += n
	}
}

// String returns the report in Markdown.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "By `make soak` on %s: %d rounds, %d processes, %d cores, %s. It took %s.\n\n",
		r.began.UTC().Format(time.DateOnly), r.rounds, places, runtime.NumCPU(), runtime.Version(), r.took.Round(time.Second))
	b.WriteString("| store | at the cap | race | logins | admitted | refused | ended to make room | refreshes | signed out or revoked |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, l := range r.lines {
		o := l.sum
		fmt.Fprintf(&b, "| %s | `%s` | %s | %d | %d | %d | %d | %d | %d |\n",
			l.engine, l.mode, l.what, o.logins, o.admitted, o.refused, o.evicted, o.refreshes, o.ends)
	}
	fmt.Fprintf(&b, "\n| store | commits followed | most sessions after any of them, at a cap of %d | sessions begun | refreshes | ended, by reason | by sweeps | answers | 503 or no answer |\n", limit)
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, t := range r.histories {
		var ends []string
		for _, reason := range slices.Sorted(maps.Keys(t.ends)) {
			ends = append(ends, fmt.Sprintf("`%s` %d", reason, t.ends[reason]))
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %s | %d | %d | %d |\n",
			t.engine, t.commits, t.peak, t.admitted, t.rotated, strings.Join(ends, ", "), t.swept, t.requests, t.outages)
	}
	return b.String()
}

const (
	blockBegin = "<!-- written by make soak: begin -->\n"
	blockEnd   = "<!-- written by make soak: end -->\n"
)

// replaceBlock replaces what is between the markers in a file. A file without
// them gets them at its end.
func replaceBlock(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, ok := bytes.Cut(old, []byte(blockBegin))
	if !ok {
		rest, head = []byte(blockEnd), append(old, '\n')
	}
	_, tail, ok := bytes.Cut(rest, []byte(blockEnd))
	if !ok {
		return fmt.Errorf("%s: no marker %q", file, blockEnd)
	}
	return os.WriteFile(file, slices.Concat(head, []byte(blockBegin), []byte(text), []byte(blockEnd), tail), 0o644)
}
