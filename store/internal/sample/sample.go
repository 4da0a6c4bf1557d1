// Package sample makes sessions for the tests of the packages of stores.
package sample

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// Full returns a session in which every field of every level is set, each to a
// value of its own. It finds the fields by reflection, so that one that is added
// and forgotten in Clone or in the codec is noticed.
func Full() store.Session {
	var s store.Session
	n := 0
	fill(reflect.ValueOf(&s).Elem(), &n)
	s.Format = store.Format
	s.Revision, s.Fence = 0, store.Fence{} // which are no parts of the document
	return s
}

func fill(v reflect.Value, n *int) {
	*n++
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = time.Date(2026, 1, 2, 3, 4, 5, *n*1000, time.UTC)
		return
	case *map[string]json.RawMessage:
		*p = map[string]json.RawMessage{"x_new": json.RawMessage(`{"a":[` + strings.Repeat("1,", *n) + `null]}`)}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("s", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("a field of type " + v.Type().String() + ": teach fill")
	}
}

// In moves all times of a session, of every level, to a time zone, in which they are
// the same moments.
func In(s *store.Session, zone *time.Location) { in(reflect.ValueOf(s).Elem(), zone) }

func in(v reflect.Value, zone *time.Location) {
	if t, ok := v.Addr().Interface().(*time.Time); ok {
		*t = t.In(zone)
		return
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			in(v.Index(i), zone)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			in(v.Elem(), zone)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			in(v.Field(i), zone)
		}
	}
}

// Overwrite changes everything that p refers to through slices, pointers and
// maps, but not *p itself: what else shares that memory changes with it.
func Overwrite[T any](p *T) { overwrite(reflect.ValueOf(p).Elem()) }

func overwrite(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			overwrite(v.Index(i))
			v.Index(i).SetZero()
		}
	case reflect.Pointer:
		if !v.IsNil() {
			overwrite(v.Elem())
			v.Elem().SetZero()
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			overwrite(v.MapIndex(key))
		}
		v.Clear()
	case reflect.Struct:
		if v.Type() != reflect.TypeFor[time.Time]() {
			for i := range v.NumField() {
				overwrite(v.Field(i))
			}
		}
	}
}

// Typical is a session as a browser login makes it.
func Typical() store.Session {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	hash := bytes.Repeat([]byte{7}, 32)
	return store.Session{
		Format: store.Format, ID: "c7.a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6", Subject: store.Subject{Issuer: "https://login.example.com", ID: "3f2a8c1e-0000-4000-8000-123456789abc"},
		Accounts: []string{"default"}, Kind: "browser", Client: "web",
		Started: at, Authenticated: at, LastActivity: at, AMR: []string{"pwd", "otp"}, ACR: "urn:mace:incommon:iap:silver",
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", Address: "192.0.2.0/24", BrowserHash: hash, Place: hash[:16],
		Grants: []store.Grant{{ID: "0123456789abcdef", Client: "web", Authenticated: at, Generation: 17, NonceHash: hash, FromHash: hash, Rotated: at, Repeat: bytes.Repeat([]byte{9}, 400), Address: hash}},
		Due:    at.Add(time.Hour),
	}
}
