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
	_, err := p.check(d)
	return err
}

// check gives the segments that d refers to as well.
func (p *Program) check(d Definition) ([]*segment, error) {
	if _, err := proto.ParseSegmentID(string(d.ID)); err != nil {
		return nil, err
	}
	if d.Rule == nil || d.Key == 0 {
		return nil, proto.Errorf(proto.CodeInvalid, "segment %q has no rule or no key", d.ID)
	}
	if s := p.byKey[d.Key]; s != nil && s.def.ID != d.ID {
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
	if sum := p.kept + d.Rule.root.kept(); sum > KeptMax {
		return nil, proto.Errorf(proto.CodeRule, "with segment %q the rules of this client would keep up to %d times of each identity, more than %d (an amount counts as three, a distinct value too): lower a threshold of count, days or distinct, sum fewer properties, or delete a segment", d.ID, sum, KeptMax)
	}
	return p.checkRefs(d)
}

func (p *Program) checkRefs(d Definition) ([]*segment, error) {
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
	after := proposal{self: p.byID[d.ID], refs: refs, cost: d.Rule.cost}
	if len(refs) == 0 {
		return refs, nil
	}
	for _, s := range append([]*segment{nil}, after.self.above()...) {
		if s == nil {
			s = after.self
		}
		if err := after.check(s, d.ID); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// proposal is a program as it would be with self, nil if new, defined anew.
type proposal struct {
	self *segment
	refs []*segment
	cost int
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
		refs, own := a.refs, a.cost
		if s != a.self {
			refs, own = s.refs, s.def.Rule.cost
		}
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
