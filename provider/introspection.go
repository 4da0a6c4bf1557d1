package provider

import (
	"context"
	"encoding/json"
	"errors"
	"maps"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// SetIntrospectionFromToken answers for the session as well as for the token.
// op has authenticated the caller; the storage decides whether it may know.
func (c *reading) SetIntrospectionFromToken(ctx context.Context, resp *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	req, leave := c.h.enter(ctx)
	defer leave()
	if req == nil {
		return c.noHandler(ctx)
	}
	presented, _ := req.param("token")
	t, s, r, err := c.open(ctx, tokenID, subject, presented)
	if err != nil {
		if !errors.Is(err, errInactive) {
			return c.outage(ctx, req, err)
		}
		return err
	}
	if err := c.Storage.SetIntrospectionFromToken(ctx, resp, t.ID, subject, clientID); err != nil {
		// op writes the half-filled response with active:false; RFC 7662
		// section 2.2 wants nothing else in it.
		*resp = oidc.IntrospectionResponse{}
		return err
	}
	if s.ID == "" {
		return nil
	}
	if err := c.touch(ctx, s, r, t, policy.Introspection); err != nil {
		*resp = oidc.IntrospectionResponse{}
		return c.outage(ctx, req, err)
	}
	if own := oidc.FromTime(t.Expires); resp.Expiration == 0 || own < resp.Expiration {
		resp.Expiration = own
	}
	g := s.Grant(t.Grant)
	if resp.AuthTime == 0 { // RFC 9470 section 6.2
		resp.AuthTime = oidc.FromTime(g.Authenticated)
	}
	// Spliced into the answer, as in a token response: with Claims op would
	// write all members in another order. They go between members that op's own
	// clients and tests have never seen as one text.
	if _, has := resp.Claims["sid"]; has { // then op writes them so in any case
		resp.Claims = maps.Clone(resp.Claims)
		resp.Claims["sid"] = s.ID
	} else {
		req.extra, req.extraAfter = appendMember(nil, "sid", s.ID), "exp"
	}
	acr := acrOf(&s, g)
	if _, has := resp.Claims["acr"]; acr != "" && !has {
		req.extra = appendMember(req.extra, "acr", acr) // RFC 9470 section 6.2
	}
	return c.introspectActor(req, resp, &s)
}

// appendMember appends a member of a JSON object.
func appendMember(b []byte, name, value string) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // a string always encodes
	}
	return appendRaw(b, name, string(text))
}

// appendRaw is appendMember for a value that is JSON already.
func appendRaw(b []byte, name, value string) []byte {
	if b != nil {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return append(b, value...)
}

// introspectActor is the same for the answer to an introspection.
func (c *reading) introspectActor(req *request, resp *oidc.IntrospectionResponse, s *store.Session) error {
	if s.Parent == "" {
		return nil
	}
	if said := resp.Actor; said != nil {
		own := *said
		own.Claims = maps.Clone(own.Claims)
		if own.Claims == nil {
			own.Claims = map[string]any{}
		}
		own.Claims["sid"] = s.Parent
		resp.Actor = &own
		return nil
	}
	if said, ok := resp.Claims["act"]; ok {
		resp.Claims = maps.Clone(resp.Claims)
		resp.Claims["act"] = actorOf(s, said)
		return nil
	}
	act, err := json.Marshal(actorOf(s, nil))
	req.extra = appendRaw(req.extra, "act", string(act))
	return err
}
