package main

import (
	"context"
	"database/sql"
	"errors"

	_ "github.com/ncruces/go-sqlite3/driver" // registers "sqlite3"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// openSQLite opens a store as the documentation of sqlitestore recommends.
func openSQLite(path string) (store.Store, func() error, error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?_pragma=busy_timeout(1000)&_txlock=immediate")
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	s, err := sqlitestore.New(context.Background(), db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return s, db.Close, nil
}
