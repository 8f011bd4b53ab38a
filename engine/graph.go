package engine

import (
	"cmp"
	"encoding/binary"
	"slices"

	"kith/actors"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
)

// This file is how a lane runs the graph: its supersteps after each entry's
// inputs, and what they leave for the commit.

// graphLimits are part of what applying an entry means (logicVersion). Skew is
// that of one node's clock with itself, which may be set back a little.
func graphLimits() graph.Config {
	c := graph.DefaultConfig()
	c.SkewMillis = 250
	return c
}

// graphCounts is what a batch did to the graph, for metrics.
type graphCounts struct {
	messages, links, cuts, optIns, purged, ignored, joined, left uint64
	reasons                                                      [reasonsMax]uint64
}

// reasonsMax is above every graph.Reason.
const reasonsMax = 16

// enter makes the entry under way known to the hosts.
func (l *lane) enter(b *batch, offset proto.Offset) {
	l.graph.Position = offset
	l.graph.Vector[l.id] = max(l.graph.Vector[l.id], offset)
	l.shell.Enter(actors.Entry{Index: len(b.offsets), Now: proto.Millis(l.record.NowMs), Offset: offset, Vector: l.graph.Vector})
}

// supersteps runs the graph after an entry's inputs: what they mean for it,
// what came from other lanes, and what was carried over.
func (l *lane) supersteps(b *batch, offset proto.Offset, digest uint64) (uint64, error) {
	l.messages = append(l.shell.TakeMessages(l.messages[:0]), l.received...)
	clear(l.received)
	l.received = l.received[:0]
	if len(l.messages) == 0 && len(l.graph.Carry) == 0 {
		return digest, nil
	}
	l.changed = l.changed || len(l.graph.Carry) > 0
	out := &l.outcome
	out.Reset()
	err := l.graph.Apply(offset, l.messages, l.shell, out)
	clear(l.messages)
	if err != nil {
		return 0, err
	}
	l.changed = l.changed || len(l.graph.Carry) > 0 || out.Sent > 0
	b.decisions = append(b.decisions, out.Decisions...)
	b.graph.messages += uint64(out.Messages)
	for _, r := range out.Refused {
		b.graph.reasons[min(r.Reason, reasonsMax-1)]++
	}
	return chain(digest, uint64(out.Messages)<<32|uint64(out.Sent), l.shell.Digest()), nil
}

// receive takes in batches from another lane. Those that were taken in before
// are skipped; a pack that leaves some out is dropped, and comes again.
func (l *lane) receive(body []byte) error {
	x, err := proto.DecodeGraphPack(body)
	if err != nil {
		return err
	}
	if int(x.From) >= len(l.graph.Applied) || x.From == l.id {
		return proto.Errorf(proto.CodeCorrupt, "graph messages come from lane %s, there are %d lanes", x.From, len(l.graph.Applied))
	}
	pack := make([]graph.Batch, len(x.Batches))
	for i := range pack {
		if pack[i], err = graph.DecodeBatch(x.Batches[i], len(l.graph.Applied)); err != nil {
			return err
		}
	}
	l.received = append(l.received, l.graph.Receive(x.From, x.First, pack)...)
	l.changed = true
	return nil
}

// outgoing is a batch on its way to another lane.
type outgoing struct {
	to     proto.LaneID
	number uint64
	data   []byte
}

// finishGraph moves what the graph left into the batch.
func (l *lane) finishGraph(b *batch) {
	for to := range l.graph.Outbox {
		c := &l.graph.Outbox[to]
		for i := range c.Batches {
			b.sent = append(b.sent, outgoing{proto.LaneID(to), c.Base + 1 + uint64(i), c.Batches[i].Append(nil)})
		}
		c.Trim(c.Last()) // from here on they are the outbox's
	}
	if l.changed {
		l.putGraph(b)
		l.changed = false
	}
	b.carry = len(l.graph.Carry) > 0
	b.taken = slices.Clone(l.graph.Applied)
	for _, o := range b.outcomes {
		l.meetSpaces(b, o.Spaces)
		b.decisions = append(b.decisions, o.Decisions...)
		b.graph.ignored += uint64(o.Ignored)
		for i := range o.Users {
			if o.Users[i].Root == (graph.Hash{}) {
				b.graph.left++
			} else {
				b.graph.joined++
			}
		}
		b.notices = appendNotices(b.notices, o)
	}
	slices.SortStableFunc(b.notices, func(x, y notice) int { return cmp.Compare(x.at, y.at) })
	for i := range b.notices {
		b.notices[i].number = uint32(i)
	}
	b.count()
}

// putGraph writes the lane's part of the graph, and deletes what the last commit carried
// over in rows that there are not any more.
func (l *lane) putGraph(b *batch) {
	record, carry := l.graph.Rows()
	b.puts = append(b.puts, put{graphKey(l.id), record})
	for i, v := range carry {
		b.puts = append(b.puts, put{carryKey(l.id, uint32(i)), v})
	}
	for i := len(carry); i < l.carryRows; i++ {
		b.deletes = append(b.deletes, carryKey(l.id, uint32(i)))
	}
	l.carryRows = len(carry)
}

// count sums up what the batch decided.
func (b *batch) count() {
	for i := range b.decisions {
		if d := &b.decisions[i]; d.Linked {
			b.graph.links++
		}
	}
	for i := range b.notices {
		switch x := &b.notices[i]; {
		case x.final:
			b.graph.purged++
		case x.gen&1 == 1:
			b.graph.cuts++
		default:
			b.graph.optIns++
		}
	}
}

// meetSpaces keeps which spaces there are: a cut looks for its nodes in them.
func (l *lane) meetSpaces(b *batch, list []proto.SpaceID) {
	before := len(l.spaces)
	for _, s := range list {
		if i, known := slices.BinarySearch(l.spaces, s); !known {
			l.spaces = slices.Insert(l.spaces, i, s)
		}
	}
	if len(l.spaces) == before {
		return
	}
	var v []byte
	for _, s := range l.spaces {
		v = binary.AppendUvarint(v, uint64(s))
	}
	b.puts = append(b.puts, put{spacesKey(l.id), v})
}

// loadGraph reads the lane's part of the graph that is not nodes.
func (l *lane) loadGraph(snap store.Snapshot) error {
	lanes := l.node.config.Lanes
	l.graph = graph.NewLane(l.id, lanes, &l.node.laneIDs)
	_, err := snap.Get(graphKey(l.id), func(v []byte) (err error) {
		l.graph, err = graph.DecodeRecord(v, &l.node.laneIDs, nil)
		if err == nil && len(l.graph.Vector) != lanes {
			err = proto.Errorf(proto.CodeCorrupt, "the graph's record of lane %s is for %d lanes", l.id, len(l.graph.Vector))
		}
		return err
	})
	if err == nil {
		err = snap.Scan(graphKey(l.id), carryKey(l.id, 0), func(_, v []byte) (bool, error) {
			l.carryRows++
			return true, l.graph.AddCarry(v)
		})
	}
	if err == nil {
		err = l.graph.Complete()
	}
	if err != nil {
		return err
	}
	l.graph.Vector[l.id] = max(l.graph.Vector[l.id], proto.Offset(l.record.Offset))
	_, err = snap.Get(spacesKey(l.id), func(v []byte) error {
		r := proto.NewReader(v)
		for r.Len() > 0 {
			l.spaces = append(l.spaces, proto.SpaceID(r.Uvarint()))
		}
		if r.Bad() || !slices.IsSorted(l.spaces) {
			return proto.Errorf(proto.CodeCorrupt, "the spaces of lane %s are malformed", l.id)
		}
		return nil
	})
	return err
}
