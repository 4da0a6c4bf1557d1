package main

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"

	_ "github.com/ncruces/go-sqlite3/driver" // registers "sqlite3"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A sqlite is an engine. Triggers write its history, in the transactions that
// make it: SQLite has one writer, so the order of the log is that of the
// commits, and what is rolled back takes its lines along.
//
// Each change counts as a commit. That is finer than the commits are, and so
// stricter: a step that added first and ended then would not pass.
type sqlite struct {
	path string
	seen int64 // the last change that history returned
}

func newSQLite(dir string) *sqlite { return &sqlite{path: filepath.Join(dir, "op.db")} }

func (e *sqlite) name() string { return "SQLite" }
func (e *sqlite) url() string  { return "sqlite:" + e.path }
func (e *sqlite) close() error { return nil }

func (e *sqlite) database() (*sql.DB, error) {
	return sql.Open("sqlite3", "file:"+e.path+"?_pragma=busy_timeout(1000)&_txlock=immediate")
}

func (e *sqlite) open(ctx context.Context) (store.Store, func() error, error) {
	db, err := e.database()
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	s, err := sqlitestore.New(ctx, db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return s, db.Close, nil
}

func (e *sqlite) record(ctx context.Context) error {
	db, err := e.database()
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `
		CREATE TABLE soak_history (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, document BLOB);
		CREATE TRIGGER soak_insert AFTER INSERT ON curfew_sessions
			BEGIN INSERT INTO soak_history (id, document) VALUES (NEW.id, NEW.document); END;
		CREATE TRIGGER soak_update AFTER UPDATE OF document ON curfew_sessions
			BEGIN INSERT INTO soak_history (id, document) VALUES (NEW.id, NEW.document); END;
		CREATE TRIGGER soak_delete AFTER DELETE ON curfew_sessions
			BEGIN INSERT INTO soak_history (id) VALUES (OLD.id); END;`)
	return errors.Join(err, db.Close())
}

func (e *sqlite) history(ctx context.Context) (_ []commit, err error) {
	db, err := e.database()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, `SELECT n, id, document FROM soak_history WHERE n > ? ORDER BY n`, e.seen)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []commit
	for rows.Next() {
		var c change
		var document []byte
		if err := rows.Scan(&e.seen, &c.id, &document); err != nil {
			return nil, err
		}
		if document != nil {
			if c.session, err = parseSession(document); err != nil {
				return nil, err
			}
		}
		list = append(list, commit{c})
	}
	return list, rows.Err()
}
