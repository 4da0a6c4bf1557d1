package console

import "github.com/curfew-oidc/curfew/provider/admin"

// A Route is one row of the route table, for tests that hold something about all
// of them.
type Route struct {
	Method, Pattern string
	Action          admin.Action
}

// Routes is the table.
func Routes() (list []Route) {
	for _, r := range routeTable() {
		list = append(list, Route{r.method, r.pattern, r.action})
	}
	return list
}
