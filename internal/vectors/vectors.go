// Package vectors reads testdata/policy: small settings with what they must
// come to, for the tests of package policy and those over HTTP alike.
package vectors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/policy/policyyaml"
)

// A Vector is one way in which scopes meet.
type Vector struct {
	Name     string // of the file, without its extension: the expectation in short
	About    string // the expectation in a sentence
	Settings policy.Settings
	Who      policy.Who

	// Kind and Client are those of the session that the limits are for.
	Kind   policy.Kind
	Client string

	Limits Limits
	Caps   []Cap // in the order of [policy.Rules.Caps]

	// Login is an attempt to begin a session of Kind and Client. Nil: the
	// vector is about limits alone.
	Login *Login
}

// Limits are the effective limits, and where they come from.
type Limits struct {
	Active, Inactivity policy.Bound[time.Duration]
	Activity           policy.Classes

	// ActiveFrom, InactivityFrom and ActivityFrom are scopes in the form of
	// [policy.Scope.String].
	ActiveFrom, InactivityFrom, ActivityFrom []string
}

// A Cap is one cap that binds the user.
type Cap struct {
	Max     int
	AtLimit policy.AtLimit
	From    string // the scope, in the form of [policy.Scope.String]
	Counts  bool   // whether it counts sessions of the vector's kind and client
}

// A Login is an attempt to begin a session, and its outcome.
type Login struct {
	// Held are the sessions that the user has, in the order of their start.
	Held []Held

	Allow     bool
	Reason    policy.Reason
	Used, Max int
	Ask       bool
	End       []policy.Ending
}

// Held is a session that exists at the time of the login. Durations are how
// long ago something was.
type Held struct {
	ID     string
	Kind   policy.Kind
	Client string

	Started       time.Duration
	Authenticated time.Duration // the same as Started unless the vector says otherwise
	Used          time.Duration // likewise
	ReservedFor   time.Duration // from now; zero: it is no reservation
}

// Session returns the session as it is at now.
func (h Held) Session(now time.Time) policy.Session {
	s := policy.Session{
		ID: h.ID, Kind: h.Kind, Client: h.Client,
		Started: now.Add(-h.Started), Authenticated: now.Add(-h.Authenticated), LastActivity: now.Add(-h.Used),
	}
	if h.ReservedFor != 0 {
		s.ReservedUntil = now.Add(h.ReservedFor)
	}
	return s
}

// Next returns the session that the vector's login begins at now.
func (v Vector) Next(now time.Time) policy.Session {
	return policy.Session{ID: "next", Kind: v.Kind, Client: v.Client, Started: now, Authenticated: now, LastActivity: now}
}

// Load returns all vectors in the order of their names. It ends the test if
// there are none, or one cannot be read.
func Load(t testing.TB) []Vector {
	t.Helper()
	dir, err := directory()
	if err != nil {
		t.Fatal(err)
	}
	list, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// directory finds testdata/policy from the folder of the package under test,
// where go test runs it.
func directory() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "testdata", "policy"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("policy vectors: no go.mod above the working directory")
		}
		dir = parent
	}
}

func read(dir string) ([]Vector, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml")) // sorted
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("policy vectors: none in %s", dir)
	}
	list := make([]Vector, 0, len(files))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		v, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		v.Name = strings.TrimSuffix(filepath.Base(file), ".yaml")
		list = append(list, v)
	}
	return list, nil
}

// document is the form of a file.
type document struct {
	About    string    `yaml:"about"`
	Settings yaml.Node `yaml:"settings"`
	Who      struct {
		User        string `yaml:"user"`
		Memberships []struct {
			Account string   `yaml:"account"`
			Groups  []string `yaml:"groups"`
		} `yaml:"memberships"`
	} `yaml:"who"`
	Kind   policy.Kind `yaml:"kind"`
	Client string      `yaml:"client"`
	Limits struct {
		Active     effective `yaml:"active"`
		Inactivity effective `yaml:"inactivity"`
		Activity   effective `yaml:"activity"`
	} `yaml:"limits"`
	Caps []struct {
		Max     int    `yaml:"max"`
		AtLimit string `yaml:"at_limit"`
		From    string `yaml:"from"`
		Counts  bool   `yaml:"counts"`
	} `yaml:"caps"`
	Login *struct {
		Held []struct {
			ID            string         `yaml:"id"`
			Kind          policy.Kind    `yaml:"kind"`
			Client        string         `yaml:"client"`
			Started       time.Duration  `yaml:"started"`
			Authenticated *time.Duration `yaml:"authenticated"`
			Used          *time.Duration `yaml:"used"`
			ReservedFor   time.Duration  `yaml:"reserved_for"`
		} `yaml:"held"`
		Allow  bool          `yaml:"allow"`
		Reason policy.Reason `yaml:"reason"`
		Used   int           `yaml:"used"`
		Max    int           `yaml:"max"`
		Ask    bool          `yaml:"ask"`
		End    []struct {
			ID     string        `yaml:"id"`
			Reason policy.Reason `yaml:"reason"`
		} `yaml:"end"`
	} `yaml:"login"`
}

type effective struct {
	Value any      `yaml:"value"`
	From  []string `yaml:"from"`
}

func (e effective) into(value json.Unmarshaler) error {
	data, err := json.Marshal(e.Value)
	if err != nil {
		return err
	}
	return value.UnmarshalJSON(data)
}

func parse(data []byte) (Vector, error) {
	var d document
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&d); err != nil {
		return Vector{}, err
	}
	v := Vector{About: d.About, Kind: d.Kind, Client: d.Client, Who: policy.Who{User: d.Who.User}}
	settings, err := yaml.Marshal(&d.Settings)
	if err != nil {
		return Vector{}, err
	}
	if v.Settings, err = policyyaml.ParseSettings(settings); err != nil {
		return Vector{}, fmt.Errorf("settings: %w", err)
	}
	for _, m := range d.Who.Memberships {
		v.Who.Memberships = append(v.Who.Memberships, policy.Membership{Account: m.Account, Groups: m.Groups})
	}
	v.Limits.ActiveFrom, v.Limits.InactivityFrom, v.Limits.ActivityFrom = d.Limits.Active.From, d.Limits.Inactivity.From, d.Limits.Activity.From
	for _, field := range []struct {
		name string
		from effective
		into json.Unmarshaler
	}{
		{"active", d.Limits.Active, &v.Limits.Active},
		{"inactivity", d.Limits.Inactivity, &v.Limits.Inactivity},
		{"activity", d.Limits.Activity, &v.Limits.Activity},
	} {
		if err := field.from.into(field.into); err != nil {
			return Vector{}, fmt.Errorf("limits: %s: %w", field.name, err)
		}
	}
	for _, c := range d.Caps {
		out := Cap{Max: c.Max, From: c.From, Counts: c.Counts}
		if err := out.AtLimit.UnmarshalText([]byte(c.AtLimit)); err != nil {
			return Vector{}, fmt.Errorf("caps: at_limit: %w", err)
		}
		v.Caps = append(v.Caps, out)
	}
	if d.Login == nil {
		return v, nil
	}
	v.Login = &Login{Allow: d.Login.Allow, Reason: d.Login.Reason, Used: d.Login.Used, Max: d.Login.Max, Ask: d.Login.Ask}
	for _, h := range d.Login.Held {
		out := Held{ID: h.ID, Kind: h.Kind, Client: h.Client, Started: h.Started, Authenticated: h.Started, Used: h.Started, ReservedFor: h.ReservedFor}
		if h.Authenticated != nil {
			out.Authenticated = *h.Authenticated
		}
		if h.Used != nil {
			out.Used = *h.Used
		}
		v.Login.Held = append(v.Login.Held, out)
	}
	for _, e := range d.Login.End {
		v.Login.End = append(v.Login.End, policy.Ending{ID: e.ID, Reason: e.Reason})
	}
	return v, nil
}
