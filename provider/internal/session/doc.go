// Package session decides what becomes of a login: see [Login.Decide], which is one
// pure function of plain values.
//
// It promises that a login goes on in the session that lists it, or joins the one that
// it belongs to, or begins one of its own, or is refused, and that the rules of a
// policy hold for what it begins. It never reads a clock, asks a store or an embedder,
// and knows neither op nor HTTP: its caller reads the facts in one serializable step of the
// store, and writes the verdict in the same step.
package session
