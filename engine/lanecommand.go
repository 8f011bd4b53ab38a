package engine

import (
	"encoding/binary"
	"time"

	"kith/actors"
	"kith/proto"
)

// laneEntry applies an entry whose commands are for the lane. It gives 0 if
// the entry must begin a batch and this one has others before it.
func (l *lane) laneEntry(b *batch, e *laneEntry) (int, error) {
	rest := e.Commands
	var digest uint64
	l.enter(b, e.offset)
	for len(rest) > 0 {
		c, more, err := proto.NextCommand(rest)
		if err != nil {
			return 0, err
		}
		rest = more
		d, later, err := l.laneCommand(b, e, c)
		if err != nil {
			return 0, l.entryError(e, err)
		}
		if later {
			b.full = true
			return 0, nil
		}
		digest = chain(digest, uint64(c.Kind), d)
	}
	l.enter(b, e.offset)
	digest, err := l.supersteps(b, e.offset, digest)
	if err != nil {
		return 0, l.entryError(e, err)
	}
	if !l.fillBegan.IsZero() { // what it made users exchange is a part of it
		l.filling.Store(int64(time.Since(l.fillBegan)))
		l.fillBegan = time.Time{}
	}
	l.noteProducer(e)
	l.endEntry(b, e, digest)
	return 1, nil
}

// laneCommand runs one command; later means that the entry, of which nothing
// was done yet, must begin a batch.
func (l *lane) laneCommand(b *batch, e *laneEntry, c proto.Command) (digest uint64, later bool, err error) {
	switch c.Kind {
	case proto.CommandBeat:
		return l.beat(b, e, c.Body)
	case proto.CommandFill:
		return l.fill(b, c.Body)
	case proto.CommandExpire:
		return l.expire(b, c.Body)
	case proto.CommandForget:
		return l.forget(b, c.Body)
	case proto.CommandGraph:
		return 0, false, l.receive(c.Body)
	}
	later, err = l.control(b, c.Body)
	return 0, later, err
}

// beat advances lane time and fires what came due, up to a bound: the owner
// sends the next beat at once while something is due.
func (l *lane) beat(b *batch, e *laneEntry, body []byte) (digest uint64, later bool, err error) {
	x, err := proto.DecodeBeat(body)
	if err != nil {
		return 0, false, err
	}
	b.proofs = append(b.proofs, x)
	if x.Follows {
		return 0, false, nil
	}
	now := max(proto.Millis(l.record.NowMs), x.Time)
	load, ended := l.exits.needsLoad(now), l.dayEnds(x.Time)
	if (load || ended) && !l.drained(b) {
		b.proofs = b.proofs[:len(b.proofs)-1] // it comes again
		return 0, true, nil
	}
	if load {
		if err := l.exits.load(b.source, now); err != nil {
			return 0, false, err
		}
	}
	if ended {
		if err := l.keepSizes(b); err != nil {
			return 0, false, err
		}
		if err := l.agedTallies(b, proto.Millis(l.record.LaneTimeMs).Day(), x.Time.Day()); err != nil {
			return 0, false, err
		}
	}
	l.record.LaneTimeMs = max(l.record.LaneTimeMs, int64(x.Time))
	l.record.NowMs = int64(now)
	b.beats++
	l.enter(b, e.offset)
	l.shell.Sweep()
	digest, err = l.fire(b, now)
	return digest, false, err
}

// fire runs timers due at now, in order of time and node. Those whose record
// is stale do not count for the bound, and all others run together: how many
// stale ones there are depends on restarts, which must not change what an
// entry does.
func (l *lane) fire(b *batch, now proto.Millis) (digest uint64, err error) {
	l.exits.add(l.shell.TakeExits())
	l.exits.popped = actors.Exit{} // a node may ask again for a time at which it was looked at before
	var due []*actors.Due
	for len(due) < exitsPerBeat {
		list := l.dueRecords(len(b.offsets), now, exitsPerBeat-len(due))
		if len(list) == 0 {
			break
		}
		if err := l.shell.Due(list); err != nil {
			return 0, err
		}
		for _, x := range list {
			if !x.Ignore {
				due = append(due, x)
			}
		}
	}
	if len(due) == 0 {
		return 0, nil
	}
	digest, err = l.runDue(due)
	l.exits.add(l.shell.TakeExits())
	return chain(0, 0, digest), err
}

// dueRecords takes at most n records out of the index.
func (l *lane) dueRecords(entry int, now proto.Millis, n int) (list []*actors.Due) {
	for len(list) < n {
		e, ok := l.exits.due(now)
		if !ok {
			break
		}
		list = append(list, &actors.Due{Entry: entry, Node: e.Node, At: e.At})
	}
	return list
}

func (l *lane) runDue(list []*actors.Due) (uint64, error) {
	if err := l.shell.Due(list); err != nil {
		return 0, err
	}
	return l.shell.Run()
}

// control obeys a control record that is the next one; repeated ones are
// skipped, and one that comes too early is dropped: the relay sends it again.
func (l *lane) control(b *batch, body []byte) (later bool, err error) {
	x, err := proto.DecodeRelayed(body)
	if err != nil {
		return false, err
	}
	if x.Seq != l.record.Control+1 {
		return false, nil
	}
	if len(b.offsets) > 0 { // what is before it in the batch is not collected yet
		return true, nil
	}
	c, err := proto.DecodeControl(x.Record)
	if err != nil {
		return false, err
	}
	ch, err := l.rules.apply(x.Seq, c)
	if err != nil {
		return false, proto.Errorf(proto.CodeCorrupt, "control record %d cannot be obeyed: %w", x.Seq, err)
	}
	l.record.Control = x.Seq
	b.full = b.full || ch.client != 0 // rules do not change within a batch
	for _, k := range ch.dropped {
		b.dropped = append(b.dropped, k)
		b.deletes = append(b.deletes, defineKey(l.id, ch.client, uint64(k)), fillKey(l.id, k), swapKey(l.id, k))
		delete(l.fills, k)
	}
	if ch.swapped != 0 {
		l.swap(b, x.Seq, &ch)
	}
	l.refer(b, x.Seq, &ch)
	if r := c.GetRetain(); r != nil {
		b.puts = append(b.puts, put{retentionKey(l.id, proto.ClientID(r.Client)), appendRetention(nil, retentionOf(r))})
	}
	l.markFeed(b, x.Seq, c, &ch)
	if e := c.GetEraseClient(); e != nil {
		l.endClient(b, x.Seq, e)
	}
	if ch.client != 0 && !ch.same {
		b.puts = append(b.puts, put{versionKey(l.id, ch.client), binary.BigEndian.AppendUint64(nil, x.Seq)})
	}
	if ch.defined != 0 {
		b.puts = append(b.puts, put{defineKey(l.id, ch.client, uint64(ch.defined)), append([]byte(nil), x.Record...)})
		f := fillProgress{client: ch.client, key: ch.defined, since: proto.SegmentKey(x.Seq)}
		switch {
		case !ch.kept:
			f.done = !ch.fill && (ch.unmet || !l.holds(ch.client))
			f.along = !ch.fill && !f.done
			l.setFill(b, f)
		case !ch.same: // what waited is forgotten
			f.whole = l.fills[f.key].exact()
			l.setFill(b, f)
		}
	}
	return false, nil
}
