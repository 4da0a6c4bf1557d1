// Package deptest holds which packages of the module may import what. It is
// tests only.
package deptest
