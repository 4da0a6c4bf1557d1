package store_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

func TestClone(t *testing.T) {
	require.Equal(t, store.Session{}, store.Session{}.Clone())

	s := sample.Full()
	c := s.Clone()
	require.Equal(t, sample.Full(), c)
	sample.Overwrite(&s)
	require.Equal(t, sample.Full(), c, "the copy shares memory with the original")

	// Appending to one slice must not reach into the next one.
	c = sample.Full()
	c = c.Clone()
	_ = append(c.Accounts, "other")
	_ = append(c.BrowserHash, 'x')
	for i := range c.Grants {
		_ = append(c.Grants[i].NonceHash, 'x')
		_ = append(c.Grants[i].FromHash, 'x')
		_ = append(c.Grants[i].Repeat, 'x')
	}
	require.Equal(t, sample.Full(), c)
}

func TestSessionJSONKeepsEverything(t *testing.T) {
	s := sample.Full()
	data, err := json.Marshal(s)
	require.NoError(t, err)
	var back store.Session
	require.NoError(t, json.Unmarshal(data, &back))
	require.Equal(t, s, back)
}

// The document says what encoding/json would make of the struct tags.
func TestSessionJSONFollowsTheTags(t *testing.T) {
	s := sample.Full()
	data, err := s.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, asTagged(t, s), asMap(t, data))
}

// asTagged encodes s by its struct tags alone, with the unknown members added.
func asTagged(t testing.TB, s store.Session) map[string]any {
	type (
		plainSession  store.Session
		plainGrant    store.Grant
		plainCode     store.Code
		plainEnd      store.End
		plainDelivery store.Delivery
	)
	with := func(v any, unknown map[string]json.RawMessage) map[string]any {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		m := asMap(t, data)
		for name, raw := range unknown {
			var u any
			require.NoError(t, json.Unmarshal(raw, &u))
			m[name] = u
		}
		return m
	}
	m := byName(with(plainSession(s), s.Unknown))
	if len(s.Grants) > 0 {
		var list []any
		for _, g := range s.Grants {
			list = append(list, with(plainGrant(g), g.Unknown))
		}
		m["grants"] = list
	}
	if len(s.Codes) > 0 {
		var list []any
		for _, c := range s.Codes {
			list = append(list, with(plainCode(c), c.Unknown))
		}
		m["codes"] = list
	}
	if s.End != nil {
		m["end"] = with(plainEnd(*s.End), s.End.Unknown)
	}
	if len(s.Deliveries) > 0 {
		var list []any
		for _, d := range s.Deliveries {
			list = append(list, with(plainDelivery(d), d.Unknown))
		}
		m["deliveries"] = list
	}
	return m
}

func asMap(t testing.TB, data []byte) map[string]any {
	var m map[string]any
	require.NoError(t, json.Unmarshal(data, &m), "%s", data)
	return m
}

func TestSessionJSONZero(t *testing.T) {
	data, err := store.Session{}.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, `{"v":1,"sid":"","subject":{"iss":"","sub":""}}`, string(data))

	data, err = json.Marshal([]any{store.Grant{}, store.Code{}, store.End{}, store.Delivery{}})
	require.NoError(t, err)
	require.Equal(t, `[{"id":""},{},{},{}]`, string(data))
}

func TestSessionJSONTimes(t *testing.T) {
	zone := time.FixedZone("", -7*3600)
	s := store.Session{Started: time.Date(2026, 3, 1, 23, 0, 0, 123456789, zone), Authenticated: time.Now()}
	data, err := s.MarshalJSON()
	require.NoError(t, err)
	require.Contains(t, string(data), `"started":"2026-03-02T06:00:00.123456789Z"`)
	require.NotContains(t, string(data), "last_activity", "zero times are omitted")

	var back store.Session
	require.NoError(t, back.UnmarshalJSON(data))
	require.Equal(t, s.Started.UTC(), back.Started)
	require.Equal(t, s.Authenticated.UTC().Round(0), back.Authenticated)
	require.Equal(t, time.Time{}, back.LastActivity)

	require.NoError(t, back.UnmarshalJSON([]byte(`{"v":1,"started":"2026-03-01T23:00:00-07:00","due":null}`)))
	require.Equal(t, time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC), back.Started)
	require.True(t, back.Due.IsZero())
}

// The years 0 to 9999 are those in UTC, wherever the clock is: the first and the last
// moment of them come back, and none before and after them is written or read.
func TestSessionJSONYears(t *testing.T) {
	east, west := time.FixedZone("", 14*3600), time.FixedZone("", -12*3600)
	first, last := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	for _, zone := range []*time.Location{time.UTC, east, west} {
		for _, at := range []time.Time{first, first.Add(1), last, last.Add(-1)} {
			s := store.Session{Started: at.In(zone)}
			data, err := s.MarshalJSON()
			require.NoError(t, err)
			var back store.Session
			require.NoError(t, back.UnmarshalJSON(data), "%s", data)
			require.Equal(t, at, back.Started)
		}
		for _, at := range []time.Time{first.Add(-1), last.Add(1), time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0)} {
			s := store.Session{Started: at.In(zone)}
			_, err := s.MarshalJSON()
			require.ErrorContains(t, err, "started: is outside of the years 0 to 9999")
		}
	}
	for text, good := range map[string]bool{
		"0000-01-01T00:00:00Z": true, "0000-01-01T14:00:00+14:00": true, "0000-01-01T13:59:59.999999999+14:00": false,
		"9999-12-31T23:59:59.999999999Z": true, "9999-12-31T11:59:59.999999999-12:00": true, "9999-12-31T12:00:00-12:00": false,
		"-001-01-01T00:00:00Z": false, "10000-01-01T00:00:00Z": false, "+9999-01-01T00:00:00Z": false,
	} {
		var s store.Session
		err := s.UnmarshalJSON([]byte(`{"v":1,"started":"` + text + `"}`))
		require.Equal(t, good, err == nil, "%s: %v", text, err)
	}
}

func TestSessionJSONRefusesToWrite(t *testing.T) {
	for name, s := range map[string]store.Session{
		"newer format":         {Format: store.Format + 1},
		"ID not UTF-8":         {ID: "a\xff"},
		"subject not UTF-8":    {Subject: store.Subject{ID: "\xc3"}},
		"account not UTF-8":    {Accounts: []string{"ok", "\xed\xa0\x80"}},
		"year 10000":           {Due: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"year -1":              {Grants: []store.Grant{{Revoked: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)}}},
		"known as unknown":     {Unknown: map[string]json.RawMessage{"sid": json.RawMessage(`"other"`)}},
		"unknown not JSON":     {End: &store.End{Unknown: map[string]json.RawMessage{"x": json.RawMessage(`1}`)}}},
		"unknown empty":        {Unknown: map[string]json.RawMessage{"x": nil}},
		"unknown not UTF-8":    {Unknown: map[string]json.RawMessage{"x": json.RawMessage("\"\xff\"")}},
		"name not UTF-8":       {Unknown: map[string]json.RawMessage{"\xff": json.RawMessage("1")}},
		"delivery, in a grant": {Deliveries: []store.Delivery{{Unknown: map[string]json.RawMessage{"uri": json.RawMessage("1")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.MarshalJSON()
			require.Error(t, err)
			s.ID = store.Bucket(s.Subject) + "id" + s.ID
			err = s.Validate()
			require.Error(t, err)
			require.NotContains(t, err.Error(), "bucket")
			_, same := s.AppendDocument(nil)
			require.EqualError(t, same, err.Error())
		})
	}
	s := store.Session{}
	require.ErrorContains(t, s.Validate(), "no ID")
	_, err := s.AppendDocument(nil)
	require.ErrorContains(t, err, "no ID")
}

func TestIDsBeginWithTheBucket(t *testing.T) {
	// The values never change: there are sessions under them.
	for bucket, subject := range map[string]store.Subject{
		"ff": {}, "e7": {Issuer: "https://login.example.com", ID: "user-1"}, "a3": {Issuer: "ä", ID: "\x00"},
	} {
		require.Equal(t, bucket, store.Bucket(subject))
		for _, id := range []string{bucket, bucket + ".x", bucket + "\x00"} {
			s := store.Session{ID: id, Subject: subject}
			require.NoError(t, s.Validate())
		}
		for _, id := range []string{bucket[:1], "." + bucket, strings.ToUpper(bucket) + "x", "x"} {
			s := store.Session{ID: id, Subject: subject}
			require.EqualError(t, s.Validate(), fmt.Sprintf("the ID of the session is %q and does not begin with %q, the bucket of its subject", id, bucket))
			_, err := s.AppendDocument(nil)
			require.EqualError(t, err, s.Validate().Error())
		}
	}
}

func TestSessionJSONFormat(t *testing.T) {
	var s store.Session
	err := s.UnmarshalJSON([]byte(`{"v":2,"sid":{"now":"an object"}}`))
	require.ErrorIs(t, err, store.ErrFormat)
	require.ErrorContains(t, err, "it is 2, this version reads up to 1")
	require.ErrorIs(t, s.UnmarshalJSON([]byte(`{"sid":"a"}`)), store.ErrFormat)
	require.ErrorIs(t, s.UnmarshalJSON([]byte(`{"v":1,"subject":{"iss":"i","sub":"s","org":"o"}}`)), store.ErrFormat)
	require.Equal(t, store.Session{}, s, "a failed read changes nothing")
}

func TestSessionJSONRefusesToRead(t *testing.T) {
	for _, doc := range []string{
		``, ` `, `null`, `[]`, `{`, `}`, `{}x`, `{"v":1}}`, "{\"v\":1}\x00", "{\"v\":1} \x00{}", `{"v":1,}`, `{,"v":1}`, `{"v" 1}`, `{"v":1 "sid":""}`, `{v:1}`,
		`{"v":-1}`, `{"v":1.0}`, `{"v":1e0}`, `{"v":01}`, `{"v":"1"}`, `{"v":99999999999999999999}`,
		`{"v":1,"sid":1}`, `{"v":1,"sid":"a}`, "{\"v\":1,\"sid\":\"a\nb\"}", `{"v":1,"sid":"\x41"}`, `{"v":1,"sid":"\`,
		"{\"v\":1,\"sid\":\"\xff\"}", "{\"v\":1,\"other\":\"\xff\"}",
		`{"v":1,"accounts":"a"}`, `{"v":1,"accounts":["a",]}`, `{"v":1,"accounts":["a"`, `{"v":1,"accounts":[1]}`,
		`{"v":1,"started":"yesterday"}`, `{"v":1,"started":"0000-01-01T00:00:00+01:00"}`,
		`{"v":1,"started":"9999-12-31T23:00:00-02:00"}`, `{"v":1,"started":1}`,
		`{"v":1,"activity_class":256}`, `{"v":1,"browser_hash":"?"}`, `{"v":1,"browser_hash":"VVT="}`, `{"v":1,"adopted":1}`, `{"v":1,"adopted":truee}`,
		`{"v":1,"grants":{}}`, `{"v":1,"grants":[null]}`, `{"v":1,"grants":[{}`, `{"v":1,"end":[]}`, `{"v":1,"subject":null}`,
		`{"v":1,"deliveries":[{"attempts":1.5}]}`,
		`{"v":1,"x":}`, `{"v":1,"x":[}`, `{"v":1,"x":[}]}`, `{"v":1,"x":tru}`, `{"v":1,"x":1 2}`, `{"v":1,"x"`, `{"v":1,"x":{"a":1}`,
	} {
		var s store.Session
		require.Error(t, s.UnmarshalJSON([]byte(doc)), "%s", doc)
		half, err := store.ParseDocument(doc)
		require.Error(t, err)
		require.Zero(t, half, "%s", doc)
	}
}

// A text is written so that the very same bytes come back.
func TestSessionJSONTexts(t *testing.T) {
	for _, text := range []string{"", " ", "a ", "A", "\x00", "a\x00b", "\x1f", "\x7f", "\"", "\\", "\\u0041", "</script>", "\u2028", "é", "e\u0301", "\ufffd", "😀", "\n\r\t"} {
		s := store.Session{Format: store.Format, ID: text, UserAgent: text, Accounts: []string{text, "x"}}
		for name, marshal := range map[string]func(any) ([]byte, error){
			"direct": func(v any) ([]byte, error) { return v.(store.Session).MarshalJSON() },
			"json":   json.Marshal,
		} {
			data, err := marshal(s)
			require.NoError(t, err)
			require.True(t, json.Valid(data), "%s %q", name, data)
			var back store.Session
			require.NoError(t, back.UnmarshalJSON(data))
			require.Equal(t, s, back, "%s", name)
		}
	}
}

func FuzzSessionJSON(f *testing.F) {
	data, err := sample.Full().MarshalJSON()
	require.NoError(f, err)
	f.Add(data)
	s := sample.Full()
	s.Grants[0].Generation = math.MaxUint64
	s.ID = "a\x00\"\\\u2028"
	data, err = json.Marshal(s)
	require.NoError(f, err)
	f.Add(data)
	for _, doc := range []string{
		`{"v":1}`, ` { "v" : 1 , "sid" : null , "accounts" : [ ] , "end" : { } , "grants" : [ { } , { "x" : [ ] } ] } `,
		`{"v":1,"v":1,"sid":"a","sid":"b","x":1,"x":2}`, `{"v":1,"\u0073id":"\ud83d\ude00\ud800"}`,
		`{"v":1,"x":"\"}","y":{"z":[{},[],"]"]}}`, `{"v":1,"deliveries":[{"attempts":-1}]}`, `{"v":1,"SID":"a"}`,
		`{"v":1,"activity":"refresh","activity_class":4}`, `{"v":1,"activity_class":3}`, `{"v":1,"activity":"passkey","activity_class":1}`, `{"v":1,"activity_class":77}`,
		`{"v":1,"activity":"passkey","activity":"refresh"}`, `{"v":1,"activity":"refresh","activity":"passkey"}`, `{"v":1,"activity":null,"activity_class":2}`,
		`{"v":1,"due":"2026-01-01T00:00:00.123456789+02:00","end":{"at":"0001-01-01T00:00:00Z"}}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var s store.Session
		if err := s.UnmarshalJSON(in); err != nil {
			return
		}
		require.True(t, json.Valid(in), "read what is not JSON")
		out, err := s.MarshalJSON()
		require.NoError(t, err, "what was read cannot be written")
		require.True(t, json.Valid(out))

		// Nothing was lost or changed: read back it is the same session,
		// and encoding/json sees the same in it.
		var back store.Session
		require.NoError(t, back.UnmarshalJSON(out))
		require.Equal(t, s, back)
		require.Equal(t, asTagged(t, s), asMap(t, out))

		// And what encoding/json finds in the input is what is in the output.
		before, after := meaning(byName(asMap(t, in))), meaning(asMap(t, out))
		if sub, _ := before["subject"].(map[string]any); len(sub) == 0 {
			before["subject"] = map[string]any{} // it is always written
		}
		require.Equal(t, before, after)
	})
}

// classNumbers are the numbers of classes as the first release wrote them.
var classNumbers = map[string]float64{"interactive": 0, "refresh": 1, "silent": 2, "userinfo": 3, "introspection": 4, "heartbeat": 5}

// byName has the class of a document's latest activity be written as it is from now on: by
// name and number, by name alone if nobody knows it, and not at all if it is the first one.
func byName(m map[string]any) map[string]any {
	name, _ := m["activity"].(string)
	number, _ := m["activity_class"].(float64)
	for known, n := range classNumbers {
		if name == "" && n == number {
			name = known
		}
	}
	delete(m, "activity_class")
	switch n, known := classNumbers[name]; {
	case name == "interactive":
		delete(m, "activity")
	case known:
		m["activity"], m["activity_class"] = name, n
	case name == "" && number != 0:
		m["activity_class"] = number
	}
	return m
}

// The name of a class decides, in a document of any order; its number is read where there
// is no name, as the first release wrote it, and is written on for that.
func TestActivityIsStoredByName(t *testing.T) {
	read := func(doc string) store.Session {
		s, err := store.ParseDocument(doc)
		require.NoError(t, err, doc)
		return s
	}
	for name, number := range classNumbers {
		class, err := policy.ParseClass(name)
		require.NoError(t, err)
		for other := range 6 { // as if the constants had another order
			require.Equal(t, class, read(fmt.Sprintf(`{"v":1,"activity":%q,"activity_class":%d}`, name, other)).ActivityClass)
			require.Equal(t, class, read(fmt.Sprintf(`{"v":1,"activity_class":%d,"activity":%q}`, other, name)).ActivityClass)
		}
		require.Equal(t, class, read(fmt.Sprintf(`{"v":1,"activity":%q}`, name)).ActivityClass)
		require.Equal(t, class, read(fmt.Sprintf(`{"v":1,"activity_class":%v}`, number)).ActivityClass)
		out, err := store.Session{Format: store.Format, ActivityClass: class}.MarshalJSON()
		require.NoError(t, err)
		if class == policy.Interactive {
			require.NotContains(t, string(out), "activity")
			continue
		}
		require.Contains(t, string(out), fmt.Sprintf(`"activity":%q,"activity_class":%v`, name, number))
	}
	require.Equal(t, policy.Interactive, read(`{"v":1}`).ActivityClass)

	// What a newer version calls it is kept, until the session is used under another class.
	s := read(`{"v":1,"activity":"passkey","activity_class":1}`)
	out, err := s.MarshalJSON()
	require.NoError(t, err)
	require.Contains(t, string(out), `"activity":"passkey"`)
	require.Equal(t, s, read(string(out)))
	s.ActivityClass = policy.Refresh
	out, err = s.MarshalJSON()
	require.NoError(t, err)
	require.NotContains(t, string(out), "passkey")
	require.Equal(t, policy.Refresh, read(string(out)).ActivityClass)
	require.Contains(t, s.Unknown, "activity", "the session is the caller's")
}

// meaning brings a document to one form: a member that is null or zero means
// the same as one that is missing, and times are instants.
func meaning(m map[string]any) map[string]any {
	for name, v := range m {
		if v = plain(v); v == nil {
			delete(m, name)
		} else {
			m[name] = v
		}
	}
	return m
}

func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return meaning(v)
	case []any:
		if len(v) == 0 {
			return nil
		}
		for i := range v {
			if m, ok := v[i].(map[string]any); ok {
				v[i] = meaning(m)
			}
		}
		return v
	case string:
		var at time.Time
		if at.UnmarshalText([]byte(v)) == nil {
			if at.IsZero() {
				return nil
			}
			return at.UTC()
		}
		// Base64 may be broken into lines.
		if v = strings.NewReplacer("\r", "", "\n", "").Replace(v); v == "" {
			return nil
		}
		return v
	case float64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

func TestAppendDocument(t *testing.T) {
	s := sample.Typical()
	document, err := s.MarshalJSON()
	require.NoError(t, err)
	before := make([]byte, 5, 4096)
	copy(before, "{head")
	got, err := s.AppendDocument(before)
	require.NoError(t, err)
	require.Equal(t, "{head"+string(document), string(got))
	s.UserAgent = "\xff"
	_, err = s.AppendDocument(nil)
	require.ErrorContains(t, err, "user_agent")
}

func BenchmarkSessionJSON(b *testing.B) {
	s := sample.Typical()
	data, err := s.MarshalJSON()
	require.NoError(b, err)
	b.Run("marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = s.MarshalJSON()
		}
		b.ReportMetric(float64(len(data)), "bytes")
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var s store.Session
			_ = s.UnmarshalJSON(data)
		}
	})
	b.Run("clone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = s.Clone()
		}
	})
}
