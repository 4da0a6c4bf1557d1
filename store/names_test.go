package store

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The lists of names that tell known from unknown members are the struct tags.
func TestMemberNames(t *testing.T) {
	for _, c := range []struct {
		v    any
		want []string
	}{
		{Session{}, sessionNames}, {Grant{}, grantNames}, {Code{}, codeNames}, {End{}, endNames}, {Delivery{}, deliveryNames},
	} {
		var names []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(c.v)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
				names = append(names, name)
			}
		}
		require.Equal(t, c.want, names, "%T", c.v)
	}
}
