package admin

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin/internal/service"
)

// The account settings of IBM Cloud IAM Identity Services: what
// iam_identity_v1 of github.com/IBM/platform-services-go-sdk v0.101.0 reads and
// writes. Every value is a string. Three of the fields are limits for everyone in
// the account; the others are none of our business, and kept beside them.

const (
	ibmExtension = "ibm" // the name of what is kept with the settings
	ibmBody      = 512 << 10
	ibmNotSet    = "NOT_SET"
	ibmHistory   = 100 // how many entries of the history are returned at most
)

var ibmQuery = []string{"include_history", "resolve_user_mfa"}

// The fields that are limits.
const (
	ibmActive     = "session_expiration_in_seconds"
	ibmInactivity = "session_invalidation_in_seconds"
	ibmConcurrent = "max_sessions_per_identity"
)

// An ibmField is a field that is kept: what it is where it was not set, and what
// is wrong with a value.
type ibmField struct {
	name    string
	unset   any
	problem func(raw json.RawMessage) string
}

var ibmKept = []ibmField{
	{"restrict_create_service_id", ibmNotSet, ibmOneOf("RESTRICTED", "NOT_RESTRICTED", ibmNotSet)},
	{"restrict_create_platform_apikey", ibmNotSet, ibmOneOf("RESTRICTED", "NOT_RESTRICTED", ibmNotSet)},
	{"restrict_user_list_visibility", "NOT_RESTRICTED", ibmOneOf("RESTRICTED", "NOT_RESTRICTED", ibmNotSet)},
	{"allowed_ip_addresses", "", ibmText(16 << 10)},
	{"mfa", "NONE", ibmOneOf(ibmMFA...)},
	{"user_mfa", []any{}, ibmUserMFA},
	{"restrict_user_domains", []any{}, ibmUserDomains},
	{"system_access_token_expiration_in_seconds", ibmNotSet, ibmSeconds(900, 3600)},
	{"system_refresh_token_expiration_in_seconds", ibmNotSet, ibmSeconds(900, 259200)},
}

var ibmMFA = []string{"NONE", "NONE_NO_ROPC", "TOTP", "TOTP4ALL", "LEVEL1", "LEVEL2", "LEVEL3"}

// ibmReadOnly are fields of the answer that a client may send back.
var ibmReadOnly = []string{"context", "account_id", "entity_tag", "history"}

func ibmString(raw json.RawMessage) (string, bool) {
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil && !bytes.Equal(raw, []byte("null"))
}

func ibmOneOf(values ...string) func(json.RawMessage) string {
	return func(raw json.RawMessage) string {
		if s, ok := ibmString(raw); !ok || !slices.Contains(values, s) {
			return fmt.Sprintf("must be one of %q", values)
		}
		return ""
	}
}

func ibmText(most int) func(json.RawMessage) string {
	return func(raw json.RawMessage) string {
		s, ok := ibmString(raw)
		if !ok {
			return "must be a string"
		}
		return service.TextProblem(s, most)
	}
}

// wholeNumber has one form for each number: what a client wrote is what it reads
// back.
var wholeNumber = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)

func ibmSeconds(least, most int64) func(json.RawMessage) string {
	return func(raw json.RawMessage) string {
		s, ok := ibmString(raw)
		if s == ibmNotSet {
			return ""
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if !ok || !wholeNumber.MatchString(s) || err != nil || n < least || n > most {
			return fmt.Sprintf("must be a string with a whole number from %d to %d, or NOT_SET", least, most)
		}
		return ""
	}
}

// maxIBMEntries bounds the lists that are kept.
const maxIBMEntries = 1000

// ibmList reads a list of objects whose members are of known types.
func ibmList(raw json.RawMessage, key string, members map[string]func(json.RawMessage) string) (list []map[string]json.RawMessage, problem string) {
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return nil, "must be a list of objects"
	}
	if len(list) > maxIBMEntries {
		return nil, fmt.Sprintf("has %d entries; at most %d are allowed", len(list), maxIBMEntries)
	}
	seen := map[string]bool{}
	for i, entry := range list {
		id, ok := ibmString(entry[key])
		if !ok || id == "" {
			return nil, fmt.Sprintf("entry %d: %s must be a string", i, key)
		}
		if seen[id] {
			return nil, fmt.Sprintf("entry %d: %s appears twice", i, key)
		}
		seen[id] = true
		for _, name := range slices.Sorted(maps.Keys(entry)) {
			check, known := members[name]
			if !known {
				return nil, fmt.Sprintf("entry %d: %s is not a field", i, printable(name))
			}
			if problem := check(entry[name]); problem != "" {
				return nil, fmt.Sprintf("entry %d: %s %s", i, name, problem)
			}
		}
	}
	return list, ""
}

var (
	ibmUserMFAMembers = map[string]func(json.RawMessage) string{
		"iam_id": ibmText(service.MaxName), "mfa": ibmOneOf(ibmMFA...),
		"name": ibmText(1024), "userName": ibmText(1024), "email": ibmText(1024), "description": ibmText(1024),
	}
	ibmDomainMembers = map[string]func(json.RawMessage) string{
		"realm_id": ibmText(service.MaxName), "restrict_invitation": ibmBool, "invitation_email_allow_patterns": ibmPatterns,
	}
)

func ibmUserMFA(raw json.RawMessage) string {
	_, problem := ibmList(raw, "iam_id", ibmUserMFAMembers)
	return problem
}

func ibmUserDomains(raw json.RawMessage) string {
	_, problem := ibmList(raw, "realm_id", ibmDomainMembers)
	return problem
}

func ibmBool(raw json.RawMessage) string {
	if s := string(raw); s != "true" && s != "false" {
		return "must be true or false"
	}
	return ""
}

func ibmPatterns(raw json.RawMessage) string {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || list == nil || len(list) > maxIBMEntries {
		return fmt.Sprintf("must be a list of at most %d strings", maxIBMEntries)
	}
	for _, item := range list {
		if problem := ibmText(1024)(item); problem != "" {
			return problem
		}
	}
	return ""
}

// ibmKeptFields returns what is kept of an account: fields of another version of this
// package too, which stay as they are.
func ibmKeptFields(s provider.StoredAccount) (map[string]json.RawMessage, error) {
	kept := map[string]json.RawMessage{}
	raw, ok := s.Extensions[ibmExtension]
	if !ok {
		return kept, nil
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return nil, fmt.Errorf("extension %s: %w", ibmExtension, err)
	}
	if kept == nil { // null
		kept = map[string]json.RawMessage{}
	}
	return kept, nil
}

// ibmFields returns the fields of an account in IBM's form.
func ibmFields(s provider.StoredAccount) (map[string]any, error) {
	kept, err := ibmKeptFields(s)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{
		ibmActive:     ibmDuration(s.Settings.Active),
		ibmInactivity: ibmDuration(s.Settings.Inactivity),
		ibmConcurrent: ibmNotSet,
	}
	if n, limits := s.Settings.Concurrent.Value(); limits {
		fields[ibmConcurrent] = strconv.Itoa(n)
	}
	for _, f := range ibmKept {
		fields[f.name] = f.unset
		if raw, ok := kept[f.name]; ok {
			fields[f.name] = raw
		}
	}
	return fields, nil
}

// ibmDuration is a limit in whole seconds, which is all that the form has room
// for. It has no word for what expressly does not limit either.
func ibmDuration(b policy.Bound[time.Duration]) string {
	d, limits := b.Value()
	if !limits {
		return ibmNotSet
	}
	return strconv.FormatInt(int64(max(d/time.Second, 1)), 10)
}

// ibmUpdate reads the body of an update.
func ibmUpdate(body []byte) (map[string]json.RawMessage, error) {
	if len(body) == 0 {
		return nil, bodyError("is missing: send a JSON object")
	}
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	var update map[string]json.RawMessage
	if err := json.Unmarshal(body, &update); err != nil || update == nil {
		return nil, bodyError("must be a JSON object")
	}
	return update, nil
}

// ibmMerge applies an update to an account: fields that it does not have stay as
// they are (though the method is PUT), NOT_SET unsets one.
func ibmMerge(s *provider.StoredAccount, account string, update map[string]json.RawMessage) error {
	var problems policy.FieldErrors
	report := func(name, reason string) {
		problems = append(problems, &policy.FieldError{Path: name, Reason: reason})
	}
	kept, err := ibmKeptFields(*s)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(update)) {
		raw := update[name]
		switch i := slices.IndexFunc(ibmKept, func(f ibmField) bool { return f.name == name }); {
		case name == ibmActive:
			setIBMDuration(&s.Settings.Active, name, raw, report)
		case name == ibmInactivity:
			setIBMDuration(&s.Settings.Inactivity, name, raw, report)
		case name == ibmConcurrent:
			setIBMCount(&s.Settings.Concurrent, name, raw, report)
		case name == "account_id":
			if id, ok := ibmString(raw); !ok || id != account {
				report(name, "is not the account of the address")
			}
		case slices.Contains(ibmReadOnly, name):
		case i < 0:
			report(printable(name), "is not a field")
		case ibmKept[i].problem(raw) != "":
			report(name, ibmKept[i].problem(raw))
		case name == "restrict_user_domains":
			if kept[name], err = mergeDomains(kept[name], raw); err != nil {
				return err
			}
		default:
			kept[name] = raw
		}
	}
	if len(problems) > 0 {
		return problems
	}
	return keepIBM(s, kept)
}

// keepIBM writes what is kept, in one form: it is compared with what was there.
func keepIBM(s *provider.StoredAccount, kept map[string]json.RawMessage) error {
	for name, raw := range kept {
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			return err
		}
		kept[name] = compact.Bytes()
		i := slices.IndexFunc(ibmKept, func(f ibmField) bool { return f.name == name })
		if i < 0 {
			continue
		}
		unset, err := json.Marshal(ibmKept[i].unset)
		if err != nil {
			return err
		}
		if bytes.Equal(unset, kept[name]) {
			delete(kept, name)
		}
	}
	s.Extensions = maps.Clone(s.Extensions)
	if len(kept) == 0 {
		delete(s.Extensions, ibmExtension)
		return nil
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if len(raw) > provider.MaxExtensions/2 {
		return policy.FieldErrors{{Path: "body", Reason: fmt.Sprintf("there would be %d bytes to keep; at most %d are kept", len(raw), provider.MaxExtensions/2)}}
	}
	if s.Extensions == nil {
		s.Extensions = map[string]json.RawMessage{}
	}
	s.Extensions[ibmExtension] = raw
	return nil
}

// mergeDomains changes the entries of the realms that an update names; one with
// nothing but its realm removes it.
func mergeDomains(old, update json.RawMessage) (json.RawMessage, error) {
	var list, changes []map[string]json.RawMessage
	if old != nil {
		if err := json.Unmarshal(old, &list); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(update, &changes); err != nil {
		return nil, err
	}
	realm := func(entry map[string]json.RawMessage) string {
		id, _ := ibmString(entry["realm_id"]) // it was checked
		return id
	}
	for _, change := range changes {
		at := slices.IndexFunc(list, func(e map[string]json.RawMessage) bool { return realm(e) == realm(change) })
		switch {
		case len(change) == 1 && at >= 0:
			list = slices.Delete(list, at, at+1)
		case len(change) == 1:
		case at >= 0:
			list[at] = change
		default:
			list = append(list, change)
		}
	}
	if list == nil {
		list = []map[string]json.RawMessage{}
	}
	return json.Marshal(list)
}

// setIBMDuration sets a limit. What reads the same as before is left as it is: an
// expressly unlimited one reads as NOT_SET.
func setIBMDuration(b *policy.Bound[time.Duration], name string, raw json.RawMessage, report func(name, reason string)) {
	const most = int64(1<<63-1) / int64(time.Second)
	s, ok := ibmString(raw)
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case ok && s == ibmDuration(*b):
	case ok && s == ibmNotSet:
		*b = policy.Bound[time.Duration]{}
	case !ok || !wholeNumber.MatchString(s) || err != nil || n > most:
		report(name, "must be a string with a whole number of seconds, or NOT_SET")
	default:
		*b = policy.LimitTo(time.Duration(n) * time.Second)
	}
}

func setIBMCount(b *policy.Bound[int], name string, raw json.RawMessage, report func(name, reason string)) {
	s, ok := ibmString(raw)
	n, err := strconv.ParseInt(s, 10, 32)
	current := ibmNotSet
	if v, limits := b.Value(); limits {
		current = strconv.Itoa(v)
	}
	switch {
	case ok && s == current:
	case ok && s == ibmNotSet:
		*b = policy.Bound[int]{}
	case !ok || !wholeNumber.MatchString(s) || err != nil:
		report(name, "must be a string with a whole number above 0, or NOT_SET")
	default:
		*b = policy.LimitTo(int(n))
	}
}

// ibmNames are the names that the fields of settings have in this form.
var ibmNames = map[string]string{"active": ibmActive, "inactivity": ibmInactivity, "concurrent": ibmConcurrent}

// inIBMNames renames the fields in errors about settings.
func inIBMNames(err error) error {
	var fields policy.FieldErrors
	if !errors.As(err, &fields) {
		return err
	}
	out := make(policy.FieldErrors, len(fields))
	for i, f := range fields {
		renamed := *f
		if name, ok := ibmNames[f.Path]; ok {
			renamed.Path = name
		}
		out[i] = &renamed
	}
	return out
}

// ibmContext is "context" of an answer.
func ibmContext(operation string) map[string]string {
	return map[string]string{"transaction_id": rand.Text(), "operation": operation}
}

// ibmResponse is one account as the form answers it.
func (a *Admin) ibmResponse(c *call, s provider.StoredAccount, history bool) (map[string]any, error) {
	body, err := ibmFields(s)
	if err != nil {
		return nil, err
	}
	body["context"] = ibmContext(c.r.Method + " account settings")
	body["account_id"], body["entity_tag"] = c.account, s.Tag
	entries := []map[string]any{} // never null, which the client could not tell from missing
	if history {
		_, err := a.service.EachVersion(c.ctx(), c.account, 0, ibmHistory, func(v, previous provider.StoredAccount) error {
			params, err := ibmChanged(previous, v)
			entries = append(entries, map[string]any{
				"timestamp": timestamp(v.At), "iam_id": v.By, "iam_id_account": c.account,
				"action": "UPDATE", "params": params, "message": v.Message,
			})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	body["history"] = entries
	return body, nil
}

// ibmChanged returns the fields of the form in which two versions differ.
func ibmChanged(before, after provider.StoredAccount) ([]string, error) {
	was, err := ibmFields(before)
	if err != nil {
		return nil, err
	}
	is, err := ibmFields(after)
	if err != nil {
		return nil, err
	}
	changed := []string{}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		old, err := json.Marshal(was[name])
		if err != nil {
			return nil, err
		}
		now, err := json.Marshal(is[name])
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(old, now) {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

func (c *call) flag(name string) (bool, error) {
	switch c.query[name] {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, policy.FieldErrors{{Path: name, Reason: "must be true or false"}}
}

// ibmFlags reads the parameters. The names of users are not known here, so
// resolve_user_mfa changes nothing.
func (c *call) ibmFlags() (history bool, err error) {
	if _, err := c.flag("resolve_user_mfa"); err != nil {
		return false, err
	}
	return c.flag("include_history")
}

func (a *Admin) getIBM(c *call) (answer, error) {
	history, err := c.ibmFlags()
	if err != nil {
		return answer{}, err
	}
	s, err := a.service.Load(c.ctx(), c.account)
	if err != nil {
		return answer{}, err
	}
	body, err := a.ibmResponse(c, s, history)
	return answer{etag: s.Tag, body: body}, err
}

func (a *Admin) putIBM(c *call) (answer, error) {
	m, err := parseMatch(c.r.Header.Values("If-Match"))
	if err != nil {
		return answer{}, err
	}
	if !m.Any && len(m.Tags) == 0 {
		return answer{}, policy.FieldErrors{{Path: "If-Match", Reason: "is missing: send the entity_tag of the settings that the change is for, or *"}}
	}
	update, err := ibmUpdate(c.body)
	if err != nil {
		return answer{}, err
	}
	s, err := a.service.Change(c.ctx(), c.actor, c.account, m, "Account settings updated", func(s *provider.StoredAccount) error {
		return ibmMerge(s, c.account, update)
	})
	if err != nil {
		return answer{}, inIBMNames(err)
	}
	body, err := a.ibmResponse(c, s, true)
	return answer{etag: s.Tag, body: body}, err
}

func (a *Admin) getIBMEffective(c *call) (answer, error) {
	history, err := c.ibmFlags()
	if err != nil {
		return answer{}, err
	}
	s, err := a.service.Load(c.ctx(), c.account)
	if err != nil {
		return answer{}, err
	}
	effective, err := ibmFields(s)
	if err != nil {
		return answer{}, err
	}
	delete(effective, "restrict_user_domains") // which the effective section does not have
	account, err := a.ibmResponse(c, s, history)
	if err != nil {
		return answer{}, err
	}
	delete(account, "context")
	return answer{body: map[string]any{
		"context": ibmContext(c.r.Method + " effective account settings"), "account_id": c.account,
		"effective": effective, "account": account,
		"assigned_templates": []any{}, // there are no templates here
	}}, nil
}

// An ibmError is one error of the form.
type ibmError struct {
	Code        string `json:"code"`
	MessageCode string `json:"message_code"`
	Message     string `json:"message"`
	Details     string `json:"details,omitempty"`
}

// writeIBMProblem answers an error in the form: every member is a string, and a
// version that is not the current one is 409.
func writeIBMProblem(w http.ResponseWriter, p *problem) {
	status := p.status
	if status == http.StatusPreconditionFailed {
		status = http.StatusConflict
	}
	var list []ibmError
	for _, f := range p.fields[:min(len(p.fields), maxProblems)] {
		list = append(list, ibmError{p.code, fmt.Sprintf("CURFEW%d", status), f.Path + " " + f.Reason, p.detail})
	}
	if len(list) == 0 {
		code := fmt.Sprintf("CURFEW%d", status)
		if status == http.StatusUnauthorized {
			code = "BXNIM0308E" // what clients of the form know it by
		}
		list = append(list, ibmError{Code: p.code, MessageCode: code, Message: p.detail})
	}
	context := ibmContext("account settings")
	writeJSON(w, "application/json", status, map[string]any{
		"context": context, "status_code": strconv.Itoa(status), "errors": list, "trace": context["transaction_id"],
	})
}
