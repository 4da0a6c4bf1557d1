package policy

import (
	"slices"
	"time"
)

// A Preset is a set of limits that a standard requires, or another provider uses.
type Preset struct {
	ID    string `json:"id"`
	Title string `json:"title"`

	// Source is the document and section, Revision its edition.
	Source   string `json:"source"`
	Revision string `json:"revision"`

	// Limits are for everyone, Privileged for administrators if the source has stricter limits for
	// them; otherwise the zero Limits.
	Limits     Limits `json:"limits"`
	Privileged Limits `json:"privileged,omitzero"`

	// Note says what is our choice rather than the source's.
	Note string `json:"note,omitempty"`

	most []bounds
}

// bounds are what a source says of one duration or number, for [Lint].
type bounds struct {
	section    string // of the source; empty: the preset's
	active     time.Duration
	inactivity time.Duration
	concurrent int
	privileged bool // for privileged users
	severity   Severity
}

const day = 24 * time.Hour

func limits(active, inactivity time.Duration, concurrent int) (l Limits) {
	if active > 0 {
		l.Active = LimitTo(active)
	}
	if inactivity > 0 {
		l.Inactivity = LimitTo(inactivity)
	}
	if concurrent > 0 {
		l.Concurrent = LimitTo(concurrent)
	}
	return l
}

// presets are in the order in which they are shown.
var presets = []Preset{
	{
		ID: "ibm-default", Title: "IBM Cloud IAM, defaults",
		Source: "IBM Cloud IAM, Setting limits for login sessions", Revision: "2026-04-06",
		Limits: limits(day, 2*time.Hour, 0),
	},
	{
		ID: "ibm-enterprise-tutorial", Title: "IBM Cloud IAM, secure enterprise",
		Source: "IBM Cloud, tutorial on a secure enterprise account", Revision: "as of 2026-08",
		Limits: limits(12*time.Hour, 30*time.Minute, 0),
	},
	{
		ID: "nist-63b3-aal1", Title: "NIST AAL1, revision 3", Source: "NIST SP 800-63B, section 4.1.3", Revision: "3 (2017)",
		Limits: limits(30*day, 0, 0),
		most:   []bounds{{active: 30 * day, severity: Warn}},
	},
	{
		ID: "nist-63b3-aal2", Title: "NIST AAL2, revision 3", Source: "NIST SP 800-63B, section 4.2.3", Revision: "3 (2017)",
		Limits: limits(12*time.Hour, 30*time.Minute, 0),
		most:   []bounds{{active: 12 * time.Hour, inactivity: 30 * time.Minute, severity: Wrong}},
	},
	{
		ID: "nist-63b3-aal3", Title: "NIST AAL3, revision 3", Source: "NIST SP 800-63B, section 4.3.3", Revision: "3 (2017)",
		Limits: limits(12*time.Hour, 15*time.Minute, 0),
		most:   []bounds{{active: 12 * time.Hour, inactivity: 15 * time.Minute, severity: Wrong}},
	},
	{
		ID: "nist-63b4-aal1", Title: "NIST AAL1, revision 4", Source: "NIST SP 800-63B-4, section 2.1.3", Revision: "4 (2025)",
		Limits: limits(30*day, 0, 0),
		most:   []bounds{{active: 30 * day, severity: Warn}},
	},
	{
		ID: "nist-63b4-aal2", Title: "NIST AAL2, revision 4", Source: "NIST SP 800-63B-4, section 2.2.3", Revision: "4 (2025)",
		Limits: limits(day, time.Hour, 0),
		most:   []bounds{{active: day, inactivity: time.Hour, severity: Warn}},
	},
	{
		ID: "nist-63b4-aal3", Title: "NIST AAL3, revision 4", Source: "NIST SP 800-63B-4, section 2.3.3", Revision: "4 (2025)",
		Limits: limits(12*time.Hour, 15*time.Minute, 0),
		most:   []bounds{{active: 12 * time.Hour, severity: Wrong}, {inactivity: 15 * time.Minute, severity: Warn}},
	},
	{
		ID: "asvs4-l2", Title: "OWASP ASVS 4, level 2", Source: "OWASP ASVS, requirement 3.3.2", Revision: "4.0.3 (2021)",
		Limits: limits(12*time.Hour, 30*time.Minute, 0),
		most:   []bounds{{active: 12 * time.Hour, inactivity: 30 * time.Minute, severity: Wrong}},
	},
	{
		ID: "asvs4-l3", Title: "OWASP ASVS 4, level 3", Source: "OWASP ASVS, requirement 3.3.2", Revision: "4.0.3 (2021)",
		Limits: limits(12*time.Hour, 15*time.Minute, 0),
		most:   []bounds{{active: 12 * time.Hour, inactivity: 15 * time.Minute, severity: Wrong}},
	},
	{
		ID: "owasp-high-value", Title: "OWASP, applications of high value",
		Source: "OWASP Session Management Cheat Sheet, Session Expiration", Revision: "as of 2026-08",
		Limits: limits(8*time.Hour, 5*time.Minute, 3),
		Note:   "The upper ends of 4 to 8 hours and 2 to 5 minutes. The number of sessions is our choice. Five minutes are below the usual floor of 15.",
		most:   []bounds{{active: 8 * time.Hour, inactivity: 5 * time.Minute, severity: Warn}},
	},
	{
		ID: "pci-dss-4", Title: "PCI DSS 4", Source: "PCI DSS, requirement 8.2.8", Revision: "4.0.1 (2024)",
		Limits: limits(12*time.Hour, 15*time.Minute, 0),
		Note:   "It names the inactivity only; 12 hours for a login are our choice.",
		most:   []bounds{{inactivity: 15 * time.Minute, severity: Wrong}},
	},
	{
		ID: "hipaa", Title: "HIPAA", Source: "45 CFR 164.312(a)(2)(iii)", Revision: "as of 2026-08",
		Limits: limits(12*time.Hour, 15*time.Minute, 0),
		Note:   "It asks for an automatic logoff and names no time; both numbers are our choice.",
	},
	{
		ID: "fedramp-moderate", Title: "FedRAMP Moderate", Source: "FedRAMP, IA-11, AC-11 and SC-10", Revision: "5",
		Limits: limits(12*time.Hour, 15*time.Minute, 0),
		most:   []bounds{{section: "IA-11", active: 12 * time.Hour, inactivity: 30 * time.Minute, severity: Wrong}},
		Note:   "IA-11 allows 30 minutes without activity, AC-11 and SC-10 15: the strictest of them.",
	},
	{
		ID: "fedramp-high", Title: "FedRAMP High", Source: "FedRAMP, AC-10, IA-11 and SC-10", Revision: "5",
		Limits: limits(12*time.Hour, 15*time.Minute, 2), Privileged: limits(0, 10*time.Minute, 3),
		most: []bounds{
			{section: "IA-11", active: 12 * time.Hour, inactivity: 15 * time.Minute, severity: Wrong},
			{section: "AC-10", concurrent: 2, severity: Wrong},
			{section: "AC-10 and SC-10", inactivity: 10 * time.Minute, concurrent: 3, privileged: true, severity: Wrong},
		},
		Note: "The 10 minutes of privileged users are below the usual floor of 15.",
	},
	{
		ID: "stig-asd", Title: "DISA STIG", Source: "DISA ASD STIG V-222387, V-222389, V-222390; Okta IDaaS STIG V-273203", Revision: "V6R4; V1R2",
		Limits: limits(18*time.Hour, 15*time.Minute, 3), Privileged: limits(0, 10*time.Minute, 0),
		most: []bounds{
			{section: "V-222389 and V-273203", active: 18 * time.Hour, inactivity: 15 * time.Minute, severity: Wrong},
			{section: "V-222390", inactivity: 10 * time.Minute, privileged: true, severity: Wrong},
		},
		Note: "A number of sessions has to be set; which one is our choice. The 10 minutes of administrators are below the usual floor of 15.",
	},
	{
		ID: "cis-m365-admin", Title: "CIS, administrators of Microsoft 365", Source: "CIS Microsoft 365 Foundations Benchmark, 5.2.2.4 and 1.3.2", Revision: "4.0",
		Limits: limits(4*time.Hour, 3*time.Hour, 0),
		most:   []bounds{{section: "5.2.2.4", active: 4 * time.Hour, severity: Wrong}, {section: "1.3.2", inactivity: 3 * time.Hour, severity: Wrong}},
	},
}

// Presets returns all presets.
func Presets() []Preset { return slices.Clone(presets) }

// PresetByID returns the preset with the given ID, and whether there is one.
func PresetByID(id string) (Preset, bool) {
	i := slices.IndexFunc(presets, func(p Preset) bool { return p.ID == id })
	if i < 0 {
		return Preset{}, false
	}
	return presets[i], true
}
