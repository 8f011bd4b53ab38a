package graph

import (
	"cmp"
	"encoding/binary"
	"slices"

	"kith/proto"
)

// Bounds of one entry. What they leave over is carried into the next entry.
const (
	SuperstepsMax    = 64
	EntryMessagesMax = 16384
	BatchBytesMax    = 256 << 10 // of a batch to another lane, about; one message may be larger
)

// Lane drives the supersteps of one lane's entries and keeps its channels to
// the other lanes. It is for one goroutine. Its exported fields are state: a
// replica that restores them, and the nodes' rows, goes on as if it had never
// stopped.
type Lane struct {
	ID       proto.LaneID
	Position proto.Offset   // of the entry applied last
	Vector   []proto.Offset // by lane: what this state derives from
	Applied  []uint64       // by lane: newest batch taken in from there
	Outbox   []Channel      // by lane: batches on their way there
	Carry    []Message      // for the next entry
	awaited  int            // rows of Carry that a record told of and that were not read yet

	laneOf        *[proto.Partitions]proto.LaneID
	supersteps    int
	batchBytes    int
	inbox, sorted []Message
	order         []place
	groups        []Group
	open          []openBatch // by lane: this entry's
}

// place is where a message is, with the beginning of its receiver's name to
// sort by.
type place struct {
	to    uint64
	index int32
}

// Group is what one superstep has for one node, and what follows from it.
type Group struct {
	To      proto.Node
	In      []Message // valid during the step only
	Effects Effects
}

// Homes steps nodes. The groups are of different nodes, sorted; they may run
// in any order and at the same time. An error ends the lane.
type Homes interface {
	Step(groups []Group) error
}

// Outcome is what an entry led to, sorted by superstep and node.
type Outcome struct {
	Refused   []Refusal
	Decisions []Decision
	Receipts  []Receipt
	Messages  int // taken in, those from outside included
	Sent      int // to other lanes
	Steps     int
}

// Reset empties o and keeps its memory.
func (o *Outcome) Reset() {
	*o = Outcome{Refused: o.Refused[:0], Decisions: o.Decisions[:0], Receipts: o.Receipts[:0]}
}

// NewLane is a lane before its first entry; laneOf says which lane carries
// each partition and is not changed.
func NewLane(id proto.LaneID, lanes int, laneOf *[proto.Partitions]proto.LaneID) *Lane {
	return &Lane{
		ID: id, laneOf: laneOf, supersteps: SuperstepsMax, batchBytes: BatchBytesMax,
		open: make([]openBatch, lanes), Vector: make([]proto.Offset, lanes), Applied: make([]uint64, lanes), Outbox: make([]Channel, lanes),
	}
}

// BoundSupersteps bounds the supersteps of an entry, for simulations that want
// messages carried over often. It must be the same on all replicas.
func (l *Lane) BoundSupersteps(n int) { l.supersteps = n }

// BoundBatches bounds the bytes of a batch, likewise.
func (l *Lane) BoundBatches(n int) { l.batchBytes = n }

// Apply takes in the entry at offset: first what was carried, then in. The
// order of messages with the same receiver and sender is kept; else it does
// not matter. The effects on nodes are in the groups that homes saw.
func (l *Lane) Apply(offset proto.Offset, in []Message, homes Homes, out *Outcome) error {
	l.Position = offset
	l.Vector[l.ID] = max(l.Vector[l.ID], offset)
	l.inbox = append(append(l.inbox[:0], l.Carry...), in...)
	clear(l.Carry)
	l.Carry = l.Carry[:0]
	clear(l.open)
	for step := 0; len(l.inbox) > 0; step++ {
		if step >= l.supersteps || out.Messages >= EntryMessagesMax {
			l.Carry = append(l.Carry, l.inbox...)
			break
		}
		if err := l.superstep(homes, out); err != nil {
			return err
		}
	}
	return nil
}

// superstep has every node take in what there is for it.
func (l *Lane) superstep(homes Homes, out *Outcome) error {
	out.Steps++
	out.Messages += len(l.inbox)
	l.group()
	if err := homes.Step(l.groups); err != nil {
		return err
	}
	clear(l.inbox)
	l.inbox = l.inbox[:0]
	for i := range l.groups {
		fx := &l.groups[i].Effects
		for k := range fx.Out {
			l.post(&fx.Out[k], out)
		}
		out.Refused = append(out.Refused, fx.Refused...)
		out.Decisions = append(out.Decisions, fx.Decisions...)
		out.Receipts = append(out.Receipts, fx.Receipts...)
	}
	return nil
}

// post hands a message to this lane's next superstep or to another lane.
func (l *Lane) post(m *Message, out *Outcome) {
	d := l.laneOf[m.To.Hash.Partition()]
	if d == l.ID {
		l.inbox = append(l.inbox, *m)
		return
	}
	c, o := &l.Outbox[d], &l.open[d]
	size := m.size()
	if o.place == 0 || o.bytes+size > l.batchBytes {
		c.Batches = append(c.Batches, Batch{Vector: slices.Clone(l.Vector)}) // with the entry's own position, whose doing they are
		*o = openBatch{place: len(c.Batches)}
	}
	b := &c.Batches[o.place-1]
	b.Messages = append(b.Messages, *m)
	o.bytes += size
	out.Sent++
}

// openBatch is the batch that an entry's messages to a lane go into: place is 1
// + its index, 0 if there is none.
type openBatch struct{ place, bytes int }

// group sorts the inbox by receiver and sender and splits it by receiver.
func (l *Lane) group() {
	n := len(l.inbox)
	l.order = l.order[:0]
	for i := range n {
		l.order = append(l.order, place{binary.BigEndian.Uint64(l.inbox[i].To.Hash[:8]), int32(i)})
	}
	slices.SortFunc(l.order, func(a, b place) int {
		if a.to != b.to {
			return cmp.Compare(a.to, b.to)
		}
		p, q := &l.inbox[a.index], &l.inbox[b.index]
		if c := p.To.Compare(q.To); c != 0 {
			return c
		}
		return cmp.Or(compareHash(p.From, q.From), cmp.Compare(a.index, b.index))
	})
	clear(l.sorted)
	l.sorted = l.sorted[:0]
	for _, k := range l.order {
		l.sorted = append(l.sorted, l.inbox[k.index])
	}
	l.groups = l.groups[:0]
	for i := 0; i < n; {
		j := i + 1
		for j < n && l.sorted[j].To == l.sorted[i].To {
			j++
		}
		l.addGroup(l.sorted[i:j:j])
		i = j
	}
}

// addGroup appends a group and keeps the memory of an earlier one.
func (l *Lane) addGroup(in []Message) {
	if len(l.groups) < cap(l.groups) {
		l.groups = l.groups[:len(l.groups)+1]
	} else {
		l.groups = append(l.groups, Group{})
	}
	g := &l.groups[len(l.groups)-1]
	g.To, g.In = in[0].To, in
	g.Effects.Reset()
}
