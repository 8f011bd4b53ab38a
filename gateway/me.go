package gateway

import (
	"net/http"
	"time"

	"kith/proto"
)

// ownRecord is everything that a client holds of the caller's own browser.
// An opt-out signal hides nothing: what is held may be seen.
func (g *Gateway) ownRecord(w http.ResponseWriter, r *http.Request) error {
	client, err := g.ownClientOf(w, r)
	if err != nil {
		return err
	}
	v := g.visitOf(r)
	g.judge(&v, r, client.Name)
	g.keep(w, v, "")
	w.Header()["Cache-Control"] = noStore
	if own := g.ownBrowser(&v); own != "" {
		return g.tellRecord(w, r, &g.records.public, g.sharesOf(r, own), client, own, v.signal != "")
	}
	g.sayUnproven(w, &v)
	g.judgeIdentity(&v, client) // of several
	before, after, err := recordEnds(proto.IdentityRecord{OptedOut: v.signal != ""})
	if err == nil {
		writeJSON(w, http.StatusOK, append(before, after...))
	}
	return err
}

// ownClientOf is the client of ?client=, if the request's page may know what
// that client holds of its browser.
func (g *Gateway) ownClientOf(w http.ResponseWriter, r *http.Request) (proto.ClientInfo, error) {
	client, err := g.clientNamed(queryValue(r.URL.RawQuery, "client"))
	h := w.Header()
	h["X-Content-Type-Options"], h["Cross-Origin-Resource-Policy"] = noSniff, sameSiteOnly
	if !g.mayReadSegments(r, client.Name) || !g.allowOrigin(w, r, client.Name) {
		return proto.ClientInfo{}, proto.Errorf(proto.CodeForbidden, "this origin is not among the client's: add it to the client's origins")
	}
	return client, err
}

// sameSiteOnly is for what no page of another site may load as a script or picture.
var sameSiteOnly = []string{"same-site"}

// ownErasure is the answer to an erasure of the caller's own browser.
type ownErasure struct {
	Erased  bool           `json:"erased"`
	Final   bool           `json:"final"`
	Receipt *proto.Receipt `json:"receipt,omitempty"`
}

// eraseOwn forgets the caller's own browser, for all clients. The cookie goes
// too, so that the next visit is a stranger's.
func (g *Gateway) eraseOwn(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	if !sameSite(r) && !g.trustedOrigin(r) {
		return errCrossSite
	}
	w.Header()["Cache-Control"] = noStore
	v := g.visitOf(r)
	answer, err := g.forgetOwn(w, r, &v)
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, answer)
}

// forgetOwn erases what the browser is known by, its statistical ids too, and takes its
// cookie away once all of that is under way: by the cookie an erasure that failed half is
// asked for again. Of several identities the answer has the first receipt; of more than
// are erased it is not final, and they stay named, as do those without their proof, which
// an opt-out has to reach.
func (g *Gateway) forgetOwn(w http.ResponseWriter, r *http.Request, v *visit) (ownErasure, error) {
	answer, began := ownErasure{Final: true}, time.Now()
	some, all := g.proofsMissing(v)
	if all {
		return answer, errUnprovenBrowser
	}
	states, err := g.ownCuts(r, v, g.own(v, v.toCut()), func(id proto.Identity) (proto.OptOutState, error) { return g.erase(r.Context(), nil, id) })
	if err != nil {
		return answer, err
	}
	more, err := g.eraseStatistical(r.Context(), r)
	if err != nil {
		return answer, err
	}
	if len(states) > 0 && !v.endless && !some {
		g.dropBrowser(w, v)
		v.leave()
	}
	states = append(states, more...)
	g.awaitFinal(r.Context(), v, states, began)
	for i := range states {
		answer.Erased, answer.Final = true, answer.Final && states[i].Final
		if answer.Receipt == nil {
			answer.Receipt = states[i].Receipt
		}
	}
	if v.endless {
		answer.Final, answer.Receipt = false, nil
	}
	return answer, nil
}
