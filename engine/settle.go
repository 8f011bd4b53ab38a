package engine

import (
	"context"
	"errors"
	"math"
	"time"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// This file brings the lanes of a restored store to rest: each obeys all control
// records and has taken in what the others had for it. It does so in one thread,
// over a log in memory of which nothing is left, by the times that the lanes have:
// whoever does it to the same backup comes to the same store.
//
// Fills, erasures of clients and retention are not gone on with. They go on when
// the node runs.

// settling is a node that does that.
type settling struct {
	*Simulated
	latest proto.Millis // lane time of the lane that is furthest
	seqs   []uint64     // by lane: entries appended
}

// settleStored brings the store of a backup with c.Lanes lanes to rest. made is
// when the backup was made, control its control records.
func settleStored(ctx context.Context, c Config, made time.Time, control [][]byte, st store.Store) error {
	c.Boot, c.RevokedKeys, c.Retention, c.Feeds, c.Peers, c.Now = nil, nil, nil, nil, nil, func() time.Time { return made }
	secret, err := hashSecret(c)
	if err != nil {
		return err
	}
	lg := log.NewMemory(c.Lanes, c.Now)
	if err := errors.Join(tieRestored(ctx, c, lg, st), plantRecords(ctx, lg.Control(), control)); err != nil {
		return err
	}
	s, err := Simulate(c, lg, st, secret, nil)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range s.lanes {
			l.shell.Close()
			l.snapshot.Load().release()
		}
	}()
	if !s.Whole() {
		return proto.Errorf(proto.CodeConflict, "the backup was made while some lanes of its node were behind what other nodes had sent of them, so it cannot be given another number of lanes: use another backup, or restore it with the %d lanes that it has", c.Lanes)
	}
	x := &settling{Simulated: s, seqs: make([]uint64, c.Lanes)}
	return x.run(ctx)
}

// run goes on until no lane has anything to take in, then folds the journals.
func (x *settling) run(ctx context.Context) error {
	past, stop := context.WithCancel(ctx)
	stop()
	for _, l := range x.lanes {
		l.reading = past // nothing waits for room on the disk
		_, _, at, _ := l.progress.get()
		x.latest = max(x.latest, at)
	}
	for fed := true; fed; {
		if err := ctx.Err(); err != nil {
			return err
		}
		fed = false
		owed, before := false, x.taken()
		for _, l := range x.lanes {
			entries, records, err := x.feed(ctx, l)
			if err != nil {
				return err
			}
			fed, owed = fed || entries, owed || records
		}
		for _, l := range x.lanes {
			if err := x.Apply(l.id, math.MaxInt, NoCrash); err != nil && x.disk.stopped() {
				return errDiskFull
			} else if err != nil {
				return err
			}
			if err := l.stream.Purge(ctx, l.from-1); err != nil {
				return err
			}
		}
		if err := x.Trim(); err != nil {
			return err
		}
		if owed && x.taken() == before {
			return proto.Errorf(proto.CodeCorrupt, "the lanes of the backup do not take in what they have for one another: use another backup")
		}
	}
	return x.Seal()
}

// taken counts the control records that lanes obey and the batches that they took
// from one another.
func (x *settling) taken() (sum uint64) {
	for _, l := range x.lanes {
		sum += x.Obeyed(l.id)
		for _, from := range x.lanes {
			sum += l.progress.takenFrom(from.id)
		}
	}
	return sum
}

// feed appends to the lane's log what there is for it. It reports whether that was
// anything, and whether it was something that the lane must take in at once.
func (x *settling) feed(ctx context.Context, l *lane) (fed, owed bool, err error) {
	add := func(kind proto.CommandKind, bodies ...[]byte) {
		e := &proto.Entry{Lane: l.id, Producer: settlingProducer, Seq: x.seqs[l.id] + 1, Count: len(bodies)}
		for _, body := range bodies {
			e.Commands = proto.AppendCommand(e.Commands, kind, proto.LanePartition, body)
		}
		if err == nil && len(bodies) > 0 {
			x.seqs[l.id]++
			fed = true
			_, err = l.stream.Append(ctx, e)
		}
	}
	add(proto.CommandControl, x.Controls(l.id)...)
	for _, from := range x.lanes {
		if from == l {
			continue
		}
		if p := x.Pack(from.id, l.id, 0); p != nil {
			add(proto.CommandGraph, p.Append(nil))
		}
	}
	owed = fed
	_, _, at, _ := l.progress.get()
	switch {
	case at > 0 && at.Day() < x.latest.Day():
		// The sizes of a day are to be of all lanes or of none.
		b := proto.Beat{Node: settlingNode, Incarnation: settlingProducer, Time: x.latest}
		add(proto.CommandBeat, b.Append(nil))
	case x.Carries(l.id) && !fed: // any entry takes that in
		b := proto.Beat{Node: settlingNode, Incarnation: settlingProducer, Time: at, Follows: true}
		add(proto.CommandBeat, b.Append(nil))
	}
	return fed, owed, err
}

// settlingProducer is who appends these entries: a number like those of packers,
// which are random. Lanes forget it when their number changes.
const settlingProducer = 0x9f1c46d2b7a3580e

// settlingNode is whose beats these are, whatever node restores: the lanes' chains
// are over them.
const settlingNode = "restore"
