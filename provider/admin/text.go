package admin

import "unicode"

// misleading reports whether a character shows as something else than it is:
// control characters, marks for the direction of text (Unicode Standard Annex 9)
// and others without a width, and what is not valid UTF-8.
func misleading(r rune) bool {
	return unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r) ||
		r == '\u2028' || r == '\u2029' // separators of lines and paragraphs
}
