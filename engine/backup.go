package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	gproto "google.golang.org/protobuf/proto"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// A backup is: backupMagic, then four sections: manifest (JSON), hash secret
// (hexadecimal), control records (each with its length as uvarint), store
// (Badger's backup format). A section is chunks of length (4 bytes), CRC-32C
// (4 bytes) and data; a length of 0 ends it. After the last: backupEnd.
const (
	backupMagic    = "KITHBAK1"
	backupEnd      = "KITHEND1"
	backupChunkMax = 1 << 20
)

type backupManifest struct {
	Time  time.Time                     `json:"time"`
	Node  string                        `json:"node"`
	Lanes int                           `json:"lanes"`
	At    map[proto.LaneID]proto.Offset `json:"at"` // at least this is in it
}

// Backup writes a consistent copy of the node's data to w: each lane as of one
// commit, definitions, clients and keys, and the hash secret. Keep it as
// secret as the data directory.
func (n *Node) Backup(ctx context.Context, w io.Writer) error {
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
	b := &backupWriter{w: bufio.NewWriterSize(w, 64<<10)}
	b.raw([]byte(backupMagic))
	b.section(func(w io.Writer) error { _, err := w.Write(manifest); return err })
	b.section(func(w io.Writer) error { _, err := io.WriteString(w, hex.EncodeToString(secret[:])); return err })
	// The store first would be read before records that it obeys: so the
	// control records are taken after their end is known to cover it.
	spool, err := os.CreateTemp(n.config.Dir, "backup-*")
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "make room for the backup: %w", err)
	}
	defer func() { spool.Close(); os.Remove(spool.Name()) }()
	if err := n.store.Backup(spool); err != nil {
		return err
	}
	b.section(n.writeControl)
	b.section(func(w io.Writer) error {
		if _, err := spool.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(w, readerUntil{ctx, spool})
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

func (n *Node) writeControl(w io.Writer) error {
	for _, r := range n.registry.from(1, int(n.registry.last())) {
		if _, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(r))), r...)); err != nil {
			return err
		}
	}
	return nil
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
		b.err = errors.Join(fn(b), b.err)
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
// fails the directory is left incomplete, and must be removed.
func Restore(ctx context.Context, c Config, r io.Reader) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := checkEmpty(c.storeDir(), c.logDir()); err != nil {
		return err
	}
	br := bufio.NewReaderSize(r, 1<<20)
	if err := expect(br, backupMagic); err != nil {
		return err
	}
	var m backupManifest
	raw, err := readSection(br, 1<<20)
	if err != nil || json.Unmarshal(raw, &m) != nil || m.Lanes < 1 || m.Lanes > proto.LanesMax {
		return errors.Join(errBackup, err)
	}
	c.Lanes = m.Lanes
	if err := restoreSecret(c, br); err != nil {
		return err
	}
	if err := restoreControl(ctx, c, br); err != nil {
		return err
	}
	if err := restoreStore(c, br); err != nil {
		return err
	}
	return expect(br, backupEnd)
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

func restoreSecret(c Config, r io.Reader) error {
	secret, err := readSection(r, 64)
	if err != nil || len(c.HashSecret) > 0 {
		return err
	}
	dir := filepath.Join(c.Dir, "secrets")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "make %s: %w", dir, err)
	}
	return writeSynced(filepath.Join(dir, "hash.key"), append(secret, '\n'))
}

func restoreControl(ctx context.Context, c Config, r io.Reader) error {
	lg, err := log.Open(ctx, log.Config{Dir: c.logDir(), Lanes: c.Lanes, MaxBytes: c.LogBytesMax, Name: c.Node, Logger: c.Logger})
	if err != nil {
		return err
	}
	s := bufio.NewReader(&sectionReader{r: r})
	for seq := uint64(0); ; seq++ {
		n, err := binary.ReadUvarint(s)
		if errors.Is(err, io.EOF) {
			return lg.Close()
		}
		if err != nil || n > proto.EntryBytesMax {
			return errors.Join(errBackup, lg.Close())
		}
		rec := make([]byte, n)
		if _, err := io.ReadFull(s, rec); err != nil {
			return errors.Join(errBackup, lg.Close())
		}
		if _, err := lg.Control().Append(ctx, rec, seq); err != nil {
			return errors.Join(err, lg.Close())
		}
	}
}

// restoreStore loads the store and unties its lanes from the log that they
// were applied from: the new log goes on from where they are.
func restoreStore(c Config, r io.Reader) error {
	st, err := store.Open(store.Config{Dir: c.storeDir(), Logger: c.Logger})
	if err != nil {
		return err
	}
	s := &sectionReader{r: r}
	if err := st.Load(s); err != nil {
		return errors.Join(err, st.Close())
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		return errors.Join(err, st.Close())
	}
	b := st.NewBatch()
	snap := st.Snapshot()
	defer snap.Release()
	for id := range c.Lanes {
		if err := untieLane(snap, b, proto.LaneID(id)); err != nil {
			return errors.Join(err, st.Close())
		}
	}
	return errors.Join(b.Commit(), st.Close())
}

func untieLane(snap store.Snapshot, b store.Batch, id proto.LaneID) error {
	var rec pb.LaneRecord
	found, err := snap.Get(recordKey(id), func(v []byte) error { return gproto.Unmarshal(v, &rec) })
	if err != nil || !found {
		return err
	}
	rec.StreamCreatedNs = 0
	raw, err := gproto.MarshalOptions{Deterministic: true}.Marshal(&rec)
	if err != nil {
		return err
	}
	return b.Set(recordKey(id), raw)
}
