package segments

import (
	"cmp"
	"slices"

	"kith/proto"
)

// Delta collects what changed, over any number of calls, until Reset. A
// segment that was entered and left again is in neither list.
type Delta struct {
	Entered, Left []proto.SegmentKey // by key
	Touched       bool               // a membership or a Next changed
	Shared        bool               // what AppendShared packs of the Memory may have changed
	Dropped       bool               // something that the rules ask for was not kept, for MemoryMax
}

// Reset empties d and keeps its buffers.
func (d *Delta) Reset() { *d = Delta{Entered: d.Entered[:0], Left: d.Left[:0]} }

func (d *Delta) note(n noted) {
	d.Shared, d.Dropped = d.Shared || n.given, d.Dropped || n.dropped
}

func (d *Delta) enter(key proto.SegmentKey) { turn(&d.Entered, &d.Left, key) }
func (d *Delta) leave(key proto.SegmentKey) { turn(&d.Left, &d.Entered, key) }

func turn(to, from *[]proto.SegmentKey, key proto.SegmentKey) {
	if i, found := slices.BinarySearch(*from, key); found {
		*from = slices.Delete(*from, i, i+1)
		return
	}
	i, found := slices.BinarySearch(*to, key)
	if !found {
		*to = slices.Insert(*to, i, key)
	}
}

// Evaluator brings memories up to date. It is scratch space: one goroutine
// uses it, for any memories and programs.
type Evaluator struct {
	devices  int
	union    userUnion
	sharing  bool // only what a user's rules are made of is judged
	scratch  scratch
	matched  []*tracked
	ranked   [][]*segment // to be evaluated, by rank
	nextGone bool         // the least Next of the memberships is to be found anew
	refilled []*tracked   // whose matches Update has dropped to fill them anew
	aside    []matches    // of them, what was kept of a truncated history
	gen      uint64       // of seen and marked
	seen     []uint64     // by slot of a predicate
	marked   []uint64     // by slot of a segment
	walk     uint64
	memos    []memo // by slot of a segment
	turns    map[*term]*turns
	held     map[*pred]held
}

// memo is the value of a rule at an instant, during one walk.
type memo struct {
	walk uint64
	at   proto.Millis
	in   bool
	next proto.Millis
}

// NewEvaluator is an evaluator without buffers; they grow as needed.
func NewEvaluator() *Evaluator { return &Evaluator{} }

// SetDevices says how many browsers or devices the identity of the Memory in
// hand is: 1 or 0. It is to be said before every call with that Memory, and
// the same each time: rules are not judged anew because of it.
func (ev *Evaluator) SetDevices(n int) { ev.devices = n }

// begin readies the scratch space for one step over p.
func (ev *Evaluator) begin(p *Program) {
	ev.gen++
	ev.matched = ev.matched[:0]
	for rank := range ev.ranked {
		ev.ranked[rank] = ev.ranked[rank][:0]
	}
	if n := p.predSlots.size; len(ev.seen) < n {
		ev.seen = append(ev.seen, make([]uint64, n-len(ev.seen))...)
	}
	if n := p.segmentSlots.size; len(ev.marked) < n {
		ev.marked = append(ev.marked, make([]uint64, n-len(ev.marked))...)
		ev.memos = append(ev.memos, make([]memo, n-len(ev.memos))...)
	}
}

// take adds the predicates of one place in the index that e satisfies.
func (ev *Evaluator) take(list []filed, e *proto.EventBody) {
	for _, f := range list {
		if ev.seen[f.p.slot] == ev.gen {
			continue
		}
		ev.seen[f.p.slot] = ev.gen
		if f.sure || f.p.tree.matches(e, &ev.scratch) {
			ev.matched = append(ev.matched, f.p)
		}
	}
}

// mark has s evaluated in this step. A rule that m has not been brought up to
// yet is left alone: without history its value would be a guess.
func (ev *Evaluator) mark(m *Memory, s *segment) {
	if ev.marked[s.slot] == ev.gen || s.def.Key > m.version || ev.sharing && !s.shared {
		return
	}
	ev.marked[s.slot] = ev.gen
	for len(ev.ranked) <= s.rank {
		ev.ranked = append(ev.ranked, nil)
	}
	ev.ranked[s.rank] = append(ev.ranked[s.rank], s)
}

func (ev *Evaluator) markAll(m *Memory, list []*segment) {
	for _, s := range list {
		ev.mark(m, s)
	}
}

// run evaluates what is marked as of the instant at, segments before those
// whose rules refer to them, which that marks. Among those of one rank the order
// does not matter.
func (ev *Evaluator) run(m *Memory, at proto.Millis, d *Delta) {
	ev.nextGone = false
	for rank := 0; rank < len(ev.ranked); rank++ {
		for _, s := range ev.ranked[rank] {
			ev.evaluate(s, m, at, d)
		}
	}
	if ev.nextGone {
		m.findNext()
	}
}

// evaluate settles one membership: its value, and when time will change it.
func (ev *Evaluator) evaluate(s *segment, m *Memory, at proto.Millis, d *Delta) {
	ev.walk++
	in, may := ev.truth(&s.tree, m, at)
	for may != 0 {
		v, next := ev.truth(&s.tree, m, may)
		if v != in {
			break
		}
		may = next
	}
	if m.settle(Membership{Key: s.def.Key, In: in, Since: at, Next: may}, d) {
		ev.nextGone = true
	}
	// A rule that refers to s looks ahead along the rule of s, so that it
	// may have to change although this membership has not.
	ev.markAll(m, s.dependents)
}

// settle replaces one membership, and reports whether its Next was the least of all,
// so that the least is to be found anew.
func (m *Memory) settle(ms Membership, d *Delta) (nextGone bool) {
	i, found := m.find(ms.Key)
	var old Membership
	if found {
		old = m.members[i]
	}
	switch {
	case ms.In && old.In:
		ms.Since = old.Since
	case ms.In:
		if old.Next != 0 { // it was due, and an Update judges it only now
			ms.Since = min(ms.Since, old.Next)
		}
		d.enter(ms.Key)
		d.Touched = true
	default:
		ms.Since = 0
		if old.In {
			d.leave(ms.Key)
			d.Touched = true
		}
	}
	switch keep := ms.In || ms.Next != 0; {
	case found && keep:
		m.members[i] = ms
	case found:
		m.members = slices.Delete(m.members, i, i+1)
	case keep:
		m.members = slices.Insert(m.members, i, ms)
	}
	if old.Next == ms.Next {
		return false
	}
	d.Touched = true
	nextGone = old.Next != 0 && old.Next == m.next
	m.next = earlier(m.next, ms.Next)
	return nextGone
}

func (m *Memory) findNext() {
	m.next = 0
	for i := range m.members {
		m.next = earlier(m.next, m.members[i].Next)
	}
}

// Observe takes in one event that happened at t, at the latest now, the present.
// What was due by now is applied before it. A zero m is taken for an identity
// without history; any other must have been brought up to p by Update, else
// rules newer than m's version are left for that.
func (ev *Evaluator) Observe(p *Program, m *Memory, e *proto.EventBody, t, now proto.Millis, d *Delta) {
	ev.greet(p, m, now, d)
	ev.Advance(p, m, now, d)
	ev.begin(p)
	p.index.find(ev, e)
	t = min(t, now)
	ev.orderMatched(m)
	for _, q := range ev.matched {
		n := m.observe(q, e, t, now, &ev.scratch)
		if n.changed {
			ev.markAll(m, q.rules)
		}
		d.note(n)
	}
	ev.run(m, now, d)
}

// orderMatched sorts what an event met where there may not be room for all of it:
// what gets the last room must not depend on how the index came to be.
func (ev *Evaluator) orderMatched(m *Memory) {
	if m.kept+len(ev.matched)*matchCost >= MemoryMax {
		slices.SortFunc(ev.matched, func(a, b *tracked) int { return cmp.Compare(a.id, b.id) })
	}
}

// SetTraits sets traits, and removes those set to the text "". At most
// TraitsMax are kept; what is beyond that is not taken. As for m, see Observe.
func (ev *Evaluator) SetTraits(p *Program, m *Memory, set []proto.Prop, now proto.Millis, d *Delta) {
	ev.greet(p, m, now, d)
	ev.Advance(p, m, now, d)
	ev.begin(p)
	for _, t := range set {
		if w := p.traits[t.Key]; m.setTrait(t) && w != nil {
			ev.markAll(m, w.rules)
			d.Shared = d.Shared || w.shared > 0
		}
	}
	ev.run(m, now, d)
}

// Advance applies the changes that time alone brought by now, each as of its
// own instant, so that it does not matter how often it is called.
func (ev *Evaluator) Advance(p *Program, m *Memory, now proto.Millis, d *Delta) {
	for m.next != 0 && m.next <= now {
		at := m.next
		ev.begin(p)
		for _, ms := range m.members {
			if ms.Next != 0 && ms.Next <= at {
				ev.due(p, m, ms.Key)
			}
		}
		ev.run(m, at, d)
		if m.next == at {
			// Only what p no longer has can be left: Update forgets it.
			return
		}
	}
}

func (ev *Evaluator) due(p *Program, m *Memory, key proto.SegmentKey) {
	if s := p.byKey[key]; s != nil {
		ev.mark(m, s)
	}
}

// greet gives an identity of which nothing is known the segments whose rules
// hold without facts.
func (ev *Evaluator) greet(p *Program, m *Memory, now proto.Millis, d *Delta) {
	if m.version != 0 || p.version == 0 || len(m.traits) > 0 {
		return
	}
	m.version, d.Shared = p.version, true
	for _, s := range p.base {
		m.settle(Membership{Key: s.def.Key, In: true, Since: now}, d)
	}
	if ev.devices != 0 && len(p.counting) > 0 {
		ev.begin(p)
		ev.markAll(m, p.counting)
		ev.run(m, now, d)
	}
}
