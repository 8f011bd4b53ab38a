package graph

import (
	"bytes"
	"cmp"
	"slices"

	"kith/proto"
)

// State is the graph's part of what is known of one node. The zero State is a
// node that nobody has linked or cut: its own root, with no view to keep.
// Slices are sorted by their first field unless the comment says otherwise.
type State struct {
	Gen      uint32       // from 1; a cut and an opt-in each begin the next
	Ver      uint64       // of the facts; never restarts
	Dark     bool         // opted out; Gen is the tombstone's
	Fence    proto.Millis // evidence must be newer
	Links    []Neighbour
	Removals uint64 // number of the newest removal or refusal that was told; never restarts
	Root     Hash   // zero: the node itself
	Joined   uint64 // Ver of the first copy for this root

	Holders []Holder // roots that have, or may have, a copy
	Waits   []Wait   // in order of arrival
	Shown   Shown

	// As a root.
	Members   []Member
	Invited   []Hash     // sorted; not to be invited again
	Questions []Question // in order of arrival
	Promises  []Question // answered yes, and the member's copy does not say so yet
	Number    uint64     // of the newest verdict; never restarts
	Given     Value      // what the receivers were last given
	Receivers []Receiver // outlives the view
	Owed      []Owed     // in order of arrival

	Cuts     []CutRecord // in order of arrival
	Asks     []Asked     // Link commands not yet answered, in order of arrival
	Commands []uint64    // ids of the last Cut and Erase commands

	copied []Edge // Links as copies carry them; nil: to be made. Not stored.
}

// Stage is how far an edge is.
type Stage uint8

// The stages.
const (
	Absent      Stage = 0
	Pending     Stage = 1 // proposed by this home
	Established Stage = 2 // both homes agreed
)

// MarkKind says why a neighbour without an edge is remembered.
type MarkKind uint8

// The kinds of marks.
const (
	Unmarked    MarkKind = 0
	RemovedMark MarkKind = 1 // removed on request: older evidence is refused
	CappedMark  MarkKind = 2 // removed by a cap, or taken back: until Forgot
)

// Neighbour is all that a home knows of one neighbour.
type Neighbour struct {
	Peer     Hash
	Stage    Stage
	Gen      uint32 // of the neighbour, when Established
	Settled  bool   // a Link command was answered with it
	Evidence        // zero when Absent
	Mark     MarkKind
	MarkGen  uint32 // generation of the neighbour; 0: not confirmed
	MarkTime proto.Millis
	Told     uint64 // number by which the ends know a CappedMark, or of the Drop that told a RemovedMark, until it is confirmed; else 0
	Theirs   bool   // CappedMark: Told is a number of the neighbour's
	Open     uint32 // proposals of this home that are not answered; until they are, a cut tells the neighbour
}

// Member is an identity of a root's view, the root itself excepted.
type Member struct {
	Peer Hash
	Copy *Contribution
}

// Holder is a root that may have a copy of this node.
type Holder struct {
	Root       Hash
	Ver, Acked uint64 // newest sent, newest confirmed
}

// Wait is an answer that is due when all holders have confirmed version Ver.
type Wait struct {
	Peer   Hash
	Answer Kind         // UnlinkAck, Forgot or DropNo
	Gen    uint32       // UnlinkAck: of the cut; DropNo: of the peer
	Ver    uint64       // of own facts
	Time   proto.Millis // Forgot: of the edge
	Number uint64       // Forgot, DropNo: of what is answered
	Own    bool         // Forgot: the number is this node's
}

// Shown is what a user's value at a node comes from. The zero Shown is the
// node's own data alone.
type Shown struct {
	Root   Hash
	Number uint64 // of the verdict; 0 at the root itself
	Value  Value
}

// Question is a member's: is the edge to About within the user?
type Question struct{ Peer, About Hash }

// Receiver is an identity that was given verdicts.
type Receiver struct {
	Peer        Hash
	Sent, Acked uint64
	Out         bool // the last one said that it is no member
}

// Owed is a Release that waits for the verdicts up to After to be replaced.
type Owed struct {
	Peer  Hash
	Gen   uint32
	Ver   uint64
	After uint64
	Told  uint64 // receivers, for the receipt
}

// Asked is a Link command whose edge is not yet known to be within a user.
type Asked struct {
	Peer    Hash
	Command uint64
	Sent    bool         // to the present root
	Since   proto.Millis // evidence that the other end has not confirmed yet; 0: it has
}

// CutRecord is a cut that is not yet final.
type CutRecord struct {
	Gen      uint32 // what was cut
	Time     proto.Millis
	After    uint64 // own verdicts up to this number must be replaced
	Retract  []Retraction
	Unlink   []Hash // sorted; neighbours that have not confirmed
	Telling  bool   // second phase: neighbours were told
	Done     bool   // except for Also
	All      bool   // everywhere
	Quiet    bool   // nobody asked for it
	Also     []Also // neighbours that are cut with it
	Spread   uint64 // identities that were, theirs included
	Rest     []Ref  // those of them that have nodes in other spaces, which wait; sorted
	Parent   Ref    // whose cut everywhere took this one along, until it is answered that this is final
	Origins  []Ref  // who asked for it as well: answered when it is done
	Copies   uint64 // for the receipt
	Replaced uint64 // for the receipt
}

// Retraction is a holder that has not released version Ver.
type Retraction struct {
	Root Hash
	Ver  uint64
}

// Also is an identity that is cut with another.
type Also struct {
	Ref
	Done bool
}

func (n *Neighbour) id() *Hash  { return &n.Peer }
func (m *Member) id() *Hash     { return &m.Peer }
func (h *Holder) id() *Hash     { return &h.Root }
func (r *Receiver) id() *Hash   { return &r.Peer }
func (r *Retraction) id() *Hash { return &r.Root }
func (a *Also) id() *Hash       { return &a.Peer }
func (e *Edge) id() *Hash       { return &e.Peer }

// named is a pointer to an element that a sorted list finds by its hash.
type named[T any] interface {
	*T
	id() *Hash
}

// find is the place of h in a sorted list.
func find[T any, P named[T]](list []T, h *Hash) (int, bool) {
	lo, hi := 0, len(list)
	for lo < hi {
		mid := (lo + hi) / 2
		switch bytes.Compare(P(&list[mid]).id()[:], h[:]) {
		case 0:
			return mid, true
		case -1:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}

// get is the element named h, or nil.
func get[T any, P named[T]](list []T, h *Hash) P {
	if i, ok := find[T, P](list, h); ok {
		return P(&list[i])
	}
	return nil
}

// add is the element named h, made if there is none.
func add[T any, P named[T]](list *[]T, h Hash) P {
	i, ok := find[T, P](*list, &h)
	if !ok {
		var zero T
		*list = slices.Insert(*list, i, zero)
		*P(&(*list)[i]).id() = h
	}
	return P(&(*list)[i])
}

// drop removes the element named h and reports whether there was one.
func drop[T any, P named[T]](list *[]T, h *Hash) bool {
	i, ok := find[T, P](*list, h)
	if ok {
		*list = slices.Delete(*list, i, i+1)
	}
	return ok
}

func compareHash(a, b Hash) int { return bytes.Compare(a[:], b[:]) }

func less(a, b Hash) bool { return compareHash(a, b) < 0 }

// hashes are sorted sets of names.
func hasHash(list []Hash, h Hash) bool {
	_, ok := slices.BinarySearchFunc(list, h, compareHash)
	return ok
}

func addHash(list *[]Hash, h Hash) {
	if i, ok := slices.BinarySearchFunc(*list, h, compareHash); !ok {
		*list = slices.Insert(*list, i, h)
	}
}

// addRef adds to a sorted set of generations of identities.
func addRef(list *[]Ref, r Ref) {
	if i, ok := slices.BinarySearchFunc(*list, r, compareRef); !ok {
		*list = slices.Insert(*list, i, r)
	}
}

func compareRef(a, b Ref) int {
	return cmp.Or(compareHash(a.Peer, b.Peer), cmp.Compare(a.Gen, b.Gen))
}

func dropHash(list *[]Hash, h Hash) bool {
	i, ok := slices.BinarySearchFunc(*list, h, compareHash)
	if ok {
		*list = slices.Delete(*list, i, i+1)
	}
	return ok
}

// Tombstoned is the state of a node of an opted-out identity that was unknown
// in this space: the caller makes it when a message first names the node.
func Tombstoned(gen uint32) State { return State{Gen: max(gen, 2), Dark: true} }

// leads reports whether the node is a root.
func (x *State) leads() bool { return !x.Dark && x.Root == Hash{} }

// Settled reports whether nothing is under way at this node.
func (x *State) Settled() bool {
	for i := range x.Links {
		if l := &x.Links[i]; l.Stage == Pending || l.Mark == CappedMark || l.Open > 0 {
			return false
		}
	}
	return len(x.Waits)+len(x.Owed)+len(x.Cuts)+len(x.Asks)+len(x.Questions) == 0
}

// Unlinked reports whether the node has nothing that the store must keep: it
// is as the zero State.
func (x *State) Unlinked() bool {
	return x.Gen <= 1 && x.Ver == 0 && x.Number == 0 && x.Removals == 0 && x.Fence == 0 && !x.Dark && len(x.Links) == 0 && len(x.Commands) == 0 && len(x.Cuts) == 0
}

// RootOf is the root of the user of node h, whose state x is.
func (x *State) RootOf(h Hash) Hash {
	if x.Root == (Hash{}) {
		return h
	}
	return x.Root
}

// Leads reports whether the node is the root of a user of several.
func (x *State) Leads() bool { return x.leads() && len(x.Members) > 0 }

// Admits reports whether evidence of time t counts.
func (x *State) Admits(t proto.Millis) bool { return !x.Dark && t > x.Fence }

// Edges gives the established edges, sorted by neighbour. It must not be changed.
func (x *State) Edges() []Edge {
	if x.copied != nil {
		return x.copied
	}
	n := 0
	for i := range x.Links {
		if x.Links[i].Stage == Established {
			n++
		}
	}
	x.copied = make([]Edge, 0, n)
	for i := range x.Links {
		if l := &x.Links[i]; l.Stage == Established {
			x.copied = append(x.copied, Edge{l.Peer, l.Gen, l.Settled, l.Evidence})
		}
	}
	return x.copied
}

// edge reports the established edge to h, or nil.
func (x *State) edge(h Hash) *Neighbour {
	if l := get(x.Links, &h); l != nil && l.Stage == Established {
		return l
	}
	return nil
}

// waits reports whether somebody waits until peer has the evidence for a link.
func (x *State) waits(peer Hash) bool {
	return slices.ContainsFunc(x.Asks, func(a Asked) bool { return a.Peer == peer && a.Since > 0 })
}

// slots counts the edges that a cap bounds.
func (x *State) slots() (n int) {
	for i := range x.Links {
		if x.Links[i].Stage != Absent {
			n++
		}
	}
	return n
}
