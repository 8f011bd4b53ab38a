package segments

import (
	"slices"

	"kith/proto"
)

// term is a part of a rule as the evaluator runs it: a node with its
// predicates and segments looked up.
type term struct {
	op     nodeOp
	cmp    cmpOp
	n      int
	window proto.Millis
	at     proto.Millis
	amount float64
	track  *tracked
	leaf   *pred
	seg    *segment
	kids   []term
}

// term prepares n for s and enters s wherever it will be looked for.
func (p *Program) term(s *segment, n *node) term {
	t := term{op: n.op, cmp: n.cmp, n: n.n, window: n.window, at: n.at, amount: n.amount}
	if n.aggregates() {
		t.track = p.track(n.owner, s, needOf(n))
	}
	switch n.op {
	case nodeTrait:
		t.leaf = n.pred
		p.watch(n.pred.attr.key, s)
	case nodeMember:
		t.seg = p.byID[n.member]
	case nodeDevices:
		p.counting = place(p.counting, s)
	}
	for _, k := range n.kids {
		t.kids = append(t.kids, p.term(s, k))
	}
	return t
}

// empty is the value for an identity without facts that is no device.
func (t *term) empty() bool {
	switch t.op {
	case nodeTrue:
		return true
	case nodeAnd:
		return !slices.ContainsFunc(t.kids, func(k term) bool { return !k.empty() })
	case nodeOr:
		return slices.ContainsFunc(t.kids, func(k term) bool { return k.empty() })
	case nodeNot:
		return !t.kids[0].empty()
	case nodeCount, nodeDays, nodeDevices, nodeDistinct:
		return t.cmp.ordered(0 - t.n)
	case nodeSum:
		return t.decides(0, 0)
	case nodeMember:
		return t.seg.base
	}
	return false
}

// truth is the value of t at the instant at, and the first later instant at
// which it might be another, 0 if it stays. Between the two it is constant.
func (ev *Evaluator) truth(t *term, m *Memory, at proto.Millis) (bool, proto.Millis) {
	switch t.op {
	case nodeTrue, nodeFalse:
		return t.op == nodeTrue, 0
	case nodeAnd, nodeOr:
		return ev.joined(t, m, at)
	case nodeNot:
		v, next := ev.truth(&t.kids[0], m, at)
		return !v, next
	case nodeTrait:
		return ev.holds(t.leaf, m), 0
	case nodeMember:
		return ev.member(t.seg, m, at)
	case nodeDevices:
		return t.cmp.ordered(ev.devices - t.n), 0
	}
	st := m.match(t.track.id)
	if st == nil {
		st = &noMatches
	}
	switch t.op {
	case nodeLastAt:
		return st.hasLast && t.cmp.ordered(compareMillis(st.last, t.at)), 0
	case nodeLastAgo:
		return t.age(st.last, st.hasLast, at)
	case nodeFirstAt:
		return st.hasFirst && t.cmp.ordered(compareMillis(st.first, t.at)), 0
	case nodeFirstAgo:
		return t.age(st.first, st.hasFirst, at)
	case nodeDays:
		return t.within(st.days, at)
	case nodeSum, nodeMin, nodeMax:
		return ev.amount(t, st, at)
	case nodeDistinct:
		return t.within(st.times, at)
	case nodeSequence:
		return t.sequence(st, at)
	}
	if t.window == 0 {
		return t.cmp.ordered(int(st.total) - t.n), 0
	}
	return t.within(st.times, at)
}

// held is whether a condition on a trait holds, during one step.
type held struct {
	gen uint64
	is  bool
}

// heldKept bounds the conditions of which an Evaluator keeps that.
const heldKept = 1024

// holds reports whether a trait satisfies leaf. Looking ahead asks this again and
// again: lists and patterns are gone through once.
func (ev *Evaluator) holds(leaf *pred, m *Memory) bool {
	if leaf.op != predIn && leaf.op != predMatches {
		_, is := ev.witness(leaf, m)
		return is
	}
	h, known := ev.held[leaf]
	if !known || h.gen != ev.gen {
		if ev.held == nil || len(ev.held) >= heldKept {
			ev.held = map[*pred]held{}
		}
		_, h.is = ev.witness(leaf, m)
		h.gen = ev.gen
		ev.held[leaf] = h
	}
	return h.is
}

// witness is the first value of a trait that satisfies leaf.
func (ev *Evaluator) witness(leaf *pred, m *Memory) (proto.Value, bool) {
	for _, t := range m.valuesOf(leaf.attr.key) {
		if leaf.accepts(t.Value, &ev.scratch) {
			return t.Value, true
		}
	}
	return proto.Value{}, false
}

var noMatches matches

// joined stops at the first kid that decides: as long as that one stays, so
// does the whole.
func (ev *Evaluator) joined(t *term, m *Memory, at proto.Millis) (bool, proto.Millis) {
	deciding, soonest := t.op == nodeOr, proto.Millis(0)
	for i := range t.kids {
		v, next := ev.truth(&t.kids[i], m, at)
		if v == deciding {
			return v, next
		}
		soonest = earlier(soonest, next)
	}
	return !deciding, soonest
}

// earlier is the sooner of two instants of which 0 is never.
func earlier(a, b proto.Millis) proto.Millis {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func compareMillis(a, b proto.Millis) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

// within compares how many of times, which ascend, lie in the window. Time
// alone only takes some out, the oldest first.
func (t *term) within(times []proto.Millis, at proto.Millis) (bool, proto.Millis) {
	if t.window == 0 {
		return t.cmp.ordered(len(times) - t.n), 0
	}
	c := len(times)
	if c > 0 && times[0] <= at-t.window {
		from, _ := slices.BinarySearch(times, at-t.window+1)
		c -= from
	}
	v := t.cmp.ordered(c - t.n)
	// The value changes when the count falls below edge.
	edge := t.n
	switch t.cmp {
	case cmpGt, cmpLe:
		edge = t.n + 1
	case cmpEq, cmpNe:
		if c > t.n {
			edge = t.n + 1
		}
	}
	if edge == 0 || c < edge {
		return v, 0
	}
	return v, times[len(times)-edge] + t.window
}

// age compares a time, if there is one, with at - window: the difference passes
// through later, same and earlier, as at moves on.
func (t *term) age(when proto.Millis, is bool, at proto.Millis) (bool, proto.Millis) {
	if !is {
		return false, 0
	}
	same := when + t.window
	d := compareMillis(same, at)
	v := t.cmp.ordered(d)
	switch {
	case d > 0 && t.cmp.ordered(0) != v:
		return v, same
	case d >= 0 && t.cmp.ordered(-1) != v:
		return v, same + 1
	}
	return v, 0
}

// member is whether m is in s at an instant. The membership kept is right
// until its next change; beyond that the rule itself says.
func (ev *Evaluator) member(s *segment, m *Memory, at proto.Millis) (bool, proto.Millis) {
	i, found := m.find(s.def.Key)
	if !found {
		return false, 0
	}
	if kept := &m.members[i]; kept.Next == 0 || at < kept.Next {
		return kept.In, kept.Next
	}
	if known := ev.memos[s.slot]; known.walk == ev.walk && known.at == at {
		return known.in, known.next
	}
	in, next := ev.truth(&s.tree, m, at)
	ev.memos[s.slot] = memo{walk: ev.walk, at: at, in: in, next: next}
	return in, next
}
