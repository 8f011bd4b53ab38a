package graph

import (
	"cmp"
	"fmt"

	"kith/proto"
)

// Kind says what a Message asks or tells. Kinds are for ever: they are in logs.
type Kind uint8

// The kinds. The first ones come from outside, all others from other homes.
const (
	Event    Kind = 1 // something happened; for Facts
	Refresh  Kind = 2 // time passed or rules changed; for Facts
	Link     Kind = 3 // About is the same person
	Remove   Kind = 4 // About is not
	Withdraw Kind = 5 // remove the links whose newest evidence is the client's
	Cut      Kind = 6 // opt-out
	OptIn    Kind = 7
	Erase    Kind = 8

	Half      Kind = 16 // an edge is proposed, or with Again maintained
	HalfOK    Kind = 17
	HalfNo    Kind = 18
	Drop      Kind = 19 // an edge was removed; with Capped because of a cap
	DropOK    Kind = 20
	DropNo    Kind = 21
	Forgot    Kind = 22 // no copy of the sender names the receiver by that edge any more
	Refuse    Kind = 23 // the root's cap refuses the edge to About
	Unlink    Kind = 24 // the sender was cut: forget it
	UnlinkAck Kind = 25

	Invite     Kind = 32
	Nudge      Kind = 33 // invite About
	Contrib    Kind = 34
	ContribAck Kind = 35
	Leave      Kind = 36
	Retract    Kind = 37
	Release    Kind = 38
	Verdict    Kind = 39
	VerdictAck Kind = 40
	Ask        Kind = 41 // is the edge to About within the user?
	Joined     Kind = 42 // it is

	CutMember Kind = 49 // About was cut everywhere, you with it
	CutDone   Kind = 51 // with All: whom the sender took along too; List: who of them has nodes in other spaces that wait
	CutRest   Kind = 52 // for the caller: with whom the receiver was cut is done in its own spaces
	RestDone  Kind = 53 // for the caller: the receiver's CutRest was obeyed in all spaces
)

var kindNames = map[Kind]string{
	Event: "Event", Refresh: "Refresh", Link: "Link", Remove: "Remove", Withdraw: "Withdraw", Cut: "Cut", OptIn: "OptIn", Erase: "Erase",
	Half: "Half", HalfOK: "HalfOK", HalfNo: "HalfNo", Drop: "Drop", DropOK: "DropOK", DropNo: "DropNo", Forgot: "Forgot", Refuse: "Refuse",
	Unlink: "Unlink", UnlinkAck: "UnlinkAck", Invite: "Invite", Nudge: "Nudge", Contrib: "Contrib", ContribAck: "ContribAck",
	Leave: "Leave", Retract: "Retract", Release: "Release", Verdict: "Verdict", VerdictAck: "VerdictAck", Ask: "Ask", Joined: "Joined",
	CutMember: "CutMember", CutDone: "CutDone", CutRest: "CutRest", RestDone: "RestDone",
}

func (k Kind) String() string {
	if n, ok := kindNames[k]; ok {
		return n
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Outside reports whether the kind comes from outside, not from another home.
func (k Kind) Outside() bool { return k >= Event && k <= Erase }

// Method is how a link was found.
type Method uint8

// The methods.
const (
	Deterministic Method = 0 // a log-in, an id sync
	Inferred      Method = 1 // by a model, with a confidence
)

func (m Method) String() string {
	if m == Inferred {
		return "inferred"
	}
	return "deterministic"
}

// Evidence is why and since when an edge is believed; the newest wins. Time is
// the gateway's receipt time, above 0.
type Evidence struct {
	Time       proto.Millis
	Client     proto.ClientID
	Confidence uint16 // per mille
	Method     Method
}

// beats reports whether e is what both ends of an edge keep of the two: the newer,
// or of the same time the one that is greater in what it says.
func (e *Evidence) beats(f *Evidence) bool {
	return cmp.Or(cmp.Compare(e.Time, f.Time), cmp.Compare(e.Client, f.Client), cmp.Compare(e.Confidence, f.Confidence), cmp.Compare(e.Method, f.Method)) > 0
}

// saysAs reports whether the two differ at most in their time.
func (e *Evidence) saysAs(f *Evidence) bool {
	return e.Client == f.Client && e.Confidence == f.Confidence && e.Method == f.Method
}

// Ref names one generation of an identity.
type Ref struct {
	Peer Hash
	Gen  uint32
}

// Edge is an established edge as copies carry it.
type Edge struct {
	Peer    Hash
	Gen     uint32 // of the neighbour
	Settled bool   // was promised: goes before others if the user is too large
	Evidence
}

// Contribution is a copy of a member's facts. It never changes once made.
type Contribution struct {
	Gen   uint32
	Ver   uint64
	Edges []Edge // sorted by Peer
	Data  Data
}

// Message is one message between homes, or from outside, within a space. The
// kinds use the fields that they need; see wire.go.
type Message struct {
	To       proto.Node
	From     Hash // zero: from outside
	About    Hash // a third identity
	Kind     Kind
	Reason   Reason
	Out      bool // Verdict: the receiver is no member; Forgot: Number is the sender's
	All      bool // Cut: everywhere; CutDone: the answer to who took the sender along
	Again    bool // Half, HalfNo: about an established edge; HalfOK: what was proposed does not count, keep this; Erase: nobody asked for it
	Capped   bool // Drop: because of a cap, or nobody waited for the edge; HalfOK again: no proposal was answered
	Gen      uint32
	ToGen    uint32       // the receiver's generation that is meant
	AboutGen uint32       // Refuse: generation of About; CutDone: the sender's, that was cut
	Ver      uint64       // of a copy
	Number   uint64       // of a verdict; Drop, DropOK, DropNo, HalfNo, Forgot: of a removal or refusal; HalfOK again: the client whose evidence does not count
	Command  uint64       // from outside: id, by which a repeated command is known
	Echo     proto.Millis // HalfOK: the time that it answers
	Evidence
	Copy  *Contribution
	List  []Ref
	Value Value
	Body  []byte // Event, Refresh: for Facts; Link, Half: for the home of the identity proposed to
}
