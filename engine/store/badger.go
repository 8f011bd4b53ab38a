package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"kith/proto"
)

const (
	memTable     = 64 << 20
	level0Tables = 10 // before they are merged with what is below; twice as many are waited for
	baseLevel    = level0Tables * memTable
)

// MergeRoom is what large merges may take of the disk besides: level 0, and a level
// below it that outgrew its size by as much again.
const MergeRoom = 2*level0Tables*memTable + 2*baseLevel

// Config is how a Badger store is opened.
type Config struct {
	Dir         string
	CheckTables bool // read and verify every table at open; else each block when it is read
	MemTables   int  // of 64 MB each, or 16 MB; 0: 3
	Small       bool // the disk is small: 16 MB files
	LargeMerges bool // fewer merges, each of which may take MergeRoom for a while; not with Small
	Logger      *slog.Logger
}

// Badger is a Store on disk. It runs Badger in managed mode: commit
// timestamps are ours, so that opening a snapshot or a batch never waits for a
// commit under way, which Badger's own NewTransaction does.
type Badger struct {
	db       *badger.DB
	memTable int // bytes

	atCrashPoint func(marked bool) // tests only: before and after a staged batch's marker

	writing sync.RWMutex // held for reading by commits, for writing while Badger takes none

	mu     sync.Mutex
	next   uint64          // last commit timestamp given out
	flight map[uint64]bool // given out and not yet finished
	reads  map[uint64]int  // timestamps of snapshots in use
	done   atomic.Uint64   // all commits up to here are finished
	failed atomic.Pointer[error]
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
	if err := checkTables(c.Dir, badgerOptions(c)); err != nil {
		return nil, err
	}
	db, err := badger.OpenManaged(badgerOptions(c))
	if err != nil {
		return nil, openError(c.Dir, err)
	}
	s = &Badger{db: db, memTable: int(memTableBytes(c)), flight: map[uint64]bool{}, reads: map[uint64]int{}}
	s.next = max(db.MaxVersion(), 1)
	s.done.Store(s.next)
	err = errors.Join(s.checkFormat(), s.recoverStaged())
	if err == nil && c.CheckTables { // not by Badger's option: it panics on a goroutine of its own
		err = s.Check()
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

func memTableBytes(c Config) int64 {
	if c.Small {
		return 16 << 20
	}
	return memTable
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

func (s *Badger) checkFormat() error {
	snap := s.Snapshot()
	defer snap.Release()
	var got byte
	found, err := snap.Get(formatKey, func(v []byte) error {
		if len(v) == 1 {
			got = v[0]
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !found {
		b := s.NewBatch()
		if err := b.Set(formatKey, []byte{Format}); err != nil {
			return err
		}
		return b.Commit()
	}
	if got != Format {
		return proto.Errorf(proto.CodeConflict, "store has format %d, this build reads %d: run the kith version that wrote it, take a backup there, and restore it with this one", got, Format)
	}
	return nil
}

// NewBatch implements Store.
func (s *Badger) NewBatch() Batch { return &badgerBatch{s: s} }

type badgerBatch struct {
	s     *Badger
	ops   []op
	bytes int
}

func (b *badgerBatch) Set(key, value []byte) error { return b.add(op{key: key, value: value}) }

func (b *badgerBatch) Delete(key []byte) error { return b.add(op{key: key, delete: true}) }

func (b *badgerBatch) add(o op) error {
	if err := o.check(); err != nil {
		return err
	}
	b.ops = append(b.ops, o)
	b.bytes += o.size()
	return nil
}

func (b *badgerBatch) Discard() { b.ops = nil }

func (b *badgerBatch) Commit() error {
	s := b.s
	if p := s.failed.Load(); p != nil {
		return *p
	}
	if len(b.ops) == 0 {
		return nil
	}
	s.writing.RLock()
	defer s.writing.RUnlock()
	ts := s.begin()
	defer s.finish(ts)
	var err error
	if s.txnFits(len(b.ops), b.bytes) {
		err = s.write(b.ops, ts)
	} else {
		after := s.begin() // for the removal of what was staged
		err = s.commitStaged(b.ops, ts, after)
		s.finish(after)
	}
	if err != nil {
		err = proto.Errorf(proto.CodeUnavailable, "store commit failed, the node must stop applying: check the disk, then restart: %w", err)
		s.failed.CompareAndSwap(nil, &err)
	}
	return err
}

func (s *Badger) begin() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.flight[s.next] = true
	return s.next
}

func (s *Badger) finish(ts uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flight, ts)
	done := s.next
	for t := range s.flight {
		done = min(done, t-1)
	}
	s.done.Store(done)
	s.discardOld()
}

// discardOld lets Badger drop versions that no snapshot can see. s.mu is held.
func (s *Badger) discardOld() {
	oldest := s.done.Load()
	for ts := range s.reads {
		oldest = min(oldest, ts)
	}
	s.db.SetDiscardTs(oldest)
}

// Snapshot implements Store. With several writers it may miss the newest
// commits of one while an older commit of another is under way: a writer takes
// its own snapshots, after its own commits, and reads its own keys.
func (s *Badger) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The timestamp given out last sees all finished commits; those under way
	// show up in part, so only keys of other writers than theirs may be read.
	return s.snapshotAt(s.next)
}

// snapshotAt is the store as of a timestamp. s.mu is held.
func (s *Badger) snapshotAt(ts uint64) *badgerSnapshot {
	s.reads[ts]++
	return &badgerSnapshot{s: s, ts: ts, txn: s.db.NewTransactionAt(ts, false)}
}

type badgerSnapshot struct {
	s    *Badger
	ts   uint64
	txn  *badger.Txn
	once sync.Once
}

func (r *badgerSnapshot) Get(key []byte, fn func([]byte) error) (found bool, err error) {
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
	o := badger.DefaultIteratorOptions
	o.Prefix = prefix
	o.PrefetchValues = false // they are inline: fetching ahead is a goroutine for each, and a copy
	it := r.txn.NewIterator(o)
	defer it.Close()
	if bytes.Compare(start, prefix) < 0 {
		start = prefix
	}
	for it.Seek(start); it.ValidForPrefix(prefix); it.Next() {
		more := true
		err := it.Item().Value(func(v []byte) (err error) {
			more, err = fn(it.Item().Key(), v)
			return err
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func recoverCorrupt(err *error) {
	if r := recover(); r != nil {
		*err = corrupt(fmt.Errorf("%v", r), "read store")
	}
}

func (r *badgerSnapshot) Release() {
	r.once.Do(func() {
		r.txn.Discard()
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		if r.s.reads[r.ts]--; r.s.reads[r.ts] == 0 {
			delete(r.s.reads, r.ts)
		}
		r.s.discardOld()
	})
}

// Backup implements Store.
func (s *Badger) Backup(w io.Writer, begun func(Snapshot) error) error {
	s.mu.Lock()
	snap := s.snapshotAt(s.done.Load())
	s.mu.Unlock()
	defer snap.Release()
	if err := begun(snap); err != nil {
		return err
	}
	ts := snap.ts
	stream := s.db.NewStreamAt(ts)
	stream.NumGo = 1
	stream.LogPrefix = "backup"
	if _, err := stream.Backup(w, 0); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "back up store: %w", err)
	}
	return nil
}

// Load fills an empty store from what Backup wrote.
func (s *Badger) Load(r io.Reader) (err error) {
	defer recoverCorrupt(&err)
	if err := s.db.Load(r, 16); err != nil {
		return proto.Errorf(proto.CodeCorrupt, "load backup into store: is the file whole and a kith backup? %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, s.db.MaxVersion())
	s.done.Store(s.next)
	return nil
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
	if err := s.db.Close(); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "close store: %w", err)
	}
	return nil
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
