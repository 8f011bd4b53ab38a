package segments

import (
	"slices"
	"time"

	"kith/proto"
)

// explainEventsMax is how many times of events a fact lists.
const explainEventsMax = 10

// Explain lists the parts of a segment's rule with the values they have for m
// at now, in the order of the text, for an identity that is no device. m must
// be up to date. CodeNotFound if the segment is not defined.
func (p *Program) Explain(id proto.SegmentID, m *Memory, now proto.Millis) ([]proto.ExplanationFact, error) {
	return NewEvaluator().Explain(p, id, m, now)
}

// Explain is Program.Explain with devices() as SetDevices says.
func (ev *Evaluator) Explain(p *Program, id proto.SegmentID, m *Memory, now proto.Millis) ([]proto.ExplanationFact, error) {
	s := p.byID[id]
	if s == nil {
		return nil, notDefined(id)
	}
	ev.begin(p)
	return ev.explain(s, m, now), nil
}

// ExplainUnion lists the parts of the rule of a segment of scope user as
// Explain does, over what Union judges. CodeInvalid if the scope is another.
func (ev *Evaluator) ExplainUnion(p *Program, id proto.SegmentID, shared []string, devices int, now proto.Millis) ([]proto.ExplanationFact, error) {
	s := p.byID[id]
	if s == nil {
		return nil, notDefined(id)
	}
	if s.def.Scope != ScopeUser {
		return nil, proto.Errorf(proto.CodeInvalid, "segment %q has scope identity: it is explained for one identity, not for a user", id)
	}
	defer ev.SetDevices(ev.devices)
	ev.devices = devices
	if err := ev.unite(p, shared, now); err != nil {
		return nil, err
	}
	facts := ev.explain(s, &ev.union.memory, now)
	ev.union.release()
	return facts, nil
}

func notDefined(id proto.SegmentID) error {
	return proto.Errorf(proto.CodeNotFound, "segment %q is not defined", clip(string(id)))
}

func (ev *Evaluator) explain(s *segment, m *Memory, now proto.Millis) []proto.ExplanationFact {
	ev.walk++
	x := explainer{ev: ev, m: m, now: now}
	x.walk(s.def.Rule.root, &s.tree)
	return x.facts
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
		f.Value = x.trait(n.pred)
	case n.op == nodeDevices:
		f.Value = x.ev.devices
	case t.track != nil:
		x.aggregate(&f, t)
	}
	x.facts = append(x.facts, f)
}

// trait is the value that satisfies the condition; if none does, the first that
// there is.
func (x *explainer) trait(leaf *pred) any {
	if v, holds := x.ev.witness(leaf, x.m); holds {
		return v.String()
	}
	if all := x.m.valuesOf(leaf.attr.key); len(all) > 0 {
		return all[0].Value.String()
	}
	return nil
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
		x.time(f, st.last, st.hasLast)
	case t.op == nodeFirstAt || t.op == nodeFirstAgo:
		x.time(f, st.first, st.hasFirst)
	case t.op >= nodeSum && t.op <= nodeMax:
		x.amount(f, t, st)
	case t.op == nodeDistinct:
		f.Value, f.Events = x.inWindow(st.times, t.window)
	case t.op == nodeSequence:
		if first, is := st.pair(); is && f.Holds {
			f.Events = times([]proto.Millis{first})
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

func (x *explainer) time(f *proto.ExplanationFact, t proto.Millis, is bool) {
	f.Value = nil
	if is {
		f.Value, f.Events = t.String(), times([]proto.Millis{t})
	}
}

// amount sets the sum, least or greatest; of no events there is none but a sum.
func (x *explainer) amount(f *proto.ExplanationFact, t *term, st *matches) {
	n, events := x.inWindow(st.times, t.window)
	f.Value, f.Events = nil, events
	fold := 0.0
	for k := range min(n, len(st.values)) {
		fold = t.fold(k, fold, amountOf(st.values[len(st.values)-1-k]))
	}
	if n > 0 || t.op == nodeSum {
		f.Value = fold
	}
}

func (x *explainer) inWindow(list []proto.Millis, window proto.Millis) (int, []time.Time) {
	if window == 0 {
		return len(list), times(list)
	}
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
