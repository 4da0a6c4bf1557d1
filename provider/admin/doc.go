// Package admin lets an account's administrators change the settings of a [provider.Hook] and
// manage the account's login sessions: over HTTP, as JSON.
//
//	api, err := admin.New(admin.Config{Hook: hook, Store: store, Issuer: issuer, Authorize: authorize})
//	...
//	mux.Handle("/v1/", api)
//
// The embedder writes Authorize: it identifies the sender of a request, and says whether they may
// make it. It has no default.
//
// The settings have two forms. The fuller one has every scope of the policy, as in a settings
// document. The other one is the account settings of IBM Cloud IAM Identity Services, for clients
// that use them: three of its fields are limits, the others are stored and returned.
//
// A change of settings names the version that it is for (If-Match, RFC 9110 section 13.1.1), so
// that nobody overwrites a change that they have not seen. Each change is one entry in the history,
// and may be undone by another change. A preview returns the sessions that a change would end.
//
// Package console has pages for the same tasks. Package selfservice has the page where users manage
// their own sessions.
//
// The description of all routes is served at /v1/openapi.json.
package admin
