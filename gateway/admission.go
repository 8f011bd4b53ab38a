package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"kith/proto"
)

// admission decides which identities of a public event count: a browser is
// the cookie's own, an account needs its proof, a device id no limit on
// tracking and a client that takes it from browsers.
type admission struct {
	visit    visit
	exempt   bool
	keyed    bool // ids of devices come with a key only
	secret   []byte
	now      proto.Millis
	stored   proto.Identity // the browser, once something of an event that named it is kept
	naming   proto.Identity // the browser, if the event at hand names it
	minted   proto.Identity // made for this request, if there was no cookie
	stat     proto.Identity // for events that name nobody, if there was none
	network  proto.NetworkKey
	unproven int

	memberships Memberships // of client, if it is known
	client      proto.ClientInfo
}

// ownBrowser stands in a public event for each browser that it names, whatever its value,
// of which nothing is kept: admit puts the cookie's in its place.
const ownBrowser = "browser:own"

// out reports whether a device is opted out, by its id in small letters or in capitals.
// Where that is not known, the log decides.
func (a *admission) out(device proto.Identity) bool {
	if a.memberships == nil {
		return false
	}
	seen, err := a.memberships.Seen(a.client, device)
	if other := otherCase(device.Value()); other != "" && !(err == nil && seen.OptedOut) {
		seen, err = a.memberships.Seen(a.client, proto.Identity(device.Kind()+":"+other))
	}
	return err == nil && seen.OptedOut
}

func (a *admission) browser() proto.Identity {
	if a.visit.browser != "" {
		return a.visit.browser
	}
	if a.minted == "" {
		a.minted = newBrowser()
	}
	return a.minted
}

// admit replaces the identities of d by those that count, or refuses it.
func (a *admission) admit(d *draft) {
	a.naming = ""
	if a.visit.signal != "" {
		d.refuse(proto.CodeOptedOut, "nothing is stored: a signal is against it ("+a.visit.signal+")")
		return
	}
	var room [proto.EventIdentitiesMax + 1]proto.Identity
	kept := room[:1] // the first is the browser's, if it must be put in front
	device, browser := false, false
	limited := d.lmt && a.visit.browser == "" // no browser is made for it
	for _, id := range d.event.Identities {
		switch kind := id.Kind(); kind {
		case "browser":
			if !browser && !limited {
				kept = append(kept, a.browser())
			}
			browser = true
			continue
		case "aaid", "idfa":
			if d.lmt {
				continue
			}
			if a.out(id) {
				d.refuse(proto.CodeOptedOut, "nothing is stored: the device is opted out")
				return
			}
			if a.keyed {
				a.unproven++
				continue
			}
			device = true
		default:
			if proto.Made(id) || !a.exempt && (kind != "account" || !proven(a.secret, accountClaim(id, a.browser()), d.proof, a.now)) {
				a.unproven++
				continue
			}
		}
		kept = append(kept, id)
	}
	switch {
	case limited && len(kept) == 1:
		d.refuse(proto.CodeOptedOut, "nothing is stored: the device limits ad tracking")
		return
	case limited:
		kept, browser = kept[1:], false
	case a.stat != "" && !device && !d.lmt && (len(kept) == 1 || len(kept) == 2 && browser):
		// Nothing is kept of the browser that is offered a cookie: if it takes it, the
		// next event is that browser's.
		d.event.Identities = append(d.event.Identities[:0], a.stat)
		a.naming = a.browser()
		return
	case browser || device && a.visit.browser == "":
		kept = kept[1:]
		browser = browser || !device
	case len(kept) > proto.EventIdentitiesMax:
		d.refuse(proto.CodeIdentity, "an event has at most 8 identities, the browser's own among them")
		return
	default:
		kept[0], browser = a.browser(), true
	}
	d.event.Identities = append(d.event.Identities[:0], kept...)
	if browser {
		a.naming = a.browser()
	}
	if first := kept[0]; first != a.minted && !d.lmt && remembersNetworks(first) {
		d.event.Network = a.network
	}
}

// took notes that the event at hand is kept.
func (a *admission) took() {
	if a.naming != "" {
		a.stored = a.naming
	}
}

// accountClaim is what an account's proof says: both identities, with their
// kinds.
func accountClaim(account, browser proto.Identity) string {
	return string(account) + "|" + string(browser)
}

// proven checks a proof: EXPIRY "." HEX, where EXPIRY is in Unix seconds and
// HEX is HMAC-SHA256(secret, claim "|" EXPIRY).
func proven(secret []byte, claim, proof string, now proto.Millis) bool {
	until, ok := provenUntil(secret, claim, proof)
	return ok && until >= now
}

// provenUntil is when a proof that was made with the secret ends to be good.
func provenUntil(secret []byte, claim, proof string) (until proto.Millis, ok bool) {
	expiry, sum, ok := strings.Cut(proof, ".")
	if !ok || len(secret) == 0 || len(sum) != 2*sha256.Size || len(expiry) > 12 {
		return 0, false
	}
	at, err1 := strconv.ParseInt(expiry, 10, 64)
	given, err2 := hex.DecodeString(sum)
	return proto.Millis(at * 1000), err1 == nil && err2 == nil && hmac.Equal(given, proofSum(secret, claim, expiry))
}

func proofSum(secret []byte, claim, expiry string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(claim + "|" + expiry))
	return h.Sum(nil)
}

// Proof makes the proof that account and browser are the same person, valid
// until expiry (Unix seconds): what a publisher's server does.
func Proof(secret []byte, account, browser proto.Identity, expiry int64) string {
	return proofOf(secret, accountClaim(account, browser), expiry)
}

// PartnerProof makes the proof that a partner gave out its id, valid until expiry
// (Unix seconds): what a partner's server does.
func PartnerProof(secret []byte, id proto.Identity, expiry int64) string {
	return proofOf(secret, string(id), expiry)
}

func proofOf(secret []byte, claim string, expiry int64) string {
	e := strconv.FormatInt(expiry, 10)
	return e + "." + hex.EncodeToString(proofSum(secret, claim, e))
}
