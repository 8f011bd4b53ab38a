package identity

import (
	"encoding/binary"
	"slices"

	"kith/proto"
	"kith/segments"
)

const factsVersion = 1

// clientsMax bounds the clients of one space that a decoder believes in.
const clientsMax = 4096

// Append packs the state as a facts value.
func (s *State) Append(b []byte) []byte {
	b = append(b, factsVersion)
	b = binary.AppendUvarint(b, uint64(s.Ordinal))
	b = proto.AppendVarint(b, int64(s.Exit))
	b = binary.AppendUvarint(b, uint64(len(s.Facts)))
	for i := range s.Facts {
		b = s.Facts[i].append(b)
	}
	return b
}

func (f *Facts) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(f.Client))
	b = proto.AppendVarint(b, int64(f.Last))
	b = proto.AppendVarint(b, int64(f.Last-f.First))
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
	return proto.AppendString(b, string(h.Tail))
}

// Decode reads a facts value into s, reusing its slices; nothing aliases b.
// CodeCorrupt if b is malformed.
func (s *State) Decode(b []byte) error {
	r := proto.NewReader(b)
	if v := r.Byte(); v != factsVersion {
		return proto.Errorf(proto.CodeCorrupt, "facts have version %d, this build reads %d", v, factsVersion)
	}
	s.Ordinal = proto.Ordinal(r.Uvarint())
	s.Exit = proto.Millis(r.Varint())
	n := r.Count(8)
	if n > clientsMax {
		r.Fail()
		n = 0
	}
	s.Facts = slices.Grow(s.Facts[:0], n)[:n]
	for i := range s.Facts {
		s.Facts[i].read(&r)
		if i > 0 && s.Facts[i].Client <= s.Facts[i-1].Client {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 {
		return proto.Errorf(proto.CodeCorrupt, "facts of %d bytes are malformed", len(b))
	}
	return nil
}

func (f *Facts) read(r *proto.Reader) {
	f.Client = proto.ClientID(r.Uvarint())
	f.Last = proto.Millis(r.Varint())
	f.First = f.Last - proto.Millis(r.Varint())
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
