// Command bench measures what the hook costs: a refresh and a login through bare
// op and through op with the hook, in one process, in pairs. It fails if a bar
// is missed.
//
//	go run ./internal/bench                            print the tables
//	go run ./internal/bench -write docs/benchmarks.md  and write them there
//
// For a profile see the benchmarks of the package's tests:
//
//	go test -run '^$' -bench Refresh/memory/ES256 -cpuprofile cpu.prof ./internal/bench
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	write := flag.String("write", "", "write the tables into `FILE`, between its markers")
	runs := flag.Int("runs", 12, "how many runs, at least 10 for a result to publish")
	steps := flag.Int("steps", 150, "how many pairs of steps in a run")
	sessions := flag.Int("sessions", 100_000, "how many sessions a large account has")
	flag.Parse()
	if err := run(*write, size{*runs, *steps, *sessions}); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(write string, n size) error {
	dir, err := os.MkdirTemp("", "curfew-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in the temporary directory
	report, err := measure(filepath.Join(dir, "sessions.db"), n)
	if err != nil {
		return err
	}
	text := report.String()
	fmt.Print(text)
	if write != "" {
		if err := replaceBlock(write, text); err != nil {
			return err
		}
	}
	if missed := report.missed(); len(missed) > 0 {
		return fmt.Errorf("missed: %v", missed)
	}
	return nil
}
