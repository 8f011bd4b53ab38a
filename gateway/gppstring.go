package gateway

import (
	"strconv"
	"strings"
)

// The numbers of GPP sections (IAB Tech Lab, Global Privacy Platform, "Section
// Information").
const (
	gppTCF       = 2
	gppUSPrivacy = 6
	gppUSFirst   = 7  // national
	gppUSLast    = 23 // Minnesota; those after it are laid out otherwise
)

// sections are numbers of GPP sections: a bit each.
type sections struct {
	listed bool // somebody said which are in force
	other  bool // among them is one that has no bit
	set    uint64
}

// add takes a number as it stands in gpp_sid: 0 says that it is not known yet which
// are in force, one below that none is (IAB Tech Lab, GPP, "CMP API").
func (x *sections) add(v float64) {
	if v == 0 {
		return
	}
	x.listed = true
	switch n := int(v); {
	case v >= 64 || float64(n) != v:
		x.other = true
	case v < 0:
	default:
		x.set |= 1 << n
	}
}

// parse takes numbers as they stand in a query, 2,6, or in apps' storage, 2_6.
func (x *sections) parse(list string) {
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '_' }) {
		if v, err := strconv.Atoi(item); err == nil {
			x.add(float64(v))
		} else {
			x.listed, x.other = true, true
		}
	}
}

func (x sections) has(n int) bool { return n > 0 && n < 64 && x.set>>n&1 == 1 }

// readGPP reads a GPP string: refused if a section in force opts out of sale,
// of sharing or of targeted advertising, says GPC, or cannot be read. In force
// is what was listed, or, if nobody did, each section that is there and known.
// Whether consent by TCF is needed others know; tc is its section, if there is
// one.
func readGPP(s string, inForce sections) (tc string, refused bool) {
	header, rest, more := strings.Cut(s, "~")
	h := bitString{s: header}
	// A type and a version, then the numbers of the sections in their order, as
	// ranges: each begins so far after the one before.
	if kind, version := h.take(6), h.take(6); kind != 3 || version != 1 || inForce.other {
		return "", true
	}
	var seen uint64
	number := 0
	for range h.take(12) {
		wide := h.take(1) == 1
		number += h.fibonacci()
		last := number
		if wide {
			last += h.fibonacci()
		}
		for ; number <= last; number++ {
			if h.short || !more {
				return "", true
			}
			var section string
			section, rest, more = strings.Cut(rest, "~")
			if number < 64 {
				seen |= 1 << number
			}
			if number == gppTCF {
				tc = section
			}
			if inForce.listed && !inForce.has(number) {
				continue
			}
			if sectionRefuses(number, section, inForce.listed) {
				return tc, true
			}
		}
		number = last
	}
	// Consent by TCF may come beside the string.
	missing := inForce.set &^ seen &^ (1 << gppTCF)
	return tc, h.short || missing != 0
}

// The sections of the string itself: its header, and who vouches for it.
const gppHeader, gppIntegrity = 3, 4

// sectionRefuses reports whether a section speaks against us. One that is not
// known here does: of Canada, of further states, laid out otherwise.
func sectionRefuses(number int, s string, surely bool) bool {
	switch {
	case number == gppTCF:
		return false
	case number == gppUSPrivacy:
		return optedOutOfSale(s)
	case number >= gppUSFirst && number <= gppUSLast:
		return usRefuses(number, s)
	}
	return surely || number != gppHeader && number != gppIntegrity
}

// usRefuses reads a section of the United States. Its core has a version of six
// bits, then two bits for each notice, then two for each opt-out (1: opted out):
// of sale, of sharing (national, California) and of targeted advertising (all but
// California). The national section has six notices; Utah and Iowa have four, all
// others three. A subsection of type 1 holds the GPC bit.
func usRefuses(number int, s string) bool {
	notices, optOuts := 3, 2
	switch number {
	case 7:
		notices, optOuts = 6, 3
	case 11, 18:
		notices = 4
	}
	core, rest, more := strings.Cut(s, ".")
	b := bitString{s: core}
	version := b.take(6)
	b.at += 2 * notices
	out := false
	for range optOuts {
		out = b.take(2) == 1 || out
	}
	if out || b.short || version < 1 || version > 2 {
		return true
	}
	for more {
		var sub string
		sub, rest, more = strings.Cut(rest, ".")
		if g := (bitString{s: sub}); g.take(2) == 1 && g.take(1) == 1 {
			return true
		}
	}
	return false
}

// optedOutOfSale reads a US Privacy string (IAB Tech Lab, CCPA), such as 1YNN:
// its third character. What cannot be read opts out.
func optedOutOfSale(s string) bool {
	return len(s) != 4 || s[0] != '1' || s[2]|0x20 != 'n' && s[2] != '-'
}
