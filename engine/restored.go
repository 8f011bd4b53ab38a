package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	gproto "google.golang.org/protobuf/proto"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// This file is how a restored store gets its new log: control records, the
// ledger, and the commands by which the store catches up with it. A node alone
// does it when it is restored. The nodes of a cluster make their log together
// when they start: until then it lies in a file beside the store. Of the nodes,
// all of which were restored from the same backup, any that comes first puts it
// into the log, and one that is killed meanwhile leaves the rest to another.

// restoredName is that file: restoredMagic, a section of control records, one of
// the ledger's, then backupEnd.
const (
	restoredName  = "RESTORED"
	restoredMagic = "KITHRST1"
)

// restored is what a backup has for a new log.
type restored struct {
	control, ledger [][]byte
}

// keep writes it into the directory.
func (x *restored) keep(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, restoredName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "write %s: %w", restoredName, err)
	}
	b := &backupWriter{w: bufio.NewWriterSize(f, 64<<10)}
	b.raw([]byte(restoredMagic))
	for _, list := range [][][]byte{x.control, x.ledger} {
		b.section(func(w io.Writer) error { return writeRecords(w, list) })
	}
	b.raw([]byte(backupEnd))
	if b.err == nil {
		b.err = b.w.Flush()
	}
	if err := errors.Join(b.err, f.Sync(), f.Close()); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "write %s: %w", restoredName, err)
	}
	return syncDirs(dir)
}

// kept reads what a restore left in the directory; false if there is nothing.
func kept(dir string) (x restored, ok bool, err error) {
	f, err := os.Open(filepath.Join(dir, restoredName))
	if errors.Is(err, fs.ErrNotExist) {
		return x, false, nil
	}
	if err != nil {
		return x, false, proto.Errorf(proto.CodeUnavailable, "read %s: %w", restoredName, err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	if err := expect(r, restoredMagic); err != nil {
		return x, false, err
	}
	for _, list := range []*[][]byte{&x.control, &x.ledger} {
		if err := readRecords(r, func(raw []byte) error { *list = append(*list, raw); return nil }); err != nil {
			return x, false, err
		}
	}
	return x, true, expect(r, backupEnd)
}

// writeRecords writes records, each after its length as uvarint.
func writeRecords(w io.Writer, list [][]byte) error {
	for _, raw := range list {
		if _, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...)); err != nil {
			return err
		}
	}
	return nil
}

// readRecords reads a section of what writeRecords wrote.
func readRecords(r io.Reader, take func([]byte) error) error {
	s := bufio.NewReader(&sectionReader{r: r})
	for {
		n, err := binary.ReadUvarint(s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || n > proto.EntryBytesMax {
			return errBackup
		}
		raw := make([]byte, n)
		if _, err := io.ReadFull(s, raw); err != nil {
			return errBackup
		}
		if err := take(raw); err != nil {
			return err
		}
	}
}

// plantKept puts what a restore left beside the store of a cluster's node into the
// cluster's log.
func plantKept(ctx context.Context, c *Config, lg *log.Log, st store.Store) error {
	x, ok, err := kept(c.markerDir())
	if err != nil || !ok {
		return err
	}
	if c.Peers == nil {
		return proto.Errorf(proto.CodeConflict, "%s was restored for a node of a cluster: start it as one, or restore it without cluster.listen", c.markerDir())
	}
	if err := checkLanes(c, st); err != nil { // before anything is in the log of a lane that is not there
		return err
	}
	c.Logger.Info("what was restored goes into the cluster's log", "control", len(x.control), "ledger", len(x.ledger))
	if err := followRestored(ctx, c, lg, st, false); err != nil {
		return err
	}
	if err := x.plant(ctx, *c, lg, st); err != nil {
		return err
	}
	// Another node that opened a stream meanwhile may have written back what it read
	// of it before.
	if err := followRestored(ctx, c, lg, st, true); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.markerDir(), restoredName)); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "finish the restore: %w", err)
	}
	return syncDirs(c.markerDir())
}

// checkLanes refuses a store with another number of lanes than the configuration.
func checkLanes(c *Config, st store.Store) error {
	lanes, err := (&Node{config: *c, store: st}).storedLanes()
	if err == nil && lanes != c.Lanes {
		err = otherLanes(lanes, c.Lanes)
	}
	return err
}

// followRestored notes in the new log that it goes on from the store: a node
// without one must not take it for all there ever was.
func followRestored(ctx context.Context, c *Config, lg log.Logs, st store.Store, known bool) error {
	snap := st.Snapshot()
	defer snap.Release()
	for id := range c.Lanes {
		l := &lane{id: proto.LaneID(id)}
		if err := l.loadRecord(snap); err != nil {
			return err
		}
		if err := lg.Follow(ctx, l.id, proto.Offset(l.record.Offset), known); err != nil {
			return err
		}
	}
	return nil
}

// plant ties the store to the new log and puts what belongs there into it: control
// records, the ledger, and what makes the store honour that. Other nodes of a
// cluster may do the same; a command that comes twice changes nothing for anybody
// who is out already.
func (x *restored) plant(ctx context.Context, c Config, lg log.Logs, st store.Store) error {
	if err := tieRestored(ctx, c, lg, st); err != nil {
		return err
	}
	if err := plantRecords(ctx, lg.Control(), x.control); err != nil {
		return err
	}
	if err := plantRecords(ctx, lg.Ledger(), x.ledger); err != nil {
		return err
	}
	last, err := lg.Ledger().Last(ctx)
	if err != nil {
		return err
	}
	if end := uint64(len(x.ledger)) + 1; last >= end { // another node has done all
		return readStream(ctx, lg.Ledger(), end, end, func(raw []byte) error {
			mark, err := decodeLedger(raw)
			if err == nil && len(mark.marks) != c.Lanes {
				err = proto.Errorf(proto.CodeConflict, "the cluster was begun with %d lanes, this node was restored with %d: restore the backup with the same --lanes for all nodes", len(mark.marks), c.Lanes)
			}
			return err
		})
	}
	late, err := lateCommands(st, c, x.ledger)
	if err != nil {
		return err
	}
	// Another node may have done all meanwhile, and be answering: an erasure that
	// came again then would take what is new.
	over := func() (bool, error) {
		last, err := lg.Ledger().Last(ctx)
		return last > uint64(len(x.ledger)), err
	}
	now := proto.MillisOf(c.Now())
	for id := range late {
		if err := appendCommands(ctx, lg.Lane(proto.LaneID(id)), proto.LaneID(id), now, late[id], over); err != nil {
			return err
		}
	}
	if err := markRestored(ctx, c, lg, uint64(len(x.ledger))); proto.CodeOf(err) != proto.CodeConflict {
		return err
	}
	return nil // another node was faster
}

// beginRestored is plant, but gives the commands back that each lane has to begin
// with.
func beginRestored(ctx context.Context, c Config, lg log.Logs, st store.Store, ledger [][]byte) ([][]proto.Batch, error) {
	if err := errors.Join(tieRestored(ctx, c, lg, st), plantRecords(ctx, lg.Ledger(), ledger), markRestored(ctx, c, lg, uint64(len(ledger)))); err != nil {
		return nil, err
	}
	return lateCommands(st, c, ledger)
}

// plantRecords makes records the beginning of a new stream, or sees that they are
// already.
func plantRecords(ctx context.Context, s log.ControlStream, records [][]byte) error {
	for {
		last, err := s.Last(ctx)
		if err != nil {
			return err
		}
		i := 0
		err = readStream(ctx, s, 1, min(last, uint64(len(records))), func(raw []byte) error {
			if i++; !bytes.Equal(raw, records[i-1]) {
				return proto.Errorf(proto.CodeConflict, "the cluster's log is not new, or was begun with another backup: restore the same backup for all nodes, and start them with empty log directories")
			}
			return nil
		})
		if err != nil {
			return err
		}
		for err == nil && last < uint64(len(records)) {
			last, err = s.Append(ctx, records[last], last)
		}
		if code := proto.CodeOf(err); err == nil || code != proto.CodeConflict && code != proto.CodeUnavailable {
			return err
		}
		if !pause(ctx, relayRetry) { // another node writes the same, or the log elects
			return err
		}
	}
}

// markRestored ends the ledger with nothing told: offsets of the node that it
// was mean nothing any more, and what was under way when the backup was made is
// told again.
func markRestored(ctx context.Context, c Config, lg log.Logs, last uint64) error {
	r := ledgerRecord{marks: make([]proto.Offset, c.Lanes)}
	_, err := lg.Ledger().Append(ctx, r.append(nil), last)
	return err
}

// tieRestored makes the new log begin where the restored lanes are.
func tieRestored(ctx context.Context, c Config, lg log.Logs, st store.Store) error {
	snap := st.Snapshot()
	defer snap.Release()
	b := st.NewBatch()
	for id := range c.Lanes {
		l := &lane{id: proto.LaneID(id)}
		if err := l.loadRecord(snap); err != nil {
			return err
		}
		info, err := lg.Lane(l.id).Info(ctx)
		if err != nil {
			return err
		}
		if c.Peers != nil {
			info.Last = 0 // what is there already follows the backup too
		}
		l.tie(info)
		raw, err := gproto.MarshalOptions{Deterministic: true}.Marshal(l.record)
		if err != nil {
			return proto.Errorf(proto.CodeInternal, "lane record: %w", err)
		}
		if err := b.Set(recordKey(l.id), raw); err != nil {
			return err
		}
	}
	return b.Commit()
}

// lateCommands are what has to be done to a restored store for it to honour the
// ledger, by lane.
func lateCommands(st store.Store, c Config, ledger [][]byte) ([][]proto.Batch, error) {
	state := ledgerState{}
	for _, raw := range ledger {
		if err := state.take(raw); err != nil {
			return nil, err
		}
	}
	return state.commands(st, c)
}

// honourLedger brings the lanes whose log was rebased up to the ledger, which may have
// opt-outs that the store had not written yet and the log has no more.
func (n *Node) honourLedger(ctx context.Context) error {
	if !slices.ContainsFunc(n.lanes, func(l *lane) bool { return l.rebased }) {
		return nil
	}
	stream := n.log.Ledger()
	last, err := stream.Last(ctx)
	if err != nil {
		return err
	}
	state := ledgerState{}
	if err := readStream(ctx, stream, 1, last, state.take); err != nil {
		return err
	}
	late, err := state.commands(n.store, n.config)
	if err != nil {
		return err
	}
	never := func() (bool, error) { return false, nil }
	for _, l := range n.lanes {
		if !l.rebased {
			continue // what its log has comes of itself
		}
		if err := appendCommands(ctx, l.stream, l.id, n.now(), late[l.id], never); err != nil {
			return err
		}
	}
	if last == 0 {
		return nil
	}
	// Offsets of before may be used again: by the old marks they would count as told.
	if err := markRestored(ctx, n.config, n.log, last); err != nil {
		return err
	}
	return n.ledger.begin(ctx)
}

// commands are what has to be done to a store for it to be as the ledger says, by lane.
func (state ledgerState) commands(st store.Store, c Config) ([][]proto.Batch, error) {
	snap := st.Snapshot()
	defer snap.Release()
	rounds := make([][]proto.Batch, c.Lanes) // one command of an identity each
	round := func(lane, i int) *proto.Batch {
		for len(rounds[lane]) <= i {
			rounds[lane] = append(rounds[lane], proto.Batch{})
		}
		return &rounds[lane][i]
	}
	now := proto.MillisOf(c.Now())
	hashes := slices.SortedFunc(maps.Keys(state), func(a, b proto.IdentityHash) int { return slices.Compare(a[:], b[:]) })
	for _, hash := range hashes {
		e, have := state[hash], uint32(0)
		o, err := storedOptOut(snap, hash)
		if err != nil {
			return nil, err
		}
		if o != nil {
			have = o.Gen
		}
		// As many commands as it takes to be at the ledger's generation: what is
		// told from then on must be newer than all that the ledger has.
		i := 0
		for received := min(e.time, now); have < e.gen; {
			b := round(int(hash.Partition())%c.Lanes, i)
			i++
			switch {
			case e.gen&1 == 1:
				b.AddCut(&proto.CutCommand{Hash: hash, Kind: proto.CutOptOut, Received: received})
				have += 1 + have&1
			case have&1 == 1: // it came back after the backup
				b.AddOptIn(&proto.OptInCommand{Hash: hash, Gen: have, Received: received})
				have++
			default: // it was cut and came back, or was erased
				b.AddCut(&proto.CutCommand{Hash: hash, Kind: proto.CutErase, Received: received})
				have += 2
			}
		}
	}
	return rounds, nil
}

// appendCommands puts commands into a lane's log, unless all is over: each round into entries of its
// own, so that an identity's one is carried out before its next.
func appendCommands(ctx context.Context, s log.Stream, id proto.LaneID, now proto.Millis, rounds []proto.Batch, over func() (bool, error)) error {
	producer, seq := newProducer(), uint64(0)
	for k := range rounds {
		b := &rounds[k]
		for i := 0; i < b.Len(); {
			seq++
			e := &proto.Entry{Lane: id, Producer: producer, Seq: seq, Time: now}
			for ; i < b.Len() && e.Count < 512; i++ {
				raw, _ := b.Item(i)
				e.Commands = append(e.Commands, raw...)
				e.Count++
			}
			if done, err := over(); err != nil || done {
				return err
			}
			if _, err := s.Append(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}
