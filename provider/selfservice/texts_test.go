package selfservice

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/internal/texts/textstest"
	"github.com/curfew-oidc/curfew/store"
)

// The page says nothing in English but by the catalogue: in a made-up language nothing is left of it.
func TestThePageHasNoWordsOfItsOwn(t *testing.T) {
	t.Parallel()
	in := textstest.Pseudo(t)
	now := time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC)
	session := func(kind policy.Kind, actor string) store.Session {
		return store.Session{
			ID: "1", Kind: kind, ClientNames: []string{"2", "3"}, Address: "2001:0:1::/48", Actor: actor,
			Started: now.Add(-time.Hour), Authenticated: now.Add(-time.Hour), LastActivity: now.Add(-3 * time.Minute),
		}
	}
	ended := session(policy.CLI, "")
	ended.End = &store.End{At: now.Add(-time.Minute), Reason: policy.ReasonEndedByUser}
	var live []provider.LiveSession
	for i := range 51 {
		s := provider.LiveSession{Session: session(policy.Automation, "4"), Deadline: now.Add(time.Hour), Limit: policy.ReasonInactivity}
		switch i {
		case 0:
			s.ID = "5"
		case 1:
			s.Deadline = time.Time{}
		case 2:
			s.Limit = policy.ReasonActiveLimit
		}
		live = append(live, s)
	}
	overview := provider.Overview{
		Live: live, Ended: []store.Session{ended}, Incomplete: true, Pending: 1, Caps: []provider.CapUse{
			{Used: 51, Cap: policy.Cap{Max: 60}}, {Used: 1, Cap: policy.Cap{Max: 1, Scope: policy.Scope{Kind: policy.Browser}}}, {Used: 1, Cap: policy.Cap{Max: 2, Scope: policy.Scope{Kind: policy.CLI}}},
			{Used: 1, Cap: policy.Cap{Max: 2, Scope: policy.Scope{Kind: policy.Automation}}}, {Used: 1, Cap: policy.Cap{Max: 2, Scope: policy.Scope{Kind: "6"}}}, {Used: 1, Cap: policy.Cap{Max: 2, Scope: policy.Scope{Client: "7"}}},
		},
	}
	lists := newList(overview, visitor{sid: "5"}, 1, now, in)
	second := newList(overview, visitor{}, 2, now, in)
	pages := []pageData{
		{Sessions: lists, Notice: lists.notice("1"), Home: "/8", SignIn: "/9"},
		{Sessions: second, Notice: second.notice(othersEnded), Home: "/8", SignIn: "/9"},
		{Sessions: newList(provider.Overview{}, visitor{}, 1, now, in)},
	}
	for _, a := range []answer{notSignedIn, noSuchSession, noSuchPage, foreignForm, formTooLarge, badForm, wrongMethod, tryAgain} {
		pages = append(pages, pageData{Answer: &a, Title: a.title(in), Lead: a.words(in), SignIn: "/9"})
	}
	for i, p := range pages {
		p.Catalogue, p.Style = in, "10"
		var page strings.Builder
		require.NoError(t, sessionsTemplate.Execute(&page, p))
		textstest.NoOtherWords(t, page.String(), strconv.Itoa(i))
	}
	require.NotEmpty(t, pages[0].Notice)
	require.NotEmpty(t, pages[1].Notice)
}
