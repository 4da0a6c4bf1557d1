package page

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
)

// Style is the style of the pages that show sessions, as users and administrators
// see them.
//
//go:embed style.css
var Style []byte

// A Stylesheet is a file that pages link to. It is public.
type Stylesheet struct {
	// Link is its address, beside that of the pages. It has the content in it, so
	// that browsers keep the file for as long as it does not change.
	Link string

	css []byte
}

// NewStylesheet returns a file of that name, with the styles one after the other.
func NewStylesheet(name string, styles ...[]byte) Stylesheet {
	css := bytes.Join(styles, []byte("\n"))
	sum := sha256.Sum256(css)
	return Stylesheet{Link: name + "?v=" + hex.EncodeToString(sum[:6]), css: css}
}

// ServeHTTP serves the file.
func (s Stylesheet) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/css; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=86400")
	h.Del("Vary")
	_, _ = w.Write(s.css) // a browser that went away is not an error here
}
