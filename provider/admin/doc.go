// Package admin is how an account's administrators change the settings of a
// [provider.Hook] and look after the login sessions in it: over HTTP, as JSON.
//
//	api, err := admin.New(admin.Config{Hook: hook, Store: store, Issuer: issuer, Authorize: authorize})
//	...
//	mux.Handle("/v1/", api)
//
// Authorize is the embedder's: it says who sends a request, and whether they
// may do what it asks for. There is no default for it.
//
// The settings have two forms. The fuller one has every scope of the policy, as
// in a settings document. The other is the account settings of IBM Cloud IAM
// Identity Services, for clients that speak that: three of its fields are
// limits, the others are kept and given back.
//
// A change of settings says which version it is for (If-Match, RFC 9110 section
// 13.1.1), so that of two people who save at once neither overwrites what they have
// not seen. Each change is one entry in the history, and may be undone by
// another change. A preview says which sessions a change would end.
//
// The same for people, as pages, is package console. The page on which users look
// after their own sessions is package selfservice.
//
// The description of all routes is served at /v1/openapi.json.
package admin
