package engine

import (
	"context"
	"encoding/binary"

	"kith/engine/store"
	"kith/proto"
)

// This file is the records that name a lane's numbered nodes.

// encodeOrdinal is the value that names a node.
func encodeOrdinal(space proto.SpaceID, id proto.Identity) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(id)), uint32(space)), id...)
}

func decodeOrdinal(v []byte) (proto.SpaceID, proto.Identity, error) {
	space, id, err := splitOrdinal(v)
	return space, proto.Identity(id), err
}

// splitOrdinal is decodeOrdinal within v.
func splitOrdinal(v []byte) (proto.SpaceID, []byte, error) {
	if len(v) < 5 {
		return 0, nil, proto.Errorf(proto.CodeCorrupt, "an ordinal's record has %d bytes", len(v))
	}
	return proto.SpaceID(binary.BigEndian.Uint32(v)), v[4:], nil
}

// readName calls fn with whom a number of the lane names, if anybody. The
// identity is fn's until it returns.
func readName(snap store.Snapshot, lane proto.LaneID, o proto.Ordinal, fn func(proto.SpaceID, proto.Identity)) (found bool, err error) {
	return snap.Get(ordinalKey(lane, o), func(v []byte) error {
		space, id, err := decodeOrdinal(v)
		if err == nil {
			fn(space, id)
		}
		return err
	})
}

// nameOf is the identity that has a number, "" if none.
func (l *lane) nameOf(snap store.Snapshot, o proto.Ordinal) (id proto.Identity, err error) {
	_, err = readName(snap, l.id, o, func(_ proto.SpaceID, name proto.Identity) { id = proto.Identity(clone(string(name))) })
	return id, err
}

// nodeOf is the node that has a number.
func (l *lane) nodeOf(snap store.Snapshot, o proto.Ordinal) (node proto.Node, found bool, err error) {
	found, err = readName(snap, l.id, o, func(space proto.SpaceID, id proto.Identity) {
		node = proto.Node{Hash: l.node.hasher.Hash(id), Space: space}
	})
	return node, found, err
}

// scanNames calls fn with each numbered node from an ordinal on, until it
// returns false.
func (l *lane) scanNames(snap store.Snapshot, first proto.Ordinal, fn func(proto.Ordinal, proto.Node, proto.Identity) (bool, error)) error {
	return snap.Scan(laneKey(l.id, 'o'), ordinalKey(l.id, first), func(k, v []byte) (bool, error) {
		space, id, err := decodeOrdinal(v)
		if err != nil {
			return false, err
		}
		return fn(ordinalOf(k), proto.Node{Hash: l.node.hasher.Hash(id), Space: space}, id)
	})
}

// countNames adds the nodes that have a number in a snapshot to those that got one
// since the start, of whom so many are in the snapshot.
func (l *lane) countNames(ctx context.Context, snap store.Snapshot, since int64) error {
	n, prefix := int64(0), laneKey(l.id, 'o')
	err := snap.Scan(prefix, prefix, func(_, _ []byte) (bool, error) {
		n++
		return true, ctx.Err()
	})
	if err == nil {
		l.named.Add(n - since)
	}
	return err
}

// numbered is how many nodes have a number, as far as they are counted.
func (l *lane) numbered() int64 { return max(0, l.named.Load()) }
