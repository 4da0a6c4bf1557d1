// Package doctest holds the documents to the code: what they name exists, and
// the Go code in them compiles. It is tests only.
package doctest
