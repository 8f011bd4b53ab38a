package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	gproto "google.golang.org/protobuf/proto"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// A ledger file is: ledgerMagic, the keyed hash of a constant (16), which tells
// whose it is, when it was written (8, ms), then one section (backup.go) of
// records, each with its length as uvarint, then backupEnd.
const ledgerMagic = "KITHLDG1"

// WriteLedger writes the ledger of opt-outs as it is now.
func (n *Node) WriteLedger(ctx context.Context, w io.Writer) error {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return err
	}
	defer done()
	b := &backupWriter{w: bufio.NewWriterSize(writerUntil{ctx, w}, 64<<10)}
	b.raw([]byte(ledgerMagic))
	b.raw(n.mark())
	b.raw(binary.BigEndian.AppendUint64(nil, uint64(n.now())))
	b.section(func(w io.Writer) error { return writeLedger(ctx, n.log.Ledger(), w) })
	b.raw([]byte(backupEnd))
	if b.err == nil {
		b.err = b.w.Flush()
	}
	if b.err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the ledger broke off: %w", b.err)
	}
	return nil
}

// mark tells nodes with different hash secrets apart.
func (n *Node) mark() []byte {
	h := n.hasher.Hash(secretMark)
	return h[:]
}

const secretMark = "browser:kith-secret-check"

func writeLedger(ctx context.Context, s log.ControlStream, w io.Writer) error {
	last, err := s.Last(ctx)
	if err != nil {
		return err
	}
	return readStream(ctx, s, 1, last, func(raw []byte) error {
		_, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
		return err
	})
}

// ledgerState is the newest of each identity in a ledger.
type ledgerState map[proto.IdentityHash]ledgerEntry

func (s ledgerState) take(raw []byte) error {
	r, err := decodeLedger(raw)
	for _, e := range r.entries {
		if old, ok := s[e.hash]; !ok || old.gen < e.gen {
			s[e.hash] = e
		}
	}
	return err
}

// readLedger reads a section of records.
func readLedger(r io.Reader, take func([]byte) error) error {
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

// newerLedger reads the ledger that a restore was given: a file that WriteLedger
// wrote, or the data directory of a node that does not run. It must be the one
// of which old, the backup's, is the beginning, and be from after the backup.
func newerLedger(ctx context.Context, c Config, made time.Time, old [][]byte) (records [][]byte, err error) {
	secret, err := hashSecret(c)
	if err != nil {
		return nil, err
	}
	want := proto.NewHasher(secret).Hash(secretMark)
	written, err := loadLedger(ctx, c, want, func(raw []byte) error { records = append(records, raw); return nil })
	if err != nil {
		return nil, err
	}
	same := len(records) >= len(old)
	for i := 0; same && i < len(old); i++ {
		same = bytes.Equal(records[i], old[i])
	}
	switch {
	case !same:
		return nil, proto.Errorf(proto.CodeConflict, "the ledger does not go on from that of the backup: give the ledger of this very node, from after the backup")
	case written.Before(made):
		return nil, proto.Errorf(proto.CodeConflict, "the ledger was written at %s, before the backup of %s: it does not know who opted out since; give a newer one, or, if there is none, pass --accept-lost-optouts", written.Format(time.RFC3339), made.Format(time.RFC3339))
	}
	return records, nil
}

// loadLedger reads a ledger and tells when it was written; want is whose it must be.
func loadLedger(ctx context.Context, c Config, want proto.IdentityHash, take func([]byte) error) (written time.Time, err error) {
	info, err := os.Stat(c.Ledger)
	if err != nil {
		return written, proto.Errorf(proto.CodeInvalid, "the ledger cannot be read: %w", err)
	}
	if info.IsDir() {
		return c.Now(), loadLedgerDir(ctx, c, want, take)
	}
	f, err := os.Open(c.Ledger)
	if err != nil {
		return written, proto.Errorf(proto.CodeInvalid, "the ledger cannot be read: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	if expect(r, ledgerMagic) != nil {
		return written, proto.Errorf(proto.CodeInvalid, "%s is not a ledger of opt-outs: make one with `kith optouts export`, or name the data directory that the node had", c.Ledger)
	}
	var head [24]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return written, errBackup
	}
	if !bytes.Equal(head[:16], want[:]) {
		return written, errOtherLedger
	}
	written = proto.Millis(binary.BigEndian.Uint64(head[16:])).Time()
	if err := readLedger(r, take); err != nil {
		return written, err
	}
	return written, expect(r, backupEnd)
}

var errOtherLedger = proto.Errorf(proto.CodeConflict, "the ledger is of a node with another hash secret: give that of the node that the backup is of")

func loadLedgerDir(ctx context.Context, c Config, want proto.IdentityHash, take func([]byte) error) error {
	old := Config{Dir: c.Ledger}
	if _, err := os.Stat(old.logDir()); err != nil {
		return proto.Errorf(proto.CodeInvalid, "%s holds no log: name the data directory that the node had, or a file of `kith optouts export`", c.Ledger)
	}
	if _, err := os.Stat(old.secretsDir()); err == nil && len(c.HashSecret) == 0 {
		secret, err := hashSecret(old)
		if err != nil {
			return err
		}
		if proto.NewHasher(secret).Hash(secretMark) != want {
			return errOtherLedger
		}
	}
	lg, err := log.Open(ctx, log.Config{Dir: old.logDir(), Lanes: 1, Name: c.Node, Logger: c.Logger})
	if err != nil {
		return err
	}
	last, err := lg.Ledger().Last(ctx)
	if err == nil {
		err = readStream(ctx, lg.Ledger(), 1, last, take)
	}
	return errors.Join(err, lg.Close())
}

// applyLedger makes a restored directory honour the ledger: whoever was opted
// out, or erased, after the backup is cut by commands at the end of the new
// log, which is applied before anything is served.
func applyLedger(ctx context.Context, c Config, lg log.Logs, records [][]byte) error {
	st, err := store.Open(store.Config{Dir: c.storeDir(), Logger: c.Logger})
	if err != nil {
		return err
	}
	defer st.Close()
	late, err := beginRestored(ctx, c, lg, st, records)
	if err != nil {
		return err
	}
	now := proto.MillisOf(c.Now())
	for id := range late {
		if err := appendCommands(ctx, lg.Lane(proto.LaneID(id)), proto.LaneID(id), now, late[id]); err != nil {
			return err
		}
	}
	return nil
}

// beginRestored ties a restored store to the new log, which gets the ledger,
// and gives for each lane the commands that it has to begin with.
func beginRestored(ctx context.Context, c Config, lg log.Logs, st store.Store, records [][]byte) ([][]proto.Batch, error) {
	state := ledgerState{}
	for seq, raw := range records {
		if err := state.take(raw); err != nil {
			return nil, err
		}
		if _, err := lg.Ledger().Append(ctx, raw, uint64(seq)); err != nil {
			return nil, err
		}
	}
	snap := st.Snapshot()
	defer snap.Release()
	if err := markRestored(ctx, c, lg, uint64(len(records))); err != nil {
		return nil, err
	}
	if err := tieRestored(ctx, c, lg, st, snap); err != nil {
		return nil, err
	}
	return lateCommands(snap, c, state)
}

// markRestored ends the ledger with nothing told: offsets of the node that it
// was mean nothing any more, and what was under way when the backup was made is
// told again.
func markRestored(ctx context.Context, c Config, lg log.Logs, last uint64) error {
	r := ledgerRecord{marks: make([]proto.Offset, c.Lanes)}
	_, err := lg.Ledger().Append(ctx, r.append(nil), last)
	return err
}

// tieRestored makes the new, empty log begin where the restored lanes are.
func tieRestored(ctx context.Context, c Config, lg log.Logs, st store.Store, snap store.Snapshot) error {
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
func lateCommands(snap store.Snapshot, c Config, state ledgerState) ([][]proto.Batch, error) {
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

// appendCommands puts commands into a lane's log: each round into entries of its
// own, so that an identity's one is carried out before its next.
func appendCommands(ctx context.Context, s log.Stream, id proto.LaneID, now proto.Millis, rounds []proto.Batch) error {
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
			if _, err := s.Append(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}
