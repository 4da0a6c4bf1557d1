package providertest_test

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/hooktest"
	"github.com/curfew-oidc/curfew/internal/optest"
	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/providertest"
)

// The tests that wait must not wait for each other: a kit is over when its
// longest test is.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "128"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// bareEnv makes TestOnBareServer run the kit in a process of its own, where it
// may fail.
const bareEnv = "PROVIDERTEST_BARE"

// TestOnBareServer runs the kit against op without the hook, when told to by
// [TestKitFailsWithoutTheHook].
func TestOnBareServer(t *testing.T) {
	switch os.Getenv(bareEnv) {
	case "limits":
		providertest.Run(t, hooktest.Target(optest.Start(t, optest.Config{InMemory: true}), providertest.Limits()))
	case "no limits":
		providertest.Run(t, hooktest.Target(optest.Start(t, optest.Config{InMemory: true}), policy.Limits{}))
	}
}

var failed = regexp.MustCompile(`--- FAIL: TestOnBareServer/(\S+)`)

func TestKitFailsWithoutTheHook(t *testing.T) {
	t.Parallel()
	// What op does on its own account, and must be seen to pass even so.
	passes := []string{
		"oidcc-prompt-none-not-logged-in", "oidcc-codereuse", "oidcc-max-age-1", "oidcc-prompt-login",
		"oidcc-rp-initiated-logout-no-params",
	}
	for limits, want := range map[string][]string{
		"no limits": {
			"rule-3-a-device-login-is-one-session",
			"rule-4-every-id-token-has-the-same-sid",
			"rule-4-signing-out-ends-one-session",
			"rule-4-revocation-ends-one-device-session",
			"rule-4-revocation-ends-one-grant",
			"rule-7-parallel-refreshes-get-the-same-answer",
			"rule-7-a-repeat-within-the-grace-gets-the-same-answer",
			"rule-7-a-lost-response-is-mended",
			"rule-7-replay-ends-that-session-only",
			"rule-7-two-refreshes-then-a-theft",
			"rule-9-the-reason-stays",
		},
		"limits": {
			"rule-1-racing-logins-never-exceed-the-cap",
			"rule-2-code-and-device-logins-share-the-cap",
			"rule-3-a-login-takes-one-slot",
			"rule-5-no-token-outlives-its-session",
			"rule-5-the-absolute-end-does-not-move",
			"rule-6-an-unused-session-ends",
			"rule-6-the-wrong-client-keeps-nothing",
			"session_expiry-is-the-absolute-end",
			"refresh-token-expiration-members",
		},
	} {
		t.Run(limits, func(t *testing.T) {
			t.Parallel()
			child := exec.Command(os.Args[0], "-test.run=^TestOnBareServer$", "-test.v", "-test.timeout=5m")
			child.Env = append(os.Environ(), bareEnv+"="+limits)
			out, err := child.CombinedOutput()
			exit, ok := err.(*exec.ExitError)
			require.True(t, ok, "%v\n%s", err, out)
			require.Equal(t, 1, exit.ExitCode(), "it fails, it does not crash\n%s", out)
			var names []string
			for _, m := range failed.FindAllSubmatch(out, -1) {
				names = append(names, string(m[1]))
			}
			for _, name := range want {
				require.True(t, slices.Contains(names, name), "%s did not fail; these did: %v\n%s", name, names, out)
			}
			for _, name := range passes {
				require.False(t, slices.Contains(names, name), "%s failed\n%s", name, out)
			}
		})
	}
}
