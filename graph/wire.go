package graph

import (
	"encoding/binary"

	"kith/proto"
)

// This file is the bytes of messages: in batches, which are outbox rows and
// what one lane's log has from another, and in the lane's record.

// Bits of the mask that says which fields of a Message follow.
const (
	hasAbout = 1 << iota
	hasReason
	hasOut
	hasAll
	hasAgain
	hasCapped
	hasGen
	hasToGen
	hasAboutGen
	hasVer
	hasNumber
	hasCommand
	hasEcho
	hasTime
	hasEvidence
	hasCopy
	hasList
	hasValue
	hasBody
	hasFrom
	maskEnd
)

// mask says which fields are not zero.
func (m *Message) mask() (k uint64) {
	set := func(has bool, bit uint64) {
		if has {
			k |= bit
		}
	}
	set(m.From != Hash{}, hasFrom)
	set(m.About != Hash{}, hasAbout)
	set(m.Reason != 0, hasReason)
	set(m.Out, hasOut)
	set(m.All, hasAll)
	set(m.Again, hasAgain)
	set(m.Capped, hasCapped)
	set(m.Gen != 0, hasGen)
	set(m.ToGen != 0, hasToGen)
	set(m.AboutGen != 0, hasAboutGen)
	set(m.Ver != 0, hasVer)
	set(m.Number != 0, hasNumber)
	set(m.Command != 0, hasCommand)
	set(m.Echo != 0, hasEcho)
	onlyTime := m.Evidence == Evidence{Time: m.Time}
	set(m.Time != 0 && onlyTime, hasTime)
	set(!onlyTime, hasEvidence)
	set(m.Copy != nil, hasCopy)
	set(len(m.List) > 0, hasList)
	set(m.Value != "", hasValue)
	set(len(m.Body) > 0, hasBody)
	return k
}

// Append encodes a message: kind, mask, receiver (space, hash), and the fields
// of the mask in the order of its bits, the sender first.
func (m *Message) Append(b []byte) []byte {
	k := m.mask()
	b = append(b, byte(m.Kind))
	b = binary.AppendUvarint(b, k)
	b = binary.AppendUvarint(b, uint64(m.To.Space))
	b = append(b, m.To.Hash[:]...)
	if k&hasFrom != 0 {
		b = append(b, m.From[:]...)
	}
	if k&hasAbout != 0 {
		b = append(b, m.About[:]...)
	}
	if k&hasReason != 0 {
		b = append(b, byte(m.Reason))
	}
	for _, v := range [...]struct{ bit, value uint64 }{
		{hasGen, uint64(m.Gen)},
		{hasToGen, uint64(m.ToGen)},
		{hasAboutGen, uint64(m.AboutGen)},
		{hasVer, m.Ver},
		{hasNumber, m.Number},
		{hasCommand, m.Command},
	} {
		if k&v.bit != 0 {
			b = binary.AppendUvarint(b, v.value)
		}
	}
	if k&hasEcho != 0 {
		b = proto.AppendVarint(b, int64(m.Echo))
	}
	if k&hasTime != 0 {
		b = proto.AppendVarint(b, int64(m.Time))
	}
	if k&hasEvidence != 0 {
		b = m.Evidence.append(b)
	}
	return m.appendLong(b, k)
}

func (m *Message) appendLong(b []byte, k uint64) []byte {
	if k&hasCopy != 0 {
		at := len(b)
		b = m.Copy.Append(b)
		b = insertLength(b, at)
	}
	if k&hasList != 0 {
		b = appendRefs(b, m.List)
	}
	if k&hasValue != 0 {
		b = proto.AppendString(b, string(m.Value))
	}
	if k&hasBody != 0 {
		b = proto.AppendString(b, string(m.Body))
	}
	return b
}

// insertLength puts the length of b[at:] before it.
func insertLength(b []byte, at int) []byte {
	n := len(b) - at
	var length [binary.MaxVarintLen64]byte
	k := binary.PutUvarint(length[:], uint64(n))
	b = append(b, length[:k]...)
	copy(b[at+k:], b[at:at+n])
	copy(b[at:], length[:k])
	return b
}

// messageBytesMin is the least that an encoded message takes.
const messageBytesMin = 1 + 1 + 1 + 16

func (r *reader) message() (m Message) {
	m.Kind = Kind(r.Byte())
	k := r.Uvarint()
	m.To.Space = proto.SpaceID(r.gen())
	m.To.Hash = r.hash()
	if k >= maskEnd || kindNames[m.Kind] == "" {
		r.Fail()
		return m
	}
	if k&hasFrom != 0 {
		m.From = r.hash()
	}
	if k&hasAbout != 0 {
		m.About = r.hash()
	}
	if k&hasReason != 0 {
		m.Reason = Reason(r.Byte())
	}
	m.Out, m.All, m.Again, m.Capped = k&hasOut != 0, k&hasAll != 0, k&hasAgain != 0, k&hasCapped != 0
	for _, f := range [...]struct {
		bit uint64
		to  *uint32
	}{{hasGen, &m.Gen}, {hasToGen, &m.ToGen}, {hasAboutGen, &m.AboutGen}} {
		if k&f.bit != 0 {
			*f.to = r.gen()
		}
	}
	for _, f := range [...]struct {
		bit uint64
		to  *uint64
	}{{hasVer, &m.Ver}, {hasNumber, &m.Number}, {hasCommand, &m.Command}} {
		if k&f.bit != 0 {
			*f.to = r.Uvarint()
		}
	}
	if k&hasEcho != 0 {
		m.Echo = proto.Millis(r.Varint())
	}
	if k&hasTime != 0 {
		m.Time = proto.Millis(r.Varint())
	}
	if k&hasEvidence != 0 {
		m.Evidence = r.evidence()
	}
	r.messageLong(&m, k)
	return m
}

func (r *reader) messageLong(m *Message, k uint64) {
	if k&hasCopy != 0 {
		c, err := DecodeContribution(r.Bytes())
		if err != nil {
			r.Fail()
			return
		}
		m.Copy = c
	}
	if k&hasList != 0 {
		m.List = r.refs()
	}
	if k&hasValue != 0 {
		m.Value = Value(r.Bytes())
	}
	if k&hasBody != 0 {
		m.Body = append([]byte(nil), r.Bytes()...)
	}
	if (m.Copy != nil) != (m.Kind == Contrib) || m.Kind.Outside() != (m.From == Hash{}) || k != m.mask() {
		r.Fail()
	}
}

func appendMessages(b []byte, list []Message) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for i := range list {
		b = list[i].Append(b)
	}
	return b
}

func (r *reader) messages() (list []Message) {
	for range r.Count(messageBytesMin) {
		if r.Bad() {
			return nil
		}
		list = append(list, r.message())
	}
	return list
}

func appendOffsets(b []byte, list []proto.Offset) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, o := range list {
		b = binary.AppendUvarint(b, uint64(o))
	}
	return b
}

func (r *reader) offsets() []proto.Offset {
	list := make([]proto.Offset, r.Count(1))
	for i := range list {
		list[i] = proto.Offset(r.Uvarint())
	}
	return list
}

// Append encodes a batch: version, vector, messages.
func (x *Batch) Append(b []byte) []byte {
	b = append(b, rowVersion)
	b = appendOffsets(b, x.Vector)
	return appendMessages(b, x.Messages)
}

// DecodeBatch reads what Append wrote. Lanes is how many there are.
func DecodeBatch(b []byte, lanes int) (Batch, error) {
	r := reader{proto.NewReader(b)}
	if version := r.Byte(); version != rowVersion {
		return Batch{}, badVersion("outbox", version)
	}
	x := Batch{Vector: r.offsets(), Messages: r.messages()}
	if r.Bad() || r.Len() != 0 || len(x.Vector) != lanes || len(x.Messages) == 0 {
		return Batch{}, malformed("outbox")
	}
	return x, nil
}

// AppendRecord encodes the lane's state, except the outbox's batches, which
// are rows of their own: version, lane, position, vector, applied, then for
// each lane the outbox's base and number of batches, then carry.
func (l *Lane) AppendRecord(b []byte) []byte { return l.appendRecord(b, l.Carry, 0) }

// carriedVersion is that of a lane's record with carry in further rows, whose number is
// at its end: who does not know of them must not read it as if that were all.
const carriedVersion = rowVersion + 1

// carryRowBytes is about how much of what is carried over one row holds: of one
// superstep tens of thousands of messages may be left, more than a store's value takes.
const carryRowBytes = 256 << 10

// Rows encodes the state as AppendRecord does, but for what is carried over beyond a
// first share: that is in further rows, in order, which AddCarry reads.
func (l *Lane) Rows() (record []byte, carry [][]byte) {
	share := func(list []Message) (n int) {
		for bytes := 0; n < len(list) && (n == 0 || bytes+list[n].size() <= carryRowBytes); n++ {
			bytes += list[n].size()
		}
		return n
	}
	first := share(l.Carry)
	for list := l.Carry[first:]; len(list) > 0; {
		n := share(list)
		carry = append(carry, appendMessages([]byte{rowVersion}, list[:n]))
		list = list[n:]
	}
	return l.appendRecord(nil, l.Carry[:first], len(carry)), carry
}

// AddCarry reads the next row of what is carried over.
func (l *Lane) AddCarry(b []byte) error {
	r := reader{proto.NewReader(b)}
	if version := r.Byte(); version != rowVersion {
		return badVersion("carry", version)
	}
	list := r.messages()
	if r.Bad() || r.Len() != 0 || len(list) == 0 {
		return malformed("carry")
	}
	l.Carry = append(l.Carry, list...)
	l.awaited--
	return nil
}

// Complete is CodeCorrupt if rows of what is carried over were not read, or too many.
func (l *Lane) Complete() error {
	if l.awaited != 0 {
		return malformed("carry")
	}
	return nil
}

// appendRecord encodes the state with carry, of which there is more in so many rows.
func (l *Lane) appendRecord(b []byte, carry []Message, rows int) []byte {
	version := byte(rowVersion)
	if rows > 0 {
		version = carriedVersion
	}
	b = append(b, version, byte(l.ID))
	b = binary.AppendUvarint(b, uint64(l.Position))
	b = appendOffsets(b, l.Vector)
	for _, a := range l.Applied {
		b = binary.AppendUvarint(b, a)
	}
	for i := range l.Outbox {
		b = binary.AppendUvarint(b, l.Outbox[i].Base)
		b = binary.AppendUvarint(b, uint64(len(l.Outbox[i].Batches)))
	}
	if b = appendMessages(b, carry); rows > 0 {
		b = binary.AppendUvarint(b, uint64(rows))
	}
	return b
}

// DecodeRecord reads what AppendRecord or Rows wrote into a new lane, but for further
// rows; batch gives the outbox row of a destination and number.
func DecodeRecord(b []byte, laneOf *[proto.Partitions]proto.LaneID, batch func(to proto.LaneID, n uint64) ([]byte, error)) (*Lane, error) {
	r := reader{proto.NewReader(b)}
	version := r.Byte()
	if version != rowVersion && version != carriedVersion {
		return nil, badVersion("lane", version)
	}
	id, position, vector := proto.LaneID(r.Byte()), proto.Offset(r.Uvarint()), r.offsets()
	lanes := len(vector)
	if r.Bad() || int(id) >= lanes || lanes > proto.LanesMax {
		return nil, malformed("lane")
	}
	l := NewLane(id, lanes, laneOf)
	l.Position, l.Vector = position, vector
	for i := range lanes {
		l.Applied[i] = r.Uvarint()
	}
	counts := make([]uint64, lanes)
	for i := range lanes {
		l.Outbox[i].Base, counts[i] = r.Uvarint(), r.Uvarint()
	}
	l.Carry = r.messages()
	if version == carriedVersion {
		l.awaited = int(r.Uint32())
	}
	if r.Bad() || r.Len() != 0 || version == carriedVersion && l.awaited == 0 {
		return nil, malformed("lane")
	}
	for d := range l.Outbox {
		if err := l.Outbox[d].load(proto.LaneID(d), counts[d], lanes, batch); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// load reads n batches of the channel to a lane.
func (c *Channel) load(to proto.LaneID, n uint64, lanes int, batch func(proto.LaneID, uint64) ([]byte, error)) error {
	for range n {
		row, err := batch(to, c.Last()+1)
		if err != nil {
			return err
		}
		x, err := DecodeBatch(row, lanes)
		if err != nil {
			return err
		}
		c.Batches = append(c.Batches, x)
	}
	return nil
}

// size is about what Append writes.
func (m *Message) size() int {
	n := 96 + len(m.Value) + len(m.Body) + 24*len(m.List)
	if m.Copy != nil {
		n += 16 + len(m.Copy.Data) + 48*len(m.Copy.Edges)
	}
	return n
}
