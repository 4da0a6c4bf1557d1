// Command soak repeats the race for the cap: four processes of examples/op on one database, and 256
// logins of one user at a cap of 3. It runs the race for each action at the cap, alone, and amid
// refreshes, ends and sweeps; at a cap that asks, users answer. After each race it follows the
// database's own history, commit by commit, and ends with an error at the first commit that leaves
// more sessions than the cap.
//
//	go run .                                  print the figures
//	go run . -write ../../docs/benchmarks.md  and write them there
//	go run . -rounds 100                      more of it
//
// The package's tests do one round, and show that the history would tell.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/curfew-oidc/curfew/policy"
)

func main() {
	write := flag.String("write", "", "write the figures into `FILE`, between their markers")
	rounds := flag.Int("rounds", 20, "how many rounds, each on an empty database")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *write, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, write string, rounds int) (err error) {
	if rounds < 1 {
		return errors.New("at least one round is needed")
	}
	dir, err := os.MkdirTemp("", "curfew-soak-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	program, err := build(ctx, root, dir)
	if err != nil {
		return err
	}
	report := newReport(rounds, time.Now())
	for _, name := range engineNames {
		for n := range rounds {
			folder := filepath.Join(dir, fmt.Sprintf("%s-%d", name, n))
			if err := os.Mkdir(folder, 0o700); err != nil {
				return err
			}
			began := time.Now()
			if err := round(ctx, name, folder, program, allLogins, report); err != nil {
				return fmt.Errorf("%s, round %d: %w", name, n+1, err)
			}
			fmt.Printf("%s, round %d of %d: %s\n", name, n+1, rounds, time.Since(began).Round(time.Second))
			if err := os.RemoveAll(folder); err != nil {
				return err
			}
		}
	}
	report.took = time.Since(report.began)
	text := report.String()
	fmt.Print("\n" + text)
	if write != "" {
		return replaceBlock(write, text)
	}
	return nil
}

// round is one round on one engine, of races of so many logins.
func round(ctx context.Context, name, dir, program string, logins int, report *report) (err error) {
	e, err := newEngine(ctx, name, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	w, err := newWorld(ctx, e, dir, same(program), 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, w.fleet.logs())
		}
		err = errors.Join(err, w.fleet.close())
	}()
	for _, race := range []struct {
		what string
		run  func(mode atLimit, logins int) (outcome, error)
	}{
		{"alone", func(mode atLimit, logins int) (outcome, error) { return w.plain(ctx, mode, logins) }},
		{"answered", func(mode atLimit, logins int) (outcome, error) { return w.answered(ctx, logins) }},
		{"mixed", func(mode atLimit, logins int) (outcome, error) { return w.mixed(ctx, mode, logins) }},
	} {
		for _, mode := range modes {
			if race.what == "answered" && mode != policy.Ask {
				continue
			}
			o, err := race.run(mode, logins)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", mode, race.what, err)
			}
			report.add(name, mode, race.what, o)
		}
	}
	r, err := w.swept(ctx)
	if err != nil {
		return err
	}
	report.follow(name, r, w.fleet)
	return nil
}
