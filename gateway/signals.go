package gateway

import (
	"iter"
	"net/http"
	"strings"

	"kith/proto"
)

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

// signals are what a request says against the use of an identity. Texts may
// come twice, as in regs and in regs.ext: each counts.
type signals struct {
	lmt, dnt, gpc, coppa, gdpr bool
	gdprSaid                   bool      // gdpr was given, be it as 0
	optIn                      bool      // consent is needed where the visitor is
	consent                    [2]string // TC strings
	usPrivacy                  [2]string
	gpp                        [2]string
	sections                   sections // gpp_sid
}

// queryMax bounds the query of a public request.
const queryMax = 16 << 10

func checkQuery(query string) error {
	if len(query) > queryMax {
		return proto.Errorf(proto.CodeTooLarge, "the query is over %d KiB: events go in the body of POST /v1/events", queryMax>>10)
	}
	return nil
}

// signalsOf are the signals of a request's headers and query.
func signalsOf(r *http.Request) signals {
	var x signals
	x.fromHeaders(r.Header)
	if r.URL.RawQuery != "" {
		x.fromQuery(r.URL.RawQuery)
	}
	return x
}

// fromHeaders adds what a browser says itself, where its headers are passed on.
func (x *signals) fromHeaders(h http.Header) {
	x.gpc = x.gpc || raised(h["Sec-Gpc"])
	x.dnt = x.dnt || raised(h["Dnt"])
}

// raised reports whether a header that a browser raises is 1, in any of its lines
// and in any part of one: who joined or doubled it did not lower it.
func raised(lines []string) bool {
	for item := range listed(lines) {
		if item == "1" {
			return true
		}
	}
	return false
}

// listed gives the items of a header that is a list, over however many lines.
func listed(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for item := range strings.SplitSeq(line, ",") {
				if !yield(strings.TrimSpace(item)) {
					return
				}
			}
		}
	}
}

// unreadable stands for a text that cannot be read, and so refuses.
const unreadable = "?"

// fromQuery adds what a query says. A signal that is there twice counts twice. Of
// other parameters, such as a page's url, the value is not unescaped.
func (x *signals) fromQuery(query string) {
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		key = parameter(key)
		if new(signals).take(key, "") == 0 {
			continue
		}
		value, ok := unescaped(value)
		if !ok {
			value = unreadable
		}
		x.take(key, value)
	}
}

// take keeps a signal of a query, by the names that partners' addresses have
// macros for. The bit tells signals apart; 0 is for other parameters.
func (x *signals) take(key, value string) (bit uint) {
	switch key {
	case "gdpr_consent":
		put(&x.consent, value)
		return 1
	case "us_privacy":
		put(&x.usPrivacy, value)
		return 2
	case "gpp":
		put(&x.gpp, value)
		return 4
	case "gdpr":
		x.gdpr, x.gdprSaid = x.gdpr || flagged(value), x.gdprSaid || value != ""
		return 8
	case "gpp_sid":
		if value != "" {
			x.sections.parse(value)
		}
		return 16
	case "lmt":
		x.lmt = x.lmt || flagged(value)
		return 32
	case "coppa":
		x.coppa = x.coppa || flagged(value)
		return 64
	case "gpc":
		x.gpc = x.gpc || flagged(value)
		return 128
	case "dnt":
		x.dnt = x.dnt || flagged(value)
		return 256
	}
	return 0
}

// flagged reports whether a flag of a query is set.
func flagged(value string) bool {
	return value != "" && value != "0" && value != "false" && value != "null"
}

// put adds a text; of a third one it is not known what it says.
func put(texts *[2]string, s string) {
	switch {
	case s == "":
	case texts[0] == "":
		texts[0] = s
	case texts[1] == "":
		texts[1] = s
	default:
		texts[1] = unreadable
	}
}

// against is the first reason against the use of the identity by a client with
// the policy, "" if there is none.
func (x *signals) against(p *policy) string {
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
	switch there, allow := p.consents(tc, x.consent); {
	case x.needed(there) && !(there && allow):
		return withheldGDPR
	case x.soldOut():
		return withheldUSPrivacy
	case refused:
		return withheldGPP
	}
	return ""
}

// needed reports whether consent is; there: a TC string is. Where nobody says
// whether it is needed, a string that is there counts.
func (x *signals) needed(there bool) bool {
	return x.optIn || x.gdpr || x.sections.has(gppTCF) || there && !x.gdprSaid
}

// soldOut reports whether a US Privacy string opts out of sale.
func (x *signals) soldOut() bool {
	return x.usPrivacy[0] != "" && optedOutOfSale(x.usPrivacy[0]) || x.usPrivacy[1] != "" && optedOutOfSale(x.usPrivacy[1])
}

// readGPP reads the GPP strings; tc are their TCF sections. Sections that are said
// to be in force and are not there refuse, but for that of the TCF.
func (x *signals) readGPP() (tc [2]string, refused bool) {
	read := false
	for i, s := range x.gpp {
		if s == "" {
			continue
		}
		section, no := readGPP(s, x.sections)
		tc[i], refused, read = section, refused || no, true
	}
	return tc, refused || !read && (x.sections.other || x.sections.set&^(1<<gppTCF) != 0)
}
