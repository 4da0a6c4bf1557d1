package provider_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
)

// A randomUser signs in to applications in many tabs of two browsers, in any order,
// with cookies of a moment ago or none, and comes back to what is over.
type randomUser struct {
	*setup
	storage  *optest.Storage
	rnd      *rand.Rand
	browsers []*optest.Browser
	earlier  map[*optest.Browser][]*http.Cookie
	tabs     []*userTab
	did      []string
}

type userTab struct {
	browser          *optest.Browser
	client, callback string
	visit            optest.Visit
}

func (u *randomUser) step(t *testing.T) {
	switch u.rnd.IntN(8) {
	case 0, 1:
		u.begin(t)
	case 2, 3, 4:
		u.callBack(t)
	case 5, 6:
		u.redeem(t)
	case 7:
		time.Sleep([]time.Duration{time.Second, 20 * time.Second, time.Minute, 50 * time.Minute}[u.rnd.IntN(4)])
		if u.rnd.IntN(3) == 0 {
			require.NoError(t, u.hook.Sweep(t.Context()))
		}
		if u.rnd.IntN(6) == 0 {
			_, err := u.hook.EndAll(t.Context(), u.subject("alice"), policy.ReasonEndedByAdmin, "root")
			require.NoError(t, err)
		}
	}
}

// begin opens a tab and signs in, but for the callback.
func (u *randomUser) begin(t *testing.T) {
	x := &userTab{browser: u.browsers[u.rnd.IntN(len(u.browsers))], client: []string{optest.Web, optest.Web2, optest.Implicit}[u.rnd.IntN(3)]}
	extra := url.Values{}
	if x.client == optest.Implicit {
		extra.Set("response_type", []string{"id_token", "id_token token"}[u.rnd.IntN(2)])
	}
	x.callback = u.finished(t, x.browser, u.storage, x.client, "alice", extra)
	u.tabs = append(u.tabs, x)
	u.did = append(u.did, "begin "+x.client)
}

// callBack goes on with a tab, perhaps once more.
func (u *randomUser) callBack(t *testing.T) {
	if len(u.tabs) == 0 {
		return
	}
	x := u.tabs[u.rnd.IntN(len(u.tabs))]
	switch u.rnd.IntN(12) {
	case 0:
		clearCookies(x.browser)
	case 1, 2, 3:
		clearCookies(x.browser)
		u.plant(x.browser, u.earlier[x.browser]...)
	}
	u.earlier[x.browser] = slices.Collect(maps.Values(u.cookies(x.browser)))
	x.visit = x.browser.Get(x.callback)
	u.did = append(u.did, fmt.Sprintf("callback %s %s", x.client, x.visit.Description()))
	if token := x.visit.Params.Get("access_token"); token != "" {
		u.got(t, x.client, token)
	}
	if x.visit.Code() == "" {
		u.tabs = slices.DeleteFunc(u.tabs, func(y *userTab) bool { return x == y })
	}
}

func (u *randomUser) redeem(t *testing.T) {
	i := slices.IndexFunc(u.tabs, func(x *userTab) bool { return x.visit.Code() != "" })
	if i < 0 {
		return
	}
	x := u.tabs[i]
	u.tabs = slices.Delete(u.tabs, i, i+1)
	r := u.Code(x.client, x.visit)
	u.did = append(u.did, fmt.Sprintf("code %s %s", x.client, r.Description()))
	if r.Status == http.StatusOK {
		u.got(t, x.client, r.AccessToken())
	}
}

// got looks which session a token is in.
func (u *randomUser) got(t *testing.T, client, token string) {
	sid, _ := u.Introspect(client, token).JSON["sid"].(string)
	session, err := u.store.Get(t.Context(), sid)
	require.NoError(t, err)
	if client != optest.Web {
		require.NotEqual(t, optest.Web, session.Client, "%s: %q", client, u.did)
	}
}

// Rule 1: whatever a user does with tabs and cookies, no token of an application that
// a cap counts is in a session that the cap does not count.
func TestNoOrderOfTabsGetsRoundACap(t *testing.T) {
	t.Parallel()
	account := limits(6*time.Hour, 2*time.Hour, 1, policy.Refuse)
	account.Clients = map[string]policy.Limits{optest.Web: {Concurrent: policy.Unlimited[int]()}}
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			u := &randomUser{
				storage: optest.NewStorage(), rnd: rand.New(rand.NewPCG(seed, 0)), earlier: map[*optest.Browser][]*http.Cookie{},
			}
			u.setup = start(t, account, func(_ *provider.Config, o *optest.Config) { o.InMemory, o.Storage = true, u.storage })
			u.browsers = []*optest.Browser{u.Browser(), u.Browser()}
			for range 60 {
				u.step(t)
				counted := 0
				for _, session := range u.live(t, "alice") {
					if session.Client != optest.Web {
						counted++
					}
				}
				require.LessOrEqual(t, counted, 1, "seed %d: %q", seed, u.did)
			}
			require.Empty(t, u.seen(provider.EventUnavailable))
		})
	}
}
