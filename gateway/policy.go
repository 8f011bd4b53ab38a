package gateway

import (
	"net/http"
	"slices"

	"kith/proto"
)

// ConsentPolicy is when data may be stored and told. That a browser which says
// GPC or DNT, or carries an opt-out, is left alone is no matter of policy.
type ConsentPolicy struct {
	// Purposes of the TCF that a TC string must consent to where consent is
	// needed. Purpose 1 must be among them: an id lies in the browser. Empty: 1,
	// 3 and 4.
	Purposes []int
	// OptIn are the countries (ISO 3166-1, two capital letters) whose visitors
	// must consent first. Elsewhere they may object.
	OptIn []string
	// OptInUnknown has visitors consent first whose country is not known.
	OptInUnknown bool
}

func (c ConsentPolicy) validate(whose string) error {
	for _, n := range c.Purposes {
		if n < 1 || n > tcPurposesN {
			return proto.Errorf(proto.CodeInvalid, "%s needs consent to purpose %d: use 1 to %d", whose, n, tcPurposesN)
		}
	}
	if len(c.Purposes) > 0 && !slices.Contains(c.Purposes, 1) {
		return proto.Errorf(proto.CodeInvalid, "%s does not need consent to purpose 1: add it, an id is stored in the browser", whose)
	}
	for _, country := range c.OptIn {
		if country == "" || proto.CountryOf(country) != country {
			return proto.Errorf(proto.CodeInvalid, "%s has %q among its countries: write the two capital letters of ISO 3166-1, such as DE or GB", whose, clip(country))
		}
	}
	return nil
}

// policy is a ConsentPolicy as it is asked for.
type policy struct {
	vendor  int
	needed  uint32 // purposes, as tcNeeded
	header  string // that names the country, in canonical form; empty: none does
	optIn   []string
	never   []string // countries where nothing is inferred, beside those
	unknown bool
}

// policies are those of all clients, and of the others. Read only.
type policies struct {
	of   map[proto.ClientName]*policy
	rest *policy
}

func newPolicies(c Config) policies {
	compile := func(x ConsentPolicy) *policy {
		p := &policy{vendor: c.TCFVendor, header: http.CanonicalHeaderKey(c.CountryHeader), optIn: x.OptIn, never: c.Inference.Never, unknown: x.OptInUnknown}
		for _, n := range x.Purposes {
			p.needed |= 1 << (tcPurposesN - n)
		}
		if p.needed == 0 {
			p.needed = tcNeeded
		}
		return p
	}
	all := policies{of: map[proto.ClientName]*policy{}, rest: compile(c.Consent)}
	for name, x := range c.ConsentOf {
		all.of[name] = compile(x)
	}
	return all
}

func (p policies) client(name proto.ClientName) *policy {
	if x, ok := p.of[name]; ok {
		return x
	}
	return p.rest
}

// consentFirst reports whether the visitor of a request must consent first.
// The operator's proxy says where that is; of several countries the strictest
// counts. unknown answers for those of whom nothing is known.
func (p *policy) consentFirst(h http.Header, unknown bool) bool {
	if p.header == "" {
		return unknown
	}
	known := len(h[p.header]) > 0
	for item := range listed(h[p.header]) {
		country := proto.CountryOf(item)
		if slices.Contains(p.optIn, country) {
			return true
		}
		known = known && country != ""
	}
	return !known && unknown
}

// consents reports whether there are TC strings, and whether all of them consent.
func (p *policy) consents(tc ...[2]string) (there, allow bool) {
	allow = true
	for _, pair := range tc {
		for _, s := range pair {
			if s != "" {
				there, allow = true, allow && tcAllows(s, p.needed, p.vendor)
			}
		}
	}
	return there, allow
}

// judge decides whether the client's data may be stored of a visit, and told:
// v.signal is why not.
func (g *Gateway) judge(v *visit, r *http.Request, client proto.ClientName) {
	if v.signal != "" {
		return
	}
	p := g.policies.client(client)
	v.signals.optIn = p.consentFirst(r.Header, p.unknown)
	if v.signal = v.signals.against(p); v.signal != "" {
		g.metrics.optedOut.Inc()
	}
}

// operatorHeader says that whoever asks does so for themselves: what their own
// browser says is not about the person asked about. The console sends it.
const operatorHeader = "X-Kith-Operator"

// withheldFrom is why a request of the service plane must not touch the person that it
// is about, "" if nothing speaks against it: a server may pass on what a browser
// said to it.
func (g *Gateway) withheldFrom(h http.Header, query string, client proto.ClientName) string {
	p := g.policies.client(client)
	if query == "" && len(h["Sec-Gpc"]) == 0 && len(h["Dnt"]) == 0 && (p.header == "" || len(h[p.header]) == 0) {
		return ""
	}
	var x signals
	if len(h[operatorHeader]) == 0 {
		x.fromHeaders(h)
		x.optIn = p.consentFirst(h, false)
	}
	x.fromQuery(query)
	return x.against(p)
}

// whose is the client that a keyed request is for, as far as key and query say.
func whose(r *http.Request, who proto.Principal) proto.ClientName {
	if who.Role == proto.RoleAdmin {
		return proto.ClientName(queryValue(r.URL.RawQuery, "client"))
	}
	return who.Client
}

// heed keeps a route from a person whose signals are against it.
func (g *Gateway) heed(h keyed) keyed {
	return func(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
		if why := g.withheldFrom(r.Header, r.URL.RawQuery, whose(r, who)); why != "" {
			w.Header()[withheldHeader] = []string{why}
			return errWithheld(why)
		}
		return h(w, r, who)
	}
}

func errWithheld(why string) error {
	return proto.Errorf(proto.CodeOptedOut, "nothing is stored or told: a signal is against it (%s)", why)
}
