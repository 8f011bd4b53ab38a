package store

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/dgraph-io/badger/v4"

	"kith/proto"
)

// A batch that is too large for one of Badger's transactions is staged: its
// operations are written beside the keys they are for, then a marker commits
// them, then they are carried out and the marker goes. A crash before the
// marker leaves nothing of the batch, one after it is made good by Open.
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

func markerKey(id uint64) []byte { return binary.BigEndian.AppendUint64([]byte{0, 'c'}, id) }

// commitStaged carries a large batch out. id is its timestamp, after a later
// one for the removal of what was staged.
func (s *Badger) commitStaged(ops []op, id, after uint64) error {
	ops = lastOfEachKey(ops) // the transactions share a timestamp
	staged := stage(ops, id)
	if err := s.write(staged, id); err != nil {
		return err
	}
	s.crashPoint(false)
	marker := binary.BigEndian.AppendUint32(nil, uint32(len(staged)))
	if err := s.write([]op{{key: markerKey(id), value: marker}}, id); err != nil {
		return err
	}
	s.crashPoint(true)
	return s.finishStaged(ops, id, uint32(len(staged)), id, after)
}

func (s *Badger) crashPoint(marked bool) {
	if s.atCrashPoint != nil {
		s.atCrashPoint(marked)
	}
}

func lastOfEachKey(ops []op) []op {
	last := make(map[string]int, len(ops))
	for i, o := range ops {
		last[string(o.key)] = i
	}
	kept := ops[:0]
	for i, o := range ops {
		if last[string(o.key)] == i {
			kept = append(kept, o)
		}
	}
	return kept
}

// stage packs operations into values of bounded size.
func stage(ops []op, id uint64) (staged []op) {
	var value []byte
	flush := func() {
		if len(value) > 0 {
			staged = append(staged, op{key: stagedKey(id, uint32(len(staged))), value: value})
			value = nil
		}
	}
	for _, o := range ops {
		if len(value)+o.size() > OpBytesMax/2 {
			flush()
		}
		kind := byte(1)
		if o.delete {
			kind = 0
		}
		value = proto.AppendString(append(value, kind), string(o.key))
		if !o.delete {
			value = proto.AppendString(value, string(o.value))
		}
	}
	flush()
	return staged
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

// finishStaged carries out operations whose marker is written, then removes
// what was staged; the marker first, so that a half-removed batch is not
// carried out again.
func (s *Badger) finishStaged(ops []op, id uint64, parts uint32, ts, after uint64) error {
	if err := s.write(ops, ts); err != nil {
		return err
	}
	if err := s.write([]op{{key: markerKey(id), delete: true}}, after); err != nil {
		return err
	}
	var gone []op
	for n := range parts {
		gone = append(gone, op{key: stagedKey(id, n), delete: true})
	}
	return s.write(gone, after)
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
		ops = ops[n:]
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
// carried out, others are removed.
func (s *Badger) recoverStaged() error {
	snap := s.Snapshot()
	defer snap.Release()
	type pending struct {
		id    uint64
		parts uint32
	}
	var list []pending
	err := snap.Scan([]byte{0, 'c'}, nil, func(k, v []byte) (bool, error) {
		if len(k) != 10 || len(v) != 4 {
			return false, corrupt(errors.New("a staged batch's marker is malformed"), "open store")
		}
		list = append(list, pending{binary.BigEndian.Uint64(k[2:]), binary.BigEndian.Uint32(v)})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, p := range list {
		ops, err := readStaged(snap, p.id)
		if err != nil {
			return err
		}
		ts, after := s.begin(), s.begin()
		err = s.finishStaged(ops, p.id, p.parts, ts, after)
		s.finish(ts)
		s.finish(after)
		if err != nil {
			return corrupt(err, "finish an interrupted commit")
		}
	}
	return s.dropStaged()
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

// dropStaged removes what was staged by batches that did not come as far as
// their marker, or had been carried out.
func (s *Badger) dropStaged() error {
	snap := s.Snapshot()
	defer snap.Release()
	var gone []op
	err := snap.Scan([]byte{0, 's'}, nil, func(k, _ []byte) (bool, error) {
		gone = append(gone, op{key: append([]byte(nil), k...), delete: true})
		return true, nil
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	ts := s.begin()
	defer s.finish(ts)
	return s.write(gone, ts)
}
