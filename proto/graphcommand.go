package proto

import (
	"encoding/binary"
	"math"
)

// This file is the commands of the identity graph.

// LinkCommand says that A and B are the same person.
type LinkCommand struct {
	Client     ClientID
	Space      SpaceID
	A, B       Identity // the command is for the home of A
	Received   Millis
	Confidence uint16 // per mille
	Inferred   bool
	Command    uint64 // by which the decision is told; 0: nobody waits
}

// Append packs the link.
func (x *LinkCommand) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Client))
	b = binary.AppendUvarint(b, uint64(x.Space))
	b = AppendString(b, string(x.A))
	b = AppendString(b, string(x.B))
	b = AppendVarint(b, int64(x.Received))
	b = binary.AppendUvarint(b, uint64(x.Confidence))
	b = append(b, flagByte(x.Inferred))
	return binary.AppendUvarint(b, x.Command)
}

// DecodeLink reads what Append wrote; strings alias b.
func DecodeLink(b []byte) (LinkCommand, error) {
	r := NewReader(b)
	x := LinkCommand{
		Client: ClientID(r.Uint32()), Space: SpaceID(r.Uint32()), A: Identity(r.String()), B: Identity(r.String()),
		Received: Millis(r.Varint()), Confidence: r.confidence(), Inferred: r.flag(), Command: r.Uvarint(),
	}
	if r.Bad() || r.Len() != 0 || x.A == "" || x.B == "" {
		return LinkCommand{}, Errorf(CodeCorrupt, "packed link is malformed")
	}
	return x, nil
}

// UnlinkCommand says that a client no longer holds A and B for the same
// person; a zero B means every link of A that the client vouches for.
type UnlinkCommand struct {
	Client   ClientID
	Space    SpaceID
	A, B     IdentityHash
	Received Millis
	AsOf     Millis // up to when links are to go that other lanes took, by their time; 0: no later than the home's own
}

// Append packs the removal. AsOf, where there is one, comes last.
func (x *UnlinkCommand) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Client))
	b = binary.AppendUvarint(b, uint64(x.Space))
	b = append(append(b, x.A[:]...), x.B[:]...)
	b = AppendVarint(b, int64(x.Received))
	if x.AsOf != 0 {
		b = AppendVarint(b, int64(x.AsOf))
	}
	return b
}

// DecodeUnlink reads what Append wrote.
func DecodeUnlink(b []byte) (UnlinkCommand, error) {
	r := NewReader(b)
	x := UnlinkCommand{Client: ClientID(r.Uint32()), Space: SpaceID(r.Uint32()), A: r.Hash(), B: r.Hash(), Received: Millis(r.Varint())}
	if !r.Bad() && r.Len() > 0 {
		if x.AsOf = Millis(r.Varint()); x.AsOf == 0 {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 {
		return UnlinkCommand{}, Errorf(CodeCorrupt, "packed removal of a link is malformed")
	}
	return x, nil
}

// CutKind is what a CutCommand leaves behind.
type CutKind uint8

// The kinds of cuts.
const (
	CutOptOut CutKind = 1 // a tombstone
	CutErase  CutKind = 2 // an empty identity that may come back
	CutForget CutKind = 3 // all but what Client knows of it, in Space
)

// CutCommand takes an identity out: of every space, or for CutForget a
// client's facts only. It names nobody but by keyed hash.
type CutCommand struct {
	Hash       IdentityHash
	Kind       CutKind
	Everywhere bool // its users' other identities too
	Received   Millis
	Command    uint64 // by which a repeated command is known
	Client     ClientID
	Space      SpaceID
}

// Append packs the cut.
func (x *CutCommand) Append(b []byte) []byte {
	b = append(b, x.Hash[:]...)
	b = append(b, byte(x.Kind), flagByte(x.Everywhere))
	b = AppendVarint(b, int64(x.Received))
	b = binary.AppendUvarint(b, x.Command)
	b = binary.AppendUvarint(b, uint64(x.Client))
	return binary.AppendUvarint(b, uint64(x.Space))
}

// DecodeCut reads what Append wrote.
func DecodeCut(b []byte) (CutCommand, error) {
	r := NewReader(b)
	x := CutCommand{
		Hash: r.Hash(), Kind: CutKind(r.Byte()), Everywhere: r.flag(), Received: Millis(r.Varint()), Command: r.Uvarint(),
		Client: ClientID(r.Uint32()), Space: SpaceID(r.Uint32()),
	}
	if r.Bad() || r.Len() != 0 || x.Kind < CutOptOut || x.Kind > CutForget {
		return CutCommand{}, Errorf(CodeCorrupt, "packed cut is malformed")
	}
	return x, nil
}

// OptInCommand lifts the tombstone that Gen names.
type OptInCommand struct {
	Hash     IdentityHash
	Gen      uint32
	Received Millis
	Command  uint64 // by which the decision is told
}

// Append packs the opt-in.
func (x *OptInCommand) Append(b []byte) []byte {
	b = append(b, x.Hash[:]...)
	b = binary.AppendUvarint(b, uint64(x.Gen))
	b = AppendVarint(b, int64(x.Received))
	return binary.AppendUvarint(b, x.Command)
}

// DecodeOptIn reads what Append wrote.
func DecodeOptIn(b []byte) (OptInCommand, error) {
	r := NewReader(b)
	x := OptInCommand{Hash: r.Hash(), Gen: r.Uint32(), Received: Millis(r.Varint()), Command: r.Uvarint()}
	if r.Bad() || r.Len() != 0 {
		return OptInCommand{}, Errorf(CodeCorrupt, "packed opt-in is malformed")
	}
	return x, nil
}

// GraphPack is consecutive batches of graph messages from another lane.
type GraphPack struct {
	From    LaneID
	First   uint64 // number of the first batch
	Batches [][]byte
}

// Append packs the pack.
func (x *GraphPack) Append(b []byte) []byte {
	b = append(b, byte(x.From))
	b = binary.AppendUvarint(b, x.First)
	b = binary.AppendUvarint(b, uint64(len(x.Batches)))
	for _, p := range x.Batches {
		b = AppendString(b, string(p))
	}
	return b
}

// DecodeGraphPack reads what Append wrote; batches alias b.
func DecodeGraphPack(b []byte) (GraphPack, error) {
	r := NewReader(b)
	x := GraphPack{From: LaneID(r.Byte()), First: r.Uvarint()}
	for range r.Count(1) {
		x.Batches = append(x.Batches, r.Bytes())
	}
	if r.Bad() || r.Len() != 0 || x.First == 0 || x.From >= LanesMax {
		return GraphPack{}, Errorf(CodeCorrupt, "packed graph messages are malformed")
	}
	return x, nil
}

// AddLink packs x for the home of A.
func (b *Batch) AddLink(h Hasher, x *LinkCommand) {
	b.body = x.Append(b.body[:0])
	b.add(CommandLink, h.Hash(x.A).Partition())
}

// AddUnlink packs x for the home of A.
func (b *Batch) AddUnlink(x *UnlinkCommand) {
	b.body = x.Append(b.body[:0])
	b.add(CommandUnlink, x.A.Partition())
}

// AddCut packs x for its identity's home.
func (b *Batch) AddCut(x *CutCommand) {
	b.body = x.Append(b.body[:0])
	b.add(CommandCut, x.Hash.Partition())
}

// AddOptIn packs x for its identity's home.
func (b *Batch) AddOptIn(x *OptInCommand) {
	b.body = x.Append(b.body[:0])
	b.add(CommandOptIn, x.Hash.Partition())
}

func (r *Reader) confidence() uint16 {
	v := r.Uint32()
	if v > math.MaxUint16 {
		r.Fail()
	}
	return uint16(v)
}

func flagByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
