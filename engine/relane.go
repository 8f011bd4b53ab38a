package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	gproto "google.golang.org/protobuf/proto"

	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/proto/pb"
)

// This file gives a restored store another number of lanes. A node's own records
// do not know their lane, and its number is of its partition, so only what lies
// under 'L' is rewritten: what is of identities goes to the lane that carries
// their partition from now on (relanekinds.go). It is done to a store at rest
// (settle.go): then no lane has anything that another must hear of, and all have
// the same rules. A restore that is killed meanwhile leaves a directory that
// nobody opens.

// relane has the lanes of x and of the store be c.RestoreLanes, from c.Lanes. made
// is when the backup was made.
func (x *restored) relane(ctx context.Context, c Config, made time.Time) (err error) {
	if err := x.unplace(made); err != nil {
		return err
	}
	st, err := openStore(&c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	c.Logger.Info("the store gets another number of lanes", "from", c.Lanes, "to", c.RestoreLanes)
	if err := settleStored(ctx, c, made, x.control, st); err != nil {
		return err
	}
	secret, err := hashSecret(c)
	if err != nil {
		return err
	}
	untold, err := relane(ctx, st, newDisk(c.DiskReserve, c.merges, c.storeDir()), proto.NewHasher(secret), c.Lanes, c.RestoreLanes)
	if err != nil {
		return err
	}
	for list := range slices.Chunk(untold, noticesPerRecord) {
		r := ledgerRecord{marks: make([]proto.Offset, c.RestoreLanes), entries: list}
		x.ledger = append(x.ledger, r.append(nil))
	}
	return nil
}

// unplace takes back which nodes were named as owners of lanes that there will
// not be any more.
func (x *restored) unplace(made time.Time) error {
	placed := map[uint32]bool{}
	for _, raw := range x.control {
		c, err := proto.DecodeControl(raw)
		if err != nil {
			return err
		}
		if p := c.GetPlace(); p != nil {
			placed[p.Lane] = p.Node != ""
		}
	}
	for _, id := range slices.Sorted(maps.Keys(placed)) {
		if !placed[id] {
			continue
		}
		raw, err := proto.EncodeControl(&pb.Control{TimeMs: made.UnixMilli(), Body: &pb.Control_Place{Place: &pb.Place{Lane: id}}})
		if err != nil {
			return err
		}
		x.control = append(x.control, raw)
	}
	return nil
}

// relaning rewrites a store.
type relaning struct {
	ctx      context.Context
	snap     store.Snapshot // as it was
	hasher   proto.Hasher
	from, to int // numbers of lanes
	out      bulk

	old     []*pb.LaneRecord // by lane
	journal uint64           // no row that is left is numbered with more
	offset  proto.Offset     // at which the new lanes begin
	untold  []ledgerEntry    // that the ledger may not have yet
	finals  []notice         // that the feed may not have yet
}

// relane rewrites a store at rest. It gives what the ledger has to be told; what
// the feed is told is left to the lanes.
func relane(ctx context.Context, st store.Store, room *disk, h proto.Hasher, from, to int) (untold []ledgerEntry, err error) {
	x := &relaning{ctx: ctx, snap: st.Snapshot(), hasher: h, from: from, to: to, out: bulk{store: st, room: room}}
	defer x.snap.Release()
	for _, step := range []func() error{x.read, x.clear, x.carry, x.end} {
		if err := step(); err != nil {
			x.out.discard()
			return nil, err
		}
	}
	return x.untold, nil
}

// laneOf is the lane that is to carry a partition.
func (x *relaning) laneOf(p proto.PartitionID) int { return int(laneIn(p, x.to)) }

// ofLane are the lanes whose identities a new lane gets.
func (x *relaning) ofLane(to int) []int {
	var set [proto.LanesMax]bool
	for _, p := range partitionsOf(proto.LaneID(to), x.to) {
		set[laneIn(p, x.from)] = true
	}
	return trueOf(set[:])
}

// besideOf are the lanes of which a new lane gets what is of no identity: totals
// and sizes, which are added over lanes. Of each of them it gets identities too: so
// a client's erasure is not done in it before it is where these totals come from.
func (x *relaning) besideOf(to int) []int {
	var set [proto.LanesMax]bool
	for n := to; n < x.from; n += x.to {
		set[n] = true
	}
	return trueOf(set[:])
}

func (x *relaning) all() []int { return trueOf(slices.Repeat([]bool{true}, x.from)) }

func trueOf(set []bool) (list []int) {
	for i, in := range set {
		if in {
			list = append(list, i)
		}
	}
	return list
}

// read reads what there is to be known before anything is written.
func (x *relaning) read() error {
	for n := range x.from {
		l := &lane{id: proto.LaneID(n)}
		if err := l.loadRecord(x.snap); err != nil {
			return err
		}
		x.old = append(x.old, l.record)
		x.offset = max(x.offset, proto.Offset(l.record.Offset))
		x.journal = max(x.journal, l.record.Journal)
		if l.record.Control != x.old[0].Control {
			return notAtRest("lane %d obeys %d control records, lane 0 %d", n, l.record.Control, x.old[0].Control)
		}
		if err := x.readKinds(n); err != nil {
			return err
		}
		if err := x.readNotices(n); err != nil {
			return err
		}
	}
	// Each that the feed is to be told becomes an entry of its own.
	x.offset += proto.Offset(len(x.finals))
	return nil
}

func notAtRest(format string, args ...any) error {
	return proto.Errorf(proto.CodeInternal, "the store is not at rest: "+format, args...)
}

// readKinds refuses a store that holds what this build does not know how to carry.
func (x *relaning) readKinds(n int) error {
	known := x.kinds()
	for next := 0; next <= 255; {
		kind := -1
		err := x.snap.Scan([]byte{'L', byte(n)}, laneKey(proto.LaneID(n), byte(next)), func(k, _ []byte) (bool, error) {
			kind = int(k[2])
			return false, nil
		})
		if err != nil || kind < 0 {
			return err
		}
		if _, ok := known[byte(kind)]; !ok {
			return proto.Errorf(proto.CodeConflict, "the store holds keys of kind %q that this build does not know how to bring into other lanes: restore it with the %d lanes that it has", rune(kind), x.from)
		}
		next = kind + 1
	}
	return nil
}

// readNotices reads what was not known to be told.
func (x *relaning) readNotices(n int) error {
	return x.scan(n, 'u', func(_, v []byte) error {
		u, err := decodeNotice(v)
		if err != nil {
			return err
		}
		if !u.final {
			x.untold = append(x.untold, ledgerEntry{u.hash, u.gen, u.time})
			return nil
		}
		u.cut.Vector = nil // it waits for nothing: the ledger is told before any node runs
		x.finals = append(x.finals, u)
		return nil
	})
}

// clear deletes all rows but names, which are so many that only those that move
// are touched.
func (x *relaning) clear() error {
	for n := range x.from {
		for _, kind := range slices.Sorted(maps.Keys(x.kinds())) {
			if kind == 'o' {
				continue
			}
			if err := x.scan(n, kind, func(k, _ []byte) error { return x.out.delete(slices.Clone(k)) }); err != nil {
				return err
			}
		}
	}
	return x.out.flush() // of one key's writes the last must win
}

// carry writes the rows of all kinds.
func (x *relaning) carry() error {
	kinds := x.kinds()
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if err := kinds[kind](); err != nil {
			return err
		}
	}
	return nil
}

// end writes what makes the store one of so many lanes.
func (x *relaning) end() error {
	var global []byte
	found, err := x.snap.Get(globalKey, func(v []byte) error { global = slices.Clone(v); return nil })
	if err != nil || !found || len(global) != 18 {
		return errors.Join(err, notAtRest("it has no mark of its own"))
	}
	binary.BigEndian.PutUint16(global[16:], uint16(x.to))
	return errors.Join(x.records(), x.out.set(globalKey, global), x.out.flush())
}

// records writes how far the lanes are: each as far as the furthest, of which
// nothing that was ever told is ahead. Without the name of a log a lane begins
// with the one that it is given.
func (x *relaning) records() error {
	past := uint64(0)
	for _, r := range x.old {
		past = chain(past, r.Offset, r.Chain)
	}
	for m := range x.to {
		r := &pb.LaneRecord{
			Version: 1, Offset: uint64(x.offset), Chain: chain(past, uint64(x.to), uint64(m)),
			Control: x.old[0].Control, Journal: x.journal, NextOrdinal: make([]uint32, proto.Partitions),
		}
		for _, o := range x.old {
			r.Logic, r.NowMs, r.LaneTimeMs = max(r.Logic, o.Logic), max(r.NowMs, o.NowMs), max(r.LaneTimeMs, o.LaneTimeMs)
		}
		for _, p := range partitionsOf(proto.LaneID(m), x.to) {
			r.NextOrdinal[p] = x.old[laneIn(p, x.from)].NextOrdinal[p]
		}
		raw, err := gproto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			return proto.Errorf(proto.CodeInternal, "lane record: %w", err)
		}
		if err := x.out.set(recordKey(proto.LaneID(m)), raw); err != nil {
			return err
		}
	}
	return nil
}

// graphs writes the lanes' parts of the graph: with nothing under way, and as if
// each had heard of all that the others did.
func (x *relaning) graphs() error {
	for m := range x.to {
		l := graph.NewLane(proto.LaneID(m), x.to, nil)
		l.Position = x.offset
		for i := range l.Vector {
			l.Vector[i] = x.offset
		}
		if err := x.out.set(graphKey(l.ID), l.AppendRecord(nil)); err != nil {
			return err
		}
	}
	return nil
}

// scan calls fn with the rows that an old lane has of a kind.
func (x *relaning) scan(n int, kind byte, fn func(k, v []byte) error) error {
	prefix := laneKey(proto.LaneID(n), kind)
	return x.snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if err := x.ctx.Err(); err != nil {
			return false, err
		}
		return true, fn(k, v)
	})
}

// together calls fn once for each key that any of the lanes has of a kind, in the
// order of lanes and keys, with what follows the kind and the value in each lane,
// nil where it has none.
func (x *relaning) together(lanes []int, kind byte, fn func(rest []byte, values [][]byte) error) error {
	for i, n := range lanes {
		err := x.scan(n, kind, func(k, v []byte) error {
			rest, values := slices.Clone(k[3:]), make([][]byte, len(lanes))
			values[i] = append([]byte{}, v...)
			for j, other := range lanes {
				if j == i {
					continue
				}
				found, err := x.snap.Get(append(laneKey(proto.LaneID(other), kind), rest...), func(v []byte) error {
					values[j] = append([]byte{}, v...)
					return nil
				})
				if err != nil || found && j < i { // it was called with that one
					return err
				}
			}
			return fn(rest, values)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// put writes a row of a new lane, which keeps value.
func (x *relaning) put(m int, kind byte, rest, value []byte) error {
	return x.out.set(append(laneKey(proto.LaneID(m), kind), rest...), value)
}

// same copies rows that all lanes have, since they obey the same control records.
func (x *relaning) same(kind byte) func() error {
	return func() error {
		return x.together(x.all(), kind, func(rest []byte, values [][]byte) error {
			for n, v := range values {
				if v == nil || !bytes.Equal(v, values[0]) {
					return notAtRest("lane %d has another row of kind %q than lane 0", n, rune(kind))
				}
			}
			for m := range x.to {
				if err := x.put(m, kind, rest, values[0]); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// none refuses rows of a kind of which a store at rest has none.
func (x *relaning) none(kind byte) func() error {
	return func() error {
		for n := range x.from {
			if err := x.scan(n, kind, func(_, _ []byte) error { return notAtRest("lane %d has rows of kind %q", n, rune(kind)) }); err != nil {
				return err
			}
		}
		return nil
	}
}

// bulk writes many rows in batches.
type bulk struct {
	store store.Store
	room  *disk
	batch store.Batch
	keys  int
	bytes int
}

// Bounds of a batch of a bulk, for small disks too.
const (
	bulkKeysMax  = store.BatchKeysMax / 3
	bulkBytesMax = store.BatchBytesMax / 2
)

// set keeps key and value, as delete does.
func (b *bulk) set(key, value []byte) error {
	return b.add(len(key)+len(value), func(to store.Batch) error { return to.Set(key, value) })
}

func (b *bulk) delete(key []byte) error {
	return b.add(len(key), func(to store.Batch) error { return to.Delete(key) })
}

func (b *bulk) add(size int, op func(store.Batch) error) error {
	if b.batch == nil {
		b.batch = b.store.NewBatch()
	}
	if err := op(b.batch); err != nil {
		return err
	}
	b.keys++
	if b.bytes += size; b.keys < bulkKeysMax && b.bytes < bulkBytesMax {
		return nil
	}
	return b.flush()
}

// flush makes what was written durable.
func (b *bulk) flush() error {
	if b.batch == nil {
		return nil
	}
	if b.room.stopped() {
		return errDiskFull
	}
	batch := b.batch
	b.batch, b.keys, b.bytes = nil, 0, 0
	return batch.Commit()
}

func (b *bulk) discard() {
	if b.batch != nil {
		b.batch.Discard()
	}
}
