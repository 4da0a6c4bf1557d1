// Command bench measures what the hook costs, and what stores do. It fails if a
// bar is missed.
//
//	go run .                                  print the tables
//	go run . -write ../../docs/benchmarks.md  and write them there
//	go run . -only stores                     one of the parts alone
//
// The parts are
//
//	hook    a refresh and a login through bare op and through op with the hook, in pairs
//	stores  refreshes and logins by several clients on each store, and stores next to their drivers
//	many    engines with many sessions
//
// Each part has a block of its own in the file, which says when and where it was
// measured: what a run leaves out stays there as it was.
//
// For a profile see the benchmarks of the package's tests:
//
//	go test -run '^$' -bench Refresh/memory/ES256 -cpuprofile cpu.prof
//	go test -run '^$' -bench Store/PostgreSQL -cpuprofile cpu.prof
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	var n size
	write := flag.String("write", "", "write the tables into `FILE`, between their markers")
	only := flag.String("only", "", "measure only these `PARTS`, separated by commas: "+strings.Join(partNames(), ", "))
	flag.IntVar(&n.runs, "runs", 12, "how many runs, at least 10 for a result to publish")
	flag.IntVar(&n.steps, "steps", 150, "how many pairs of steps in a run")
	flag.IntVar(&n.sessions, "sessions", 100_000, "how many sessions a large account has, in memory")
	flag.DurationVar(&n.window, "window", 2*time.Second, "how long clients run at the same time")
	flag.IntVar(&n.many, "many", 1_000_000, "how many sessions an engine has that has many")
	flag.IntVar(&n.sweep, "sweep", 5_000, "how many of those are swept; as many as there are, for all of them")
	flag.Parse()
	if err := run(*write, *only, n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A part measures, with files in a directory, and returns what it writes and
// which bars were missed.
type part struct {
	name    string
	measure func(dir string, n size) (text string, bars []bar, err error)
}

var parts = []part{
	{"hook", func(dir string, n size) (string, []bar, error) {
		r, err := measure(filepath.Join(dir, "sessions.db"), n)
		if err != nil {
			return "", nil, err
		}
		return r.String(), r.bars(), nil
	}},
	{"stores", func(dir string, n size) (string, []bar, error) {
		p, err := n.stores(dir)
		return p.String(), p.bars(), err
	}},
	{"many", func(dir string, n size) (string, []bar, error) {
		p, err := n.crowds(dir)
		return p.String(), p.bars(), err
	}},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func run(write, only string, n size) (err error) {
	if n.runs < 1 || n.steps < 1 || n.sessions < 1 || n.many < 1 || n.sweep < 1 {
		return errors.New("a number of runs, steps or sessions is below 1")
	}
	wanted := partNames()
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("-only %s: the parts are %s", name, strings.Join(partNames(), ", "))
		}
	}
	dir, err := os.MkdirTemp("", "curfew-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var all []string
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		text, bars, err := p.measure(dir, n)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Println(text)
		if write != "" {
			if err := replaceBlock(write, p.name, text); err != nil {
				return err
			}
		}
		all = append(all, missed(bars)...)
	}
	if len(all) > 0 {
		return fmt.Errorf("missed: %v", all)
	}
	return nil
}
