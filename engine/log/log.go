// Package log is the log of a node: one append-only stream of entries per
// lane, and one control stream that orders definitions, kept by NATS
// JetStream in a server that runs inside this process (or, by URL, outside).
//
// It guarantees: an append that was acknowledged is on disk, synced; a reader
// gets every entry from an offset on, in order, each once, and an error where
// one is missing; an append whose outcome is unknown can be settled to "in
// the log, there" or "never in the log". It bounds what it holds in memory.
//
// It does not judge entries (the lane does), does not keep readers' offsets
// (the store does, with the state). In a cluster the servers keep each stream on
// Cluster.Replicas nodes, and acknowledged is what most of these have.
//
// It writes, below Config.Dir:
//
//   - kith-log.lock: held while the log is open, so that there is one process;
//   - jetstream/: the server's files, one folder per stream.
//
// Streams and subjects:
//
//   - KITH_L00 … KITH_L63 on kith.log.00 …: the lanes. The message is a sealed
//     proto.Entry, Nats-Msg-Id is "producer-seq", the stream's sequence is the
//     Offset. File storage, limits retention, discard new, no maximum age.
//   - KITH_CTL on kith.ctl: control records, opaque here.
//   - KITH_OPTOUT on kith.ledger: the ledger of opt-outs, opaque here; nothing of
//     it is ever deleted.
//   - KITH_OUT_OPTOUTS on kith.out.optouts: final opt-outs, for downstream systems;
//     the oldest go when it is full.
//   - KITH_OUT_SEGMENTS_N on kith.feed.N, published again on
//     kith.out.segments.CLIENT: who enters and leaves the segments of client number
//     N, if it asks; the oldest go when it is full.
//   - KITH_AUDIT on kith.audit: the audit log; the oldest go when it is full.
//     Nats-Msg-Id is the process and a number of its own.
//
// Each stream's metadata holds kith.format (FormatVersion), that of KITH_CTL also
// kith.lanes and kith.secret: for how many lanes the log is, and the mark of the hash
// secret. KITH_CTL is made before the others.
package log

import (
	"context"
	"time"

	"kith/proto"
)

// FormatVersion is the version of the streams' lay-out that this build writes.
const FormatVersion = "1"

// Record is one stored record. Data is the reader's own for ever. ID is what its
// writer called it, if it did; Get says it.
type Record struct {
	Offset proto.Offset
	Stored time.Time
	ID     string
	Data   []byte
}

// Info describes a stream. First is Last+1 while the stream is empty. Created
// changes when the stream was deleted and made anew: part of the fingerprint
// that a store keeps with its offset.
type Info struct {
	First, Last proto.Offset
	Created     time.Time
	Bytes       uint64
	BytesMax    uint64 // appends are refused beyond this
	// Follows is the offset of the store that the stream goes on from, 0 if there
	// was none.
	Follows proto.Offset
}

// Appender adds entries to one lane's log. Safe for concurrent use; entries
// are stored in the order of the calls.
//
// Errors: CodeDiskFull, CodeTooLarge and the like say that the entry is not
// in the log. An error for which Ambiguous is true says that nobody knows:
// Settle finds out. Nothing here retries by itself.
type Appender interface {
	// AppendAsync seals and publishes e and returns; done is called once,
	// from another goroutine, when e is durable or failed, and must not
	// block. If AppendAsync itself fails, done is never called.
	AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error
	// Settle decides an append of e that ended ambiguously: it looks for e
	// behind after, a known last offset of before the append, and if e is not
	// there appends it under the condition that nothing came in between. If a
	// later entry of the same producer is in the log, e can never come:
	// CodeConflict. An ambiguous error means: call again.
	Settle(ctx context.Context, e *proto.Entry, after proto.Offset) (proto.Offset, error)
}

// Source reads one lane's log. Safe for concurrent use.
type Source interface {
	// Read delivers the records from, from+1, … and goes on with what is
	// appended later, until ctx ends (its error is returned) or fn fails. A
	// record that is missing, or a stream that ends before from-1, is
	// CodeCorrupt, never skipped. What waits in memory is bounded.
	Read(ctx context.Context, from proto.Offset, fn func(Record) error) error
	// Get reads one record; CodeNotFound if it is not there (any more).
	Get(ctx context.Context, at proto.Offset) (Record, error)
	// Info describes the stream now.
	Info(ctx context.Context) (Info, error)
}

// Stream is one lane's log.
type Stream interface {
	Appender
	Source
	// Append is AppendAsync, then Settle where needed, until ctx ends.
	Append(ctx context.Context, e *proto.Entry) (proto.Offset, error)
	// Purge removes the records up to and with upTo, bytes included.
	Purge(ctx context.Context, upTo proto.Offset) error
}

// ControlStream is a stream of records that few write, such as that of control
// records; their offsets are sequences, from 1. Records are never purged.
type ControlStream interface {
	// Append stores a record if the stream's last sequence is still last, so
	// that whoever decided did so knowing all before it: CodeConflict if it
	// is not (read on and decide again). An ambiguous error leaves open
	// whether it was stored: read on before deciding again.
	Append(ctx context.Context, record []byte, last uint64) (uint64, error)
	// Read is as Source.Read.
	Read(ctx context.Context, from uint64, fn func(Record) error) error
	// Last is the last sequence, 0 before the first record.
	Last(ctx context.Context) (uint64, error)
}

// Logs is what *Log and *Memory both are.
type Logs interface {
	// Lane panics if the log was not opened with that lane.
	Lane(id proto.LaneID) Stream
	// Follow notes that a lane's stream, which must be new or known to do so, goes on
	// from a store at an offset, so that nobody reads it as all there ever was.
	// CodeConflict if it is not new, or goes on from another offset.
	Follow(ctx context.Context, id proto.LaneID, at proto.Offset, known bool) error
	Control() ControlStream
	// Ledger is the stream of opt-outs, Feed that of the final ones for others.
	Ledger() ControlStream
	Feed() ControlStream
	// Outlet is the stream of what a client's programs are told, made if it is not
	// there; DropOutlet deletes it.
	Outlet(ctx context.Context, c proto.ClientID, name proto.ClientName) (Outlet, error)
	DropOutlet(ctx context.Context, c proto.ClientID) error
	// Audit is the stream of the audit log, which nobody else hears.
	Audit(ctx context.Context) (Outlet, error)
	// Healthy says why the log cannot take entries, nil if it can.
	Healthy() error
	Close() error
}
