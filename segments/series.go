package segments

import (
	"math"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"

	"kith/proto"
)

// Some aggregates need more of an event than when it was: a value is kept
// beside each time of their predicate's matches.

// seriesKind says what the values beside a predicate's times are.
type seriesKind uint8

const (
	noSeries  seriesKind = iota
	amounts              // sum, min, max: the property's number; see amountOf
	distincts            // distinct: a hash of the property's text, each once, at its newest time
	pairs                // sequence: what the event may be in a pair
)

// What an event may be in a pair. The newest first event that a second one
// followed stands at the beginning, as paired; of what is not newer nothing is
// kept, since time passes the older pair first.
const (
	leads uint64 = 1 << iota
	follows
	paired
)

// value is what e has in the predicate's series, false if it has none.
func (q *predicate) value(e *proto.EventBody, s *scratch) (uint64, bool) {
	switch q.series {
	case amounts:
		v, ok := q.of.of(e)
		f, number := numberOf(v)
		return packAmount(f), ok && number && math.Abs(f) <= amountMax
	case distincts:
		v, ok := q.of.of(e)
		return xxhash.Sum64String(s.text(v, false)) >> 8, ok
	case pairs:
		var role uint64
		if q.lead.matches(e, s) {
			role |= leads
		}
		if q.follow.matches(e, s) {
			role |= follows
		}
		return role, role != 0
	}
	return 0, true
}

// amountMax bounds the numbers that are summed, so that no sum overflows.
const amountMax = 1e300

// packAmount is a number's bits the other way round, so that round numbers are
// short as varints.
func packAmount(f float64) uint64 { return bits.ReverseBytes64(math.Float64bits(f + 0)) }

func amountOf(v uint64) float64 { return math.Float64frombits(bits.ReverseBytes64(v)) }

// addValue keeps a value at t, as far as q's series and n ask for it.
func (s *matches) addValue(q *predicate, n *need, t, now proto.Millis, v uint64) bool {
	s.expireValues(now - n.timesWindow)
	if t <= now-n.timesWindow {
		return false
	}
	switch q.series {
	case distincts:
		return s.renewValue(n.times, t, v)
	case pairs:
		return s.addRole(q.within, t, v)
	}
	return s.insertValue(n.times, t, v)
}

// expireValues drops what is not after edge.
func (s *matches) expireValues(edge proto.Millis) {
	if len(s.values) != len(s.times) { // of a file that was tampered with
		s.times, s.values = s.times[:0], s.values[:0]
	}
	n := 0
	for n < len(s.times) && s.times[n] <= edge {
		n++
	}
	s.dropOldest(n)
}

func (s *matches) dropOldest(n int) {
	if n > 0 {
		s.times = s.times[:copy(s.times, s.times[n:])]
		s.values = s.values[:copy(s.values, s.values[n:])]
	}
}

// insertValue puts a value in its place by time, then value, whatever the order
// of arrival; a list over its limit loses the oldest.
func (s *matches) insertValue(limit int, t proto.Millis, v uint64) bool {
	i := len(s.times)
	for i > 0 && (s.times[i-1] > t || s.times[i-1] == t && s.values[i-1] > v) {
		i--
	}
	if len(s.times) >= limit {
		if i == 0 {
			return false
		}
		s.dropOldest(1)
		i--
	}
	s.times, s.values = slices.Insert(s.times, i, t), slices.Insert(s.values, i, v)
	return true
}

// renewValue moves a value to its newest time.
func (s *matches) renewValue(limit int, t proto.Millis, v uint64) bool {
	if i := slices.Index(s.values, v); i >= 0 {
		if s.times[i] >= t {
			return false
		}
		s.times, s.values = slices.Delete(s.times, i, i+1), slices.Delete(s.values, i, i+1)
	}
	return s.insertValue(limit, t, v)
}

// pair is when the newest first event of a pair was, false if there is none.
func (s *matches) pair() (proto.Millis, bool) {
	if len(s.values) == 0 || s.values[0]&paired == 0 {
		return 0, false
	}
	return s.times[0], true
}

func (s *matches) addRole(within, t proto.Millis, role uint64) bool {
	if at, is := s.pair(); is && t <= at {
		return false
	}
	s.insertValue(math.MaxInt, t, role)
	s.findPair(within)
	s.boundPairs()
	return true
}

// findPair moves the pair on to the newest, and keeps what may be of a newer one.
func (s *matches) findPair(within proto.Millis) {
	followed, next := false, proto.Millis(0)
	for hi := len(s.times); hi > 0; {
		t, lo := s.times[hi-1], hi-1
		for lo > 0 && s.times[lo-1] == t {
			lo--
		}
		g := groupOf(s.values[lo:hi])
		if g.lead > 0 && (g.couples() || followed && next-t <= within) {
			s.dropOldest(hi - 1)
			s.values[0] = paired
			break
		}
		if g.follow > 0 {
			followed, next = true, t
		}
		hi = lo
	}
}

// boundPairs keeps no more than PairsMax events that wait.
func (s *matches) boundPairs() {
	if _, is := s.pair(); is && len(s.times) > PairsMax+1 {
		first := s.times[0]
		s.dropOldest(len(s.times) - PairsMax - 1)
		s.times[0], s.values[0] = first, paired
	} else if !is {
		s.dropOldest(len(s.times) - PairsMax)
	}
}

// group counts what the events of one instant may be.
type group struct{ lead, follow, both int }

func groupOf(roles []uint64) (g group) {
	for _, r := range roles {
		if r&leads != 0 {
			g.lead++
		}
		if r&follows != 0 {
			g.follow++
		}
		if r&(leads|follows) == leads|follows {
			g.both++
		}
	}
	return g
}

// couples reports whether two different events of the group are a pair.
func (g group) couples() bool {
	return g.follow > 0 && (g.lead > 1 || g.follow > 1 || g.both == 0)
}

// turns is how the comparison of amounts goes on with time alone: what it is
// from an instant on, and the later ones at which it becomes the other.
type turns struct {
	walk uint64 // of which evaluation
	from proto.Millis
	v    bool
	at   []proto.Millis // ascending

	left    []proto.Millis // scratch: when so many of the newest are left
	decided []bool         // and what they decide
}

// turnsKept bounds the amounts of which an Evaluator keeps turns.
const turnsKept = 512

// amount compares the sum, the least or the greatest of the amounts in the
// window at an instant. Looking ahead asks this again and again: what comes of
// all instants is worked out once.
func (ev *Evaluator) amount(t *term, s *matches, at proto.Millis) (bool, proto.Millis) {
	x := ev.turns[t]
	if x == nil {
		if ev.turns == nil || len(ev.turns) >= turnsKept {
			ev.turns = map[*term]*turns{}
		}
		x = &turns{}
		ev.turns[t] = x
	}
	if x.walk != ev.walk || at < x.from {
		x.walk = ev.walk
		x.foresee(t, s, at)
	}
	i, there := slices.BinarySearch(x.at, at)
	if there {
		i++
	}
	next := proto.Millis(0)
	if i < len(x.at) {
		next = x.at[i]
	}
	return x.v != (i&1 == 1), next
}

// foresee takes the amounts from the newest to the oldest, so that what time
// leaves of them is come by on the way.
func (x *turns) foresee(t *term, s *matches, at proto.Millis) {
	x.from, x.at, x.left, x.decided = at, x.at[:0], x.left[:0], x.decided[:0]
	fold, n, last := 0.0, min(len(s.times), len(s.values)), 0
	for ; last < n; last++ {
		when := s.times[n-1-last]
		if t.window != 0 && when <= at-t.window {
			break
		}
		if t.window != 0 && (last == 0 || when != s.times[n-last]) {
			x.left, x.decided = append(x.left, when+t.window), append(x.decided, t.decides(last, fold))
		}
		fold = t.fold(last, fold, amountOf(s.values[n-1-last]))
	}
	x.v = t.decides(last, fold)
	v := x.v
	for i := len(x.left) - 1; i >= 0; i-- {
		if x.decided[i] != v {
			x.at, v = append(x.at, x.left[i]), !v
		}
	}
}

// decides is the comparison over n amounts; of none there is no least or greatest.
func (t *term) decides(n int, fold float64) bool {
	return (n > 0 || t.op == nodeSum) && t.cmp.ordered(compareFloats(fold, t.amount))
}

// fold adds x to n amounts.
func (t *term) fold(n int, fold, x float64) float64 {
	switch {
	case t.op == nodeSum:
		return fold + x
	case n == 0:
		return x
	case t.op == nodeMin:
		return min(fold, x)
	}
	return max(fold, x)
}

// sequence is whether there is a pair in the window.
func (t *term) sequence(s *matches, at proto.Millis) (bool, proto.Millis) {
	first, is := s.pair()
	if !is || t.window == 0 {
		return is, 0
	}
	if first <= at-t.window {
		return false, 0
	}
	return true, first + t.window
}

// joinSeries makes s what it and o are together.
func (u *userUnion) joinSeries(s, o *matches, q *predicate, n *need) {
	times, vals := u.merge(s, o)
	x := matches{times: times, values: vals}
	switch q.series {
	case amounts:
		x.dropOldest(len(times) - n.times)
	case distincts:
		u.distinct(&x, n.times)
	case pairs:
		x.joinPairs(q.within)
	}
	s.times, s.values = x.times, x.values
}

// merge is both lists in order.
func (u *userUnion) merge(a, b *matches) ([]proto.Millis, []uint64) {
	n := len(a.times) + len(b.times)
	times, vals := u.room.take(n)[:0], u.values.take(n)[:0]
	for i, k := 0, 0; i+k < n; {
		from, at := a, &i
		if i == len(a.times) || k < len(b.times) && (b.times[k] < a.times[i] || b.times[k] == a.times[i] && b.values[k] < a.values[i]) {
			from, at = b, &k
		}
		times, vals = append(times, from.times[*at]), append(vals, from.values[*at])
		*at++
	}
	return times, vals
}

// distinct leaves the newest of each value, and of these the newest n.
func (u *userUnion) distinct(x *matches, n int) {
	if u.seen == nil {
		u.seen = map[uint64]struct{}{}
	}
	clear(u.seen)
	to := len(x.times)
	for i := len(x.times) - 1; i >= 0 && len(x.times)-to < n; i-- {
		if _, known := u.seen[x.values[i]]; !known {
			u.seen[x.values[i]] = struct{}{}
			to--
			x.times[to], x.values[to] = x.times[i], x.values[i]
		}
	}
	x.dropOldest(to)
}

// joinPairs leaves, of two merged lists, what is newer than the newer pair.
func (s *matches) joinPairs(within proto.Millis) {
	for i := len(s.values) - 1; i > 0; i-- {
		if s.values[i]&paired != 0 {
			s.dropOldest(i)
			break
		}
	}
	if at, is := s.pair(); is {
		n, _ := slices.BinarySearch(s.times, at+1)
		s.times, s.values = slices.Delete(s.times, 1, n), slices.Delete(s.values, 1, n)
	}
	s.findPair(within)
}
