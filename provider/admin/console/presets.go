package console

import (
	"net/http"
	"strings"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/provider/admin"
)

// A presetView is a preset for people.
type presetView struct {
	policy.Preset
	Active, Inactivity, Concurrent string
	Privileged                     string
}

func (c *console) showPresets(v *visit) error {
	var list []presetView
	for _, p := range policy.Presets() {
		view := presetView{Preset: p, Active: timeBoundInWords(p.Limits.Active), Inactivity: timeBoundInWords(p.Limits.Inactivity), Concurrent: capInWords(p.Limits.Concurrent)}
		var parts []string
		if d, limits := p.Privileged.Inactivity.Value(); limits {
			parts = append(parts, durationInWords(d)+" without activity")
		}
		if n, limits := p.Privileged.Concurrent.Value(); limits {
			parts = append(parts, plural(n, "session")+" at once")
		}
		view.Privileged = strings.Join(parts, ", ")
		list = append(list, view)
	}
	c.render(v, http.StatusOK, "presets", "Presets", "", struct {
		Presets []presetView
		CanEdit bool
	}{list, c.service.ReadOnly == "" && v.may(admin.WriteSettings)})
	return nil
}
