package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"sync"
	"time"
)

// presence notices that the database is not where it was opened any more: that its
// file, the folder or the log of writes was removed or replaced. SQLite goes on with
// the files that it has open, and all that it acknowledges is gone when it closes them.
type presence struct {
	path string // of the database; empty: it is no file of the operating system's
	file fs.FileInfo

	mu      sync.Mutex
	looking bool
	looked  time.Time
	err     error // what came of it

	// The log of writes and its index are made and removed with the first and the
	// last connection to the database. A connection keeps those that it began with.
	conn any // of the driver
	logs map[string]fs.FileInfo
}

// lookEvery is how often a store that is used looks. It is a query and a few calls of
// the system.
const lookEvery = time.Second

// logFiles are what SQLite makes beside the database in WAL mode.
var logFiles = []string{"-wal", "-shm"}

// findFiles finds out where the database is.
func (s *Store) findFiles(ctx context.Context) error {
	var path string
	if err := s.db.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		return fmt.Errorf("read database_list: %w", err)
	}
	file, err := os.Stat(path)
	if err != nil {
		return nil // it is in a file system of the driver's own
	}
	s.presence.path, s.presence.file = path, file
	return s.present(ctx)
}

// present returns an error if the database is not where it was, as of at most
// lookEvery ago.
func (s *Store) present(ctx context.Context) error {
	p := &s.presence
	if p.path == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.looking || !p.looked.IsZero() && time.Since(p.looked) < lookEvery {
		return p.err
	}
	p.looking = true
	p.mu.Unlock() // it may wait for a connection
	found, err := s.look(ctx)
	p.mu.Lock()
	p.looking = false
	if err == nil {
		p.err = p.compare(found)
		p.looked = time.Now()
	}
	// What could not be looked at is an error of the call itself, or none.
	return p.err
}

// A sight is what is at the paths of a database.
type sight struct {
	file error // why the file is not the one that was opened
	conn any
	logs map[string]fs.FileInfo
}

// look looks, while a connection is open.
func (s *Store) look(ctx context.Context) (sight, error) {
	p := &s.presence
	// First: a connection that is opened now would make what is missing.
	switch file, err := os.Stat(p.path); {
	case err != nil:
		return sight{file: err}, nil
	case !os.SameFile(file, p.file):
		return sight{file: errors.New("it is another file")}, nil
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return sight{}, err
	}
	defer conn.Close()
	// It has its log open once it has read.
	if err := conn.QueryRowContext(ctx, `PRAGMA data_version`).Scan(new(int64)); err != nil {
		return sight{}, err
	}
	found := sight{logs: map[string]fs.FileInfo{}}
	if err := conn.Raw(func(c any) error { found.conn = c; return nil }); err != nil {
		return sight{}, err
	}
	for _, name := range logFiles {
		file, err := os.Stat(p.path + name)
		switch {
		case err == nil:
			found.logs[name] = file
		case !errors.Is(err, fs.ErrNotExist):
			return sight{}, err
		}
	}
	return found, nil
}

// compare returns what is wrong with what was found, and remembers it if nothing is.
func (p *presence) compare(found sight) error {
	if found.file != nil {
		return fmt.Errorf("%s was removed or replaced while it is open, and what is written now would be lost: %w", p.path, found.file)
	}
	// Another connection may have begun with other logs, when all before it were
	// closed; not while something is missing.
	same := p.err != nil || p.conn != nil && reflect.TypeOf(p.conn).Comparable() && p.conn == found.conn
	for name, was := range p.logs {
		now := found.logs[name]
		if now == nil || same && !os.SameFile(was, now) {
			return fmt.Errorf("%s was removed or replaced while it is open, and what is written now would be lost", p.path+name)
		}
	}
	p.conn, p.logs = found.conn, found.logs
	return nil
}
