package console_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/provider/admin"
	"github.com/curfew-oidc/curfew/provider/admin/internal/admintest"
)

// Warnings are there before a change is saved, each with its source and revision,
// and a preset fills the form in.
func TestConsolePresets(t *testing.T) {
	t.Parallel()
	w := admintest.New(t, func(_ *admintest.World, _ *provider.Config, a *admin.Config) {
		a.Deployment.Targets = []string{"pci-dss-4"}
	})
	root := w.SignIn("root")
	w.Save(root, admintest.Bounds(24*time.Hour, 2*time.Hour, 3, policy.Refuse))
	require.Contains(t, w.Page("GET", "acme/", root, nil).Text(), "2 hours is above the 15 minutes of PCI DSS 4.")
	presets := w.Page("GET", "acme/presets", root, nil)
	for _, p := range policy.Presets() {
		require.Contains(t, presets.Text(), p.Title)
		require.Contains(t, presets.Text(), p.Source+", "+p.Revision)
		require.Contains(t, presets.Body, "edit?preset="+p.ID)
	}
	review := w.Page("GET", "acme/edit?preset=pci-dss-4", root, nil).Send("review")
	require.Equal(t, 200, review.Status, review.Text())
	require.Contains(t, review.Text(), "24 hours 12 hours")
	require.Contains(t, review.Text(), "2 hours 15 minutes")
	require.NotContains(t, review.Text(), "PCI DSS")
	require.Contains(t, review.Send("save").Follow().Text(), "Saved as version 2.")

	looser := w.Page("GET", "acme/edit?field=inactivity", root, nil).Send("review", "inactivity", "unlimited", "inactivity_n", "")
	require.Contains(t, looser.Text(), "PCI DSS, requirement 8.2.8, 4.0.1 (2024)")
	require.Contains(t, looser.Text(), "the message of the change is empty")
	// Observing is a change like any other.
	observe := w.Page("GET", "acme/edit?field=observe", root, nil).Send("review", "observe", "on").Send("save").Follow()
	require.Contains(t, observe.Text(), "Only observed.")
}
