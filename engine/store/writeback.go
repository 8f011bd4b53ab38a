package store

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/tidwall/btree"

	"kith/proto"
)

// What is applied is kept in memory first and written to Badger together. The
// state of a browser who is about changes every few seconds; written each time,
// it is in Badger's newest tables many times over, and what is merged with those
// is all of the store.
//
// A round of writing takes as many of Badger's transactions as it needs, all at
// one timestamp, the last of which notes that timestamp as what counts. What a
// crash leaves of a round that did not come that far is taken back when the store
// is opened. So that it can be, Badger keeps what was before until then.

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

// row is what is to be written for a key. It is small, since it is copied with its node,
// and has the key's beginning in it: nearly all keys differ in that, so that a search
// reads no key but the one that it finds.
type row struct {
	begin uint64 // the key's first eight bytes, zeros behind a shorter one
	*record
}

// record is never changed once it is in a row. A nil value deletes the key.
type record struct{ key, value []byte }

func rowOf(key, value []byte) row {
	var begin [8]byte
	copy(begin[:], key)
	return row{binary.BigEndian.Uint64(begin[:]), &record{key, value}}
}

// before reports whether r comes first in the order of keys.
func (r row) before(x row) bool {
	if r.begin != x.begin {
		return r.begin < x.begin
	}
	return bytes.Compare(r.key, x.key) < 0
}

// layer is what was applied since the layer before.
type layer struct {
	rows  *btree.BTreeG[row] // copied on write: a snapshot keeps a copy
	bytes int
	upTo  uint64    // the batch applied last
	began time.Time // when the first was
}

// layerDegree makes nodes of a kilobyte at most, since what changes between two
// snapshots is copied node by node.
const layerDegree = 32

func newLayer() *layer {
	return &layer{rows: btree.NewBTreeGOptions(row.before, btree.Options{NoLocks: true, Degree: layerDegree})}
}

// rowsOf copies operations.
func rowsOf(ops []op) []row {
	list := make([]row, len(ops))
	for i, o := range ops {
		kept := make([]byte, len(o.key)+len(o.value))
		copy(kept[copy(kept, o.key):], o.value)
		list[i] = rowOf(kept[:len(o.key):len(o.key)], kept[len(o.key):])
		if o.delete {
			list[i].value = nil
		}
	}
	return list
}

func (r row) op() op { return op{key: r.key, value: r.value, delete: r.value == nil} }

func (l *layer) add(rows []row) {
	for _, r := range rows {
		l.bytes += r.op().size()
		if old, replaced := l.rows.Set(r); replaced {
			l.bytes -= old.op().size()
		}
	}
}

// ops are the layer's rows as they are written.
func (l *layer) ops() []op {
	ops := make([]op, 0, l.rows.Len()+1)
	l.rows.Scan(func(r row) bool {
		ops = append(ops, r.op())
		return true
	})
	return ops
}

// apply lets snapshots see operations.
func (s *Badger) apply(ops []op) error {
	rows := rowsOf(ops)
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.active.bytes >= s.layerMax && s.frozen != nil && s.failed.Load() == nil {
		s.changed.Wait()
	}
	if p := s.failed.Load(); p != nil {
		return *p
	}
	s.applied++
	if s.active.upTo == 0 {
		s.active.began = time.Now()
		s.alarm.Reset(SyncEvery)
	}
	s.active.add(rows)
	s.active.upTo = s.applied
	if s.active.bytes >= s.layerMax {
		s.changed.Broadcast()
	}
	return nil
}

// ring wakes who waits, when a layer is old.
func (s *Badger) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// Sync implements Store.
func (s *Badger) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	upTo := s.applied
	s.wanted = max(s.wanted, upTo)
	s.changed.Broadcast()
	for s.synced < upTo && s.failed.Load() == nil {
		s.changed.Wait()
	}
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// due reports whether a round is to be written now. s.mu is held.
func (s *Badger) due() bool {
	a := s.active
	return a.upTo > 0 && (s.wanted > s.synced || a.bytes >= s.layerMax || time.Since(a.began) >= SyncEvery)
}

// writeRounds writes what was applied until the store is closed or broken.
func (s *Badger) writeRounds() {
	defer close(s.ended)
	for {
		s.mu.Lock()
		for !s.due() && !s.closing {
			s.changed.Wait()
		}
		if !s.due() || s.left {
			s.mu.Unlock()
			return
		}
		s.frozen, s.active = s.active, newLayer()
		l := s.frozen
		s.mu.Unlock()
		if err := s.writeOut(l.ops(), s.durable.Load()+1, func() { s.frozen, s.synced = nil, l.upTo }); err != nil {
			s.fail(proto.Errorf(proto.CodeUnavailable, "store commit failed, the node must stop applying: check the disk, then restart: %w", err))
			return
		}
	}
}

// fail has everybody who writes be told err from now on.
func (s *Badger) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed.CompareAndSwap(nil, &err)
	s.changed.Broadcast()
}

// writeOut writes operations, of one key at most one each, as a round at ts, later
// than all before, and calls done, with s.mu held, once they count.
func (s *Badger) writeOut(ops []op, ts uint64, done func()) (err error) {
	defer recoverCorrupt(&err) // Badger panics on some damaged files
	s.writing.RLock()
	defer s.writing.RUnlock()
	ops = append(ops, op{key: countsKey, value: binary.BigEndian.AppendUint64(nil, ts)})
	if err := s.write(ops, ts); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable.Store(ts)
	done()
	s.discardOld()
	s.changed.Broadcast()
	return nil
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

var countsKey = []byte{0, 'd'}

// takeBack undoes what a crash left of a round: each key of it gets the value that
// it had before.
func (s *Badger) takeBack() error {
	newest := s.db.MaxVersion()
	counts, err := s.counting(newest)
	if err != nil {
		return err
	}
	var ops []op
	if newest > counts {
		if ops, err = s.before(counts); err != nil {
			return err
		}
	}
	ops = slices.DeleteFunc(ops, func(o op) bool { return bytes.Equal(o.key, countsKey) || bytes.Equal(o.key, formatKey) })
	return s.writeOut(append(ops, formatOp()), newest+1, func() {})
}

// counting is the timestamp of what counts; all that there is in a store that
// nothing was noted in.
func (s *Badger) counting(newest uint64) (ts uint64, err error) {
	snap := &badgerSnapshot{txn: s.db.NewTransactionAt(newest, false)}
	defer snap.txn.Discard()
	found, err := snap.Get(countsKey, func(v []byte) error {
		if len(v) != 8 {
			return proto.Errorf(proto.CodeCorrupt, "the store's record of what counts has %d bytes: restore a backup", len(v))
		}
		ts = binary.BigEndian.Uint64(v)
		return nil
	})
	if !found || err != nil {
		return newest, err
	}
	return ts, nil
}

// before are the operations that give every key that was written after a timestamp
// the value that it had then.
func (s *Badger) before(ts uint64) (ops []op, err error) {
	defer recoverCorrupt(&err)
	then := &badgerSnapshot{txn: s.db.NewTransactionAt(ts, false)}
	defer then.txn.Discard()
	now := s.db.NewTransactionAt(s.db.MaxVersion(), false)
	defer now.Discard()
	o := badger.DefaultIteratorOptions
	o.AllVersions, o.SinceTs, o.PrefetchValues = true, ts, false
	it := now.NewIterator(o)
	defer it.Close()
	var last []byte
	for it.Rewind(); it.Valid(); it.Next() {
		k := it.Item().Key()
		if last != nil && bytes.Equal(k, last) {
			continue
		}
		last = slices.Clone(k)
		x := op{key: last}
		found, err := then.Get(last, func(v []byte) error {
			x.value = slices.Clone(v)
			return nil
		})
		if err != nil {
			return nil, err
		}
		x.delete = !found
		ops = append(ops, x)
	}
	return ops, nil
}

// merged goes through layers in the order of keys; of a key that several have it
// gives the newest's.
type merged struct {
	prefix []byte
	lists  []*btree.IterG[row] // that have a row, the newest last
}

func newMerged(layers []*btree.BTreeG[row], prefix, start []byte) *merged {
	m := &merged{prefix: prefix}
	for _, l := range layers {
		if it := l.Iter(); it.Seek(rowOf(start, nil)) {
			m.lists = append(m.lists, &it)
		}
	}
	m.trim()
	return m
}

// trim takes off lists that left the prefix.
func (m *merged) trim() {
	m.lists = slices.DeleteFunc(m.lists, func(it *btree.IterG[row]) bool { return !bytes.HasPrefix(it.Item().key, m.prefix) })
}

func (m *merged) row() (r row, ok bool) {
	for _, it := range m.lists {
		if x := it.Item(); !ok || bytes.Compare(x.key, r.key) <= 0 {
			r, ok = x, true
		}
	}
	return r, ok
}

// next passes the row's key in all layers.
func (m *merged) next() {
	r, _ := m.row()
	m.lists = slices.DeleteFunc(m.lists, func(it *btree.IterG[row]) bool {
		return bytes.Equal(it.Item().key, r.key) && !it.Next()
	})
	m.trim()
}
