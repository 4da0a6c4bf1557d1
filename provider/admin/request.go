package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// maxDepth is how deeply a body may nest, as for a settings document.
const maxDepth = 16

// parseQuery is url.ParseQuery with an error that names the parameter.
func parseQuery(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, policy.FieldErrors{{Path: "query", Reason: "is not a query string"}}
	}
	return values, nil
}

// printable shortens and escapes a name that somebody sent, for an error.
func printable(name string) string {
	const most = 80
	if len(name) > most {
		return strconv.QuoteToASCII(name[:most]) + "..."
	}
	if quoted := strconv.QuoteToASCII(name); quoted != `"`+name+`"` || strings.ContainsAny(name, `<>&=.`) || name == "" {
		return quoted
	}
	return name
}

// checkJSON reports what makes a JSON text ambiguous or too much for those who
// read it: more than one value, a name twice, deep nesting, invalid UTF-8.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return bodyError("is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := checkValue(d, "", 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bodyError("has something after the end of the JSON value")
	}
	return nil
}

func bodyError(reason string) error {
	return policy.FieldErrors{{Path: "body", Reason: reason}}
}

func checkValue(d *json.Decoder, path string, depth int) error {
	if depth > maxDepth {
		return bodyError("is nested too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return bodyError("is not JSON")
	}
	switch t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return bodyError("is not JSON")
			}
			text, _ := name.(string) // a name is one, or Token fails
			at := strings.TrimPrefix(path+"."+printable(text), ".")
			if seen[text] {
				return policy.FieldErrors{{Path: at, Reason: "appears twice"}}
			}
			seen[text] = true
			if err := checkValue(d, at, depth+1); err != nil {
				return err
			}
		}
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			if err := checkValue(d, path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return bodyError("is not JSON")
	}
	return nil
}

// An object is a JSON object with known members. It collects what is wrong with
// them.
type object struct {
	members  map[string]json.RawMessage
	problems policy.FieldErrors
}

// parseObject reads a body that is one object with the given members and no
// others.
func parseObject(body []byte, known ...string) (*object, error) {
	if len(body) == 0 {
		return nil, bodyError("is missing: send a JSON object")
	}
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	o := &object{}
	if err := json.Unmarshal(body, &o.members); err != nil || o.members == nil {
		return nil, bodyError("must be a JSON object")
	}
	for name := range o.members {
		if !slices.Contains(known, name) {
			o.report(printable(name), "is not a field; known here: "+strings.Join(known, ", "))
		}
	}
	slices.SortFunc(o.problems, func(a, b *policy.FieldError) int { return strings.Compare(a.Path, b.Path) })
	return o, nil
}

func (o *object) report(name, reason string) {
	o.problems = append(o.problems, &policy.FieldError{Path: name, Reason: reason})
}

func (o *object) err() error {
	if len(o.problems) > 0 {
		return o.problems
	}
	return nil
}

func (o *object) raw(name string, required bool) json.RawMessage {
	raw, ok := o.members[name]
	if !ok && required {
		o.report(name, "is missing")
	}
	return raw
}

// decode reads a member of one type, exactly; null is not of any.
func decode[T any](o *object, name, want string) (v T) {
	raw, ok := o.members[name]
	if !ok {
		return v
	}
	if err := json.Unmarshal(raw, &v); err != nil || string(raw) == "null" {
		o.report(name, "must be "+want)
	}
	return v
}

func (o *object) text(name string, most int) string {
	v := decode[string](o, name, "a string")
	if reason := service.TextProblem(v, most); reason != "" {
		o.report(name, reason)
	}
	return v
}

func (o *object) texts(name string, most, length int) []string {
	list := decode[[]string](o, name, "a list of strings")
	if len(list) > most {
		o.report(name, fmt.Sprintf("has %d entries; at most %d are allowed", len(list), most))
		return nil
	}
	for i, v := range list {
		reason := service.TextProblem(v, length)
		if v == "" {
			reason = "is empty"
		}
		if reason != "" {
			o.report(fmt.Sprintf("%s[%d]", name, i), reason)
		}
	}
	return list
}

func (o *object) truth(name string) bool { return decode[bool](o, name, "true or false") }

func (o *object) integer(name string, required bool) int64 {
	if _, ok := o.members[name]; !ok && required {
		o.report(name, "is missing")
		return 0
	}
	v := decode[int64](o, name, "a whole number")
	if v < 0 {
		o.report(name, "must not be below 0")
	}
	return v
}

// parseMatch reads If-Match (RFC 9110 section 13.1.1): a star or a list of entity
// tags. Tags without quotes are taken too, since IBM's clients send them so. A
// weak tag matches nothing, as the section says.
func parseMatch(lines []string) (service.Match, error) {
	var m service.Match
	text := strings.TrimSpace(strings.Join(lines, ","))
	bad := &problem{status: 400, code: "invalid", detail: "nothing was changed", fields: policy.FieldErrors{{Path: "If-Match", Reason: "is not an entity tag, nor *"}}}
	if len(text) > 4096 {
		return m, bad
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		switch {
		case part == "":
		case part == "*":
			m.Any = true
		case strings.HasPrefix(part, "W/"):
			m.Tags = append(m.Tags, "weak") // a tag that none of ours is
		default:
			if len(part) >= 2 && part[0] == '"' && part[len(part)-1] == '"' {
				part = part[1 : len(part)-1]
			}
			if part == "" || strings.ContainsAny(part, "\" \t") {
				return service.Match{}, bad
			}
			m.Tags = append(m.Tags, part)
		}
	}
	if m.Any && len(m.Tags) > 0 {
		return service.Match{}, bad
	}
	return m, nil
}
