package sqlitestore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// Journal mode and synchronous need not be in it: New sees to them. A URL
	// takes care of odd characters in the path.
	dsn := url.URL{
		Scheme: "file", OmitHost: true, Path: filepath.Join(dir, "sessions.db"),
		RawQuery: "_pragma=busy_timeout(1000)&_txlock=immediate",
	}
	db, err := sql.Open("sqlite3", dsn.String())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)

	sessions, err := sqlitestore.New(ctx, db)
	if err != nil {
		log.Fatal(err)
	}

	alice := store.Subject{Issuer: "https://login.example.com", ID: "alice"}
	login := store.Session{ID: store.Bucket(alice) + ".s1", Subject: alice, Client: "web", Started: time.Now()}
	err = sessions.Admit(ctx, alice, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
		if len(held) >= 3 {
			return nil, fmt.Errorf("alice has %d sessions", len(held))
		}
		return []store.Session{login}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	page, _, err := sessions.List(ctx, store.Filter{Subject: alice, State: store.Unended}, "", 10)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(page), page[0].ID == login.ID, page[0].Client)
	// Output: 1 true web
}
