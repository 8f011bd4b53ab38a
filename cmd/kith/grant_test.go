package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"kith/engine/log"
	"kith/internal/config"
	"kith/internal/porttest"
	"kith/proto"
)

func TestNATSGrants(t *testing.T) {
	for role, want := range map[proto.Role]log.Grant{
		proto.RoleAdmin: {
			Name: "(admin)", Publish: []string{"kith.query.*", "kith.in.*", "kith.optout", "$SRV.>"},
			Subscribe: []string{"_INBOX.>", "kith.out.>"},
		},
		proto.RoleClient: {
			Name: "acme", Publish: []string{"kith.query.*", "kith.in.acme", "kith.optout"},
			Subscribe: []string{"_INBOX_acme.>", "kith.out.optouts", "kith.out.segments.acme"},
		},
		proto.RoleReport: {Name: "acme (report)", Few: true, Publish: []string{"kith.query.*"}, Subscribe: []string{"_INBOX_acme.>"}},
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

// A client's program gets answers under the prefix that docs/api.md names, and with
// the common one is told that it may not listen there.
func TestNATSInbox(t *testing.T) {
	listen := porttest.Free(t)
	campaignNode(t, t.TempDir(), listen)
	ask := func(inbox string) (*nats.Msg, error) {
		t.Helper()
		ctx, refuse := context.WithCancelCause(t.Context())
		nc, err := nats.Connect("nats://"+listen, nats.Token(config.DevKey), nats.CustomInboxPrefix(inbox),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refuse(err) }))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		m := nats.NewMsg("kith.query.lookup")
		m.Header.Set("Authorization", "Bearer "+config.DevKey)
		m.Data = []byte(`{"identities":["browser:abc"]}`)
		if m, err = nc.RequestMsgWithContext(ctx, m); err != nil {
			err = context.Cause(ctx)
		}
		return m, err
	}
	if m, err := ask("_INBOX_demo"); err != nil || !strings.Contains(string(m.Data), `"identity":"browser:abc"`) {
		t.Fatalf("with the client's own prefix: %+v %v", m, err)
	}
	for _, inbox := range []string{strings.TrimSuffix(nats.InboxPrefix, "."), "_INBOX_acme"} {
		if m, err := ask(inbox); err == nil || !strings.Contains(err.Error(), "Permissions Violation for Subscription") {
			t.Errorf("%s: %+v %v", inbox, m, err)
		}
	}
}

// A client that ended hears nothing more: neither its connections nor its key are
// let in to what the next client of its name is told.
func TestNATSEndsWithTheClient(t *testing.T) {
	listen := porttest.Free(t)
	n := campaignNode(t, t.TempDir(), listen)
	nc, err := nats.Connect("nats://"+listen, nats.Token(config.DevKey), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	admin, err := nats.Connect("nats://"+listen, nats.Token(config.DevAdminKey), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if code, out, errs := command(t, strings.TrimPrefix(n.service, "http://"), "", "client", "erase", "demo", "--yes", "--key", config.DevAdminKey); code != 0 {
		t.Fatal(out, errs)
	}
	for deadline := time.Now().Add(10 * time.Second); nc.IsConnected(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the connection of a client that ended stays")
		}
	}
	if _, err := nats.Connect("nats://"+listen, nats.Token(config.DevKey)); err == nil {
		t.Error("the key of a client that ended is let in")
	}
	if err := admin.Flush(); err != nil {
		t.Errorf("another key's connection ended too: %v", err)
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
