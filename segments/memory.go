package segments

import (
	"cmp"
	"slices"
	"strings"

	"kith/proto"
)

// Memory is what evaluation remembers of one identity for one client. The zero
// value is an identity of which nothing is known. It belongs to whoever holds
// it; an Evaluator changes it.
type Memory struct {
	version proto.SegmentKey
	next    proto.Millis // least Next of members
	traits  []proto.Prop // by key; of a user's union several of one key, by value
	members []Membership // by key
	matches []matches    // by id
	kept    int          // what matches take, in times
}

// Membership is one segment's state. Next is when time alone changes In, 0 for
// never; an entry with In false is there only because Next is not 0.
type Membership struct {
	Key         proto.SegmentKey
	In          bool
	Since, Next proto.Millis // Since: when In last became true
}

// matches is what is kept of the events that satisfied one predicate.
type matches struct {
	id       predID
	total    uint32
	hasLast  bool
	last     proto.Millis
	first    proto.Millis
	hasFirst bool
	times    []proto.Millis // ascending
	values   []uint64       // of a series, beside times
	days     []proto.Millis // ascending, each on another UTC day, the newest of its day
}

// Version is that of the program by which m was last brought up to date.
func (m *Memory) Version() proto.SegmentKey { return m.version }

// Memberships lists the segments that m is in or will enter by time, by key.
// It is m's own.
func (m *Memory) Memberships() []Membership { return m.members }

// NextChange is when time alone first changes a membership, 0 for never.
func (m *Memory) NextChange() proto.Millis { return m.next }

// Traits lists the traits by key. It is m's own.
func (m *Memory) Traits() []proto.Prop { return m.traits }

// Reset makes m the zero value and keeps its buffers.
func (m *Memory) Reset() {
	m.version, m.next, m.kept = 0, 0, 0
	m.traits, m.members, m.matches = m.traits[:0], m.members[:0], m.matches[:0]
}

func (m *Memory) find(key proto.SegmentKey) (int, bool) {
	lo, hi := 0, len(m.members)
	for lo < hi {
		mid := (lo + hi) >> 1
		if m.members[mid].Key < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(m.members) && m.members[lo].Key == key
}

func (m *Memory) findMatch(id predID) (int, bool) {
	lo, hi := 0, len(m.matches)
	for lo < hi {
		mid := (lo + hi) >> 1
		if m.matches[mid].id < id {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(m.matches) && m.matches[lo].id == id
}

// match is what is kept for a predicate, nil if nothing.
func (m *Memory) match(id predID) *matches {
	if i, found := m.findMatch(id); found {
		return &m.matches[i]
	}
	return nil
}

func (m *Memory) findTrait(key string) (int, bool) {
	return slices.BinarySearchFunc(m.traits, key, func(p proto.Prop, key string) int { return cmp.Compare(p.Key, key) })
}

// valuesOf lists the values of one trait.
func (m *Memory) valuesOf(key string) []proto.Prop {
	i, found := m.findTrait(key)
	if !found {
		return nil
	}
	n := 1
	for i+n < len(m.traits) && m.traits[i+n].Key == key {
		n++
	}
	return m.traits[i : i+n]
}

// HasTrait reports whether the identity has a trait of the key.
func (m *Memory) HasTrait(key string) bool {
	_, found := m.findTrait(key)
	return found
}

// full reports whether no other trait of the kind of key can be taken: those of
// imports and those that were declared do not take each other's room.
func (m *Memory) full(key string) bool {
	reserved, most := proto.ReservedTrait(key), TraitsMax
	if reserved {
		most = ImportTraitsMax
	}
	if len(m.traits) < most {
		return false
	}
	n := 0
	for i := range m.traits {
		if proto.ReservedTrait(m.traits[i].Key) == reserved {
			n++
		}
	}
	return n >= most
}

// setTrait reports whether anything changed. Text "" removes; a trait beyond
// TraitsMax, or ImportTraitsMax, is not taken.
func (m *Memory) setTrait(t proto.Prop) bool {
	i, found := m.findTrait(t.Key)
	remove := t.Value == proto.TextOf("")
	switch {
	case remove && !found, found && m.traits[i].Value.Same(t.Value), !found && m.full(t.Key):
		return false
	case remove:
		m.traits = slices.Delete(m.traits, i, i+1)
		return true
	}
	v := t.Value
	v.Text = strings.Clone(v.Text)
	if found {
		m.traits[i].Value = v
	} else {
		m.traits = slices.Insert(m.traits, i, proto.Prop{Key: strings.Clone(t.Key), Value: v})
	}
	return true
}

// noted says what a match did.
type noted struct {
	changed bool // what is kept
	given   bool // what is given to the user
	dropped bool // there was no room for it, or an older one went that the rules ask for
}

// observe adds a match at t.
func (m *Memory) observe(q *tracked, e *proto.EventBody, t, now proto.Millis, sc *scratch) (n noted) {
	v, counts := q.value(e, sc)
	if !counts {
		return noted{}
	}
	i, need, dropped := m.open(q, 1)
	if n.dropped = dropped; need == nil {
		return n
	}
	s := &m.matches[i]
	times, days, kept := len(s.times), len(s.days), s.kept()
	var before extent
	if q.gives == givesPart {
		before = s.extent(&q.shared)
	}
	n.changed = s.add(q.predicate, need, t, now, v)
	switch q.gives {
	case givesAll:
		n.given = n.changed || len(s.times) != times || len(s.days) != days
	case givesPart:
		n.given = s.extent(&q.shared) != before || n.changed && (q.series != noSeries || s.among(&q.shared, t))
	}
	m.kept += s.kept() - kept
	if !n.changed && s.empty() { // late, and all else expired
		m.removeMatch(i)
		m.kept -= entryCost
	}
	return n
}

// open finds or makes a predicate's entry, which may grow by so much: need is what
// may be kept in it, nil if there is no room for anything. dropped: that is less than
// the rules ask for.
func (m *Memory) open(q *tracked, more int) (i int, need *need, dropped bool) {
	i, found := m.findMatch(q.id)
	need = &q.need
	if m.kept+more > MemoryMax {
		if !found || q.series == pairs {
			return i, nil, true
		}
		need, dropped = m.matches[i].within(need)
	}
	if !found {
		m.insertMatch(i, q.id)
		m.kept += entryCost
	}
	return i, need, dropped
}

// What matches take, in times of six bytes: an entry for its predicate's number,
// a total, the newest and the oldest; and a value beside a time.
const (
	entryCost = 4
	valueCost = 2
	matchCost = entryCost + 1 + valueCost + 1 // one match adds no more
)

// within is a need that s does not grow by, and whether that is less than need.
func (s *matches) within(need *need) (*need, bool) {
	least := *need
	least.times, least.days = min(need.times, len(s.times)), min(need.days, len(s.days))
	return &least, least != *need
}

// measure counts what all matches take.
func (m *Memory) measure() {
	m.kept = 0
	for i := range m.matches {
		m.kept += m.matches[i].kept()
	}
}

func (s *matches) kept() int {
	return entryCost + len(s.times) + valueCost*len(s.values) + len(s.days)
}

// insertMatch opens an entry, with the buffers of one that was given up.
func (m *Memory) insertMatch(i int, id predID) {
	if n := len(m.matches); n < cap(m.matches) {
		m.matches = m.matches[:n+1]
	} else {
		m.matches = append(m.matches, matches{})
	}
	spare := m.matches[len(m.matches)-1]
	copy(m.matches[i+1:], m.matches[i:])
	m.matches[i] = matches{id: id, times: spare.times[:0], values: spare.values[:0], days: spare.days[:0]}
}

// appendMatch opens an entry behind all others.
func (m *Memory) appendMatch(id predID) *matches {
	n := len(m.matches)
	if n == cap(m.matches) {
		m.matches = append(m.matches, matches{id: id})
		return &m.matches[n]
	}
	m.matches = m.matches[:n+1]
	s := &m.matches[n]
	*s = matches{id: id, times: s.times[:0], values: s.values[:0], days: s.days[:0]}
	return s
}

// removeMatch closes an entry and keeps its buffers behind the others.
func (m *Memory) removeMatch(i int) {
	n := len(m.matches)
	spare := m.matches[i]
	copy(m.matches[i:], m.matches[i+1:])
	m.matches[n-1] = spare
	m.matches = m.matches[:n-1]
}

func (s *matches) empty() bool {
	return s.total == 0 && !s.hasLast && !s.hasFirst && len(s.times) == 0 && len(s.days) == 0
}

// add keeps of a match at t what need asks for, wherever t lies among those
// that came before.
func (s *matches) add(q *predicate, n *need, t, now proto.Millis, v uint64) bool {
	if q.series != noSeries {
		return s.addValue(q, n, t, now, v)
	}
	s.values = s.values[:0] // there are none, unless a file was tampered with
	changed := false
	if s.total < n.total {
		s.total++
		changed = true
	}
	if n.times > 0 {
		s.times = expire(s.times, now-n.timesWindow)
		if t > now-n.timesWindow {
			changed = s.addTime(n.times, t) || changed
		}
	}
	if n.days > 0 {
		s.days = expire(s.days, now-n.daysWindow)
		if t > now-n.daysWindow {
			changed = s.addDay(n.days, t) || changed
		}
	}
	if n.last && (!s.hasLast || t > s.last) {
		s.last, s.hasLast, changed = t, true, true
	}
	if n.first && (!s.hasFirst || t < s.first) {
		s.first, s.hasFirst, changed = t, true, true
	}
	return changed
}

// expire drops what is not after edge.
func expire(times []proto.Millis, edge proto.Millis) []proto.Millis {
	n := 0
	for n < len(times) && times[n] <= edge {
		n++
	}
	if n == 0 {
		return times
	}
	return times[:copy(times, times[n:])]
}

func (s *matches) addTime(limit int, t proto.Millis) bool {
	i := len(s.times)
	for i > 0 && s.times[i-1] > t {
		i--
	}
	return insertNewest(&s.times, i, limit, t)
}

func (s *matches) addDay(limit int, t proto.Millis) bool {
	i, d := len(s.days), dayOf(t)
	for i > 0 && dayOf(s.days[i-1]) > d {
		i--
	}
	if i > 0 && dayOf(s.days[i-1]) == d {
		if t <= s.days[i-1] {
			return false
		}
		s.days[i-1] = t
		return true
	}
	return insertNewest(&s.days, i, limit, t)
}

// insertNewest puts t at i; a list over its limit loses the oldest.
func insertNewest(list *[]proto.Millis, i, limit int, t proto.Millis) bool {
	l := *list
	if len(l) < limit {
		*list = slices.Insert(l, i, t)
		return true
	}
	if i == 0 || l[i-1] == t && l[0] == t {
		return false
	}
	copy(l[:i-1], l[1:i])
	l[i-1] = t
	return true
}

// trim keeps no more than need asks for, as if it had been so from the start.
func (s *matches) trim(n *need) {
	s.total = min(s.total, n.total)
	s.times, s.values = newest(s.times, n.times), newest(s.values, n.times)
	s.days = newest(s.days, n.days)
	if !n.last {
		s.last, s.hasLast = 0, false
	}
	if !n.first {
		s.first, s.hasFirst = 0, false
	}
}

func newest[T any](times []T, n int) []T {
	if len(times) <= n {
		return times
	}
	return times[:copy(times, times[len(times)-n:])]
}

// dayOf numbers the UTC day of t, also before 1970.
func dayOf(t proto.Millis) proto.Millis {
	d := t / dayMillis
	if t%dayMillis < 0 {
		d--
	}
	return d
}
