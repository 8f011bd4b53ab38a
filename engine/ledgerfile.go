package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"time"

	"kith/engine/log"
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

// givenLedger reads the ledger that a restore was given: a file that WriteLedger
// wrote, or the data directory of a node alone that does not run. It must be of the backup's
// hash secret, and from after the backup was made. That of a directory must have been
// begun before that, or by a restore: a node that was started on a new disk has one that
// knows nobody, and where the backup's is empty too it seems to go on from that.
func givenLedger(ctx context.Context, c Config, made time.Time, secret [16]byte) (records [][]byte, err error) {
	want := proto.NewHasher(secret).Hash(secretMark)
	restored := false
	begun, written, err := loadLedger(ctx, c, want, func(raw []byte) error {
		records = append(records, raw)
		r, err := decodeLedger(raw)
		restored = restored || r.ofRestore()
		return err
	})
	switch {
	case err != nil:
	case begun.After(made) && !restored:
		err = proto.Errorf(proto.CodeConflict, "the ledger in %s was begun at %s, after the backup of %s: it does not know who opted out before; give the data directory that the node had when the backup was made, or a file of `kith optouts export` from there, or, if there is none, pass --accept-lost-optouts", c.Ledger, begun.Format(time.RFC3339), made.Format(time.RFC3339))
	case written.Before(made.Truncate(time.Millisecond)): // as ledgers have it
		err = proto.Errorf(proto.CodeConflict, "the ledger was written at %s, before the backup of %s: it does not know who opted out since; give a newer one, or, if there is none, pass --accept-lost-optouts", written.Format(time.RFC3339), made.Format(time.RFC3339))
	}
	return records, err
}

// beginsWith is CodeConflict if a ledger does not begin with old, the backup's.
func beginsWith(records, old [][]byte) error {
	same := len(records) >= len(old)
	for i := 0; same && i < len(old); i++ {
		same = bytes.Equal(records[i], old[i])
	}
	if !same {
		return proto.Errorf(proto.CodeConflict, "the ledger does not go on from that of the backup: give the ledger of this very node, from after the backup")
	}
	return nil
}

// loadLedger reads a ledger and tells when it was begun, where that is known, and when it
// was written; want is whose it must be.
func loadLedger(ctx context.Context, c Config, want proto.IdentityHash, take func([]byte) error) (begun, written time.Time, err error) {
	info, err := os.Stat(c.Ledger)
	if err != nil {
		return begun, written, proto.Errorf(proto.CodeInvalid, "the ledger cannot be read: %w", err)
	}
	if info.IsDir() {
		begun, err = loadLedgerDir(ctx, c, want, take)
		return begun, c.Now(), err
	}
	written, err = loadLedgerFile(c, want, take)
	return begun, written, err
}

func loadLedgerFile(c Config, want proto.IdentityHash, take func([]byte) error) (written time.Time, err error) {
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
		return written, errLedger
	}
	if !bytes.Equal(head[:16], want[:]) {
		return written, errOtherLedger
	}
	written = proto.Millis(binary.BigEndian.Uint64(head[16:])).Time()
	err = readRecords(r, take)
	if err == nil {
		err = expect(r, backupEnd)
	}
	if err == nil {
		if _, more := r.ReadByte(); more != io.EOF { // such as another ledger, whose opt-outs nobody would look at
			err = errLedger
		}
	}
	if err == errBackup { // by whose manner it is written
		err = errLedger
	}
	return written, err
}

var errLedger = proto.Errorf(proto.CodeCorrupt, "the ledger of opt-outs is damaged or not whole; the backup is not concerned: give another file of `kith optouts export`, or the data directory that the node had")

var errOtherLedger = proto.Errorf(proto.CodeConflict, "the ledger is of a node with another hash secret: give that of the node that the backup is of")

// loadLedgerDir reads that of a node alone that does not run, and tells when it was begun.
func loadLedgerDir(ctx context.Context, c Config, want proto.IdentityHash, take func([]byte) error) (begun time.Time, err error) {
	old := Config{Dir: c.Ledger}
	if _, err := os.Stat(old.logDir()); err != nil {
		return begun, proto.Errorf(proto.CodeInvalid, "%s holds no log: name the data directory that the node had, or a file of `kith optouts export`", c.Ledger)
	}
	if log.OfCluster(old.logDir()) {
		return begun, proto.Errorf(proto.CodeConflict, "%s is of a node of a cluster, and its newest opt-outs may be with other nodes only: start the nodes that are left, give a file of `kith optouts export`, or, if too few are left, pass --accept-lost-optouts", c.Ledger)
	}
	if _, err := os.Stat(old.secretsDir()); err == nil && len(c.HashSecret) == 0 {
		secret, err := storedSecret(old)
		if err != nil {
			return begun, err
		}
		if proto.NewHasher(secret).Hash(secretMark) != want {
			return begun, errOtherLedger
		}
	}
	lg, err := log.Open(ctx, log.Config{Dir: old.logDir(), Lanes: 1, Name: c.Node, Logger: c.Logger})
	if err != nil {
		return begun, err
	}
	if mark := lg.SecretMark(); mark != "" && mark != hex.EncodeToString(want[:]) { // logs of earlier builds have none
		return begun, errors.Join(errOtherLedger, lg.Close())
	}
	last, err := lg.Ledger().Last(ctx)
	if err == nil {
		err = readStream(ctx, lg.Ledger(), 1, last, take)
	}
	return lg.LedgerCreated(), errors.Join(err, lg.Close())
}
