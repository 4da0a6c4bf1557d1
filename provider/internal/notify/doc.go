// Package notify owns what is owed to others when a session ends: what is written
// with the end, when it is tried and given up, and the senders that do it.
//
// A [Ledger] keeps what is owed in the session's own document, so that no crash
// loses it: its functions change the document that they are given and write
// nothing. An [Outbox] sends a few at a time for each host. A [Sender] sends one
// notification; [BackChannel] is that of OpenID Connect Back-Channel Logout 1.0, and
// another way to tell of an end is another Sender.
//
// At least once: a notification whose outcome could not be written is sent again.
// The package never ends a session, never reads or writes a store, and never
// connects to an address that the embedder did not allow.
package notify
