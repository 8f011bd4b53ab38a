package gateway

import "strings"

// Where the fields of a TC string's core lie, in bits (IAB Europe, Transparency
// and Consent Framework, "Consent string and vendor list format", version 2).
const (
	tcVersion   = 2
	tcPurposes  = 152 // 24 bits, purpose 1 first: those consented to
	tcVendors   = 213 // then the vendors consented to
	tcPurposesN = 24
)

// tcNeeded are the purposes without which nothing is stored or told unless a
// client's policy names others: 1 (store and read information on a device), 3
// (make profiles) and 4 (use them to select advertising).
const tcNeeded = 1<<(tcPurposesN-1) | 1<<(tcPurposesN-3) | 1<<(tcPurposesN-4)

// tcAllows reports whether a TC string consents to the needed purposes and, if
// vendor is not 0, to that vendor, with no restriction by the publisher against it
// for one of them. A string that cannot be read to the end of its core, or is of
// another version, does not. Legitimate interest is no consent.
func tcAllows(s string, needed uint32, vendor int) bool {
	core, _, _ := strings.Cut(s, ".")
	b := bitString{s: core}
	version := b.take(6)
	b.at = tcPurposes
	purposes := b.take(tcPurposesN)
	if b.short || version != tcVersion || purposes&needed != needed {
		return false
	}
	b.at = tcVendors
	consented := b.vendor(uint32(vendor))
	b.vendor(uint32(vendor)) // legitimate interests
	restricted := b.restricted(needed, uint32(vendor))
	return !b.short && (vendor == 0 || consented && !restricted)
}

// restricted reads the publisher's restrictions at b, and reports whether one takes
// consent to a purpose that is needed from a vendor: flatly, or because only
// legitimate interest is let.
func (b *bitString) restricted(needed, vendor uint32) (out bool) {
	const flatly, interestOnly = 0, 2
	for range b.take(12) {
		purpose, kind := b.take(6), b.take(2)
		named := b.ranges(vendor)
		matters := purpose >= 1 && purpose <= tcPurposesN && needed>>(tcPurposesN-purpose)&1 == 1
		out = out || named && matters && (kind == flatly || kind == interestOnly)
		if b.short {
			return true
		}
	}
	return out
}

// vendor reads the list of vendors at b and reports whether it names one: a bit
// for each up to the greatest, or ranges.
func (b *bitString) vendor(vendor uint32) (named bool) {
	greatest, ranges := b.take(16), b.take(1) == 1
	if ranges {
		return b.ranges(vendor)
	}
	end := b.at + int(greatest)
	if vendor <= greatest {
		b.at += int(vendor) - 1
		named = b.take(1) == 1
	}
	b.at = end
	return named
}

// ranges reads ranges of vendors at b and reports whether one is in them.
func (b *bitString) ranges(vendor uint32) (named bool) {
	for range b.take(12) {
		wide := b.take(1) == 1
		first := b.take(16)
		last := first
		if wide {
			last = b.take(16)
		}
		if b.short {
			return false
		}
		named = named || first <= vendor && vendor <= last
	}
	return named
}
