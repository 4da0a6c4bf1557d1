package admin_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

// A schema is the part of JSON Schema that the description uses.
type schema struct {
	Ref         string             `json:"$ref"`
	Type        string             `json:"type"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Additional  json.RawMessage    `json:"additionalProperties"`
	Items       *schema            `json:"items"`
	OneOf       []*schema          `json:"oneOf"`
	Enum        []string           `json:"enum"`
	Pattern     string             `json:"pattern"`
	Format      string             `json:"format"`
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
	MinItems    int                `json:"minItems"`
	MaxItems    *int               `json:"maxItems"`
	MaxLength   int                `json:"maxLength"`
	Description string             `json:"description"`
}

type media map[string]struct{ Schema *schema }

type operation struct {
	OperationID string
	Summary     string
	Parameters  []struct {
		Name, In string
		Required bool
		Schema   *schema
	}
	RequestBody *struct {
		Required bool
		Content  media
	}
	Responses map[string]struct {
		Description string
		Content     media
		Headers     map[string]any
	}
	Security []any
}

type openAPI struct {
	OpenAPI    string
	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]*schema }
}

// described is the description, read once. A member that schema does not know
// would be one that nobody checks: the strict decoder finds it.
var described = func() openAPI {
	var d openAPI
	if err := json.Unmarshal(admin.Description(), &d); err != nil {
		panic(err)
	}
	return d
}()

// check returns why v does not have the schema s, or "".
func (d *openAPI) check(s *schema, v any, path string) string {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		if d.Components.Schemas[name] == nil {
			return path + ": there is no schema " + name
		}
		return d.check(d.Components.Schemas[name], v, path)
	}
	if len(s.OneOf) > 0 {
		matches := 0
		for _, one := range s.OneOf {
			if d.check(one, v, path) == "" {
				matches++
			}
		}
		if matches != 1 {
			return fmt.Sprintf("%s: %v matches %d of oneOf", path, v, matches)
		}
		return ""
	}
	wrong := func(format string, args ...any) string { return path + ": " + fmt.Sprintf(format, args...) }
	switch v := v.(type) {
	case string:
		if s.Type != "string" {
			return wrong("a string, not %s", s.Type)
		}
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
			return wrong("%q is not in the enum", v)
		}
		if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) {
			return wrong("%q does not match %s", v, s.Pattern)
		}
		if _, err := time.Parse(time.RFC3339Nano, v); s.Format == "date-time" && err != nil {
			return wrong("%q is not a time", v)
		}
	case float64:
		if s.Type != "integer" || v != float64(int64(v)) {
			return wrong("%v, not %s", v, s.Type)
		}
		if s.Minimum != nil && v < *s.Minimum || s.Maximum != nil && v > *s.Maximum {
			return wrong("%v is out of range", v)
		}
	case bool:
		if s.Type != "boolean" {
			return wrong("a boolean, not %s", s.Type)
		}
	case []any:
		if s.Type != "array" {
			return wrong("an array, not %s", s.Type)
		}
		if len(v) < s.MinItems || s.MaxItems != nil && len(v) > *s.MaxItems {
			return wrong("%d items", len(v))
		}
		for i, item := range v {
			if problem := d.check(s.Items, item, path+"["+strconv.Itoa(i)+"]"); problem != "" {
				return problem
			}
		}
	case map[string]any:
		return d.checkObject(s, v, path)
	default:
		return wrong("%v is not allowed", v) // null: nothing here is
	}
	return ""
}

func (d *openAPI) checkObject(s *schema, v map[string]any, path string) string {
	if s.Type != "object" {
		return path + ": an object, not " + s.Type
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return path + ": " + name + " is missing"
		}
	}
	for name, member := range v {
		known := s.Properties[name]
		if known == nil {
			switch string(s.Additional) {
			case "false":
				return path + ": " + name + " is not described"
			case "": // anything: the description itself
				continue
			}
			known = &schema{}
			if err := json.Unmarshal(s.Additional, known); err != nil {
				return path + ": " + err.Error()
			}
		}
		if problem := d.check(known, member, path+"."+name); problem != "" {
			return problem
		}
	}
	return ""
}

// routeOf finds the route of an address in the table.
func routeOf(method, path string) (admin.Route, bool) {
	path, _, _ = strings.Cut(path, "?")
	mux := http.NewServeMux()
	byPattern := map[string]admin.Route{}
	for _, r := range admin.Routes() {
		mux.HandleFunc(r.Method+" "+r.Pattern, func(http.ResponseWriter, *http.Request) {})
		byPattern[r.Method+" "+r.Pattern] = r
	}
	u, err := url.Parse(path)
	if err != nil {
		return admin.Route{}, false
	}
	_, pattern := mux.Handler(&http.Request{Method: method, URL: u})
	r, ok := byPattern[pattern]
	return r, ok
}

// asDescribed holds one admintest.Response of the API against the description: its status,
// its type and its body. Every admintest.Response in the tests of this package passes here.
func asDescribed(t testing.TB, method, path string, got admintest.Response) {
	t.Helper()
	r, ok := routeOf(method, path)
	if !ok {
		return // no operation
	}
	o := described.Paths[r.Pattern][strings.ToLower(r.Method)]
	want, ok := o.Responses[strconv.Itoa(got.Status)]
	what := fmt.Sprintf("%s %s: %d", r.Method, r.Pattern, got.Status)
	if got.Header.Get("ETag") != "" {
		require.Contains(t, want.Headers, "ETag", what)
	}
	require.True(t, ok, "%s is not described: %s", what, got.Body)
	if len(got.Body) == 0 {
		require.Empty(t, want.Content, what)
		return
	}
	if bytesContain(got.Body, `"cross_origin"`) {
		return // refused before any operation was found, in the form of all others
	}
	m, ok := want.Content[got.Header.Get("Content-Type")]
	require.True(t, ok, "%s: %s is not described", what, got.Header.Get("Content-Type"))
	var v any
	require.NoError(t, json.Unmarshal(got.Body, &v), what)
	require.Empty(t, described.check(m.Schema, v, "body"), what)
}

func bytesContain(b []byte, text string) bool { return strings.Contains(string(b), text) }

// The description has each route of the table, with its parameters and its body,
// and no other; and nothing in it dangles.
func TestTheDescriptionIsTheRouteTable(t *testing.T) {
	t.Parallel()
	require.Equal(t, "3.1.0", described.OpenAPI)
	inTable, inDescription := []string{}, []string{}
	ids := map[string]bool{}
	for _, r := range admin.Routes() {
		inTable = append(inTable, r.Method+" "+r.Pattern)
		o := described.Paths[r.Pattern][strings.ToLower(r.Method)]
		query, path, header := []string{}, []string{}, []string{}
		for _, p := range o.Parameters {
			switch p.In {
			case "query":
				query = append(query, p.Name)
			case "path":
				path = append(path, "{"+p.Name+"}")
			case "header":
				header = append(header, p.Name)
			}
			require.NotNil(t, p.Schema, p.Name)
			require.Equal(t, p.In != "query" || p.Name == "user" && strings.HasSuffix(r.Pattern, "/explain"), p.Required, p.Name)
		}
		require.ElementsMatch(t, r.Query, query, r.Pattern)
		require.ElementsMatch(t, regexp.MustCompile(`{\w+}`).FindAllString(r.Pattern, -1), path, r.Pattern)
		if r.Action == admin.WriteSettings {
			require.Equal(t, []string{"If-Match"}, header, r.Pattern)
		}
		require.Equal(t, r.Body && r.Action != admin.Heartbeat, o.RequestBody != nil, r.Pattern)
		require.Equal(t, r.Action == admin.ReadDescription, o.Security != nil, "only the description is for everybody")
		require.NotEmpty(t, o.Summary)
		require.False(t, ids[o.OperationID], o.OperationID)
		ids[o.OperationID] = true
	}
	for path, operations := range described.Paths {
		for method := range operations {
			inDescription = append(inDescription, strings.ToUpper(method)+" "+path)
		}
	}
	require.ElementsMatch(t, inTable, inDescription)

	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"#/components/schemas/(\w+)"`).FindAllSubmatch(admin.Description(), -1) {
		used[string(m[1])] = true
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(described.Components.Schemas)), slices.Collect(maps.Keys(used)))
}

// TestTheDescriptionHasTheWordsOfPolicy holds that a word that policy has, it has.
func TestTheDescriptionHasTheWordsOfPolicy(t *testing.T) {
	t.Parallel()
	words := map[string][]string{"AtLimit": {policy.InheritAtLimit.String()}}
	for _, info := range policy.Reasons() {
		words["Reason"] = append(words["Reason"], string(info.Reason))
	}
	for _, kind := range policy.Kinds() {
		words["Kind"] = append(words["Kind"], string(kind))
	}
	for _, class := range policy.AllClasses() {
		words["Class"] = append(words["Class"], class.String())
	}
	for _, action := range policy.AtLimits() {
		words["AtLimit"] = append(words["AtLimit"], action.String())
	}
	for name, list := range words {
		require.ElementsMatch(t, list, described.Components.Schemas[name].Enum, name)
	}
}

// A description of what is not so is found: the check itself can fail.
func TestTheCheckFindsWhatIsNotDescribed(t *testing.T) {
	t.Parallel()
	settings := described.Components.Schemas["AccountSettings"]
	for text, want := range map[string]string{
		`{"active":"1h"}`:               "",
		`{"active":60}`:                 "body.active",
		`{"idle":"1h"}`:                 "idle is not described",
		`{"concurrent":0}`:              "oneOf",
		`{"kinds":{"cli":{"a":1}}}`:     "a is not described",
		`{"activity":["x"]}`:            "oneOf",
		`{"observe":null}`:              "not allowed",
		`{"at_limit":"explode"}`:        "enum",
		`{"users":{"a":{"active":[]}}}`: "body.users.a.active",
	} {
		var v any
		require.NoError(t, json.Unmarshal([]byte(text), &v))
		got := described.check(settings, v, "body")
		if want == "" {
			require.Empty(t, got, text)
			continue
		}
		require.Contains(t, got, want, text)
	}
}

// The bodies that the tests send as good ones are as described too.
func TestRequestsAreAsDescribed(t *testing.T) {
	t.Parallel()
	for _, r := range admin.Routes() {
		good := body(r)
		if good == nil {
			continue
		}
		data, err := json.Marshal(good)
		require.NoError(t, err)
		var v any
		require.NoError(t, json.Unmarshal(data, &v))
		o := described.Paths[r.Pattern][strings.ToLower(r.Method)]
		require.Empty(t, described.check(o.RequestBody.Content["application/json"].Schema, v, "body"), r.Pattern)
		var all any
		require.NoError(t, json.Unmarshal([]byte(object(fields(r))), &all))
		require.Empty(t, described.check(o.RequestBody.Content["application/json"].Schema, all, "body"), r.Pattern)
	}
}

// newWorld is a world whose every answer is held against the description.
func newWorld(t testing.TB, options ...admintest.Option) *admintest.World {
	w := admintest.New(t, options...)
	w.Described = asDescribed
	return w
}
