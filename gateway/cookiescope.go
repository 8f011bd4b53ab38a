package gateway

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"kith/proto"
)

// This file has a browser that sends several kith_id end up with one, and takes cookies
// away whatever their scope. Two hosts of a domain, or a cookie from before a domain was
// configured, leave cookies of the same name with different scopes: each is sent, and
// setting or clearing one leaves the others.

// scopesMax bounds the domains that a cookie is cleared for.
const scopesMax = 6

// cookieDomains are the domains that a cookie which the host was sent may have: none
// (the host's alone), the host and those above it up to the site, and the configured
// one.
func cookieDomains(host, configured string) []string {
	host = strings.ToLower(host)
	list := []string{""}
	if configured = strings.TrimPrefix(configured, "."); configured != "" {
		list = append(list, configured)
	}
	odd := strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != ""
	if _, err := netip.ParseAddr(host); err == nil || odd || !strings.Contains(host, ".") {
		return list
	}
	for site := siteOf(host); len(list) < scopesMax; {
		if host != configured {
			list = append(list, host)
		}
		_, above, ok := strings.Cut(host, ".")
		if host == site || !ok {
			break
		}
		host = above
	}
	return list
}

// dropBrowser takes the browser's cookie away, and its proof: what came in every scope, so
// that none answers for it later.
func (g *Gateway) dropBrowser(w http.ResponseWriter, v *visit) {
	if len(v.proofs) > 0 { // whether or not any are given out now
		g.clearScopes(w, v, proofCookie)
	}
	if v.idSent {
		g.clearScopes(w, v, browserCookie)
		return
	}
	g.setCookie(w, browserCookie, "", -1)
	if g.c.CookieProof && len(v.proofs) == 0 {
		g.setCookie(w, proofCookie, "", -1)
	}
}

// clearScopes takes a cookie that came away in every scope that it may have. One that did
// not come the browser would not let be cleared either, and each makes the answer longer.
func (g *Gateway) clearScopes(w http.ResponseWriter, v *visit, name string) {
	for _, domain := range cookieDomains(hostname(v.host), g.c.CookieDomain) {
		c := http.Cookie{Name: name, Path: "/", Domain: domain, MaxAge: -1, HttpOnly: true}
		if g.c.CookieInsecure {
			c.SameSite = http.SameSiteLaxMode
			http.SetCookie(w, &c)
			continue
		}
		c.Secure, c.SameSite = true, http.SameSiteNoneMode
		for _, c.Partitioned = range []bool{false, true} {
			http.SetCookie(w, &c)
		}
	}
}

// keepBrowser gives the browser its cookie for a time, instead of any others, and the
// proof unless it named that identity without one.
func (g *Gateway) keepBrowser(w http.ResponseWriter, v *visit, id proto.Identity, age time.Duration) {
	if v.doubled {
		g.dropBrowser(w, v)
	}
	g.setCookie(w, browserCookie, id.Value(), age)
	if g.c.CookieProof && !g.unproven(v, id) {
		g.setCookie(w, proofCookie, g.browserProof(id), age)
	}
}
