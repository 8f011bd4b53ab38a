package segments

import (
	"slices"

	"kith/proto"
)

// Mentions lists what the rule looks at: each attribute once with all that it is
// compared with, and the segments that member() names. What the language makes of
// a rule (canonical order, words made small) does not matter to it.
func (r *Rule) Mentions() (list []proto.RuleMention) {
	at := map[attr]int{}
	note := func(a attr, lits []proto.Value) {
		i, ok := at[a]
		if !ok {
			i = len(list)
			at[a] = i
			list = append(list, proto.RuleMention{Text: string(a.append(nil)), Name: a.key})
		}
		list[i].Values = append(list[i].Values, lits...)
	}
	r.root.walk(func(n *node) {
		if n.op == nodeMember {
			list = append(list, proto.RuleMention{Text: n.String(), Member: n.member})
		}
		if n.op >= nodeSum && n.op <= nodeDistinct {
			note(n.of, nil)
		}
		for _, p := range []*pred{n.pred, n.then} {
			p.walk(func(leaf *pred) { note(leaf.attr, slices.Clone(leaf.lits)) })
		}
	})
	return list
}

// walk visits the part and all below it.
func (n *node) walk(visit func(*node)) {
	visit(n)
	for _, k := range n.kids {
		k.walk(visit)
	}
}

// walk visits the leaves of p, which may be nil.
func (p *pred) walk(visit func(*pred)) {
	if p == nil {
		return
	}
	if p.op >= predCmp {
		visit(p)
	}
	for _, k := range p.kids {
		p := k
		p.walk(visit)
	}
}
