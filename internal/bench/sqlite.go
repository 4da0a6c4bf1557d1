package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"
	_ "github.com/ncruces/go-sqlite3/driver" // registers "sqlite3"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// openSQLite opens a store as the documentation of sqlitestore recommends.
func openSQLite(path string) (store.Store, func() error, error) {
	db, s, err := newSQLite(path)
	if err != nil {
		return nil, nil, err
	}
	return s, db.Close, nil
}

func newSQLite(path string) (*sql.DB, *sqlitestore.Store, error) {
	db, err := openDB(path, "_pragma=busy_timeout(1000)&_txlock=immediate")
	if err != nil {
		return nil, nil, err
	}
	s, err := sqlitestore.New(context.Background(), db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, s, nil
}

func openDB(path, params string) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: params}
	db, err := sql.Open("sqlite3", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return db, nil
}

func newSQLiteRig(dir string) (*rig, error) {
	dir, err := os.MkdirTemp(dir, "sqlite-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "sessions.db")
	db, s, err := newSQLite(path)
	if err != nil {
		return nil, err
	}
	// A file of its own, so that neither waits for the other's writer. With many
	// clients the driver's own waiting is all that queues them up.
	bareDB, err := openDB(filepath.Join(dir, "bare.db"), "_pragma=busy_timeout(60000)&_txlock=immediate&_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b := &bareSQLite{}
	r := &rig{
		store: s, bare: b, load: func(ctx context.Context, all iter.Seq[store.Session]) error { return loadSQLite(ctx, path, s, all) },
		size: func(ctx context.Context) (bytes int64, err error) {
			var pages, size int64
			err = errors.Join(
				db.QueryRowContext(ctx, `SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count`).Scan(&pages),
				db.QueryRowContext(ctx, `PRAGMA page_size`).Scan(&size))
			return pages * size, err
		},
		close: func() error { return errors.Join(db.Close(), bareDB.Close(), os.RemoveAll(dir)) },
	}
	if err := b.prepare(bareDB); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := db.QueryRow(`SELECT sqlite_version()`).Scan(&r.version); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// A bareSQLite reads and writes rows by database/sql.
type bareSQLite struct{ insert, get, set *sql.Stmt }

func (b *bareSQLite) prepare(db *sql.DB) (err error) {
	if _, err := db.Exec(`CREATE TABLE bare (id TEXT NOT NULL PRIMARY KEY, document BLOB NOT NULL) STRICT`); err != nil {
		return err
	}
	for stmt, query := range map[**sql.Stmt]string{
		&b.insert: `INSERT INTO bare (id, document) VALUES (?1, ?2)`,
		&b.get:    `SELECT document FROM bare WHERE id = ?1`,
		&b.set:    `UPDATE bare SET document = ?2 WHERE id = ?1`,
	} {
		if *stmt, err = db.Prepare(query); err != nil {
			return err
		}
	}
	return nil
}

func (b *bareSQLite) put(ctx context.Context, id string, document []byte) error {
	_, err := b.insert.ExecContext(ctx, id, document)
	return err
}

func (b *bareSQLite) read(ctx context.Context, id string) (document []byte, err error) {
	err = b.get.QueryRowContext(ctx, id).Scan(&document)
	return document, err
}

func (b *bareSQLite) update(ctx context.Context, id string, document []byte) error {
	_, err := b.set.ExecContext(ctx, id, document)
	return err
}

// loadSQLite has the store write the first session, and writes the others in one
// transaction, with what the store wrote in the columns that are alike.
func loadSQLite(ctx context.Context, path string, s store.Store, all iter.Seq[store.Session]) (err error) {
	db, err := openDB(path, "_txlock=immediate")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// Of the 256 MiB that the driver gives a connection, sorting the entries of an
	// index would take more.
	conn, err := db.Conn(sqlite3.WithMaxMemory(ctx, 2<<30))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// A large cache and no syncing, on this connection and until the end.
	if _, err := conn.ExecContext(ctx, `PRAGMA cache_size = -131072`); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, `PRAGMA synchronous = OFF`); err != nil {
		return err
	}
	var tx *sql.Tx
	var insert, addTerm *sql.Stmt
	var like string
	var terms, indexes []string
	for one := range all {
		if tx == nil {
			if err := s.Create(ctx, one, 1); err != nil {
				return err
			}
			like = one.ID
			if tx, err = conn.BeginTx(ctx, nil); err != nil {
				return err
			}
			defer tx.Rollback() // does nothing after the commit
			// An index is made in one go after the rows.
			if indexes, err = column(tx.QueryContext(ctx, `SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'curfew_sessions' AND sql IS NOT NULL`)); err != nil {
				return err
			}
			names, err := column(tx.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'curfew_sessions' AND sql IS NOT NULL`))
			if err != nil {
				return err
			}
			for _, name := range names {
				if _, err := tx.ExecContext(ctx, `DROP INDEX `+name); err != nil {
					return err
				}
			}
			insert, err = tx.PrepareContext(ctx, `INSERT INTO curfew_sessions (id, revision, issuer, subject, ended, terms, due, claimed, document)
				SELECT ?1, revision, issuer, ?2, ended, terms, ?3, claimed, ?4 FROM curfew_sessions WHERE id = ?5`)
			if err != nil {
				return err
			}
			addTerm, err = tx.PrepareContext(ctx, `INSERT INTO curfew_terms (term, ended, id) VALUES (?1, 0, ?2)`)
			if err != nil {
				return err
			}
			if terms, err = column(tx.QueryContext(ctx, `SELECT value FROM curfew_sessions s, json_each(s.terms) WHERE s.id = ?1`, like)); err != nil {
				return err
			}
			continue
		}
		document, err := one.MarshalJSON()
		if err != nil {
			return err
		}
		if _, err := insert.ExecContext(ctx, one.ID, one.Subject.ID, one.Due.UnixMicro(), document, like); err != nil {
			return err
		}
		for _, term := range terms {
			if _, err := addTerm.ExecContext(ctx, term, one.ID); err != nil {
				return err
			}
		}
	}
	if tx == nil {
		return errors.New("no sessions to load")
	}
	for _, index := range indexes {
		if _, err := tx.ExecContext(ctx, index); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	// FULL first, so that the checkpoint leaves the system nothing to write while
	// others measure.
	for _, pragma := range []string{`PRAGMA synchronous = FULL`, `PRAGMA wal_checkpoint(TRUNCATE)`} {
		if _, err := conn.ExecContext(ctx, pragma); err != nil {
			return fmt.Errorf("%s: %w", pragma, err)
		}
	}
	return nil
}

func column(rows *sql.Rows, err error) (list []string, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, rows.Err()
}
