// Package fair has clients' long work wait for one another. It decides nothing and
// starts nothing.
package fair

import (
	"context"
	"sync"

	"kith/proto"
)

// Queue lets few pieces of work be under way. Of a client one is under way or next, so
// that none makes others wait for more than one of its own. Its methods may run
// concurrently.
type Queue struct {
	all chan struct{} // a slot for each
	own sync.Map      // proto.ClientID -> chan struct{}, with one slot
}

// New lets most pieces be under way at once.
func New(most int) *Queue { return &Queue{all: make(chan struct{}, most)} }

// Begin returns when it is the client's turn, after which end is due, or false when ctx
// ends before.
func (q *Queue) Begin(ctx context.Context, client proto.ClientID) (end func(), ok bool) {
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
