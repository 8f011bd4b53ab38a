package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"kith/proto"
)

// The cookies of the public plane.
const (
	browserCookie = "kith_id"
	optOutCookie  = "kith_optout"

	browserCookieAge = 183 * 24 * time.Hour
	optOutCookieAge  = 5 * 365 * 24 * time.Hour // browsers cut it to 400 days
)

// visit is what a public request says of its browser and its consent.
type visit struct {
	browser proto.Identity // the cookie's, empty without one
	cookie  bool           // kith_optout=1 was sent
	signal  string         // why nothing may be stored: gpc, dnt or cookie; empty: it may
}

// visitOf reads cookies and signals.
func (g *Gateway) visitOf(r *http.Request) visit {
	var v visit
	if len(r.Header["Cookie"]) > 0 {
		if c, err := r.Cookie(browserCookie); err == nil {
			v.browser = browserIdentity(c.Value)
		}
		c, err := r.Cookie(optOutCookie)
		v.cookie = err == nil && c.Value == "1"
	}
	switch {
	case v.cookie:
		v.signal = "cookie"
	case r.Header.Get("Sec-GPC") == "1":
		v.signal = "gpc"
	case r.Header.Get("DNT") == "1":
		v.signal = "dnt"
	}
	if v.signal != "" {
		g.metrics.optedOut.Inc()
	}
	return v
}

// browserIdentity is the identity that a kith_id value names, empty if it is
// none that this plane would set.
func browserIdentity(value string) proto.Identity {
	if len(value) > 64 || !proto.ValidName(value) {
		return ""
	}
	id, err := proto.ParseIdentity("browser:" + value)
	if err != nil {
		return ""
	}
	return id
}

// newBrowser makes a browser's identity: 128 random bits.
func newBrowser() proto.Identity {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return proto.Identity("browser:" + hex.EncodeToString(b[:]))
}

// setCookie sets one for a time, or clears it if age is negative.
func (g *Gateway) setCookie(w http.ResponseWriter, name, value string, age time.Duration, script bool) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", Domain: g.c.CookieDomain, MaxAge: int(age / time.Second), HttpOnly: !script}
	if g.c.CookieInsecure {
		c.SameSite = http.SameSiteLaxMode
	} else {
		c.Secure, c.SameSite = true, http.SameSiteNoneMode
		// The opt-out must also be seen where cookies are not partitioned.
		c.Partitioned = name == browserCookie
	}
	if age < 0 {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// keep renews the visitor's cookies: the browser's if something was stored
// for it, the opt-out's whenever it was sent.
func (g *Gateway) keep(w http.ResponseWriter, v visit, stored proto.Identity) {
	switch {
	case v.cookie:
		g.setCookie(w, optOutCookie, "1", optOutCookieAge, false)
	case v.signal == "" && stored != "":
		g.setCookie(w, browserCookie, stored.Value(), browserCookieAge, false)
	}
}

// allowOrigin lets the request's page read the answer, with cookies, if the
// client's list allows it. client is empty where none is known.
func (g *Gateway) allowOrigin(w http.ResponseWriter, r *http.Request, client proto.ClientName) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	h := w.Header()
	h.Set("Vary", "Origin")
	if list, ok := g.c.Origins[client]; ok && !slices.Contains(list, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	return true
}

// mayReadSegments reports whether the request's page may know the segments of
// its browser. Where the client lists no origins, any site could ask for those
// of its visitors: then only pages of this site may.
func (g *Gateway) mayReadSegments(r *http.Request, client proto.ClientName) bool {
	_, listed := g.c.Origins[client]
	return listed || g.c.Dev || sameSite(r)
}

// preflight answers the browser's question before a cross-site request.
func (g *Gateway) preflight(w http.ResponseWriter, r *http.Request) error {
	if g.allowOrigin(w, r, proto.ClientName(queryValue(r.URL.RawQuery, "client"))) {
		h := w.Header()
		h.Set("Access-Control-Allow-Methods", "DELETE, GET, POST")
		h.Set("Access-Control-Allow-Headers", "Content-Type, Content-Encoding")
		h.Set("Access-Control-Max-Age", "86400")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// sameSite reports whether the request comes from a page of this site, or
// from no page at all. Browsers say so in Sec-Fetch-Site, older ones in Origin.
func sameSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "same-site", "none":
		return true
	case "":
	default:
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && siteOf(u.Hostname()) == siteOf(hostname(r.Host))
}

func hostname(hostport string) string {
	u := url.URL{Host: hostport}
	return u.Hostname()
}

// siteOf is the registrable domain of a host, or the host if it has none.
func siteOf(host string) string {
	host = strings.ToLower(host)
	if site, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
		return site
	}
	return host
}

// trustedOrigin reports whether some client lists the request's origin: its
// pages may opt their visitors out.
func (g *Gateway) trustedOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	for _, list := range g.c.Origins {
		if origin != "" && slices.Contains(list, origin) {
			return true
		}
	}
	return false
}
