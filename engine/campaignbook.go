package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	gproto "google.golang.org/protobuf/proto"

	"kith/internal/fair"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// This file keeps two campaign reports from telling by their difference what
// neither of them tells. What was told is in the control stream before it is told:
// neither a restart nor another node forgets it.

// Bounds of what a client's keys may ask on a day.
const (
	campaignReportsMax = 200 // distinct
	campaignRivalsMax  = 32  // of one campaign, each of which is counted beside the others

	// campaignConditionMax bounds the bytes of a conversion's condition, which is
	// written down.
	campaignConditionMax = 2048
	// campaignTries is how often a report is made anew because another node told one
	// meanwhile.
	campaignTries = 4
)

// campaigns are the reports of a node.
type campaigns struct {
	queue *fair.Queue // of those that go through all histories: one does at a time
	// For tests: the histories were gone through; it is looked who was forgotten
	// meanwhile; a report is written down.
	scanned, looked, told func()
}

func newCampaigns() campaigns { return campaigns{queue: fair.New(1)} }

// campaignBook is what a client's keys were told of.
type campaignBook = segments.DayBook[*pb.Campaign]

// campaignBook finds or makes a client's. The registry's lock is held.
func (r *registry) campaignBook(c proto.ClientID) *campaignBook {
	b := r.told[c]
	if b == nil {
		b = &campaignBook{}
		r.told[c] = b
	}
	return b
}

// campaignTold is what is known of earlier reports when one is begun.
type campaignTold struct {
	day    proto.Day
	told   int              // on it and the day before
	known  bool             // the same report is among them
	rivals []*campaignRival // in the order in which they were told
	before int              // of which so many were told before the same report first was
	self   *campaignRival   // the new report, whose metrics are compared with one another
}

// campaignRival is a report that was told, as it would be now.
type campaignRival struct {
	spec  campaignSpec
	mine  *campaignSpec           // the new report's
	users map[campaignCell]uint64 // who are in a cell
	apart map[campaignPair]uint64 // who are there more or less often than in the new report, or as more or fewer units
	only  map[campaignPair]uint64 // who are there in one of the two only
	often map[campaignPair]uint64 // of days: who are there more or less often than the new report would have them, were it about that day
	bins  [frequencyBins]uint64   // who are in a bin of the frequency as more or fewer units
	same  bool                    // it goes by the same property
	// shared says of a metric of the new report and of one of this that some event
	// counts in both, or may; alike that some would if the new one were about all days.
	shared, alike [metrics][metrics]bool
}

// campaignPair is a cell of a rival, and the new report's of a metric that may count
// the same events.
type campaignPair struct {
	campaignCell
	mine campaignMetric
}

func newCampaignRival(s campaignSpec, mine *campaignSpec) *campaignRival {
	return &campaignRival{spec: s, mine: mine, users: map[campaignCell]uint64{}, apart: map[campaignPair]uint64{}, only: map[campaignPair]uint64{}, often: map[campaignPair]uint64{}}
}

// campaignTold finds the other reports of the campaign that were told on the day or
// the day before. CodeRateLimited if one more is too many. A clock that is set back
// begins no new day.
func (r *registry) campaignTold(client proto.ClientID, s *campaignSpec, now proto.Day) (x campaignTold, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return x, r.fault
	}
	b := r.campaignBook(client)
	x.day, x.self = b.Day(now), newCampaignRival(*s, s)
	today, before := b.On(x.day)
	x.told = len(today) + len(before)
	same, first := 0, true
	for i, old := range slices.Concat(before, today) {
		ofToday := i >= len(before)
		switch {
		case gproto.Equal(old, s.record(client, proto.Day(old.Day))):
			x.known = x.known || ofToday
			if first {
				x.before, first = len(x.rivals), false
			}
			continue
		case old.Campaign != s.campaign:
			continue
		case ofToday:
			same++
		}
		spec, err := specOfRecord(old)
		if err != nil {
			return x, proto.Errorf(proto.CodeFloor, "a report that was told on %s cannot be compared with this one by this build of kith: ask in two days: %w", proto.Day(old.Day), err)
		}
		rival := newCampaignRival(spec, s)
		rival.same = spec.by == s.by
		x.rivals = append(x.rivals, rival)
	}
	if first {
		x.before = len(x.rivals)
	}
	if !x.known && (len(today) >= campaignReportsMax || same >= campaignRivalsMax) {
		return x, proto.Errorf(proto.CodeRateLimited, "%d distinct reports of a campaign, or %d in all, were asked for on %s, the most that a client's keys may: ask for one of them again, or tomorrow (UTC)", campaignRivalsMax, campaignReportsMax, x.day)
	}
	return x, nil
}

// tellCampaign writes a report down that is about to be told. Without ok another one
// was faster, with which it must be compared.
func (n *Node) tellCampaign(ctx context.Context, client proto.ClientID, s *campaignSpec, x *campaignTold) (ok bool, err error) {
	if x.known {
		return true, nil
	}
	seq, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		b := n.registry.campaignBook(client)
		if today, before := b.On(x.day); b.Day(x.day) > x.day || len(today)+len(before) != x.told {
			return nil, nil
		}
		return &pb.Control{Body: &pb.Control_Campaign{Campaign: s.record(client, x.day)}}, nil
	})
	return seq > 0, err
}

// compare notes what a person is in both reports; wide is the person in the new one if
// that were about all days of both.
func (r *campaignRival) compare(mine, wide, other *personSum, sign int) {
	for x, n := range other.events {
		if !r.holds(x) {
			continue
		}
		r.users[x] += uint64(sign)
		for m := range metrics {
			y, pair := x, campaignPair{x, m}
			y.metric = m
			if !r.paired(pair) {
				continue
			}
			if mine.events[y] != n || mine.units[y] != other.units[x] {
				r.apart[pair] += uint64(sign)
			}
			if mine.events[y] == 0 {
				r.only[pair] += uint64(sign)
			}
			if x.of == cellDay && wide.events[y] != n {
				r.often[pair] += uint64(sign)
			}
		}
	}
	for y := range mine.events {
		for m := range metrics {
			pair := campaignPair{y, y.metric}
			pair.metric = m
			if r.paired(pair) && other.events[pair.campaignCell] == 0 && r.holds(pair.campaignCell) {
				r.apart[pair] += uint64(sign)
				r.only[pair] += uint64(sign)
			}
		}
	}
	for y := range wide.events {
		for m := range metrics {
			pair := campaignPair{y, y.metric}
			pair.metric = m
			if y.of == cellDay && r.paired(pair) && other.events[pair.campaignCell] == 0 {
				r.often[pair] += uint64(sign)
			}
		}
	}
	for i, n := range mine.bins {
		if n != other.bins[i] {
			r.bins[i] += uint64(sign)
		}
	}
}

// meet notes as what one and the same event may count in both reports.
func (r *campaignRival) meet(mine, wide, other [metrics]bool) {
	for m := range metrics {
		for k, there := range other {
			r.shared[m][k] = r.shared[m][k] || mine[m] && there
			r.alike[m][k] = r.alike[m][k] || wide[m] && there
		}
	}
}

// rivalCellsMax bounds the cells that are compared; what is beyond makes the
// report one that cannot be told.
const rivalCellsMax = 16 * campaignValuesMax

// holds reports whether a cell is compared: values of another property are not.
func (r *campaignRival) holds(x campaignCell) bool {
	if x.of != cellValue {
		return true
	}
	_, there := r.users[x]
	return r.same && (there || len(r.users)+len(r.apart) < rivalCellsMax)
}

// paired reports whether two metrics are compared: those that are called alike, and
// what counts an event that is called alike, be it an impression or a click. Any event
// may be a conversion, whose value is that of another one.
func (r *campaignRival) paired(x campaignPair) bool {
	switch {
	case x.mine == x.metric:
		return true
	case x.mine == metricConversions || x.metric == metricConversions:
		return x.of != cellValue
	}
	return r.mine.event(x.mine) == r.spec.event(x.metric)
}

// bothTold reports whether two numbers that may be subtracted are both told.
func (c *campaignScan) bothTold(r *campaignRival, x campaignPair, floor uint64) bool {
	mine := x.campaignCell
	mine.metric = x.mine
	return (x.mine == x.metric || r.shared[x.mine][x.metric]) && c.met(mine).users >= floor && r.users[x.campaignCell] >= floor
}

// reports are the rivals and the report itself, in the order in which they were told.
func (c *campaignScan) reports() []*campaignRival {
	return slices.Insert(slices.Clone(c.rivals), c.before, c.self)
}

// checkRivals refuses a report that differs from another one, or one of its metrics
// from another of them, in a number that both tell by what fewer users than the floor
// did. Whoever has no floor is told all.
func (c *campaignScan) checkRivals(floor uint64) error {
	if c.self == nil {
		return nil
	}
	few := func(n uint64) bool { return n > 0 && n < floor }
	for _, r := range c.reports() {
		met := campaignCell{metric: metricImpressions}
		over := len(r.users)+len(r.apart) >= rivalCellsMax
		if c.met(met).users >= floor && r.users[met] >= floor { // both tell bins
			over = over || slices.ContainsFunc(r.bins[:], few)
		}
		for x := range r.apart {
			if !over && !(c.bothTold(r, x, floor) && (few(r.apart[x]) || few(r.only[x]))) {
				continue
			}
			if r == c.self {
				return proto.Errorf(proto.CodeFloor, "this report's conversions differ by what fewer than %d people did from its impressions or its clicks: their difference would tell of too few. Ask with a condition that no impression or click meets, or that more of them do not", floor)
			}
			return proto.Errorf(proto.CodeFloor, "this report differs by what fewer than %d people did from the one of %s to %s that was told before: their difference would tell of too few. Ask for that one, or for one that differs more", floor, r.spec.first, r.spec.last)
		}
	}
	if err := c.checkParts(floor); err != nil {
		return err
	}
	return c.checkDays(floor)
}

// checkParts refuses a report if its conversions are some of its impressions or clicks
// and what fewer users than the floor did, or all of those but for this: how many they
// are of the former is known, as all but the first of each person.
func (c *campaignScan) checkParts(floor uint64) error {
	some := func(m campaignMetric) bool { return c.parts[campaignCell{metric: m}] > 0 }
	if c.met(campaignCell{metric: metricConversions}).users < floor || !some(partImpressions) && !some(partClicks) {
		return nil
	}
	with := map[campaignMetric]bool{}
	for m := partImpressions; m < parts; m++ {
		if some(m) && (m != leftImpressions || some(partImpressions)) && (m != leftClicks || some(partClicks)) {
			with[m] = true
		}
	}
	for x, n := range c.parts {
		if len(with) > 1 && with[x.metric] && n > 0 && n < floor {
			return proto.Errorf(proto.CodeFloor, "this report's conversions are impressions or clicks of its own, with or without what fewer than %d people did: they would tell of too few. Ask with a condition that no impression or click meets", floor)
		}
	}
	return nil
}

// counted names what a metric counts: under one name a day's number is one and the same
// in all reports.
func (s *campaignSpec) counted(m campaignMetric) string {
	if m != metricConversions {
		return strconv.Quote(s.event(m))
	}
	// A conversion of a user may be none of an identity: what was before it is another's.
	return fmt.Sprintf("%s\n%d %t %q %q", s.conversion, s.window, s.users, min(s.impression, s.click), max(s.impression, s.click))
}

// dayNumber is a number of a day, of what is counted under one name.
type dayNumber struct {
	day proto.Day
	of  int // 0: what the new report counts of the metric that is looked at
}

// daysTold are the days of a report that count in its sum of one metric.
type daysTold struct {
	users map[dayNumber]uint64 // of whom there were any
	left  map[dayNumber]bool   // those that no report tells
}

// daysTold are those of what a report counts of the metric k if it is, or some of it may
// be, what the new report counts of m; shown are those that it tells where earlier
// reports told of before. Nil of anything else, and where no sum is told. Where one
// may be the other a day's number is the same if nobody is in it more or less often.
func (r *campaignRival) daysTold(k campaignMetric, of int, m campaignMetric, before map[dayNumber]bool, floor uint64) (d *daysTold, shown []dayNumber) {
	if of != 0 && !r.alike[m][k] || r.users[campaignCell{metric: k}] < floor {
		return nil, nil
	}
	d = &daysTold{users: map[dayNumber]uint64{}, left: map[dayNumber]bool{}}
	days, numbers := make([]met, r.spec.last-r.spec.first+1), make([]dayNumber, r.spec.last-r.spec.first+1)
	for i := range days {
		x := campaignCell{metric: k, of: cellDay, day: r.spec.first + proto.Day(i)}
		numbers[i] = dayNumber{x.day, of}
		if r.often[campaignPair{x, m}] == 0 {
			numbers[i].of = 0
		}
		if days[i].users = r.users[x]; days[i].users > 0 {
			d.users[numbers[i]] = days[i].users
		}
	}
	for i, is := range newColumn(days, met{}, int(floor), func(i int) bool { return before[numbers[i]] }).shown {
		if is {
			shown = append(shown, numbers[i])
		}
	}
	return d, shown
}

// checkDays refuses a report if all that was told of days and sums together would
// tell of few: of what is left of a sum without the days that some report tells,
// or of how far one such rest is beyond another.
func (c *campaignScan) checkDays(floor uint64) error {
	c.elsewhere = map[campaignCell]bool{}
	for m := range metrics {
		for _, few := range c.restsOf(m, floor) {
			if few {
				return proto.Errorf(proto.CodeFloor, "together, or with those of reports that were told before, this one's days would tell of fewer than %d people: ask for one of those, or for a range with other days", floor)
			}
		}
	}
	return nil
}

// restsOf says of each rest that reports tell of a metric together whether it is of few.
func (c *campaignScan) restsOf(m campaignMetric, floor uint64) (few []bool) {
	var list []*daysTold
	told, names := map[dayNumber]bool{}, map[string]int{c.spec.counted(m): 0}
	for _, r := range c.reports() {
		if r == c.self {
			for n := range told {
				if n.of == 0 {
					c.elsewhere[campaignCell{metric: m, of: cellDay, day: n.day}] = true
				}
			}
		}
		var shown []dayNumber
		for k := range metrics {
			name := r.spec.counted(k)
			if _, known := names[name]; !known {
				names[name] = len(names)
			}
			if d, days := r.daysTold(k, names[name], m, told, floor); d != nil {
				list, shown = append(list, d), append(shown, days...)
			}
		}
		for _, n := range shown {
			told[n] = true
		}
	}
	for _, d := range list {
		for n := range d.users {
			if !told[n] {
				d.left[n] = true
			}
		}
	}
	for _, d := range list {
		few = append(few, len(d.left) < len(d.users) && d.few(nil, floor))
		for _, o := range list {
			few = append(few, o.within(d) && d.few(o.left, floor))
		}
	}
	return few
}

// few reports whether what is left without some days is of somebody, and maybe of
// fewer than the floor.
func (d *daysTold) few(without map[dayNumber]bool, floor uint64) bool {
	some, most := false, uint64(0)
	for n := range d.left {
		if !without[n] {
			some, most = true, max(most, d.users[n])
		}
	}
	return some && most < floor
}

// within reports whether all that is left of d is left of o too.
func (d *daysTold) within(o *daysTold) bool {
	for n := range d.left {
		if !o.left[n] {
			return false
		}
	}
	return len(d.left) > 0
}
