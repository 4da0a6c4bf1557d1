// Package policyyaml reads and writes the settings of package policy as YAML.
//
//	accounts:
//	  default:
//	    active: 24h
//	    inactivity: 2h
//	    concurrent: 3
//	    kinds:
//	      cli: {inactivity: 12h, concurrent: unlimited}
//
// It accepts the unambiguous part of YAML: mappings, sequences and plain or quoted scalars in one
// document. Anchors, aliases, merge keys and tags are errors. Everything else is read as strictly
// as JSON, by the same code.
package policyyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/curfew-oidc/curfew/policy"
)

// ParseSettings is [policy.ParseSettings] for YAML. Its errors are
// [policy.FieldErrors] with lines of the YAML document.
func ParseSettings(data []byte) (policy.Settings, error) {
	doc, err := toJSON(data)
	if err != nil {
		return policy.Settings{}, err
	}
	return policy.ParseSettings(doc)
}

// ParseAccount is [policy.ParseAccount] for YAML. Its errors are
// [policy.FieldErrors] with lines of the YAML document.
func ParseAccount(data []byte) (policy.Account, error) {
	doc, err := toJSON(data)
	if err != nil {
		return policy.Account{}, err
	}
	return policy.ParseAccount(doc)
}

// MarshalSettings encodes s so that [ParseSettings] returns the same meaning.
func MarshalSettings(s policy.Settings) ([]byte, error) { return fromJSON(s) }

// MarshalAccount encodes a so that [ParseAccount] returns the same meaning.
func MarshalAccount(a policy.Account) ([]byte, error) { return fromJSON(a) }

// toJSON returns the YAML document as JSON, duplicate names and all, with each
// value on the line where it was, so that package policy finds what is wrong
// and where.
func toJSON(data []byte) ([]byte, error) {
	if len(data) > policy.MaxDocument {
		return nil, failure(0, fmt.Sprintf("is larger than %d bytes", policy.MaxDocument))
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, failure(0, "is empty")
	} else if err != nil {
		return nil, notYAML(err)
	}
	if err := dec.Decode(&more); err == nil {
		return nil, failure(more.Line, "has more than one YAML document")
	} else if !errors.Is(err, io.EOF) {
		return nil, notYAML(err)
	}
	if len(doc.Content) != 1 {
		return nil, failure(doc.Line, "is empty")
	}
	w := &writer{line: 1}
	if err := w.value(doc.Content[0]); err != nil {
		return nil, err
	}
	return w.out.Bytes(), nil
}

func notYAML(err error) error {
	return failure(0, "is not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "))
}

func failure(line int, reason string) error {
	return policy.FieldErrors{{Line: line, Reason: reason}}
}

// A writer writes YAML nodes as JSON.
type writer struct {
	out  bytes.Buffer
	line int
}

// at goes on to the line of n.
func (w *writer) at(n *yaml.Node) {
	for w.line < n.Line {
		w.out.WriteByte('\n')
		w.line++
	}
}

// value writes n. The YAML parser bounds how deeply nodes nest.
func (w *writer) value(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return failure(n.Line, "anchors and aliases are not accepted; write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		return failure(n.Line, "tags such as "+fmt.Sprintf("%.20q", n.Tag)+" are not accepted")
	}
	w.at(n)
	switch n.Kind {
	case yaml.MappingNode:
		w.out.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				w.out.WriteByte(',')
			}
			if err := w.name(n.Content[i]); err != nil {
				return err
			}
			w.out.WriteByte(':')
			if err := w.value(n.Content[i+1]); err != nil {
				return err
			}
		}
		w.out.WriteByte('}')
	case yaml.SequenceNode:
		w.out.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				w.out.WriteByte(',')
			}
			if err := w.value(item); err != nil {
				return err
			}
		}
		w.out.WriteByte(']')
	case yaml.ScalarNode:
		return w.scalar(n)
	default:
		return failure(n.Line, "is not a value")
	}
	return nil
}

// name writes the name of a field. IDs that look like numbers are common, and
// taken as they are written.
func (w *writer) name(n *yaml.Node) error {
	switch {
	case n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0:
		return failure(n.Line, "the name of a field must be plain text")
	case n.ShortTag() != "!!str" && n.ShortTag() != "!!int":
		return failure(n.Line, fmt.Sprintf("the name %.80q must be quoted, or YAML takes it for something else", n.Value))
	}
	w.at(n)
	return w.text(n.Value)
}

// number are the integers that YAML and JSON read alike.
var number = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

func (w *writer) scalar(n *yaml.Node) error {
	switch tag := n.ShortTag(); {
	case tag == "!!null":
		w.out.WriteString("null")
	case tag == "!!bool" && (n.Value == "true" || n.Value == "false"),
		tag == "!!int" && number.MatchString(n.Value):
		w.out.WriteString(n.Value)
	default:
		// What is no string either, such as 0x10 or 1.5, is refused where a
		// value of its field is wanted.
		return w.text(n.Value)
	}
	return nil
}

func (w *writer) text(s string) error {
	quoted, err := json.Marshal(s)
	if err != nil {
		return failure(w.line, err.Error())
	}
	w.out.Write(quoted)
	return nil
}

// plain are the strings that the encoder may write without quotes, or quote if
// they look like a number.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./@:+-]+$`)

// fromJSON returns the JSON encoding of v as YAML.
func fromJSON(v json.Marshaler) ([]byte, error) {
	doc, err := v.MarshalJSON()
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	n, err := node(dec)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	if out.Len() > policy.MaxDocument {
		return nil, failure(0, fmt.Sprintf("is larger than %d bytes", policy.MaxDocument))
	}
	return out.Bytes(), nil
}

// node reads one JSON value as a YAML node.
func node(dec *json.Decoder) (*yaml.Node, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.MappingNode}
		if t == '[' {
			n.Kind, n.Style = yaml.SequenceNode, yaml.FlowStyle
		}
		for dec.More() { // of a mapping, names and values in turn
			item, err := node(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		_, err := dec.Token() // the closing bracket
		return n, err
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: t.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(t)}, nil
	case string:
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: t}
		if !plain.MatchString(t) {
			// Left to itself the encoder makes a block of a string with line
			// breaks, and one that begins with a tab cannot be read again.
			n.Style = yaml.DoubleQuotedStyle
		}
		return n, nil
	default:
		return nil, fmt.Errorf("unexpected %v", t)
	}
}
