package engine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// What is gone through to tell since when somebody is in is bounded, as all of it is
// looked at in the order of its times: events, and bytes of them.
const (
	timelineMax      = 20_000
	timelineBytesMax = 32 << 20
)

// happened is an event of a history, its body packed: what a history gives is its own.
type happened struct {
	at   proto.Millis
	body []byte
}

// timeline tells since when a member of a past time was one, and when time alone would
// have changed its membership. It gives all events up to then, of all identities that are
// judged together, in the order of their times to one evaluator, as if all had been one
// identity's; what that comes to must be what the rule says.
func (p *pastReading) timeline(x *proto.Explanation) error {
	events, whole, err := p.upTo(p.when)
	if err != nil {
		return err
	}
	if !whole {
		p.untimed(x, fmt.Sprintf("that is found out of %d events at most, and %d MiB", timelineMax, timelineBytesMax>>20))
		return nil
	}
	traits, alike := p.traits()
	if _, _, asked := p.looks(); asked && !alike {
		p.untimed(x, "the identities of the user have different values of a trait")
		return nil
	}
	g, err := programOf(p.spec.ID, p.rule, p.scope(), p.member)
	if err != nil {
		return err
	}
	ev, m, d := segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	begin := p.when
	if len(events) > 0 {
		begin = events[0].at
	}
	for i := range p.all {
		if f := p.all[i].Client(p.client.ID); f != nil {
			begin = min(begin, f.First)
		}
	}
	ev.SetDevices(p.devices())
	ev.Update(g, m, func(func(proto.Millis, *proto.EventBody) bool) {}, begin, d)
	ev.SetTraits(g, m, traits, begin, d)
	var body proto.EventBody
	for _, h := range events {
		if err := p.ctx.Err(); err != nil {
			return proto.Errorf(proto.CodeTimeout, "the histories were not gone through in time: %w", err)
		}
		d.Reset()
		r := proto.NewReader(h.body)
		body.Read(&r)
		ev.Observe(g, m, &body, h.at, h.at, d)
	}
	d.Reset()
	ev.Advance(g, m, p.when, d)
	p.date(x, g, m)
	return nil
}

// date takes the times over from what a memory came to.
func (p *pastReading) date(x *proto.Explanation, g *segments.Program, m *segments.Memory) {
	def, _ := g.Get(p.spec.ID)
	at := slices.IndexFunc(m.Memberships(), func(ms segments.Membership) bool { return ms.Key == def.Key })
	ms := segments.Membership{}
	if at >= 0 {
		ms = m.Memberships()[at]
	}
	if identity.In(ms, p.when) != x.In {
		p.untimed(x, "it is more than what is kept of one identity")
		return
	}
	if ms.Next > p.when {
		t := ms.Next.Time()
		x.Changes = &t
	}
	if !ms.In {
		return
	}
	if !p.trimmed(p.when) && p.trimmed(ms.Since) { // else it is in the notes
		x.Notes = append(x.Notes, fmt.Sprintf("since when is not told: that may rest on events from before %s, which may have expired", p.keptFrom().Time().Format(time.RFC3339)))
		return
	}
	t := ms.Since.Time()
	x.Entered = &t
}

func (p *pastReading) untimed(x *proto.Explanation, why string) {
	x.Notes = append(x.Notes, "since when it is so, and until when, is not told: "+why)
}

// traits are those of all identities that are judged together; alike says that none has
// one of another value than another.
func (p *pastReading) traits() (all []proto.Prop, alike bool) {
	alike = true
	for i := range p.all {
		f := p.all[i].Client(p.client.ID)
		if f == nil {
			continue
		}
		for _, t := range f.Memory.Traits() {
			k := slices.IndexFunc(all, func(o proto.Prop) bool { return o.Key == t.Key })
			if k < 0 {
				all = append(all, t)
			} else if all[k].Value != t.Value {
				alike = false
			}
		}
	}
	return all, alike
}

// upTo are the events of all identities that are judged together up to when, by time;
// whole is false if they are too many.
func (e *explained) upTo(when proto.Millis) (events []happened, whole bool, err error) {
	size := 0
	whole = true
	for i := range e.all {
		h, release := e.history(i)
		if h == nil {
			continue
		}
		h.walk(func(t proto.Millis, b *proto.EventBody) bool {
			if t <= when {
				events = append(events, happened{t, b.Append(nil)})
				size += len(events[len(events)-1].body)
				whole = len(events) <= timelineMax && size <= timelineBytesMax
			}
			return whole && e.ctx.Err() == nil
		})
		release()
		if e.ctx.Err() != nil {
			return nil, false, proto.Errorf(proto.CodeTimeout, "the histories were not read in time: %w", e.ctx.Err())
		}
		if h.err != nil || !whole {
			return nil, whole, h.err
		}
	}
	slices.SortStableFunc(events, func(a, b happened) int { return cmp.Compare(a.at, b.at) })
	return events, true, nil
}
