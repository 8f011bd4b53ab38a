package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/internal/config"
	"kith/proto"
)

// The template is what users start from: it must hold the defaults and
// nothing else.
func TestTemplateIsTheDefaults(t *testing.T) {
	got, err := config.Parse([]byte(config.Template))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Keys, want.Clients, want.Links.Blocked = []config.Key{}, []config.Client{}, []string{}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("template differs from Default (-want +got):\n%s", d)
	}
}

func TestParseNamesLineAndFix(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	tests := []struct {
		name, text string
		line       int
		want       string
	}{
		{"unknown field", "node: n1\npubilc: 127.0.0.1:1\n", 2, `unknown field "pubilc": did you mean "public"?`},
		{"unknown far field", "node: n1\n\nwhatever: 1\n", 3, "kith config init"},
		{"unknown nested", "limits:\n  body_max: 1\n", 2, `unknown field "body_max"`},
		{"not yaml", "node: n1\nkeys: [\n", 0, ""},
		{"wrong type", "node: n1\nlanes: many\n", 2, "lanes"},
		{"bad duration", "node: n1\n\nlog_retention: soon\n", 3, "write 90s"},
		{"lanes", "lanes: 65\n", 1, "use 1 to 64"},
		{"address", "node: a\npublic: localhost\n", 2, "write host:port"},
		{"no port", "node: a\npublic: 0.0.0.0:99999\n", 2, "port 99999 is none"},
		{"port by name", "service: localhost:http\n", 1, "port http is none"},
		{"no NATS server", "nats:\n  url: http://x\n", 2, "write nats://"},
		{"NATS servers, one of them nowhere", "nats:\n  url: 127.0.0.1:4222,nats://\n", 2, "write nats://"},
		{"same address", "public: 127.0.0.1:1\nservice: 127.0.0.1:1\n", 2, "must differ"},
		{"key in clear", "keys:\n  - sha256: my-key\n    role: admin\n", 2, "not the key"},
		{"role", "keys:\n  - sha256: " + sum + "\n    role: root\n", 3, "client, report or admin"},
		{"key without client", "keys:\n  - sha256: " + sum + "\n    role: client\n", 2, "name the client"},
		{"admin with client", "keys:\n  - sha256: " + sum + "\n    role: admin\n    client: a\n", 4, "belongs to no client"},
		{"a key for two", "keys:\n  - {sha256: " + sum + ", role: client, client: a}\n  - {sha256: " + strings.ToUpper(sum) + ", role: client, client: b}\n", 3, "stands above for something else"},
		{"a key of two roles", "keys:\n  - {sha256: " + sum + ", role: client, client: a}\n  - {sha256: " + sum + ", role: admin}\n", 3, "stands above for something else"},
		{"a key that is revoked and not", "keys:\n  - {sha256: " + sum + ", role: admin}\n  - {sha256: " + sum + ", revoked: true}\n", 3, "stands above for something else"},
		{"client twice", "clients:\n  - name: a\n  - name: a\n", 3, "named twice"},
		{"dotted client", "clients:\n  - name: a.b\n", 2, "A-Z"},
		{"half tls", "tls:\n  cert: a.pem\n", 2, "both cert and key"},
		{"short secret", "clients:\n  - name: a\n    proof_secret: x\n", 3, "16 characters"},
		{"unknown client field", "clients:\n  - name: a\n    origin: [https://a.example]\n", 3, `did you mean "origins"?`},
		{"origins no list", "clients:\n  - name: a\n    origins: 5\n", 3, ""},
		{"origin with path", "clients:\n  - name: a\n    origins:\n      - https://a.example\n      - https://b.example/\n", 5, "without path"},
		{"confidence", "clients:\n  - name: a\n    link_confidence_min: 1.5\n", 3, "use 0 to 1"},
		{"events kept too briefly", "retention:\n  sessions: 20d\n", 2, "720h0m0s"},
		{"a client's events kept too briefly", "clients:\n  - name: a\n    retention_sessions: 1h\n", 3, "leave it out"},
		{"identities kept too briefly", "retention:\n  identity_idle: 1h\n", 2, "at least 1d"},
		{"months", "retention:\n  sessions: 24 months\n", 2, "is not a duration"},
		{"ids of devices", "clients:\n  - name: a\n    device_ids: proof\n", 3, "use trust or keyed"},
		{"bots", "clients:\n  - name: a\n    bots: mark\n", 3, "use keep or drop"},
		{"negative confidence", "clients:\n  - name: a\n    link_confidence_min: -0.1\n", 3, "use 0 to 1"},
		{"no confidence", "clients:\n  - name: a\n    link_confidence_min: .nan\n", 3, "use 0 to 1"},
		{"confidence in words", "clients:\n  - name: a\n    link_confidence_min: high\n", 3, "number"},
		{"no sensitive category", "clients:\n  - name: a\n    sensitive:\n      allow:\n        - politics\n        - news\n", 6, "use one of health"},
		{"an empty term", "clients:\n  - name: a\n    sensitive:\n      also: [\" \"]\n", 4, "one or more words"},
		{"a property without a name", "clients:\n  - name: a\n    properties_allowed: [a, \"\"]\n", 3, "1 to 64 bytes"},
		{"blocked without kind", "links:\n  blocked:\n    - account:kiosk-1\n    - kiosk-1\n", 4, "kind:value"},
		{"blocked anyway", "links: {blocked: [\"account:null\"]}\n", 1, "blocked anyway"},
		{"unknown link field", "links:\n  block: []\n", 2, `unknown field "block"`},
		{"partner without a name", "clients:\n  - name: a\n    partners:\n      - name: \"\"\n", 4, "A-Z"},
		{"partner twice", "clients:\n  - name: a\n    partners:\n      - name: x\n      - name: x\n", 5, "named twice"},
		{"short secret of a partner", "clients:\n  - name: a\n    partners:\n      - name: x\n        proof_secret: y\n", 5, "16 characters"},
		{"redirect over http", "clients:\n  - name: a\n    partners:\n      - name: x\n        redirects:\n          - https://x.example\n          - http://x.example/\n", 7, "write https://host"},
		{"redirect with a port", "clients:\n  - name: a\n    partners: [{name: x, redirects: [\"https://x.example:443/\"]}]\n", 3, "without port"},
		{"unknown partner field", "clients:\n  - name: a\n    partners:\n      - name: x\n        redirect: [https://x.example]\n", 5, `did you mean "redirects"?`},
		{"standard taxonomy", "clients:\n  - name: a\n    openrtb:\n      segtax: 4\n", 4, "from 500"},
		{"kind of user.id", "clients:\n  - name: a\n    openrtb:\n      user_id: device\n", 4, "partner.NAME"},
		{"kind of buyeruid", "clients:\n  - name: a\n    openrtb: {segtax: 500, buyeruid: partner.}\n", 3, "partner.NAME"},
		{"vendor", "consent:\n  tcf_vendor: 65536\n", 2, "list of vendors"},
		{"GPC is always heeded", "consent:\n  gpc: ignore\n", 2, `unknown field "gpc"`},
		{"DNT is always heeded", "clients:\n  - name: a\n    consent:\n      dnt: ignore\n", 4, `unknown field "dnt"`},
		{"purpose", "consent:\n  tcf_purposes:\n    - 1\n    - 25\n", 4, "1 to 24"},
		{"without purpose 1", "consent: {tcf_purposes: [3, 4]}\n", 1, "add 1"},
		{"a client without purpose 1", "clients:\n  - name: a\n    consent:\n      tcf_purposes: []\n", 4, "add 1"},
		{"country in words", "consent:\n  opt_in: [DE, Germany]\n", 2, "two capital letters"},
		{"a country by another code", "consent:\n  opt_in: [DE, UK]\n", 2, "such as GB"},
		{"a country that is none", "clients:\n  - name: a\n    consent: {opt_in: [EU]}\n", 3, "ISO 3166-1"},
		{"Norway", "clients:\n  - name: a\n    consent:\n      opt_in:\n        - DE\n        - xx\n", 6, "in quotes"},
		{"unknown countries", "consent:\n  unknown: ask\n", 2, "opt-in or opt-out"},
		{"a client's unknown countries", "clients:\n  - name: a\n    consent: {unknown: yes}\n", 3, "opt-in or opt-out"},
		{"country header", "consent:\n  country_header: \"CF IPCountry\"\n", 2, "name of a header"},
		{"statistical ids without a country", "clients:\n  - name: a\n    statistical_ids: true\n", 3, "consent.country_header"},
		{"households without a country", "clients:\n  - name: a\n    household: {days: 5}\n", 3, "consent.country_header"},
		{"a household of a day", "consent: {country_header: X}\nclients:\n  - name: a\n    household:\n      days: 1\n", 5, "use 2 to 30"},
		{"a household without days", "consent: {country_header: X}\nclients:\n  - name: a\n    household: {identities: 4}\n", 4, "use 2 to 30"},
		{"a household of a crowd", "consent: {country_header: X}\nclients:\n  - name: a\n    household:\n      days: 5\n      identities: 65\n", 6, "use 2 to 64"},
		{"never where", "inference:\n  never: [Brazil]\n", 2, "two capital letters"},
		{"address header", "limits:\n  address_header: \"X Real IP\"\n", 2, "X-Real-IP"},
		{"a long rotation", "inference: {rotate_days: 30}\n", 1, "use 1 to 7"},
		{"connections", "limits: {connections_max: 0}\n", 1, "use 100 to 1000000"},
		{"cookies of a url", "cookies:\n  domain: https://kith.example\n", 2, "such as example.com"},
		{"cookies of a port", "cookies:\n  domain: example.com:8080\n", 2, "such as example.com"},
		{"cookies of everybody", "cookies:\n  domain: .co.uk\n", 2, "others register"},
		{"cookies of a host of many", "cookies:\n  domain: github.io\n", 2, "others register"},
		{"cookies with more behind", "cookies: {domain: \"example.com; Path=/x\"}\n", 1, "such as example.com"},
		{"source", "openrtb:\n  source: https://kith.example\n", 2, "a domain"},
		{"retention", "log_retention: 1s\n", 1, "at least 1m"},
		{"more events than an entry takes", "limits:\n  max_event_age: 2d\n  events_per_body_max: 4097\n", 3, "use 1 to 4096"},
		{"body", "limits:\n  body_bytes_max: 5\n", 2, "1024"},
		{"duplicate key", "node: a\nnode: b\n", 2, "node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse([]byte(tt.text))
			var e *proto.Error
			if !errors.As(err, &e) {
				t.Fatalf("got error %v, want a *proto.Error", err)
			}
			if tt.line > 0 && e.Line != tt.line {
				t.Errorf("line %d, want %d: %v", e.Line, tt.line, e)
			}
			if !strings.Contains(e.Message, tt.want) {
				t.Errorf("message %q does not say %q", e.Message, tt.want)
			}
		})
	}
}

func TestCookieDomains(t *testing.T) {
	for _, domain := range []string{"", "example.com", ".example.com", "kith.example.co.uk", "Example.com", "localhost", "127.0.0.1"} {
		c := config.Default()
		c.Cookies.Domain = domain
		if err := c.Validate(); err != nil {
			t.Errorf("%q: %v", domain, err)
		}
	}
}

func TestLinksOfAFile(t *testing.T) {
	c, err := config.Parse([]byte("clients:\n  - name: a\n    link_confidence_min: 1\n  - name: b\n  - name: c\n    link_confidence_min: 0\nlinks:\n  blocked: [account:kiosk-1, \"browser:x:y\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b, c := c.Clients[0].LinkConfidenceMin, c.Clients[1].LinkConfidenceMin, c.Clients[2].LinkConfidenceMin; a == nil || *a != 1 || b != nil || c == nil || *c != 0 {
		t.Errorf("thresholds %v, %v, %v", a, b, c)
	}
	if d := cmp.Diff([]string{"account:kiosk-1", "browser:x:y"}, c.Links.Blocked); d != "" {
		t.Error(d)
	}
}

func TestOrigins(t *testing.T) {
	c := config.Default()
	c.Clients = []config.Client{{Name: "a"}}
	for origin, ok := range map[string]bool{
		"https://example.com": true, "https://www.example.com:8443": true, "https://xn--mnchen-3ya.example": true,
		"https://192.0.2.1": true, "https://[2001:db8::1]:8443": true, "https://localhost": true,
		"": false, "*": false, "null": false, "https://": false, "https://*": false, "https://*.example.com": false,
		"http://example.com": false, "example.com": false, "https://example.com/": false, "https://example.com/a": false,
		"https://example.com?a": false, "https://example.com#a": false, "https://u@example.com": false, "https://Example.com": false,
		"HTTPS://example.com": false, "https://example.com:": false, "https://example.com:443": false, "https://example.com:0": false,
		"https://example.com:080": false, "https://example.com:70000": false, "https://münchen.example": false, "https://a..b": false,
		"https://a b": false, "https://a,https://b": false, "https://[2001:DB8::1]": false, "https://[::1": false, " https://a": false,
	} {
		c.Clients[0].Origins = []string{"https://first.example", origin}
		err := c.Validate()
		if (err == nil) != ok {
			t.Errorf("%q: %v", origin, err)
		}
		if err != nil && !strings.Contains(err.Error(), "clients[0].origins[1]") {
			t.Errorf("%q: the error does not say where: %v", origin, err)
		}
	}
}

func TestDevIsLoopbackOnly(t *testing.T) {
	c := config.Default()
	c.UseDev()
	if err := c.Validate(); err != nil {
		t.Fatalf("the defaults with --dev: %v", err)
	}
	for _, addr := range []string{"0.0.0.0:8080", ":8080", "192.0.2.1:8080", "example.org:8080"} {
		c.Public = addr
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "loopback only") {
			t.Errorf("--dev on %s: got %v, want a refusal", addr, err)
		}
	}
	for _, addr := range []string{"[::1]:8080", "localhost:8080"} {
		c.Public = addr
		if err := c.Validate(); err != nil {
			t.Errorf("--dev on %s: %v", addr, err)
		}
	}
}

// What is wrong with a cluster's addresses is said where it stands.
func TestClusterAddresses(t *testing.T) {
	good := func() config.Config {
		c := config.Default()
		c.SecretFile = "secret"
		c.Cluster = config.Cluster{
			Name: "c", Listen: "node-1.example:7946", Join: []string{"node-1.example:7946", "node-2.example:7946"},
			CA: "ca.pem", Cert: "cert.pem", Key: "key.pem",
		}
		return c
	}
	for name, change := range map[string]func(*config.Cluster){
		"a name":                         func(*config.Cluster) {},
		"all addresses, one advertised":  func(c *config.Cluster) { c.Listen, c.Advertise = "0.0.0.0:7946", "203.0.113.5:17946" },
		"all of them, a name advertised": func(c *config.Cluster) { c.Listen, c.Advertise = ":7946", "node-1.example:7946" },
		"behind a translation":           func(c *config.Cluster) { c.Advertise = "203.0.113.5:65535" },
		"loopback without certificates":  func(c *config.Cluster) { c.Listen, c.CA, c.Cert, c.Key = "127.0.0.1:7946", "", "", "" },
	} {
		c := good()
		change(&c.Cluster)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"a dot at the end":        {func(c *config.Config) { c.Node = "n1." }, "node: of a node of a cluster"},
		"two dots":                {func(c *config.Config) { c.Node = "a..b" }, "node: of a node of a cluster"},
		"no port":                 {func(c *config.Config) { c.Cluster.Listen = "10.0.0.1" }, "cluster.listen: write host:port"},
		"no next port":            {func(c *config.Config) { c.Cluster.Listen = "10.0.0.1:65535" }, "cluster.listen: write host:port"},
		"all addresses":           {func(c *config.Config) { c.Cluster.Listen = "0.0.0.0:7946" }, "cluster.listen: that is all addresses"},
		"all, by six":             {func(c *config.Config) { c.Cluster.Listen = "[::]:7946" }, "cluster.listen: that is all addresses"},
		"all, by nothing":         {func(c *config.Config) { c.Cluster.Listen = ":7946" }, "cluster.listen: that is all addresses"},
		"all advertised":          {func(c *config.Config) { c.Cluster.Advertise = "0.0.0.0:7946" }, "cluster.advertise: write the host:port"},
		"half advertised":         {func(c *config.Config) { c.Cluster.Advertise = "203.0.113.5" }, "cluster.advertise: write the host:port"},
		"advertised, not listen":  {func(c *config.Config) { c.Cluster.Listen, c.Cluster.Join, c.Cluster.Advertise = "", nil, "h:1" }, "cluster.advertise: leave it out"},
		"join, not listen":        {func(c *config.Config) { c.Cluster.Listen = "" }, "cluster.listen: name this node's own"},
		"nobody to join":          {func(c *config.Config) { c.Cluster.Join = nil }, "cluster.join: list"},
		"half of another":         {func(c *config.Config) { c.Cluster.Join[1] = "h" }, "cluster.join[1]: write host:port"},
		"no secret":               {func(c *config.Config) { c.SecretFile = "" }, "secret_file"},
		"no key of a certificate": {func(c *config.Config) { c.Cluster.Key = "" }, "cluster: name all of"},
		"no certificates":         {func(c *config.Config) { c.Cluster.CA, c.Cluster.Cert, c.Cluster.Key = "", "", "" }, "cluster: nodes that talk over a network"},
	} {
		c := good()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestNeedKeysSaysWhatToWrite(t *testing.T) {
	c := config.Default()
	err := c.NeedKeys()
	if err == nil || !strings.Contains(err.Error(), "kith key create --role admin --offline") {
		t.Errorf("got %v", err)
	}
	c.UseDev()
	if err := c.NeedKeys(); err != nil {
		t.Error(err)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "30d": 720 * time.Hour, "2w": 336 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := config.ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "soon", "99999999999999w", "60000w"} {
		if got, err := config.ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}

func TestInitDoesNotOverwrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kith.yaml")
	if err := config.Init(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("node: mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := config.Init(path); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("second Init: %v, want a conflict", err)
	}
	c, err := config.Load(path)
	if err != nil || c.Node != "mine" {
		t.Errorf("Load after Init: %+v, %v", c.Node, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(config.Template)
	f.Add("keys:\n  - sha256: x\n")
	f.Add("limits: {max_event_age: 1w}")
	f.Add("keys: !00\n0000000000")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse([]byte(text))
		if err != nil {
			var e *proto.Error
			if !errors.As(err, &e) {
				t.Fatalf("not a *proto.Error: %v", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("Parse accepted what Validate refuses: %v", err)
		}
	})
}

// The defaults have the regions of the EEA with codes of their own.
func TestEEARegions(t *testing.T) {
	d := config.Default()
	for _, country := range strings.Fields("AX GF GP MF MQ RE YT DE GB NO") {
		if !slices.Contains(d.Consent.OptIn, country) || !slices.Contains(d.Inference.Never, country) {
			t.Errorf("%s is not in the defaults", country)
		}
	}
}

// A client's policy of consent replaces what it names of the general one.
func TestPolicyOf(t *testing.T) {
	c, err := config.Parse([]byte(`consent: {tcf_purposes: [1, 2], opt_in: [FR, "NO"]}
clients:
  - name: a
  - name: b
    consent: {unknown: opt-in}
  - name: c
    consent: {tcf_purposes: [1], opt_in: []}
`))
	if err != nil {
		t.Fatal(err)
	}
	general := config.Policy{TCFPurposes: []int{1, 2}, OptIn: []string{"FR", "NO"}, Unknown: config.OptOut}
	b, last := general, general
	b.Unknown = config.OptIn
	last.TCFPurposes, last.OptIn = []int{1}, []string{}
	for i, want := range []config.Policy{general, b, last} {
		if d := cmp.Diff(want, c.PolicyOf(&c.Clients[i])); d != "" {
			t.Errorf("client %s: %s", c.Clients[i].Name, d)
		}
	}
}

// An empty list of properties is not the same as none.
func TestPropertiesAllowed(t *testing.T) {
	c, err := config.Parse([]byte("clients:\n  - name: a\n    properties_allowed: []\n  - name: b\n  - name: c\n    properties_allowed: [x]\n    sensitive: {off: true, except: [\"name:race\"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := c.Clients[0].PropertiesAllowed, c.Clients[1].PropertiesAllowed; a == nil || len(a) != 0 || b != nil {
		t.Errorf("an empty list is %#v, none is %#v", a, b)
	}
	if s := c.Clients[2].Sensitive; !s.Off || len(s.Except) != 1 || len(c.Clients[2].PropertiesAllowed) != 1 {
		t.Errorf("client c is %+v", c.Clients[2])
	}
}
