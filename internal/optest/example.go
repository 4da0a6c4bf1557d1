package optest

import (
	"fmt"
	"reflect"
	"sync"
	"unsafe"

	"github.com/zitadel/oidc/v3/example/server/storage"
)

// firstExample is the one example storage that generates its signing key, which takes
// most of the time of a test that signs somebody in.
var firstExample = sync.OnceValue(func() *storage.Storage {
	return storage.NewStorageWithClients(users{}, map[string]*storage.Client{})
})

// newExample does what storage.NewStorageWithClients(users{}, clients) does, with the
// signing key of the first one.
func newExample(clients map[string]*storage.Client) *storage.Storage {
	first, fresh := reflect.ValueOf(firstExample()).Elem(), reflect.ValueOf(new(storage.Storage)).Elem()
	for i := range first.NumField() {
		from, to := open(first.Field(i)), open(fresh.Field(i))
		switch name := first.Type().Field(i).Name; name {
		case "lock":
			// Each has its own.
		case "clients":
			to.Set(reflect.ValueOf(clients))
		case "userStore", "services", "signingKey", "serviceUsers":
			to.Set(from) // nothing writes to them
		case "authRequests", "codes", "tokens", "refreshTokens", "deviceCodes", "userCodes":
			to.Set(reflect.MakeMap(to.Type()))
		default:
			panic(fmt.Sprintf("the example storage has a new member: %s", name))
		}
	}
	return fresh.Addr().Interface().(*storage.Storage)
}

// open returns a member of another package's struct as one that can be read and set.
func open(member reflect.Value) reflect.Value {
	return reflect.NewAt(member.Type(), unsafe.Pointer(member.UnsafeAddr())).Elem()
}
