package gateway

import (
	"net/http"

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
// then on nothing is stored. If the cut fails the identity's cookie stays, so
// that the page can try again.
func (g *Gateway) optOut(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	if !sameSite(r) && !g.trustedOrigin(r) {
		return errCrossSite
	}
	g.setCookie(w, optOutCookie, "1", optOutCookieAge, false)
	w.Header()["Cache-Control"] = noStore
	answer := ownOptOut{OptedOut: true}
	if v := g.visitOf(r); v.browser != "" {
		x, err := g.readOwnOptOut(w, r)
		if err != nil {
			return err
		}
		x.Identity = string(v.browser)
		s, err := g.cutOut(r.Context(), x)
		if err != nil {
			return notCut(err)
		}
		answer.Final, answer.Receipt = &s.Final, s.Receipt
	}
	g.setCookie(w, browserCookie, "", -1, false)
	return writeValue(w, http.StatusOK, answer)
}

// readOwnOptOut reads the body, which may be missing.
func (g *Gateway) readOwnOptOut(w http.ResponseWriter, r *http.Request) (optOutRequest, error) {
	var x struct {
		Everywhere bool `json:"everywhere"`
	}
	body, err := g.readBody(w, r, nil)
	if err == nil && len(body) > 0 {
		err = decodeStrict(body, &x)
	}
	return optOutRequest{Everywhere: x.Everywhere}, err
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
	g.setCookie(w, optOutCookie, "", -1, false)
	v := g.visitOf(r)
	if v.browser != "" && g.stillOut(r, v.browser) {
		g.setCookie(w, browserCookie, "", -1, false)
	}
	v.cookie = false
	switch {
	case r.Header.Get("Sec-GPC") == "1":
		v.signal = "gpc"
	case r.Header.Get("DNT") == "1":
		v.signal = "dnt"
	default:
		v.signal = ""
	}
	writeJSON(w, http.StatusOK, consentAnswer(v))
	return nil
}

// stillOut opts the browser's identity in, if it is opted out, and reports
// whether it has to be given up instead: the visitor then gets a new one.
func (g *Gateway) stillOut(r *http.Request, id proto.Identity) bool {
	ctx, cancel := cutContext(r.Context())
	defer cancel()
	s, err := g.deps.OptOuts.OptOutState(ctx, id)
	if err != nil || !s.OptedOut {
		return err != nil
	}
	if _, err := g.deps.OptOuts.OptIn(ctx, id); err != nil {
		return proto.CodeOf(err) != proto.CodeConflict // lifted meanwhile
	}
	g.metrics.optIns.Inc()
	return false
}

// optOutStatus says whether anything would be stored for this browser.
func (g *Gateway) optOutStatus(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	v := g.visitOf(r)
	g.keep(w, v, "")
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, consentAnswer(v))
	return nil
}

func consentAnswer(v visit) []byte {
	if v.signal == "" {
		return []byte(`{"opted_out":false}` + "\n")
	}
	return []byte(`{"opted_out":true,"by":"` + v.signal + `"}` + "\n")
}
