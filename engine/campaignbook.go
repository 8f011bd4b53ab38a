package engine

import (
	"maps"
	"slices"
	"sync"

	"kith/proto"
)

// This file keeps two campaign reports from telling by their difference what
// neither of them tells.

// Bounds of what a client's keys may ask on a day.
const (
	campaignReportsMax = 200 // distinct
	campaignRivalsMax  = 32  // of one campaign, each of which is counted beside the others
)

// campaigns are the reports of a node.
type campaigns struct {
	working chan struct{} // held by the one under way
	scanned func()        // for tests: the histories were gone through

	mu    *sync.Mutex
	books map[proto.ClientID]*campaignBook
}

// campaignBook is what a client's keys were told of on a day and the one before.
// It is of the process.
type campaignBook struct {
	day           proto.Day
	today, before []campaignSpec
}

func newCampaigns() campaigns {
	return campaigns{working: make(chan struct{}, 1), mu: &sync.Mutex{}, books: map[proto.ClientID]*campaignBook{}}
}

// campaignRival is a report that was told, as it would be now.
type campaignRival struct {
	spec  campaignSpec
	users map[campaignCell]uint64 // who are in a cell
	apart map[campaignCell]uint64 // who are there more or less often than in the new report
	only  map[campaignCell]uint64 // who are there in one of the two only
	bins  [frequencyBins]uint64   // likewise, of how often people met the campaign
	same  bool                    // it goes by the same property
}

// rivals are the other reports of the campaign that were told on the day or the
// day before. CodeRateLimited if one more is too many.
func (c *campaigns) rivals(client proto.ClientID, s *campaignSpec, today proto.Day) (list []*campaignRival, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.books, func(_ proto.ClientID, b *campaignBook) bool { return b.day+1 < today })
	b := c.books[client]
	if b == nil {
		b = &campaignBook{}
		c.books[client] = b
	}
	b.turn(today)
	same, known := 0, false
	for i, x := range slices.Concat(b.today, b.before) {
		if x.key() == s.key() {
			known = known || i < len(b.today)
			continue
		}
		if x.campaign != s.campaign {
			continue
		}
		if i < len(b.today) {
			same++
		}
		list = append(list, &campaignRival{spec: x, users: map[campaignCell]uint64{}, apart: map[campaignCell]uint64{}, only: map[campaignCell]uint64{}, same: x.by == s.by})
	}
	if !known && (len(b.today) >= campaignReportsMax || same >= campaignRivalsMax) {
		return nil, proto.Errorf(proto.CodeRateLimited, "%d distinct reports of a campaign, or %d in all, were asked for on %s, the most that a client's keys may: ask for one of them again, or tomorrow (UTC)", campaignRivalsMax, campaignReportsMax, b.day)
	}
	return list, nil
}

// turn begins a new day; a clock that is set back begins none.
func (b *campaignBook) turn(today proto.Day) {
	switch {
	case today == b.day+1:
		b.before, b.today, b.day = b.today, nil, today
	case today > b.day:
		b.before, b.today, b.day = nil, nil, today
	}
}

// told writes down that a report was told.
func (c *campaigns) told(client proto.ClientID, s *campaignSpec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.books[client]
	key := s.key()
	if !slices.ContainsFunc(b.today, func(x campaignSpec) bool { return x.key() == key }) {
		b.today = append(b.today, *s)
	}
}

// compare notes what a person is in both reports.
func (r *campaignRival) compare(mine, other counts, sign int) {
	for x, n := range other {
		if !r.holds(x) {
			continue
		}
		r.users[x] += uint64(sign)
		if mine[x] != n {
			r.apart[x] += uint64(sign)
		}
		if mine[x] == 0 {
			r.only[x] += uint64(sign)
		}
	}
	for x := range mine {
		if other[x] == 0 && r.holds(x) {
			r.apart[x] += uint64(sign)
			r.only[x] += uint64(sign)
		}
	}
	met := campaignCell{metric: metricImpressions}
	if a, b := min(mine[met], frequencyBins), min(other[met], frequencyBins); a != b {
		for _, bin := range []uint64{a, b} {
			if bin > 0 {
				r.bins[bin-1] += uint64(sign)
			}
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
	_, there := r.apart[x]
	return r.same && (there || len(r.users)+len(r.apart) < rivalCellsMax)
}

// checkRivals refuses a report that differs from another one in a number that
// both tell by what fewer users than the floor did.
func (c *campaignScan) checkRivals(floor uint64) error {
	few := func(n uint64) bool { return n > 0 && n < floor }
	for _, r := range c.rivals {
		over := len(r.users)+len(r.apart) >= rivalCellsMax || slices.ContainsFunc(r.bins[:], few)
		for x := range r.apart {
			m := c.cells[x]
			told := m != nil && m.users >= floor && r.users[x] >= floor
			if over || told && (few(r.apart[x]) || few(r.only[x])) {
				return proto.Errorf(proto.CodeFloor, "this report differs by what fewer than %d people did from the one of %s to %s that was told before: their difference would tell of too few. Ask for that one, or for one that differs more", floor, r.spec.first, r.spec.last)
			}
		}
	}
	return nil
}
