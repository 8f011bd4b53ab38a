package engine

import (
	"kith/actors/identity"
	"kith/engine/store"
	"kith/proto"
	"kith/segments"
)

// history walks what is stored of a client's events of a node.
type history struct {
	snap  store.Snapshot
	node  proto.Node
	gen   uint32
	facts *identity.Facts
	body  proto.EventBody
	err   error // why a walk ended early
}

// walk gives the events in the order of their arrival; it may be ranged over
// more than once.
func (h *history) walk(yield func(proto.Millis, *proto.EventBody) bool) {
	f := h.facts
	more := true
	for block, err := range (source{h.snap}).Blocks(h.node, h.gen, f.Client, f.History.First, f.History.Next) {
		if err == nil {
			err = identity.WalkBlock(block, &h.body, func(t proto.Millis, e *proto.EventBody) bool {
				more = yield(t, e)
				return more
			})
		}
		if err != nil {
			h.err = err
			return
		}
		if !more {
			return
		}
	}
	f.History.WalkTail(&h.body, yield)
}

// memberOf answers member() in rules from a memory's memberships; keys tells
// the definition in force of each segment.
func memberOf(m *segments.Memory, keys func(proto.SegmentID) proto.SegmentKey, now proto.Millis) func(proto.SegmentID) bool {
	return func(id proto.SegmentID) bool {
		key := keys(id)
		for _, x := range m.Memberships() {
			if x.Key == key {
				return identity.In(x, now)
			}
		}
		return false
	}
}
