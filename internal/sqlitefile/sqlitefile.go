// Package sqlitefile notices that an SQLite database is not where it was opened any
// more: that its file, the folder or the log of writes was removed or replaced. SQLite
// goes on with the files that it has open, and all that it acknowledges is gone when it
// closes them.
package sqlitefile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"
)

// A File is the file of a database that is open. Make one with [Find].
type File struct {
	db   *sql.DB
	path string // empty: it is no file of the operating system's
	file fs.FileInfo

	mu      sync.Mutex
	looking bool
	looked  time.Time
	err     error // what came of it

	// The log of writes and its index are made and removed with the first and the
	// last connection to the database. A connection keeps those that it began with,
	// whatever another one finds that begins later.
	logs map[string]fs.FileInfo // as they must be, or were last
	seen []sight                // the connections that looked last, each with its logs
}

// remembered is how many connections are remembered: a closed one is, too, and must
// not hold memory for ever.
const remembered = 16

// LookEvery is how often a database that is used is looked for. It is a query and a few
// calls of the system.
const LookEvery = time.Second

// logFiles are what SQLite makes beside the database in WAL mode.
var logFiles = []string{"-wal", "-shm"}

// Find finds out where a database is, which should have been read or written. One in
// memory, and one in a file system of the driver's own, is nowhere, and always there.
func Find(ctx context.Context, db *sql.DB) (*File, error) {
	f := &File{db: db}
	var path string
	if err := db.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		return nil, fmt.Errorf("read database_list: %w", err)
	}
	file, err := os.Stat(path)
	if err != nil {
		return f, nil
	}
	f.path, f.file = path, file
	return f, f.Check(ctx)
}

// Check returns an error if the database is not where it was, as of at most LookEvery
// ago. A database that is in use is looked for by one caller at a time, and nobody
// waits for that one. Of no File nothing is known, and it returns nil.
func (f *File) Check(ctx context.Context) error {
	if f == nil || f.path == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looking || !f.looked.IsZero() && time.Since(f.looked) < LookEvery {
		return f.err
	}
	f.looking = true
	f.mu.Unlock() // it may wait for a connection
	found, err := f.look(ctx)
	f.mu.Lock()
	f.looking = false
	if err == nil {
		f.err = f.compare(found)
		f.looked = time.Now()
	}
	// What could not be looked at is an error of the call itself, or none.
	return f.err
}

// A sight is what is at the paths of a database.
type sight struct {
	file error // why the file is not the one that was opened
	conn any
	logs map[string]fs.FileInfo
}

// look looks, while a connection is open.
func (f *File) look(ctx context.Context) (sight, error) {
	// First: a connection that is opened now would make what is missing.
	switch file, err := os.Stat(f.path); {
	case err != nil:
		return sight{file: err}, nil
	case !os.SameFile(file, f.file):
		return sight{file: errors.New("it is another file")}, nil
	}
	conn, err := f.db.Conn(ctx)
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
		file, err := os.Stat(f.path + name)
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
func (f *File) compare(found sight) error {
	if found.file != nil {
		return fmt.Errorf("%s was removed or replaced while it is open, and what is written now would be lost: %w", f.path, found.file)
	}
	must, known := f.logs, f.err != nil
	if i := f.sawBy(found.conn); i >= 0 && !known {
		must, known = f.seen[i].logs, true
	}
	// Another connection may have begun with other logs, when all before it were
	// closed; not while something is missing.
	for name, was := range must {
		now := found.logs[name]
		if now == nil || known && !os.SameFile(was, now) {
			f.logs = must
			return fmt.Errorf("%s was removed or replaced while it is open, and what is written now would be lost", f.path+name)
		}
	}
	f.logs = found.logs
	if f.sawBy(found.conn) < 0 && reflect.TypeOf(found.conn).Comparable() {
		f.seen = append(f.seen, found)
		f.seen = slices.Delete(f.seen, 0, max(0, len(f.seen)-remembered))
	}
	return nil
}

// sawBy returns which of the sights is a connection's, or -1.
func (f *File) sawBy(conn any) int {
	return slices.IndexFunc(f.seen, func(s sight) bool { return reflect.TypeOf(conn).Comparable() && s.conn == conn })
}
