package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/engine/log"
	"kith/internal/config"
	"kith/proto"
)

func TestNATSGrants(t *testing.T) {
	for role, want := range map[proto.Role]log.Grant{
		proto.RoleAdmin: {
			Name: "admin", Publish: []string{"kith.query.*", "kith.in.*", "kith.optout", "$SRV.>"},
			Subscribe: []string{"_INBOX.>", "kith.out.>"},
		},
		proto.RoleClient: {
			Name: "acme", Publish: []string{"kith.query.*", "kith.in.acme", "kith.optout"},
			Subscribe: []string{"_INBOX_acme.>", "kith.out.optouts", "kith.out.segments.acme"},
		},
		proto.RoleReport: {Name: "acme", Publish: []string{"kith.query.*"}, Subscribe: []string{"_INBOX_acme.>"}},
	} {
		who := proto.Principal{Role: role, Client: "acme"}
		if role == proto.RoleAdmin {
			who.Client = ""
		}
		if d := cmp.Diff(want, grantOf(who)); d != "" {
			t.Errorf("%s: %s", role, d)
		}
	}
}

func TestGatewayConfigOfClients(t *testing.T) {
	c, err := config.Parse([]byte("clients:\n  - {name: a, link_confidence_min: 0, bots: keep}\n  - {name: b, bots: drop}\nlinks: {blocked: [\"account:kiosk-1\"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	g := gatewayConfig(c)
	if d := cmp.Diff(map[proto.ClientName]float64{"a": 0}, g.LinkConfidenceMin); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]proto.ClientName{"b"}, g.BotsDropped); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]proto.Identity{"account:kiosk-1"}, g.Blocked); d != "" {
		t.Error(d)
	}
}
