package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server.
type Postgres struct {
	server    server
	port      int
	password  string
	databases atomic.Int64
}

const postgresUser = "curfew"

// NewPostgres starts a server with an empty database cluster. A setting is
// "name=value", as in postgresql.conf; what they do not say is PostgreSQL's
// default, which is durable: fsync and synchronous_commit are on.
func NewPostgres(settings ...string) (*Postgres, error) {
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
	p := &Postgres{password: newPassword()}
	p.server = server{dir: dir, as: as, onExit: syscall.SIGQUIT, ready: p.ready}
	err = p.create(initdb, settings)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), os.RemoveAll(dir))
	}
	return p, nil
}

func (p *Postgres) create(initdb string, settings []string) error {
	dir, data := p.server.dir, filepath.Join(p.server.dir, "data")
	password := filepath.Join(dir, "password")
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
	err := run(p.server.as, dir, initdb, "--no-sync", "--encoding=UTF8", "--locale=C", "--pgdata="+data,
		"--username="+postgresUser, "--pwfile="+password, "--auth=scram-sha-256")
	if err != nil {
		return err
	}
	if err := os.Remove(password); err != nil {
		return err
	}
	// Another process may take the port in between.
	for try := 0; ; try++ {
		if p.port, err = freePort(); err != nil {
			return err
		}
		p.server.args = []string{filepath.Join(filepath.Dir(initdb), "postgres"), "-D", data}
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
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
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
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	name := fmt.Sprintf("test%d", p.databases.Add(1))
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
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
