package store

import (
	"encoding/binary"
	"io"

	"github.com/dgraph-io/badger/v4/pb"
	"google.golang.org/protobuf/encoding/protowire"
	gproto "google.golang.org/protobuf/proto"

	"kith/proto"
)

// Badger's backup format is lists of keys, each after its length (8 bytes, little
// endian): a pb.KVList. Badger's own way to write it gives all versions that it has
// not dropped yet down to a deletion, and so what was replaced or erased; this gives
// what a snapshot sees.

// listBytes is from how many bytes a list takes no further key.
const listBytes = 1 << 20

// backup writes lists.
type backup struct {
	w       io.Writer
	version uint64 // of all keys
	list    []byte // after room for its length
	kv      pb.KV
}

// writeBackup writes every key that a snapshot of what was written sees.
func writeBackup(w io.Writer, snap *badgerSnapshot) error {
	b := &backup{w: w, version: snap.ts, list: make([]byte, 8, listBytes+listBytes/8)}
	err := snap.Scan(nil, nil, func(k, v []byte) (bool, error) { return true, b.add(k, v) })
	if err != nil {
		return err
	}
	return b.flush()
}

func (b *backup) add(key, value []byte) (err error) {
	b.kv = pb.KV{Key: key, Value: value, Version: b.version}
	b.list = protowire.AppendTag(b.list, 1, protowire.BytesType)
	b.list = protowire.AppendVarint(b.list, uint64(gproto.Size(&b.kv)))
	if b.list, err = (gproto.MarshalOptions{UseCachedSize: true}).MarshalAppend(b.list, &b.kv); err != nil {
		return proto.Errorf(proto.CodeInternal, "encode a key of a backup: %w", err)
	}
	if len(b.list) < listBytes {
		return nil
	}
	return b.flush()
}

func (b *backup) flush() error {
	binary.LittleEndian.PutUint64(b.list, uint64(len(b.list)-8))
	if _, err := b.w.Write(b.list); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "back up store: %w", err)
	}
	b.list = b.list[:8]
	return nil
}
