package graph

import "kith/proto"

// Reason says why something was refused or ignored.
type Reason uint8

// The reasons.
const (
	ReasonNone      Reason = 0
	ReasonOptedOut  Reason = 1  // the identity, or the other one, is opted out
	ReasonStale     Reason = 2  // the evidence is from before an opt-in or erasure
	ReasonRemoved   Reason = 3  // the link was removed later than the evidence
	ReasonEdgeCap   Reason = 4  // an identity has as many edges as it may
	ReasonUserCap   Reason = 5  // the user would have too many identities
	ReasonSelf      Reason = 6  // an identity is not linked to itself
	ReasonRepeated  Reason = 7  // the command was taken in before
	ReasonOtherGen  Reason = 8  // the opt-in is for another tombstone
	ReasonNoLonger  Reason = 9  // the other identity was cut meanwhile
	ReasonLinksFull Reason = 10 // an identity has as many neighbours, removed ones included, as it may
	ReasonBusy      Reason = 11 // too many link commands of the identity wait: ask again later
)

var reasonNames = [...]string{"none", "opted_out", "stale", "removed", "cap", "cap_user", "self", "repeated", "other_generation", "cut", "cap_removed", "busy"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Capped reports whether a cap is the reason.
func (r Reason) Capped() bool {
	return r == ReasonEdgeCap || r == ReasonUserCap || r == ReasonLinksFull
}

func reasonOf(dark bool) Reason {
	if dark {
		return ReasonOptedOut
	}
	return ReasonStale
}

// Refusal is an edge that was not made, or unmade, and why.
type Refusal struct {
	Node   proto.Node
	Peer   Hash
	Reason Reason
}

// Decision is the final answer to a Link command that had an id.
type Decision struct {
	Command uint64
	Linked  bool
	Reason  Reason
}

// Receipt says that a cut is final.
type Receipt struct {
	Node    proto.Node
	Gen     uint32 // what was cut
	Quiet   bool   // nobody asked for it, and waits for this
	Copies  int    // copies retracted
	Members int    // members whose verdicts were replaced
	Also    []Ref  // neighbours that were cut with it, everywhere
	Spread  int    // identities that were, theirs included
	Rest    []Ref  // those of them that have nodes in other spaces, which wait
}

// Effects is what follows from a Step. It is reused: Reset empties it.
type Effects struct {
	Out       []Message
	Refused   []Refusal
	Decisions []Decision
	Receipts  []Receipt

	// What to write: the node row, and the rows of these peers, deleted where
	// the State has none any more. A peer may be named twice.
	Node   bool
	Links  []Hash
	Copies []Hash

	Shown   bool   // what State.Shown gives differs from before
	Purged  bool   // Facts were purged: a new generation began
	Reborn  bool   // opted in: needs a new ordinal
	Ignored Reason // of the last Event or Link that changed nothing

	scratch scratch
}

// Reset empties fx and keeps its memory.
func (fx *Effects) Reset() {
	clear(fx.Out) // lets go of copies
	*fx = Effects{
		Out: fx.Out[:0], Refused: fx.Refused[:0], Decisions: fx.Decisions[:0], Receipts: fx.Receipts[:0],
		Links: fx.Links[:0], Copies: fx.Copies[:0], scratch: fx.scratch,
	}
}

// ignored notes that an outside message changed nothing.
func (fx *Effects) ignored(m *Message, r Reason) {
	fx.Ignored = r
	if m.Kind == Link && m.Command != 0 {
		fx.Decisions = append(fx.Decisions, Decision{Command: m.Command, Reason: r})
	}
}

// touched notes a link row.
func (fx *Effects) touched(peer Hash) {
	if n := len(fx.Links); n == 0 || fx.Links[n-1] != peer {
		fx.Links = append(fx.Links, peer)
	}
}

// copied notes a copy row.
func (fx *Effects) copied(peer Hash) {
	if n := len(fx.Copies); n == 0 || fx.Copies[n-1] != peer {
		fx.Copies = append(fx.Copies, peer)
	}
}
