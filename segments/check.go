package segments

import (
	"slices"

	"kith/proto"
)

// Check says what Define would, and changes nothing: CodeSegment or
// CodeInvalid if d is not complete, CodeConflict if its key is taken,
// CodeNotFound if member() names a segment that is not defined, CodeRule if
// member() leads back to d or reaches too far.
func (p *Program) Check(d Definition) error {
	_, err := p.check(d, false)
	return err
}

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
	if sum := p.series + d.Rule.root.sum(need.series); sum > MemoryMax {
		return nil, proto.Errorf(proto.CodeRule, "with segment %q the sums, least and greatest amounts, distinct values and sequences of this client would ask for up to %d times of each identity, more than %d (an amount or a distinct value counts as three): sum fewer properties, or delete a segment", d.ID, sum, MemoryMax)
	}
	if sum := p.kept + d.Rule.root.sum(need.kept); sum > KeptMax {
		return nil, proto.Errorf(proto.CodeRule, "with segment %q the rules of this client would ask for up to %d times of each identity, more than %d (an amount counts as three, a distinct value too): lower a threshold of count, days or distinct, sum fewer properties, or delete a segment", d.ID, sum, KeptMax)
	}
	return p.checkRefs(d, beside)
}

// refs are the segments that d refers to.
func (p *Program) refs(d Definition) ([]*segment, error) {
	refs := make([]*segment, 0, len(d.Rule.refers))
	for _, id := range d.Rule.refers {
		if id == d.ID {
			return nil, proto.Errorf(proto.CodeRule, "segment %q refers to itself", d.ID)
		}
		s := p.byID[id]
		if s == nil {
			return nil, proto.Errorf(proto.CodeNotFound, "member(%q) names a segment that is not defined: define it first", string(id))
		}
		refs = append(refs, s)
	}
	return refs, nil
}

// checkRefs bounds what is reached by member() whichever of the versions that
// wait have begun to answer.
func (p *Program) checkRefs(d Definition, beside bool) ([]*segment, error) {
	refs, err := p.refs(d)
	if err != nil || len(refs) == 0 {
		return refs, err
	}
	after := proposal{self: p.byID[d.ID], refs: refs, cost: d.Rule.cost, beside: beside}
	if err := after.checkAll(d.ID); err != nil {
		if after.final = true; after.checkAll(d.ID) == nil {
			err = proto.Errorf(proto.CodeConflict, "while new versions of segments are filled from history, segment %q would make member() lead in a circle or reach too far: try again when they answer", d.ID)
		}
		return nil, err
	}
	return refs, nil
}

// proposal is a program as it would be with self, nil if new, defined anew.
type proposal struct {
	self   *segment
	refs   []*segment
	cost   int
	beside bool // what self is now goes on answering for a time
	final  bool // all that waits answers
}

// checkAll checks what self reaches, and what reaches it.
func (a *proposal) checkAll(id proto.SegmentID) error {
	todo, seen := []*segment{a.self}, map[*segment]bool{a.self: true}
	for ; len(todo) > 0; todo = todo[1:] {
		s := todo[0]
		if err := a.check(s, id); err != nil {
			return err
		}
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
	return nil
}

// versions gives what s, nil for a new one, may refer to and cost.
func (a *proposal) versions(s *segment) (refs []*segment, cost int) {
	old := s != nil
	if s == a.self {
		refs, cost = a.refs, a.cost
		old = old && a.beside && !a.final
	} else if s.next != nil {
		refs, cost = s.next.refs, s.next.def.Rule.cost
		old = !a.final
	}
	if old {
		refs, cost = slices.Concat(refs, s.refs), max(cost, s.def.Rule.cost)
	}
	return refs, cost
}

// check bounds what the rule of s, nil for a new one, reaches by member().
func (a *proposal) check(s *segment, id proto.SegmentID) error {
	levels := map[*segment]int{}
	cost := 0
	var walk func(s *segment) (level int, ok bool)
	walk = func(s *segment) (int, bool) {
		if level, seen := levels[s]; seen {
			return level, level > 0 // 0: still being walked, a circle
		}
		levels[s] = 0
		refs, own := a.versions(s)
		level := 1
		for cost += own; len(refs) > 0 && cost <= ReachMax; refs = refs[1:] {
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
		return proto.Errorf(proto.CodeRule, "member() leads in a circle back to segment %q", id)
	case level > NestingMax+1 || cost > ReachMax:
		return proto.Errorf(proto.CodeRule, "segment %q would make member() reach too far: at most %d levels and %d parts of rules in all", id, NestingMax, ReachMax)
	}
	return nil
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
