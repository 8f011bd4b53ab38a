package engine

import (
	"encoding/binary"

	"kith/proto"
)

// generation is that of every identity until its first opt-out.
const generation = 1

var globalKey = []byte("Gs")

// laneKey is 'L', lane, kind and what follows; the builders below append it.
func laneKey(l proto.LaneID, kind byte) []byte { return []byte{'L', byte(l), kind} }

func recordKey(l proto.LaneID) []byte { return laneKey(l, 'r') }

func ordinalKey(l proto.LaneID, o proto.Ordinal) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'o'), uint32(o))
}

func journalKey(l proto.LaneID, n uint64, part uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(laneKey(l, 'j'), n), part)
}

func chunkKey(l proto.LaneID, c proto.ClientID, k proto.SegmentKey, high uint16) []byte {
	b := binary.BigEndian.AppendUint32(laneKey(l, 'b'), uint32(c))
	b = binary.BigEndian.AppendUint32(b, uint32(k))
	return binary.BigEndian.AppendUint16(b, high)
}

func exitKey(l proto.LaneID, hour uint32, n uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(laneKey(l, 'x'), hour), n)
}

func defineKey(l proto.LaneID, c proto.ClientID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(laneKey(l, 'd'), uint32(c)), seq)
}

func versionKey(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'v'), uint32(c))
}

func fillKey(l proto.LaneID, k proto.SegmentKey) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'g'), uint32(k))
}

func deadKey(l proto.LaneID, off proto.Offset, index int) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(laneKey(l, 'q'), uint64(off)), uint32(index))
}

// nodeKey is the prefix of everything that is held of a node.
func nodeKey(n proto.Node) []byte { return appendNodeKey(make([]byte, 0, 36), n) }

func appendNodeKey(b []byte, n proto.Node) []byte {
	b = append(b, 'N', byte(n.Hash.Partition()))
	b = append(b, n.Hash[:]...)
	b = binary.BigEndian.AppendUint16(b, generation)
	return binary.BigEndian.AppendUint32(b, uint32(n.Space))
}

// nodePrefixLen is the length of nodeKey.
const nodePrefixLen = 2 + 16 + 2 + 4

func factsKey(n proto.Node) []byte { return append(nodeKey(n), 'f') }

func blockPrefix(n proto.Node, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(append(nodeKey(n), 'h'), uint32(c))
}

func blockKey(n proto.Node, c proto.ClientID, number uint32) []byte {
	return binary.BigEndian.AppendUint32(blockPrefix(n, c), number)
}

// parseNodeKey reads the node of a facts or block key, and what follows it.
func parseNodeKey(k []byte) (n proto.Node, rest []byte, ok bool) {
	if len(k) <= nodePrefixLen || k[0] != 'N' {
		return n, nil, false
	}
	copy(n.Hash[:], k[2:18])
	n.Space = proto.SpaceID(binary.BigEndian.Uint32(k[20:24]))
	return n, k[nodePrefixLen:], true
}
