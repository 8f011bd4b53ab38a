package sim

import (
	"kith/engine"
	"kith/proto"
)

// The rule of leases: a node may answer for a lane while the newest beat of its
// own, of its present incarnation, that it has applied was sent under leaseMax
// ago by its clock. An opt-out is acknowledged when, for every lane that its
// receipt names, each node which beats up to there name has published that much,
// or its lease has run out even if its clock is slow and the acknowledger's fast.

const (
	leaseMax = proto.Millis(15_000)
	drift    = 50 // clocks run at 1000 +- this per mille
)

// leaseWait is after how long by the acknowledger's clock a lease has run out.
const leaseWait = leaseMax*(1000+drift)/(1000-drift) + 2

// local is the node's own clock, which is never set.
func (n *node) local() proto.Millis {
	return proto.Millis(n.offset) + (n.w.now-startTime)*proto.Millis(n.rate)/1000
}

// begin is at the start of an incarnation: it holds no lease, and has to wait
// for all that it has heard of as if that were now.
func (n *node) begin() {
	n.lease = make([]proto.Millis, n.w.lanes)
	n.heard = make([]map[int]proto.Millis, n.w.lanes)
	for l := range n.heard {
		n.heard[l] = map[int]proto.Millis{}
		for _, at := range n.w.heardOf(proto.LaneID(l), 0, n.sim.Applied(proto.LaneID(l))) {
			n.heard[l][at.node] = n.local()
		}
	}
}

// heardOf gives the beats between two offsets.
func (w *world) heardOf(l proto.LaneID, after, upTo proto.Offset) (list []beat) {
	for at := after + 1; at <= upTo; at++ {
		if b, ok := w.beats[l][at]; ok {
			list = append(list, b)
		}
	}
	return list
}

// hear takes in the beats that the node has just applied.
func (n *node) hear(l proto.LaneID, after, upTo proto.Offset) {
	for _, b := range n.w.heardOf(l, after, upTo) {
		n.heard[l][b.node] = n.local()
		if b.node == n.id && b.inc == n.inc {
			n.lease[l] = max(n.lease[l], n.sent[b.number]+leaseMax)
		}
	}
}

// mayAnswer reports whether the node may answer for a lane.
func (n *node) mayAnswer(l proto.LaneID) bool { return n.sim != nil && n.lease[l] > n.local() }

// pendingAck is a final cut whose acknowledgement waits for leases.
type pendingAck struct {
	cut    *cutAsk
	by     *node
	inc    uint64
	vector []proto.Offset
	barred bool // bars are known
	bars   []bar
}

// bar is one node that an acknowledgement waits for.
type bar struct {
	node  *node
	lane  proto.LaneID
	at    proto.Offset // it must have published this
	until proto.Millis // or it is this late by the acknowledger's clock
}

// cutAnswered takes in that a node has a cut's receipt.
func (w *world) cutAnswered(n *node, command uint64, a engine.Answer) {
	c := w.cuts[command]
	if c == nil || c.acked {
		return
	}
	c.told = true
	if !a.Final { // refused: nothing was left of it
		delete(w.cuts, command)
		return
	}
	w.trace("node %d has the receipt of the cut of %d at %v", n.id, c.i, a.Vector)
	p := &pendingAck{cut: c, by: n, inc: n.inc, vector: a.Vector}
	if c.kind == proto.CutForget { // not by its vector: the others are asked for all that was handed over
		p.vector = nil
		for l := range proto.LaneID(w.lanes) {
			p.vector = append(p.vector, n.sim.Applied(l))
		}
	}
	w.barred = append(w.barred, p)
}

// bar finds out for whom the acknowledgement waits, once the acknowledger has
// read who that may be.
func (p *pendingAck) bar() bool {
	for l, at := range p.vector {
		if p.by.sim.Applied(proto.LaneID(l)) < at {
			return false
		}
	}
	for l, at := range p.vector {
		for _, b := range p.by.w.nodes {
			if heard, ok := p.by.heard[l][b.id]; at > 0 && ok && b != p.by {
				p.bars = append(p.bars, bar{b, proto.LaneID(l), at, heard + leaseWait})
			}
		}
	}
	p.barred = true
	return true
}

// confirm acknowledges what nothing bars any more.
func (w *world) confirm() {
	var rest []*pendingAck
	for _, p := range w.barred {
		switch {
		case p.by.sim == nil || p.by.inc != p.inc: // whoever asked asks again
		case p.clear():
			w.acknowledged(p.cut)
		default:
			w.stats.LeaseWaits++
			rest = append(rest, p)
		}
	}
	w.barred = rest
}

func (p *pendingAck) clear() bool {
	if !p.barred && !p.bar() {
		return false
	}
	for _, b := range p.bars {
		if p.by.local() <= b.until && (b.node.sim == nil || b.node.sim.Applied(b.lane) < b.at) {
			return false
		}
	}
	return true
}
