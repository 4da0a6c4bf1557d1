// Package browser knows which browser this is: the cookies of a provider's host, by
// name, sealed and bounded.
//
// One browser is one session. Two kinds of cookies make it so:
//
//   - A [Binding] is set at the authorization request, one for each. It says that
//     this browser began it, and what the application asked for. op's callback is
//     bound to nothing: without the binding, whoever learns its address gets an
//     answer, but no part in a session of the browser that signed in. Bindings have
//     a fixed number of names: of many tabs that begin at once none sees the
//     bindings of the others, and what is beyond 8 kB nginx answers with an error,
//     at every page, unless it is told otherwise.
//   - The session cookie is set at the callback. It holds the session's ID and a
//     [Secret], of which the session keeps the hash.
//
// Both are of the browser's own session (no Max-Age for the session cookie):
// the limits are kept by the session, not by a cookie's age.
//
// The package reads no store, and decides about no login: it says what the browser
// shows.
package browser
