package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"

	"kith/proto"
)

// Inference is what may be inferred of visitors who say nothing: statistical ids and
// households. Both are off for clients that are not named in Config.
type Inference struct {
	// Never are countries (ISO 3166-1, two capital letters) in which nothing is
	// inferred, beside those of the client's policy in which consent comes first.
	// Nor is anything where the country is not known.
	Never []string
	// RotateDays is for how many days a statistical id lasts, 1 to 7. Default 1.
	RotateDays int
}

// Bounds of statistical ids.
const (
	statisticalMax = 256 // clients with them: an opt-out cuts those of all
	rotateMax      = 7   // days that one lasts
)

func (c Config) validateInference() error {
	x := c.Inference
	if err := (ConsentPolicy{OptIn: x.Never}).validate("the list of countries where nothing is inferred"); err != nil {
		return err
	}
	for name, rule := range c.Households {
		if err := rule.Validate(); err != nil {
			return proto.Errorf(proto.CodeInvalid, "client %q: %s", name, messageOf(err))
		}
	}
	switch {
	case x.RotateDays < 1 || x.RotateDays > rotateMax:
		return proto.Errorf(proto.CodeInvalid, "statistical ids last %d days: use 1 to %d", x.RotateDays, rotateMax)
	case len(c.Statistical) > statisticalMax:
		return proto.Errorf(proto.CodeInvalid, "%d clients have statistical ids: at most %d may", len(c.Statistical), statisticalMax)
	case len(c.Statistical)+len(c.Households) > 0 && c.CountryHeader == "":
		return proto.Errorf(proto.CodeInvalid, "statistical ids and households need to know the visitor's country: name the header in which the proxy tells it (CountryHeader), or switch them off")
	}
	return nil
}

// inferring is Inference as it is asked for. Read only.
type inferring struct {
	rotate     proto.Day
	networks   []byte // keys networks
	ids        []byte // keys statistical ids
	clients    []proto.ClientName
	households map[proto.ClientName]proto.HouseholdRule
}

func newInferring(c Config) inferring {
	x := inferring{
		rotate:   proto.Day(c.Inference.RotateDays),
		networks: derivedKey(c.PseudonymKey, "kith networks"), ids: derivedKey(c.PseudonymKey, "kith statistical ids"),
		clients: slices.Clone(c.Statistical), households: c.Households,
	}
	slices.Sort(x.clients)
	return x
}

// derivedKey is a key for one purpose, from which no other can be found.
func derivedKey(key []byte, purpose string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(purpose))
	return h.Sum(nil)
}

// mayInfer reports whether anything may be inferred of a visit that was judged:
// nothing where a signal is against it, nor where consent comes first, whether it was
// given or not, nor where it is not known whether it does.
func (g *Gateway) mayInfer(v *visit, r *http.Request, client proto.ClientName) bool {
	p := g.policies.client(client)
	return v.signal == "" && p.elsewhere(r.Header) && !v.signals.consentNeeded(p)
}

// elsewhere reports whether the visitor's country is known and in no list.
func (p *policy) elsewhere(h http.Header) bool {
	if p.header == "" || len(h[p.header]) == 0 {
		return false
	}
	for item := range listed(h[p.header]) {
		if c := proto.CountryOf(item); c == "" || slices.Contains(p.optIn, c) || slices.Contains(p.never, c) {
			return false
		}
	}
	return true
}

// consentNeeded reports whether the signals say that consent is.
func (x *signals) consentNeeded(p *policy) bool {
	tc, _ := x.readGPP()
	there, _ := p.consents(tc, x.consent)
	return x.needed(there)
}

// networkKey is what stands for a request's network in a client's events, 0 if the
// client infers no households, or not of this visit.
func (g *Gateway) networkKey(v *visit, r *http.Request, client proto.ClientInfo) proto.NetworkKey {
	if _, on := g.inferring.households[client.Name]; !on || !g.mayInfer(v, r, client.Name) {
		return 0
	}
	p, ok := g.networkOf(r)
	if !ok {
		return 0
	}
	h := hmac.New(sha256.New, g.inferring.networks)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(client.ID)))
	h.Write([]byte(p.String()))
	return proto.NetworkKey(max(binary.BigEndian.Uint64(h.Sum(nil)), 1))
}

// remembersNetworks reports whether networks are remembered of identities of the kind:
// those that are one browser or device.
func remembersNetworks(id proto.Identity) bool {
	switch id.Kind() {
	case "browser", "aaid", "idfa":
		return true
	}
	return false
}
