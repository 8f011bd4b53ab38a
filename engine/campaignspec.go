package engine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// Bounds of a campaign report.
const (
	campaignDaysMax   = 366
	campaignWindowMax = 90 * 24 * time.Hour
	campaignValuesMax = 1000 // of the property asked for; more are in other
	campaignNamesMax  = 4096 // values that are kept once for all who have them

	// The newest are kept of one person, or identity, in each report. How many others
	// it is compared with does not matter for that: they were told by the same bounds.
	touchesMax     = 1 << 15
	conversionsMax = 1 << 16
)

// campaignSpec is what a report asks, checked.
type campaignSpec struct {
	campaign, impression, click string
	conversion                  *segments.Condition
	first, last                 proto.Day
	window                      proto.Millis // after a touch, in which an event converts
	users                       bool         // histories of a user are one
	by                          string       // a property; "": none
}

func specOf(r *proto.CampaignRequest) (s campaignSpec, err error) {
	s = campaignSpec{
		campaign: r.Campaign, impression: cmp.Or(r.Impression, "impression"), click: cmp.Or(r.Click, "click"),
		first: r.From, last: r.To, users: r.Unit == "users", by: r.By,
	}
	if err := checkUnit(r.Unit); err != nil {
		return s, err
	}
	switch {
	case r.Campaign == "" || len(r.Campaign) > proto.PropTextBytesMax:
		return s, proto.Errorf(proto.CodeInvalid, `the body names no campaign: send {"campaign":"spring"}, the value of the events' property`)
	case len(s.impression) > proto.EventNameBytesMax || len(s.click) > proto.EventNameBytesMax || len(r.By) > proto.PropKeyBytesMax:
		return s, proto.Errorf(proto.CodeInvalid, "the name of an event or of a property is too long for one")
	case s.impression == s.click:
		return s, proto.Errorf(proto.CodeInvalid, "impression and click are both %q: name two events", s.click)
	case r.From > r.To || r.To-r.From >= campaignDaysMax:
		return s, proto.Errorf(proto.CodeInvalid, "from %s to %s is no span of 1 to %d days", r.From, r.To, campaignDaysMax)
	}
	window, err := segments.ParseWindow(cmp.Or(r.Window, "7d"))
	if err != nil {
		return s, err
	}
	if s.window = proto.Millis(window.Milliseconds()); window > campaignWindowMax {
		return s, proto.Errorf(proto.CodeInvalid, "the window %q is too long: use up to 90d", r.Window)
	}
	s.conversion, err = segments.ParseCondition(cmp.Or(r.Conversion, `event.name == "conversion"`))
	return s, err
}

// event is the name of the events that a metric counts, but for conversions.
func (s *campaignSpec) event(m campaignMetric) string {
	if m == metricClicks {
		return s.click
	}
	return s.impression
}

// record is the spec as it is written down when it is told.
func (s *campaignSpec) record(client proto.ClientID, day proto.Day) *pb.Campaign {
	b := &pb.Campaign{
		Client: uint32(client), Day: uint32(day), Campaign: s.campaign, From: uint32(s.first), To: uint32(s.last), By: s.by,
		Conversion: s.conversion.String(), Window: fmt.Sprint(int64(s.window), "ms"), Impression: s.impression, Click: s.click,
	}
	if s.users {
		b.Unit = "users"
	}
	return b
}

// specOfRecord is the spec that a record is of. Another build may not take it.
func specOfRecord(b *pb.Campaign) (campaignSpec, error) {
	return specOf(&proto.CampaignRequest{
		Campaign: b.Campaign, From: proto.Day(b.From), To: proto.Day(b.To), Unit: b.Unit, By: b.By,
		Conversion: b.Conversion, Window: b.Window, Impression: b.Impression, Click: b.Click,
	})
}

// touch is an impression or a click of the campaign.
type touch struct {
	at    proto.Millis
	click bool
	value string // of the property asked for
	event int    // which of the path's
	meets bool   // the condition of conversions
}

// conversion is an event that may be one; it may be a touch too.
type conversion struct {
	at    proto.Millis
	event int
	part  campaignMetric
}

// path is what one person did, as far as a report is about it.
type path struct {
	events      int
	touches     []touch
	conversions []conversion
	// What is from before it was too much, or 0.
	cut, cutConversions proto.Millis
}

// take adds an event, which is of the campaign or not, and says as what it may count.
func (p *path) take(s *campaignSpec, names nameSet, t proto.Millis, e *proto.EventBody, ours bool) (as [metrics]bool) {
	day := t.Day()
	if day > s.last || t < max(proto.MillisOf(s.first.Start())-s.window, p.cut) {
		return as
	}
	p.events++
	if ours && (e.Name == s.impression || e.Name == s.click) {
		x := touch{at: t, click: e.Name == s.click, event: p.events}
		as[metricImpressions], as[metricClicks] = day >= s.first && !x.click, day >= s.first && x.click
		if v, ok := e.Prop(s.by); ok && s.by != "" {
			x.value = names.keep(v.String())
		}
		p.touches = append(p.touches, x)
	}
	if day >= s.first && t >= p.cutConversions && s.conversion.Matches(e) {
		part := partOthers
		if i := len(p.touches) - 1; i >= 0 && p.touches[i].event == p.events {
			p.touches[i].meets = true
			part = p.touches[i].part()
		}
		p.conversions = append(p.conversions, conversion{t, p.events, part})
		as[metricConversions] = true
	}
	if len(p.touches) >= 2*touchesMax || len(p.conversions) >= 2*conversionsMax {
		p.shorten()
	}
	return as
}

// shorten leaves the newest of what there is too much of. A conversion from before the
// touches that are left would be none, or another one's.
func (p *path) shorten() {
	if n := len(p.touches) - touchesMax; n > 0 {
		p.sort()
		p.cut = p.touches[n].at
		p.touches = slices.Delete(p.touches, 0, n)
		p.conversions = slices.DeleteFunc(p.conversions, func(v conversion) bool { return v.at < p.cut })
	}
	if n := len(p.conversions) - conversionsMax; n > 0 {
		slices.SortFunc(p.conversions, func(a, b conversion) int { return cmp.Compare(a.at, b.at) })
		p.cutConversions = p.conversions[n].at
		p.conversions = slices.Delete(p.conversions, 0, n)
	}
}

func (p *path) sort() {
	slices.SortFunc(p.touches, func(a, b touch) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.value, b.value))
	})
}

// nameSet has a value once for all events and reports that have it.
type nameSet map[string]string

func (x nameSet) keep(v string) string {
	if kept, ok := x[v]; ok {
		return kept
	}
	if len(x) >= campaignNamesMax {
		clear(x)
	}
	v = clone(v)
	x[v] = v
	return v
}

// campaignMetric is what a report counts.
type campaignMetric uint8

const (
	metricImpressions campaignMetric = iota
	metricClicks
	metricConversions
	metrics
)

// The parts of conversions, which are not told: those that are impressions or clicks
// of the report too, and those that are not; and the impressions and clicks that would
// be conversions but for the condition.
const (
	partImpressions = metrics + iota
	partClicks
	partOthers
	leftImpressions
	leftClicks
	parts
)

func (x touch) part() campaignMetric {
	if x.click {
		return partClicks
	}
	return partImpressions
}

// campaignCell is one number of a report: of a metric in all, on a day, or of a
// value of the property asked for.
type campaignCell struct {
	metric campaignMetric
	of     cellOf
	day    proto.Day
	value  string
}

type cellOf uint8

const (
	cellAll cellOf = iota
	cellDay
	cellValue
)

// counts are how often each cell was met by one person.
type counts map[campaignCell]uint64

func (c counts) add(s *campaignSpec, m campaignMetric, day proto.Day, value string) {
	c[campaignCell{metric: m}]++
	c[campaignCell{metric: m, of: cellDay, day: day}]++
	if s.by != "" {
		c[campaignCell{metric: m, of: cellValue, value: value}]++
	}
}

// count says what a path comes to. A conversion counts at most once, on its own
// day and for the value of the last touch before it, which must be within the
// window and may lie before the first day.
func (p *path) count(s *campaignSpec, c counts) {
	if len(p.touches) > touchesMax || len(p.conversions) > conversionsMax {
		p.shorten()
	}
	p.sort()
	for _, x := range p.touches {
		switch day := x.at.Day(); {
		case day < s.first:
		case x.click:
			c.add(s, metricClicks, day, x.value)
		default:
			c.add(s, metricImpressions, day, x.value)
		}
	}
	for _, v := range p.conversions {
		if i := p.before(v); i >= 0 && v.at-p.touches[i].at <= s.window {
			c.add(s, metricConversions, v.at.Day(), p.touches[i].value)
		}
	}
}

// parts counts what conversions are made of, in all and by day.
func (p *path) parts(s *campaignSpec, c counts) {
	add := func(v conversion) {
		if i := p.before(v); i >= 0 && v.at-p.touches[i].at <= s.window {
			c[campaignCell{metric: v.part}]++
			c[campaignCell{metric: v.part, of: cellDay, day: v.at.Day()}]++
		}
	}
	for _, v := range p.conversions {
		add(v)
	}
	for _, x := range p.touches {
		if x.at.Day() >= s.first && !x.meets {
			add(conversion{x.at, x.event, x.part() + leftImpressions - partImpressions})
		}
	}
}

// before is the last touch up to a conversion that is another event, -1 if there
// is none. Touches are in order.
func (p *path) before(v conversion) int {
	i, _ := slices.BinarySearchFunc(p.touches, v.at+1, func(x touch, t proto.Millis) int { return cmp.Compare(x.at, t) })
	if i--; i >= 0 && p.touches[i].event == v.event {
		i--
	}
	return i
}

func (p *path) reset() { *p = path{touches: p.touches[:0], conversions: p.conversions[:0]} }
