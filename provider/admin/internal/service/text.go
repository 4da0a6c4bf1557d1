package service

import (
	"fmt"
	"strings"
	"unicode"
)

const (
	// MaxName is how many bytes the name of a client, group or user may have; OpenID
	// Connect Core 1.0 section 2 allows 255 for "sub".
	MaxName = 255

	// MaxMessage is how many bytes the message of a change may have.
	MaxMessage = 500
)

// TextProblem returns why a text is not taken, or "". Control characters and
// marks that turn the direction of the text around would garble what others see
// of it: a page, a log, a terminal.
func TextProblem(text string, most int) string {
	if len(text) > most {
		return fmt.Sprintf("has %d bytes; at most %d are allowed", len(text), most)
	}
	if i := strings.IndexFunc(text, misleading); i >= 0 {
		return fmt.Sprintf("has a character that cannot be shown (%U)", []rune(text[i:])[0])
	}
	return ""
}

// misleading reports whether a character shows as something else than it is:
// control characters, marks for the direction of text (Unicode Standard Annex 9)
// and others without a width, and what is not valid UTF-8.
func misleading(r rune) bool {
	return unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r) ||
		r == '\u2028' || r == '\u2029' // separators of lines and paragraphs
}
