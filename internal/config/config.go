// Package config is a node's configuration: the file kith.yaml as one plain
// struct, its defaults, and the checks that a node makes before it starts.
//
// Guarantee: a file that Load accepts names only things that kith knows, and
// an error names the line and what to write instead. It opens nothing but the
// file that it is asked to read; whether a port is free or a directory
// writable is found out by the parts that use them.
package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"kith/proto"
)

// Keys and names that --dev gives, on loopback only.
const (
	DevClient   = "demo"
	DevKey      = "demo-key"
	DevAdminKey = "dev-admin-key"
)

// Config is kith.yaml. Zero values are not the defaults: start from Default.
type Config struct {
	// Node names this node in beats, logs and metrics. It stays the same for
	// the life of the data directory.
	Node string `yaml:"node"`
	// Data is where everything is kept, unless LogDir or StoreDir moves a part
	// to another disk (log and store on one disk couple their fsyncs).
	Data     string `yaml:"data"`
	LogDir   string `yaml:"log_dir"`
	StoreDir string `yaml:"store_dir"`

	// Public is for browsers and apps, Service for servers and operators.
	Public  string `yaml:"public"`
	Service string `yaml:"service"`
	TLS     TLS    `yaml:"tls"`
	NATS    NATS   `yaml:"nats"`
	// Cluster makes this node one of several.
	Cluster Cluster `yaml:"cluster"`

	// Lanes is the number of log streams, fixed when the data directory is
	// made. Few are better: each costs its own fsyncs.
	Lanes int `yaml:"lanes"`
	// LogRetention is how long applied log entries are kept.
	LogRetention Duration `yaml:"log_retention"`
	// LogMaxBytes bounds each lane's log; half of it is kept at most. 0: derived
	// from the disk, in a cluster from that of the node that makes the log.
	LogMaxBytes int64 `yaml:"log_max_bytes"`
	// StopWait is for how long a node that is to stop says so on /readyz and goes
	// on answering, so that load balancers leave it first.
	StopWait Duration `yaml:"stop_wait"`
	// ActiveMax bounds the identity actors in memory.
	ActiveMax int `yaml:"active_max"`
	// SecretFile holds the 16-byte key of identity hashes, in hex. Empty: one
	// is made in the data directory on first start.
	SecretFile string `yaml:"secret_file"`

	Keys    []Key    `yaml:"keys"`
	Clients []Client `yaml:"clients"`
	Links   Links    `yaml:"links"`
	// Retention is for how long data are kept. All nodes of a cluster need the
	// same: the last one that starts decides.
	Retention Retention `yaml:"retention"`
	Limits    Limits    `yaml:"limits"`
	Cookies   Cookies   `yaml:"cookies"`
	Consent   Consent   `yaml:"consent"`
	Inference Inference `yaml:"inference"`
	OpenRTB   OpenRTB   `yaml:"openrtb"`

	// Dev is the --dev flag: never in a file.
	Dev bool `yaml:"-"`
}

// TLS names the files of a certificate and its key, for both planes.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// NATS is the log's server: embedded, unless URL names another.
type NATS struct {
	URL    string `yaml:"url"`
	Listen string `yaml:"listen"` // address for other programs; empty: in process only
}

// Cluster is how a node finds and trusts the others; without Listen it is
// alone. What goes between nodes is encrypted by a key from the secret that they
// have in common (secret_file), and by certificates off loopback.
type Cluster struct {
	// Name is the same on all nodes.
	Name string `yaml:"name"`
	// Listen is host:port for the others: gossip there, the log's NATS servers on
	// the next port.
	Listen string `yaml:"listen"`
	// Advertise is host:port by which the others reach the gossip at Listen, if
	// that differs: behind a translation of addresses, or with a Listen that is
	// all addresses of the machine. The log's servers go by Join.
	Advertise string `yaml:"advertise"`
	// Join are the Listen addresses of the nodes that form a new cluster, this
	// one's among them, or of any member for a node that comes later.
	Join []string `yaml:"join"`
	// LogReplicas is how many nodes keep each stream of the log. 0: 3, or all of
	// Join if they are fewer.
	LogReplicas int `yaml:"log_replicas"`
	// KeyFiles hold keys of 16 bytes or more, in hex, that nodes know one another
	// by: the first is used, all are taken. None: one from the secret_file.
	KeyFiles []string `yaml:"key_files"`
	// CA signed the certificates of all nodes; Cert and Key are this node's, for
	// the host that others name in Join.
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Key is a service key, hashed; `kith key create --offline` prints one.
type Key struct {
	SHA256 string `yaml:"sha256"`
	Role   string `yaml:"role"`
	Client string `yaml:"client"`
	// Revoked has it open nothing, whoever made it. One that is only taken out of the
	// file stays what it was.
	Revoked bool `yaml:"revoked"`
}

// Client is what the public plane must know of a client beside its keys.
type Client struct {
	Name        string `yaml:"name"`
	ProofSecret string `yaml:"proof_secret"` // for account proofs on the public plane
	// DeviceIDs says whether ids of devices are taken from whoever sends them to the
	// public plane. Empty: DeviceIDsTrust.
	DeviceIDs string `yaml:"device_ids"`
	// Origins are the web origins whose pages may read the client's answers on
	// the public plane. Empty: all, but a browser's segments are told to pages
	// of kith's own site only.
	Origins []string `yaml:"origins"`
	// HostsAllowed are the third parties that it expects on its pages: names of
	// hosts, or *.example.com for all below one.
	HostsAllowed []string `yaml:"hosts_allowed"`
	// Bots says whether events of robots are kept, and marked, or dropped. Empty:
	// BotsKeep.
	Bots string `yaml:"bots"`
	// PropertiesAllowed are the names of the properties that its events may have;
	// others are left out. Nil: all.
	PropertiesAllowed []string `yaml:"properties_allowed"`
	// Sensitive says how the list of sensitive categories holds for it.
	Sensitive Sensitive `yaml:"sensitive"`
	// LinkConfidenceMin is what an inferred link needs to be made. Nil: 0.8.
	LinkConfidenceMin *float64 `yaml:"link_confidence_min"`
	// RetentionSessions is for how long its events are kept. Zero: as
	// Retention.Sessions says.
	RetentionSessions Duration `yaml:"retention_sessions"`
	// Feed has the client be told who enters and leaves its segments. All nodes of a
	// cluster need the same, as of Retention.
	Feed bool `yaml:"feed"`
	// Limits are its own instead of those for all.
	Limits ClientLimits `yaml:"limits"`
	// OpenRTB says how its bid requests are read and filled.
	OpenRTB ClientOpenRTB `yaml:"openrtb"`
	// Consent replaces the policy that Consent has for all; what it leaves out is as
	// there.
	Consent Policy `yaml:"consent"`
	// Partners are those that it exchanges ids with.
	Partners []Partner `yaml:"partners"`
	// StatisticalIDs gives visitors without an id a statistical one.
	StatisticalIDs bool `yaml:"statistical_ids"`
	// Household infers which devices are of one household.
	Household Household `yaml:"household"`
}

// Household is from when on devices that share a network are of one household.
type Household struct {
	Days       int `yaml:"days"`       // of the last 30, on which both were there. 0: nothing is inferred
	Identities int `yaml:"identities"` // a network with more is no household's. 0: 16
}

// Rule is the household's, if it is switched on.
func (h Household) Rule() (r proto.HouseholdRule, on bool) {
	return proto.HouseholdRule{DaysMin: h.Days, IdentitiesMax: cmp.Or(h.Identities, 16)}, h != (Household{})
}

// Inference is where and how something may be inferred of visitors, for the clients
// that switched it on.
type Inference struct {
	// Never are countries where nothing is inferred, beside those of a client's opt_in.
	Never      []string `yaml:"never"`
	RotateDays int      `yaml:"rotate_days"` // for how many days a statistical id lasts
}

// What may stand in Client.DeviceIDs.
const (
	DeviceIDsTrust = "trust"
	DeviceIDsKeyed = "keyed" // they are taken with a key only
)

// What may stand in Client.Bots.
const (
	BotsKeep = "keep"
	BotsDrop = "drop"
)

// Sensitive is what of the list of sensitive categories (docs/personal-data.md)
// holds for a client; without it all does.
type Sensitive struct {
	Off    bool     `yaml:"off"`    // nothing is kept out
	Allow  []string `yaml:"allow"`  // categories that may be stored
	Except []string `yaml:"except"` // terms and ids that are not sensitive
	Also   []string `yaml:"also"`   // further ones that are
}

// ClientLimits are a client's own; 0 is as for all, or without a limit.
type ClientLimits struct {
	RateEventsMax   int `yaml:"rate_events_max"`    // per second
	EventsPerDayMax int `yaml:"events_per_day_max"` // at each node
	RateLookupsMax  int `yaml:"rate_lookups_max"`   // identities per second
	RateOptOutsMax  int `yaml:"rate_optouts_max"`   // likewise
	SegmentsMax     int `yaml:"segments_max"`       // 0: 20000
}

// ClientOpenRTB is how a client's bid requests are read and filled.
type ClientOpenRTB struct {
	Segtax int `yaml:"segtax"` // its taxonomy's number in user.data, from 500. 0: 7100
	// UserID and BuyerUID are the kinds of the identities in user.id and
	// user.buyeruid. Empty: they name nobody.
	UserID   string `yaml:"user_id"`
	BuyerUID string `yaml:"buyeruid"`
}

// Partner is one whose ids of browsers GET /v1/match takes.
type Partner struct {
	Name string `yaml:"name"` // its ids are identities partner.NAME:…
	// Redirects are where its browsers may be sent: https://host or
	// https://host/path.
	Redirects []string `yaml:"redirects"`
	// ProofSecret is the key of proofs that the partner gave an id out. Empty:
	// none is needed.
	ProofSecret string `yaml:"proof_secret"`
}

// Consent is when data may be stored and told. GPC, DNT and opt-outs are always
// heeded: there is nothing to set.
type Consent struct {
	TCFVendor int `yaml:"tcf_vendor"` // number in the TCF's list of vendors; 0: none
	// CountryHeader is set by the operator's proxy to the visitor's country, as ISO
	// 3166-1 has it. Empty: no country is known.
	CountryHeader string `yaml:"country_header"`
	// The policy for clients without one of their own, as in Policy.
	TCFPurposes []int    `yaml:"tcf_purposes"`
	OptIn       []string `yaml:"opt_in"`
	Unknown     string   `yaml:"unknown"`
}

// Policy is when one client's data may be stored and told.
type Policy struct {
	TCFPurposes []int    `yaml:"tcf_purposes"` // that a TC string must consent to where consent is needed
	OptIn       []string `yaml:"opt_in"`       // countries where consent comes first
	Unknown     string   `yaml:"unknown"`      // where the country is not known: opt-in or opt-out
}

// What may stand in Policy.Unknown.
const (
	OptIn  = "opt-in"
	OptOut = "opt-out"
)

// Policy is that of clients without one of their own.
func (c *Consent) Policy() Policy { return Policy{c.TCFPurposes, c.OptIn, c.Unknown} }

// PolicyOf is the policy for a client.
func (c *Config) PolicyOf(cl *Client) Policy {
	p := c.Consent.Policy()
	if cl.Consent.TCFPurposes != nil {
		p.TCFPurposes = cl.Consent.TCFPurposes
	}
	if cl.Consent.OptIn != nil {
		p.OptIn = cl.Consent.OptIn
	}
	p.Unknown = cmp.Or(cl.Consent.Unknown, p.Unknown)
	return p
}

// OpenRTB is what bid requests are told of this deployment.
type OpenRTB struct {
	Source string `yaml:"source"` // of user.eids, a domain. Empty: cookies.domain, or "kith"
}

// Retention is for how long data are kept; 0s is for ever.
type Retention struct {
	Sessions     Duration `yaml:"sessions"`      // events, by their time
	IdentityIdle Duration `yaml:"identity_idle"` // identities with all that is known of them, after the last event
	Aggregates   Duration `yaml:"aggregates"`    // daily totals that name nobody
	Audit        Duration `yaml:"audit"`         // lines of the audit log
}

// Links says what never joins people.
type Links struct {
	// Blocked are identities that many people share, such as a kiosk's account.
	Blocked []string `yaml:"blocked"`
}

// Limits bound what the gateway takes.
type Limits struct {
	BodyBytesMax     int      `yaml:"body_bytes_max"` // after decompression
	EventsPerBodyMax int      `yaml:"events_per_body_max"`
	MaxEventAge      Duration `yaml:"max_event_age"`
	EventAheadMax    Duration `yaml:"event_ahead_max"`
	RateEventsMax    int      `yaml:"rate_events_max"`  // per client and second; 0: no limit
	RateLookupsMax   int      `yaml:"rate_lookups_max"` // identities, likewise
	ConnectionsMax   int      `yaml:"connections_max"`  // open at once, of each plane
	RateOptOutsMax   int      `yaml:"rate_optouts_max"` // identities opted out, erased or opted in, per client and second; 0: no limit
	// RateOwnOptOutsMax is the same of browsers by themselves, of all together.
	RateOwnOptOutsMax int `yaml:"rate_own_optouts_max"`
	// AddressHeader is set by the operator's proxy to the visitor's address. Empty:
	// it is the connection's.
	AddressHeader string `yaml:"address_header"`
}

// Cookies says how the public plane sets its cookies.
type Cookies struct {
	Domain   string `yaml:"domain"`
	Insecure bool   `yaml:"insecure"` // without Secure; for tests on plain HTTP only
	// Proof has browsers get a second cookie, without which the first one is shown
	// nothing of what is held.
	Proof bool `yaml:"proof"`
}

// euAndUK are the European Economic Area, with those of its regions that have codes
// of their own, such as RE, and the United Kingdom.
func euAndUK() []string {
	return strings.Fields("AT AX BE BG CY CZ DE DK EE ES FI FR GB GF GP GR HR HU IE IS IT LI LT LU LV MF MQ MT NL NO PL PT RE RO SE SI SK YT")
}

// Default is a configuration with every default in place and no keys.
func Default() Config {
	return Config{
		Node:         "n1",
		Data:         "./kith-data",
		Public:       "127.0.0.1:8080",
		Service:      "127.0.0.1:8081",
		Cluster:      Cluster{Name: "kith", Join: []string{}, KeyFiles: []string{}},
		Lanes:        1,
		LogRetention: Duration(24 * time.Hour),
		ActiveMax:    200_000,
		Retention: Retention{
			Sessions:     Duration(730 * 24 * time.Hour),
			IdentityIdle: Duration(183 * 24 * time.Hour),
			Aggregates:   Duration(1826 * 24 * time.Hour),
			Audit:        Duration(365 * 24 * time.Hour),
		},
		Consent: Consent{
			TCFPurposes: []int{1, 3, 4},
			OptIn:       euAndUK(),
			Unknown:     OptOut,
		},
		Inference: Inference{Never: euAndUK(), RotateDays: 1},
		Limits: Limits{
			BodyBytesMax:     4 << 20,
			EventsPerBodyMax: 1000,
			MaxEventAge:      Duration(30 * 24 * time.Hour),
			EventAheadMax:    Duration(5 * time.Minute),
			ConnectionsMax:   20_000,

			RateOptOutsMax:    5_000,
			RateOwnOptOutsMax: 1_000,
		},
	}
}

// UseDev adds what --dev gives: two well-known keys and the demo client, with
// bid requests and a partner to try them out, unless the file has that client.
func (c *Config) UseDev() {
	c.Dev = true
	c.Keys = append(c.Keys,
		Key{SHA256: HashKey(DevAdminKey), Role: string(proto.RoleAdmin)},
		Key{SHA256: HashKey(DevKey), Role: string(proto.RoleClient), Client: DevClient})
	if slices.ContainsFunc(c.Clients, func(cl Client) bool { return cl.Name == DevClient }) {
		return // as the file has it
	}
	c.Clients = append(c.Clients, Client{
		Name:     DevClient,
		OpenRTB:  ClientOpenRTB{UserID: "browser", BuyerUID: "browser"},
		Partners: []Partner{{Name: DevClient, Redirects: []string{"https://partner.example"}}},
		// A newspaper's section is what people try rules with.
		Sensitive: Sensitive{Allow: []string{"politics"}},
	})
}

// HashKey is how a key stands in kith.yaml and in the log.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// Validate gives the first thing that is wrong, with what to write instead.
func (c *Config) Validate() error {
	if p := c.problem(); p != nil {
		return p.asError()
	}
	return nil
}

// NeedKeys refuses a node that nobody could query.
func (c *Config) NeedKeys() error {
	if slices.ContainsFunc(c.Keys, func(k Key) bool { return !k.Revoked }) {
		return nil
	}
	return proto.Errorf(proto.CodeInvalid, `no service keys are configured, so nobody could use this node. Either
  - try it out on this machine: kith serve --dev
  - or make an admin key with: kith key create --role admin --offline
    and put the lines that it prints into kith.yaml, then: kith serve --config kith.yaml
    ("kith config init" writes a kith.yaml to start from)`)
}

// problem is one thing wrong at a path such as $.keys[0].sha256.
type problem struct{ path, message string }

func (p *problem) name() string { return strings.TrimPrefix(p.path, "$.") }

func (p *problem) asError() *proto.Error {
	return proto.Errorf(proto.CodeInvalid, "%s: %s", p.name(), p.message)
}

func (c *Config) problem() *problem {
	checks := []func() *problem{c.checkNode, c.checkAddresses, c.checkCluster, c.checkSizes, c.checkKeys, c.checkClients, c.checkPartners, c.checkKeptOut, c.checkCookies, c.checkOutside, c.checkConsent, c.checkInference, c.checkLinks, c.checkLimits, c.checkRetention}
	for _, check := range checks {
		if p := check(); p != nil {
			return p
		}
	}
	return nil
}

func (c *Config) checkNode() *problem {
	switch {
	case !proto.ValidName(c.Node):
		return &problem{"$.node", "use 1 to 64 of A-Z a-z 0-9 _ - and dots"}
	case c.Data == "":
		return &problem{"$.data", "name a directory, such as ./kith-data"}
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return &problem{"$.tls", "name both cert and key, or neither"}
	case !natsURL(c.NATS.URL):
		return &problem{"$.nats.url", "write nats://host:port, or tls://, ws:// or wss://, several parted by commas; leave it empty for the embedded server"}
	case c.NATS.URL != "" && c.NATS.Listen != "":
		return &problem{"$.nats.listen", "only the embedded server listens: leave out url or listen"}
	}
	return nil
}

// natsURL reports whether each part of a list names a NATS server, as its client
// reads it: nats:// may be left out.
func natsURL(list string) bool {
	if list == "" {
		return true
	}
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return false
		}
	}
	return true
}

func (c *Config) checkAddresses() *problem {
	for _, a := range []struct{ path, addr string }{{"$.public", c.Public}, {"$.service", c.Service}, {"$.nats.listen", c.NATS.Listen}} {
		if a.addr == "" && a.path == "$.nats.listen" {
			continue
		}
		host, port, err := net.SplitHostPort(a.addr)
		if err != nil || port == "" {
			return &problem{a.path, "write host:port, such as 127.0.0.1:8080"}
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return &problem{a.path, "port " + port + " is none: use a number up to 65535; 0 is any that is free"}
		}
		if c.Dev && !proto.Loopback(host) {
			return &problem{a.path, "--dev has well-known keys and so is for loopback only: use 127.0.0.1, or configure keys and leave out --dev"}
		}
	}
	if c.Public == c.Service && !strings.HasSuffix(c.Public, ":0") {
		return &problem{"$.service", "the planes need an address each: service must differ from public"}
	}
	return nil
}

// ClusterPort is host:port of what listens so many ports after a node's cluster
// address: 1 is the log's NATS server.
func ClusterPort(addr string, after int) (string, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	port, err := strconv.Atoi(p)
	if err != nil || port < 1 || port+after > 65535 {
		return "", proto.Errorf(proto.CodeInvalid, "port %q is not from 1 to %d", p, 65535-after)
	}
	return net.JoinHostPort(host, strconv.Itoa(port+after)), nil
}

func (c *Config) checkCluster() *problem {
	x := &c.Cluster
	if x.Listen == "" {
		if len(x.Join) > 0 {
			return &problem{"$.cluster.listen", "name this node's own address for the others, as they name it in join"}
		}
		if x.Advertise != "" {
			return &problem{"$.cluster.advertise", "leave it out, or name listen, the address that others reach by it"}
		}
		return nil
	}
	if _, err := ClusterPort(x.Listen, 1); err != nil {
		return &problem{"$.cluster.listen", "write host:port with a port number, such as 10.0.0.1:7946; the next port is used too"}
	}
	for i, j := range x.Join {
		if _, err := ClusterPort(j, 1); err != nil {
			return &problem{fmt.Sprintf("$.cluster.join[%d]", i), "write host:port with a port number, as in that node's cluster.listen"}
		}
	}
	host, _, _ := net.SplitHostPort(x.Listen) // as ClusterPort did
	if p := checkAdvertise(host, x.Advertise); p != nil {
		return p
	}
	named := 0
	for _, f := range []string{x.CA, x.Cert, x.Key} {
		if f != "" {
			named++
		}
	}
	switch {
	case !proto.ValidNode(c.Node):
		return &problem{"$.node", "of a node of a cluster the dots stand between other characters, one at a time: it is a part of NATS subjects"}
	case !proto.ValidName(x.Name):
		return &problem{"$.cluster.name", "use 1 to 64 of A-Z a-z 0-9 _ - and dots"}
	case len(x.Join) == 0:
		return &problem{"$.cluster.join", "list the cluster addresses of all nodes of a new cluster, or one of a member to join"}
	case c.NATS.URL != "":
		return &problem{"$.cluster.listen", "nodes of a cluster keep the log themselves: leave out nats.url"}
	case c.SecretFile == "" && !c.Dev:
		return &problem{"$.secret_file", "the nodes of a cluster need one in common: make it with openssl rand -hex 16 and give it to all"}
	case named != 0 && named != 3:
		return &problem{"$.cluster", "name all of ca, cert and key, or none"}
	case named == 0 && !proto.Loopback(host):
		return &problem{"$.cluster", "nodes that talk over a network need certificates: name ca, cert and key, or listen on 127.0.0.1"}
	case x.LogReplicas < 0 || x.LogReplicas > 5:
		return &problem{"$.cluster.log_replicas", "use 1 to 5, or 0 for the default: 3, or as many as join lists"}
	}
	return nil
}

// checkAdvertise sees that others can reach what listens on host.
func checkAdvertise(host, advertise string) *problem {
	if advertise == "" {
		if proto.Unspecified(host) {
			return &problem{"$.cluster.listen", "that is all addresses of this machine: write the one that the others name in join, or name it in advertise"}
		}
		return nil
	}
	to, _, _ := net.SplitHostPort(advertise)
	if _, err := ClusterPort(advertise, 0); err != nil || proto.Unspecified(to) {
		return &problem{"$.cluster.advertise", "write the host:port by which the others reach this node, such as 203.0.113.5:7946"}
	}
	return nil
}

func (c *Config) checkSizes() *problem {
	switch {
	case c.Lanes < 1 || c.Lanes > proto.LanesMax:
		return &problem{"$.lanes", "use 1 to 64; 1 is best for one node"}
	case c.LogRetention < Duration(time.Minute):
		return &problem{"$.log_retention", "use at least 1m; the default is 24h"}
	case c.LogMaxBytes != 0 && c.LogMaxBytes < 64<<20:
		return &problem{"$.log_max_bytes", "use at least 67108864 for each lane, or 0 to derive it from the disk"}
	case c.StopWait < 0 || c.StopWait > Duration(5*time.Minute):
		return &problem{"$.stop_wait", "use 0s to 5m"}
	case c.ActiveMax < 1000:
		return &problem{"$.active_max", "use at least 1000; the default is 200000"}
	}
	return nil
}

func (c *Config) checkKeys() *problem {
	seen := map[string]Key{}
	for i, k := range c.Keys {
		if sum, err := hex.DecodeString(k.SHA256); err != nil || len(sum) != sha256.Size {
			return &problem{at("$.keys", i, "sha256"), "write the 64 hex digits of the key's SHA-256, not the key: kith key create --offline prints both"}
		}
		k.SHA256 = strings.ToLower(k.SHA256)
		if same, ok := seen[k.SHA256]; ok && same != k {
			return &problem{at("$.keys", i, "sha256"), "this key stands above for something else: keep one, or make a key for each with kith key create"}
		}
		if seen[k.SHA256] = k; k.Revoked {
			continue // whatever it was for
		}
		role, err := proto.ParseRole(k.Role)
		if err != nil {
			return &problem{at("$.keys", i, "role"), "use client, report or admin"}
		}
		if p := checkKeyClient(i, k, role); p != nil {
			return p
		}
	}
	return nil
}

func checkKeyClient(i int, k Key, role proto.Role) *problem {
	if role == proto.RoleAdmin {
		if k.Client != "" {
			return &problem{at("$.keys", i, "client"), "an admin key belongs to no client: leave client out"}
		}
		return nil
	}
	if _, err := proto.ParseClientName(k.Client); err != nil {
		return &problem{at("$.keys", i, "client"), "name the client that the key is for: 1 to 64 of A-Z a-z 0-9 _ -"}
	}
	return nil
}

func (c *Config) checkClients() *problem {
	seen := map[string]bool{}
	for i, cl := range c.Clients {
		if _, err := proto.ParseClientName(cl.Name); err != nil {
			return &problem{at("$.clients", i, "name"), "use 1 to 64 of A-Z a-z 0-9 _ -"}
		}
		if seen[cl.Name] {
			return &problem{at("$.clients", i, "name"), "client " + cl.Name + " is named twice: keep one"}
		}
		seen[cl.Name] = true
		if cl.ProofSecret != "" && len(cl.ProofSecret) < 16 {
			return &problem{at("$.clients", i, "proof_secret"), "use at least 16 characters"}
		}
		if v := cl.LinkConfidenceMin; v != nil && !(*v >= 0 && *v <= 1) {
			return &problem{at("$.clients", i, "link_confidence_min"), "use 0 to 1; the default is 0.8"}
		}
		if cl.DeviceIDs != "" && cl.DeviceIDs != DeviceIDsTrust && cl.DeviceIDs != DeviceIDsKeyed {
			return &problem{at("$.clients", i, "device_ids"), "use trust or keyed"}
		}
		if cl.Bots != "" && cl.Bots != BotsKeep && cl.Bots != BotsDrop {
			return &problem{at("$.clients", i, "bots"), "use keep or drop"}
		}
		if l := cl.Limits; l.RateEventsMax < 0 || l.EventsPerDayMax < 0 || l.RateLookupsMax < 0 || l.RateOptOutsMax < 0 || l.SegmentsMax < 0 {
			return &problem{at("$.clients", i, "limits"), "use 0 for what holds for all, or numbers"}
		}
		for j, o := range cl.Origins {
			if !validOrigin(o) {
				return &problem{at("$.clients", i, "origins["+strconv.Itoa(j)+"]"), "write an origin as browsers send it, such as https://www.example.com: https, in lower case, without path, final slash or :443"}
			}
		}
		for j, h := range cl.HostsAllowed {
			if name := strings.TrimPrefix(h, "*."); !proto.IsHost(name) {
				return &problem{at("$.clients", i, "hosts_allowed["+strconv.Itoa(j)+"]"), "write a host in lower case, such as cdn.example.com, or *.example.com for all below one"}
			}
		}
	}
	return nil
}

func (c *Config) checkPartners() *problem {
	for i, cl := range c.Clients {
		seen := map[string]bool{}
		for j, p := range cl.Partners {
			list := at("$.clients", i, "partners")
			switch {
			case !proto.ValidName(p.Name):
				return &problem{at(list, j, "name"), "use 1 to 64 of A-Z a-z 0-9 _ - and, not first, dots"}
			case seen[p.Name]:
				return &problem{at(list, j, "name"), "partner " + p.Name + " is named twice: keep one"}
			case p.ProofSecret != "" && len(p.ProofSecret) < 16:
				return &problem{at(list, j, "proof_secret"), "use at least 16 characters"}
			}
			seen[p.Name] = true
			for k, r := range p.Redirects {
				if _, err := proto.ParseRedirectPrefix(r); err != nil {
					return &problem{at(list, j, "redirects["+strconv.Itoa(k)+"]"), "write https://host or https://host/path: in lower case, without port, user, query, fragment and escapes"}
				}
			}
		}
	}
	return nil
}

// Bounds of a client's lists of what is kept out.
const (
	termsMax     = 1000
	termBytesMax = 64
)

// checkKeptOut checks what of clients' events is kept out. Whether a term can be
// looked for is found out by the gateway.
func (c *Config) checkKeptOut() *problem {
	for i, cl := range c.Clients {
		if len(cl.PropertiesAllowed) > termsMax {
			return &problem{at("$.clients", i, "properties_allowed"), "list at most 1000 names"}
		}
		for j, p := range cl.PropertiesAllowed {
			if p == "" || len(p) > proto.PropKeyBytesMax {
				return &problem{at("$.clients", i, "properties_allowed["+strconv.Itoa(j)+"]"), "write a property's name, 1 to 64 bytes"}
			}
		}
		for j, name := range cl.Sensitive.Allow {
			if !slices.Contains(proto.SensitiveCategories[:], name) {
				return &problem{at("$.clients", i, "sensitive.allow["+strconv.Itoa(j)+"]"), "use one of " + strings.Join(proto.SensitiveCategories[:], ", ")}
			}
		}
		for _, l := range []struct {
			field string
			list  []string
		}{{"sensitive.except", cl.Sensitive.Except}, {"sensitive.also", cl.Sensitive.Also}} {
			if len(l.list) > termsMax {
				return &problem{at("$.clients", i, l.field), "list at most 1000 terms"}
			}
			for j, t := range l.list {
				if strings.TrimSpace(t) == "" || len(t) > termBytesMax {
					return &problem{at("$.clients", i, l.field+"["+strconv.Itoa(j)+"]"), "write one or more words, such as \"payday loan*\", or an id such as iab-content:386, up to 64 bytes"}
				}
			}
		}
	}
	return nil
}

// checkCookies sees that browsers take cookies of the domain. net/http leaves one out
// that it does not know, and browsers the whole cookie.
func (c *Config) checkCookies() *problem {
	c.Cookies.Domain = strings.ToLower(c.Cookies.Domain) // as browsers take it
	domain := strings.TrimPrefix(c.Cookies.Domain, ".")
	if c.Cookies.Domain == "" {
		return nil
	}
	cookie := http.Cookie{Name: "x", Domain: c.Cookies.Domain}
	top, listed := publicsuffix.PublicSuffix(domain)
	_, err := netip.ParseAddr(domain)
	if cookie.Valid() != nil || top == domain && (listed || strings.Contains(top, ".")) && err != nil {
		return &problem{"$.cookies.domain", "write a domain of yours, such as example.com, without https://, port and path, and not one that others register names under; empty: the host itself"}
	}
	return nil
}

// checkOutside checks what bid requests are told and read by.
func (c *Config) checkOutside() *problem {
	switch s := c.OpenRTB.Source; {
	case len(s) > 253 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "":
		return &problem{"$.openrtb.source", "write a domain of yours in lower case, such as kith.example.com"}
	case c.Consent.TCFVendor < 0 || c.Consent.TCFVendor > 1<<16-1:
		return &problem{"$.consent.tcf_vendor", "write your number in the TCF's list of vendors, or 0 if you have none"}
	}
	for i, cl := range c.Clients {
		o := cl.OpenRTB
		if o.Segtax != 0 && (o.Segtax < 500 || o.Segtax > 1<<31-1) {
			return &problem{at("$.clients", i, "openrtb.segtax"), "use a number of the vendors' range, from 500; the default is 7100"}
		}
		for _, f := range []struct{ field, kind string }{{"user_id", o.UserID}, {"buyeruid", o.BuyerUID}} {
			if f.kind != "" && !proto.ValidKind(f.kind) {
				return &problem{at("$.clients", i, "openrtb."+f.field), "use browser, aaid, idfa, account, stat or partner.NAME, or leave it out"}
			}
		}
	}
	return nil
}

// headerName reports whether s may name a header, or is empty.
func headerName(s string) bool {
	return len(s) <= 64 && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

func (c *Config) checkConsent() *problem {
	if !headerName(c.Consent.CountryHeader) {
		return &problem{"$.consent.country_header", "write the name of a header that your proxy sets, such as CF-IPCountry, or leave it empty"}
	}
	general := c.Consent.Policy()
	if p := general.problem("$.consent"); p != nil {
		return p
	}
	for i, cl := range c.Clients {
		if p := cl.Consent.problem(at("$.clients", i, "consent")); p != nil {
			return p
		}
	}
	return nil
}

// checkInference checks what may be inferred, where, and for whom.
func (c *Config) checkInference() *problem {
	x := c.Inference
	if p := (&Policy{OptIn: x.Never}).problem("$.inference"); p != nil {
		return &problem{strings.Replace(p.path, "opt_in", "never", 1), p.message}
	}
	switch {
	case x.RotateDays < 1 || x.RotateDays > 7:
		return &problem{"$.inference.rotate_days", "use 1 to 7"}
	}
	for i, cl := range c.Clients {
		rule, household := cl.Household.Rule()
		switch {
		case household && (rule.DaysMin < proto.HouseholdDaysLeast || rule.DaysMin > proto.HouseholdDays):
			return &problem{at("$.clients", i, "household.days"), fmt.Sprintf("use %d to %d, or leave household out", proto.HouseholdDaysLeast, proto.HouseholdDays)}
		case household && rule.Validate() != nil:
			return &problem{at("$.clients", i, "household.identities"), fmt.Sprintf("use 2 to %d", proto.HouseholdIdentitiesMax)}
		case household && c.Consent.CountryHeader == "":
			return &problem{at("$.clients", i, "household"), "name consent.country_header first: nothing is inferred of visitors whose country is not known"}
		case cl.StatisticalIDs && c.Consent.CountryHeader == "":
			return &problem{at("$.clients", i, "statistical_ids"), "name consent.country_header first: nothing is inferred of visitors whose country is not known"}
		}
	}
	return nil
}

func (x *Policy) problem(path string) *problem {
	for i, n := range x.TCFPurposes {
		if n < 1 || n > 24 {
			return &problem{path + ".tcf_purposes[" + strconv.Itoa(i) + "]", "write the number of a purpose of the TCF, 1 to 24"}
		}
	}
	if x.TCFPurposes != nil && !slices.Contains(x.TCFPurposes, 1) {
		return &problem{path + ".tcf_purposes", "add 1: kith stores an id in the browser, which needs that purpose"}
	}
	for i, country := range x.OptIn {
		if country == "" || proto.CountryOf(country) != country {
			return &problem{path + ".opt_in[" + strconv.Itoa(i) + "]", "write a country as the two capital letters of ISO 3166-1, such as GB, in quotes where YAML would take it for another word, such as \"NO\""}
		}
	}
	if x.Unknown != "" && x.Unknown != OptIn && x.Unknown != OptOut {
		return &problem{path + ".unknown", "use opt-in or opt-out"}
	}
	return nil
}

func (c *Config) checkRetention() *problem {
	least := "use 0s for ever, or at least limits.max_event_age, " + c.Limits.MaxEventAge.String() + ": events may be as old when they come"
	if r := c.Retention.Sessions; r != 0 && r < c.Limits.MaxEventAge {
		return &problem{"$.retention.sessions", least}
	}
	if r := c.Retention.IdentityIdle; r != 0 && r < Duration(24*time.Hour) {
		return &problem{"$.retention.identity_idle", "use 0s for ever, or at least 1d; the default is 183d"}
	}
	if r := c.Retention.Aggregates; r != 0 && r < Duration(24*time.Hour) {
		return &problem{"$.retention.aggregates", "use 0s for ever, or at least 1d; the default is 1826d"}
	}
	if r := c.Retention.Audit; r != 0 && r < Duration(24*time.Hour) {
		return &problem{"$.retention.audit", "use 0s for as long as there is room, or at least 1d; the default is 365d"}
	}
	for i, cl := range c.Clients {
		if r := cl.RetentionSessions; r != 0 && r < c.Limits.MaxEventAge {
			return &problem{at("$.clients", i, "retention_sessions"), "leave it out for the default, or " + strings.TrimPrefix(least, "use 0s for ever, or ")}
		}
	}
	return nil
}

func (c *Config) checkLinks() *problem {
	for i, id := range c.Links.Blocked {
		if _, err := proto.ParseIdentity(id); err != nil {
			return &problem{"$.links.blocked[" + strconv.Itoa(i) + "]", "write kind:value in quotes, such as \"account:kiosk-1\", and leave out what names nobody (null, zeros): that is blocked anyway"}
		}
	}
	return nil
}

// validOrigin reports whether o is an https origin in the very bytes that a
// browser sends: it is compared as it stands.
func validOrigin(o string) bool {
	host, ok := strings.CutPrefix(o, "https://")
	if !ok {
		return false
	}
	u, err := url.Parse(o)
	if err != nil || u.Host != host {
		return false
	}
	name := u.Hostname()
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || n == 443 || port[0] == '0' {
			return false
		}
	} else if strings.HasSuffix(host, ":") {
		return false
	}
	if strings.HasPrefix(host, "[") {
		ip, err := netip.ParseAddr(name)
		return err == nil && ip.Is6() && ip.Zone() == "" && ip.String() == name
	}
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" &&
		!strings.HasPrefix(name, ".") && !strings.Contains(name, "..")
}

func (c *Config) checkLimits() *problem {
	l := c.Limits
	switch {
	case l.BodyBytesMax < 1024 || l.BodyBytesMax > 64<<20:
		return &problem{"$.limits.body_bytes_max", "use 1024 to 67108864 (64 MiB)"}
	case l.EventsPerBodyMax < 1 || l.EventsPerBodyMax > proto.EntryCommandsMax:
		return &problem{"$.limits.events_per_body_max", "use 1 to " + strconv.Itoa(proto.EntryCommandsMax)}
	case l.MaxEventAge < Duration(time.Minute):
		return &problem{"$.limits.max_event_age", "use at least 1m; the default is 30d"}
	case l.EventAheadMax < 0 || l.EventAheadMax > Duration(time.Hour):
		return &problem{"$.limits.event_ahead_max", "use 0s to 1h; the default is 5m"}
	case l.ConnectionsMax < 100 || l.ConnectionsMax > 1_000_000:
		return &problem{"$.limits.connections_max", "use 100 to 1000000, and less than the files that the process may open; the default is 20000"}
	case l.RateLookupsMax < 0:
		return &problem{"$.limits.rate_lookups_max", "use 0 for no limit, or a number of identities per second"}
	case l.RateOptOutsMax < 0:
		return &problem{"$.limits.rate_optouts_max", "use 0 for no limit, or a number of identities per second; the default is 5000"}
	case l.RateOwnOptOutsMax < 0:
		return &problem{"$.limits.rate_own_optouts_max", "use 0 for no limit, or a number of browsers per second; the default is 1000"}
	case !headerName(l.AddressHeader):
		return &problem{"$.limits.address_header", "name a header that your proxy sets, such as X-Real-IP, or leave it empty"}
	case l.RateEventsMax < 0:
		return &problem{"$.limits.rate_events_max", "use 0 for no limit, or a number of events per second"}
	}
	return nil
}
