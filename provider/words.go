package provider

import (
	"github.com/curfew-oidc/curfew/provider/internal/texts"
	"github.com/curfew-oidc/curfew/provider/internal/view"
	"github.com/curfew-oidc/curfew/store"
)

// Describe returns the sentence that a user is shown for the end of a session,
// such as "You were signed out after 2 hours without activity." It is empty
// for a session that has not ended.
func Describe(s store.Session) string { return view.Told(s, texts.English) }
