// Package store keeps a node's ordered keys: Badger, opened with synced
// writes, and an in-memory twin that passes the same conformance test.
//
// It guarantees that a Batch commits whole or not at all, that a committed
// batch survives a power cut, and that a Snapshot never changes. It knows
// nothing of what the keys mean; the engine's package comment lists them. Its
// own keys begin with a zero byte:
//
//	00 'f'                 format version of the directory (one byte)
//	00 's' batch(8) n(4)   staged part of a batch too large for one transaction (staged.go)
//	00 'c' batch(8)        its marker: the number of parts; what has one is carried out
//	00 00 'z', ff ff 'z', ff ff ff   what Scrub writes, without meaning (scrub.go)
package store

import (
	"io"

	"kith/proto"
)

// Format is the version of the directory's layout, checked when it is opened.
const Format = 1

// Store keeps keys in byte order. Safe for concurrent use.
type Store interface {
	// NewBatch starts a batch. Batches of one writer must be committed in the
	// order in which they were made; writers with disjoint keys are independent.
	NewBatch() Batch
	// Snapshot sees every batch whose Commit returned before the call. It never
	// waits for a commit under way. The caller must Release it.
	Snapshot() Snapshot
	// Backup writes every live key, as of now, to w in Badger's backup format. When
	// it is settled what that is, and before it writes, it calls begun with it; an
	// error of begun's it gives back, and writes nothing. begun must not keep what
	// it is given.
	Backup(w io.Writer, begun func(Snapshot) error) error
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
	// Set and Delete keep key and value until Commit or Discard returns; the
	// caller must not change them before.
	Set(key, value []byte) error
	Delete(key []byte) error
	// Commit makes the batch durable. An error means that nothing of it will
	// ever be seen, or that a later Open will make all of it seen; the store must
	// then be treated as broken.
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

// Bounds that a batch should keep to: a larger one is staged, which costs three
// times as much.
const (
	BatchKeysMax  = 24_000
	BatchBytesMax = 2 << 20
)

var formatKey = []byte{0, 'f'}

func corrupt(err error, what string) error {
	return &proto.Error{
		Code: proto.CodeCorrupt, Err: err,
		Message: what + ": the store's files are damaged; restore a backup with `kith restore`, or move the store directory away and let the node rebuild it from the log if the log still begins at its first entry",
	}
}

var errNoBackup = proto.Errorf(proto.CodeInvalid, "the in-memory store has no backup format: open a store on disk")
