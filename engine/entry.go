package engine

import (
	"errors"

	"kith/actors"
	"kith/proto"
	"kith/proto/pb"
)

// split hands an entry's commands to their hosts, or reports that they are
// for the lane.
func (l *lane) split(b *batch, e *laneEntry, index int) (isLane bool, err error) {
	if e.skip = l.applied(e); e.skip {
		return false, nil
	}
	rest := e.Commands
	for i := 0; len(rest) > 0; i++ {
		var c proto.Command
		if c, rest, err = proto.NextCommand(rest); err != nil {
			return false, err
		}
		if c.Partition == proto.LanePartition {
			if i > 0 {
				return false, proto.Errorf(proto.CodeCorrupt, "entry %d mixes commands for the lane with others", e.offset)
			}
			return true, nil
		}
		if c.Kind == proto.CommandReplay {
			var ok bool
			if c, ok, err = l.unwrapReplay(b, c); err != nil {
				return false, err
			} else if !ok {
				continue
			}
		}
		b.commands.Add(c.Partition, actors.Command{Entry: index, Index: i, Kind: c.Kind, Body: c.Body})
	}
	return false, nil
}

// applied reports whether the lane has applied this producer's entry before.
// It does not note it: see noteProducer.
func (l *lane) applied(e *laneEntry) bool {
	for _, p := range l.record.Producers {
		if p.Id == e.Producer && e.Seq <= p.Last && (p.Last-e.Seq >= 64 || p.Seen>>(p.Last-e.Seq)&1 == 1) {
			return true
		}
	}
	return l.pendingTwin(e)
}

// pendingTwin looks for the same entry earlier in the batch under way.
func (l *lane) pendingTwin(e *laneEntry) bool {
	for _, x := range l.pending {
		if x == e {
			return false
		}
		if x.Producer == e.Producer && x.Seq == e.Seq {
			return true
		}
	}
	return false
}

// noteProducer remembers that the entry was applied.
func (l *lane) noteProducer(e *laneEntry) {
	for _, p := range l.record.Producers {
		if p.Id != e.Producer {
			continue
		}
		if e.Seq > p.Last {
			p.Seen = p.Seen<<min(e.Seq-p.Last, 64) | 1
			p.Last = e.Seq
		} else {
			p.Seen |= 1 << (p.Last - e.Seq)
		}
		p.TimeMs = l.record.NowMs
		return
	}
	x := &pb.Producer{Id: e.Producer, Last: e.Seq, Seen: 1, TimeMs: l.record.NowMs}
	if len(l.record.Producers) < producersMax {
		l.record.Producers = append(l.record.Producers, x)
		return
	}
	oldest := 0
	for i, p := range l.record.Producers {
		if p.TimeMs < l.record.Producers[oldest].TimeMs {
			oldest = i
		}
	}
	l.record.Producers[oldest] = x
}

// runEntry takes in the prepared commands of one entry.
func (l *lane) runEntry(b *batch, e *laneEntry) error {
	var digest uint64
	if !e.skip {
		l.advance(e.Time)
		l.enter(b, e.offset)
		var err error
		if digest, err = l.shell.Run(); err == nil {
			digest, err = l.supersteps(b, e.offset, digest)
		}
		if err != nil {
			return l.entryError(e, err)
		}
		l.noteProducer(e)
	}
	l.endEntry(b, e, digest)
	return nil
}

// advance sets the time of an entry: its own, clamped to lane time and never
// before the last one's.
func (l *lane) advance(t proto.Millis) {
	t = min(max(t, proto.Millis(l.record.LaneTimeMs)), proto.Millis(l.record.LaneTimeMs+clampMs))
	l.record.NowMs = max(l.record.NowMs, int64(t))
}

func (l *lane) endEntry(b *batch, e *laneEntry, digest uint64) {
	l.record.Offset = uint64(e.offset)
	l.record.OffsetCrc = e.CRC
	l.record.Chain = chain(l.record.Chain, uint64(e.CRC)<<32^uint64(e.offset), digest)
	if l.node.config.Peers != nil {
		l.agreement.note(e.offset, l.record.Chain)
	}
	b.offsets, b.times = append(b.offsets, e.offset), append(b.times, proto.Millis(l.record.LaneTimeMs))
	b.newest = e.Time
}

// chain folds an entry and the digest of its effects into the lane's history.
func chain(h, entry, digest uint64) uint64 {
	for _, x := range [2]uint64{entry, digest} {
		h ^= x
		h *= 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	return h
}

func (l *lane) entryError(e *laneEntry, err error) error {
	var x *proto.Error
	if errors.As(err, &x) && x.Code == proto.CodeCorrupt {
		return proto.Errorf(proto.CodeCorrupt, "log entry %d cannot be applied: %w", e.offset, err)
	}
	return err
}
