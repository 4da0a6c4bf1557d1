package texts

import (
	"encoding/json"
	"flag"
	"html/template"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
)

func TestWordsForTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d       time.Duration
		ago, in string
	}{
		{-time.Hour, "just now", "in less than a minute"},
		{0, "just now", "in less than a minute"},
		{time.Minute - 1, "just now", "in less than a minute"},
		{time.Minute, "1 minute ago", "in 1 minute"},
		{59 * time.Minute, "59 minutes ago", "in 59 minutes"},
		{time.Hour, "1 hour ago", "in 1 hour"},
		{3*time.Hour + 59*time.Minute, "3 hours ago", "in 3 hours"},
		{47 * time.Hour, "47 hours ago", "in 47 hours"},
		{48 * time.Hour, "2 days ago", "in 2 days"},
		{720 * time.Hour, "30 days ago", "in 30 days"},
	} {
		require.Equal(t, c.ago, English.Ago(c.d), c.d)
		require.Equal(t, c.in, English.In(c.d), c.d)
	}
	require.Equal(t, "3 March 2026, 08:05 UTC", English.Date(time.Date(2026, 3, 3, 10, 5, 59, 0, time.FixedZone("", 7200))))
	for month := range 12 {
		at := time.Date(2026, time.Month(month+1), 12, 23, 59, 0, 0, time.UTC)
		require.Equal(t, at.Format("2 January 2006, 15:04 UTC"), English.Date(at))
	}
}

// What package policy says is said here, with the same words.
func TestReasonsAndKindsAreThoseOfPolicy(t *testing.T) {
	t.Parallel()
	for _, info := range append(policy.Reasons(), policy.Reason("").Info(), policy.Reason("of another version").Info()) {
		for _, limit := range []time.Duration{
			0, time.Millisecond, time.Second, 30 * time.Second, time.Minute, 90 * time.Minute, 2*time.Hour + time.Second, 36 * time.Hour, 720 * time.Hour, 25*time.Hour + 61*time.Second,
		} {
			require.Equal(t, info.SentenceOf(limit), English.Ended(info.Reason, limit))
		}
		require.Equal(t, "The sign-in that this one was made from is over: "+info.Cause+".", English.ParentEnded(info.Reason))
	}
	for _, kind := range append(policy.Kinds(), "", "kiosk") {
		require.Equal(t, kind.Label(), English.Kind(kind))
	}
}

func TestValuesAreNoMarkup(t *testing.T) {
	t.Parallel()
	const bad = `<b>{n} & {client}`
	require.Equal(t, "To go on to <strong>&lt;b&gt;{n} &amp; {client}</strong>, end at least 2 first.", string(English.Markup("ask.next", "client", bad, "n", 2)))
	require.Equal(t, "Ended: "+bad+". Whoever uses it has to sign in again there.", English.Text("mine.did.one", "title", bad))
	require.Equal(t, "Ends by itself <i>", string(English.Markup("ask.ends", "ends", template.HTML("<i>"))))
}

var update = flag.Bool("update", false, "write the file of the made-up language")

// pseudo is a made-up language for tests, with the plural forms of Polish: each text is the
// English one in ⟦brackets⟧, so that what a page has beside it is seen.
func pseudo() map[string]message {
	pl, err := decode("pl", []byte("{}"))
	if err != nil {
		panic(err)
	}
	out := map[string]message{}
	for code, m := range English.messages {
		out[code] = message{other: "⟦" + m[other] + "⟧"}
		if len(m) > 1 {
			for _, form := range pl.forms() {
				out[code][form] = "⟦" + form + " " + m[other] + "⟧"
			}
		}
	}
	return out
}

func file(t *testing.T, messages map[string]message) []byte {
	t.Helper()
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	require.NoError(t, e.Encode(messages))
	return []byte(b.String())
}

// A language is a file; that of English is one as well.
func TestALanguageIsAFile(t *testing.T) {
	t.Parallel()
	_, err := Parse("en", file(t, English.messages))
	require.NoError(t, err)

	want := file(t, pseudo())
	if *update {
		require.NoError(t, os.WriteFile("textstest/pseudo.json", want, 0o600))
	}
	got, err := os.ReadFile("textstest/pseudo.json")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "go test ./provider/internal/texts -update")
	c, err := Parse("pl", got)
	require.NoError(t, err)
	require.Equal(t, "pl", c.Lang())
	for n, want := range map[int]string{1: "⟦one 1 minute", 2: "⟦few 2 minute", 5: "⟦many 5 minute", 22: "⟦few 22 minute"} {
		require.Contains(t, c.Text("limit.minute", "n", n), want)
	}
	require.Equal(t, "⟦You were signed out after ⟦⟦one 1 hours⟧ ⟦many 30 minutes⟧⟧ without activity.⟧", c.Ended(policy.ReasonInactivity, 90*time.Minute))
}

func TestWhatIsWrongWithALanguage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(map[string]message)
		want   string
	}{
		"a missing text":        {func(m map[string]message) { delete(m, "ask.title") }, "texts in pl: ask.title: it is missing"},
		"a missing reason":      {func(m map[string]message) { delete(m, "reason.logout") }, "texts in pl: reason.logout: it is missing"},
		"an unknown text":       {func(m map[string]message) { m["ask.titel"] = message{other: "x"} }, "texts in pl: ask.titel: there is no such code"},
		"a placeholder left":    {func(m map[string]message) { m["device.on"] = message{other: "{program}"} }, `device.on: the form "other" has [{program}], and the English [{program} {system}]`},
		"another placeholder":   {func(m map[string]message) { m["ask.ends"] = message{other: "{end}"} }, `ask.ends: the form "other" has [{end}]`},
		"one placeholder twice": {func(m map[string]message) { m["ask.ends"] = message{other: "{ends} {ends}"} }, `ask.ends: the form "other" has [{ends} {ends}]`},
		"one in one form":       {func(m map[string]message) { m["ask.next"]["few"] = "<strong></strong> {n}" }, `ask.next: the form "few" has [</strong> <strong> {n}]`},
		"no number":             {func(m map[string]message) { m["ask.next"][other] = "<strong>{client}</strong>" }, `ask.next: the form "other" has`},
		"a script":              {func(m map[string]message) { m["ask.title"] = message{other: "<script>"} }, `ask.title: the form "other" has [<script>]`},
		"half an element":       {func(m map[string]message) { m["ask.title"] = message{other: "<script src=x "} }, `ask.title: the form "other" has [<]`},
		"an attribute":          {func(m map[string]message) { m["ask.next"][other] = "<strong onclick=x>{client}</strong>{n}" }, `ask.next: the form "other" has`},
		"a missing form":        {func(m map[string]message) { delete(m["ask.next"], "few") }, "ask.next: it has the forms [many one other], and needs [few many one other]"},
		"forms of no number":    {func(m map[string]message) { m["ask.title"] = message{other: "x", "one": "y"} }, "ask.title: it has the forms [one other], and needs [other]"},
	} {
		m := pseudo()
		c.change(m)
		_, err := Parse("pl", file(t, m))
		require.ErrorContains(t, err, c.want, name)
		require.Len(t, strings.Split(err.Error(), "\n"), 1, name)
	}
	few := pseudo()
	for _, form := range []string{"one", "few"} {
		few["ask.next"][form] = "<strong>{client}</strong>" // "one of them"
	}
	_, err := Parse("pl", file(t, few))
	require.NoError(t, err)

	broken, err := os.ReadFile("testdata/broken.json")
	require.NoError(t, err)
	_, err = Parse("de", broken)
	require.Len(t, strings.Split(err.Error(), "\n"), len(English.messages)+1, "all of it is said, the unknown code included")
	for _, bad := range []string{"[]", `{"a": 1}`, `{"a": {"other": 1}}`, "{"} {
		_, err := Parse("de", []byte(bad))
		require.Error(t, err, bad)
	}
	_, err = Parse("no language", []byte("{}"))
	require.Error(t, err)
}

// What policy has is not written a second time in the file.
func TestNothingIsWrittenTwice(t *testing.T) {
	t.Parallel()
	c, err := decode("en", englishFile)
	require.NoError(t, err)
	for code := range maps.Keys(ofPolicy()) {
		require.NotContains(t, c.messages, code)
	}
}
