// Demodata makes what a busy organization has after some months, for tests and
// pictures of the pages that administrators see: a users file, and in a running
// provider's SQLite store sessions of these users and hourly counters.
//
//	demodata -users FILE
//	demodata -store FILE -issuer URL
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log"
	"math"
	"net/url"
	"os"
	"strings"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"golang.org/x/crypto/bcrypt"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

const account = "default"

var people = strings.Fields(`alice ben carla dmitri elif farah george hana ines jonas kofi lena mateo nadia
	omar priya quentin rosa sven tara uma viktor wanda xavier yara zeno`)

func main() {
	users := flag.String("users", "", "`file` to write the users to")
	path := flag.String("store", "", "`file` of the SQLite store to fill")
	issuer := flag.String("issuer", "", "`URL` of the provider whose users they are")
	flag.Parse()
	err := errors.New("-users or -store is needed")
	switch {
	case *users != "":
		err = writeUsers(*users)
	case *path != "":
		err = fill(context.Background(), *path, *issuer, time.Now().UTC().Truncate(time.Microsecond))
	}
	if err != nil {
		log.Fatal("demodata: ", err)
	}
}

// writeUsers writes users whose password is "demo-" and their name. The hashes
// are of the lowest cost.
func writeUsers(path string) error {
	var b strings.Builder
	for i, name := range append([]string{"root", "olga"}, people...) {
		hash, err := bcrypt.GenerateFromPassword([]byte("demo-"+name), bcrypt.MinCost)
		if err != nil {
			return err
		}
		role, group := "[]", []string{"staff", "finance", "support"}[i%3]
		if i < 2 {
			role, group = "[administrator]", "admins"
		}
		fmt.Fprintf(&b, "- {username: %s, password_hash: %q, sub: %s, groups: [%s], roles: %s}\n", name, hash, name, group, role)
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

func fill(ctx context.Context, path, issuer string, now time.Time) (err error) {
	name := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(20000)&_txlock=immediate"}
	db, err := sql.Open("sqlite3", name.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s, err := sqlitestore.New(ctx, db)
	if err != nil {
		return err
	}
	for i, name := range people {
		for j := range 2 + (i*7)%4 {
			ended := session(issuer, name, i, j, now)
			begun := ended.Clone()
			begun.End, begun.Deliveries = nil, nil
			if err := s.Create(ctx, begun, 100); err != nil {
				return err
			}
			if ended.Revision = 1; ended.End == nil {
				continue
			}
			if _, err := s.Update(ctx, ended); err != nil {
				return err
			}
		}
	}
	return count(ctx, s, now)
}

var agents = []string{
	"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
	"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
	"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
}

// session is the j-th session of the i-th user: some hours old, the earliest of
// them ended.
func session(issuer, name string, i, j int, now time.Time) store.Session {
	age := time.Duration(20+(i*131+j*97)%600) * time.Minute
	s := store.Session{
		Subject: store.Subject{Issuer: issuer, ID: name}, Accounts: []string{account},
		Kind: policy.Browser, Client: "web", UserAgent: agents[(i+j)%len(agents)],
		Address: fmt.Sprintf("198.51.%d.0/24", 100+(i*3+j)%20), AMR: []string{"pwd"},
		Started: now.Add(-age), Authenticated: now.Add(-age), ActivityClass: policy.Refresh,
		LastActivity: now.Add(-time.Duration(1+(i*17+j*29)%55) * time.Minute).Truncate(time.Second),
		Grants:       []store.Grant{{ID: "g1", Client: "web", Authenticated: now.Add(-age)}},
	}
	s.ID = fmt.Sprintf("%s.demo-%s-%d", store.Bucket(s.Subject), name, j)
	if s.LastActivity.Before(s.Started) {
		s.LastActivity = s.Started
	}
	if j == 1 && i%2 == 0 {
		s.Kind, s.Client, s.UserAgent, s.Grants[0].Client = policy.CLI, "cli", "deploy-cli/2.3", "cli"
	}
	if j < 2 || i%3 != 0 {
		return s
	}
	reason := []policy.Reason{policy.ReasonInactivity, policy.ReasonActiveLimit, policy.ReasonLogout, policy.ReasonEndedByAdmin}[(i/3+j)%4]
	s.End = &store.End{At: now.Add(-time.Duration(i) * time.Minute), Reason: reason}
	switch {
	case reason == policy.ReasonEndedByAdmin:
		s.End.By = "root"
	case i%6 == 0:
		s.Deliveries = []store.Delivery{{
			Client: "web", URI: "https://wiki.example.com/logout", Error: "the application answered with status 503",
			Attempts: 4, Next: now.Add(17 * time.Minute),
		}}
	case i%9 == 0:
		s.Deliveries = []store.Delivery{{
			Client: "web", URI: "https://old.example.com/logout", Error: "the host has no address",
			Attempts: 12, GivenUp: now.Add(-2 * time.Hour),
		}}
	}
	return s
}

// count adds the counters of 90 days: more on working days and by day.
func count(ctx context.Context, s *sqlitestore.Store, now time.Time) error {
	var batch []store.Count
	hour := now.Truncate(time.Hour)
	for i := range 90 * 24 {
		at := hour.Add(-time.Duration(i) * time.Hour)
		load := 20 + 380*math.Exp(-math.Pow(float64(at.Hour())-13, 2)/18)
		if at.Weekday() == time.Saturday || at.Weekday() == time.Sunday {
			load *= .25
		}
		load *= 1 + .25*math.Sin(float64(i)/200) + .06*math.Sin(float64(i*i%97))
		if i/24 == 61 { // a day on which the database was away
			continue
		}
		n := func(share float64) int64 { return int64(load*share + float64(i*7919%100)/100) }
		for name, value := range map[string]int64{
			"live": int64(load) * 6, "samples": 6, "started.browser": n(.2), "started.cli": n(.05),
			"refused.concurrency": n(.012), "refused.active_limit": n(.004),
			"ended.inactivity": n(.11), "ended.active_limit": n(.03), "ended.logout": n(.06), "ended.concurrency": n(.015),
			"ended.ended_by_admin": n(.002), "ended.replay": n(.0005), "ended.policy_change": map[bool]int64{true: n(.4)}[i/24 == 33],
		} {
			if value > 0 {
				batch = append(batch, store.Count{Account: account, Hour: at, Name: name, N: value})
			}
			if len(batch) == store.MaxAddedCounts {
				if err := s.AddCounts(ctx, batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
	}
	return s.AddCounts(ctx, batch)
}
