package main

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/proctest"
)

// The test binary is the program too.
func TestMain(m *testing.M) {
	if os.Getenv("CURFEW_DEMO_TEST_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// What make run does: both start, the application signs in at the provider, and one
// signal ends both.
func TestBothStartAndEnd(t *testing.T) {
	stdout, stderr := &proctest.Output{}, &proctest.Output{}
	p, _, err := startTest(t, stdout, stderr, "-store", "memory", "-keys", filepath.Join(t.TempDir(), "keys.json"), "-listen", "127.0.0.1:0")
	require.NoError(t, err)
	ready := regexp.MustCompile(`(?s)The OpenID provider (\S+) is ready\..*The application (\S+) is ready`)
	var issuer, application string
	proctest.Eventually(t, func() bool {
		select {
		case <-p.done:
			require.Fail(t, "it ended", "%s%s", stdout, stderr)
		default:
		}
		m := ready.FindStringSubmatch(stdout.String())
		if m != nil {
			issuer, application = m[1], m[2]
		}
		return m != nil
	})
	require.Contains(t, stdout.String(), "alice (wonderland-1)")

	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(address string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "text/html")
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	require.Equal(t, http.StatusOK, get(application+"/").StatusCode)
	resp := get(application + "/notes")
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	to, err := url.Parse(resp.Header.Get("Location"))
	require.NoError(t, err)
	require.Equal(t, issuer, to.Scheme+"://"+to.Host)

	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	<-p.done
	require.True(t, p.cmd.ProcessState.Success(), "%s", stderr)
	for _, address := range []string{issuer, application} {
		resp, err := client.Get(address)
		if err == nil {
			resp.Body.Close()
		}
		require.Error(t, err, "%s has ended", address)
	}
}

// What the provider says about its flags, and its exit code, are the demo's.
func TestFlagsAreTheProviders(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
		code int
	}{
		"help":      {[]string{"-help"}, "-check-settings", 0},
		"a mistake": {[]string{"-floor", "15"}, "invalid value", 2},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr := &proctest.Output{}, &proctest.Output{}
			p, _, err := startTest(t, stdout, stderr, test.args...)
			require.NoError(t, err)
			<-p.done
			require.Equal(t, test.code, p.cmd.ProcessState.ExitCode(), stderr.String())
			require.Contains(t, stdout.String()+stderr.String(), test.want)
			require.False(t, strings.Contains(stdout.String(), "The application"))
		})
	}
}

// startTest starts this program, with a free port for the application.
func startTest(t *testing.T, stdout, stderr *proctest.Output, args ...string) (*program, <-chan string, error) {
	t.Helper()
	t.Setenv("CURFEW_DEMO_TEST_RUN", "1")
	t.Setenv("CURFEW_RP_LISTEN", "127.0.0.1:0")
	p, said, err := start(os.Args[0], args, stdout, stderr, "")
	if err == nil {
		t.Cleanup(p.end)
	}
	return p, said, err
}
