package gateway

import "net/http"

// Why nothing was stored or told: the values of X-Kith-Withheld. The header's
// name is in the form that net/http keeps.
const (
	withheldHeader = "X-Kith-Withheld"

	withheldCookie    = "cookie"      // kith_optout=1
	withheldLMT       = "lmt"         // the device limits ad tracking
	withheldDNT       = "dnt"         // do not track
	withheldGPC       = "gpc"         // global privacy control
	withheldCOPPA     = "coppa"       // a child's
	withheldGDPR      = "gdpr"        // no consent by TCF, where it is needed
	withheldUSPrivacy = "us_privacy"  // opted out of sale
	withheldGPP       = "gpp"         // refused by a GPP section, or one cannot be read
	withheldOptedOut  = "opted_out"   // the identity is
	withheldNobody    = "no_identity" // none was named that counts
	withheldUnknown   = "unknown"     // nothing is known of it
)

// withheldReasons are all of them, for the counters.
var withheldReasons = [...]string{
	withheldCookie, withheldLMT, withheldDNT, withheldGPC, withheldCOPPA, withheldGDPR, withheldUSPrivacy, withheldGPP,
	withheldOptedOut, withheldNobody, withheldUnknown,
}

// signals are what a bid request, or a partner's call, says against the use of
// an identity. Texts may come twice, as in regs and in regs.ext: each counts.
type signals struct {
	lmt, dnt, gpc, coppa, gdpr bool
	gdprSaid                   bool      // gdpr was given, be it as 0
	consent                    [2]string // TC strings
	usPrivacy                  [2]string
	gpp                        [2]string
	sections                   sections // gpp_sid
}

// fromHeaders adds what a browser says itself, where its headers are passed on.
func (x *signals) fromHeaders(h http.Header) {
	x.gpc = x.gpc || h.Get("Sec-GPC") == "1"
	x.dnt = x.dnt || h.Get("DNT") == "1"
}

// against is the first reason against the use of the identity, "" if there is
// none. vendor is the operator's number in the TCF's list, 0 for none.
func (x *signals) against(vendor int) string {
	switch {
	case x.lmt:
		return withheldLMT
	case x.dnt:
		return withheldDNT
	case x.gpc:
		return withheldGPC
	case x.coppa:
		return withheldCOPPA
	}
	tc, refused := x.readGPP()
	there, allow := consents(vendor, append(tc, x.consent[:]...))
	// Where nobody says whether consent is needed, a string that is there counts.
	needed := x.gdpr || x.sections.has(gppTCF) || there && !x.gdprSaid
	switch {
	case needed && !(there && allow):
		return withheldGDPR
	case x.usPrivacy[0] != "" && optedOutOfSale(x.usPrivacy[0]) || x.usPrivacy[1] != "" && optedOutOfSale(x.usPrivacy[1]):
		return withheldUSPrivacy
	case refused:
		return withheldGPP
	}
	return ""
}

// readGPP reads the GPP strings; tc are their TCF sections. Sections that are said
// to be in force and are not there refuse, but for that of the TCF.
func (x *signals) readGPP() (tc []string, refused bool) {
	read := false
	for _, s := range x.gpp {
		if s == "" {
			continue
		}
		section, no := readGPP(s, x.sections)
		tc, refused, read = append(tc, section), refused || no, true
	}
	return tc, refused || !read && (x.sections.other || x.sections.set&^(1<<gppTCF) != 0)
}

// consents reports whether there are TC strings, and whether all of them consent.
func consents(vendor int, tc []string) (there, allow bool) {
	allow = true
	for _, s := range tc {
		if s != "" {
			there, allow = true, allow && tcAllows(s, vendor)
		}
	}
	return there, allow
}
