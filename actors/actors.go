// Package actors runs identities as actors: a host per partition, which lives
// as long as the node, and under it one protoactor child per active identity,
// around identity.Step.
//
// A lane drives its hosts in a few calls per batch of log entries: Prepare
// decodes the commands and activates the identities that they touch; for each
// entry Run takes its inputs in, TakeMessages gives what they mean for the
// graph, and Step is a superstep of it; Collect gives what is to be committed. The
// hosts of a lane work beside one another; within a host everything is in the
// order of the log, so the outcome does not depend on how many run at once.
//
// It guarantees that a panic in one identity's step leaves that identity as it
// was, becomes a Dead record, and stops nothing else. It does not store
// anything: reading goes through Source, writing is the caller's.
package actors

import (
	"iter"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// Source reads what was committed, as of one point, for several goroutines at
// once: nothing that a host has not yet seen committed may be missing from it.
// fn gets a value that is valid during the call; found is false without one.
type Source interface {
	// Node reads a generation of a node (identity.State).
	Node(node proto.Node, gen uint32, fn func([]byte) error) (found bool, err error)
	// Dark reads what is left of a node that is opted out (graph.State).
	Dark(node proto.Node, fn func([]byte) error) (found bool, err error)
	// Copy reads a root's copy of a member (graph.Contribution).
	Copy(node proto.Node, member graph.Hash, fn func([]byte) error) (found bool, err error)
	// OptOut reads an identity's opt-out (identity.OptOut).
	OptOut(hash graph.Hash, fn func([]byte) error) (found bool, err error)
	// Blocks gives sealed history blocks first to next-1 of a client, in order.
	Blocks(node proto.Node, gen uint32, client proto.ClientID, first, next uint32) iter.Seq2[[]byte, error]
}

// Entry is the log entry whose inputs are taken in.
type Entry struct {
	Index  int // in the batch
	Now    proto.Millis
	Offset proto.Offset
	Vector []proto.Offset // by lane: what the lane's state derives from, with this entry
}

// Command is one command of an entry on its way to a host.
type Command struct {
	Entry int // which entry of the batch
	Index int // which command of the entry
	Kind  proto.CommandKind
	Body  []byte
}

// Due is a timer, a fill, a step of an erasure or of retention for a node that
// exists.
type Due struct {
	Entry  int
	Node   proto.Node
	Fill   proto.ClientID // a fill for this client
	Forget proto.ClientID // what this client knows goes
	Retain bool           // what is too old goes; with none of these: a timer
	At     proto.Millis   // of a timer: the time in its exit record
	Ignore bool           // set by Prepare: the record is stale
}

// Put is a generation of a node to store, or with a nil Value to delete.
type Put struct {
	Node  proto.Node
	Gen   uint32
	Value []byte
}

// DarkPut is what is left of a node that is opted out; nil: delete.
type DarkPut struct {
	Node  proto.Node
	Value []byte
}

// CopyPut is a root's copy of a member; nil: delete.
type CopyPut struct {
	Node   proto.Node
	Member graph.Hash
	Value  []byte
}

// OptOutPut is an identity's opt-out.
type OptOutPut struct {
	Hash  graph.Hash
	Value []byte
}

// Named is the one place where an identity's string is kept.
type Named struct {
	Ordinal  proto.Ordinal
	Node     proto.Node
	Identity proto.Identity
}

// NodeBlock is a history block to store or delete.
type NodeBlock struct {
	Node proto.Node
	Gen  uint32
	identity.Block
}

// NetworkRow says that a client's facts of a node have a network, or with Gone that
// they no longer do. It is made of the facts, for whoever looks from the network's end.
type NetworkRow struct {
	Client  proto.ClientID
	Network proto.NetworkKey
	Node    proto.Node
	Gone    bool
}

// Exit is a record for the exit index.
type Exit struct {
	At   proto.Millis
	Node proto.Node
}

// NodeView is a view to publish after the commit; nil: nothing is known.
type NodeView struct {
	Node proto.Node
	View *identity.View
}

// UserChange says whose user a node is of; a zero Root: nobody's but its own.
type UserChange struct {
	Ordinal proto.Ordinal
	Root    graph.Hash
	Leads   bool // it is the root itself
}

// Final is a cut of which nothing is left to do.
type Final struct {
	Hash   graph.Hash
	Cut    identity.Cut
	Offset proto.Offset // of the entry by which that became known
}

// Turned is an identity that was opted out or in, or erased. It goes into the ledger.
type Turned struct {
	Hash   graph.Hash
	Gen    uint32 // identity.OptOut.Gen, after it
	Time   proto.Millis
	Offset proto.Offset
}

// Forgotten is an identity of which a client had erased what it knows.
type Forgotten struct {
	Hash   graph.Hash
	Client proto.ClientID
	Offset proto.Offset
}

// DroppedFacts says that what a client knew of a node that others may know too is gone;
// it may know something new of it by now.
type DroppedFacts struct {
	Ordinal proto.Ordinal
	Client  proto.ClientID
}

// Dead is a command whose step panicked. Its identity is as if the command
// had not been.
type Dead struct {
	Entry, Index int
	Kind         proto.CommandKind
	Body         []byte
	Reason       string
}

// Move is a node's entering or leaving a segment whose client asked to be told.
type Move struct {
	Offset  proto.Offset // of the entry
	Time    proto.Millis
	Client  proto.ClientID
	Segment proto.SegmentID
	Hash    graph.Hash
	In      bool
}

// Outcome is what one host's batch leaves to commit. The host keeps no hold on
// it.
type Outcome struct {
	Partition proto.PartitionID
	Next      uint32 // the next ordinal's local part
	Puts      []Put
	Darks     []DarkPut
	Copies    []CopyPut
	OptOuts   []OptOutPut
	Named     []Named
	Unnamed   []proto.Ordinal // numbers whose identity must not be found any more
	Blocks    []NodeBlock
	Networks  []NetworkRow
	Bits      []segments.BitDelta
	Moves     []Move
	Exits     []Exit
	Views     []NodeView
	Users     []UserChange
	Turned    []Turned
	Forgotten []Forgotten
	Dropped   []DroppedFacts
	Finals    []Final
	Decisions []graph.Decision // of commands that the graph does not see
	Spaces    []proto.SpaceID  // that were not known before
	Dead      []Dead
	Tallies   []Tally
	Events    int // taken in
	Repeated  int // events whose id was known
	Ignored   int // events of identities that are opted out, or from before they came back; traits that found nothing to do
}
