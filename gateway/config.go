package gateway

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"kith/proto"
)

// Config is how the gateway behaves. The zero value of a field means the
// default that its comment names.
type Config struct {
	// BodyBytesMax bounds a request body after decompression. Default 4 MiB.
	BodyBytesMax int
	// BodiesBytesMax bounds what is held, on each plane, of bodies that have not come
	// whole yet, but for the first 64 KiB of each. Default 256 MiB.
	BodiesBytesMax int
	// EventsMax bounds the events of one body. Default 1000.
	EventsMax int
	// LookupMax bounds the identities of one look-up. Default 1000.
	LookupMax int
	// EventAgeMax is how far back an event's time may lie. Default 30 days.
	EventAgeMax time.Duration
	// EventAheadMax is how far ahead of now it may lie. Default 5 minutes.
	EventAheadMax time.Duration
	// WaitMax bounds how long ?after= waits. Default 5 seconds.
	WaitMax time.Duration
	// EventsPerSecond is the rate that each client may send on each plane;
	// EventsBurst (default: one second's worth, or one body) may come at once. 0: no limit.
	EventsPerSecond float64
	EventsBurst     int
	// LookupsPerSecond is how many identities each client may look up. 0: no limit.
	LookupsPerSecond float64
	// OptOutsPerSecond is how many identities each client may have opted out, erased
	// and opted in. 0: no limit.
	OptOutsPerSecond float64
	// OwnOptOutsPerSecond is how many browsers, all together, may have done so with
	// themselves. 0: no limit.
	OwnOptOutsPerSecond float64
	// OptOutsBesideLookups is how many of either each client, and all browsers
	// together, may have done while somebody looks identities up; more wait for a
	// second. 0: no limit.
	OptOutsBesideLookups float64
	// FinalWait is how long after its beginning an opt-out or erasure of the caller's own
	// browser waits for the receipt; default 6 s, of the 10 s that the tag waits; negative: not.
	FinalWait time.Duration
	// RefusalPause is for how long a browser's opt-out that is refused by these waits for
	// its answer, from half to one and a half times as long, and a quarter of that one of
	// a key. Default 4 seconds; negative: not at all.
	RefusalPause time.Duration
	// AddressHeader is set by the operator's proxy to the visitor's address, or has
	// it appended by that. Empty: it is the connection's.
	AddressHeader string
	// Quotas are what holds for single clients instead.
	Quotas map[proto.ClientName]Quota
	// FloorDefault is the least count that keys of a client without a floor of
	// its own may see. Default 50.
	FloorDefault int

	// CookieDomain is the Domain of the cookies. Default: the host itself.
	CookieDomain string
	// CookieInsecure leaves Secure, SameSite=None and Partitioned out, for
	// tests over plain HTTP from other hosts than localhost.
	CookieInsecure bool
	// CookieProof has a browser that gets an identity get a proof of it too, and is shown
	// what is held of it by that alone. All nodes must agree.
	CookieProof bool
	// Origins are, for each client, the web origins ("https://example.com")
	// whose pages may read answers of the public plane. A client that is not
	// named answers to all origins, but tells a browser's segments to pages of
	// this site only (to all with Dev).
	Origins map[proto.ClientName][]string
	// HostsAllowed are, for each client, the third parties that it expects on its
	// pages: names of hosts, or "*.example.com" for all below one.
	HostsAllowed map[proto.ClientName][]string
	// Sensitive says how the list of sensitive categories holds for single clients.
	// For others all of it does.
	Sensitive map[proto.ClientName]Sensitive
	// PropertiesAllowed are the names of the properties that events of single clients
	// may have; others are left out. nil, as for clients that are not named: all.
	PropertiesAllowed map[proto.ClientName][]string
	// Secrets are the keys of account proofs, for each client.
	Secrets map[proto.ClientName][]byte
	// Unproven are clients whose accounts need no proof: the demo.
	Unproven []proto.ClientName
	// DevicesKeyed are clients that take ids of devices with a key only: on the public
	// plane they are left out of events.
	DevicesKeyed []proto.ClientName
	// BotsDropped are clients that want no events of robots.
	BotsDropped []proto.ClientName
	// LinkConfidenceMin is, for each client, what an inferred link needs to be
	// made. Default 0.8.
	LinkConfidenceMin map[proto.ClientName]float64
	// Blocked are identities that many people share, such as a kiosk's account:
	// no link, and no event that also names another, makes them a part of
	// anybody.
	Blocked []proto.Identity

	// OpenRTB says, for each client, how its bid requests are read and filled.
	OpenRTB map[proto.ClientName]OpenRTB
	// EIDSource is the source of our entries in user.eids, a domain. Default:
	// CookieDomain, or else "kith".
	EIDSource string
	// TCFVendor is the operator's number in the list of vendors of the TCF, whose
	// consent is needed too where consent is. 0: that to the purposes will do.
	TCFVendor int
	// Consent is the policy for clients that ConsentOf does not name.
	Consent   ConsentPolicy
	ConsentOf map[proto.ClientName]ConsentPolicy
	// CountryHeader is set by the operator's proxy to the visitor's country, and
	// taken off what came from outside. Empty: no country is known.
	CountryHeader string
	// Inference is for the clients of Statistical, whose visitors without an id get a
	// statistical one, and of Households.
	Inference   Inference
	Statistical []proto.ClientName
	Households  map[proto.ClientName]proto.HouseholdRule
	// PseudonymKey keys what others are told instead of identities: 16 bytes or
	// more, the same on all nodes and for ever. Default: of chance, for tests.
	PseudonymKey []byte
	// Partners are, for each client, those that it exchanges ids with.
	Partners map[proto.ClientName][]Partner

	// NATSOpen takes messages without a key: the NATS server's own permissions
	// guard the subjects.
	NATSOpen bool
	// NATSConcurrency bounds the messages in work at once. Default 256.
	NATSConcurrency int

	// Version is this build's, for what is exported.
	Version string

	// Dev is for a developer's machine: it implies NATSOpen.
	Dev bool
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	setDefault(&c.BodyBytesMax, 4<<20)
	setDefault(&c.BodiesBytesMax, 256<<20)
	setDefault(&c.EventsMax, 1000)
	setDefault(&c.LookupMax, 1000)
	setDefault(&c.EventAgeMax, 30*24*time.Hour)
	setDefault(&c.EventAheadMax, 5*time.Minute)
	setDefault(&c.WaitMax, 5*time.Second)
	setDefault(&c.RefusalPause, 4*time.Second)
	setDefault(&c.FinalWait, 6*time.Second)
	setDefault(&c.EventsBurst, max(int(c.EventsPerSecond), c.EventsMax))
	setDefault(&c.FloorDefault, 50)
	setDefault(&c.NATSConcurrency, 256)
	setDefault(&c.Inference.RotateDays, 1)
	if c.Now == nil {
		c.Now = time.Now
	}
	c.EIDSource = cmp.Or(c.EIDSource, strings.TrimPrefix(c.CookieDomain, "."), "kith")
	if len(c.PseudonymKey) == 0 {
		c.PseudonymKey = make([]byte, 16)
		_, _ = rand.Read(c.PseudonymKey) // never fails
	}
	c.NATSOpen = c.NATSOpen || c.Dev
	return c
}

func setDefault[T int | time.Duration](field *T, v T) {
	if *field == 0 {
		*field = v
	}
}

// Validate checks c as New will use it.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.BodyBytesMax < 1<<10 || c.BodyBytesMax > 64<<20:
		return proto.Errorf(proto.CodeInvalid, "body limit is %d bytes: use 1 KiB to 64 MiB", c.BodyBytesMax)
	case c.EventsMax < 1 || c.EventsMax > proto.EntryCommandsMax:
		return proto.Errorf(proto.CodeInvalid, "limit of events per body is %d: use 1 to %d", c.EventsMax, proto.EntryCommandsMax)
	case c.LookupMax < 1 || c.LookupMax > 10000:
		return proto.Errorf(proto.CodeInvalid, "limit of identities per look-up is %d: use 1 to 10000", c.LookupMax)
	case c.EventAgeMax < 0 || c.EventAheadMax < 0 || c.EventAheadMax > 24*time.Hour:
		return proto.Errorf(proto.CodeInvalid, "event times may lie %s back and %s ahead: use nothing negative, and at most a day ahead", c.EventAgeMax, c.EventAheadMax)
	case c.WaitMax < 0 || c.WaitMax > time.Minute:
		return proto.Errorf(proto.CodeInvalid, "waiting for a position is bounded by %s: use up to a minute", c.WaitMax)
	case c.EventsPerSecond < 0 || c.EventsBurst < 1 || c.EventsPerSecond > 0 && c.EventsBurst < c.EventsMax:
		return proto.Errorf(proto.CodeInvalid, "a rate of %g events/s with a burst of %d can never take a body of %d events: raise the burst or lower the events per body", c.EventsPerSecond, c.EventsBurst, c.EventsMax)
	case c.NATSConcurrency < 1 || c.FloorDefault < 0:
		return proto.Errorf(proto.CodeInvalid, "NATS concurrency %d and floor %d must not be negative", c.NATSConcurrency, c.FloorDefault)
	}
	for name, secret := range c.Secrets {
		if len(secret) < 16 {
			return proto.Errorf(proto.CodeInvalid, "the proof secret of client %q has %d bytes: use 16 or more", name, len(secret))
		}
	}
	if err := c.validateQuotas(); err != nil {
		return err
	}
	if err := c.validateOutside(); err != nil {
		return err
	}
	if _, err := newKeepOuts(c); err != nil {
		return err
	}
	for name, v := range c.LinkConfidenceMin {
		if !(v >= 0 && v <= 1) {
			return proto.Errorf(proto.CodeInvalid, "inferred links of client %q need a confidence of %g: use 0 to 1", name, v)
		}
	}
	for _, id := range c.Blocked {
		if _, err := proto.ParseIdentity(string(id)); err != nil {
			return proto.Errorf(proto.CodeInvalid, "the block list holds no identity but %q: %w", clip(string(id)), err)
		}
	}
	return nil
}

// validateOutside checks what has to do with bid requests and partners.
func (c Config) validateOutside() error {
	switch {
	case c.TCFVendor < 0 || c.TCFVendor > 1<<16-1:
		return proto.Errorf(proto.CodeInvalid, "the TCF's number of a vendor is %d: use 1 to 65535, or 0 for none", c.TCFVendor)
	case len(c.PseudonymKey) < 16:
		return proto.Errorf(proto.CodeInvalid, "the key of pseudonyms has %d bytes: use 16 or more", len(c.PseudonymKey))
	case (&http.Cookie{Name: browserCookie, Domain: c.CookieDomain}).Valid() != nil:
		return proto.Errorf(proto.CodeInvalid, "the domain of cookies is %q: use a domain such as example.com, or none", clip(c.CookieDomain))
	case len(c.EIDSource) > 253 || strings.ContainsFunc(c.EIDSource, func(r rune) bool { return r <= ' ' || r > '~' }):
		return proto.Errorf(proto.CodeInvalid, "the source of eids is %q: use a domain", clip(c.EIDSource))
	}
	if err := c.validateConsent(); err != nil {
		return err
	}
	if err := c.validateInference(); err != nil {
		return err
	}
	for name, o := range c.OpenRTB {
		if o.Segtax != 0 && (o.Segtax < SegtaxMin || o.Segtax > SegtaxMax) {
			return proto.Errorf(proto.CodeInvalid, "the segtax of client %q is %d: use one of the vendors' range, from %d", name, o.Segtax, SegtaxMin)
		}
		for _, kind := range []string{o.UserID, o.BuyerUID} {
			if kind != "" && !proto.ValidKind(kind) {
				return proto.Errorf(proto.CodeInvalid, "bid requests of client %q name identities of kind %q: use browser, aaid, idfa, account, stat or partner.NAME", name, clip(kind))
			}
		}
	}
	for name, list := range c.Partners {
		seen := map[string]bool{}
		for _, p := range list {
			if err := p.validate(name); err != nil {
				return err
			}
			if seen[p.Name] {
				return proto.Errorf(proto.CodeInvalid, "client %q has partner %q twice: keep one", name, p.Name)
			}
			seen[p.Name] = true
		}
	}
	return nil
}

// headerName reports whether s may name a header, or is empty.
func headerName(s string) bool {
	return len(s) <= 64 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

func (c Config) validateConsent() error {
	if h := c.CountryHeader; !headerName(h) {
		return proto.Errorf(proto.CodeInvalid, "the header that names the country is %q: use the name of a header, such as CF-IPCountry", clip(h))
	}
	if h := c.AddressHeader; !headerName(h) {
		return proto.Errorf(proto.CodeInvalid, "the header that names the visitor's address is %q: use the name of a header, such as X-Real-IP", clip(h))
	}
	if err := c.Consent.validate("the policy of consent"); err != nil {
		return err
	}
	for name, x := range c.ConsentOf {
		if err := x.validate("client " + string(name)); err != nil {
			return err
		}
	}
	return nil
}
