package gateway

import (
	"net/http"
	"time"

	"kith/proto"
)

var errCrossSite = proto.Errorf(proto.CodeForbidden, "this must come from a page of this site, or of one that a client lists in its origins")

// ownOptOut is the answer to an opt-out of the caller's own browser; final
// and receipt are there if it had an identity to cut.
type ownOptOut struct {
	OptedOut bool           `json:"opted_out"`
	Final    *bool          `json:"final,omitempty"`
	Receipt  *proto.Receipt `json:"receipt,omitempty"`
}

// optOut sets the opt-out cookie, cuts the browser's identity out and takes
// its cookie away. The opt-out cookie is set whatever happens to the cut: from
// then on nothing is stored. If the cut fails, or is not final in time, the identity's
// cookie stays, so that the page can try again and get the receipt.
func (g *Gateway) optOut(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	w.Header()["Cache-Control"] = noStore
	v := g.visitOf(r)
	x, malformed := g.readOwnOptOut(w, r)
	if malformed == nil && x.Again && v.in && !v.cookie {
		return writeValue(w, http.StatusOK, ownOptOut{})
	}
	if !sameSite(r) && !g.trustedOrigin(r) {
		return errCrossSite
	}
	g.setOptOut(w, &v, true)
	if malformed != nil && len(v.claims()) > 0 {
		return malformed
	}
	answer, err := g.cutOwn(w, r, &v, x.Everywhere)
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, answer)
}

// cutOwn cuts out what the browser is known by, its statistical ids too, and takes its
// cookie away once that is final. Of several identities the answer has the first receipt;
// of more than are cut it is not final, and they stay named.
func (g *Gateway) cutOwn(w http.ResponseWriter, r *http.Request, v *visit, everywhere bool) (ownOptOut, error) {
	answer, began := ownOptOut{OptedOut: true}, time.Now()
	states, err := g.ownCuts(r, v, v.toCut(), func(id proto.Identity) (proto.OptOutState, error) {
		return g.cutOut(r.Context(), g.toldOf(v, id), optOutRequest{Identity: string(id), Everywhere: everywhere})
	})
	if err != nil {
		return answer, notCut(err)
	}
	more, err := g.cutStatistical(r.Context(), r)
	if err != nil {
		return answer, notCut(err)
	}
	states = append(states, more...)
	g.awaitFinal(r.Context(), v, states, began)
	answer.add(states)
	if v.endless {
		answer.Final, answer.Receipt = new(bool), nil
	}
	if answer.going() {
		return answer, nil // by the cookie the receipt is had later
	}
	g.dropBrowser(w, v)
	v.leave()
	return answer, nil
}

// going reports whether something is cut but not removed everywhere yet.
func (x *ownOptOut) going() bool { return x.Final != nil && !*x.Final }

// add takes in what else was cut.
func (x *ownOptOut) add(states []proto.OptOutState) {
	for i := range states {
		final := states[i].Final && (x.Final == nil || *x.Final)
		x.Final = &final
		if x.Receipt == nil {
			x.Receipt = states[i].Receipt
		}
	}
}

// ownOptOutRequest is the body of an opt-out of the caller's own browser.
type ownOptOutRequest struct {
	Everywhere bool `json:"everywhere"`
	// Again says that a page only repeats an opt-out that was answered before. An
	// opt-in of this browser since, which an opt-out would have taken back, counts
	// more.
	Again bool `json:"again"`
}

// readOwnOptOut reads the body, which may be missing.
func (g *Gateway) readOwnOptOut(w http.ResponseWriter, r *http.Request) (ownOptOutRequest, error) {
	var x ownOptOutRequest
	body, err := g.readPublic(w, r, nil, g.c.BodyBytesMax)
	if err == nil && len(body) > 0 {
		err = decodeStrict(body, &x)
	}
	return x, err
}

// notCut makes sure that a page may try again and knows what holds already.
func notCut(err error) error {
	e := asError(err)
	switch statusOf(e.Code) {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return e
	}
	return proto.Errorf(proto.CodeUnavailable, "nothing is stored of this browser any more, but what was stored could not be cut out: try again: %w", err)
}

// optIn lifts the cookie. A signal of the browser itself stays in force.
func (g *Gateway) optIn(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	if !sameSite(r) {
		return errCrossSite
	}
	w.Header()["Cache-Control"] = noStore
	v := g.visitOf(r)
	g.liftOwn(w, r, &v)
	return g.writeStanding(w, r, &v)
}

// liftOwn lifts the opt-out of v, but for what its browser says itself.
func (g *Gateway) liftOwn(w http.ResponseWriter, r *http.Request, v *visit) {
	g.setOptOut(w, v, false)
	if len(v.several) > 0 || v.browser != "" && g.stillOut(r, v) {
		g.dropBrowser(w, v)
		v.leave()
	}
	v.cookie = false
	v.heedBrowser()
}

// stillOut opts the browser's identity in, if it is opted out, and reports
// whether it has to be given up instead: the visitor then gets a new one. So has one
// that an opt-out was to cut and did not: who comes back begins with nothing. And so has
// one of which nothing would be kept for long, since the clock was set back; and one
// without its proof, whose opt-out might be somebody else's.
func (g *Gateway) stillOut(r *http.Request, v *visit) bool {
	id := v.browser
	ctx, cancel := cutContext(r.Context())
	defer cancel()
	s, err := g.deps.OptOuts.OptOutState(ctx, id)
	if err != nil || !s.OptedOut {
		return err != nil || v.cookie
	}
	if g.unproven(v, id) {
		return true
	}
	done, err := g.admitOwn(r, id)
	if err != nil {
		return true
	}
	defer done()
	if s, err = g.deps.OptOuts.OptIn(ctx, proto.ClientInfo{}, id); err != nil {
		if proto.CodeOf(err) != proto.CodeConflict {
			return true
		}
		// It was lifted meanwhile, or opted out once more.
		s, err := g.deps.OptOuts.OptOutState(ctx, id)
		return err != nil || s.OptedOut
	}
	g.metrics.optIns.Inc()
	return s.CountsFrom != nil
}

// optOutStatus says whether anything would be stored of this browser, and what
// each signal did: to pages of this site, and to those that the client lists, or some
// client if none is named.
func (g *Gateway) optOutStatus(w http.ResponseWriter, r *http.Request) error {
	if name := queryValue(r.URL.RawQuery, "client"); name != "" || g.c.Dev || sameSite(r) || g.trustedOrigin(r) {
		g.allowOrigin(w, r, proto.ClientName(name))
	}
	v := g.visitOf(r)
	g.keep(w, v, "")
	w.Header()["Cache-Control"] = noStore
	return g.writeStanding(w, r, &v)
}
