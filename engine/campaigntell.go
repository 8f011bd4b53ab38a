package engine

import (
	"maps"
	"slices"
	"strings"

	"kith/proto"
)

// This file is what a campaign report tells. A number of fewer users than the
// floor is not told, and where it could be had by subtracting others from a sum,
// another one of enough users is kept back with it.

// campaignColumns are one metric's numbers by row: events and people are nil
// where they may not be told.
type campaignColumn struct {
	met   []met
	shown []bool
}

// newColumn keeps another row back where one alone is not told: one that no other
// report told, if there is any.
func newColumn(list []met, rest met, floor int, elsewhere func(i int) bool) campaignColumn {
	c := campaignColumn{met: list, shown: make([]bool, len(list))}
	hidden := rest.events > 0
	most := rest.users // of one of those that are not shown
	for i, m := range list {
		if c.shown[i] = floor == 0 || m.users >= uint64(floor); !c.shown[i] {
			hidden, most = true, max(most, m.users)
		}
	}
	if !hidden || most >= uint64(floor) {
		return c
	}
	least := -1
	for i, m := range list {
		switch {
		case !c.shown[i]:
		case least < 0, elsewhere(least) && !elsewhere(i), elsewhere(least) == elsewhere(i) && m.users < list[least].users:
			least = i
		}
	}
	if least >= 0 {
		c.shown[least] = false
	}
	return c
}

func (c *campaignColumn) at(i int) (events, people *uint64) {
	if !c.shown[i] {
		return nil, nil
	}
	return &c.met[i].events, &c.met[i].people
}

// tell makes the answer.
func (c *campaignScan) tell(floor int) proto.CampaignReport {
	out := proto.CampaignReport{
		Campaign: c.spec.campaign, From: c.spec.first, To: c.spec.last, Unit: "identities", By: c.spec.by, Below: floor,
		Frequency: []proto.FrequencyBin{}, Days: []proto.CampaignDay{},
		Truncated: c.truncated, Exact: !c.truncated, Time: c.time, Partitions: proto.Answered{Of: proto.Partitions},
	}
	if c.spec.users {
		out.Unit = "users"
	}
	c.tellWhat(&out)
	c.tellAll(&out, floor)
	out.Frequency = append(out.Frequency, c.tellFrequency(floor)...)
	days := make([]campaignCell, 0, c.spec.last-c.spec.first+1)
	for d := c.spec.first; d <= c.spec.last; d++ {
		days = append(days, campaignCell{of: cellDay, day: d})
	}
	rows, _ := c.table(days, nil, floor)
	for i, row := range rows {
		out.Days = append(out.Days, proto.CampaignDay{Day: days[i].day, CampaignCounts: row})
	}
	if c.spec.by != "" {
		c.tellValues(&out, floor)
	}
	return out
}

// tellWhat says of what the report is.
func (c *campaignScan) tellWhat(out *proto.CampaignReport) {
	at := proto.Position{}
	for i, l := range c.lanes {
		if l == nil {
			out.Exact = false
			continue
		}
		at[l.id] = l.offset
		out.Partitions.Answered += len(c.node.lanes[i].partitions)
	}
	out.Position = at.String()
	keep := c.node.registry.retentions().of(c.client.ID).Sessions
	if since := (proto.MillisOf(c.time) - keep).Day() + 1; keep > 0 && c.spec.first < since {
		out.KeptSince, out.Exact = &since, false
	}
}

func (c *campaignScan) met(x campaignCell) met {
	if m := c.cells[x]; m != nil {
		return *m
	}
	return met{}
}

// tellAll tells the sums.
func (c *campaignScan) tellAll(out *proto.CampaignReport, floor int) {
	rows, _ := c.table([]campaignCell{{}}, nil, floor)
	out.CampaignCounts = rows[0]
	if n, of := out.Clicks, out.Impressions; n != nil && of != nil && *of > 0 {
		rate := float64(*n) / float64(*of)
		out.ClickThrough = &rate
	}
}

// table tells rows of cells of one kind, and what is left of the sum with the
// row rest and those that are not told.
func (c *campaignScan) table(cells []campaignCell, rest *campaignCell, floor int) (rows []proto.CampaignCounts, other proto.CampaignCounts) {
	rows = make([]proto.CampaignCounts, len(cells))
	for m := range metrics {
		list := make([]met, len(cells))
		for i, x := range cells {
			x.metric = m
			list[i] = c.met(x)
		}
		var left met
		if rest != nil {
			x := *rest
			x.metric = m
			left = c.met(x)
		}
		column := newColumn(list, left, floor, func(i int) bool {
			x := cells[i]
			x.metric = m
			return c.elsewhere[x]
		})
		for i := range rows {
			events, people := column.at(i)
			place(&rows[i], m, events, people)
		}
		if sum, told := column.left(left, floor); told {
			place(&other, m, &sum, nil)
		}
	}
	return rows, other
}

// left is how many events are in no row that is told.
func (c *campaignColumn) left(rest met, floor int) (sum uint64, told bool) {
	sum, most := rest.events, rest.users
	for i, m := range c.met {
		if !c.shown[i] {
			sum, most = sum+m.events, max(most, m.users)
		}
	}
	return sum, sum > 0 && most >= uint64(floor)
}

func place(x *proto.CampaignCounts, m campaignMetric, events, people *uint64) {
	switch m {
	case metricImpressions:
		x.Impressions, x.Reach = events, people
	case metricClicks:
		x.Clicks, x.Clickers = events, people
	default:
		x.Conversions, x.Converters = events, people
	}
}

// tellValues tells the values of which something is told, by name.
func (c *campaignScan) tellValues(out *proto.CampaignReport, floor int) {
	var cells []campaignCell
	for _, v := range slices.Sorted(maps.Keys(c.values)) {
		cells = append(cells, campaignCell{of: cellValue, value: v})
	}
	rows, other := c.table(cells, &campaignCell{of: cellValue}, floor)
	none := proto.CampaignCounts{}
	for i, row := range rows {
		if row != none {
			out.Values = append(out.Values, proto.CampaignValue{Value: strings.ToValidUTF8(cells[i].value, "\uFFFD"), CampaignCounts: row})
		}
	}
	if other != none {
		out.Other = &other
	}
}

// tellFrequency tells how many had how many impressions. Bins next to one another
// are one until they are of as many users as the floor.
func (c *campaignScan) tellFrequency(floor int) (bins []proto.FrequencyBin) {
	sum, from := uint64(0), 0
	for i, n := range c.frequency {
		sum += n
		few := floor > 0 && c.frequencyUsers[from][i] < uint64(floor)
		if few && i < frequencyBins-1 {
			continue
		}
		switch {
		case !few:
			bins = append(bins, proto.FrequencyBin{From: from + 1, To: i + 1, People: sum})
		case len(bins) > 0: // the last are too few for one of their own
			bins[len(bins)-1].People += sum
		default:
			return nil
		}
		sum, from = 0, i+1
	}
	bins[len(bins)-1].To = 0
	return bins
}
