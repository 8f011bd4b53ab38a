package engine

import (
	"cmp"
	"fmt"
	"slices"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// timelineMax bounds the events that are gone through to tell since when somebody is in.
const timelineMax = 20_000

// happened is an event of a history, its body packed: what a history gives is its own.
type happened struct {
	at   proto.Millis
	body []byte
}

// timeline tells since when a member of a past time was one, and when time alone would
// have changed its membership. It gives all events up to then, of all identities that are
// judged together, in the order of their times to one evaluator, as if all had been one
// identity's; what that comes to must be what the rule says.
func (e *explained) timeline(x *proto.Explanation, rule *segments.Rule, when proto.Millis, rules func(proto.SegmentID) *segments.Rule) error {
	events, err := e.upTo(when)
	if err != nil {
		return err
	}
	if len(events) > timelineMax {
		x.Notes = append(x.Notes, fmt.Sprintf("since when, and until when, is not told: that is found out of %d events at most", timelineMax))
		return nil
	}
	g, err := programOf(e.spec.ID, rule, e.scope(), rules)
	if err != nil {
		return err
	}
	ev, m, d := segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	begin, devices := when, 0
	if len(events) > 0 {
		begin = events[0].at
	}
	var traits []proto.Prop
	for i := range e.all {
		devices += int(flag(e.all[i].Device))
		if f := e.all[i].Client(e.client.ID); f != nil {
			begin, traits = min(begin, f.First), append(traits, f.Memory.Traits()...)
		}
	}
	ev.SetDevices(devices)
	ev.Update(g, m, func(func(proto.Millis, *proto.EventBody) bool) {}, begin, d)
	ev.SetTraits(g, m, traits, begin, d)
	var body proto.EventBody
	for i, h := range events {
		if i%1024 == 0 && e.ctx.Err() != nil {
			return proto.Errorf(proto.CodeTimeout, "the histories were not gone through in time: %w", e.ctx.Err())
		}
		d.Reset()
		r := proto.NewReader(h.body)
		body.Read(&r)
		ev.Observe(g, m, &body, h.at, h.at, d)
	}
	d.Reset()
	ev.Advance(g, m, when, d)
	def, _ := g.Get(e.spec.ID)
	for _, ms := range m.Memberships() {
		if in := identity.In(ms, when); ms.Key != def.Key || in != x.In {
			continue
		}
		if ms.In {
			t := ms.Since.Time()
			x.Entered = &t
		}
		if ms.Next > when {
			t := ms.Next.Time()
			x.Changes = &t
		}
	}
	return nil
}

// upTo are the events of all identities that are judged together up to when, by time; one
// more than timelineMax if there are so many.
func (e *explained) upTo(when proto.Millis) (events []happened, err error) {
	for i := range e.all {
		s := &e.all[i]
		f := s.Client(e.client.ID)
		if f == nil {
			continue
		}
		snap := e.node.laneFor(e.at[i].Hash).acquire()
		h := &history{snap: snap, node: e.at[i], gen: s.Gen(), facts: f}
		h.walk(func(t proto.Millis, b *proto.EventBody) bool {
			if t <= when {
				events = append(events, happened{t, b.Append(nil)})
			}
			return e.ctx.Err() == nil && len(events) <= timelineMax
		})
		snap.release()
		if e.ctx.Err() != nil {
			return nil, proto.Errorf(proto.CodeTimeout, "the histories were not read in time: %w", e.ctx.Err())
		}
		if h.err != nil {
			return nil, h.err
		}
		if len(events) > timelineMax {
			break
		}
	}
	slices.SortStableFunc(events, func(a, b happened) int { return cmp.Compare(a.at, b.at) })
	return events, nil
}
