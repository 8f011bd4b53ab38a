package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"

	"kith/proto"
)

// This file is about cookies.proof. Clients have browsers' identities in clear, in exports
// and look-ups; who sends one of these as a cookie is not that browser. So a browser that
// gets an identity gets a proof of it too, which no client is told, and by which it gets
// the next one. Who has an identity from before gets none: a copy would get it too.

// withheldUnproven is in X-Kith-Withheld where a stranger's answer was given for want of a
// proof. It is no signal: events and opt-outs count all the same.
const withheldUnproven = "unproven"

var errUnprovenBrowser = proto.Errorf(proto.CodeUnproven, "kith_id came without the kith_proof that was set with it: nothing is changed or erased; POST /v1/optout removes what is stored all the same")

// browserProof is the value of the cookie that proves an identity: HMAC-SHA256 in
// hexadecimal, cut to 128 bits, with a key that is for nothing else.
func (g *Gateway) browserProof(id proto.Identity) string {
	h := hmac.New(sha256.New, g.proofKey)
	h.Write([]byte(id))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// unproven reports whether the browser named an identity without its proof, where one is
// needed. What its cookies do not name is no claim of its.
func (g *Gateway) unproven(v *visit, id proto.Identity) bool {
	if !g.c.CookieProof || !slices.Contains(v.toCut(), id) {
		return false
	}
	want := []byte(g.browserProof(id))
	return !slices.ContainsFunc(v.proofs, func(p string) bool { return hmac.Equal([]byte(p), want) })
}

// own are those of the browser's identities of which it may see, change and erase what is
// held.
func (g *Gateway) own(v *visit, ids []proto.Identity) []proto.Identity {
	if !g.c.CookieProof {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id proto.Identity) bool { return g.unproven(v, id) })
}

// ownBrowser is the one identity that the browser is known by, "" if it is not proven.
func (g *Gateway) ownBrowser(v *visit) proto.Identity {
	if g.unproven(v, v.browser) {
		return ""
	}
	return v.browser
}

// proofsMissing reports whether the browser named an identity without its proof, and
// whether it named no other.
func (g *Gateway) proofsMissing(v *visit) (some, all bool) {
	named := v.toCut()
	own := len(g.own(v, named))
	return own < len(named), own == 0 && len(named) > 0
}

// sayUnproven says that nothing is told for want of a proof, if that is so.
func (g *Gateway) sayUnproven(w http.ResponseWriter, v *visit) {
	if _, all := g.proofsMissing(v); all {
		w.Header()[withheldHeader] = []string{withheldUnproven}
	}
}

// toldOf is for whom receipts of one of the browser's identities are: who has no proof
// learns that the opt-out is final, and nothing of what there was.
func (g *Gateway) toldOf(v *visit, id proto.Identity) proto.ClientInfo {
	if g.unproven(v, id) {
		return unheard
	}
	return proto.ClientInfo{}
}
