package engine

import (
	"context"
	"time"

	"kith/proto"
)

// Bounds of what takes long, counts and explanations from histories: of a client one is under way, on the node few, as each takes
// a core and may have the lanes copy what they change. Others wait.
const (
	longMentions = 32   // of segments, from which on a count is long
	longColumns  = 256  // of a row of an overlap, from which on it is held
	longCells    = 1024 // of an overlap by identities
	longMax      = 2
	longWaitMax  = 20 * time.Second
)

var errLong = proto.Errorf(proto.CodeOverloaded, "too many long counts and explanations wait for one another: ask again when one of yours is answered; a count, for fewer segments at once")

// longTurn is when a count, or an explanation that reads histories, may begin.
func (n *Node) longTurn(ctx context.Context, client proto.ClientID) (end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, longWaitMax)
	defer cancel()
	end, ok := n.long.Begin(ctx, client)
	if !ok {
		return nil, errLong
	}
	return end, nil
}
