package engine

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors"
	"kith/engine/store"
	"kith/proto"
)

// fillProgress is how far a segment has gone through history.
type fillProgress struct {
	client proto.ClientID
	key    proto.SegmentKey
	next   uint64 // the first ordinal not yet filled
	done   bool
}

// setFill notes progress in the batch: next (8 bytes), done (1), client (4).
func (b *batch) setFill(id proto.LaneID, f fillProgress) {
	v := binary.BigEndian.AppendUint64(nil, f.next)
	if f.done {
		v = append(v, 1)
	} else {
		v = append(v, 0)
	}
	v = binary.BigEndian.AppendUint32(v, uint32(f.client))
	b.puts = append(b.puts, put{fillKey(id, f.key), v})
	b.fills = append(b.fills, f)
}

// loadFills reads the progress of all fills.
func (l *lane) loadFills(snap store.Snapshot) error {
	l.progress.fills = map[proto.SegmentKey]fillProgress{}
	prefix := laneKey(l.id, 'g')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 || len(v) != 13 {
			return false, proto.Errorf(proto.CodeCorrupt, "a fill's record has %d bytes", len(v))
		}
		f := fillProgress{
			client: proto.ClientID(binary.BigEndian.Uint32(v[9:])), key: proto.SegmentKey(binary.BigEndian.Uint32(k[3:])),
			next: binary.BigEndian.Uint64(v), done: v[8] == 1,
		}
		l.progress.fills[f.key] = f
		return true, nil
	})
}

// fill is how far a segment is; false if the lane does not know of it.
func (p *progress) fill(k proto.SegmentKey) (fillProgress, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.fills[k]
	return f, ok
}

// filledShare is the share of its client's identities, over all lanes, whose
// history a segment has gone through, in hundredths rounded down; nil if a lane
// does not know of the segment.
func (n *Node) filledShare(k proto.SegmentKey) *float64 {
	var through, all uint64
	for _, l := range n.lanes {
		f, ok := l.progress.fill(k)
		if !ok {
			return nil
		}
		l.bitmaps.View(func(_ func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
			u := universe(f.client)
			if u == nil {
				return
			}
			all += u.GetCardinality()
			if f.done || f.next > uint64(^uint32(0)) {
				through += u.GetCardinality()
			} else if f.next > 0 {
				through += u.Rank(uint32(f.next - 1))
			}
		})
	}
	share := float64(through*100/max(all, 1)) / 100
	return &share
}

// fillFromHistory appends fills for segments that want their history gone
// through, a step at a time, each once the one before is published: so live
// events go first, and a restart goes on where it was. While events come, at
// least two thirds of the time are left to them, and a step is as large as
// the lane takes fillWork for.
func (l *lane) fillFromHistory(ctx context.Context) {
	step := fillStep
	for {
		var f fillProgress
		err := l.progress.wait(ctx, func(p *progress) (found bool) {
			f, found = p.nextFill()
			return found
		})
		if err != nil {
			return
		}
		// A root must know the rule before it is given what members remember for it.
		if l.node.obeyed(ctx, uint64(f.key)) != nil {
			if !pause(ctx, beatEvery) {
				return
			}
			continue
		}
		began, events := time.Now(), l.events.Load()
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
		if work := time.Duration(l.filling.Load()); work > 2*fillWork {
			step = max(step/2, fillStepMin)
		} else if work < fillWork/2 {
			step = min(step*2, fillStepMax)
		}
		if l.events.Load() != events && !pause(ctx, min(2*time.Since(began), fillPauseMax)) {
			return
		}
	}
}

// nextFill is the fill that is least far, of those the newest: what stands
// where a step of it begins or ends goes along. mu is held.
func (p *progress) nextFill() (f fillProgress, found bool) {
	for _, x := range p.fills {
		if !x.done && (!found || x.next < f.next || x.next == f.next && x.key > f.key) {
			f, found = x, true
		}
	}
	return f, found
}

// nextFill is the next step: so many nodes of the client from f.next on.
func (l *lane) nextFill(f fillProgress, step int) proto.Fill {
	x := proto.Fill{Client: f.client, Segment: f.key, First: proto.Ordinal(min(f.next, uint64(^uint32(0)))), Done: true}
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
	if _, ok := l.rules.defines[x.Segment]; !ok {
		return 0, false, nil // undefined or replaced meanwhile
	}
	if !l.drained(b) {
		return 0, true, nil
	}
	defer func(began time.Time) { l.filling.Store(int64(time.Since(began))) }(time.Now())
	nodes, err := l.nodesBetween(b.source, x.Client, x.First, x.Last)
	if err != nil {
		return 0, false, err
	}
	list := make([]*actors.Due, len(nodes))
	for i := range list {
		list[i] = &actors.Due{Entry: len(b.offsets), Node: nodes[i], Fill: x.Client}
	}
	digest, err = l.runDue(list)
	for _, k := range l.alongside(x) {
		b.setFill(l.id, fillProgress{client: x.Client, key: k, next: uint64(x.Last) + 1, done: x.Done})
	}
	return digest, false, err
}

// alongside are the segments that a fill brings further: its own and older ones
// of the client, if they have come to where it begins, or into what it goes
// through. Not those that are newer, which a root in another lane may not know
// yet. The batch before is published.
func (l *lane) alongside(x proto.Fill) (keys []proto.SegmentKey) {
	l.progress.mu.Lock()
	defer l.progress.mu.Unlock()
	for k, f := range l.progress.fills {
		if k <= x.Segment && f.client == x.Client && !f.done && f.next >= uint64(x.First) && f.next <= uint64(x.Last)+1 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// nodesBetween gives the nodes of a range of ordinals of which the client
// knows something, in the order of their ordinals.
func (l *lane) nodesBetween(snap store.Snapshot, client proto.ClientID, first, last proto.Ordinal) ([]proto.Node, error) {
	known := l.knownBetween(client, first, last)
	var nodes []proto.Node
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
			nodes = append(nodes, proto.Node{Hash: l.node.hasher.Hash(id), Space: space})
		}
		return true, nil
	})
	return nodes, err
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
