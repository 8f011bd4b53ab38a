package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/netip"
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
	proofCookie   = "kith_proof" // that kith_id was given to this browser
	optOutCookie  = "kith_optout"
	optInCookie   = "kith_optin" // it has opted in after an opt-out

	browserCookieAge = 183 * 24 * time.Hour
	optOutCookieAge  = 5 * 365 * 24 * time.Hour // browsers cut it to 400 days
)

// visit is what a public request says of its browser and its consent.
type visit struct {
	browser proto.Identity   // the cookie's, empty without one
	several []proto.Identity // instead of browser, if cookies name more than one
	rest    []proto.Identity // those over severalMax, which are cut with the others
	crowded bool             // there were more than severalMax
	endless bool             // there were more than cutTogetherMax
	host    string           // that the browser asked, with its port
	doubled bool             // several cookies kith_id came
	idSent  bool             // a cookie kith_id came, whatever its value
	outSent bool             // likewise kith_optout
	inSent  bool             // likewise kith_optin
	proofs  []string         // the cookies kith_proof, up to cutTogetherMax
	dark    proto.Identity   // of several, one that is opted out
	cookie  bool             // kith_optout=1 was sent
	in      bool             // kith_optin=1 was sent
	parted  bool             // it shows cookies to this site's pages only, but those made for that
	mute    bool             // it may do so, and does not say
	signals signals
	signal  string // why nothing may be stored, a value of X-Kith-Withheld; empty: it may
}

// cookiesReadMax is from how many bytes on cookies are looked for in the text too.
const cookiesReadMax = 4 << 10

// severalMax bounds the identities of one browser that are looked at, cutTogetherMax
// those that are cut with it.
const (
	severalMax     = 4
	cutTogetherMax = 32
)

// visitOf reads cookies and signals, and heeds those that no policy can change.
func (g *Gateway) visitOf(r *http.Request) visit {
	v := visit{signals: signalsOf(r), host: r.Host}
	if len(r.Header["Cookie"]) > 0 {
		v.readCookies(r)
	}
	v.parted, v.mute = apart(r.Header)
	if v.heedBrowser(); v.signal != "" {
		g.metrics.optedOut.Inc()
	}
	return v
}

// apart reports whether a browser says that it shows cookies to this site's pages only,
// and whether it may be one that does so without saying: under pages of other sites
// Safari says nothing, nor did Firefox before 147. A Chromium that does not say (before
// 133) shows cookies there, unless its user chose otherwise.
func apart(h http.Header) (said, mute bool) {
	access := firstOf(h["Sec-Fetch-Storage-Access"])
	mute = access == "" && firstOf(h["Sec-Fetch-Site"]) == "cross-site" && firstOf(h["Sec-Fetch-Dest"]) != "document" && len(h["Sec-Ch-Ua"]) == 0
	return access == "none" || access == "inactive", mute
}

// heedBrowser sets signal to what the browser itself says.
func (v *visit) heedBrowser() {
	switch v.signal = ""; {
	case v.cookie:
		v.signal = withheldCookie
	case v.signals.gpc:
		v.signal = withheldGPC
	case v.signals.dnt:
		v.signal = withheldDNT
	}
}

// readCookies reads ours. A browser whose cookies name several identities is known
// by none of them: another site under the same domain might have set one. Of an
// opt-out one of them is enough.
func (v *visit) readCookies(r *http.Request) {
	ours := cookiesNamed(r, browserCookie)
	v.idSent, v.doubled = len(ours) > 0, len(ours) > 1
	for _, value := range ours {
		switch id := browserIdentity(value); {
		case id == "" || id == v.browser || slices.Contains(v.several, id) || slices.Contains(v.rest, id):
		case v.browser == "":
			v.browser = id
		case len(v.several) < severalMax-1:
			v.several = append(v.several, id)
		case len(v.rest) < cutTogetherMax-severalMax:
			v.rest, v.crowded = append(v.rest, id), true
		default:
			v.endless = true
		}
	}
	if len(v.several) > 0 {
		v.several, v.browser = append(v.several, v.browser), ""
	}
	v.proofs = cookiesNamed(r, proofCookie)
	v.proofs = v.proofs[:min(len(v.proofs), cutTogetherMax)]
	for _, value := range cookiesNamed(r, optOutCookie) {
		v.outSent, v.cookie = true, v.cookie || value == "1"
	}
	for _, value := range cookiesNamed(r, optInCookie) {
		v.inSent, v.in = true, v.in || value == "1"
	}
	// net/http reads none at all where there are thousands.
	sent := 0
	for _, line := range r.Header["Cookie"] {
		sent += len(line)
	}
	for _, line := range r.Header["Cookie"] {
		if sent > cookiesReadMax && strings.Contains(line, optOutCookie+"=1") {
			v.outSent, v.cookie = true, true
		}
	}
}

// cookiesNamed are the values of the cookies of a name. Most browsers have but one
// cookie, of a value that stands for itself: that needs no reading by net/http.
func cookiesNamed(r *http.Request, name string) (values []string) {
	lines := r.Header["Cookie"]
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, name) }) {
		return nil
	}
	if key, value, _ := strings.Cut(lines[0], "="); len(lines) == 1 && key == name && proto.ValidName(value) {
		return []string{value}
	}
	for _, c := range r.CookiesNamed(name) {
		values = append(values, c.Value)
	}
	return values
}

// claims are the identities that the browser carries, up to severalMax.
func (v *visit) claims() []proto.Identity {
	if v.browser != "" {
		return []proto.Identity{v.browser}
	}
	return v.several
}

// toCut are the claims and, of a crowded browser, the rest.
func (v *visit) toCut() []proto.Identity { return slices.Concat(v.claims(), v.rest) }

// leave has v carry no identity any more.
func (v *visit) leave() { v.browser, v.several, v.rest, v.crowded = "", nil, nil, false }

// browserIdentity is the identity that a kith_id value names, empty if it is
// none that this plane would set, or one of which it stores nothing.
func browserIdentity(value string) proto.Identity {
	if len(value) > 64 || !proto.ValidName(value) || findPersonal(value) != noPersonal {
		return ""
	}
	id := "browser:" + value
	if checkIdentity(id) != nil || proto.Placeholder(value) {
		return ""
	}
	return proto.Identity(id)
}

// newBrowser makes a browser's identity: 128 random bits.
func newBrowser() proto.Identity {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return proto.Identity("browser:" + hex.EncodeToString(b[:]))
}

// setCookie sets the browser's, its proof or the opt-in's for a time, or clears it if age
// is negative.
func (g *Gateway) setCookie(w http.ResponseWriter, name, value string, age time.Duration) {
	// Opting in is for pages of this site, where nothing is kept apart.
	g.putCookie(w, name, value, age, name != optInCookie)
}

// setOptOut sets the opt-out's cookie, or clears it; what it opted in before goes
// or comes. It must also be seen where cookies are not kept apart by the site of
// the page; where they are it can only be one that is. What came in scopes that are not
// set now goes first.
func (g *Gateway) setOptOut(w http.ResponseWriter, v *visit, out bool) {
	if v.outSent {
		g.clearScopes(w, v, optOutCookie)
	}
	if v.inSent {
		g.clearScopes(w, v, optInCookie)
	}
	if out {
		g.putOptOut(w, v)
		if !v.inSent {
			g.setCookie(w, optInCookie, "", -1)
		}
		return
	}
	if !v.outSent {
		g.putCookie(w, optOutCookie, "", -1, true)
		g.putCookie(w, optOutCookie, "", -1, false)
	}
	g.setCookie(w, optInCookie, "1", optOutCookieAge)
}

// putOptOut sets the one that holds, without the other: what is kept apart could not be
// lifted from this site's own pages. Of a browser that does not say which that is it
// sets both: it drops the one that does not hold, and kith_id, which is kept apart, must
// not be there without either.
func (g *Gateway) putOptOut(w http.ResponseWriter, v *visit) {
	if v.parted || v.mute {
		g.putCookie(w, optOutCookie, "1", optOutCookieAge, true)
	} else {
		g.putCookie(w, optOutCookie, "", -1, true)
	}
	if !v.parted {
		g.putCookie(w, optOutCookie, "1", optOutCookieAge, false)
	}
}

// putCookie sets a cookie whose value is as browserIdentity wants it, 1 or empty.
func (g *Gateway) putCookie(w http.ResponseWriter, name, value string, age time.Duration, parted bool) {
	kind := cookieKind{age, parted}
	rest, ok := g.cookies[kind]
	if !ok {
		rest = g.cookieAttributes(kind)
	}
	h := w.Header()
	h["Set-Cookie"] = append(h["Set-Cookie"], name+"="+value+rest)
}

// cookieKind is what cookies have in common.
type cookieKind struct {
	age    time.Duration
	parted bool
}

// cookieAttributes are what stands behind a cookie's value.
func (g *Gateway) cookieAttributes(kind cookieKind) string {
	age, parted := kind.age, kind.parted
	c := &http.Cookie{Name: "x", Path: "/", Domain: g.c.CookieDomain, MaxAge: int(age / time.Second), HttpOnly: true}
	if g.c.CookieInsecure {
		c.SameSite = http.SameSiteLaxMode
	} else {
		c.Secure, c.SameSite, c.Partitioned = true, http.SameSiteNoneMode, parted
	}
	if age < 0 {
		c.MaxAge = -1
	}
	return strings.TrimPrefix(c.String(), "x=")
}

// keep renews the visitor's cookies: the browser's if something was stored
// for it, the opt-out's whenever it was sent. Of several browser's cookies one is
// left: a new one, or that of the identity that is opted out.
func (g *Gateway) keep(w http.ResponseWriter, v visit, stored proto.Identity) {
	switch {
	case v.cookie:
		g.putOptOut(w, &v)
	case v.signal == "" && stored != "":
		g.keepBrowser(w, &v, stored, browserCookieAge)
	case v.dark != "":
		g.keepBrowser(w, &v, v.dark, browserCookieAge)
	}
	if v.in && !v.cookie && !v.parted {
		g.setCookie(w, optInCookie, "1", optOutCookieAge)
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
	h.Set("Access-Control-Expose-Headers", "Retry-After")
	return true
}

// mayReadSegments reports whether the request's page may know the segments of
// its browser: pages of this site, and of origins that the client lists. Others
// could ask for those of its visitors.
func (g *Gateway) mayReadSegments(r *http.Request, client proto.ClientName) bool {
	return g.c.Dev || sameSite(r) || g.listedOrigin(r, client)
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
	u, err := url.Parse(origin) // "null" has no host
	return err == nil && u.Hostname() != "" && siteOf(u.Hostname()) == siteOf(hostname(r.Host))
}

func hostname(hostport string) string {
	u := url.URL{Host: hostport}
	return u.Hostname()
}

// siteOf is the registrable domain of a host, or the host if it has none, as an
// address in numbers.
func siteOf(host string) string {
	host = strings.ToLower(host)
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
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
