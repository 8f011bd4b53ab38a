package engine

import (
	"context"
	"encoding/binary"
	"maps"
	"time"

	"kith/actors"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// This file is how data grow old. For how long they are kept is a control
// record, so that all lanes of all replicas agree. What is too old goes by
// steps that name the nodes to look at, entries of the lane's log; whether
// anything goes, each node decides by its own facts and the time of the entry.

const (
	// expireEvery is between two searches for what is too old, in lane time.
	expireEvery = proto.Millis(6 * 60 * 60 * 1000)
	// expireHold is how long nothing is deleted after lane time jumped further than
	// that, at a start or later: the clock may be wrong.
	expireHold = proto.Millis(60 * 60 * 1000)
	// expireShare of the time that events are kept they may be kept longer: an
	// identity is rewritten as often only.
	expireShare = 24
)

// Bounds of one step, of which there is at most one a beat.
const (
	expireNodes = 256
	expireCost  = 8192 // blocks of history are to be read, written and deleted
)

// Version 1 has no aggregates, and is written where they are kept for ever.
const retentionVersion = 2

func retentionOf(r *pb.Retain) proto.Retention {
	return proto.Retention{Sessions: proto.Millis(max(r.SessionsMs, 0)), Idle: proto.Millis(max(r.IdleMs, 0)), Aggregates: proto.Millis(max(r.AggregatesMs, 0))}
}

// appendRetention packs it: version byte, then as uvarints milliseconds of
// sessions, idleness and aggregates.
func appendRetention(b []byte, r proto.Retention) []byte {
	version := byte(retentionVersion)
	if r.Aggregates == 0 {
		version--
	}
	b = binary.AppendUvarint(append(b, version), uint64(r.Sessions))
	b = binary.AppendUvarint(b, uint64(r.Idle))
	if r.Aggregates == 0 {
		return b
	}
	return binary.AppendUvarint(b, uint64(r.Aggregates))
}

func decodeRetention(b []byte) (proto.Retention, error) {
	r := proto.NewReader(b)
	version := r.Byte()
	x := proto.Retention{Sessions: proto.Millis(r.Uvarint()), Idle: proto.Millis(r.Uvarint())}
	if version == retentionVersion {
		x.Aggregates = proto.Millis(r.Uvarint())
	}
	if r.Bad() || r.Len() != 0 || version < 1 || version > retentionVersion || x.Sessions < 0 || x.Idle < 0 || x.Aggregates < 0 {
		return proto.Retention{}, proto.Errorf(proto.CodeCorrupt, "a record of retention is malformed or of another version than %d: restore a backup, or use the kith that wrote it", retentionVersion)
	}
	return x, nil
}

// loadRetention reads for how long data are kept.
func (l *lane) loadRetention(snap store.Snapshot) error {
	prefix := laneKey(l.id, 'p')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 {
			return false, proto.Errorf(proto.CodeCorrupt, "the key of a record of retention has %d bytes", len(k))
		}
		r, err := decodeRetention(v)
		l.rules.keep[proto.ClientID(binary.BigEndian.Uint32(k[3:]))] = r
		return true, err
	})
}

// retentions is for how long data are kept, by client; 0 is whoever has no
// record.
type retentions map[proto.ClientID]proto.Retention

// of is for how long a client's data are kept.
func (r retentions) of(c proto.ClientID) proto.Retention {
	x := r[0]
	if own := r[c]; own.Sessions > 0 {
		x.Sessions = own.Sessions
	}
	return x
}

// retentions are those of the control stream.
func (r *registry) retentions() retentions {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.rules.keep)
}

// agreeRetention writes to the control stream what the configuration wants
// otherwise than it is there.
func (n *Node) agreeRetention(ctx context.Context) error {
	c := n.config.Retention
	if c == nil {
		return nil
	}
	all := proto.Retention{Sessions: proto.Millis(c.Sessions.Milliseconds()), Idle: proto.Millis(c.Idle.Milliseconds()), Aggregates: proto.Millis(c.Aggregates.Milliseconds())}
	if err := n.retain(ctx, 0, all); err != nil {
		return err
	}
	for _, info := range n.Clients() {
		if err := n.retain(ctx, info.ID, proto.Retention{Sessions: proto.Millis(c.Clients[info.Name].Milliseconds())}); err != nil {
			return err
		}
	}
	return nil
}

// retain writes for how long a client's data are kept, unless that is so.
func (n *Node) retain(ctx context.Context, client proto.ClientID, r proto.Retention) error {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if n.registry.rules.keep[client] == r {
			return nil, nil
		}
		return &pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{Client: uint32(client), SessionsMs: int64(r.Sessions), IdleMs: int64(r.Idle), AggregatesMs: int64(r.Aggregates)}}}, nil
	})
	return err
}

// expireOld goes through the lane's nodes every few hours of lane time, and
// appends steps for those of which something is too old. It waits where lane time
// may be wrong: for an hour after a jump, and while it is ahead of the node's clock,
// as after a jump that was taken back.
func (l *lane) expireOld(ctx context.Context) {
	_, _, opened, _ := l.progress.get()
	if l.progress.wait(ctx, func(p *progress) bool { return p.beats > 0 }) != nil {
		return
	}
	_, _, next, _ := l.progress.get()
	l.looked = laneLook{next, l.node.clock.ran()}
	if opened > 0 && next-opened > expireHold {
		l.logger.Warn("lane time jumped at the start: nothing is deleted for its age for an hour", "by", (next - opened).Time().Sub(proto.Millis(0).Time()))
		next += expireHold
	}
	for !l.stopped() {
		if l.progress.wait(ctx, func(p *progress) bool { return p.laneTime >= next && p.laneTime-l.node.now() <= expireHold }) != nil {
			return
		}
		now, by := l.jumped()
		if by > expireHold {
			l.logger.Warn("lane time jumped: nothing is deleted for its age for an hour; set the clock right if it is wrong", "by", (time.Duration(by) * time.Millisecond).String())
			next = now + expireHold
			l.looked = laneLook{now, l.node.clock.ran()}
			continue
		}
		if err := l.expireAll(ctx, now); err != nil && ctx.Err() == nil {
			l.logger.Warn("what is too old cannot be deleted, trying again", "error", err)
			if !pause(ctx, beatEvery) {
				return
			}
			continue
		}
		next = now + expireEvery
	}
}

// laneLook is when lane time was last found to run as the monotonic clock does.
type laneLook struct {
	lane proto.Millis
	ran  time.Duration
}

// jumped gives lane time, and by how much more than the monotonic clock it went on
// since the last look. What is no jump either way is the next last look: lane time that
// stood still, as without the log, will catch up.
func (l *lane) jumped() (now, by proto.Millis) {
	_, _, now, _ = l.progress.get()
	ran := l.node.clock.ran()
	if by = now - l.looked.lane - proto.Millis((ran - l.looked.ran).Milliseconds()); max(by, -by) <= expireHold {
		l.looked = laneLook{now, ran}
	}
	return now, by
}

var errJumped = proto.Errorf(proto.CodeUnavailable, "lane time jumped: set the clock right if it is wrong")

// expireAll appends the steps that there are at a lane time, until that jumps.
func (l *lane) expireAll(ctx context.Context, now proto.Millis) error {
	keep := l.node.registry.retentions()
	for first, more := proto.Ordinal(0), len(keep) > 0; more; {
		var step proto.Expire
		var err error
		if step, first, more, err = l.nextExpire(ctx, keep, first, now); err != nil {
			return err
		}
		if len(step.Ordinals) == 0 {
			continue
		}
		if _, by := l.jumped(); by > expireHold {
			return errJumped
		}
		if err := l.appendOwn(ctx, proto.CommandExpire, [][]byte{step.Append(nil)}); err != nil {
			return err
		}
		before := l.progress.beatsSoFar()
		if err := l.progress.wait(ctx, func(p *progress) bool { return p.beats > before }); err != nil {
			return err
		}
	}
	if old, err := l.oldLetters(keep.of(0).Idle, now); err != nil || !old {
		return err
	}
	var step proto.Expire // any step takes them
	return l.appendOwn(ctx, proto.CommandExpire, [][]byte{step.Append(nil)})
}

// oldLetters reports whether there are dead letters that are too old.
func (l *lane) oldLetters(idle, now proto.Millis) (bool, error) {
	snap := l.acquire()
	defer snap.release()
	list := newLetters()
	err := l.readLetters(snap, &list)
	return len(list.old(now, idle)) > 0, err
}

func (p *progress) beatsSoFar() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beats
}

// expireScan is how many nodes are looked at in one snapshot.
const expireScan = 16 << 10

// nextExpire is a step of nodes numbered from first on, and where to go on.
func (l *lane) nextExpire(ctx context.Context, keep retentions, first proto.Ordinal, now proto.Millis) (step proto.Expire, next proto.Ordinal, more bool, err error) {
	snap := l.acquire()
	defer snap.release()
	nodes, cost := 0, 0
	work := l.node.pace.begin()
	err = l.scanNames(snap, first, func(o proto.Ordinal, node proto.Node, _ proto.Identity) (bool, error) {
		if nodes++; nodes > expireScan || len(step.Ordinals) >= expireNodes || cost >= expireCost {
			next, more = o, true
			return false, nil
		}
		blocks, err := tooOld(snap, keep, node, now)
		if blocks > 0 {
			step.Ordinals = append(step.Ordinals, o)
			cost += blocks
		}
		if err == nil {
			err = work.breathe(ctx)
		}
		return true, err
	})
	return step, next, more, err
}

// tooOld is what it costs to let go of what is too old of a node, or to note since
// when it is old; 0 if nothing is.
func tooOld(snap store.Snapshot, keep retentions, node proto.Node, now proto.Millis) (cost int, err error) {
	s, _, err := readNode(snap, node)
	if err != nil || s.Dark() {
		return 0, err
	}
	if idle := keep.of(0).Idle; idle > 0 && (s.Idle(now-idle) || s.Undated()) {
		cost = 1
	}
	for i := range s.Facts {
		f := &s.Facts[i]
		sessions := keep.of(f.Client).Sessions
		if cost > 0 || sessions > 0 && f.Older(now-sessions-sessions/expireShare) {
			cost += 1 + int(f.History.Next-f.History.First)
		}
	}
	return cost, nil
}

// expire has the nodes of a step let go of what is too old, and drops the dead letters
// that are.
func (l *lane) expire(b *batch, body []byte) (digest uint64, later bool, err error) {
	x, err := proto.DecodeExpire(body)
	if err != nil {
		return 0, false, err
	}
	if !l.drained(b) {
		return 0, true, nil
	}
	for _, id := range l.letters.old(proto.Millis(l.record.LaneTimeMs), l.rules.keep.of(0).Idle) {
		l.dropLetter(b, id)
	}
	var list []*actors.Due
	for _, o := range x.Ordinals {
		node, found, err := l.nodeOf(b.source, o)
		if err != nil {
			return 0, false, err
		}
		if found {
			list = append(list, &actors.Due{Entry: len(b.offsets), Node: node, Retain: true})
		}
	}
	digest, err = l.runDue(list)
	return digest, false, err
}
