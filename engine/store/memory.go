package store

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/tidwall/btree"
)

// Memory is the in-memory twin of Badger, for tests and the simulation.
type Memory struct {
	mu        sync.RWMutex
	tree      *btree.BTreeG[pair]
	forgetful bool
	past      []*btree.BTreeG[pair] // before each batch that is not durable, of a forgetful one
}

type pair struct{ key, value []byte }

// NewMemory is an empty store.
func NewMemory() *Memory {
	return &Memory{tree: btree.NewBTreeG(func(a, b pair) bool { return bytes.Compare(a.key, b.key) < 0 })}
}

// pastMax bounds what a forgetful one may lose.
const pastMax = 100

// NewForgetful is an empty store that loses in a power cut what is not durable.
func NewForgetful() *Memory {
	m := NewMemory()
	m.forgetful = true
	return m
}

// PowerCut takes the last batches along, as many as are given and not durable, and
// says how many.
func (m *Memory) PowerCut(batches int) (lost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lost = min(batches, len(m.past)); lost > 0 {
		m.tree = m.past[len(m.past)-lost]
	}
	m.past = nil
	return lost
}

// Sync implements Store.
func (m *Memory) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.past = nil
	return nil
}

// Durable implements Store.
func (m *Memory) Durable() uint64 { return 0 }

// SnapshotsBefore implements Store: what a snapshot keeps is the snapshot's own.
func (m *Memory) SnapshotsBefore(uint64) int { return 0 }

// Scrub implements Store: a deleted key leaves nothing.
func (m *Memory) Scrub() error { return nil }

// NewBatch implements Store.
func (m *Memory) NewBatch() Batch { return &memoryBatch{m: m} }

type memoryBatch struct {
	m   *Memory
	ops []pair // nil value: delete
}

func (b *memoryBatch) Set(key, value []byte) error {
	if err := (op{key: key, value: value}).check(); err != nil {
		return err
	}
	b.ops = append(b.ops, pair{slices.Clone(key), append([]byte{}, value...)})
	return nil
}

func (b *memoryBatch) Delete(key []byte) error {
	b.ops = append(b.ops, pair{slices.Clone(key), nil})
	return nil
}

func (b *memoryBatch) Discard() { b.ops = nil }

func (b *memoryBatch) Commit() error { return errors.Join(b.Apply(), b.m.Sync()) }

func (b *memoryBatch) Apply() error {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	if b.m.forgetful {
		b.m.past = append(b.m.past, b.m.tree.Copy())
		b.m.past = b.m.past[max(len(b.m.past)-pastMax, 0):]
	}
	for _, op := range b.ops {
		if op.value == nil {
			b.m.tree.Delete(op)
		} else {
			b.m.tree.Set(op)
		}
	}
	b.ops = nil
	return nil
}

// Snapshot implements Store: a copy-on-write copy of the tree.
func (m *Memory) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return memorySnapshot{m.tree.Copy()}
}

type memorySnapshot struct{ tree *btree.BTreeG[pair] }

func (s memorySnapshot) Get(key []byte, fn func([]byte) error) (bool, error) {
	p, ok := s.tree.Get(pair{key: key})
	if !ok {
		return false, nil
	}
	return true, fn(p.value)
}

func (s memorySnapshot) Scan(prefix, start []byte, fn func(k, v []byte) (bool, error)) error {
	if bytes.Compare(start, prefix) < 0 {
		start = prefix
	}
	var err error
	s.tree.Ascend(pair{key: start}, func(p pair) bool {
		if !bytes.HasPrefix(p.key, prefix) {
			return false
		}
		var more bool
		more, err = fn(p.key, p.value)
		return more && err == nil
	})
	return err
}

func (memorySnapshot) Release() {}

// Backup implements Store; the twin has no file format of its own.
func (m *Memory) Backup(io.Writer, func(Snapshot) error) error { return errNoBackup }

// Check implements Store.
func (m *Memory) Check() error { return nil }

// Close implements Store.
func (m *Memory) Close() error { return nil }
