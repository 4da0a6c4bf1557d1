package service

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// errCursor is about a cursor that was not made for the query.
var errCursor = policy.FieldErrors{{Path: "cursor", Reason: "is not one that this list returned"}}

// sealCursor binds a cursor to the filter that it is good for.
func sealCursor(f store.Filter, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	sum, err := filterSum(f)
	return base64.RawURLEncoding.EncodeToString(append(sum, cursor...)), err
}

func openCursor(f store.Filter, sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	sum, err := filterSum(f)
	if err != nil {
		return "", err
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || len(data) <= len(sum) || string(data[:len(sum)]) != string(sum) {
		return "", errCursor
	}
	cursor := string(data[len(sum):])
	if TextProblem(cursor, MaxName) != "" {
		return "", errCursor
	}
	return cursor, nil
}

func filterSum(f store.Filter) ([]byte, error) {
	text, err := json.Marshal(f)
	sum := sha256.Sum256(text)
	return sum[:6], err
}
