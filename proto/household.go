package proto

import (
	"strconv"
	"strings"
)

// This file is what is inferred rather than said: networks that devices were seen
// on, the households that follow, and statistical ids.

// NetworkKey stands for a network address that was cut to /24 or /48: a keyed hash
// of it and of the client. 0: none is known.
type NetworkKey uint64

func (k NetworkKey) String() string { return strconv.FormatUint(uint64(k), 16) }

// HouseholdKind is the kind of an edge between devices of one household.
const HouseholdKind = "household"

// HouseholdDays is for how many days, today included, it is remembered that a
// device was seen on a network.
const HouseholdDays = 30

// HouseholdRule is from when on devices that share a network are of one household.
type HouseholdRule struct {
	DaysMin       int // of the last HouseholdDays, on which both were seen there
	IdentitiesMax int // a network with more of them is no household's
}

// Limits of a HouseholdRule.
const (
	HouseholdDaysLeast     = 2
	HouseholdIdentitiesMax = 64
)

// Validate says what to change.
func (r HouseholdRule) Validate() error {
	switch {
	case r.DaysMin < HouseholdDaysLeast || r.DaysMin > HouseholdDays:
		return Errorf(CodeInvalid, "a household needs %d days in common: use %d to %d", r.DaysMin, HouseholdDaysLeast, HouseholdDays)
	case r.IdentitiesMax < 2 || r.IdentitiesMax > HouseholdIdentitiesMax:
		return Errorf(CodeInvalid, "a household has at most %d identities: use 2 to %d", r.IdentitiesMax, HouseholdIdentitiesMax)
	}
	return nil
}

// HouseholdEdge is that A, of the user asked about, and B, of another, were seen on
// the same network again and again. It joins no users.
type HouseholdEdge struct {
	A          Identity `json:"a"`
	B          Identity `json:"b"`
	Kind       string   `json:"kind"`       // HouseholdKind
	Method     string   `json:"method"`     // inferred
	Confidence float64  `json:"confidence"` // below 1
	Days       int      `json:"days"`       // on which both were seen there
	Last       Day      `json:"last"`       // the newest of them
}

// NetworkSeen is a network that an identity was seen on, by a name that is the
// client's alone.
type NetworkSeen struct {
	Network string `json:"network"`
	Days    []Day  `json:"days"`
}

// statKind is the kind of statistical ids.
const statKind = "stat"

// RotatingID makes the statistical id that ends with a day, from the letters that
// stand for the browser.
func RotatingID(last Day, letters string) Identity {
	return Identity(statKind + ":r" + strconv.FormatUint(uint64(last), 10) + "." + letters)
}

// Rotates reports whether kith made the id for a time, and when that is over. Other
// ids of kind stat are their client's own.
func Rotates(id Identity) (end Millis, ok bool) {
	rest, rotating := strings.CutPrefix(string(id), statKind+":r")
	if !rotating {
		return 0, false
	}
	number, _, ok := strings.Cut(rest, ".")
	if !ok || number == "" || len(number) > 6 || number[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, false
	}
	return MillisOf((Day(n) + 1).Start()), true
}

// SuppressionID is the identity that nothing is ever kept of: while it is opted
// out, no statistical id is made from what the letters stand for.
func SuppressionID(letters string) Identity { return Identity(statKind + ":never." + letters) }

// Made reports whether kith made the id itself, from signals or against them. It is
// never linked.
func Made(id Identity) bool {
	_, rotates := Rotates(id)
	return rotates || strings.HasPrefix(string(id), statKind+":never.")
}
