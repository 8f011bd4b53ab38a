package engine

import (
	"context"
	"time"

	"kith/proto"
)

// Times of the lane's own upkeep.
const (
	beatEvery   = 2 * time.Second
	beatSoonest = 20 * time.Millisecond
	controlMax  = 64  // control records in one relayed entry
	controlHead = 16  // bytes at most that come to a record in an entry
	fillStep    = 256 // identities in the first fill
	fillStepMin = 128
	fillStepMax = 2048
	fillWork    = 5 * time.Millisecond // of the lane, in one fill; more where each waits long for its turn
	fillWorkMax = 100 * time.Millisecond
)

// controlBytesMax bounds the control records in one relayed entry, and each of them.
const controlBytesMax = proto.EntryBytesMax - controlMax*controlHead

// keepTime appends beats: every two seconds, and when an exit record comes
// due. They alone advance lane time. It ends where the lane stops.
func (l *lane) keepTime(ctx context.Context) {
	for !l.stopped() {
		wait := beatEvery
		if err := l.sendBeat(ctx, false); err != nil && ctx.Err() == nil {
			l.logger.Warn("beat cannot be appended", "error", err)
			if !pause(ctx, relayRetry) { // however much is due
				return
			}
		}
		if !l.owns() || l.silent() { // what is due is the owner's
			if !pause(ctx, wait) {
				return
			}
			continue
		}
		if l.progress.carries() {
			wait = 0 // a tick at once, for the graph messages that are left over
		} else if next := l.nextExit.Load(); next != 0 {
			wait = min(wait, max(proto.Millis(next).Time().Sub(l.node.config.Now()), beatSoonest))
		}
		if !l.sleep(ctx, wait) {
			return
		}
	}
}

// carries reports whether graph messages wait for the next entry.
func (p *progress) carries() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.carry
}

// sleep waits, less if an exit record came nearer meanwhile.
func (l *lane) sleep(ctx context.Context, d time.Duration) bool {
	end := time.Now().Add(d) // however often one comes nearer
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-l.nearer:
			if l.progress.carries() {
				return true
			}
			next := l.nextExit.Load()
			if next == 0 {
				continue
			}
			timer.Reset(min(time.Until(end), max(proto.Millis(next).Time().Sub(l.node.config.Now()), beatSoonest)))
		case <-ctx.Done():
			return false
		}
	}
}

// sendBeat appends a beat, or the last of all.
func (l *lane) sendBeat(ctx context.Context, last bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b := proto.Beat{Node: l.node.config.Node, Incarnation: l.producer, Time: l.node.now(), Follows: last || !l.owns(), Releases: last}
	if l.node.config.Peers != nil {
		b.At, b.Chain = l.progress.point()
	}
	if !last && l.node.config.Peers != nil {
		if l.silent() {
			return nil
		}
		var ok bool
		if b.Releases, ok = l.leases.sending(b.Time); !ok {
			return nil
		}
	}
	if err := l.appendOwn(ctx, proto.CommandBeat, [][]byte{b.Append(nil)}); err != nil {
		return err
	}
	l.leases.logged(b.Time)
	return nil
}

// silent reports whether a node of a cluster sends no beats: it answers nothing, or soon
// will not.
func (l *lane) silent() bool {
	return l.node.config.Peers != nil && (l.node.fault() != nil || l.node.clock.wrong())
}

// appendOwn appends an entry of commands for the lane itself, one at a time.
func (l *lane) appendOwn(ctx context.Context, kind proto.CommandKind, bodies [][]byte) error {
	if l.node.disk.stopped() {
		return errDiskFull
	}
	over, err := l.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	l.ownSeq++
	e := &proto.Entry{Lane: l.id, Producer: l.producer, Seq: l.ownSeq, Time: l.node.now(), Count: len(bodies)}
	for _, b := range bodies {
		e.Commands = proto.AppendCommand(e.Commands, kind, proto.LanePartition, b)
	}
	_, err = l.stream.Append(ctx, e)
	return err
}

// turn waits until nobody else appends an entry of the lane's own, which may last as long
// as the log takes nothing. over ends it.
func (l *lane) turn(ctx context.Context) (over func(), err error) {
	select {
	case l.own <- struct{}{}:
		return func() { <-l.own }, nil
	case <-ctx.Done():
		return nil, proto.Errorf(proto.CodeUnavailable, "the log takes nothing at the moment: what was to be appended before is not stored yet: %w", ctx.Err())
	}
}

// relay copies control records into the lane's log, in their order, from the
// one after the last that the lane obeyed. What it does not obey is sent again.
func (l *lane) relay(ctx context.Context) {
	_, sent, _, _ := l.progress.get()
	var again resend
	for {
		_, obeyed, _, _ := l.progress.get()
		if sent = max(sent, obeyed); again.due(obeyed, sent) {
			sent = obeyed
		}
		soon, cancel := context.WithTimeout(ctx, again.left())
		err := l.node.registry.wait(soon, sent+1)
		late := soon.Err() != nil
		cancel()
		switch {
		case err != nil && late && ctx.Err() == nil:
			continue
		case err != nil:
			return
		}
		if sent <= obeyed { // what is sent now is not taken since now
			again.since = time.Now()
		}
		bodies := l.node.registry.relayed(sent)
		if err := l.appendOwn(ctx, proto.CommandControl, bodies); err != nil {
			if ctx.Err() != nil {
				return
			}
			l.logger.Warn("control records cannot be relayed, trying again", "error", err)
			_, sent, _, _ = l.progress.get()
			if !pause(ctx, time.Second) {
				return
			}
			continue
		}
		sent += uint64(len(bodies))
	}
}

// pause waits; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
