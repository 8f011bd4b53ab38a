package segments

import (
	"encoding/binary"
	"iter"
	"strings"

	"kith/proto"
)

// A Memory's bytes are: the version byte, then as varints
//
//	program version
//	count of traits, each key and value
//	count of memberships, each (key less the one before)<<2 | has-next<<1 | in,
//	    if in: since, if has-next: next
//	count of predicates, each 6 bytes of id, a byte of what follows, and
//	    1: total   2: last   4: times   8: days   16: first   32: a value for each of times
//
// where times and days are a count, the newest, and the steps back from one to
// the next older. A since is a zig-zag difference to the since before it, a
// next to the next before it, a last or a newest to the one of these before
// it, and each first to base, a time near all these that the reader must know.
// One event often sets several to the same time, which then takes one byte.
const memoryVersion = 1

const (
	hasTotal = 1 << iota
	hasLast
	hasTimes
	hasDays
	hasFirst
	hasValues
)

// millisMax bounds stored times, so that no sum of two overflows.
const millisMax = proto.Millis(1) << 53

// Append packs m; times are differences to base.
func (m *Memory) Append(b []byte, base proto.Millis) []byte {
	b = binary.AppendUvarint(append(b, memoryVersion), uint64(m.version))
	b = binary.AppendUvarint(b, uint64(len(m.traits)))
	for i := range m.traits {
		b = proto.AppendString(b, m.traits[i].Key)
		b = m.traits[i].Value.Append(b)
	}
	b = m.appendMembers(b, base)
	b = binary.AppendUvarint(b, uint64(len(m.matches)))
	for i := range m.matches {
		b, base = m.matches[i].append(b, base)
	}
	return b
}

func (m *Memory) appendMembers(b []byte, base proto.Millis) []byte {
	b = binary.AppendUvarint(b, uint64(len(m.members)))
	before, since, next := proto.SegmentKey(0), base, base
	for i := range m.members {
		ms := &m.members[i]
		head := uint64(ms.Key-before) << 2
		before = ms.Key
		if ms.In {
			head |= 1
		}
		if ms.Next != 0 {
			head |= 2
		}
		b = binary.AppendUvarint(b, head)
		if ms.In {
			b = proto.AppendVarint(b, int64(ms.Since-since))
			since = ms.Since
		}
		if ms.Next != 0 {
			b = proto.AppendVarint(b, int64(ms.Next-next))
			next = ms.Next
		}
	}
	return b
}

// append gives the base for the next entry too.
func (s *matches) append(b []byte, base proto.Millis) ([]byte, proto.Millis) {
	id := uint64(s.id)
	b = append(b, byte(id), byte(id>>8), byte(id>>16), byte(id>>24), byte(id>>32), byte(id>>40))
	at := len(b)
	b = append(b, 0)
	if s.total > 0 {
		b[at] |= hasTotal
		b = binary.AppendUvarint(b, uint64(s.total))
	}
	if s.hasLast {
		b[at] |= hasLast
		b = proto.AppendVarint(b, int64(s.last-base))
		base = s.last
	}
	if s.hasFirst {
		b[at] |= hasFirst
		b = proto.AppendVarint(b, int64(s.first-base))
	}
	if len(s.times) > 0 {
		b[at] |= hasTimes
		b, base = appendTimes(b, s.times, base)
	}
	if len(s.values) > 0 {
		b[at] |= hasValues
		for _, v := range s.values {
			b = binary.AppendUvarint(b, v)
		}
	}
	if len(s.days) > 0 {
		b[at] |= hasDays
		b, base = appendTimes(b, s.days, base)
	}
	return b, base
}

func appendTimes(b []byte, times []proto.Millis, base proto.Millis) ([]byte, proto.Millis) {
	n := len(times)
	b = binary.AppendUvarint(b, uint64(n))
	b = proto.AppendVarint(b, int64(times[n-1]-base))
	for i := n - 1; i > 0; i-- {
		v := uint64(times[i] - times[i-1])
		for ; v >= 0x80; v >>= 7 {
			b = append(b, byte(v)|0x80)
		}
		b = append(b, byte(v))
	}
	return b, times[n-1]
}

// ReadMemory reads what Append wrote with the same base into m, whose buffers
// it uses again. It copies texts. Malformed input marks r failed and leaves m
// the zero value.
func ReadMemory(r *proto.Reader, base proto.Millis, m *Memory) {
	m.Reset()
	if v := r.Byte(); v != memoryVersion {
		r.Fail()
	}
	version := r.Uvarint()
	m.version = proto.SegmentKey(version)
	if uint64(m.version) != version || base > millisMax || base < -millisMax {
		r.Fail()
	}
	m.readTraits(r)
	m.readMembers(r, base)
	m.readMatches(r, base)
	if r.Bad() {
		m.Reset()
		return
	}
	m.findNext()
}

func (m *Memory) readTraits(r *proto.Reader) {
	for t := range readTraits(r) {
		t.Key, t.Value.Text = strings.Clone(t.Key), strings.Clone(t.Value.Text)
		m.traits = append(m.traits, t)
	}
}

// readTraits reads the traits of one identity; texts alias the bytes.
func readTraits(r *proto.Reader) iter.Seq[proto.Prop] {
	return func(yield func(proto.Prop) bool) {
		n := r.Count(2)
		if n > TraitsMax+ImportTraitsMax {
			r.Fail()
		}
		before := ""
		for i := range n {
			t := proto.Prop{Key: r.String(), Value: proto.ReadValue(r)}
			if r.Bad() || i > 0 && before >= t.Key || t.Value == proto.TextOf("") {
				r.Fail()
				return
			}
			before = t.Key
			if !yield(t) {
				return
			}
		}
	}
}

func (m *Memory) readMembers(r *proto.Reader, base proto.Millis) {
	key, since, next := uint64(0), base, base
	for range r.Count(2) {
		head := r.Uvarint()
		key += head >> 2
		ms := Membership{Key: proto.SegmentKey(key), In: head&1 != 0}
		if ms.In {
			since = readTime(r, since)
			ms.Since = since
		}
		if head&2 != 0 {
			next = readTime(r, next)
			if ms.Next = next; next == 0 {
				r.Fail()
			}
		}
		if r.Bad() || head>>2 == 0 || head&3 == 0 || uint64(ms.Key) != key {
			r.Fail()
			return
		}
		m.members = append(m.members, ms)
	}
}

// readTime reads a zig-zag difference to base.
func readTime(r *proto.Reader, base proto.Millis) proto.Millis {
	d := proto.Millis(r.Varint())
	if d > 2*millisMax || d < -2*millisMax {
		r.Fail()
		return 0
	}
	t := base + d
	if t > millisMax || t < -millisMax {
		r.Fail()
		return 0
	}
	return t
}

func (m *Memory) readMatches(r *proto.Reader, base proto.Millis) {
	before := predID(0)
	for i := range r.Count(8) {
		id, what := readMatchHead(r)
		if i > 0 && before >= id {
			r.Fail()
		}
		if r.Bad() {
			return
		}
		base, before = m.appendMatch(id).read(r, base, what, nil), id
	}
	m.measure()
}

// readMatchHead reads a predicate's number and what is there of it.
func readMatchHead(r *proto.Reader) (id predID, what byte) {
	b := r.Take(6)
	what = r.Byte()
	if r.Bad() || what == 0 || what >= 2*hasValues || what&hasValues != 0 && what&hasTimes == 0 {
		r.Fail()
		return 0, 0
	}
	return predID(binary.LittleEndian.Uint32(b)) | predID(binary.LittleEndian.Uint16(b[4:]))<<32, what
}

// read gives the base for the next entry too. Lists go into the rooms of u, or
// without into the buffers that s has.
func (s *matches) read(r *proto.Reader, base proto.Millis, what byte, u *userUnion) proto.Millis {
	if what&hasTotal != 0 {
		total := r.Uvarint()
		if s.total = uint32(total); total == 0 || total > CountMax+1 {
			r.Fail()
		}
	}
	if what&hasLast != 0 {
		base = readTime(r, base)
		s.last, s.hasLast = base, true
	}
	if what&hasFirst != 0 {
		s.first, s.hasFirst = readTime(r, base), true
	}
	if what&hasTimes != 0 {
		s.times = readTimes(s.times, r, base, CountMax+1, u)
		base = newestOf(s.times, base)
	}
	if what&hasValues != 0 {
		s.values = readValues(s.values, r, len(s.times), u)
	}
	if what&hasDays != 0 {
		s.days = readTimes(s.days, r, base, DaysMax+1, u)
		base = newestOf(s.days, base)
		for i := 1; i < len(s.days); i++ {
			if dayOf(s.days[i]) == dayOf(s.days[i-1]) {
				r.Fail()
			}
		}
	}
	return base
}

func newestOf(times []proto.Millis, otherwise proto.Millis) proto.Millis {
	if n := len(times); n > 0 {
		return times[n-1]
	}
	return otherwise
}

func readValues(list []uint64, r *proto.Reader, n int, u *userUnion) []uint64 {
	if u != nil {
		list = u.values.take(n)
	}
	list = list[:0]
	for range n {
		list = append(list, r.Uvarint())
	}
	return list
}

func readTimes(times []proto.Millis, r *proto.Reader, base proto.Millis, limit int, u *userUnion) []proto.Millis {
	n := r.Count(1)
	if n == 0 || n > limit {
		r.Fail()
		return times[:0]
	}
	if u != nil {
		times = u.room.take(n)
	} else if cap(times) < n {
		times = make([]proto.Millis, n)
	}
	times = times[:n]
	t := readTime(r, base)
	times[n-1] = t
	for i := n - 2; i >= 0; i-- {
		step := r.Uvarint()
		if step > uint64(millisMax) {
			r.Fail()
		}
		t -= proto.Millis(step)
		times[i] = t
	}
	if t < -millisMax {
		r.Fail()
	}
	return times
}
