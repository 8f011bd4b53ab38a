package gateway

import (
	"net/http"

	"kith/proto"
)

var errCrossSite = proto.Errorf(proto.CodeForbidden, "this must come from a page of this site, or of one that a client lists in its origins")

// optOut sets the opt-out cookie and takes the identity's away.
func (g *Gateway) optOut(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	if !sameSite(r) && !g.trustedOrigin(r) {
		return errCrossSite
	}
	g.setCookie(w, optOutCookie, "1", optOutCookieAge, false)
	g.setCookie(w, browserCookie, "", -1, false)
	writeJSON(w, http.StatusOK, []byte(`{"opted_out":true}`+"\n"))
	return nil
}

// optIn lifts the cookie. A signal of the browser itself stays in force.
func (g *Gateway) optIn(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	if !sameSite(r) {
		return errCrossSite
	}
	g.setCookie(w, optOutCookie, "", -1, false)
	v := g.visitOf(r)
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
