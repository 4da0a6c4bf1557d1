// Package textstest finds words on pages that are not in the language of the page.
package textstest

import (
	_ "embed"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider/internal/texts"
)

//go:embed pseudo.json
var pseudo []byte

// Pseudo returns a made-up language with the plural forms of Polish, in which each text is the
// English one in ⟦brackets⟧.
func Pseudo(t *testing.T) *texts.Catalogue {
	t.Helper()
	c, err := texts.Parse("pl", pseudo)
	require.NoError(t, err)
	return c
}

var (
	bracketed = regexp.MustCompile(`⟦[^⟦⟧]*⟧`)
	noText    = regexp.MustCompile(`(?is)<style.*?</style>|<script.*?</script>|<!doctype[^>]*>`)
	shown     = regexp.MustCompile(`(?:title|aria-label|alt|placeholder)="([^"]*)"`)
	element   = regexp.MustCompile(`<[^>]*>`)
	word      = regexp.MustCompile(`[A-Za-z]+`)
)

// NoOtherWords requires that a page in the made-up language has no word in any other.
func NoOtherWords(t *testing.T, page, what string) {
	t.Helper()
	left := noText.ReplaceAllString(page, "")
	for bracketed.MatchString(left) {
		left = bracketed.ReplaceAllString(left, "")
	}
	var words []string
	for _, m := range shown.FindAllStringSubmatch(left, -1) {
		words = append(words, word.FindAllString(m[1], -1)...)
	}
	words = append(words, word.FindAllString(element.ReplaceAllString(left, " "), -1)...)
	require.Empty(t, words, "%s: %s", what, page)
	require.Contains(t, page, `<html lang="pl">`, what)
}
