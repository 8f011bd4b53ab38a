package store

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/dgraph-io/badger/v4"

	"kith/proto"
)

// Builds before the write-back staged a batch that was too large for one of
// Badger's transactions: its operations were written beside the keys they are for,
// then a marker committed them, then they were carried out and the marker went.
// Open makes good what a crash interrupted of that.
//
// A staged value is operations end to end: 0 for delete or 1 for set, key with
// its length, and for a set the value with its length.

// op is one write of a batch.
type op struct {
	key, value []byte
	delete     bool
}

func (o op) size() int { return len(o.key) + len(o.value) + opBytes }

func (o op) check() error {
	if o.size() > OpBytesMax {
		return proto.Errorf(proto.CodeTooLarge, "a value of %d bytes is too large to be stored: at most %d", len(o.value), OpBytesMax)
	}
	return nil
}

const (
	opBytes = 32 // what an operation costs beside key and value
	// A transaction's bounds, two thirds of Badger's own: 15 % of a memtable,
	// and as many keys as that holds at 88 bytes a node.
	txnShare    = 10 // percent of a memtable
	txnKeyBytes = 128
	// OpBytesMax is the largest operation that a batch may hold, in any store.
	OpBytesMax = 1 << 20
)

// txnFits reports whether operations of this number and size fit into one
// transaction.
func (s *Badger) txnFits(keys, bytes int) bool {
	limit := s.memTable * txnShare / 100
	return bytes <= limit && keys <= limit/txnKeyBytes
}

func stagedKey(id uint64, n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64([]byte{0, 's'}, id), n)
}

// unstage reads what stage packed.
func unstage(b []byte, ops []op) ([]op, error) {
	r := proto.NewReader(b)
	for r.Len() > 0 {
		kind := r.Byte()
		o := op{key: r.Bytes(), delete: kind == 0}
		if kind == 1 {
			o.value = r.Bytes()
		}
		if r.Bad() || kind > 1 {
			return nil, corrupt(errors.New("a staged batch is malformed"), "open store")
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// write commits operations at ts, in as many transactions as it takes.
func (s *Badger) write(ops []op, ts uint64) error {
	for len(ops) > 0 {
		txn := s.db.NewTransactionAt(math.MaxUint64, true)
		n, size := 0, 0
		entries := make([]badger.Entry, min(len(ops), entriesSlab))
		for n < len(ops) && (n == 0 || s.txnFits(n+1, size+ops[n].size())) {
			if len(entries) == 0 {
				entries = make([]badger.Entry, entriesSlab)
			}
			if err := put(txn, ops[n], &entries[0]); err != nil {
				txn.Discard()
				return err
			}
			size += ops[n].size()
			entries = entries[1:]
			n++
		}
		if err := txn.CommitAt(ts, nil); err != nil {
			return err
		}
		if ops = ops[n:]; s.atCrashPoint != nil {
			s.atCrashPoint(len(ops))
		}
	}
	return nil
}

// entriesSlab is how many entries of a transaction are allocated at a time.
const entriesSlab = 256

// put adds an operation to txn, which keeps e.
func put(txn *badger.Txn, o op, e *badger.Entry) error {
	if o.delete {
		return txn.Delete(o.key)
	}
	e.Key, e.Value = o.key, o.value
	return txn.SetEntry(e)
}

// recoverStaged makes good what a crash interrupted: batches with a marker are
// carried out, and all that was staged goes.
func (s *Badger) recoverStaged() error {
	snap := s.Snapshot()
	defer snap.Release()
	l := newLayer()
	err := snap.Scan([]byte{0, 'c'}, nil, func(k, v []byte) (bool, error) {
		if len(k) != 10 || len(v) != 4 {
			return false, corrupt(errors.New("a staged batch's marker is malformed"), "open store")
		}
		ops, err := readStaged(snap, binary.BigEndian.Uint64(k[2:]))
		l.add(ops)
		l.add([]op{{key: k, delete: true}})
		return true, err
	})
	if err != nil {
		return err
	}
	err = snap.Scan([]byte{0, 's'}, nil, func(k, _ []byte) (bool, error) {
		l.add([]op{{key: k, delete: true}})
		return true, nil
	})
	if err != nil || l.rows.Len() == 0 {
		return err
	}
	return s.writeOut(l.ops(), s.durable.Load()+1, func() {})
}

// readStaged reads a batch's operations in their order.
func readStaged(snap Snapshot, id uint64) (ops []op, err error) {
	prefix := stagedKey(id, 0)[:10]
	err = snap.Scan(prefix, nil, func(_, v []byte) (bool, error) {
		var err error
		ops, err = unstage(append([]byte(nil), v...), ops)
		return true, err
	})
	return ops, err
}
