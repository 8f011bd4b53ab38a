package segments

import (
	"slices"

	"kith/proto"
)

// Check says what Define would, and changes nothing: CodeSegment or
// CodeInvalid if d is not complete, CodeConflict if its key is taken,
// CodeNotFound if member() names a segment that is not defined, CodeRule if
// member() leads back to d or reaches too far. Beyond that CodeRule if the rules
// of the client would cost too much: Define does not ask for that.
func (p *Program) Check(d Definition) error { return p.afford(d, false) }

// check gives the segments that d refers to as well. beside says that d is to
// wait beside the definition with the same ID.
func (p *Program) check(d Definition, beside bool) ([]*segment, error) {
	if _, err := proto.ParseSegmentID(string(d.ID)); err != nil {
		return nil, err
	}
	if d.Rule == nil || d.Key == 0 {
		return nil, proto.Errorf(proto.CodeInvalid, "segment %q has no rule or no key", d.ID)
	}
	if beside && p.byID[d.ID] == nil {
		return nil, notDefined(d.ID)
	}
	if s := p.byKey[d.Key]; s != nil && (s.def.ID != d.ID || beside) {
		return nil, proto.Errorf(proto.CodeConflict, "key %d is that of segment %q already", d.Key, s.def.ID)
	}
	for _, q := range d.Rule.preds {
		if t := p.preds[q.id]; t != nil && t.text != q.text {
			return nil, proto.Errorf(proto.CodeConflict, "condition %s has the same number as %s: write it another way, such as with parts in another order", clip(q.text), clip(t.text))
		}
	}
	for i := 1; i < len(d.Rule.preds); i++ {
		if d.Rule.preds[i].id == d.Rule.preds[i-1].id {
			return nil, proto.Errorf(proto.CodeConflict, "conditions %s and %s have the same number: write one another way", clip(d.Rule.preds[i].text), clip(d.Rule.preds[i-1].text))
		}
	}
	kept, series := p.moreKept(d, beside)
	if sum := p.series + series; series > 0 && sum > MemoryMax {
		return nil, proto.Errorf(proto.CodeRule, "with segment %q the sums, least and greatest amounts, distinct values and sequences of this client would ask for up to %d times of each identity, more than %d (an amount or a distinct value counts as three): sum fewer properties, or delete a segment", d.ID, sum, MemoryMax)
	}
	if sum := p.kept + kept; kept > 0 && sum > KeptMax {
		return nil, proto.Errorf(proto.CodeRule, "with segment %q the rules of this client would ask for up to %d times of each identity, more than %d (an amount counts as three, a distinct value too): lower a threshold of count, days or distinct, sum fewer properties, or delete a segment", d.ID, sum, KeptMax)
	}
	return p.checkRefs(d, beside)
}

// moreKept is how many times and days more than now the rules would ask for with d, and
// how many of them with values beside: what conditions share counts once, and what d
// takes the place of no more.
func (p *Program) moreKept(d Definition, beside bool) (kept, series int) {
	gone := p.replacedBy(d, beside)
	needs := map[predID]need{}
	for _, s := range gone {
		for _, q := range s.def.Rule.preds {
			needs[q.id] = p.preds[q.id].without(gone)
		}
	}
	d.Rule.root.needs(func(id predID, n need) {
		others, known := needs[id]
		if t := p.preds[id]; !known && t != nil {
			others = t.need
		}
		needs[id] = others.join(n)
	})
	for id, n := range needs {
		if n != noNeed {
			kept, series = kept+n.kept(), series+n.series()
		}
		if t := p.preds[id]; t != nil {
			kept, series = kept-t.need.kept(), series-t.need.series()
		}
	}
	return kept, series
}

// replacedBy lists the versions in whose place d comes.
func (p *Program) replacedBy(d Definition, beside bool) (gone []*segment) {
	s := p.byID[d.ID]
	if s == nil {
		return nil
	}
	if !beside {
		gone = append(gone, s)
	}
	if s.next != nil {
		gone = append(gone, s.next)
	}
	return gone
}

// refs are the segments that d refers to.
func (p *Program) refs(d Definition) ([]*segment, error) {
	refs := make([]*segment, 0, len(d.Rule.refers))
	for _, id := range d.Rule.refers {
		if id == d.ID {
			return nil, d.Rule.place(proto.Errorf(proto.CodeRule, "segment %q refers to itself", d.ID), id)
		}
		s := p.byID[id]
		if s == nil {
			return nil, d.Rule.place(proto.Errorf(proto.CodeNotFound, "member(%q) names a segment that is not defined%s", string(id), p.nearTo(id)), id)
		}
		refs = append(refs, s)
	}
	return refs, nil
}

// nearTo is what to do about a segment that is not defined: to name one much like it, if
// there is one.
func (p *Program) nearTo(id proto.SegmentID) string {
	const otherwise = "define it first"
	var near []string
	for other := range p.byID {
		if d := len(other) - len(id); -3 <= d && d <= 3 {
			near = append(near, string(other))
		}
	}
	if len(near) == 0 || len(near) > nearMax {
		return ": " + otherwise
	}
	slices.Sort(near)
	return suggest(string(id), near, otherwise)
}

// nearMax bounds the segments that one that is not defined is held against.
const nearMax = 2000

// checkRefs bounds what is reached by member() whichever of the versions that
// wait have begun to answer.
func (p *Program) checkRefs(d Definition, beside bool) ([]*segment, error) {
	refs, err := p.refs(d)
	if err == nil && len(refs) > 0 {
		_, err = p.checkReach(d, refs, beside)
	}
	return refs, err
}

// checkReach gives how many steps more the rules would look ahead, too.
func (p *Program) checkReach(d Definition, refs []*segment, beside bool) (more int, err error) {
	after := proposal{self: p.byID[d.ID], refs: refs, weight: d.Rule.weight, beside: beside}
	if more, err = after.checkAll(d.ID); err != nil {
		err = after.blame(err, d)
		after.final = true
		if _, e := after.checkAll(d.ID); e == nil {
			err = proto.Errorf(proto.CodeConflict, "while new versions of segments are filled from history, segment %q would make member() lead in a circle or reach too far: try again when they answer", d.ID)
		}
	}
	return more, err
}

// proposal is a program as it would be with self, nil if new, defined anew.
type proposal struct {
	self   *segment
	refs   []*segment
	weight weight
	beside bool // what self is now goes on answering for a time
	final  bool // all that waits answers
}

// blamesMax is how many mentions are tried by themselves.
const blamesMax = 16

// blame puts on an error of checkAll the first mention that alone leads to one, or the
// first of all.
func (a proposal) blame(err error, d Definition) error {
	refs, tried := a.refs, map[proto.SegmentID]bool{}
	for _, m := range d.Rule.members {
		id := proto.SegmentID(m.name)
		if tried[id] {
			continue
		}
		if tried[id] = true; len(tried) > blamesMax {
			break
		}
		for _, s := range refs {
			if s.def.ID == id {
				a.refs = []*segment{s}
			}
		}
		if _, e := a.checkAll(d.ID); e != nil {
			return d.Rule.place(err, id)
		}
	}
	if len(d.Rule.members) > 0 {
		return placeIn(d.Rule.members, err, d.Rule.members[0].name)
	}
	return err
}

// checkAll checks what self reaches, and what reaches it, and gives how many steps
// more all of that would look ahead.
func (a *proposal) checkAll(id proto.SegmentID) (more int, err error) {
	todo, seen := []*segment{a.self}, map[*segment]bool{a.self: true}
	for ; len(todo) > 0; todo = todo[1:] {
		s := todo[0]
		reach, err := a.check(s, id)
		if err != nil {
			return 0, err
		}
		more += a.grown(s, reach.ahead())
		if s == nil {
			continue
		}
		for _, d := range s.dependents {
			if d = d.answers(); !seen[d] {
				seen[d] = true
				todo = append(todo, d)
			}
		}
	}
	return more, nil
}

// grown is how many steps more than before the versions of s look ahead, of
// which each takes so many.
func (a *proposal) grown(s *segment, steps int) int {
	if s == nil {
		return steps
	}
	was := s.ahead
	if s.next != nil {
		was += s.next.ahead
	}
	if s == a.self && a.beside || s != a.self && s.next != nil {
		steps *= 2
	}
	return steps - was
}

// versions gives what s, nil for a new one, may refer to and weigh.
func (a *proposal) versions(s *segment) (refs []*segment, own weight) {
	old := s != nil
	if s == a.self {
		refs, own = a.refs, a.weight
		old = old && a.beside && !a.final
	} else if s.next != nil {
		refs, own = s.next.refs, s.next.def.Rule.weight
		old = !a.final
	}
	if old {
		refs, own = slices.Concat(refs, s.refs), own.most(s.def.Rule.weight)
	}
	return refs, own
}

// check bounds what the rule of s, nil for a new one, reaches by member(), and
// gives it.
func (a *proposal) check(s *segment, id proto.SegmentID) (sum weight, err error) {
	levels := map[*segment]int{}
	var walk func(s *segment) (level int, ok bool)
	walk = func(s *segment) (int, bool) {
		if level, seen := levels[s]; seen {
			return level, level > 0 // 0: still being walked, a circle
		}
		levels[s] = 0
		refs, own := a.versions(s)
		level := 1
		for sum = sum.plus(own); len(refs) > 0 && sum.parts <= ReachMax; refs = refs[1:] {
			below, ok := walk(refs[0])
			if !ok {
				return 0, false
			}
			level = max(level, below+1)
		}
		levels[s] = level
		return level, true
	}
	level, ok := walk(s)
	switch {
	case !ok:
		return sum, proto.Errorf(proto.CodeRule, "member() leads in a circle back to segment %q", id)
	case level > NestingMax+1 || sum.parts > ReachMax:
		return sum, proto.Errorf(proto.CodeRule, "segment %q would make member() reach too far: at most %d levels and %d parts of rules in all", id, NestingMax, ReachMax)
	}
	return sum, nil
}

// above lists the segments whose rules refer to s, however indirectly, each
// after those of them that it refers to.
func (s *segment) above() []*segment {
	if s == nil {
		return nil
	}
	var order []*segment
	seen := map[*segment]bool{s: true}
	var walk func(s *segment)
	walk = func(s *segment) {
		for _, d := range s.dependents {
			if !seen[d] {
				seen[d] = true
				walk(d)
				order = append(order, d)
			}
		}
	}
	walk(s)
	slices.Reverse(order)
	return order
}
