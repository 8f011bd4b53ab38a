package gateway

import (
	"context"
	"sync"
	"time"

	"kith/proto"
)

// Bounds of previews under way, each of which takes a core for up to ten seconds: of
// one client one, and few on a node. Others wait.
const (
	previewsMax    = 2
	previewWaitMax = 20 * time.Second
)

// previewing has previews wait for one another.
type previewing struct {
	all chan struct{} // a slot for each
	own sync.Map      // proto.ClientID -> chan struct{}, with one slot
}

// begin returns when it is the client's turn; after nil end is due.
func (p *previewing) begin(ctx context.Context, client proto.ClientID) (end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, previewWaitMax)
	defer cancel()
	v, _ := p.own.LoadOrStore(client, make(chan struct{}, 1))
	own := v.(chan struct{})
	if !enter(ctx, own) {
		return nil, errPreviews
	}
	if !enter(ctx, p.all) {
		<-own
		return nil, errPreviews
	}
	return func() { <-p.all; <-own }, nil
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

var errPreviews = proto.Errorf(proto.CodeOverloaded, "too many previews wait for one another: ask again when one of yours is answered")
