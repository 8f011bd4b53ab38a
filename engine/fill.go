package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors"
	"kith/engine/store"
	"kith/proto"
)

// fillProgress is how far a lane has gone through its nodes for a segment: to
// evaluate it over their history, or, after another version of some segment has
// begun to answer, to bring them up to that.
type fillProgress struct {
	client proto.ClientID
	key    proto.SegmentKey
	since  proto.SegmentKey // the control record that asked for it
	next   uint64           // the first ordinal not yet filled
	done   bool
	whole  bool // answers are right meanwhile: only what is gone is still to be forgotten
	along  bool // nobody asked for history: only steps of other fills bring it on
}

// exact reports whether all memberships of the segment are as its rule says.
func (f fillProgress) exact() bool { return f.done || f.whole }

// append packs it under its key: next (8 bytes), flags (1 done, 2 whole, 4 along),
// client (4), since (4).
func (f fillProgress) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, f.next)
	b = append(b, byte(flag(f.done)+2*flag(f.whole)+4*flag(f.along)))
	b = binary.BigEndian.AppendUint32(b, uint32(f.client))
	return binary.BigEndian.AppendUint32(b, uint32(f.since))
}

// decodeFill reads what append wrote. Before there were Swaps a record had no
// since.
func decodeFill(k, v []byte) (f fillProgress, err error) {
	if len(k) != 7 || len(v) != 17 && len(v) != 13 || v[8] > 7 {
		return f, proto.Errorf(proto.CodeCorrupt, "a fill's record of %d bytes is malformed: restore a backup, or use the kith that wrote it", len(v))
	}
	f = fillProgress{
		client: proto.ClientID(binary.BigEndian.Uint32(v[9:])), key: proto.SegmentKey(binary.BigEndian.Uint32(k[3:])),
		next: binary.BigEndian.Uint64(v), done: v[8]&1 != 0, whole: v[8]&2 != 0, along: v[8]&4 != 0,
	}
	if f.since = f.key; len(v) == 17 {
		f.since = proto.SegmentKey(binary.BigEndian.Uint32(v[13:]))
	}
	return f, nil
}

// setFill notes progress in the batch.
func (l *lane) setFill(b *batch, f fillProgress) {
	l.fills[f.key] = f
	b.puts = append(b.puts, put{fillKey(l.id, f.key), f.append(nil)})
	b.fills = append(b.fills, f)
}

// loadFills reads the progress of all fills.
func (l *lane) loadFills(snap store.Snapshot) error {
	l.fills = map[proto.SegmentKey]fillProgress{}
	prefix := laneKey(l.id, 'g')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		f, err := decodeFill(k, v)
		l.fills[f.key] = f
		return true, err
	})
	l.progress.fills = maps.Clone(l.fills)
	return err
}

// openFill is the fill to go on with: the one that is least far, of those the
// newest. What stands where a step of it begins or ends goes along.
func (p *progress) openFill() (f fillProgress, found bool) {
	for _, x := range p.fills {
		if !x.done && !x.along && (!found || cmp.Or(cmp.Compare(x.next, f.next), cmp.Compare(f.since, x.since), cmp.Compare(f.key, x.key)) < 0) {
			f, found = x, true
		}
	}
	return f, found
}

// fillFromHistory appends fills for segments that want their history gone
// through, a step at a time, each once the one before is published: so live
// events go first, and a restart goes on where it was. Between two steps it rests
// as the node's pace says.
func (l *lane) fillFromHistory(ctx context.Context) {
	step := fillStep
	for {
		var f fillProgress
		err := l.progress.wait(ctx, func(p *progress) (found bool) {
			f, found = p.openFill()
			return found
		})
		if err != nil {
			return
		}
		// A root must know the rules before it is given what members remember for them.
		if l.node.obeyed(ctx, uint64(f.since)) != nil {
			if !pause(ctx, beatEvery) {
				return
			}
			continue
		}
		began := time.Now()
		x := l.nextFill(f, step)
		if err := l.appendOwn(ctx, proto.CommandFill, [][]byte{x.Append(nil)}); err != nil {
			l.logger.Warn("history cannot be gone through, trying again", "error", err)
			if !pause(ctx, beatEvery) {
				return
			}
			continue
		}
		err = l.progress.wait(ctx, func(p *progress) bool {
			now, ok := p.fills[f.key]
			return !ok || now != f
		})
		if err != nil {
			return
		}
		work, took := time.Duration(l.filling.Load()), time.Since(began)
		step = nextStep(step, work, l.node.pace.of(took))
		if !l.node.pace.restOf(ctx, work, took) {
			return
		}
	}
}

// nextStep is how large a step is to be after one that was work for the lane. due is
// the fill's share of the time that it took: where a step waits long for its turn
// the fill would all but stop if the next were no larger.
func nextStep(step int, work, due time.Duration) int {
	due = min(max(due, fillWork), fillWorkMax)
	switch {
	case work > 2*due || work > fillWorkMax:
		return max(step/2, fillStepMin)
	case work < due/2:
		return min(step*2, fillStepMax)
	}
	return step
}

// first is the ordinal at which the next step begins.
func (f fillProgress) first() proto.Ordinal { return proto.Ordinal(min(f.next, math.MaxUint32)) }

// nextFill is the next step: so many nodes of the client from f.next on.
func (l *lane) nextFill(f fillProgress, step int) proto.Fill {
	x := proto.Fill{Client: f.client, Segment: f.key, First: f.first(), Done: true}
	l.bitmaps.View(func(_ func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
		u := universe(f.client)
		if u == nil || f.next > uint64(^uint32(0)) {
			return
		}
		it := u.Iterator()
		it.AdvanceIfNeeded(uint32(f.next))
		for n := 0; it.HasNext(); n++ {
			if n == step {
				x.Done = false
				return
			}
			x.Last = proto.Ordinal(it.Next())
		}
	})
	x.Last = max(x.Last, x.First)
	return x
}

// fill makes nodes numbered in a range bring their memory up to date.
func (l *lane) fill(b *batch, body []byte) (digest uint64, later bool, err error) {
	x, err := proto.DecodeFill(body)
	if err != nil {
		return 0, false, err
	}
	if len(b.offsets) > 0 { // what is before it in the batch is not collected yet
		return 0, true, nil
	}
	f, ok := l.fills[x.Segment]
	if !ok || f.done || x.First != f.first() {
		return 0, false, nil // undefined or replaced meanwhile, or a step of a fill that was begun anew
	}
	l.fillBegan = time.Now()
	nodes, err := l.nodesBetween(b.source, x.Client, x.First, x.Last)
	if err != nil {
		return 0, false, err
	}
	list := make([]*actors.Due, len(nodes))
	for i := range list {
		list[i] = &actors.Due{Entry: len(b.offsets), Node: nodes[i], Fill: x.Client}
	}
	digest, err = l.runDue(list)
	for _, f := range l.filledBy(f, x) {
		f.next, f.done, f.along = uint64(x.Last)+1, x.Done, f.along && !x.Done
		l.setFill(b, f)
	}
	return digest, false, err
}

// filledBy are the fills that a step of f takes along, f among them: those of the
// client that have come to where it begins, or into what it goes through. Not
// those that are newer, which a root in another lane may not know yet.
func (l *lane) filledBy(f fillProgress, step proto.Fill) []fillProgress {
	return slices.SortedFunc(func(yield func(fillProgress) bool) {
		for _, x := range l.fills {
			along := x.client == f.client && !x.done && x.since <= f.since && x.next >= f.next && x.next <= uint64(step.Last)+1
			if along && !yield(x) {
				return
			}
		}
	}, func(a, b fillProgress) int { return cmp.Compare(a.key, b.key) })
}

// swap has a version that was filled answer, and all nodes of the client gone
// through once more, which forgets the version before.
func (l *lane) swap(b *batch, seq uint64, ch *rulesChange) {
	b.puts = append(b.puts, put{swapKey(l.id, ch.swapped), binary.BigEndian.AppendUint64(nil, seq)})
	l.setFill(b, fillProgress{client: ch.client, key: ch.swapped, since: proto.SegmentKey(seq), whole: l.fills[ch.swapped].exact()})
}

// refer has all nodes of the client gone through for the rules that refer to a
// version which begins to answer.
func (l *lane) refer(b *batch, seq uint64, ch *rulesChange) {
	again := fillProgress{client: ch.client, since: proto.SegmentKey(seq)}
	for _, k := range ch.refers {
		again.key = k
		l.setFill(b, again)
	}
}

// nodesBetween gives the nodes of a range of ordinals of which the client knows
// something, in the order of their ordinals, as of the last batch that was stepped:
// what the snapshot and the bitmaps lack is among those in flight. To wait for them
// would leave the lane idle for as long as a commit takes, at each step of a fill.
func (l *lane) nodesBetween(snap store.Snapshot, client proto.ClientID, first, last proto.Ordinal) ([]proto.Node, error) {
	l.visible.RLock() // a snapshot may be there a moment before the bits of its batch
	known := l.knownBetween(client, first, last)
	l.visible.RUnlock()
	named := map[proto.Ordinal]proto.Node{}
	for _, f := range l.flight {
		f.changeKnown(client, first, last, known, named)
	}
	err := snap.Scan(laneKey(l.id, 'o'), ordinalKey(l.id, first), func(k, v []byte) (bool, error) {
		o := ordinalOf(k)
		if o > last {
			return false, nil
		}
		if known[o] {
			space, id, err := decodeOrdinal(v)
			if err != nil {
				return false, err
			}
			named[o] = proto.Node{Hash: l.node.hasher.Hash(id), Space: space}
		}
		return true, nil
	})
	var nodes []proto.Node
	for _, o := range slices.Sorted(maps.Keys(named)) {
		if known[o] {
			nodes = append(nodes, named[o])
		}
	}
	return nodes, err
}

// flight is a batch that was stepped and is not in the snapshot of the one after it.
type flight struct {
	number   uint64
	outcomes []*actors.Outcome
}

// holds reports whether anything of a client is stored in the lane, as of the last
// batch that was stepped.
func (l *lane) holds(client proto.ClientID) bool {
	l.visible.RLock() // as in nodesBetween
	defer l.visible.RUnlock()
	known := map[proto.Ordinal]bool{}
	for _, f := range l.flight {
		f.changeKnown(client, 0, math.MaxUint32, known, map[proto.Ordinal]proto.Node{})
	}
	var left uint64
	l.bitmaps.View(func(_ getBits, universe getUniverse) {
		u := universe(client)
		if u == nil {
			u = roaring.New()
		}
		left = u.GetCardinality()
		for o, now := range known {
			left += flag64(now) - flag64(u.Contains(uint32(o)))
		}
	})
	return left > 0
}

// changeKnown makes of what a client knew in a range of ordinals what it knew after
// the batch, and adds the nodes that were numbered in it.
func (f flight) changeKnown(client proto.ClientID, first, last proto.Ordinal, known map[proto.Ordinal]bool, named map[proto.Ordinal]proto.Node) {
	for _, o := range f.outcomes {
		for i := range o.Named {
			if n := &o.Named[i]; n.Ordinal >= first && n.Ordinal <= last {
				named[n.Ordinal] = n.Node
			}
		}
		for i := range o.Bits {
			if d := &o.Bits[i]; d.Key == 0 && d.Client == client && d.Ordinal >= first && d.Ordinal <= last {
				known[d.Ordinal] = d.Set
			}
		}
	}
}

// knownBetween is the part of a client's universe that lies in a range.
func (l *lane) knownBetween(client proto.ClientID, first, last proto.Ordinal) map[proto.Ordinal]bool {
	set := map[proto.Ordinal]bool{}
	l.bitmaps.View(func(_ func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
		u := universe(client)
		if u == nil {
			return
		}
		it := u.Iterator()
		it.AdvanceIfNeeded(uint32(first))
		for it.HasNext() {
			o := proto.Ordinal(it.Next())
			if o > last {
				return
			}
			set[o] = true
		}
	})
	return set
}
