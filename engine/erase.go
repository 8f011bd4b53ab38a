package engine

import (
	"context"
	"time"

	"kith/proto"
)

var errEraseCluster = proto.Errorf(proto.CodeConflict, "bytes cannot be erased at once in a cluster yet: other nodes may still have to read what would go from the log. What was purged leaves the log with its retention, and the stores as they compact")

// eraseReads is how long an erasure of bytes waits for whoever reads the store as it
// was before.
const eraseReads = 30 * time.Second

// EraseBytes removes the bytes of everything that was purged: the log is emptied,
// and the store is rewritten without what was deleted or replaced. Look-ups go on
// meanwhile; intake and commits wait for moments. What comes in while it runs may
// leave bytes again. CodeConflict if somebody goes on reading the store as it was
// before: then only the log is emptied.
func (n *Node) EraseBytes(ctx context.Context) (proto.Erased, error) {
	return n.eraseBytes(ctx, eraseReads)
}

// eraseBytes waits for so long for whoever reads the store as it was.
func (n *Node) eraseBytes(ctx context.Context, reads time.Duration) (proto.Erased, error) {
	if n.config.Peers != nil {
		return proto.Erased{}, errEraseCluster
	}
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.Erased{}, err
	}
	defer done()
	n.erasing.Lock()
	defer n.erasing.Unlock()
	out := proto.Erased{Time: n.config.Now().UTC().Truncate(time.Millisecond)}
	// What lanes have for one another goes first. Then two rounds of beats: what a
	// commit finds out that it may delete the next one deletes, and no lane sees the
	// store as it was before.
	if err := n.cleanOutboxes(ctx); err != nil {
		return out, err
	}
	for range 2 {
		if err := n.beatsApplied(ctx); err != nil {
			return out, err
		}
	}
	if err := n.store.Sync(); err != nil { // so that little is left to be written while intake waits
		return out, err
	}
	if out.LogEntries, err = n.eraseLogs(ctx); err != nil {
		return out, err
	}
	if err := n.eraseFeeds(ctx); err != nil {
		return out, err
	}
	purged := n.purgedSoFar()
	out.Identities = int(purged - n.scrubbed)
	// A snapshot sees what was in the store when it was taken: each is to be of a store
	// that has all deletions, the lanes' own by another beat.
	if err := n.store.Sync(); err != nil {
		return out, err
	}
	mark := n.store.Durable()
	if err := n.beatsApplied(ctx); err != nil {
		return out, err
	}
	if err := n.awaitReads(ctx, mark, reads); err != nil {
		return out, err
	}
	if err := n.store.Scrub(); err != nil {
		return out, err
	}
	n.scrubbed = purged
	return out, nil
}

// awaitReads returns when nobody reads the store as it was before a mark.
func (n *Node) awaitReads(ctx context.Context, mark uint64, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		open := n.store.SnapshotsBefore(mark)
		if open == 0 {
			return nil
		}
		if !pause(ctx, readsAgain) {
			return proto.Errorf(proto.CodeConflict, "the log is emptied, but the store keeps the bytes of what was purged for %d readers that began before (an export, a backup, a copy for another node, verify, a campaign report, or the count of users after a start): ask again when they have ended", open)
		}
	}
}

// readsAgain is after how long readers are looked for again.
const readsAgain = 20 * time.Millisecond

// purgedSoFar is how many opt-outs and erasures became final since the start.
func (n *Node) purgedSoFar() (sum uint64) {
	for _, l := range n.lanes {
		sum += l.graphed.purged.Load()
	}
	return sum
}

// beatsApplied sends a beat into each lane and returns when they are applied.
func (n *Node) beatsApplied(ctx context.Context) error {
	for _, l := range n.lanes {
		if err := l.beatApplied(ctx); err != nil {
			return err
		}
	}
	return nil
}

// beatApplied sends a beat and returns when it is applied.
func (l *lane) beatApplied(ctx context.Context) error {
	if err := l.sendBeat(ctx, false); err != nil {
		return err
	}
	at, err := l.logEnd(ctx)
	if err != nil {
		return err
	}
	return l.progress.wait(ctx, func(p *progress) bool { return p.applied >= at })
}

// eraseWait bounds how long intake waits; a lane that is further behind fails
// the erasure, to be asked for again.
const eraseWait = 5 * time.Second

// eraseLogs empties the lanes' logs. JetStream keeps the bytes of a block of
// which something is left, so nothing may be: for a moment nothing is taken in,
// and all that was is applied.
func (n *Node) eraseLogs(ctx context.Context) (entries uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, eraseWait)
	defer cancel()
	reopen, err := n.shutIntake(ctx)
	if err != nil {
		return 0, proto.Errorf(proto.CodeTimeout, "the log did not take what came before in time: ask again: %w", err)
	}
	defer reopen()
	for i, l := range n.lanes {
		over, err := l.turn(ctx)
		if err != nil {
			return 0, err
		}
		defer over()
		for s := n.packers[i].Stats(); s.InFlight > 0 || s.BufferedBytes > 0; s = n.packers[i].Stats() {
			if !pause(ctx, time.Millisecond) { // of callers that did not wait for the end
				return 0, ctx.Err()
			}
		}
	}
	for _, l := range n.lanes {
		info, err := l.stream.Info(ctx)
		if err != nil {
			return entries, err
		}
		at := info.Last + proto.Offset(l.base)
		if err := l.progress.wait(ctx, func(p *progress) bool { return p.applied >= at }); err != nil {
			return entries, err
		}
		if info.Last < info.First {
			continue
		}
		if err := l.purge(ctx, info.Last); err != nil {
			return entries, err
		}
		entries += uint64(info.Last - info.First + 1)
	}
	return entries, nil
}
