package engine

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"kith/actors"
	"kith/proto"
)

// This file answers with daily totals, without those of few.

// aggregateAnswerMax bounds the days of one answer.
const aggregateAnswerMax = 366

// Aggregates are a client's totals of the days from first to last. With a floor
// nothing is told of fewer identities than it, nor can it be had by subtraction:
// what few did is added up under Other, with more if those would be too few.
func (n *Node) Aggregates(ctx context.Context, client proto.ClientInfo, by string, first, last proto.Day, floor int) (proto.Aggregates, error) {
	out := proto.Aggregates{By: by, Days: []proto.AggregateDay{}, Partitions: proto.Answered{Of: proto.Partitions}}
	if by != "event" && by != "campaign" {
		return out, proto.Errorf(proto.CodeInvalid, "by %q is unknown: use event or campaign", by)
	}
	if first > last || last-first >= aggregateAnswerMax {
		return out, proto.Errorf(proto.CodeInvalid, "from %s to %s is no span of 1 to %d days: ask for less", first, last, aggregateAnswerMax)
	}
	days := map[proto.Day]dayCells{}
	for _, l := range n.lanes {
		if l.stopped() {
			continue
		}
		if err := l.addTotals(ctx, client.ID, first, last, days); err != nil {
			return out, err
		}
		out.Partitions.Answered += len(l.partitions)
	}
	today := proto.DayOf(n.config.Now())
	for _, day := range slices.Sorted(maps.Keys(days)) {
		x, few := tellDay(days[day], by, floor)
		x.Day, x.SoFar = day, day == today
		if few {
			out.Below = floor
		}
		out.Days = append(out.Days, x)
	}
	return out, n.mayAnswerAll()
}

// addTotals adds what the lane has of the client's days.
func (l *lane) addTotals(ctx context.Context, client proto.ClientID, first, last proto.Day, days map[proto.Day]dayCells) error {
	snap := l.acquire()
	defer snap.release()
	return scanTotals(snap, l.id, client, first, last, func(at clientDay, d dayCells) error {
		if days[at.day] == nil {
			days[at.day] = d
			return ctx.Err()
		}
		days[at.day].join(d)
		return ctx.Err()
	})
}

// tellDay is what may be told of a day; few: something may not.
func tellDay(d dayCells, by string, floor int) (x proto.AggregateDay, few bool) {
	if c := d[cellKey{kind: actors.TallyNew}]; c != nil {
		x.NewIdentities, few = tellCount(c.count, c.count, floor)
	} else {
		x.NewIdentities, few = tellCount(0, 0, floor)
	}
	names := map[string]*proto.AggregateCounts{}
	tell := func(kind actors.TallyKind, field func(*proto.AggregateCounts) **uint64) *cell {
		shown, other, all := protect(d, kind, floor)
		for name, count := range shown {
			if names[name] == nil {
				names[name] = &proto.AggregateCounts{}
			}
			*field(names[name]) = &count
		}
		if len(shown) < d.names(kind) {
			few = few || floor > 0
		}
		if other != nil {
			if x.Other == nil {
				x.Other = &proto.AggregateCounts{}
			}
			*field(x.Other) = &other.count
		}
		return all
	}
	if by == "event" {
		all := tell(actors.TallyEvent, func(c *proto.AggregateCounts) **uint64 { return &c.Count })
		var below bool
		x.Events, below = tellCount(all.count, uint64(all.people.AtLeast()), floor)
		few = few || below
	} else {
		// A kind's sum is that of the event of its name: where that is kept back,
		// so are its parts.
		events, _, _ := protect(d, actors.TallyEvent, floor)
		for _, k := range campaignKinds {
			if _, told := events[k.event]; told || floor == 0 {
				tell(k.kind, k.field)
			} else {
				few = few || d[cellKey{actors.TallyEvent, k.event}] != nil
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		x.Names = append(x.Names, proto.AggregateName{Name: name, AggregateCounts: *names[name]})
	}
	return x, few
}

// campaignKinds are what is counted of campaigns.
var campaignKinds = []struct {
	kind  actors.TallyKind
	event string
	field func(*proto.AggregateCounts) **uint64
}{
	{actors.TallyImpression, "impression", func(c *proto.AggregateCounts) **uint64 { return &c.Impressions }},
	{actors.TallyClick, "click", func(c *proto.AggregateCounts) **uint64 { return &c.Clicks }},
	{actors.TallyConversion, "conversion", func(c *proto.AggregateCounts) **uint64 { return &c.Conversions }},
}

// tellCount is a count of so many people, nil if they are fewer than the floor.
func tellCount(count, people uint64, floor int) (told *uint64, few bool) {
	if floor > 0 && people < uint64(floor) {
		return nil, true
	}
	return &count, false
}

// protect gives the counts of names that may be told, and what is left, nil if
// there is nothing or it may not be told; all is what they come to. Whoever
// subtracts what is told from all gets what is left, which is of nobody or of at
// least as many as the floor, or then nothing is told.
func protect(d dayCells, kind actors.TallyKind, floor int) (shown map[string]uint64, other, all *cell) {
	type named struct {
		name string
		*cell
	}
	rest := &cell{}
	all = &cell{}
	var list []named
	for k, c := range d {
		switch {
		case k.kind != kind:
			continue
		case k.name == "" || floor > 0 && c.people.AtLeast() < floor:
			rest.add(c)
		default:
			list = append(list, named{k.name, c})
		}
		all.add(c)
	}
	slices.SortFunc(list, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.people.AtLeast(), b.people.AtLeast()), cmp.Compare(a.count, b.count), cmp.Compare(a.name, b.name))
	})
	for len(list) > 0 && rest.count > 0 && rest.people.AtLeast() < floor {
		rest.add(list[0].cell)
		list = list[1:]
	}
	shown = map[string]uint64{}
	for _, x := range list {
		shown[x.name] = x.count
	}
	if rest.count == 0 || floor > 0 && rest.people.AtLeast() < floor {
		return shown, nil, all
	}
	return shown, rest, all
}
