package engine

import (
	"context"
	"sync"
	"time"

	"kith/proto"
)

// Bounds of long counts: of a client one is under way, on the node few, as each takes
// a core and may have the lanes copy what they change. Others wait.
const (
	longMentions = 32   // of segments, from which on a count is long
	longColumns  = 256  // of a row of an overlap, from which on it is held
	longCells    = 1024 // of an overlap by identities
	longMax      = 2
	longWaitMax  = 20 * time.Second
)

var errLong = proto.Errorf(proto.CodeOverloaded, "too many long counts wait for one another: ask again when one of yours is answered, or for fewer segments at once")

// queue has clients' long work wait for one another. Of a client one piece is under way
// or next, so that none makes others wait for more than one of its own.
type queue struct {
	all chan struct{} // a slot for each
	own sync.Map      // proto.ClientID -> chan struct{}, with one slot
}

func newQueue(most int) *queue { return &queue{all: make(chan struct{}, most)} }

// begin returns when it is the client's turn, after which end is due, or false when ctx
// ends before.
func (q *queue) begin(ctx context.Context, client proto.ClientID) (end func(), ok bool) {
	v, _ := q.own.LoadOrStore(client, make(chan struct{}, 1))
	own := v.(chan struct{})
	if !enter(ctx, own) {
		return nil, false
	}
	if !enter(ctx, q.all) {
		<-own
		return nil, false
	}
	return func() { <-q.all; <-own }, true
}

// enter takes a slot, unless ctx ends before there is one.
func enter(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// longTurn is when a count may begin that takes long.
func (n *Node) longTurn(ctx context.Context, client proto.ClientID) (end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, longWaitMax)
	defer cancel()
	end, ok := n.long.begin(ctx, client)
	if !ok {
		return nil, errLong
	}
	return end, nil
}
