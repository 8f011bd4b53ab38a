package identity

import (
	"encoding/binary"
	"slices"

	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// stateVersion is what is written. 1 had no flags, 2 each time of a user's membership
// and neither when the oldest event was nor from when a node is bare.
const stateVersion = 3

// clientsMax bounds the clients of one space that a decoder believes in.
const clientsMax = 4096

// The flags of a packed state.
const (
	flagNamed = 1 << iota
	flagDevice
	flagGraph
	flagFollows
	flagNetworks
	flagEnds
	flagBare
	flagsEnd
)

// Append packs the state, without the copies that a root has of its members.
func (s *State) Append(b []byte) []byte {
	b = append(b, stateVersion, s.flags())
	b = binary.AppendUvarint(b, uint64(s.Ordinal))
	b = proto.AppendVarint(b, int64(s.Exit))
	b = binary.AppendUvarint(b, uint64(len(s.Facts)))
	for i := range s.Facts {
		b = s.Facts[i].append(b)
	}
	if s.Follows {
		shown := shownMembers(s.Graph)
		b = binary.AppendUvarint(b, uint64(len(s.User)))
		for i := range s.User {
			b = binary.AppendUvarint(b, uint64(s.User[i].Client))
			b = appendFollowed(b, &shown, &s.User[i])
		}
	}
	if s.hasNetworks() {
		b = s.appendNetworks(b)
	}
	if s.End != 0 {
		b = proto.AppendVarint(b, int64(s.End))
	}
	if s.Bare != 0 {
		b = proto.AppendVarint(b, int64(s.Bare))
	}
	if s.Graph != nil {
		b = s.Graph.Append(b)
	}
	return b
}

func (s *State) flags() (k byte) {
	for i, v := range [...]bool{s.Named, s.Device, s.Graph != nil, s.Follows, s.hasNetworks(), s.End != 0, s.Bare != 0} {
		if v {
			k |= 1 << i
		}
	}
	return k
}

func (f *Facts) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(f.Client))
	b = proto.AppendVarint(b, int64(f.Last))
	b = proto.AppendVarint(b, int64(f.Last-f.First))
	b = proto.AppendVarint(b, int64(f.First-f.oldest))
	b = binary.AppendUvarint(b, uint64(len(f.recent)))
	for _, r := range f.recent {
		b = append(b, byte(r.hash), byte(r.hash>>8), byte(r.hash>>16), byte(r.hash>>24), byte(r.hash>>32), byte(r.hash>>40))
		b = proto.AppendVarint(b, int64(f.Last-r.at))
	}
	b = f.History.append(b, f.Last)
	return f.Memory.Append(b, f.Last)
}

func (h *History) append(b []byte, last proto.Millis) []byte {
	var flags byte
	if h.Truncated {
		flags = 1
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(h.First))
	b = binary.AppendUvarint(b, uint64(h.Next))
	b = binary.AppendUvarint(b, uint64(h.TailEvents))
	if h.TailEvents == 0 {
		return b
	}
	b = proto.AppendVarint(b, int64(last-h.base))
	b = proto.AppendVarint(b, int64(last-h.last))
	b = binary.AppendUvarint(b, uint64(len(h.Tail)))
	return append(b, h.Tail...)
}

// Decode reads what Append wrote into s, reusing its slices; nothing aliases
// b. CodeCorrupt if b is malformed. members are those whose copies the caller
// still has to add to the Graph.
func (s *State) Decode(b []byte) (members []graph.Hash, err error) {
	r := proto.NewReader(b)
	flags, version := byte(flagNamed), r.Byte()
	switch version {
	case 1:
	case 2, stateVersion:
		flags = r.Byte()
	default:
		return nil, proto.Errorf(proto.CodeCorrupt, "a node has version %d, this build reads %d: install the kith that wrote it", version, stateVersion)
	}
	s.Named, s.Device, s.Follows = flags&flagNamed != 0, flags&flagDevice != 0, flags&flagFollows != 0
	s.Graph, s.User, s.End, s.Bare = nil, nil, 0, 0
	s.Ordinal = proto.Ordinal(r.Uvarint())
	s.Exit = proto.Millis(r.Varint())
	s.readFacts(&r, version)
	if s.Follows {
		read := readFollowed
		if version == 2 {
			read = readSince
		}
		s.User = readViews(&r, read)
	}
	if flags&flagNetworks != 0 {
		s.readNetworks(&r)
	}
	if flags&flagEnds != 0 {
		s.End = proto.Millis(r.Varint())
	}
	if flags&flagBare != 0 {
		s.Bare = proto.Millis(r.Varint())
	}
	if flags&flagGraph != 0 && !r.Bad() {
		s.Graph = &graph.State{}
		if members, err = s.Graph.Decode(r.Take(r.Len())); err != nil {
			return nil, err
		}
	}
	if r.Bad() || r.Len() != 0 || !s.asShown() || flags >= flagsEnd || s.Follows && s.Graph == nil || flags&flagNetworks != 0 != s.hasNetworks() || flags&flagEnds != 0 != (s.End != 0) || flags&flagBare != 0 != (s.Bare != 0) {
		return nil, proto.Errorf(proto.CodeCorrupt, "a node of %d bytes is malformed", len(b))
	}
	return members, nil
}

func (s *State) readFacts(r *proto.Reader, version byte) {
	n := r.Count(8)
	if n > clientsMax {
		r.Fail()
		n = 0
	}
	s.Facts = slices.Grow(s.Facts[:0], n)[:n]
	for i := range s.Facts {
		s.Facts[i].read(r, version)
		if i > 0 && s.Facts[i].Client <= s.Facts[i-1].Client {
			r.Fail()
		}
	}
}

func (f *Facts) read(r *proto.Reader, version byte) {
	f.Client = proto.ClientID(r.Uvarint())
	f.Last = proto.Millis(r.Varint())
	f.First = f.Last - proto.Millis(r.Varint())
	if f.oldest = f.First; version >= 3 {
		f.oldest -= proto.Millis(r.Varint())
	}
	n := r.Count(7)
	if n > RecentMax {
		r.Fail()
		n = 0
	}
	f.recent = f.recent[:0]
	for range n {
		h := r.Take(6)
		if r.Bad() {
			break
		}
		id := uint64(h[0]) | uint64(h[1])<<8 | uint64(h[2])<<16 | uint64(h[3])<<24 | uint64(h[4])<<32 | uint64(h[5])<<40
		f.recent = append(f.recent, recentID{id, f.Last - proto.Millis(r.Varint())})
	}
	f.History.read(r, f.Last)
	segments.ReadMemory(r, f.Last, &f.Memory)
	f.Networks = f.Networks[:0]
}

func (h *History) read(r *proto.Reader, last proto.Millis) {
	flags := r.Byte()
	if flags > 1 {
		r.Fail()
	}
	h.Truncated = flags == 1
	h.First, h.Next = uint32(r.Uvarint()), uint32(r.Uvarint())
	h.TailEvents = int(r.Uvarint())
	h.Tail = h.Tail[:0]
	if h.Next < h.First {
		r.Fail()
	}
	if h.TailEvents == 0 {
		return
	}
	h.base = last - proto.Millis(r.Varint())
	h.last = last - proto.Millis(r.Varint())
	h.Tail = append(h.Tail, r.Bytes()...)
	tail := proto.NewReader(h.Tail)
	if h.TailEvents < 0 || h.TailEvents > len(h.Tail) || checkRecords(&tail, h.TailEvents, "history tail") != nil {
		r.Fail()
	}
}

// MayFollow reports, without reading it, whether a packed state may be of a node
// that is of a user of several.
func MayFollow(b []byte) bool { return len(b) > 1 && b[0] >= 2 && b[1]&flagFollows != 0 }
