package engine

import (
	"context"

	"kith/actors/identity"
	"kith/proto"
)

// OpenRecord is everything that the client holds of id but for the events, which next
// gives; nil if there are none. Nothing of the store is held between its calls.
func (n *Node) OpenRecord(ctx context.Context, client proto.ClientInfo, id proto.Identity) (rec proto.IdentityRecord, next proto.NextEvents, err error) {
	none := proto.IdentityRecord{Identity: id, Segments: []proto.SegmentID{}, Events: []proto.HistoryEvent{}}
	rec = none
	node := proto.Node{Hash: n.hasher.Hash(id), Space: client.Space}
	snap := n.laneOf[node.Hash.Partition()].acquire()
	s, _, err := readNode(snap, node)
	snap.release()
	if err != nil {
		return none, nil, err
	}
	if f := s.Client(client.ID); f != nil {
		first, last := f.First.Time(), f.Last.Time()
		rec.Known, rec.FirstSeen, rec.LastSeen, rec.Truncated = true, &first, &last, f.History.Truncated
		rec.Traits, rec.Networks = valuesOf(f.Memory.Traits()), networksSeen(f)
		r := &recordEvents{n: n, node: node, client: client.ID, gen: s.Gen(), first: f.First, block: f.History.First, opened: f.History}
		next = func(tell func(proto.Millis, *proto.EventBody) bool) (bool, error) { return r.next(ctx, tell) }
	}
	seen, list, err := n.Lookup(client, id, n.now(), rec.Segments)
	if err != nil || seen.OptedOut { // meanwhile, perhaps: nothing of before is told
		none.OptedOut = seen.OptedOut
		return none, nil, err
	}
	rec.Segments = list
	rec.Known = rec.Known || seen.Known
	return rec, next, nil
}

// Record is OpenRecord with all events, for whoever knows that they are few.
func (n *Node) Record(ctx context.Context, client proto.ClientInfo, id proto.Identity) (proto.IdentityRecord, error) {
	rec, next, err := n.OpenRecord(ctx, client, id)
	for more := next != nil; more && err == nil; {
		more, err = next(func(t proto.Millis, e *proto.EventBody) bool {
			rec.Events = append(rec.Events, proto.HistoryEvent{
				Time: t.Time(), Event: clone(e.Name), URL: clone(e.URL), Ref: clone(e.Ref), Props: valuesOf(e.Props),
			})
			return false
		})
	}
	return rec, err
}

// recordEvents goes through a history as it was when the record was opened, in pieces
// between which its reader may take its time.
type recordEvents struct {
	n      *Node
	node   proto.Node
	client proto.ClientID
	gen    uint32
	first  proto.Millis // what was erased and came back begins later
	block  uint32       // the next one
	told   int          // how many of its events were
	opened identity.History
	body   proto.EventBody
}

var errRecordChanged = proto.Errorf(proto.CodeUnavailable, "what is held of the identity was cut or shortened while it was read: ask again")

// next goes on until tell has enough, be it within a block, which may be megabytes as
// text. What was cut since the record was opened is told no more.
func (r *recordEvents) next(ctx context.Context, tell func(proto.Millis, *proto.EventBody) bool) (more bool, err error) {
	snap := r.n.laneOf[r.node.Hash.Partition()].acquire()
	defer snap.release()
	s, _, err := readNode(snap, r.node)
	if err != nil {
		return false, err
	}
	f := s.Client(r.client)
	if f == nil || s.Gen() != r.gen || f.First > r.first || f.History.First > r.block || f.History.Next < r.opened.Next {
		return false, errRecordChanged
	}
	enough, seen := false, 0
	each := func(t proto.Millis, e *proto.EventBody) bool {
		if seen++; seen > r.told {
			r.told++
			enough = tell(t, e)
		}
		return !enough
	}
	for block, err := range (source{snap}).Blocks(r.node, r.gen, r.client, r.block, r.opened.Next) {
		if err == nil {
			err = identity.WalkBlock(block, &r.body, each)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return false, err
		}
		if enough {
			return true, r.n.mayAnswer(r.n.laneFor(r.node.Hash))
		}
		r.block, r.told, seen = r.block+1, 0, 0
	}
	r.opened.WalkTail(&r.body, each)
	return enough, r.n.mayAnswer(r.n.laneFor(r.node.Hash))
}
