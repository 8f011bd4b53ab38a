package proto

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dchest/siphash"
)

// Limits of names. An identity is at most IdentityBytesMax bytes, kind and
// colon included.
const (
	IdentityBytesMax = 256 + 32
	NameBytesMax     = 64
	Partitions       = 64
	LanesMax         = 64
)

// Identity is the name of a browser, device, account key or partner id:
// "kind:value", such as "browser:3f0c…" or "partner.acme:77".
type Identity string

// identityKinds are the kinds that need no suffix; "partner.NAME" is the other.
var identityKinds = []string{"browser", "aaid", "idfa", "account", "stat"}

// junkValues never name anybody, whatever a tag may send.
var junkValues = []string{"", "0", "00000000-0000-0000-0000-000000000000", "null", "nil", "none", "undefined", "nan", "-1", "anonymous", "unknown", "false", "true", "[object object]"}

// ParseIdentity checks kind and value. Refused with CodeIdentity: an unknown
// kind, an empty or junk value, more than 256 bytes, control characters,
// white space or invalid UTF-8.
func ParseIdentity(s string) (Identity, error) {
	kind, value, ok := strings.Cut(s, ":")
	if !ok {
		return "", Errorf(CodeIdentity, "identity %q has no kind: write kind:value, such as browser:abc", clip(s))
	}
	if !ValidKind(kind) {
		return "", Errorf(CodeIdentity, "identity kind %q is unknown: use browser, aaid, idfa, account, stat or partner.NAME", clip(kind))
	}
	if len(value) > 256 {
		return "", Errorf(CodeIdentity, "identity value has %d bytes: at most 256 are allowed", len(value))
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c <= ' ' || c == 0x7f {
			return "", Errorf(CodeIdentity, "identity value holds white space or a control character at byte %d", i)
		} else if c >= utf8.RuneSelf {
			if !utf8.ValidString(value) {
				return "", Errorf(CodeIdentity, "identity value is not valid UTF-8")
			}
			break
		}
	}
	if strings.ContainsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return "", Errorf(CodeIdentity, "identity value holds white space or a control character")
	}
	if isJunk(value) {
		return "", Errorf(CodeIdentity, "identity value %q names nobody: leave the identity out instead", value)
	}
	return Identity(s), nil
}

// ValidKind reports whether identities may be of a kind: browser, aaid, idfa,
// account, stat or partner.NAME.
func ValidKind(kind string) bool {
	if slices.Contains(identityKinds, kind) {
		return true
	}
	name, ok := strings.CutPrefix(kind, "partner.")
	return ok && ValidName(name)
}

func isJunk(value string) bool {
	if len(value) > 36 {
		return false
	}
	if strings.Trim(value, "0-") == "" {
		return true
	}
	for _, j := range junkValues {
		if strings.EqualFold(value, j) {
			return true
		}
	}
	return false
}

// Placeholder reports whether an identity's value is what many browsers send in a
// value's place: a macro that nobody filled in, such as ${UID}, {{uid}}, [UID] or
// %%UID%%, escaped or not, the hash of an empty text, or zeros as many as a hash has. It
// is an identity, of which nothing is to be stored: who was called so once may still be
// opted out.
func Placeholder(value string) bool {
	switch value {
	case "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855":
		return true
	}
	return value != "" && strings.Trim(value, "0-") == "" || unfilled(value)
}

// macroMarks stand around macros; only: a name in letters must be between them.
var macroMarks = []struct {
	open, close string
	only        bool
}{
	{"${", "}", false}, {"{{", "}}", false}, {"%%", "%%", false}, {"%{", "}", false}, {"#{", "}", false}, {"__", "__", true},
	{"{", "}", true}, {"[", "]", true}, {"<", ">", true}, {"$", "", true}, {"[[", "]]", true},
}

func unfilled(value string) bool {
	if len(value) < 3 || strings.IndexByte("$%{[<#_", value[0]) < 0 {
		return false
	}
	for _, m := range macroMarks {
		name, ok := strings.CutPrefix(value, m.open)
		if !ok {
			continue
		}
		if name, ok = strings.CutSuffix(name, m.close); ok && name != "" && (!m.only || strings.Trim(name, macroLetters) == "") {
			return true
		}
	}
	if plain, err := url.PathUnescape(value); err == nil && plain != value {
		return unfilled(plain)
	}
	return false
}

const macroLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-."

// Kind is the part before the first colon.
func (id Identity) Kind() string { kind, _, _ := strings.Cut(string(id), ":"); return kind }

// Value is the part after the first colon.
func (id Identity) Value() string { _, value, _ := strings.Cut(string(id), ":"); return value }

func (id Identity) String() string { return string(id) }

// ValidName reports whether s may name a client, space, segment, lane stream
// or partner: 1 to 64 of A-Z a-z 0-9 _ - and, not first, a dot.
func ValidName(s string) bool {
	if s == "" || len(s) > NameBytesMax || s[0] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

// ValidNode reports whether s may name a node of a cluster: a ValidName that can be a
// part of NATS subjects, in which no part between dots is empty.
func ValidNode(s string) bool {
	return ValidName(s) && !strings.HasSuffix(s, ".") && !strings.Contains(s, "..")
}

// ClientName names a client in the API; inside, a client is a ClientID.
type ClientName string

// ParseClientName checks s by ValidName and refuses dots, which would make
// several tokens of a NATS subject.
func ParseClientName(s string) (ClientName, error) {
	if !ValidName(s) || strings.ContainsRune(s, '.') {
		return "", Errorf(CodeClient, "client name %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ -", clip(s))
	}
	return ClientName(s), nil
}

// SegmentID names a segment of a client in the API.
type SegmentID string

// AudienceID names a saved audience of a client; expressions name it as @id.
type AudienceID string

// ParseAudienceID checks s by ValidName.
func ParseAudienceID(s string) (AudienceID, error) {
	if !ValidName(s) {
		return "", Errorf(CodeExpr, "audience name %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ - and, not first, dots", clip(s))
	}
	return AudienceID(s), nil
}

func (id AudienceID) String() string { return string(id) }

// Day is a day in UTC, counted from 1970.
type Day uint32

// DayOf is the day in which t lies.
func DayOf(t time.Time) Day { return Day(max(t.Unix(), 0) / (24 * 60 * 60)) }

// Day is the day in which m lies.
func (m Millis) Day() Day { return Day(max(m, 0) / (24 * 60 * 60 * 1000)) }

// ParseDay reads a day as YYYY-MM-DD.
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Unix() < 0 {
		return 0, Errorf(CodeTime, "%q is not a day: write it as 2026-11-27", clip(s))
	}
	return DayOf(t), nil
}

// Start is when the day begins.
func (d Day) Start() time.Time { return time.Unix(int64(d)*24*60*60, 0).UTC() }

func (d Day) String() string { return d.Start().Format(time.DateOnly) }

// MarshalText writes a day as YYYY-MM-DD.
func (d Day) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Day) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDay(string(b))
	return err
}

// ParseSegmentID checks s by ValidName; the words of audience expressions
// need letters first.
func ParseSegmentID(s string) (SegmentID, error) {
	if !ValidName(s) {
		return "", Errorf(CodeSegment, "segment id %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ - and dots, not a dot first", clip(s))
	}
	return SegmentID(s), nil
}

type (
	// ClientID is a client's number: the control sequence that made it.
	ClientID uint32
	// SpaceID is the number of a space: that of the client that first named it.
	SpaceID uint32
	// SegmentKey is one definition of a segment: the control sequence of its
	// Define. A new definition of the same SegmentID has a new key.
	SegmentKey uint32
	// PartitionID is one of the 64 fixed slots of the hash space.
	PartitionID uint8
	// LaneID is one log stream with the partitions it carries.
	LaneID uint8
	// Ordinal is the dense number of a node in its lane: local<<6 | partition.
	Ordinal uint32
	// Offset is a sequence of a lane's log; 0 is before the first entry.
	Offset uint64
	// Millis is a point in time, milliseconds since the Unix epoch, UTC.
	Millis int64
)

// LocalMax bounds a partition's local count: of 32 bits six are the partition.
const LocalMax = 1 << 26

// MakeOrdinal joins a partition's local count with the partition.
func MakeOrdinal(local uint32, p PartitionID) Ordinal { return Ordinal(local<<6 | uint32(p)&63) }

// Partition is the partition whose node the ordinal numbers.
func (o Ordinal) Partition() PartitionID { return PartitionID(o & 63) }

// Local is the count within the partition.
func (o Ordinal) Local() uint32 { return uint32(o >> 6) }

func (p PartitionID) String() string { return fmt.Sprintf("part-%02d", uint8(p)) }
func (l LaneID) String() string      { return fmt.Sprintf("%02d", uint8(l)) }

// MillisOf converts t; sub-millisecond parts are cut off.
func MillisOf(t time.Time) Millis { return Millis(t.UnixMilli()) }

// Time converts back, in UTC.
func (m Millis) Time() time.Time { return time.UnixMilli(int64(m)).UTC() }

// Add moves m by d, cut to milliseconds.
func (m Millis) Add(d time.Duration) Millis { return m + Millis(d/time.Millisecond) }

func (m Millis) String() string { return m.Time().Format("2006-01-02T15:04:05.000Z") }

// IdentityHash is the keyed hash by which an identity is stored and placed.
type IdentityHash [16]byte

func (h IdentityHash) String() string { return hex.EncodeToString(h[:]) }

// Partition is the identity's home; it is the same in every space.
func (h IdentityHash) Partition() PartitionID { return PartitionID(h[0] & (Partitions - 1)) }

// Prefix is the first eight bytes: enough to tell most hashes apart.
func (h IdentityHash) Prefix() uint64 { return binary.BigEndian.Uint64(h[:8]) }

// Hasher computes identity hashes: SipHash-2-4 with a 128-bit result, keyed
// with the deployment's secret. It must never change for a data directory.
type Hasher struct{ k0, k1 uint64 }

// NewHasher takes the 16-byte secret.
func NewHasher(secret [16]byte) Hasher {
	return Hasher{k0: le64(secret[:8]), k1: le64(secret[8:])}
}

// Hash is the keyed hash of id.
func (h Hasher) Hash(id Identity) IdentityHash {
	lo, hi := siphash.Hash128(h.k0, h.k1, bytesOf(string(id)))
	var out IdentityHash
	putLE64(out[:8], lo)
	putLE64(out[8:], hi)
	return out
}

// Node is a node of the graph: an identity within a space.
type Node struct {
	Hash  IdentityHash
	Space SpaceID
}

// Compare orders nodes by hash, then space.
func (n Node) Compare(o Node) int {
	if c := slices.Compare(n.Hash[:], o.Hash[:]); c != 0 {
		return c
	}
	switch {
	case n.Space < o.Space:
		return -1
	case n.Space > o.Space:
		return 1
	}
	return 0
}

// Position is a place in the logs of one or more lanes: what an
// acknowledgement gives and a look-up may wait for.
type Position map[LaneID]Offset

// ParsePosition reads what String writes: "0:15,3:77". At most LanesMax lanes.
func ParsePosition(s string) (Position, error) {
	p := Position{}
	if s == "" {
		return p, nil
	}
	if len(s) > LanesMax*24 {
		return nil, Errorf(CodeInvalid, "position is too long: pass what an acknowledgement gave")
	}
	for part := range strings.SplitSeq(s, ",") {
		lane, off, ok := strings.Cut(part, ":")
		l, err1 := strconv.ParseUint(lane, 10, 8)
		o, err2 := strconv.ParseUint(off, 10, 64)
		if !ok || err1 != nil || err2 != nil || l >= LanesMax {
			return nil, Errorf(CodeInvalid, "position %q is not valid: pass what an acknowledgement gave", clip(s))
		}
		p[LaneID(l)] = max(p[LaneID(l)], Offset(o))
	}
	return p, nil
}

func (p Position) String() string {
	lanes := make([]LaneID, 0, len(p))
	for l := range p {
		lanes = append(lanes, l)
	}
	slices.Sort(lanes)
	b := make([]byte, 0, 32)
	for i, l := range lanes {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(l), 10)
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(p[l]), 10)
	}
	return string(b)
}

// clip shortens untrusted text for an error message.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return s[:61] + "..."
}
