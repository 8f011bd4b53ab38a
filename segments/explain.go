package segments

import (
	"slices"
	"time"

	"kith/proto"
)

// explainEventsMax is how many times of events a fact lists.
const explainEventsMax = 10

// Explain lists the parts of a segment's rule with the values they have for m
// at now, in the order of the text. m must be up to date. CodeNotFound if the
// segment is not defined.
func (p *Program) Explain(id proto.SegmentID, m *Memory, now proto.Millis) ([]proto.ExplanationFact, error) {
	s := p.byID[id]
	if s == nil {
		return nil, proto.Errorf(proto.CodeNotFound, "segment %q is not defined", clip(string(id)))
	}
	ev := NewEvaluator()
	ev.begin(p)
	ev.walk++
	x := explainer{ev: ev, m: m, now: now}
	x.walk(s.def.Rule.root, &s.tree)
	return x.facts, nil
}

type explainer struct {
	ev    *Evaluator
	m     *Memory
	now   proto.Millis
	facts []proto.ExplanationFact
}

func (x *explainer) walk(n *node, t *term) {
	if n.op >= nodeAnd && n.op <= nodeNot {
		for i := range n.kids {
			x.walk(n.kids[i], &t.kids[i])
		}
		return
	}
	holds, _ := x.ev.truth(t, x.m, x.now)
	f := proto.ExplanationFact{Expr: n.String(), Holds: holds, Value: holds}
	switch {
	case n.op == nodeTrait:
		f.Value = nil
		if v, ok := x.m.trait(n.pred.attr.key); ok {
			f.Value = v.String()
		}
	case t.track != nil:
		x.aggregate(&f, t)
	}
	x.facts = append(x.facts, f)
}

// aggregate sets the value; a number stops at one above the greatest that any
// rule compares it with.
func (x *explainer) aggregate(f *proto.ExplanationFact, t *term) {
	st := x.m.match(t.track.id)
	if st == nil {
		st = &noMatches
	}
	switch {
	case t.op == nodeLastAt || t.op == nodeLastAgo:
		f.Value = nil
		if st.hasLast {
			f.Value, f.Events = st.last.String(), times([]proto.Millis{st.last})
		}
	case t.op == nodeCount && t.window == 0:
		f.Value = int(st.total)
	case t.op == nodeCount:
		f.Value, f.Events = x.inWindow(st.times, t.window)
	case t.window == 0:
		f.Value, f.Events = len(st.days), times(st.days)
	default:
		f.Value, f.Events = x.inWindow(st.days, t.window)
	}
}

func (x *explainer) inWindow(list []proto.Millis, window proto.Millis) (int, []time.Time) {
	from, _ := slices.BinarySearch(list, x.now-window+1)
	return len(list) - from, times(list[from:])
}

// times gives the newest first.
func times(list []proto.Millis) []time.Time {
	var out []time.Time
	for i := len(list) - 1; i >= 0 && len(out) < explainEventsMax; i-- {
		out = append(out, list[i].Time())
	}
	return out
}
