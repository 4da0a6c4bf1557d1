package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// strictJSON decodes one JSON value, and refuses unknown and duplicate members
// and whatever follows.
func strictJSON(data []byte, v any) error {
	if err := checkMembers(json.NewDecoder(bytes.NewReader(data)), ""); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return jsonError(data, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the end of the JSON value")
	}
	return nil
}

// checkMembers reads one value and refuses duplicate members, of which
// encoding/json would take the last. It knows names by their lower case, as
// encoding/json does.
func checkMembers(d *json.Decoder, path string) error {
	token, err := d.Token()
	if err != nil {
		return notJSON(err)
	}
	switch token {
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return notJSON(err)
			}
			key := string(bytes.ToLower([]byte(name.(string)))) // a member's name is a string
			if seen[key] {
				return fmt.Errorf("%q appears twice%s", name, path)
			}
			seen[key] = true
			if err := checkMembers(d, path); err != nil {
				return err
			}
		}
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			if err := checkMembers(d, fmt.Sprintf(" in entry %d", i+1)); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	if _, err := d.Token(); err != nil { // the end
		return notJSON(err)
	}
	return nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("not JSON: it ends too early")
	}
	return fmt.Errorf("not JSON: %w", err)
}

// jsonError adds the line to an error that knows its offset.
func jsonError(data []byte, err error) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
		err = fmt.Errorf("%s must not be a %s", kind.Field, kind.Value)
	}
	if offset < 0 || offset > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}
