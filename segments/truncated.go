package segments

import (
	"cmp"
	"slices"

	"kith/proto"
)

// This file joins what a memory knew of events that are gone from its history to
// what was filled from those that are left. Most events are known both ways: what may
// be one event counts once.

// restore joins in what forget laid aside.
func (ev *Evaluator) restore(p *Program, m *Memory, now proto.Millis, d *Delta) {
	for i := range ev.aside {
		d.note(m.restore(p.preds[ev.aside[i].id], &ev.aside[i], now))
	}
	ev.aside = nil
}

func (m *Memory) restore(q *tracked, old *matches, now proto.Millis) noted {
	i, need, dropped := m.open(q, old.kept())
	if need == nil {
		return noted{dropped: dropped}
	}
	s := &m.matches[i]
	kept := s.kept()
	s.restore(q.predicate, need, old, now)
	m.kept += s.kept() - kept
	if s.empty() {
		m.removeMatch(i)
		m.kept -= entryCost
	}
	return noted{dropped: dropped}
}

// restore makes s what it and old are together, both of one identity's events.
func (s *matches) restore(q *predicate, n *need, old *matches, now proto.Millis) {
	s.total = min(max(s.total, old.total), n.total)
	if n.last && old.hasLast && (!s.hasLast || old.last > s.last) {
		s.last, s.hasLast = old.last, true
	}
	if n.first && old.hasFirst && (!s.hasFirst || old.first < s.first) {
		s.first, s.hasFirst = old.first, true
	}
	for _, t := range old.days {
		if t > now-n.daysWindow {
			s.addDay(n.days, t)
		}
	}
	edge := now - n.timesWindow
	if q.series == noSeries {
		s.times, old.times = expire(s.times, edge), expire(old.times, edge)
		s.values, old.values = s.values[:0], nil
		s.unite(old)
		s.times = newest(s.times, n.times)
		return
	}
	s.expireValues(edge)
	old.expireValues(edge)
	s.restoreSeries(q, n, old)
}

func (s *matches) restoreSeries(q *predicate, n *need, old *matches) {
	switch q.series {
	case amounts:
		s.unite(old)
		s.dropOldest(len(s.times) - n.times)
	case distincts:
		for i, t := range old.times {
			s.renewValue(n.times, t, old.values[i])
		}
	case pairs:
		s.unite(old)
		s.joinPairs(q.within)
		s.boundPairs()
	}
}

// unite merges both lists, in which what is equal is there as often as in the one
// that has it more often.
func (s *matches) unite(o *matches) {
	x := matches{times: make([]proto.Millis, 0, len(s.times)+len(o.times)), values: make([]uint64, 0, len(s.values)+len(o.values))}
	for i, k := 0, 0; i < len(s.times) || k < len(o.times); {
		c := s.compareAt(i, o, k)
		if c <= 0 {
			x.copyFrom(s, i)
			i++
		} else {
			x.copyFrom(o, k)
		}
		if c >= 0 {
			k++
		}
	}
	s.times, s.values = x.times, x.values
}

// compareAt orders what s has at i and o at k, by time, then value; the end of a
// list is after all.
func (s *matches) compareAt(i int, o *matches, k int) int {
	switch {
	case i == len(s.times):
		return 1
	case k == len(o.times):
		return -1
	case s.times[i] != o.times[k] || len(s.values) == 0 || len(o.values) == 0:
		return cmp.Compare(s.times[i], o.times[k])
	}
	return cmp.Compare(s.values[i], o.values[k])
}

func (s *matches) copyFrom(o *matches, i int) {
	s.times = append(s.times, o.times[i])
	if len(o.values) > 0 {
		s.values = append(s.values, o.values[i])
	}
}

// keepFrom forgets matches from before a time. A total does not say when its matches
// were: it is as many as are known to be later.
func (m *Memory) keepFrom(from proto.Millis) {
	for i := range m.matches {
		m.matches[i].keepFrom(from)
	}
}

func (s *matches) keepFrom(from proto.Millis) {
	if len(s.values) > 0 {
		s.expireValues(from - 1)
	} else {
		s.times = expire(s.times, from-1)
	}
	s.days = expire(s.days, from-1)
	if s.last < from {
		s.last, s.hasLast = 0, false
	}
	if s.first < from {
		s.first, s.hasFirst = 0, false
	}
	known := max(len(s.times), len(s.days))
	if s.hasLast || s.hasFirst {
		known = max(known, 1)
	}
	s.total = min(s.total, uint32(known))
}

// clone is a copy with buffers of its own.
func (s *matches) clone() matches {
	c := *s
	c.times, c.values, c.days = slices.Clone(s.times), slices.Clone(s.values), slices.Clone(s.days)
	return c
}
