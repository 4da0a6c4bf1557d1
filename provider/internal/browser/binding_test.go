package browser

import (
	"crypto/rand"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
)

func newKeeper(t *testing.T) *Keeper {
	t.Helper()
	key := seal.Key{Created: time.Now()}
	rand.Read(key.Secret[:])
	ring, err := seal.New([]seal.Key{key}, time.Hour)
	require.NoError(t, err)
	return &Keeper{Ring: ring, Now: time.Now}
}

// All bindings and the session cookie together are below what nginx takes by default,
// with IDs of auth requests that are as long as may be.
func TestSizesOfBindings(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	const issuer = "https://login.example.com"
	names := NamesOf(issuer)
	for id, most := range map[int]int{36: 4500, longBoundID: 6500, maxBoundID: 6500} {
		longest := Binding{Request: strings.Repeat("x", id), Made: time.Now(), MaxAge: math.MaxInt64, Hint: make([]byte, 16), Done: true}
		value := k.seal(issuer, longest)
		total := len(names.Session) + len(NewSecret().Text()) + maxSIDLen
		for _, silent := range []bool{false, true} {
			longest.Silent = silent
			for _, name := range names.places(&longest) {
				total += len(name) + len(value) + len("=; ")
			}
		}
		require.Less(t, total, most, "IDs of %d bytes", id)
	}
}

// A binding is good for a day, and none from a clock that is a day ahead.
func TestABindingIsOver(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	made := time.Now()
	k.Now = func() time.Time { return made }
	const issuer = "https://login.example.com"
	c := &Cookies{}
	k.Bind(c, issuer, Binding{Request: "r", Made: made, MaxAge: -1})
	for after, want := range map[time.Duration]bool{
		0: true, bindingLife - time.Second: true, bindingLife: false, 1 - bindingLife + time.Second: true, -bindingLife - time.Second: false,
	} {
		k.Now = func() time.Time { return made.Add(after) }
		_, is := k.Binding(c.Held, issuer, "r")
		require.Equal(t, want, is, "%s", after)
	}
}

// Bindings of former versions, each under a name of its own, are read and make place
// for new ones, however many there are.
func TestBindingsOfFormerVersions(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	const issuer = "https://login.example.com"
	names := NamesOf(issuer)
	state := &Cookies{}
	begun := time.Now().Add(-time.Hour)
	for i := range 60 {
		b := Binding{Request: fmt.Sprint("former-", i), Made: begun.Add(time.Duration(i) * time.Second), MaxAge: -1}
		state.Held = append(state.Held, &http.Cookie{Name: names.formerName(b.Request), Value: k.seal(issuer, b)})
	}
	_, here := k.Binding(state.Held, issuer, "former-3")
	require.True(t, here)
	// One under the name of another is none.
	_, here = k.Binding([]*http.Cookie{{Name: state.Held[4].Name, Value: state.Held[3].Value}}, issuer, "former-3")
	require.False(t, here)
	for i := range 16 {
		b := Binding{Request: fmt.Sprint("new-", i), Made: time.Now(), MaxAge: -1}
		name := k.placeFor(state, issuer, names, &b)
		require.Contains(t, names.places(&b), name)
		gone := 0
		for _, c := range state.Sent {
			if c.MaxAge < 0 {
				gone++
				state.Held = slices.DeleteFunc(state.Held, func(had *http.Cookie) bool { return had.Name == c.Name })
			}
		}
		require.LessOrEqual(t, gone, maxForgotten)
		state.Sent = nil
		state.Held = slices.DeleteFunc(state.Held, func(had *http.Cookie) bool { return had.Name == name })
		state.Held = append(state.Held, &http.Cookie{Name: name, Value: k.seal(issuer, b)})
		_, here = k.Binding(state.Held, issuer, b.Request)
		require.True(t, here)
	}
	require.Len(t, state.Held, openPlaces, "those of former versions are gone")
}
