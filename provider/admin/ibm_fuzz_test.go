package admin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
	"github.com/curfew-oidc/curfew/store/memstore"
)

// FuzzIBMMerge holds what an update in IBM's form may do to an account, whatever is
// kept with it, by this version or by another one, and whatever the update says: it is
// refused and changes nothing, or it changes what it names and loses nothing else.
func FuzzIBMMerge(f *testing.F) {
	odd := []string{
		`null`, `[]`, `{}`, `0`, `""`, `true`, `1e400`, `-0`, `123456789012345678901234567890`, `"NOT_SET"`, `"900"`, `"0900"`, `"\ud800"`, `"\u0000"`,
		`[null]`, `[[]]`, `[{}]`, `[{"iam_id":"a"},{"iam_id":"a"}]`, `[{"realm_id":"a"}]`, `[{"realm_id":"a","restrict_invitation":true}]`,
		strings.Repeat("[", 40) + strings.Repeat("]", 40), `{"a":{"a":{"a":null}}}`,
	}
	names := []string{"mfa", "user_mfa", "restrict_user_domains", "allowed_ip_addresses", ibmActive, ibmInactivity, ibmConcurrent,
		"system_access_token_expiration_in_seconds", "account_id", "history", "of another version", ""}
	for _, value := range odd {
		f.Add(value, `{"mfa":"TOTP"}`)
		for _, name := range names {
			object := fmt.Sprintf(`{%q:%s}`, name, value)
			f.Add(`{}`, object)
			f.Add(object, `{"mfa":"TOTP","restrict_user_domains":[{"realm_id":"a","restrict_invitation":false}]}`)
		}
	}
	f.Add(`{}`, `{"mfa":"TOTP","mfa":"NONE"}`)
	f.Add(`{}`, `{"mfa":"TOTP","\u006dfa":"NONE"}`)
	f.Fuzz(func(t *testing.T, kept, update string) {
		if !json.Valid([]byte(kept)) || len(kept) > provider.MaxExtensions/2 {
			return // nothing that a store returns
		}
		before := provider.StoredAccount{
			Settings: policy.Account{Limits: policy.Limits{
				Active: policy.Unlimited[time.Duration](), Inactivity: policy.LimitTo(1500 * time.Millisecond), AtLimit: policy.Ask,
			}},
			Extensions: map[string]json.RawMessage{ibmExtension: json.RawMessage(kept), "another": json.RawMessage(`{"a":1e400}`)},
		}
		after := before
		after.Extensions = maps.Clone(before.Extensions)
		changes, err := ibmUpdate([]byte(update))
		if err != nil {
			return
		}
		was, readable := values(before)
		if err := ibmMerge(&after, "acme", changes); err != nil {
			return // change writes nothing then
		}
		require.NoError(t, readable)
		// It can be stored, and says the same then.
		same, err := service.SameStored(after, stored(t, after))
		require.NoError(t, err)
		require.True(t, same)

		// What it does not name is as it was.
		is, err := values(after)
		require.NoError(t, err)
		for name, value := range was {
			if _, named := changes[name]; !named {
				require.Equal(t, value, is[name], name)
			}
		}
		unknown := func(s provider.StoredAccount) map[string]string {
			fields, err := ibmKeptFields(s)
			require.NoError(t, err)
			list := map[string]string{}
			for name, raw := range fields {
				if !slices.ContainsFunc(ibmKept, func(f ibmField) bool { return f.name == name }) {
					list[name] = compacted(t, raw)
				}
			}
			return list
		}
		require.Equal(t, unknown(before), unknown(after))
		require.Equal(t, before.Extensions["another"], after.Extensions["another"])
		require.Equal(t, policy.Ask, after.Settings.AtLimit)

		// What it names reads as it was written. Domains are merged.
		for name, raw := range changes {
			if value, ok := is[name]; ok && name != "restrict_user_domains" {
				require.Equal(t, compacted(t, raw), value, name)
			}
		}
		named := map[string]bool{}
		for _, entry := range domains(t, string(changes["restrict_user_domains"])) {
			named[entry["realm_id"]] = true
		}
		now := domains(t, is["restrict_user_domains"])
		for _, entry := range domains(t, was["restrict_user_domains"]) {
			if !named[entry["realm_id"]] {
				require.Contains(t, now, entry)
			}
		}
		// The same again changes nothing.
		again := after
		again.Extensions = maps.Clone(after.Extensions)
		require.NoError(t, ibmMerge(&again, "acme", changes))
		same, err = service.SameStored(after, again)
		require.NoError(t, err)
		require.True(t, same)
	})
}

// stored is an account as it comes back from a store.
func stored(t *testing.T, s provider.StoredAccount) provider.StoredAccount {
	t.Helper()
	docs := memstore.New()
	_, err := provider.SaveStored(t.Context(), docs, "acme", s)
	require.NoError(t, err)
	s, err = provider.LoadStored(t.Context(), docs, "acme")
	require.NoError(t, err)
	return s
}

// values are the fields of an account in IBM's form, as JSON.
func values(s provider.StoredAccount) (map[string]string, error) {
	fields, err := ibmFields(s)
	if err != nil {
		return nil, err
	}
	list := map[string]string{}
	for name, value := range fields {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		list[name] = string(text)
	}
	return list, nil
}

func compacted(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	text, err := json.Marshal(raw)
	require.NoError(t, err)
	return string(text)
}

// domains are the entries of restrict_user_domains, each member as it is written.
func domains(t *testing.T, text string) []map[string]string {
	t.Helper()
	var list []map[string]json.RawMessage
	if text != "" && json.Unmarshal([]byte(text), &list) != nil {
		return nil // of another version, in another form
	}
	entries := make([]map[string]string, len(list))
	for i, entry := range list {
		entries[i] = map[string]string{}
		for name, raw := range entry {
			entries[i][name] = compacted(t, raw)
		}
		id, _ := ibmString(entry["realm_id"])
		entries[i]["realm_id"] = id
	}
	return entries
}
