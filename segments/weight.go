package segments

import "kith/proto"

// weight is what a rule, or all that it reaches by member(), comes to.
type weight struct {
	parts int // of the rule, those of its conditions too
	terms int // of them, those that are asked at an instant
	turns int // instants at which time alone may make one of these another
	folds int // amounts that are gone through for them
}

// turnsOther is how often time makes of what is no sum another value: a count
// passes its threshold, equals it, and passes it again; the least comes to
// the threshold, passes it, and at last there is none.
const turnsOther = 3

func (n *node) weigh() (w weight) {
	w.terms = 1
	switch {
	case n.op == nodeSum && n.window != 0:
		w.turns = AmountsMax
	case n.aggregates() && n.window != 0:
		w.turns = turnsOther
	}
	if n.op == nodeSum || n.op == nodeMin || n.op == nodeMax {
		w.folds = AmountsMax
	}
	for _, k := range n.kids {
		w = w.plus(k.weigh())
	}
	return w
}

func (w weight) plus(x weight) weight {
	return weight{w.parts + x.parts, w.terms + x.terms, w.turns + x.turns, w.folds + x.folds}
}

// most is what is more of each.
func (w weight) most(x weight) weight {
	return weight{max(w.parts, x.parts), max(w.terms, x.terms), max(w.turns, x.turns), max(w.folds, x.folds)}
}

// ahead is how many steps it takes at most to look ahead to when time alone
// changes the rule's value.
func (w weight) ahead() int { return w.folds + (1+w.turns)*w.terms }

// reach is the weight of all that s reaches by member(), its own rule included.
func (s *segment) reach() (sum weight) {
	if len(s.refs) == 0 {
		return s.def.Rule.weight
	}
	seen := map[*segment]bool{}
	var walk func(s *segment)
	walk = func(s *segment) {
		if seen[s] {
			return
		}
		seen[s] = true
		sum = sum.plus(s.def.Rule.weight)
		for _, r := range s.refs {
			walk(r)
		}
	}
	walk(s)
	return sum
}

// weigh brings p.ahead up to date.
func (p *Program) weigh() {
	for s := range p.unweighed {
		p.ahead -= s.ahead
		s.ahead = s.reach().ahead()
		p.ahead += s.ahead
	}
	clear(p.unweighed)
}

// Ahead is how many steps it takes at most to look ahead to when time alone changes the
// value of what answers for a segment, with all that it reaches by member(): 0 of one that
// is not defined. The sum over all that is defined, and over what waits beside it, is
// bounded by AheadMax where something is to be saved.
func (p *Program) Ahead(id proto.SegmentID) int {
	p.weigh()
	if s := p.byID[id]; s != nil {
		return s.ahead
	}
	return 0
}

// AheadOf is Ahead as it would be with d, of which Check has no doubt.
func (p *Program) AheadOf(d Definition) (int, error) {
	refs, err := p.refs(d)
	if err != nil {
		return 0, err
	}
	after := proposal{self: p.byID[d.ID], refs: refs, weight: d.Rule.weight}
	sum, err := after.check(after.self, d.ID)
	return sum.ahead(), err
}

// afford is check with the bounds of what rules cost at an event. They are for
// what is to be saved: what was saved before there were any is obeyed.
func (p *Program) afford(d Definition, beside bool) error {
	refs, err := p.check(d, beside)
	if err != nil {
		return err
	}
	if more := p.morePatterns(d, beside); more > 0 && p.patterns+more > PatternsMax {
		return proto.Errorf(proto.CodeRule, "with segment %q the patterns of this client's rules would have %d steps in all, more than %d: use startsWith, endsWith, contains or in where they do, lower the numbers in braces, or delete a segment", d.ID, p.patterns+more, PatternsMax)
	}
	p.weigh()
	more, err := p.checkReach(d, refs, beside)
	if err == nil && more > 0 && p.ahead+more > AheadMax {
		err = proto.Errorf(proto.CodeRule, "with segment %q one event could have the rules of this client look ahead over %d steps, more than %d (a sum with a window takes %d for each part of its rule and of those that refer to it by member()): leave windows of sums out, sum in fewer rules, or delete a segment", d.ID, p.ahead+more, AheadMax, AmountsMax)
	}
	return err
}

// morePatterns is how many steps of patterns more than now there would be with d.
func (p *Program) morePatterns(d Definition, beside bool) (more int) {
	gone := p.replacedBy(d, beside)
	preds := map[predID]*predicate{} // that only what is gone uses
	for _, s := range gone {
		more -= s.def.Rule.traitPatterns
		for _, q := range s.def.Rule.preds {
			if p.preds[q.id].without(gone) == noNeed {
				preds[q.id] = q
			}
		}
	}
	for _, q := range preds {
		more -= q.patterns
	}
	for _, q := range d.Rule.preds {
		if p.preds[q.id] == nil || preds[q.id] != nil {
			more += q.patterns
		}
	}
	return more + d.Rule.traitPatterns
}
