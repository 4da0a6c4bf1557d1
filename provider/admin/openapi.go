package admin

import (
	_ "embed"
	"encoding/json"
)

// description is the OpenAPI 3.1 description of the API. A test holds it against
// the table of routes and what they answer.
//
//go:embed openapi.json
var description []byte

func (a *Admin) serveDescription(*call) (answer, error) {
	return answer{body: json.RawMessage(description)}, nil
}
