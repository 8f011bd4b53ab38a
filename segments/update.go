package segments

import (
	"iter"
	"slices"

	"kith/proto"
)

// Update brings m up to p's definitions, with the same result as having had
// them from the start: it forgets what is no longer asked for, fills from
// history what newer rules need, and evaluates what that changes. History, the
// identity's events in the order they arrived, is gone through at most once,
// and only if NeedsHistory. It applies what is due by now. A segment that is
// entered has now as its Since, or when it was due.
func (ev *Evaluator) Update(p *Program, m *Memory, history iter.Seq2[proto.Millis, *proto.EventBody], now proto.Millis, d *Delta) {
	if m.version == p.version {
		ev.Advance(p, m, now, d)
		return
	}
	ev.update(p, m, m.version, false, history, now, d)
}

// UpdateTruncated is Update of an identity of whose history the oldest events are
// gone. What m keeps of them stays, so that a newer rule changes no other segment.
func (ev *Evaluator) UpdateTruncated(p *Program, m *Memory, history iter.Seq2[proto.Millis, *proto.EventBody], now proto.Millis, d *Delta) {
	ev.update(p, m, m.version, true, history, now, d)
}

// Refill makes m what it would be if history, the events that are still kept in
// the order they arrived, were all that ever happened. Traits stay, and who is in
// a segment still has been since the same time.
func (ev *Evaluator) Refill(p *Program, m *Memory, history iter.Seq2[proto.Millis, *proto.EventBody], now proto.Millis, d *Delta) {
	ev.update(p, m, 0, false, history, now, d)
}

// RefillTruncated is Refill of an identity of whose history the oldest events are gone.
// What m keeps of matches at from and later stays, whether history has them or not.
func (ev *Evaluator) RefillTruncated(p *Program, m *Memory, history iter.Seq2[proto.Millis, *proto.EventBody], from, now proto.Millis, d *Delta) {
	m.keepFrom(from)
	ev.update(p, m, 0, true, history, now, d)
}

// update brings to p what a memory of version since lacks.
func (ev *Evaluator) update(p *Program, m *Memory, since proto.SegmentKey, truncated bool, history iter.Seq2[proto.Millis, *proto.EventBody], now proto.Millis, d *Delta) {
	was := m.version
	m.version, d.Shared = p.version, true
	ev.begin(p)
	ev.forget(p, m, since, truncated, d)
	if fill := p.newerThan(since); len(fill) > 0 && history != nil {
		ev.fill(p, m, fill, since, history, now, d)
	}
	ev.restore(p, m, now, d)
	ev.begin(p)
	ev.markFacts(p, m, since, now)
	ev.markRules(p, m, since, was)
	ev.run(m, now, d)
	ev.Advance(p, m, now, d)
}

// newerThan lists the predicates of which memories of a version lack something.
func (p *Program) newerThan(version proto.SegmentKey) []*tracked {
	i, _ := slices.BinarySearchFunc(p.filled, version, func(t *tracked, v proto.SegmentKey) int {
		if t.since <= v {
			return -1
		}
		return 1
	})
	return p.filled[i:]
}

// forget drops memberships of definitions that are gone, matches that nobody
// asks for and those that have to be filled anew, which it lays aside where history
// is truncated.
func (ev *Evaluator) forget(p *Program, m *Memory, since proto.SegmentKey, truncated bool, d *Delta) {
	for i := len(m.members) - 1; i >= 0; i-- {
		if ms := m.members[i]; p.byKey[ms.Key] == nil {
			if ms.In {
				d.leave(ms.Key)
			}
			d.Touched = true
			m.members = slices.Delete(m.members, i, i+1)
		}
	}
	m.findNext()
	ev.refilled, ev.aside = ev.refilled[:0], nil
	for i := len(m.matches) - 1; i >= 0; i-- {
		q := p.preds[m.matches[i].id]
		switch {
		case q == nil:
			m.removeMatch(i)
		case q.since > since:
			ev.refilled = append(ev.refilled, q)
			if truncated {
				ev.aside = append(ev.aside, m.matches[i].clone())
			}
			m.removeMatch(i)
		default:
			if m.matches[i].trim(&q.need); m.matches[i].empty() {
				m.removeMatch(i)
			}
		}
	}
	m.measure()
}

// fillTriedMax is up to how many predicates are tried one by one on an event
// of the history instead of asking the index.
const fillTriedMax = 8

func (ev *Evaluator) fill(p *Program, m *Memory, fill []*tracked, since proto.SegmentKey, history iter.Seq2[proto.Millis, *proto.EventBody], now proto.Millis, d *Delta) {
	for t, e := range history {
		ev.begin(p)
		if len(fill) <= fillTriedMax {
			for _, q := range fill {
				if q.tree.matches(e, &ev.scratch) {
					ev.matched = append(ev.matched, q)
				}
			}
		} else {
			p.index.find(ev, e)
		}
		ev.orderMatched(m)
		for _, q := range ev.matched {
			if q.since > since {
				d.note(m.observe(q, e, t, now, &ev.scratch))
			}
		}
	}
}

// markFacts marks the rules whose value m's facts may make another than it was
// or, for a rule that m has not seen, another than its base value: all of a
// predicate that was filled, else those that are newer than since.
func (ev *Evaluator) markFacts(p *Program, m *Memory, since proto.SegmentKey, now proto.Millis) {
	for _, q := range ev.refilled {
		ev.markAll(m, q.rules)
	}
	for i := range m.matches {
		if q := p.preds[m.matches[i].id]; q.since > since {
			ev.markAll(m, q.rules)
		} else {
			ev.markNewer(m, q.rules, since)
		}
	}
	for i := range m.traits {
		if w := p.traits[m.traits[i].Key]; w != nil {
			ev.markNewer(m, w.rules, since)
		}
	}
	for i := range m.members {
		s := p.byKey[m.members[i].Key]
		ev.markNewer(m, s.dependents, since)
		if next := m.members[i].Next; next != 0 && next <= now {
			ev.mark(m, s)
		}
	}
}

// markRules marks new rules that hold without facts or count devices, new
// rules that refer to the former, and old rules that refer to a segment defined
// anew. A new rule that refers to an old one which counts devices is marked
// too: that one holds without facts, or is among the memberships. A version that
// waited and answers now is a segment defined anew. Was is the version of the memberships
// of m, which a Refill does not begin without either.
func (ev *Evaluator) markRules(p *Program, m *Memory, since, was proto.SegmentKey) {
	ev.markNewer(m, p.base, since)
	if ev.devices != 0 {
		ev.markNewer(m, p.counting, since)
	}
	for _, s := range p.base {
		ev.markNewer(m, s.dependents, since)
	}
	if was == 0 {
		return // there are no old rules
	}
	for i := len(p.order) - 1; i >= 0 && p.order[i].def.Key > was; i-- {
		ev.markAll(m, p.order[i].dependents)
	}
	for i := len(p.swapped) - 1; i >= 0 && p.swapped[i].since > was; i-- {
		ev.markAll(m, p.swapped[i].dependents)
	}
}

// markNewer marks those of a list by key that are newer than since.
func (ev *Evaluator) markNewer(m *Memory, list []*segment, since proto.SegmentKey) {
	for i := len(list) - 1; i >= 0 && list[i].def.Key > since; i-- {
		ev.mark(m, list[i])
	}
}
