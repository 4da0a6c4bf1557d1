package provider

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEndOfMember(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ object, name, before string }{
		{`{"active":true,"exp":12,"sub":"id1"}`, "exp", `{"active":true,"exp":12`},
		{`{"exp":12}` + "\n", "exp", `{"exp":12`},
		{`{ "a" : {"exp":1,"b":["}"]} , "exp" : 12 , "c":1}`, "exp", `{ "a" : {"exp":1,"b":["}"]} , "exp" : 12`},
		{`{"a":{"exp":1}}`, "exp", ``},
		{`{"a":"exp","b":1}`, "exp", ``},
		{`{"exp":12}`, "", ``},
		{`{}`, "exp", ``},
		{`["exp",1]`, "exp", ``},
		{`{"a":1,"exp":`, "exp", ``},
		{`{"a"`, "exp", ``},
		{``, "exp", ``},
	} {
		at := endOfMember([]byte(test.object), test.name)
		require.Equal(t, test.before, test.object[:at], "%s", test.object)
	}
}
