package admin

// A Route is one row of the route table, for tests that hold something about all
// of them.
type Route struct {
	Method, Pattern string
	Action          Action
	Body            bool
	IBM             bool
	Query           []string
}

// Routes is the table.
func Routes() (list []Route) {
	for _, r := range routeTable() {
		list = append(list, Route{r.method, r.pattern, r.action, r.body > 0, r.ibm, r.query})
	}
	return list
}

// Description is what is served at /v1/openapi.json.
func Description() []byte { return description }
