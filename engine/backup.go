package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// A backup is: backupMagic, then sections: manifest (JSON), hash secret
// (hexadecimal), store (Badger's backup format), control records, the ledger of
// opt-outs (records each with its length as uvarint), the receipts' key. Control
// records go as far as they did when the store's snapshot had been taken, and hold
// at least what it obeys; it obeys at least what they say of imports from their
// commits on. A section is chunks of length (4 bytes), CRC-32C (4 bytes) and data; a
// length of 0 ends it. After the last: backupEnd.
const (
	backupMagic    = "KITHBAK3"
	backupEnd      = "KITHEND1"
	backupChunkMax = 1 << 20
)

// restoringName is a file in a directory whose restore has not finished.
const restoringName = "RESTORING"

type backupManifest struct {
	Time  time.Time                     `json:"time"`
	Node  string                        `json:"node"`
	Lanes int                           `json:"lanes"`
	At    map[proto.LaneID]proto.Offset `json:"at"` // at least this is in it
}

// Backup writes a consistent copy of the node's data to w: each lane as of one
// commit, definitions, clients and keys, and the hash secret. What was
// acknowledged before, by whatever node, is in it, unless its lane stands still.
// Keep it as secret as the data directory. It fails soon after ctx is done.
func (n *Node) Backup(ctx context.Context, w io.Writer) error {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := n.applyLogged(ctx); err != nil {
		return err
	}
	m := backupManifest{Time: n.config.Now().UTC(), Node: n.config.Node, Lanes: n.config.Lanes, At: map[proto.LaneID]proto.Offset{}}
	for _, l := range n.lanes {
		m.At[l.id], _, _, _ = l.progress.get()
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "backup manifest: %w", err)
	}
	secret, err := hashSecret(n.config)
	if err != nil {
		return err
	}
	b := &backupWriter{w: bufio.NewWriterSize(writerUntil{ctx, w}, 64<<10)}
	b.raw([]byte(backupMagic))
	b.section(func(w io.Writer) error { _, err := w.Write(manifest); return err })
	b.section(func(w io.Writer) error { _, err := io.WriteString(w, hex.EncodeToString(secret[:])); return err })
	var last uint64
	b.section(func(w io.Writer) (err error) { last, err = n.backupStore(ctx, w); return err })
	b.section(func(w io.Writer) error { return writeRecords(w, n.registry.from(1, int(last))) })
	b.section(func(w io.Writer) error { return writeLedger(ctx, n.log.Ledger(), w) })
	b.section(func(w io.Writer) error {
		_, err := io.WriteString(w, hex.EncodeToString(n.signer.key.Seed()))
		return err
	})
	b.raw([]byte(backupEnd))
	if b.err == nil {
		b.err = b.w.Flush()
	}
	if b.err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the backup broke off: %w", b.err)
	}
	return nil
}

// backupBehind bounds the waiting for what is logged and not applied yet.
const backupBehind = 30 * time.Second

// applyLogged waits until lanes have applied what their logs hold now; one that
// stands still is not waited for.
func (n *Node) applyLogged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, backupBehind)
	defer cancel()
	for _, l := range n.lanes {
		if err := l.reachEnd(ctx); err != nil && proto.CodeOf(err) != proto.CodeQuarantined {
			return proto.Errorf(proto.CodeUnavailable, "the backup would not hold what was acknowledged: lane %s is behind its log: %w", l.id, err)
		}
	}
	return nil
}

const (
	// backupWait is how long a backup waits for the lanes of a follower to catch up
	// with one another, and backupAgain after how long it looks again.
	backupWait  = 10 * time.Second
	backupAgain = 20 * time.Millisecond
)

var errBehind = proto.Errorf(proto.CodeUnavailable, "this node is behind what other nodes have sent, or what imports have come to: try again shortly, or back up another node")

// backupStore writes the store at a moment at which no lane has taken in what
// another one has not sent, nor obeyed a control record that this node has not read,
// nor has to obey one of an import: a restore has no log from which that could come. It
// gives how many control records there were then.
func (n *Node) backupStore(ctx context.Context, w io.Writer) (last uint64, err error) {
	for began := time.Now(); ; {
		last, err = n.backupStoreNow(w)
		if err != errBehind || time.Since(began) > backupWait || !pause(ctx, backupAgain) {
			return last, err
		}
	}
}

func (n *Node) backupStoreNow(w io.Writer) (last uint64, err error) {
	// In the control records no version may answer that is not filled in the store, and no
	// import go further than it has there.
	n.swapping.Lock()
	unlock := sync.OnceFunc(n.swapping.Unlock)
	defer unlock()
	if err := n.lookWhole(n.store.Snapshot()); err != nil { // before the store is made durable for it
		return 0, err
	}
	err = n.store.Backup(w, func(snap store.Snapshot) (err error) {
		defer unlock()
		last, err = n.wholeIn(snap)
		return err
	})
	return last, err
}

// lookWhole is wholeIn of a snapshot that it releases.
func (n *Node) lookWhole(snap store.Snapshot) error {
	defer snap.Release()
	_, err := n.wholeIn(snap)
	return err
}

// wholeIn is errBehind unless all that lanes have taken in from one another was sent,
// and what they obeyed was read, by a snapshot. Of a node alone that is always so. In a
// cluster a faster node may have sent it of a lane that this node has not applied as
// far, and the owner relays control records that this node may yet have to read. Lanes
// have to obey what imports have come to: what they do for that, and what was loaded, is
// before it in their logs. One that stands still has lost that, as all that it has not
// applied. It gives how many control records that is true of.
func (n *Node) wholeIn(snap store.Snapshot) (last uint64, err error) {
	last, imports := n.registry.lastOfImports()
	lanes := make([]*lane, n.config.Lanes)
	for id := range lanes {
		lanes[id] = &lane{id: proto.LaneID(id), node: n}
		if err := errors.Join(lanes[id].loadRecord(snap), lanes[id].loadGraph(snap)); err != nil {
			return 0, err
		}
		_, _, _, fault := n.lanes[id].progress.get()
		if at := lanes[id].record.Control; at > last || at < imports && fault == nil {
			return 0, errBehind
		}
	}
	for from, l := range lanes {
		for to := range lanes {
			if to != from && lanes[to].graph.Applied[from] > l.graph.Outbox[to].Last() {
				return 0, errBehind
			}
		}
	}
	return last, nil
}

// readerUntil reads until ctx ends.
type readerUntil struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r readerUntil) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// writerUntil writes until ctx ends.
type writerUntil struct {
	ctx context.Context
	w   io.Writer
}

// Write implements io.Writer.
func (w writerUntil) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

type backupWriter struct {
	w   *bufio.Writer
	err error
}

func (b *backupWriter) raw(p []byte) {
	if b.err == nil {
		_, b.err = b.w.Write(p)
	}
}

// Write implements io.Writer: one chunk or more.
func (b *backupWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		c := p[:min(len(p), backupChunkMax)]
		p = p[len(c):]
		b.raw(binary.BigEndian.AppendUint32(nil, uint32(len(c))))
		b.raw(binary.BigEndian.AppendUint32(nil, crc32.Checksum(c, crcTable)))
		b.raw(c)
	}
	return total, b.err
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func (b *backupWriter) section(fn func(io.Writer) error) {
	if b.err == nil {
		if err := fn(b); b.err == nil { // else that says why
			b.err = err
		}
	}
	b.raw(make([]byte, 4))
}

// sectionReader reads one section.
type sectionReader struct {
	r    io.Reader
	left []byte
	end  bool
}

// Read implements io.Reader.
func (s *sectionReader) Read(p []byte) (int, error) {
	if len(s.left) == 0 && !s.end {
		if err := s.chunk(); err != nil {
			return 0, err
		}
	}
	if s.end {
		return 0, io.EOF
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *sectionReader) chunk() error {
	var head [8]byte
	if _, err := io.ReadFull(s.r, head[:4]); err != nil {
		return errBackup
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 {
		s.end = true
		return nil
	}
	if n > backupChunkMax {
		return errBackup
	}
	if _, err := io.ReadFull(s.r, head[4:]); err != nil {
		return errBackup
	}
	s.left = make([]byte, n)
	if _, err := io.ReadFull(s.r, s.left); err != nil {
		return errBackup
	}
	if crc32.Checksum(s.left, crcTable) != binary.BigEndian.Uint32(head[4:]) {
		return errBackup
	}
	return nil
}

var errBackup = proto.Errorf(proto.CodeCorrupt, "the backup is damaged or not whole: use another one")

// Restore makes a data directory from a backup; there must be none yet. If it
// fails or is killed, the directory is left incomplete, is refused by Open and
// Verify, and must be removed. With c.ForCluster the directory is for a node of a
// cluster whose log is new: what belongs into it lies beside the store until the
// nodes have started (restored.go). With c.RestoreLanes the directory has another
// number of lanes than the backup (relane.go).
func Restore(ctx context.Context, c Config, r io.Reader) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if c.NATSURL != "" {
		return proto.Errorf(proto.CodeInvalid, "a backup cannot be restored into the log of another NATS, and nats.url is set: restore with the embedded log, without nats.url")
	}
	if c.Ledger == "" && !c.AcceptLostOptOuts {
		return proto.Errorf(proto.CodeInvalid, "a backup does not know who opted out after it: give the ledger with --ledger (a file of `kith optouts export`, or the data directory that the node had), or, if it is lost, pass --accept-lost-optouts")
	}
	if err := checkRestored(c); err != nil {
		return err
	}
	if err := checkEmpty(c.storeDir(), c.logDir()); err != nil {
		return err
	}
	from := bufio.NewReaderSize(readerUntil{ctx, r}, 1<<20)
	h, err := readHead(ctx, c, from)
	if err == nil {
		err = markRestoring(c.markerDir(), "")
	}
	if err == nil {
		err = restoreAll(ctx, c, h, from)
	}
	if err != nil && ctx.Err() != nil {
		return proto.Errorf(proto.CodeUnavailable, "the restore was stopped: %w", ctx.Err())
	}
	if err != nil {
		return err
	}
	return unmarkRestoring(c.markerDir())
}

// backupHead is what stands before a backup's store, and the ledger that the restore
// was given.
type backupHead struct {
	backupManifest
	secret [16]byte
	ledger [][]byte
}

// readHead reads the head. Whatever of the rest can be seen to be wrong by that is,
// before anything is made: the store takes long.
func readHead(ctx context.Context, c Config, r *bufio.Reader) (h backupHead, err error) {
	if err := expect(r, backupMagic); err != nil {
		return h, err
	}
	raw, err := readSection(r, 1<<20)
	if err != nil || json.Unmarshal(raw, &h.backupManifest) != nil || h.Lanes < 1 || h.Lanes > proto.LanesMax {
		return h, errors.Join(errBackup, err)
	}
	text, err := readSection(r, 128)
	if err != nil {
		return h, err
	}
	var ok bool
	if h.secret, ok = parseSecret(text); !ok {
		return h, errBackup
	}
	if len(c.HashSecret) > 0 && !bytes.Equal(c.HashSecret, h.secret[:]) {
		return h, proto.Errorf(proto.CodeConflict, "the backup's data were made with another hash secret than the configured one: give the secret_file that the node of the backup had, or none")
	}
	if c.Ledger != "" {
		h.ledger, err = givenLedger(ctx, c, h.Time, h.secret)
	}
	return h, err
}

func restoreAll(ctx context.Context, c Config, h backupHead, r *bufio.Reader) error {
	c.Lanes = h.Lanes
	if len(c.HashSecret) == 0 {
		if err := putSecret(c, "hash.key", []byte(hex.EncodeToString(h.secret[:]))); err != nil {
			return err
		}
	}
	if err := restoreStore(c, r); err != nil {
		return err
	}
	x, err := readRestored(c, h.ledger, r)
	if err != nil {
		return err
	}
	if c.RestoreLanes > 0 && c.RestoreLanes != c.Lanes {
		if err := x.relane(ctx, c, h.Time); err != nil {
			return err
		}
		c.Lanes = c.RestoreLanes
	}
	if c.ForCluster {
		return x.keep(c.markerDir())
	}
	lg, err := log.Open(ctx, log.Config{Dir: c.logDir(), Lanes: c.Lanes, Mark: logMark(h.secret), MaxBytes: c.LogBytesMax, Name: c.Node, Logger: c.Logger})
	if err != nil {
		return err
	}
	st, err := openStore(&c)
	if err != nil {
		return errors.Join(err, lg.Close())
	}
	err = followRestored(ctx, &c, lg, st, false)
	if err == nil {
		err = x.plant(ctx, c, lg, st)
	}
	return errors.Join(err, st.Close(), lg.Close())
}

// readRestored reads what a backup has for the new log, with the ledger that the
// restore was given in the place of the backup's own.
func readRestored(c Config, given [][]byte, r *bufio.Reader) (x restored, err error) {
	if err := readRecords(r, func(raw []byte) error { x.control = append(x.control, raw); return nil }); err != nil {
		return x, err
	}
	if err := readRecords(r, func(raw []byte) error { x.ledger = append(x.ledger, raw); return nil }); err != nil {
		return x, err
	}
	key, err := readSection(r, 128)
	if err != nil {
		return x, err
	}
	if err := putSecret(c, "receipt.key", key); err != nil {
		return x, err
	}
	if err := expect(r, backupEnd); err != nil {
		return x, err
	}
	if _, more := r.ReadByte(); more != io.EOF { // such as a second backup, of which nothing would be there
		return x, errBackup
	}
	if c.Ledger != "" {
		err = beginsWith(given, x.ledger)
		x.ledger = given
	}
	return x, err
}

// markerDir is where the marker of an unfinished restore is.
func (c *Config) markerDir() string { return cmp.Or(c.Dir, c.StoreDir) }

// checkRestored refuses a directory whose restore did not finish. A copy of
// another node's store that was not finished is begun again by withinReach.
func checkRestored(c Config) error {
	dir := c.markerDir()
	text, err := os.ReadFile(filepath.Join(dir, restoringName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return proto.Errorf(proto.CodeUnavailable, "cannot read the data directory %s: name a directory that this user may read: %w", dir, err)
	case string(text) == copyingMark && c.Peers != nil:
		return nil
	case string(text) == copyingMark:
		return proto.Errorf(proto.CodeConflict, "%s was to become a copy of another node's data, and is not whole: start the node in its cluster, which begins that again", dir)
	}
	return proto.Errorf(proto.CodeConflict, "the restore of %s did not finish: remove the directory (and those of the log and the store, if they are elsewhere) and restore again", dir)
}

// markRestoring makes dir and its marker, so that they outlive a power cut.
func markRestoring(dir, mark string) error {
	if err := makeSynced(dir); err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, restoringName), []byte(mark))
}

// unmarkRestoring makes what was restored count: its names are durable first.
func unmarkRestoring(dir string) error {
	if err := syncDirs(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, restoringName)); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "finish the restore: %w", err)
	}
	return syncDirs(dir)
}

func syncDirs(dirs ...string) error {
	for _, name := range dirs {
		d, err := os.Open(name)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			return proto.Errorf(proto.CodeUnavailable, "sync %s: %w", name, err)
		}
	}
	return nil
}

func checkEmpty(dirs ...string) error {
	for _, d := range dirs {
		if list, err := os.ReadDir(d); err == nil && len(list) > 0 {
			return proto.Errorf(proto.CodeConflict, "%s is not empty: restore into a new data directory, or move this one away", d)
		}
	}
	return nil
}

func expect(r io.Reader, magic string) error {
	got := make([]byte, len(magic))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != magic {
		return errBackup
	}
	return nil
}

func readSection(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(&sectionReader{r: r}, limit))
	if err == nil && int64(len(b)) == limit {
		err = errBackup
	}
	return b, err
}

// putSecret writes one of the files of secrets/.
func putSecret(c Config, name string, secret []byte) error {
	dir := c.secretsDir()
	if err := makeSynced(dir); err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, name), append(secret, '\n'))
}

// restoreStore loads the store of a backup.
func restoreStore(c Config, r io.Reader) error {
	s := &sectionReader{r: r}
	if err := loadStore(&c, s); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, s)
	return err
}

// loadStore makes the store from what another one's Backup wrote. CodeDiskFull, while
// the store can still be closed, if the disk has no room for it.
func loadStore(c *Config, r io.Reader) error {
	st, err := openStore(c)
	if err != nil {
		return err
	}
	from := &roomReader{r: r, disk: newDisk(c.DiskReserve, c.merges, c.storeDir()), need: st.LoadRoom}
	if err = st.Load(from); from.err != nil {
		err = from.err
	}
	return errors.Join(err, st.Close())
}
