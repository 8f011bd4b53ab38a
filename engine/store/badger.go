package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/tidwall/btree"

	"kith/proto"
)

const (
	memTable     = 64 << 20
	level0Tables = 10 // before they are merged with what is below; twice as many are waited for
	baseLevel    = level0Tables * memTable

	// What is applied may take twice of this before it is written: while a layer is,
	// the next one fills.
	layerMax      = memTable
	layerMaxSmall = 4 << 20 // what is left of a small disk must do for both
)

// MergeRoom is what large merges may take of the disk besides: level 0, and a level
// below it that outgrew its size by as much again.
const MergeRoom = 2*level0Tables*memTable + 2*baseLevel

// What Load may have under way, in memory tables: four as files and one of them as a
// table too, the batches that wait to be written, and level 0 while it is merged into
// one, where that is no large merge.
const (
	loadTables  = 8
	mergeTables = 16
)

// Config is how a Badger store is opened.
type Config struct {
	Dir         string
	CheckTables bool // verify every table at open; else 512 MiB of them; the others once it is open
	MemTables   int  // of 64 MB each, or 16 MB; 0: 3
	Small       bool // the disk is small: 16 MB files
	LargeMerges bool // fewer merges, each of which may take MergeRoom for a while; not with Small
	Logger      *slog.Logger
}

// Badger is a Store on disk, a layer of what was applied over Badger. That runs in
// managed mode: commit timestamps are ours, so that opening a snapshot never waits
// for a commit under way, which Badger's own NewTransaction does.
type Badger struct {
	db                 *badger.DB
	memTable, layerMax int // bytes
	loadRoom           uint64

	atCrashPoint func(left int) // tests only: within a round, with so many operations of it left to write

	writing sync.RWMutex  // held for reading by a round, for writing while Badger takes none
	durable atomic.Uint64 // timestamp of the last round
	failed  atomic.Pointer[error]
	alarm   *time.Timer
	ended   chan struct{} // no rounds are written any more
	checks  sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond // of mu: of what is below, and failed
	active  *layer     // not being written yet
	frozen  *layer     // being written, if any is
	applied uint64     // batches
	synced  uint64     // of them are durable
	wanted  uint64     // of them are to be durable now
	closing bool
	left    bool // nothing more is written

	readsMu sync.Mutex     // a snapshot ends without waiting for what is being applied
	reads   map[uint64]int // timestamps of snapshots in use
}

// Open opens or creates a store. CodeCorrupt for damaged files, CodeConflict
// if another process has it open or its format is another version's.
func Open(c Config) (s *Badger, err error) {
	defer func() { // Badger panics on some damaged files
		if r := recover(); r != nil {
			s, err = nil, corrupt(fmt.Errorf("%v", r), "open store "+c.Dir)
		}
	}()
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "make store directory: %w", err)
	}
	first := checkedFirst
	if c.CheckTables {
		first = 0 // all are read below
	}
	later, err := checkTables(c.Dir, badgerOptions(c), first)
	if err != nil {
		return nil, err
	}
	db, err := badger.OpenManaged(badgerOptions(c))
	if err != nil {
		return nil, openError(c.Dir, err)
	}
	s = &Badger{db: db, memTable: int(memTableBytes(c)), layerMax: layerBytes(c), loadRoom: loadRoomBytes(c), active: newLayer(), reads: map[uint64]int{}, ended: make(chan struct{})}
	s.changed = sync.NewCond(&s.mu)
	s.alarm = time.AfterFunc(SyncEvery, s.ring)
	if err = s.checkFormat(); err == nil {
		err = s.takeBack()
	}
	if err == nil {
		err = s.recoverStaged()
	}
	if err == nil && c.CheckTables { // not by Badger's option: it panics on a goroutine of its own
		err = s.Check()
	}
	if err != nil {
		s.alarm.Stop()
		db.Close()
		return nil, err
	}
	go s.writeRounds()
	if !c.CheckTables {
		s.checks.Go(func() { s.checkBlocksOf(later) })
	}
	return s, nil
}

func memTableBytes(c Config) int64 {
	if c.Small {
		return 16 << 20
	}
	return memTable
}

func layerBytes(c Config) int {
	if c.Small {
		return layerMaxSmall
	}
	return layerMax
}

func loadRoomBytes(c Config) uint64 {
	if c.LargeMerges && !c.Small {
		return loadTables*memTable + MergeRoom
	}
	return (loadTables + mergeTables) * uint64(memTableBytes(c))
}

func badgerOptions(c Config) badger.Options {
	if c.MemTables == 0 {
		c.MemTables = 3
	}
	o := badger.DefaultOptions(c.Dir).
		WithSyncWrites(true).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(memTableBytes(c)).
		WithNumMemtables(c.MemTables).
		WithValueThreshold(OpBytesMax). // all values inline
		WithValueLogFileSize(1 << 20).
		WithNumCompactors(2).
		WithMetricsEnabled(false).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithLogger(badgerLog{c.Logger})
	if c.LargeMerges && !c.Small {
		// Twice Badger's tables, so that what is below is written half as often. No level
		// below that is smaller than what comes down at once, or each would write all of
		// it again, as Badger's of 10 MB and 100 MB do; and the first is no larger, since
		// all of it is written whenever few keys that change often come down.
		o = o.WithNumLevelZeroTables(level0Tables).WithNumLevelZeroTablesStall(2 * level0Tables).WithBaseLevelSize(baseLevel).WithBaseTableSize(8 << 20)
	}
	return o
}

func openError(dir string, err error) error {
	if strings.Contains(err.Error(), "Cannot acquire directory lock") {
		return proto.Errorf(proto.CodeConflict, "store %s is in use by another process: stop that one, or give this one another --data directory: %w", dir, err)
	}
	if errors.Is(err, os.ErrPermission) {
		return proto.Errorf(proto.CodeUnavailable, "store %s cannot be opened: %w", dir, err)
	}
	return corrupt(err, "open store "+dir)
}

// checkFormat refuses what a newer build wrote; what an older one did becomes
// Format with what is written at once after this.
func (s *Badger) checkFormat() error {
	snap := &badgerSnapshot{txn: s.db.NewTransactionAt(s.db.MaxVersion(), false)}
	defer snap.txn.Discard()
	var got byte
	found, err := snap.Get(formatKey, func(v []byte) error {
		if len(v) == 1 {
			got = v[0]
		}
		return nil
	})
	if err == nil && found && (got == 0 || got > Format) {
		err = proto.Errorf(proto.CodeConflict, "store has format %d, this build reads up to %d: run the kith version that wrote it, take a backup there, and restore it with this one", got, Format)
	}
	return err
}

func formatOp() op { return op{key: formatKey, value: []byte{Format}} }

// NewBatch implements Store.
func (s *Badger) NewBatch() Batch { return &badgerBatch{s: s} }

type badgerBatch struct {
	s   *Badger
	ops []op
}

func (b *badgerBatch) Set(key, value []byte) error { return b.add(op{key: key, value: value}) }

func (b *badgerBatch) Delete(key []byte) error { return b.add(op{key: key, delete: true}) }

func (b *badgerBatch) add(o op) error {
	if err := o.check(); err != nil {
		return err
	}
	b.ops = append(b.ops, o)
	return nil
}

func (b *badgerBatch) Discard() { b.ops = nil }

func (b *badgerBatch) Apply() error {
	if len(b.ops) == 0 {
		return nil
	}
	return b.s.apply(b.ops)
}

func (b *badgerBatch) Commit() error {
	if err := b.Apply(); err != nil {
		return err
	}
	return b.s.Sync()
}

// discardOld lets Badger drop versions that no snapshot can see, nor what the next
// round may be taken back to.
func (s *Badger) discardOld() {
	s.readsMu.Lock()
	defer s.readsMu.Unlock()
	oldest := s.durable.Load()
	for ts := range s.reads {
		oldest = min(oldest, ts)
	}
	s.db.SetDiscardTs(oldest)
}

// Durable implements Store.
func (s *Badger) Durable() uint64 { return s.durable.Load() }

// SnapshotsBefore implements Store.
func (s *Badger) SnapshotsBefore(mark uint64) (n int) {
	s.readsMu.Lock()
	defer s.readsMu.Unlock()
	for ts, snapshots := range s.reads {
		if ts < mark {
			n += snapshots
		}
	}
	return n
}

// Snapshot implements Store.
func (s *Badger) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.written()
	if s.frozen != nil {
		r.layers = append(r.layers, s.frozen.rows)
	}
	if s.active.upTo > 0 {
		r.layers = append(r.layers, s.active.rows.Copy())
	}
	return r
}

// written is the store as of the last round. s.mu is held.
func (s *Badger) written() *badgerSnapshot {
	ts := s.durable.Load() // it stays until s.mu is free
	s.readsMu.Lock()
	s.reads[ts]++
	s.readsMu.Unlock()
	return &badgerSnapshot{s: s, ts: ts, txn: s.db.NewTransactionAt(ts, false)}
}

type badgerSnapshot struct {
	s      *Badger
	ts     uint64
	txn    *badger.Txn
	layers []*btree.BTreeG[row] // over what is in Badger, the newest last
	once   sync.Once
}

func (r *badgerSnapshot) Get(key []byte, fn func([]byte) error) (found bool, err error) {
	want := rowOf(key, nil)
	for _, l := range slices.Backward(r.layers) {
		if x, ok := l.Get(want); ok {
			if x.value == nil {
				return false, nil
			}
			return true, fn(x.value)
		}
	}
	defer recoverCorrupt(&err)
	item, err := r.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, corrupt(err, "read store")
	}
	if err := item.Value(fn); err != nil {
		return true, err
	}
	return true, nil
}

func (r *badgerSnapshot) Scan(prefix, start []byte, fn func(k, v []byte) (bool, error)) (err error) {
	defer recoverCorrupt(&err)
	if bytes.Compare(start, prefix) < 0 {
		start = prefix
	}
	o := badger.DefaultIteratorOptions
	o.Prefix = prefix
	o.PrefetchValues = false // they are inline: fetching ahead is a goroutine for each, and a copy
	it := r.txn.NewIterator(o)
	defer it.Close()
	it.Seek(start)
	over := newMerged(r.layers, prefix, start)
	for {
		stored := it.ValidForPrefix(prefix)
		x, ok := over.row()
		if !stored && !ok {
			return nil
		}
		order := -1 // of the stored key beside x's
		if ok && stored {
			order = bytes.Compare(it.Item().Key(), x.key)
		} else if ok {
			order = 1
		}
		more := true
		switch {
		case order < 0:
			err = it.Item().Value(func(v []byte) (err error) {
				more, err = fn(it.Item().Key(), v)
				return err
			})
		case x.value != nil:
			more, err = fn(x.key, x.value)
		}
		if err != nil || !more {
			return err
		}
		if order <= 0 {
			it.Next()
		}
		if order >= 0 {
			over.next()
		}
	}
}

func recoverCorrupt(err *error) {
	if r := recover(); r != nil {
		*err = corrupt(fmt.Errorf("%v", r), "read store")
	}
}

func (r *badgerSnapshot) Release() {
	r.once.Do(func() {
		r.txn.Discard()
		r.s.readsMu.Lock()
		if r.s.reads[r.ts]--; r.s.reads[r.ts] == 0 {
			delete(r.s.reads, r.ts)
		}
		r.s.readsMu.Unlock()
		r.s.discardOld()
	})
}

// Backup implements Store.
func (s *Badger) Backup(w io.Writer, begun func(Snapshot) error) error {
	if err := s.Sync(); err != nil {
		return err
	}
	s.mu.Lock()
	snap := s.written()
	s.mu.Unlock()
	defer snap.Release()
	if err := begun(snap); err != nil {
		return err
	}
	return writeBackup(w, snap)
}

// LoadRoom is what Load may yet write when it has read so many bytes, most of which it
// takes back. It writes to mapped files, where a full disk is the end of the process:
// whoever gives it more must see that the disk has this.
func (s *Badger) LoadRoom(read uint64) uint64 { return min(2*read, s.loadRoom) }

// Load fills an empty store from what Backup wrote.
func (s *Badger) Load(r io.Reader) (err error) {
	defer recoverCorrupt(&err)
	if err := s.db.Load(r, 16); err != nil {
		return proto.Errorf(proto.CodeCorrupt, "load backup into store: is the file whole and a kith backup? %w", err)
	}
	if err := s.checkFormat(); err != nil {
		return err
	}
	return s.writeOut([]op{formatOp()}, s.db.MaxVersion()+1, func() {}) // all of it counts
}

// Check implements Store.
func (s *Badger) Check() (err error) {
	defer recoverCorrupt(&err)
	if err := s.db.VerifyChecksum(); err != nil {
		return corrupt(err, "verify store")
	}
	return nil
}

// Close implements Store.
func (s *Badger) Close() error {
	err := s.Sync()
	s.mu.Lock()
	s.closing = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.ended
	s.checks.Wait()
	s.alarm.Stop()
	if err := errors.Join(err, s.db.Close()); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "close store: %w", err)
	}
	return nil
}

// Leave ends the store without writing anything, as a crash would: what was applied
// and is not durable is lost. The directory stays locked until the process ends.
func (s *Badger) Leave() {
	s.mu.Lock()
	s.closing, s.left = true, true
	s.mu.Unlock()
	s.fail(proto.Errorf(proto.CodeUnavailable, "the store was left, because the disk is full"))
	<-s.ended
	s.checks.Wait()
	s.alarm.Stop()
}

// badgerLog passes Badger's warnings and errors on.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) Errorf(f string, a ...any)   { b.log(slog.LevelError, f, a) }
func (b badgerLog) Warningf(f string, a ...any) { b.log(slog.LevelWarn, f, a) }
func (b badgerLog) Infof(string, ...any)        {}
func (b badgerLog) Debugf(string, ...any)       {}

func (b badgerLog) log(level slog.Level, f string, a []any) {
	if b.l != nil {
		b.l.Log(context.Background(), level, "store: "+strings.TrimSpace(fmt.Sprintf(f, a...)))
	}
}
