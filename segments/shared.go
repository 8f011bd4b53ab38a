package segments

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"kith/proto"
)

// What a Memory gives to its user is: the version byte, then as varints the
// program version and, each as in a Memory's bytes,
//
//	count of traits that shared rules look at, each key and value
//	count of predicates that shared rules use, each with what these need of it
//
// but with 0 as the base of the first time, so that who reads it need not know
// anything else. Shared are the rules of scope user and those that they reach
// by member(). An identity of which nothing is shared still gives the counts of
// 0: that the client holds facts of it is one. It is bounded as a Memory is.
const sharedVersion = 1

// AppendShared packs what m, which is up to date with p, gives to its user.
// Equal memories give equal bytes.
func (p *Program) AppendShared(b []byte, m *Memory) []byte {
	b = binary.AppendUvarint(append(b, sharedVersion), uint64(m.version))
	b = p.appendSharedTraits(b, m)
	count := 0
	for i := range m.matches {
		if v := m.matches[i].view(p.sharedNeed(m.matches[i].id)); !v.empty() {
			count++
		}
	}
	b = binary.AppendUvarint(b, uint64(count))
	base := proto.Millis(0)
	for i := range m.matches {
		if v := m.matches[i].view(p.sharedNeed(m.matches[i].id)); !v.empty() {
			b, base = v.append(b, base)
		}
	}
	return b
}

func (p *Program) appendSharedTraits(b []byte, m *Memory) []byte {
	count := 0
	for i := range m.traits {
		if p.sharedTrait(m.traits[i].Key) {
			count++
		}
	}
	b = binary.AppendUvarint(b, uint64(count))
	for i := range m.traits {
		if p.sharedTrait(m.traits[i].Key) {
			b = proto.AppendString(b, m.traits[i].Key)
			b = m.traits[i].Value.Append(b)
		}
	}
	return b
}

// SharedVersion is the version of the program that what AppendShared gave was
// up to date with; 0 if b is malformed.
func SharedVersion(b string) proto.SegmentKey {
	r := proto.NewReader(unsafe.Slice(unsafe.StringData(b), len(b)))
	r.Byte()
	v := r.Uvarint()
	if r.Bad() {
		return 0
	}
	return proto.SegmentKey(v)
}

var noNeed need

// sharedNeed is what shared rules need of a predicate.
func (p *Program) sharedNeed(id predID) *need {
	if q := p.preds[id]; q != nil {
		return &q.shared
	}
	return &noNeed
}

func (p *Program) sharedTrait(key string) bool {
	w := p.traits[key]
	return w != nil && w.shared > 0
}

// UserScope reports whether key is in force and of scope user.
func (p *Program) UserScope(key proto.SegmentKey) bool {
	s := p.byKey[key]
	return s != nil && s.def.Scope == ScopeUser
}

// CheckShared says whether Union would read b: CodeCorrupt if not.
func CheckShared(b string) error { return new(userUnion).read(&Program{}, b) }

// view is what serves n; its lists are those of s.
func (s *matches) view(n *need) matches {
	v := matches{id: s.id, total: min(s.total, n.total), times: tail(s.times, n.times), values: tail(s.values, n.times), days: tail(s.days, n.days)}
	if n.last {
		v.last, v.hasLast = s.last, s.hasLast
	}
	if n.first {
		v.first, v.hasFirst = s.first, s.hasFirst
	}
	return v
}

func tail[T any](times []T, n int) []T { return times[max(0, len(times)-n):] }

// extent tells two states of matches apart, but for a time that is in the
// place of another.
type extent struct {
	total       uint32
	hasLast     bool
	last        proto.Millis
	hasFirst    bool
	first       proto.Millis
	times, days int
}

// extent is that of what serves n.
func (s *matches) extent(n *need) extent {
	x := extent{total: min(s.total, n.total), times: min(len(s.times), n.times), days: min(len(s.days), n.days)}
	if n.last {
		x.last, x.hasLast = s.last, s.hasLast
	}
	if n.first {
		x.first, x.hasFirst = s.first, s.hasFirst
	}
	return x
}

// among reports whether t is among the times or days of what serves n.
func (s *matches) among(n *need, t proto.Millis) bool {
	_, time := slices.BinarySearch(tail(s.times, n.times), t)
	_, day := slices.BinarySearch(tail(s.days, n.days), t)
	return time || day
}

// userUnion is what the identities of a user give, taken together. It is scratch
// space of an Evaluator.
type userUnion struct {
	memory Memory // its lists are in room, and its texts the caller's
	parts  []part
	room   room[proto.Millis]
	values room[uint64]
	seen   map[uint64]struct{} // of one series
	delta  Delta               // of no interest
}

// part is what one identity gives of a predicate.
type part struct {
	track *tracked
	matches
}

// room is where many lists are kept in few pieces.
type room[T any] []T

// take is a list of n, of any value.
func (a *room[T]) take(n int) []T {
	from := len(*a)
	if from+n > cap(*a) { // lists that were taken stay where they are
		*a, from = make(room[T], 0, max(2*cap(*a), n)), 0
	}
	*a = (*a)[:from+n]
	return (*a)[from : from+n : from+n]
}

// release lets go of the caller's texts.
func (u *userUnion) release() {
	clear(u.memory.traits)
	u.memory.Reset()
	u.parts, u.room, u.values = u.parts[:0], u.room[:0], u.values[:0]
}

// read adds one identity's part, without what p does not share.
func (u *userUnion) read(p *Program, b string) error {
	r := proto.NewReader(unsafe.Slice(unsafe.StringData(b), len(b)))
	if v := r.Byte(); v != sharedVersion {
		return proto.Errorf(proto.CodeCorrupt, "what an identity gives to its user has version %d: this kith knows %d, install the one that wrote it", v, sharedVersion)
	}
	version := r.Uvarint()
	if uint64(proto.SegmentKey(version)) != version {
		r.Fail()
	}
	for t := range readTraits(&r) {
		if p.sharedTrait(t.Key) {
			u.memory.traits = append(u.memory.traits, t)
		}
	}
	u.readParts(p, &r)
	if r.Bad() || r.Len() != 0 {
		return proto.Errorf(proto.CodeCorrupt, "what an identity gives to its user, of %d bytes, is malformed", len(b))
	}
	return nil
}

func (u *userUnion) readParts(p *Program, r *proto.Reader) {
	base, before := proto.Millis(0), predID(0)
	for i := range r.Count(8) {
		id, what := readMatchHead(r)
		if i > 0 && before >= id {
			r.Fail()
		}
		if r.Bad() {
			return
		}
		x := part{track: p.preds[id], matches: matches{id: id}}
		base, before = x.read(r, base, what, u), id
		if x.track != nil && x.track.series != noSeries && len(x.values) != len(x.times) {
			r.Fail()
			return
		}
		if x.track != nil && x.track.gives != givesNothing {
			u.parts = append(u.parts, x)
		}
	}
}

// newest is the newest n of two ascending lists; of days, the newest of each.
func (u *userUnion) newest(a, b []proto.Millis, n int, days bool) []proto.Millis {
	if len(a) == 0 {
		return tail(b, n)
	} else if len(b) == 0 {
		return tail(a, n)
	}
	n = min(n, len(a)+len(b))
	out, i := u.room.take(n), n
	for i > 0 && len(a)+len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[len(b)-1] > a[len(a)-1] {
			from = &b
		}
		t := (*from)[len(*from)-1]
		*from = (*from)[:len(*from)-1]
		if !days || i == n || dayOf(t) != dayOf(out[i]) {
			i--
			out[i] = t
		}
	}
	return out[i:]
}

// join makes s what it and o are together, as far as n needs it.
func (u *userUnion) join(s, o *matches, q *predicate, n *need) {
	if q.series != noSeries {
		u.joinSeries(s, o, q, n)
		return
	}
	s.total = min(s.total+o.total, n.total)
	if n.last && o.hasLast && (!s.hasLast || o.last > s.last) {
		s.last, s.hasLast = o.last, true
	}
	if n.first && o.hasFirst && (!s.hasFirst || o.first < s.first) {
		s.first, s.hasFirst = o.first, true
	}
	s.times = u.newest(s.times, o.times, n.times, false)
	s.days = u.newest(s.days, o.days, n.days, true)
}
