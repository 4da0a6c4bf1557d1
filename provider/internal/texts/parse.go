package texts

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/text/language"
)

func mustEnglish() *Catalogue {
	c, err := decode("en", englishFile)
	if err != nil {
		panic(err) // the file is part of the program
	}
	maps.Copy(c.messages, ofPolicy())
	return c
}

// Parse reads the file of a language: a JSON object with a text for each code of
// [English], or with an object of its plural forms. The error says all that is
// wrong: codes that are missing or not known, plural forms that the language does
// not have or that are missing, and texts whose {placeholders} and <elements> are
// not those of the English.
func Parse(tag string, file []byte) (*Catalogue, error) {
	c, err := decode(tag, file)
	if err != nil {
		return nil, err
	}
	var wrong []error
	for _, code := range slices.Sorted(maps.Keys(English.messages)) {
		if err := c.check(code); err != nil {
			wrong = append(wrong, fmt.Errorf("texts in %s: %s: %w", tag, code, err))
		}
	}
	for _, code := range slices.Sorted(maps.Keys(c.messages)) {
		if English.messages[code] == nil {
			wrong = append(wrong, fmt.Errorf("texts in %s: %s: there is no such code", tag, code))
		}
	}
	return c, errors.Join(wrong...)
}

func decode(tag string, file []byte) (*Catalogue, error) {
	c := &Catalogue{}
	var err error
	if c.language, err = language.Parse(tag); err != nil {
		return nil, fmt.Errorf("texts in %q: %w", tag, err)
	}
	if err := json.Unmarshal(file, &c.messages); err != nil {
		return nil, fmt.Errorf("texts in %s: %w", tag, err)
	}
	return c, nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (m *message) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*m = message{other: text}
		return nil
	}
	return json.Unmarshal(data, (*map[string]string)(m))
}

// check holds one message against the English.
func (c *Catalogue) check(code string) error {
	want, have := English.messages[code], c.messages[code]
	if have == nil {
		return errors.New("it is missing")
	}
	forms := []string{other}
	if len(want) > 1 {
		forms = c.forms()
	}
	if got := slices.Sorted(maps.Keys(have)); !slices.Equal(got, forms) {
		return fmt.Errorf("it has the forms %s, and needs %s", got, forms)
	}
	parts := fixed(want[other])
	for _, form := range forms {
		got := fixed(have[form])
		if form != other && !slices.Contains(got, "{n}") { // "one of them"
			parts := slices.DeleteFunc(slices.Clone(parts), func(p string) bool { return p == "{n}" })
			if slices.Equal(got, parts) {
				continue
			}
		}
		if !slices.Equal(got, parts) {
			return fmt.Errorf("the form %q has %s, and the English %s", form, got, parts)
		}
	}
	return nil
}

// forms are the plural forms that whole numbers have in the language.
func (c *Catalogue) forms() []string {
	forms := map[string]bool{other: true}
	for n := range 1000 {
		forms[c.form(n)] = true
	}
	return slices.Sorted(maps.Keys(forms))
}

// fixedPart is what no language changes: a placeholder, an element, and a character
// that could begin one.
var fixedPart = regexp.MustCompile(`\{[^{}]*\}|</?[a-z][^<>]*>|[{}<>&]`)

func fixed(text string) []string {
	parts := fixedPart.FindAllString(text, -1)
	slices.SortFunc(parts, strings.Compare)
	return parts
}
