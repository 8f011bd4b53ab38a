package proto

import (
	"strconv"
	"strings"
	"time"
)

// A client's own list of identities is kept as traits that only imports set: of
// whoever is on the list its list's, with the number of the import that put it
// there; of whoever is on one that is not decided yet the import's.
const (
	listPrefix   = "import."
	stagedPrefix = "import#"
)

// ImportSegmentBytesMax is the longest id of an imported segment.
const ImportSegmentBytesMax = PropKeyBytesMax - len(listPrefix)

// ListTrait is the trait of those on the list of a segment.
func ListTrait(id SegmentID) string { return listPrefix + string(id) }

// StagedTrait is the trait of those on an import that is not decided yet.
func StagedTrait(number uint64) string { return stagedPrefix + strconv.FormatUint(number, 10) }

// ReservedTrait reports whether only imports may set a trait.
func ReservedTrait(key string) bool {
	return strings.HasPrefix(key, listPrefix) || strings.HasPrefix(key, stagedPrefix)
}

// ParseReserved tells what a reserved trait stands for: the list of a segment, or
// else an import's number.
func ParseReserved(key string) (list SegmentID, staged uint64) {
	if id, ok := strings.CutPrefix(key, listPrefix); ok {
		return SegmentID(id), 0
	}
	if n, ok := strings.CutPrefix(key, stagedPrefix); ok {
		staged, _ = strconv.ParseUint(n, 10, 64) // malformed is 0, which no import has
	}
	return "", staged
}

// ImportMode is what an import does with the list of its segment.
type ImportMode string

// The modes.
const (
	ImportCreate  ImportMode = "create" // there must be none
	ImportReplace ImportMode = "replace"
	ImportAdd     ImportMode = "add"
	ImportRemove  ImportMode = "remove"
)

// ParseImportMode reads a mode's name; "" is ImportCreate.
func ParseImportMode(s string) (ImportMode, error) {
	switch m := ImportMode(s); m {
	case "":
		return ImportCreate, nil
	case ImportCreate, ImportReplace, ImportAdd, ImportRemove:
		return m, nil
	}
	return "", Errorf(CodeInvalid, "mode %q is unknown: use create, replace, add or remove", clip(s))
}

// ImportState is how far an import is. Its numbers are in the control stream.
type ImportState uint32

// The states, in their order. From ImportSealed on the node goes on by itself.
const (
	ImportOpen    ImportState = 1 // takes rows
	ImportSealed  ImportState = 2 // committed: what it matches is being counted
	ImportMerging ImportState = 3 // accepted: its list is being changed
	ImportDone    ImportState = 4
	ImportBelow   ImportState = 5 // refused: too few matched
	ImportEnded   ImportState = 6 // given up
	ImportSwept   ImportState = 7 // in the control stream only: nothing is left of those that failed up to this number
)

var importStates = [...]string{"", "open", "checking", "merging", "active", "below", "ended", "swept"}

func (s ImportState) String() string {
	if int(s) < len(importStates) {
		return importStates[s]
	}
	return "unknown"
}

// Final reports whether nothing more becomes of the import.
func (s ImportState) Final() bool { return s >= ImportDone }

// ImportSpec is what is asked for when an import is opened.
type ImportSpec struct {
	Segment SegmentID
	Mode    ImportMode
	Scope   string // of the segment, where it is made; "" for user
}

// ImportStatus is an import as the API tells of it. The figures are exact for admin
// keys; for others they are rounded, or not told.
type ImportStatus struct {
	ID         string     `json:"id"`
	Segment    SegmentID  `json:"segment"`
	Mode       ImportMode `json:"mode"`
	State      string     `json:"state"`
	Opened     time.Time  `json:"opened"`
	Identities *uint64    `json:"identities,omitempty"`
	Matched    *uint64    `json:"matched,omitempty"`
	Rate       *float64   `json:"rate,omitempty"`
	Rounded    int        `json:"rounded,omitempty"`
	Below      int        `json:"below,omitempty"`
	Reason     string     `json:"reason,omitempty"`
}

// Import is one import. Identities and Matched are what client keys may be told
// if Told, exact numbers are for admin keys.
type Import struct {
	Number  uint64
	Segment SegmentID
	Mode    ImportMode
	Scope   string
	State   ImportState
	Opened  time.Time
	Floor   int
	Reason  string // of one that was given up
	Ended   uint64 // the control record by which it came to its end, 0 if it did not

	Identities, Matched         uint64 // set once decided
	ToldIdentities, ToldMatched uint64
	Rounded                     int // what they are multiples of
}
