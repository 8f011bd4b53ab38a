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

// tcNeeded are the purposes without which nothing is stored or told: 1 (store
// and read information on a device), 3 (make profiles) and 4 (use them to select
// advertising).
const tcNeeded = 1<<(tcPurposesN-1) | 1<<(tcPurposesN-3) | 1<<(tcPurposesN-4)

// tcAllows reports whether a TC string consents to the purposes needed and, if
// vendor is not 0, to that vendor. A string that cannot be read, or is of
// another version, does not. Legitimate interest is no consent.
func tcAllows(s string, vendor int) bool {
	core, _, _ := strings.Cut(s, ".")
	b := bitString{s: core}
	version := b.take(6)
	b.at = tcPurposes
	purposes := b.take(tcPurposesN)
	if b.short || version != tcVersion || purposes&tcNeeded != tcNeeded {
		return false
	}
	if vendor == 0 {
		return true
	}
	b.at = tcVendors
	return b.vendor(uint32(vendor))
}

// vendor reports whether the list of vendors at b names one: a bit for each up
// to the greatest, or ranges.
func (b *bitString) vendor(vendor uint32) bool {
	greatest, ranges := b.take(16), b.take(1) == 1
	if !ranges {
		b.at += int(vendor) - 1
		return vendor <= greatest && b.take(1) == 1
	}
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
		if first <= vendor && vendor <= last {
			return true
		}
	}
	return false
}
