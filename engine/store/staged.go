package store

import (
	"bytes"
	"encoding/binary"
	"errors"

	"kith/proto"
)

// Builds before the write-back staged a batch that was too large for one of
// Badger's transactions: its operations were written beside the keys they are for,
// then a marker committed them, then they were carried out and the marker went.
// Open makes good what a crash interrupted of that.
//
// A staged value is operations end to end: 0 for delete or 1 for set, key with
// its length, and for a set the value with its length.

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
		l.add(rowsOf(ops))
		l.add([]row{rowOf(bytes.Clone(k), nil)})
		return true, err
	})
	if err != nil {
		return err
	}
	err = snap.Scan([]byte{0, 's'}, nil, func(k, _ []byte) (bool, error) {
		l.add([]row{rowOf(bytes.Clone(k), nil)})
		return true, nil
	})
	if err != nil || l.rows.Len() == 0 {
		return err
	}
	return s.writeOut(l.ops(), s.durable.Load()+1, func() {})
}

// readStaged reads a batch's operations in their order.
func readStaged(snap Snapshot, id uint64) (ops []op, err error) {
	prefix := binary.BigEndian.AppendUint64([]byte{0, 's'}, id)
	err = snap.Scan(prefix, nil, func(_, v []byte) (bool, error) {
		var err error
		ops, err = unstage(append([]byte(nil), v...), ops)
		return true, err
	})
	return ops, err
}
