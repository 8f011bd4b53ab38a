package gateway

import (
	"context"
	"net/http"

	"kith/proto"
)

// standing is how a browser stands: whether anything would be stored of it, and
// what each signal did.
type standing struct {
	OptedOut bool             `json:"opted_out"`
	By       string           `json:"by,omitempty"`     // the signal that decided
	Client   proto.ClientName `json:"client,omitempty"` // whose policy was asked
	Regime   string           `json:"regime"`           // optIn or optOut
	Signals  effects          `json:"signals"`
	// Statistical is whether a statistical id is made of this browser for the client;
	// empty: the client has none, or not here.
	Statistical string `json:"statistical_id,omitempty"`
	// Final and Receipt are of what the browser's cookies name where that was cut and they
	// are still there: the opt-out was not final when it was answered.
	Final   *bool          `json:"final,omitempty"`
	Receipt *proto.Receipt `json:"receipt,omitempty"`
}

// What holds where the visitor is.
const (
	regimeOptIn  = "opt_in"  // nothing without consent
	regimeOptOut = "opt_out" // until they object
)

// effects are what each signal did, by the codes of X-Kith-Withheld.
type effects struct {
	Cookie    string `json:"cookie"`
	GPC       string `json:"gpc"`
	DNT       string `json:"dnt"`
	LMT       string `json:"lmt"`
	COPPA     string `json:"coppa"`
	GDPR      string `json:"gdpr"`
	USPrivacy string `json:"us_privacy"`
	GPP       string `json:"gpp"`
	OptedOut  string `json:"opted_out"` // the identity's tombstone
}

// What a signal did.
const (
	effectAbsent  = "absent"  // it was not sent
	effectAllows  = "allows"  // it was sent and says nothing against
	effectRefuses = "refuses" // for its sake nothing is stored
	effectMissing = "missing" // consent is needed and was not sent: nothing is stored
	effectIdle    = "idle"    // it was sent and would refuse, but is not needed here
	effectUnknown = "unknown" // it cannot be looked up now
)

func refuses(b bool) string {
	if b {
		return effectRefuses
	}
	return effectAbsent
}

// effects are those of all signals but the cookie and the tombstone.
func (x *signals) effects(p *policy) effects {
	e := effects{
		GPC: refuses(x.gpc), DNT: refuses(x.dnt), LMT: refuses(x.lmt), COPPA: refuses(x.coppa),
		USPrivacy: effectAbsent, GPP: effectAbsent,
	}
	if x.usPrivacy[0] != "" || x.usPrivacy[1] != "" {
		e.USPrivacy = effectAllows
	}
	if x.soldOut() {
		e.USPrivacy = effectRefuses
	}
	tc, refused := x.readGPP()
	switch {
	case refused:
		e.GPP = effectRefuses
	case x.gpp[0] != "" || x.gpp[1] != "":
		e.GPP = effectAllows
	}
	there, allow := p.consents(tc, x.consent)
	switch needed := x.needed(there); {
	case there && allow:
		e.GDPR = effectAllows
	case there && needed:
		e.GDPR = effectRefuses
	case there:
		e.GDPR = effectIdle
	case needed:
		e.GDPR = effectMissing
	default:
		e.GDPR = effectAbsent
	}
	return e
}

// standingOf is how v stands with a client, or, without one, by the policy of
// those that have none of their own.
func (g *Gateway) standingOf(ctx context.Context, r *http.Request, v *visit, client proto.ClientName) standing {
	p := g.policies.client(client)
	v.signals.optIn = p.consentFirst(r.Header, p.unknown)
	g.judge(v, r, client)
	s := standing{Client: client, Regime: regimeOptOut, Signals: v.signals.effects(p)}
	if v.signals.optIn {
		s.Regime = regimeOptIn
	}
	s.Signals.Cookie = refuses(v.cookie)
	var cut proto.OptOutState
	if s.Signals.OptedOut, cut = g.tombstone(ctx, v); v.cookie && cut.OptedOut {
		s.Final, s.Receipt = &cut.Final, cut.Receipt
	}
	if v.signal == "" && s.Signals.OptedOut == effectRefuses {
		v.signal = withheldOptedOut
	}
	s.OptedOut, s.By = v.signal != "", v.signal
	if info, ok := g.deps.Accounts.Client(client); ok {
		_, s.Statistical = g.statisticalID(v, r, info)
	}
	return s
}

// tombstone says whether one of the browser's identities is opted out, or, of too many,
// that one might be. cut is final, with the first receipt, where all of them are.
func (g *Gateway) tombstone(ctx context.Context, v *visit) (effect string, cut proto.OptOutState) {
	claims := v.claims()
	if v.crowded && len(claims) > 0 {
		return effectRefuses, cut
	}
	effect, final := effectAbsent, len(claims) > 0
	for _, id := range claims {
		s, err := g.deps.OptOuts.OptOutStateFor(ctx, g.toldOf(v, id), id)
		switch {
		case err == nil && s.OptedOut:
			effect = effectRefuses
			if !cut.OptedOut {
				cut = s
			}
		case err != nil && effect == effectAbsent:
			effect = effectUnknown
		}
		final = final && err == nil && s.OptedOut && s.Final
	}
	if cut.Final = final; !final {
		cut.Receipt = nil
	}
	return effect, cut
}

// writeStanding answers with how v stands with the client of ?client=, if one is
// named.
func (g *Gateway) writeStanding(w http.ResponseWriter, r *http.Request, v *visit) error {
	var client proto.ClientInfo
	if name := queryValue(r.URL.RawQuery, "client"); name != "" {
		var err error
		if client, err = g.clientNamed(name); err != nil {
			return err
		}
	}
	s := g.standingOf(r.Context(), r, v, client.Name)
	if !sameSite(r) && !g.trustedOrigin(r) { // who may not opt the browser out: a receipt names it for ever
		s.Receipt = nil
	}
	return writeValue(w, http.StatusOK, s)
}
