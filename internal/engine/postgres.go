package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Postgres is a private PostgreSQL server.
type Postgres struct {
	server    server
	port      int
	password  string
	programs  string // the directory of initdb and its companions
	databases atomic.Int64
}

const postgresUser = "curfew"

// NewPostgres starts a server with an empty database cluster. A setting is
// "name=value", as in postgresql.conf; what they do not say is PostgreSQL's
// default, which is durable: fsync and synchronous_commit are on.
func NewPostgres(settings ...string) (*Postgres, error) {
	p, err := newPostgres(newPassword(), (*Postgres).initialize, settings)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return p, nil
}

// NewStandby starts a server that streams from p what p writes, and is read-only
// until it is promoted. See [NewPostgres] for the settings.
func (p *Postgres) NewStandby(settings ...string) (*Postgres, error) {
	standby, err := newPostgres(p.password, p.copyTo, settings)
	if err != nil {
		return nil, fmt.Errorf("start a standby of PostgreSQL: %w", err)
	}
	return standby, nil
}

// newPostgres starts a server with what fill puts into its data directory.
func newPostgres(password string, fill func(*Postgres) error, settings []string) (*Postgres, error) {
	initdb, err := find("initdb", "postgresql", "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	as, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := newDir(as)
	if err != nil {
		return nil, err
	}
	p := &Postgres{password: password, programs: filepath.Dir(initdb)}
	p.server = server{dir: dir, as: as, onExit: syscall.SIGQUIT, ready: p.ready}
	if err = fill(p); err == nil {
		err = p.create(settings)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

func (p *Postgres) data() string { return filepath.Join(p.server.dir, "data") }

// run runs one of PostgreSQL's programs to its end.
func (p *Postgres) run(program string, args ...string) error {
	return run(p.server.as, p.server.dir, append([]string{filepath.Join(p.programs, program)}, args...)...)
}

// initialize makes an empty cluster.
func (p *Postgres) initialize() error {
	password := filepath.Join(p.server.dir, "password")
	if err := os.WriteFile(password, []byte(p.password+"\n"), 0o600); err != nil {
		return err
	}
	if p.server.as != nil {
		if err := os.Chown(password, int(p.server.as.Uid), int(p.server.as.Gid)); err != nil {
			return err
		}
	}
	// What initdb writes need not survive a loss of power, which is all that
	// syncing it would be for.
	err := p.run("initdb", "--no-sync", "--encoding=UTF8", "--locale=C", "--pgdata="+p.data(),
		"--username="+postgresUser, "--pwfile="+password, "--auth=scram-sha-256")
	if err != nil {
		return err
	}
	return os.Remove(password)
}

// copyTo makes the data of another server, which does not run, a copy of p's that
// goes on to follow p.
func (p *Postgres) copyTo(other *Postgres) error {
	if err := os.RemoveAll(other.data()); err != nil {
		return err
	}
	return other.run("pg_basebackup", "--no-sync", "--pgdata="+other.data(), "--checkpoint=fast", "--write-recovery-conf", "--dbname="+p.URL())
}

// Follow makes a server that was stopped or killed a standby of another, at its own
// port: as a primary that failed comes back. What it had and the other has not is gone.
func (p *Postgres) Follow(primary *Postgres) error {
	if err := primary.copyTo(p); err != nil {
		return fmt.Errorf("follow a PostgreSQL: %w", err)
	}
	return p.Start()
}

// WaitForStandby has each commit wait from now on until a standby has it on its
// disk, and returns when there is one that does.
func (p *Postgres) WaitForStandby(ctx context.Context) error {
	return p.await(ctx, `SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync')`,
		`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`)
}

// Promote makes a standby a primary, whose commits wait for nobody.
func (p *Postgres) Promote(ctx context.Context) error {
	return p.await(ctx, `SELECT NOT pg_is_in_recovery()`,
		`ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`, `SELECT pg_promote(false)`)
}

// await executes statements, and then asks until the answer is true.
func (p *Postgres) await(ctx context.Context, question string, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := p.query(ctx, p.URL(), statements...); err != nil {
		return err
	}
	for {
		so, err := p.query(ctx, p.URL(), question)
		if err != nil || so == "t" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: it is not so: %w", question, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// create finds a port and starts the server.
func (p *Postgres) create(settings []string) (err error) {
	// Another process may take the port in between.
	for try := 0; ; try++ {
		if p.port, err = freePort(); err != nil {
			return err
		}
		p.server.args = []string{filepath.Join(p.programs, "postgres"), "-D", p.data()}
		for _, setting := range append([]string{
			"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(p.port), "unix_socket_directories=",
			"max_connections=300", "dynamic_shared_memory_type=mmap",
		}, settings...) {
			p.server.args = append(p.server.args, "-c", setting)
		}
		err = p.server.start()
		if err == nil || try == 2 || !strings.Contains(p.server.lastWords(), "Address already in use") {
			return err
		}
	}
}

func (p *Postgres) ready(ctx context.Context) error {
	_, err := p.query(ctx, p.URL(), `SELECT 1`)
	return err
}

// query has PostgreSQL's own client execute statements in a database, each in a
// transaction of its own, and returns what it prints of their rows. Drivers are not used
// here: what tests of the library use is a requirement of everybody who uses the library.
func (p *Postgres) query(ctx context.Context, database string, statements ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, "psql"),
		"--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose", "--dbname="+database)
	for _, statement := range statements {
		cmd.Args = append(cmd.Args, "--command="+statement)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// Addr returns the host and port that the server listens on.
func (p *Postgres) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

// URL returns the connection URL of the superuser, with the password, of the
// database "postgres".
func (p *Postgres) URL() string { return p.url("postgres") }

func (p *Postgres) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(postgresUser, p.password), Host: p.Addr(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// CreateDatabase creates an empty database and returns its connection URL.
func (p *Postgres) CreateDatabase(ctx context.Context) (string, error) {
	name := fmt.Sprintf("test%d", p.databases.Add(1))
	if _, err := p.query(ctx, p.URL(), "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return "", err
	}
	return p.url(name), nil
}

// Start starts the server again, with its data and on its port, and waits until
// it answers, after recovery if need be.
func (p *Postgres) Start() error { return p.server.start() }

// Stop stops the server in order: transactions are rolled back, clients are
// disconnected, what is in memory is written ("fast").
func (p *Postgres) Stop() error { return p.server.stop(syscall.SIGINT) }

// Kill kills all of the server's processes, as "kill -9" does. When it returns
// they are gone.
func (p *Postgres) Kill() error { return p.server.kill() }

// Close stops the server and removes its data.
func (p *Postgres) Close() error {
	return errors.Join(p.server.stop(syscall.SIGQUIT), os.RemoveAll(p.server.dir))
}
