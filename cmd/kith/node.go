package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"kith/engine"
	"kith/engine/log"
	"kith/gateway"
	"kith/internal/config"
	"kith/internal/cores"
	"kith/proto"
)

// node is what serve needs of the engine, beside its parts for the gateway.
type node interface {
	gateway.Intake
	gateway.Memberships
	gateway.Definitions
	gateway.Audiences
	gateway.SavedAudiences
	gateway.Campaigns
	gateway.Accounts
	gateway.Holdings
	gateway.Operations
	gateway.Cluster
	gateway.Others
	gateway.Graph
	gateway.OptOuts
	gateway.Exports
	gateway.Imports
	gateway.Feeds
	gateway.Rules
	gateway.Audit
	Leave()
	Now() time.Time
	Close() error
	Conn() *nats.Conn
	Collector() prometheus.Collector
	PseudonymKey() []byte
}

func openNode(ctx context.Context, c config.Config, members *members, rebaseLog bool, logger *slog.Logger) (node, gateway.Maintenance, error) {
	ec, err := engineConfig(c, logger)
	if err != nil {
		return nil, nil, err
	}
	ec.RebaseLog = rebaseLog
	if err := members.configure(&ec); err != nil {
		return nil, nil, err
	}
	var door natsDoor
	ec.NATSAuthorize = door.admit
	n, err := engine.Open(ctx, ec)
	if err != nil {
		return nil, nil, err
	}
	door.node.Store(n)
	return n, maintenance{n}, nil
}

// natsDoor admits programs that connect to the embedded NATS with a service
// key as token or password. Nobody is admitted before the node is open.
type natsDoor struct{ node atomic.Pointer[engine.Node] }

func (d *natsDoor) admit(c log.Credentials) (log.Grant, bool) {
	n := d.node.Load()
	if n == nil {
		return log.Grant{}, false
	}
	key := cmp.Or(c.Token, c.Password)
	who, ok := n.Authenticate(key)
	if !ok {
		return log.Grant{}, false
	}
	g := grantOf(who)
	g.Holds = func() bool {
		now, ok := n.Authenticate(key)
		return ok && now == who
	}
	return g, true
}

// grantOf is what a key opens of NATS. No client can have the admins' name or that of
// report keys, whose connections take no room from those of their client's own keys.
func grantOf(who proto.Principal) log.Grant {
	g := log.Grant{Name: string(cmp.Or(who.Client, "(admin)")), Publish: []string{"kith.query.*"}, Subscribe: []string{inboxOf(who)}}
	switch who.Role {
	case proto.RoleAdmin:
		// The NATS client answers $SRV by itself, to whatever reply subject is
		// named, the log's too: for those only who may do anything anyway.
		g.Publish = append(g.Publish, "kith.in.*", "kith.optout", "$SRV.>")
		g.Subscribe = append(g.Subscribe, "kith.out.>")
	case proto.RoleClient:
		g.Publish = append(g.Publish, "kith.in."+string(who.Client), "kith.optout")
		g.Subscribe = append(g.Subscribe, "kith.out.optouts", "kith.out.segments."+string(who.Client))
	case proto.RoleReport:
		g.Name, g.Few = g.Name+" (report)", true
	}
	return g
}

// inboxOf is where a network client may take answers. A client has a prefix of
// its own (nats.CustomInboxPrefix, nats --inbox-prefix): with the common one
// it could read the answers that others get.
func inboxOf(who proto.Principal) string {
	if who.Role == proto.RoleAdmin {
		return "_INBOX.>"
	}
	return "_INBOX_" + string(who.Client) + ".>"
}

// maintenance gives the gateway the engine's slow work.
type maintenance struct{ n *engine.Node }

// Backup implements gateway.Maintenance.
func (m maintenance) Backup(ctx context.Context, w io.Writer) error { return m.n.Backup(ctx, w) }

// Verify implements gateway.Maintenance.
func (m maintenance) Verify(ctx context.Context) (any, error) { return m.n.Verify(ctx) }

// segmentsMaxOf is how many segments clients may have that may not have as many as all.
func segmentsMaxOf(c config.Config) map[proto.ClientName]int {
	most := map[proto.ClientName]int{}
	for _, cl := range c.Clients {
		most[proto.ClientName(cl.Name)] = cl.Limits.SegmentsMax
	}
	return most
}

func retentionOf(c config.Config) *engine.RetentionConfig {
	r := &engine.RetentionConfig{
		Sessions: time.Duration(c.Retention.Sessions), Idle: time.Duration(c.Retention.IdentityIdle),
		Aggregates: time.Duration(c.Retention.Aggregates),
		Clients:    map[proto.ClientName]time.Duration{},
	}
	for _, cl := range c.Clients {
		r.Clients[proto.ClientName(cl.Name)] = time.Duration(cl.RetentionSessions)
	}
	return r
}

func feedsOf(c config.Config) *engine.FeedConfig {
	f := &engine.FeedConfig{Clients: map[proto.ClientName]bool{}}
	for _, cl := range c.Clients {
		f.Clients[proto.ClientName(cl.Name)] = cl.Feed
	}
	return f
}

func engineConfig(c config.Config, logger *slog.Logger) (engine.Config, error) {
	secret, err := readSecret(c.SecretFile)
	if err != nil {
		return engine.Config{}, err
	}
	ec := engine.Config{
		Dir: c.Data, LogDir: c.LogDir, StoreDir: c.StoreDir, Node: c.Node, Lanes: c.Lanes,
		NATSURL: c.NATS.URL, NATSListen: c.NATS.Listen,
		LogRetention: time.Duration(c.LogRetention), LogBytesMax: c.LogMaxBytes, ActiveMax: c.ActiveMax, HashSecret: secret, Logger: logger,
		Retention: retentionOf(c), SegmentsMax: segmentsMaxOf(c), Feeds: feedsOf(c), AuditRetention: time.Duration(c.Retention.Audit),
	}
	for _, k := range c.Keys {
		var sum [32]byte
		if _, err := hex.Decode(sum[:], []byte(k.SHA256)); err != nil {
			return engine.Config{}, proto.Errorf(proto.CodeInvalid, "a key's sha256 is not 64 hex digits: %w", err)
		}
		if k.Revoked {
			ec.RevokedKeys = append(ec.RevokedKeys, sum)
			continue
		}
		if proto.Role(k.Role) == proto.RoleAdmin {
			ec.AdminKeys = append(ec.AdminKeys, sum)
			continue
		}
		ec.Boot = append(ec.Boot, engine.BootKey{Client: proto.ClientName(k.Client), Role: proto.Role(k.Role), SHA256: sum})
	}
	return ec, nil
}

// readSecret reads the key of identity hashes, if a file is named.
func readSecret(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot read secret_file: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(secret) != 16 {
		return nil, proto.Errorf(proto.CodeInvalid, "secret_file %s does not hold 32 hex digits: make one with `openssl rand -hex 16`", file)
	}
	return secret, nil
}

func consentPolicy(p config.Policy) gateway.ConsentPolicy {
	return gateway.ConsentPolicy{Purposes: p.TCFPurposes, OptIn: p.OptIn, OptInUnknown: p.Unknown == config.OptIn}
}

// optOutsBesideLookups is as many as take about a tenth of each core (some 200 us
// each), without a limit where keys have none.
func optOutsBesideLookups(c config.Config) float64 {
	if c.Limits.RateOptOutsMax == 0 {
		return 0
	}
	return 500 * float64(cores.Count())
}

func gatewayConfig(c config.Config) gateway.Config {
	g := gateway.Config{
		LinkConfidenceMin: map[proto.ClientName]float64{},
		BodyBytesMax:      c.Limits.BodyBytesMax, EventsMax: c.Limits.EventsPerBodyMax,
		EventAgeMax: time.Duration(c.Limits.MaxEventAge), EventAheadMax: max(time.Duration(c.Limits.EventAheadMax), 1), // it takes 0 for its default, and less than a millisecond for none
		EventsPerSecond: float64(c.Limits.RateEventsMax), LookupsPerSecond: float64(c.Limits.RateLookupsMax), OptOutsPerSecond: float64(c.Limits.RateOptOutsMax),
		OwnOptOutsPerSecond: float64(c.Limits.RateOwnOptOutsMax), OptOutsBesideLookups: optOutsBesideLookups(c), AddressHeader: c.Limits.AddressHeader, Quotas: map[proto.ClientName]gateway.Quota{},
		CookieDomain: c.Cookies.Domain, CookieInsecure: c.Cookies.Insecure, CookieProof: c.Cookies.Proof,
		Secrets: map[proto.ClientName][]byte{}, Origins: map[proto.ClientName][]string{}, HostsAllowed: map[proto.ClientName][]string{}, Dev: c.Dev, Version: version,
		Sensitive: map[proto.ClientName]gateway.Sensitive{}, PropertiesAllowed: map[proto.ClientName][]string{},
		EIDSource: c.OpenRTB.Source, TCFVendor: c.Consent.TCFVendor, CountryHeader: c.Consent.CountryHeader,
		Consent: consentPolicy(c.Consent.Policy()), ConsentOf: map[proto.ClientName]gateway.ConsentPolicy{},
		Inference:  gateway.Inference{Never: c.Inference.Never, RotateDays: c.Inference.RotateDays},
		Households: map[proto.ClientName]proto.HouseholdRule{},
		OpenRTB:    map[proto.ClientName]gateway.OpenRTB{}, Partners: map[proto.ClientName][]gateway.Partner{},
	}
	for _, id := range c.Links.Blocked {
		g.Blocked = append(g.Blocked, proto.Identity(id))
	}
	for _, cl := range c.Clients {
		g.ConsentOf[proto.ClientName(cl.Name)] = consentPolicy(c.PolicyOf(&cl))
		if cl.LinkConfidenceMin != nil {
			g.LinkConfidenceMin[proto.ClientName(cl.Name)] = *cl.LinkConfidenceMin
		}
		if cl.ProofSecret != "" {
			g.Secrets[proto.ClientName(cl.Name)] = []byte(cl.ProofSecret)
		}
		if len(cl.Origins) > 0 {
			g.Origins[proto.ClientName(cl.Name)] = cl.Origins
		}
		if cl.DeviceIDs == config.DeviceIDsKeyed {
			g.DevicesKeyed = append(g.DevicesKeyed, proto.ClientName(cl.Name))
		}
		if cl.Bots == config.BotsDrop {
			g.BotsDropped = append(g.BotsDropped, proto.ClientName(cl.Name))
		}
		g.HostsAllowed[proto.ClientName(cl.Name)] = cl.HostsAllowed
		if cl.StatisticalIDs {
			g.Statistical = append(g.Statistical, proto.ClientName(cl.Name))
		}
		if rule, on := cl.Household.Rule(); on {
			g.Households[proto.ClientName(cl.Name)] = rule
		}
		g.PropertiesAllowed[proto.ClientName(cl.Name)] = cl.PropertiesAllowed
		g.Sensitive[proto.ClientName(cl.Name)] = gateway.Sensitive{Off: cl.Sensitive.Off, Allow: cl.Sensitive.Allow, Except: cl.Sensitive.Except, Also: cl.Sensitive.Also}
		if l := cl.Limits; l != (config.ClientLimits{}) {
			g.Quotas[proto.ClientName(cl.Name)] = gateway.Quota{EventsPerSecond: float64(l.RateEventsMax), EventsPerDay: l.EventsPerDayMax, LookupsPerSecond: float64(l.RateLookupsMax), OptOutsPerSecond: float64(l.RateOptOutsMax)}
		}
		g.OpenRTB[proto.ClientName(cl.Name)] = gateway.OpenRTB{Segtax: cl.OpenRTB.Segtax, UserID: cl.OpenRTB.UserID, BuyerUID: cl.OpenRTB.BuyerUID}
		for _, p := range cl.Partners {
			g.Partners[proto.ClientName(cl.Name)] = append(g.Partners[proto.ClientName(cl.Name)], gateway.Partner{Name: p.Name, Redirects: p.Redirects, Secret: []byte(p.ProofSecret)})
		}
	}
	return g
}

func newGateway(c config.Config, n node, members *members, m gateway.Maintenance, logger *slog.Logger) (*gateway.Gateway, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.Collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	members.tell(registry)
	gc := gatewayConfig(c)
	gc.PseudonymKey, gc.Now = n.PseudonymKey(), n.Now
	d := gateway.Dependencies{
		Intake: n, Memberships: n, Definitions: n, Audiences: n, Saved: n, Campaigns: n, Accounts: n, Holdings: n, Operations: n, Graph: n, OptOuts: n, Maintenance: m, Exports: n, Imports: n, Cluster: n, Feeds: n, Audit: n, Rules: n,
		Registry: registry, Log: logger,
	}
	if members != nil {
		d.Others = n
	}
	return gateway.New(gc, d)
}
