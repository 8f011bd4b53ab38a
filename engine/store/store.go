// Package store keeps a node's ordered keys: Badger, opened with synced
// writes, and an in-memory twin that passes the same conformance test.
//
// It guarantees that a Batch is kept whole or not at all, that a committed
// batch survives a power cut, that after one the store is as it was after some
// batch, and that a Snapshot never changes. It knows nothing of what the keys
// mean; the engine's package comment lists them. Its own keys begin with a zero
// byte:
//
//	00 'f'                 format version of the directory (one byte)
//	00 'd'                 Badger's timestamp up to which what is there counts (8 bytes, writeback.go)
//	00 's' batch(8) n(4)   staged part of a large batch, of older builds (staged.go)
//	00 'c' batch(8)        its marker: the number of parts; what has one is carried out
//	00 00 'z', ff ff 'z', ff ff ff   what Scrub writes, without meaning (scrub.go)
package store

import (
	"io"
	"time"

	"kith/proto"
)

// Format is the version of the directory's layout, checked when it is opened. 1 had
// no record of what counts; what it wrote is read.
const Format = 2

// Store keeps keys in byte order. Safe for concurrent use.
type Store interface {
	// NewBatch starts a batch.
	NewBatch() Batch
	// Snapshot sees every batch whose Apply or Commit returned before the call. It
	// never waits for one under way. The caller must Release it.
	Snapshot() Snapshot
	// Sync returns when all that was applied before the call is durable.
	Sync() error
	// Backup writes every live key, as of now, to w in Badger's backup format, and
	// nothing of what was deleted or replaced. When it is settled what that is, and
	// before it writes, it calls begun with it; an error of begun's it gives back, and
	// writes nothing. begun must not keep what it is given.
	Backup(w io.Writer, begun func(Snapshot) error) error
	// Durable is a mark of what is durable now, greater than those of before.
	Durable() uint64
	// SnapshotsBefore counts the snapshots in use that were taken before a mark of
	// Durable's and keep what was deleted or replaced until then.
	SnapshotsBefore(mark uint64) int
	// Scrub rewrites what is stored so that no byte of what was deleted or
	// replaced before the call is left, but for what a snapshot still sees.
	Scrub() error
	// Check reads all tables and verifies their checksums.
	Check() error
	// Close waits for background work; the store must not be in use.
	Close() error
}

// Batch is a set of writes. Not safe for concurrent use.
type Batch interface {
	// Set and Delete keep key and value until Apply, Commit or Discard returns; the
	// caller must not change them before.
	Set(key, value []byte) error
	Delete(key []byte) error
	// Apply lets snapshots see the batch. It becomes durable with the next Commit or
	// Sync of anybody, or by itself within SyncEvery, never before what was applied
	// before it. What a power cut takes with it must be known from elsewhere. An
	// error means that the store is broken.
	Apply() error
	// Commit is Apply and Sync.
	Commit() error
	Discard()
}

// Snapshot is the state as of one point. Safe for concurrent use.
type Snapshot interface {
	// Get calls fn with the value, which is valid during the call only, and
	// reports whether the key exists.
	Get(key []byte, fn func(value []byte) error) (bool, error)
	// Scan calls fn for each key from start with prefix, in order, until fn
	// returns false. Key and value are valid during the call only.
	Scan(prefix, start []byte, fn func(key, value []byte) (bool, error)) error
	Release()
}

// SyncEvery is how long a batch that was applied may not be durable.
const SyncEvery = 10 * time.Second

// Bounds that a batch should keep to.
const (
	BatchKeysMax  = 24_000
	BatchBytesMax = 2 << 20
)

var formatKey = []byte{0, 'f'}

func corrupt(err error, what string) error {
	return &proto.Error{
		Code: proto.CodeCorrupt, Err: err,
		Message: what + ": the store's files are damaged; restore a backup with `kith restore`; or move the store directory away and start: the node rebuilds it from the log, or refuses if the log does not hold all from the first entry on",
	}
}

var errNoBackup = proto.Errorf(proto.CodeInvalid, "the in-memory store has no backup format: open a store on disk")
