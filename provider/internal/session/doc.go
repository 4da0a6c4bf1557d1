// Package session decides what becomes of a login: see [Login.Decide], which is one
// pure function of plain values.
//
// It promises that each login goes on in the session that lists it, joins the one that
// it belongs to, begins one of its own, or is refused. The rules of the policy hold for
// what it begins. It never reads a clock, asks a store or an embedder, and knows neither
// op nor HTTP: its caller reads the facts in one serializable step of the store, and
// writes the verdict in the same step.
package session
