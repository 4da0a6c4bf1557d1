package store_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// A page of a user's sessions that have not ended, as an administrator's page lists them.
func ExampleStore_list() {
	ctx := context.Background()
	var sessions store.Store = memstore.New()
	alice := store.Subject{Issuer: "https://login.example.com", ID: "alice"}
	begun := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for i, client := range []string{"shop", "mail"} {
		s := store.Session{
			ID: store.Bucket(alice) + fmt.Sprint("-", i), Subject: alice, Accounts: []string{"default"},
			Kind: policy.Browser, Client: client, Started: begun, Authenticated: begun, LastActivity: begun,
		}
		if err := sessions.Create(ctx, s, 10); err != nil {
			log.Fatal(err)
		}
	}

	page, next, err := sessions.List(ctx, store.Filter{Subject: alice, State: store.Unended}, "", 100)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range page {
		fmt.Println(s.Client, s.Kind, s.Started.Format(time.TimeOnly))
	}
	fmt.Println("more:", next != "")

	// Output:
	// shop browser 09:00:00
	// mail browser 09:00:00
	// more: false
}
