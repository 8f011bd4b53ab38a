package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	gproto "google.golang.org/protobuf/proto"

	"kith/actors"
	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// logicVersion is the version of what applying an entry means.
const logicVersion = 1

// partitionsOf gives a lane its partitions: those whose number is the lane's
// modulo the number of lanes. The number of lanes is recorded in the store.
func partitionsOf(id proto.LaneID, lanes int) []proto.PartitionID {
	var list []proto.PartitionID
	for p := int(id); p < proto.Partitions; p += lanes {
		list = append(list, proto.PartitionID(p))
	}
	return list
}

// laneIn is the lane that carries a partition where there are so many.
func laneIn(p proto.PartitionID, lanes int) proto.LaneID { return proto.LaneID(int(p) % lanes) }

// openLane brings a lane to where the store has it. Without an actor system its
// hosts are called directly.
func (n *Node) openLane(ctx context.Context, id proto.LaneID, helpers *actors.Helpers) (*lane, error) {
	l := &lane{
		id: id, node: n, logger: n.logger.With("lane", id.String()), stream: n.log.Lane(id), store: n.store,
		partitions: partitionsOf(id, n.config.Lanes), rules: newLaneRules(), exits: exitIndex{lane: id},
		bitmaps: segments.NewBitmaps(),
		entries: make(chan *laneEntry, entriesAheadMax), built: make(chan *batch, 1), commits: make(chan *batch, 1),
		progress: progress{changed: make(chan struct{}), faulted: make(chan struct{})}, producer: newProducer(), own: make(chan struct{}, 1), nearer: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	l.users.init()
	name := ""
	if n.config.Peers != nil {
		name = n.config.Node
	}
	l.leases.init(name, bootTime)
	l.renewSnapshot(0)
	if err := l.load(l.snapshot.Load()); err != nil {
		return nil, err
	}
	if err := l.knowLog(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(l.loadOutbox(l.snapshot.Load()), l.loadNotices(l.snapshot.Load())); err != nil {
		return nil, err
	}
	next := map[proto.PartitionID]uint32{}
	for _, p := range l.partitions {
		next[p] = l.record.NextOrdinal[p]
		n.laneOf[p] = l
	}
	cut, err := l.loadCut(l.snapshot.Load())
	if err != nil {
		return nil, err
	}
	config := actors.Config{
		Hasher: n.hasher, Rules: n.judged(l.rules), Partitions: l.partitions, Next: next, ActiveMax: n.config.ActiveMax, ActiveIdle: n.config.ActiveIdle,
		Gone:   l.rules.ended,
		Kept:   l.rules.keep.of,
		Told:   l.rules.told,
		Limits: graphLimits(), Spaces: l.spaces, Cut: func(p proto.PartitionID) *actors.Filter { return cut[p] },
	}
	if n.system == nil {
		l.shell = actors.NewDirect(config)
	} else {
		l.shell = actors.NewShell(n.system, helpers, config)
	}
	l.base, l.logName = l.record.Base, logNameOf(l.record.StreamCreatedNs)
	l.from = proto.Offset(l.record.Offset-l.record.Base) + 1
	l.progress.set(func(p *progress) {
		p.applied, p.control = proto.Offset(l.record.Offset), l.record.Control
		p.laneTime, p.now, p.chain = proto.Millis(l.record.LaneTimeMs), proto.Millis(l.record.NowMs), l.record.Chain
		p.received, p.carry = slices.Clone(l.graph.Applied), len(l.graph.Carry) > 0
	})
	return l, nil
}

func (n *Node) judged(r identity.Rules) identity.Rules {
	if n.judge != nil {
		return n.judge(r)
	}
	return r
}

// loadRecord reads the lane's record.
func (l *lane) loadRecord(snap store.Snapshot) error {
	l.record = &pb.LaneRecord{Version: 1, Logic: logicVersion, NextOrdinal: make([]uint32, proto.Partitions)}
	_, err := snap.Get(recordKey(l.id), func(v []byte) error {
		if err := gproto.Unmarshal(v, l.record); err != nil || len(l.record.NextOrdinal) != proto.Partitions {
			return proto.Errorf(proto.CodeCorrupt, "the record of lane %s is malformed: restore a backup", l.id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if l.record.Version != 1 || l.record.Logic > logicVersion {
		err = proto.Errorf(proto.CodeConflict, "lane %s has record version %d and logic %d, this build knows 1 and %d: install the kith version that wrote it", l.id, l.record.Version, l.record.Logic, logicVersion)
	}
	return err
}

// load reads the lane's record, rules and bitmaps.
func (l *lane) load(snap store.Snapshot) error {
	if err := l.loadRecord(snap); err != nil {
		return err
	}
	if err := l.loadRules(snap); err != nil {
		return err
	}
	if err := errors.Join(l.loadFills(snap), l.loadErasures(snap), l.loadRetention(snap), l.loadFeeds(snap), l.loadLetters(snap), l.loadGraph(snap), l.loadAggregates(snap)); err != nil {
		return err
	}
	return l.loadBitmaps(snap)
}

// loadCut reads which identities were ever cut.
func (l *lane) loadCut(snap store.Snapshot) (map[proto.PartitionID]*actors.Filter, error) {
	filters := map[proto.PartitionID]*actors.Filter{}
	for _, p := range l.partitions {
		f := &actors.Filter{}
		prefix := []byte{'T', byte(p)}
		err := snap.Scan(prefix, prefix, func(k, _ []byte) (bool, error) {
			f.Add(proto.IdentityHash(k[2:]))
			return true, nil
		})
		if err != nil {
			return nil, err
		}
		filters[p] = f
	}
	return filters, nil
}

// loadRules applies the definitions in force, in the order of their making.
func (l *lane) loadRules(snap store.Snapshot) error {
	records := map[uint64]*pb.Control{}
	prefix := laneKey(l.id, 'd')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 15 {
			return false, proto.Errorf(proto.CodeCorrupt, "a definition's key has %d bytes", len(k))
		}
		c, err := proto.DecodeControl(v)
		records[binary.BigEndian.Uint64(k[7:])] = c
		return true, err
	})
	if err != nil {
		return err
	}
	swapped := map[proto.SegmentKey]proto.SegmentKey{}
	prefix = laneKey(l.id, 'w')
	err = snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 || len(v) != 8 {
			return false, proto.Errorf(proto.CodeCorrupt, "the mark of a version that answers has %d bytes", len(v))
		}
		swapped[proto.SegmentKey(binary.BigEndian.Uint32(k[3:]))] = proto.SegmentKey(binary.BigEndian.Uint64(v))
		return true, nil
	})
	if err != nil {
		return err
	}
	if err := l.rules.restore(records, swapped); err != nil {
		return err
	}
	prefix = laneKey(l.id, 'v')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 || len(v) != 8 {
			return false, proto.Errorf(proto.CodeCorrupt, "a rules version has %d bytes", len(v))
		}
		l.rules.program(proto.ClientID(binary.BigEndian.Uint32(k[3:]))).SetVersion(proto.SegmentKey(binary.BigEndian.Uint64(v)))
		return true, nil
	})
}

// loadBitmaps reads chunks and then replays the journal over them.
func (l *lane) loadBitmaps(snap store.Snapshot) error {
	prefix := laneKey(l.id, 'b')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 13 {
			return false, proto.Errorf(proto.CodeCorrupt, "a bitmap chunk's key has %d bytes", len(k))
		}
		return true, l.bitmaps.Load(segments.Chunk{
			Client: proto.ClientID(binary.BigEndian.Uint32(k[3:])), Key: proto.SegmentKey(binary.BigEndian.Uint32(k[7:])),
			High: binary.BigEndian.Uint16(k[11:]), Data: append([]byte(nil), v...),
		})
	})
	if err != nil {
		return err
	}
	prefix = laneKey(l.id, 'j')
	err = snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		d, err := segments.ReadDeltas(v)
		if err != nil {
			return false, err
		}
		l.bitmaps.Apply(d)
		l.noteJournal(binary.BigEndian.Uint64(k[3:]), len(v))
		return true, nil
	})
	if err != nil {
		return err
	}
	// Chunks of a definition that went may have outlived a crash. One that is
	// still to come may have members: a root's lane can be ahead.
	for _, key := range l.bitmaps.Keys() {
		if _, ok := l.rules.defines[key]; !ok && uint64(key) <= l.record.Control {
			l.bitmaps.Drop(key)
		}
	}
	return nil
}

// noteJournal counts a stored part of the journal.
func (l *lane) noteJournal(number uint64, size int) {
	l.journal.bytes += size
	if n := len(l.journal.keys); n > 0 && l.journal.keys[n-1].number == number {
		l.journal.keys[n-1].parts++
		return
	}
	l.journal.keys = append(l.journal.keys, journalEntry{number, 1})
}

// electionMax is for how long a cluster's log may seem to have lost its end, as
// it does while its leader takes in what was committed before.
const electionMax = 30 * time.Second

// knowLog is checkFingerprint; in a cluster a log that does not fit is looked at
// again for a while.
func (l *lane) knowLog(ctx context.Context) error {
	for began := time.Now(); ; {
		err := l.checkFingerprint(ctx)
		if l.node.config.Peers == nil || proto.CodeOf(err) != proto.CodeQuarantined || time.Since(began) > electionMax || !pause(ctx, relayRetry) {
			return err
		}
	}
}

// checkFingerprint holds what the store applied against what the log has. If
// the log lost a tail that the store had applied, its sequences would be used
// again and new entries silently skipped.
func (l *lane) checkFingerprint(ctx context.Context) error {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return err
	}
	if err := l.checkControl(l.record.Control, "Nothing was changed. "); err != nil {
		return err
	}
	if l.record.StreamCreatedNs == 0 { // new, or just restored
		l.tie(info)
		if l.record.Offset == 0 {
			l.record.Base = 0 // a new store replays the log from its start
		}
	}
	if l.emptied(info) {
		return proto.Errorf(proto.CodeQuarantined, "lane %s: the store is empty but the log begins at entry %d, or goes on from a backup (its offset %d): what was before is gone, with who opted out. Nothing was changed. Put the store's files back, or restore a backup with `kith restore` into a new directory, with this one as --ledger",
			l.id, info.First, info.Follows)
	}
	err = l.compare(ctx, info)
	if proto.CodeOf(err) == proto.CodeQuarantined && l.node.config.RebaseLog {
		l.logger.Warn("the log is rebased: the store stays as it is", "because", err)
		return l.rebase(ctx, info)
	}
	if err != nil {
		return err
	}
	err = l.compareLedger(info)
	if err != nil && l.node.config.RebaseLog { // what there is of the log is applied all the same
		l.logger.Warn("the log goes on as it is, and opt-outs that it lost are taken from the ledger", "because", err)
		l.rebased = true
		return nil
	}
	return err
}

// compareLedger refuses a log that lost opt-outs which the ledger has: the store need
// not have known of them. The ledger's marks are of what is applied.
func (l *lane) compareLedger(info log.Info) error {
	end := l.record.Base + uint64(info.Last)
	if told := uint64(l.node.ledger.mark(l.id)); told > end {
		return l.wayOut("opt-outs of entry %d are in the ledger but the log ends at %d: it lost its tail", told, end)
	}
	return nil
}

// checkControl refuses a lane that obeyed more control records than there are, with a
// word of what was done.
func (l *lane) checkControl(obeyed uint64, done string) error {
	if last := l.node.registry.last(); obeyed > last {
		return proto.Errorf(proto.CodeQuarantined, "lane %s obeyed %d control records but the control stream has %d: it is another one or lost its end, and clients would get the numbers of others. %sPut back the log directory that belongs to this store, or restore a backup with `kith restore`", l.id, obeyed, last, done)
	}
	return nil
}

// emptied reports whether the store lacks what came before the log. There is nothing
// in it to go on with: rebased or not, it would not know who opted out.
func (l *lane) emptied(info log.Info) bool {
	return l.record.Offset == 0 && (info.First > 1 || info.Follows > 0)
}

// rebase goes on with the log behind the store as it is. The log says so first: whoever
// comes with an empty store must not take it for all there ever was.
func (l *lane) rebase(ctx context.Context, info log.Info) error {
	if info.Follows == 0 {
		if err := l.node.log.Follow(ctx, l.id, proto.Offset(l.record.Offset), true); err != nil {
			return err
		}
	}
	l.tie(info)
	l.rebased = true
	return nil
}

// tie makes the end of the log as it is be where the store is.
func (l *lane) tie(info log.Info) {
	l.record.StreamCreatedNs = info.Created.UnixNano()
	l.record.Base = l.record.Offset - uint64(info.Last)
}

// compare says what does not fit between the store and the log.
func (l *lane) compare(ctx context.Context, info log.Info) error {
	at := proto.Offset(l.record.Offset - l.record.Base)
	switch {
	case info.Created.UnixNano() != l.record.StreamCreatedNs:
		return l.wayOut("the log's stream was made at another time than the one that the store applied")
	case at > info.Last:
		return l.wayOut("the store has applied %d entries but the log ends at %d: it lost its tail", at, info.Last)
	case at+1 < info.First:
		return l.wayOut("the log begins at entry %d but the store has applied only %d: entries between are gone", info.First, at)
	}
	return l.checkLastEntry(ctx, at)
}

// checkLastEntry compares the entry at the store's offset, if it is still there.
func (l *lane) checkLastEntry(ctx context.Context, at proto.Offset) error {
	if at == 0 {
		return nil
	}
	rec, err := l.stream.Get(ctx, at)
	if proto.CodeOf(err) == proto.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	e, err := proto.DecodeEntry(rec.Data, l.id)
	if err != nil {
		return l.wayOut("entry %d, the last that the store applied, cannot be read: %v", at, err)
	}
	if e.CRC != l.record.OffsetCrc {
		return l.wayOut("entry %d of the log is not the one that the store applied", at)
	}
	return nil
}

// wayOut is the error of a lane whose log and store do not belong together.
func (l *lane) wayOut(format string, args ...any) error {
	if l.node.config.Peers != nil {
		return proto.Errorf(proto.CodeQuarantined, "lane %s: %s. Nothing was changed. Where another node's store goes with the log, empty this one's store directory: it copies that. Else see \"A log that lost entries\" in docs/operations.md",
			l.id, fmt.Sprintf(format, args...))
	}
	return proto.Errorf(proto.CodeQuarantined, "lane %s: %s. Nothing was changed. Restore the log's files, or restore a backup with `kith restore`; or, to go on with the store as it is and give up what only the log held, start once with --rebase-log",
		l.id, fmt.Sprintf(format, args...))
}
