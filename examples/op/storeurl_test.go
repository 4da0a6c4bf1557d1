package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStoreURL(t *testing.T) {
	for spec, where := range map[string]string{
		"memory":        "memory",
		"sqlite:op.db":  "sqlite:op.db",
		"sqlite:/a@b:c": "sqlite:/a@b:c",
		"postgres://u:hunter2@db.example/op?sslmode=require":                 "postgres://db.example/op",
		"postgresql://u:hunter2@db.example:5433/op":                          "postgresql://db.example:5433/op",
		"postgres://u:hunter%402%2F@a:1,b:2/op?target_session_attrs=any":     "postgres://a:1,b:2/op",
		"postgres://u@[::1]:5432/op?password=hunter2":                        "postgres://[::1]:5432/op",
		"postgres:///op?host=/run/postgresql":                                "postgres:///op",
		"postgres://":                                                        "postgres://",
		"redis://localhost":                                                  "redis://localhost",
		"redis://:hunter2@localhost:7000/3":                                  "redis://localhost:7000/3",
		"rediss://u:hunter2@cache.example":                                   "rediss://cache.example",
		"redis+sentinel://u:hunter2@a:26379,b,[::1]/mymaster/2":              "redis+sentinel://a:26379,b,[::1]/mymaster/2",
		"redis+cluster://u:hunter2@a:7000,b:7001,c:7002":                     "redis+cluster://a:7000,b:7001,c:7002",
		"redis+cluster://:hunter%252@configuration-endpoint.example:6379":    "redis+cluster://configuration-endpoint.example:6379",
		"postgres://u:hunter2@a:1/op?application_name=x&pool_max_conns=3":    "postgres://a:1/op",
		"postgres://u:hunter2@a:1/op?idle_in_transaction_session_timeout=1s": "postgres://a:1/op",
	} {
		s, err := parseStore(spec)
		require.NoError(t, err, spec)
		require.Equal(t, where, s.where)
	}

	s, err := parseStore("redis+sentinel://u:hunter%402@a:1,b,[::1]/mymaster/2")
	require.NoError(t, err)
	o := s.redis
	require.Equal(t, []string{"a:1", "b:26379", "[::1]:26379"}, o.Addrs)
	require.Equal(t, []any{"mymaster", "u", "hunter@2", 2, false}, []any{o.MasterName, o.Username, o.Password, o.DB, o.IsClusterMode})
	s, err = parseStore("rediss://[::1]")
	require.NoError(t, err)
	require.Equal(t, []string{"[::1]:6379"}, s.redis.Addrs)
	require.NotNil(t, s.redis.TLSConfig)
	s, err = parseStore("redis+cluster://:p@one")
	require.NoError(t, err)
	require.True(t, s.redis.IsClusterMode)

	t.Setenv("PGPASSWORD", "from-the-environment")
	s, err = parseStore("postgres://u@a:1,b:2/op")
	require.NoError(t, err)
	require.Equal(t, "from-the-environment", s.postgres.ConnConfig.Password)
	require.EqualValues(t, 16, s.postgres.MaxConns)
	require.Equal(t, dialTimeout, s.postgres.ConnConfig.ConnectTimeout)
	s, err = parseStore("postgres://u@a/op?pool_max_conns=3&connect_timeout=5&application_name=x&idle_in_transaction_session_timeout=1s")
	require.NoError(t, err)
	require.EqualValues(t, 3, s.postgres.MaxConns, "what the URL says counts")
	require.Equal(t, 5*time.Second, s.postgres.ConnConfig.ConnectTimeout)
	require.Equal(t, "1s", s.postgres.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"])
	require.Equal(t, "x", s.postgres.ConnConfig.RuntimeParams["application_name"])
}

// Each of them is refused before anything is opened, and whatever is wrong with
// it, nothing is repeated that may be the password.
func TestBadStores(t *testing.T) {
	_, args := folder(t)
	i := slices.Index(args, "-store")
	args = slices.Delete(args, i, i+2)
	for spec, want := range map[string]string{
		"":                                       "that is not a store",
		"Memory":                                 "that is not a store",
		"sqlite:":                                "needs the path",
		"op.db":                                  "that is not a store",
		"mysql://u:hunter2@a/op":                 "that is not a store; there are memory, sqlite:PATH, postgres://",
		"hunter2":                                "that is not a store",
		"hunter2://a":                            "that is not a store",
		"POSTGRES://u:hunter2@a/op":              "that is not a store",
		"postgres:u:hunter2@a/op":                "that is not a store",
		"redis:/u:hunter2@a":                     "that is not a store",
		"redis+tls://u:hunter2@a":                "that is not a store",
		"postgres://u:hunter2%zz@a/op":           "bad postgres URL: an @, /, ? or #",
		"postgres://u:hunter2/x@a/op":            "%2F",
		"postgres://u:hunter2?x@a/op":            "%3F",
		"postgres://u:hunter2#x@a/op":            "%23",
		"postgres://u:x@hunter2@a/op":            "%40",
		"postgres://u:hunter2":                   "a port is not a number",
		"postgres://u:hunter2/op":                "a port is not a number",
		"postgres://u:hunter2@a:0/op":            "a port is not a number",
		"postgres://u:hunter2@a:70000/op":        "a port is not a number",
		"postgres://u:hunter2@a:/op":             "a port is not a number",
		"postgres://u:hunter2@::1/op":            "brackets",
		"postgres://u:hunter2@[::1/op":           "brackets",
		"postgres://u:hunter2@a,/op":             "a host is not a name",
		"postgres://u:hunter2@a/op x":            "a space",
		"postgres://u:hunter2@a/op\n":            "a control character",
		"postgres://u@a/op?password=hunter2%zz":  "NAME=VALUE",
		"postgres://u:hunter2@a/op?sslmode=no":   "sslmode is invalid",
		"postgres://u:hunter2@a/?pool_max_conns": "bad postgres URL: cannot parse `postgres://a`",
		"postgres://u:hunter2@a/op?password=hunter2&connect_timeout=x":       "invalid connect_timeout",
		"postgres://u:hunter2@a/op?password=hunter2&pool_max_conns=0":        "pool_max_conns too small",
		"postgres://u:hunter2@a/op?sslrootcert=/missing&sslmode=verify-full": "/missing",
		"redis://":                            "no host",
		"redis://:hunter2@":                   "no host",
		"redis://hunter2@a":                   "a password alone is written :PASSWORD@",
		"redis://:hunter2@a/x":                "the database is not a number",
		"redis://:hunter2@a/-1":               "the database is not a number",
		"redis://:hunter2@a/1/2":              "the database is not a number",
		"redis://:hunter2@a,b":                "several hosts",
		"redis://:hunter2@a?password=hunter2": "a query",
		"redis+sentinel://:hunter2@a,b":       "the name of the primary is missing",
		"redis+sentinel://:hunter2@a,b/m/x":   "the database is not a number",
		"redis+cluster://:hunter2@a/1":        "no numbered databases",
	} {
		t.Run(spec, func(t *testing.T) {
			env := func(name string) string {
				if name == "CURFEW_STORE" {
					return spec
				}
				return ""
			}
			tries := []struct {
				getenv func(string) string
				args   []string
			}{{noEnv, append(args, "-store", spec)}, {env, args}}
			if spec == "" { // an empty variable is one that is not set
				tries = tries[:1]
			}
			for _, try := range tries {
				code, said := exit(t, try.getenv, try.args...)
				require.Equal(t, 2, code, said)
				require.Contains(t, said, "-store: ")
				require.Contains(t, said, want)
				require.NotContains(t, said, "hunter2")
			}
		})
	}
	code, said := exit(t, noEnv, append(args, "postgres://u:hunter2@a/op")...)
	require.Equal(t, 2, code)
	require.Contains(t, said, "there is an unexpected argument")
	require.NotContains(t, said, "hunter2")
	code, said = exit(t, noEnv, append(args, "-stroe=postgres://u:hunter2@a/op")...)
	require.Equal(t, 2, code)
	require.NotContains(t, said, "hunter2")
}
