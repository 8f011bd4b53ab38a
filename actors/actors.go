// Package actors runs identities as actors: a host per partition, which lives
// as long as the node, and under it one protoactor child per active identity,
// around identity.Step.
//
// A lane drives its hosts in three calls per batch of log entries: Prepare
// decodes the commands and activates the identities that they touch, Run takes
// the inputs of one entry in, and Collect gives what is to be committed. The
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
	"kith/proto"
	"kith/segments"
)

// Source reads what was committed, as of one point, for several goroutines at
// once: nothing that a host has
// not yet seen committed may be missing from it.
type Source interface {
	// Facts calls fn with the node's facts value and reports whether it exists.
	Facts(node proto.Node, fn func([]byte) error) (bool, error)
	// Blocks gives sealed history blocks first to next-1 of a client, in order.
	Blocks(node proto.Node, client proto.ClientID, first, next uint32) iter.Seq2[[]byte, error]
}

// Command is one command of an entry on its way to a host.
type Command struct {
	Entry int // which entry of the batch
	Index int // which command of the entry
	Kind  proto.CommandKind
	Body  []byte
}

// Due is a timer or fill for a node that exists.
type Due struct {
	Entry  int
	Node   proto.Node
	Fill   proto.ClientID // a fill for this client; 0: a timer
	At     proto.Millis   // of a timer: the time in its exit record
	Ignore bool           // set by Prepare: the record is stale
}

// Put is a facts value to store.
type Put struct {
	Node  proto.Node
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
	identity.Block
}

// Exit is a record for the exit index.
type Exit struct {
	At   proto.Millis
	Node proto.Node
}

// NodeView is a view to publish after the commit.
type NodeView struct {
	Node proto.Node
	View *identity.View
}

// Dead is a command whose step panicked. Its identity is as if the command
// had not been.
type Dead struct {
	Entry, Index int
	Kind         proto.CommandKind
	Body         []byte
	Reason       string
}

// Outcome is what one host's batch leaves to commit. The host keeps no hold on
// it.
type Outcome struct {
	Partition proto.PartitionID
	Next      uint32 // the next ordinal's local part
	Puts      []Put
	Named     []Named
	Blocks    []NodeBlock
	Bits      []segments.BitDelta
	Exits     []Exit
	Views     []NodeView
	Dead      []Dead
	Events    int // taken in
	Repeated  int // events whose id was known
}
