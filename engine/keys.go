package engine

import (
	"encoding/binary"

	"kith/proto"
)

var globalKey = []byte("Gs")

// laneKey is 'L', lane, kind and what follows; the builders below append it.
func laneKey(l proto.LaneID, kind byte) []byte { return []byte{'L', byte(l), kind} }

func recordKey(l proto.LaneID) []byte { return laneKey(l, 'r') }

func ordinalKey(l proto.LaneID, o proto.Ordinal) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'o'), uint32(o))
}

// ordinalOf is the number in an ordinal's key.
func ordinalOf(k []byte) proto.Ordinal { return proto.Ordinal(binary.BigEndian.Uint32(k[3:])) }

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

// exitRowKey is a commit's row, of which there may be several for an hour.
func exitRowKey(l proto.LaneID, hour uint32, n uint64, row int) []byte {
	return binary.BigEndian.AppendUint32(exitKey(l, hour, n), uint32(row))
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

// swapKey is the mark of a definition that waited before it answered.
func swapKey(l proto.LaneID, k proto.SegmentKey) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'w'), uint32(k))
}

func clientErasureKey(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'k'), uint32(c))
}

func retentionKey(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'p'), uint32(c))
}

func feedKey(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'f'), uint32(c))
}

func feedLostKey(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'l'), uint32(c))
}

// feedRowsPrefix is of what a client's feed was not told yet.
func feedRowsPrefix(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 't'), uint32(c))
}

// feedRowKey is a row of them, named for the first move in it.
func feedRowKey(l proto.LaneID, c proto.ClientID, at feedPlace) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(feedRowsPrefix(l, c), uint64(at.offset)), at.number)
}

func deadKey(l proto.LaneID, off proto.Offset, index int) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(laneKey(l, 'q'), uint64(off)), uint32(index))
}

// outboxKey is a batch of graph messages to another lane.
func outboxKey(l, to proto.LaneID, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append(laneKey(l, 'm'), byte(to)), number)
}

func sizesPrefix(l proto.LaneID, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(laneKey(l, 'z'), uint32(c))
}

func sizesKey(l proto.LaneID, c proto.ClientID, d proto.Day) []byte {
	return binary.BigEndian.AppendUint32(sizesPrefix(l, c), uint32(d))
}

// aggregateKey is a day's totals of a client.
func aggregateKey(l proto.LaneID, d proto.Day, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(laneKey(l, 'y'), uint32(d)), uint32(c))
}

// aggregateOf reads what aggregateKey made.
func aggregateOf(k []byte) (clientDay, error) {
	if len(k) != 11 {
		return clientDay{}, proto.Errorf(proto.CodeCorrupt, "the key of a day's totals has %d bytes", len(k))
	}
	return clientDay{day: proto.Day(binary.BigEndian.Uint32(k[3:])), client: proto.ClientID(binary.BigEndian.Uint32(k[7:]))}, nil
}

// tallyKey is what a commit adds to totals.
func tallyKey(l proto.LaneID, number uint64) []byte {
	return binary.BigEndian.AppendUint64(laneKey(l, 'a'), number)
}

func sinceKey(l proto.LaneID) []byte { return laneKey(l, 'c') }

func graphKey(l proto.LaneID) []byte { return laneKey(l, 'e') }

// carryKey is a row of the messages that the graph carries over and its own row has no
// room for.
func carryKey(l proto.LaneID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(graphKey(l), n)
}

func spacesKey(l proto.LaneID) []byte { return laneKey(l, 's') }

// noticeKey is an opt-out that is still to be told to the ledger and the feed.
func noticeKey(l proto.LaneID, at proto.Offset, number uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(laneKey(l, 'u'), uint64(at)), number)
}

func optOutKey(h proto.IdentityHash) []byte {
	return append(append(make([]byte, 0, 18), 'T', byte(h.Partition())), h[:]...)
}

// networkPrefix is of the nodes that a client saw on a network.
func networkPrefix(c proto.ClientID, k proto.NetworkKey) []byte {
	return binary.BigEndian.AppendUint64(clientNetworksPrefix(c), uint64(k))
}

// clientNetworksPrefix is that of all networks of a client.
func clientNetworksPrefix(c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 33), 'H'), uint32(c))
}

func networkKey(c proto.ClientID, k proto.NetworkKey, n proto.Node) []byte {
	b := binary.BigEndian.AppendUint32(networkPrefix(c, k), uint32(n.Space))
	return append(b, n.Hash[:]...)
}

// networkKeyOf reads what networkKey made.
func networkKeyOf(k []byte) (c proto.ClientID, key proto.NetworkKey, n proto.Node, err error) {
	if len(k) != 33 {
		return 0, 0, n, proto.Errorf(proto.CodeCorrupt, "the key of a network's row has %d bytes", len(k))
	}
	n.Space = proto.SpaceID(binary.BigEndian.Uint32(k[13:]))
	n.Hash = proto.IdentityHash(k[17:])
	return proto.ClientID(binary.BigEndian.Uint32(k[1:])), proto.NetworkKey(binary.BigEndian.Uint64(k[5:])), n, nil
}

// noGeneration stands in the keys of what is kept of a node over all its
// generations.
const noGeneration = 0

// nodeKey is the prefix of everything that is held of a node's generation. Two
// bytes of it are enough: what is older than the present one is gone.
func nodeKey(n proto.Node, gen uint32) []byte { return appendNodeKey(make([]byte, 0, 48), n, gen) }

// nodesPrefix is that of an identity's nodes in all spaces and generations.
func nodesPrefix(h proto.IdentityHash) []byte {
	return append(append(make([]byte, 0, 18), 'N', byte(h.Partition())), h[:]...)
}

func appendNodeKey(b []byte, n proto.Node, gen uint32) []byte {
	b = append(b, 'N', byte(n.Hash.Partition()))
	b = append(b, n.Hash[:]...)
	b = binary.BigEndian.AppendUint16(b, generationOf(gen))
	return binary.BigEndian.AppendUint32(b, uint32(n.Space))
}

// generationOf is a generation's number in keys, which is never noGeneration.
func generationOf(gen uint32) uint16 {
	if gen == noGeneration {
		return noGeneration
	}
	return uint16((gen-1)%0xffff + 1)
}

// nodePrefixLen is the length of nodeKey.
const nodePrefixLen = 2 + 16 + 2 + 4

func stateKey(n proto.Node, gen uint32) []byte { return append(nodeKey(n, gen), 'f') }
func darkKey(n proto.Node) []byte              { return append(nodeKey(n, noGeneration), 'd') }

func copyKey(n proto.Node, member proto.IdentityHash) []byte {
	return append(append(nodeKey(n, noGeneration), 'c'), member[:]...)
}

func blockPrefix(n proto.Node, gen uint32, c proto.ClientID) []byte {
	return binary.BigEndian.AppendUint32(append(nodeKey(n, gen), 'h'), uint32(c))
}

func blockKey(n proto.Node, gen uint32, c proto.ClientID, number uint32) []byte {
	return binary.BigEndian.AppendUint32(blockPrefix(n, gen, c), number)
}

// parsedKey is a key of a node taken apart.
type parsedKey struct {
	node proto.Node
	gen  uint16
	kind byte
	rest []byte
}

// parseNodeKey reads what the builders above made.
func parseNodeKey(k []byte) (p parsedKey, ok bool) {
	if len(k) <= nodePrefixLen || k[0] != 'N' {
		return p, false
	}
	copy(p.node.Hash[:], k[2:18])
	p.gen = binary.BigEndian.Uint16(k[18:20])
	p.node.Space = proto.SpaceID(binary.BigEndian.Uint32(k[20:24]))
	p.kind, p.rest = k[nodePrefixLen], k[nodePrefixLen+1:]
	return p, true
}
