package gateway

import (
	"context"
	"time"

	"kith/proto"
)

// Bounds of previews under way, each of which takes a core for up to ten seconds: of
// one client one, and few on a node. Others wait.
const (
	previewsMax    = 2
	previewWaitMax = 20 * time.Second
)

var errPreviews = proto.Errorf(proto.CodeOverloaded, "too many previews wait for one another: ask again when one of yours is answered")

// previewTurn returns when it is the client's turn; after nil end is due.
func (g *Gateway) previewTurn(ctx context.Context, client proto.ClientID) (end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, previewWaitMax)
	defer cancel()
	end, ok := g.previews.Begin(ctx, client)
	if !ok {
		return nil, errPreviews
	}
	return end, nil
}
