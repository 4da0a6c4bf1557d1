// Package onengines tests the hook and its administration on real databases: SQLite,
// PostgreSQL and Redis. It is a module of its own, as a requirement of a test is one of
// everybody who requires the module. There is only test code here.
package onengines
