package provider

// An announcement is a member of the discovery document, as JSON.
type announcement struct{ member, value string }

// announcements are what the hook adds to discovery: what is on, and nothing else.
func announcements(cfg Config) []announcement {
	var list []announcement
	if !cfg.NoExpirationMetadata {
		// draft-ietf-oauth-refresh-token-expiration-03 section 8
		list = append(list, announcement{"refresh_token_expiration_types_supported", `["authorization","token_timeout"]`})
	}
	if cfg.Logout.URIs != nil { // Back-Channel Logout 1.0 section 2.1
		list = append(list, announcement{"backchannel_logout_supported", "true"}, announcement{"backchannel_logout_session_supported", "true"})
	}
	if cfg.Logout.FrontChannel { // Front-Channel Logout 1.0 section 3
		list = append(list, announcement{"frontchannel_logout_supported", "true"}, announcement{"frontchannel_logout_session_supported", "true"})
	}
	return list
}
