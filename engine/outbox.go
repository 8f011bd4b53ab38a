package engine

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"kith/engine/store"
	"kith/proto"
)

// This file is how graph messages get from lane to lane: committed batches lie
// in the outbox, in the store and in memory, until the other lane has applied
// them. A relay packs them into entries of the other lane's log. It may send
// some twice, or lose its place: the other lane takes each batch in once, in
// order.

// Bounds of the outbox.
const (
	packBytesMax   = 256 << 10
	packBatchesMax = 1024
	outboxBytesMax = 64 << 20 // of one lane; beyond, no commands are taken in until some are gone
	relayRetry     = 200 * time.Millisecond
	relayResend    = 5 * time.Second // of which nothing was taken; twice as long each time
)

// outbox is a lane's committed batches for other lanes.
type outbox struct {
	mu      sync.Mutex
	boxes   []box // by lane
	bytes   int
	changed chan struct{} // closed and replaced when there is more
}

// box is the batches for one lane, numbered from base+1.
type box struct {
	base    uint64
	batches [][]byte
	gone    uint64 // rows up to here are deleted
}

func (x *outbox) init(lanes int) {
	x.boxes, x.changed = make([]box, lanes), make(chan struct{})
}

// add takes committed batches.
func (x *outbox) add(list []outgoing) {
	if len(list) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range list {
		b := &x.boxes[o.to]
		b.batches = append(b.batches, o.data)
		x.bytes += len(o.data)
	}
	close(x.changed)
	x.changed = make(chan struct{})
}

// trim lets go of what the other lane has applied.
func (x *outbox) trim(to proto.LaneID, applied uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := &x.boxes[to]
	for b.base < applied && len(b.batches) > 0 {
		x.bytes -= len(b.batches[0])
		b.batches[0] = nil
		b.batches = b.batches[1:]
		b.base++
	}
}

// pack gives batches from number lo on, as many as one entry takes.
func (x *outbox) pack(to proto.LaneID, lo uint64) (first uint64, list [][]byte, changed <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := &x.boxes[to]
	first = max(lo, b.base+1)
	size := 0
	for i := first - b.base - 1; i < uint64(len(b.batches)) && len(list) < packBatchesMax; i++ {
		if size += len(b.batches[i]); size > packBytesMax && len(list) > 0 {
			break
		}
		list = append(list, b.batches[i])
	}
	return first, list, x.changed
}

// empty reports whether all was applied by the other lanes.
func (x *outbox) empty() bool { return x.size() == 0 }

func (x *outbox) full() bool { return x.size() > outboxBytesMax }

func (x *outbox) size() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.bytes
}

// takeGone gives the keys of rows that the other lanes have applied, and what to
// note once they are deleted.
func (l *lane) takeGone() (keys [][]byte, deleted func()) {
	x := &l.outbox
	x.mu.Lock()
	defer x.mu.Unlock()
	upTo := make([]uint64, len(x.boxes))
	for to := range x.boxes {
		b := &x.boxes[to]
		upTo[to] = b.base
		for n := b.gone + 1; n <= b.base; n++ {
			keys = append(keys, outboxKey(l.id, proto.LaneID(to), n))
		}
	}
	return keys, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		for to := range x.boxes {
			x.boxes[to].gone = upTo[to]
		}
	}
}

// deleteGone deletes rows of all lanes that the others have applied. Nobody
// else does, so that what is left of a lane's rows never has a gap.
func (n *Node) deleteGone() error {
	n.cleaning.Lock()
	defer n.cleaning.Unlock()
	b := n.store.NewBatch()
	w := &writer{batch: b}
	var all []func()
	for _, l := range n.lanes {
		keys, deleted := l.takeGone()
		all = append(all, deleted)
		for _, k := range keys {
			w.delete(k)
		}
	}
	if w.err != nil {
		b.Discard()
		return w.err
	}
	if err := b.Apply(); err != nil {
		return err
	}
	for _, deleted := range all {
		deleted()
	}
	return nil
}

// sweepOutboxes deletes such rows now and then, until ctx ends.
func (n *Node) sweepOutboxes(ctx context.Context) {
	for pause(ctx, time.Second) {
		if n.disk.stopped() {
			continue
		}
		for _, l := range n.lanes { // another node may be who relays
			for to := range n.lanes {
				l.outbox.trim(proto.LaneID(to), n.lanes[to].progress.takenFrom(l.id))
			}
		}
		if err := n.deleteGone(); err != nil {
			n.logger.Error("graph messages that were applied cannot be deleted", "error", err)
			return // the store is broken: the lanes stop too
		}
	}
}

// cleanOutboxes returns when all that is in the outboxes now is applied and
// deleted, with what it was answered: it may name an identity of which nothing
// must be left when its opt-out is acknowledged.
func (n *Node) cleanOutboxes(ctx context.Context) error {
	if len(n.lanes) == 1 {
		return nil
	}
	for range 2 { // what is applied is answered by the same commit
		if err := n.emptyOutboxes(ctx); err != nil {
			return err
		}
	}
	return n.deleteGone()
}

// emptyOutboxes returns when all that is in the outboxes now is applied.
func (n *Node) emptyOutboxes(ctx context.Context) error {
	now := make([][]uint64, len(n.lanes)) // before the first wait, or it is for what comes meanwhile too
	for i, l := range n.lanes {
		now[i] = l.outbox.last()
	}
	for i, l := range n.lanes {
		for to, last := range now[i] {
			err := n.lanes[to].progress.wait(ctx, func(p *progress) bool { return p.received[l.id] >= last })
			if err != nil {
				return err
			}
			l.outbox.trim(proto.LaneID(to), last)
		}
	}
	return nil
}

// last gives the newest batch for each lane.
func (x *outbox) last() []uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := make([]uint64, len(x.boxes))
	for to := range x.boxes {
		list[to] = x.boxes[to].base + uint64(len(x.boxes[to].batches))
	}
	return list
}

// loadOutbox reads the rows that are left.
func (l *lane) loadOutbox(snap store.Snapshot) error {
	l.outbox.init(l.node.config.Lanes)
	for to := range l.outbox.boxes {
		b := &l.outbox.boxes[to]
		b.base = l.graph.Outbox[to].Last() // without rows
		prefix := append(laneKey(l.id, 'm'), byte(to))
		err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
			if len(k) != 12 {
				return false, proto.Errorf(proto.CodeCorrupt, "an outbox key has %d bytes", len(k))
			}
			number := binary.BigEndian.Uint64(k[4:])
			if len(b.batches) == 0 {
				b.base = number - 1
			}
			if number != b.base+uint64(len(b.batches))+1 {
				return false, proto.Errorf(proto.CodeCorrupt, "the outbox of lane %s to %d has no batch %d: restore a backup", l.id, to, b.base+uint64(len(b.batches))+1)
			}
			b.batches = append(b.batches, slices.Clone(v))
			l.outbox.bytes += len(v)
			return true, nil
		})
		if err != nil {
			return err
		}
		b.gone = b.base
		if last := b.base + uint64(len(b.batches)); last != l.graph.Outbox[to].Last() {
			return proto.Errorf(proto.CodeCorrupt, "the outbox of lane %s to %d ends at batch %d, its record says %d: restore a backup", l.id, to, last, l.graph.Outbox[to].Last())
		}
	}
	return nil
}

// resend says when what was sent and not taken is to be sent again: what is sent may be
// lost, however much else the other lane does. One that has much to do before it has it
// few times over.
type resend struct {
	taken uint64    // up to there
	since time.Time // nothing more was, of what was sent
	after time.Duration
}

// due reports whether to send again, where up to sent was sent and up to taken taken.
func (r *resend) due(taken, sent uint64) bool {
	now := time.Now()
	if taken != r.taken || taken >= sent {
		*r = resend{taken, now, relayResend}
		return false
	}
	if now.Sub(r.since) < r.after {
		return false
	}
	r.since, r.after = now, 2*r.after
	return true
}

// left is how long it is until then.
func (r *resend) left() time.Duration { return time.Until(r.since.Add(r.after)) }

// relayGraph sends the lane's batches to another one until ctx ends, or that stops.
func (l *lane) relayGraph(ctx context.Context, to *lane) {
	sent := to.progress.takenFrom(l.id)
	var again resend
	for !to.stopped() {
		applied, progressed := to.progress.taken(l.id)
		l.outbox.trim(to.id, applied)
		if sent = max(sent, applied); again.due(applied, sent) {
			sent = applied
		}
		first, list, more := l.outbox.pack(to.id, sent+1)
		if len(list) > 0 {
			x := proto.GraphPack{From: l.id, First: first, Batches: list}
			if err := to.appendOwn(ctx, proto.CommandGraph, [][]byte{x.Append(nil)}); err != nil {
				if ctx.Err() != nil {
					return
				}
				l.logger.Warn("graph messages cannot be relayed, trying again", "to", to.id.String(), "error", err)
				if !pause(ctx, relayRetry) {
					return
				}
				sent = to.progress.takenFrom(l.id)
				continue
			}
			sent = first + uint64(len(list)) - 1
			continue
		}
		timer := time.NewTimer(again.left())
		select {
		case <-more:
		case <-progressed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// takenFrom is the newest batch that the lane has applied from another.
func (p *progress) takenFrom(from proto.LaneID) uint64 {
	n, _ := p.taken(from)
	return n
}

// taken is the same with what tells of the next change.
func (p *progress) taken(from proto.LaneID) (uint64, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(from) >= len(p.received) {
		return 0, p.changed
	}
	return p.received[from], p.changed
}
