package engine_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

const floor = 50

// refusal is the code with which a report is refused, "" if it is told.
func refusal(t *testing.T, n *engine.Node, c proto.ClientInfo, r proto.CampaignRequest) proto.Code {
	t.Helper()
	_, err := n.CampaignReport(t.Context(), c, span(r), floor)
	if err == nil {
		return ""
	}
	return proto.CodeOf(err)
}

// Of fewer people than the floor nothing is told: no number, no bin, no day.
func TestCampaignFloor(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, crowdOf(floor-1, "v", "impression", "a", ago(1, 1)))
	got := report(t, n, c, proto.CampaignRequest{By: "creative"}, floor)
	none := proto.CampaignCounts{}
	if got.CampaignCounts != none || len(got.Frequency) > 0 || len(got.Values) > 0 || got.Other != nil || got.Below != floor {
		t.Error(numbersOf(t, got))
	}
	submitAll(t, n, c, crowdOf(floor, "v", "impression", "a", ago(1, 2)))
	if got = report(t, n, c, proto.CampaignRequest{By: "creative"}, floor); *got.Reach != floor || *got.Impressions != 2*floor-1 || got.Clicks != nil || got.ClickThrough != nil || got.Converters != nil {
		t.Error(numbersOf(t, got))
	}
	// One of them had one impression, the others two: one bin.
	if len(got.Frequency) != 1 || got.Frequency[0] != (proto.FrequencyBin{From: 1, People: floor}) {
		t.Error(got.Frequency)
	}
}

// Sixty devices of one person are one, whatever the unit; also where they fill
// several bins.
func TestCampaignFloorIsOfPeople(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	var list []did
	for i := range 60 {
		for range 1 + i%9 {
			list = append(list, did{fmt.Sprint("d", i), "impression", "c1", "a", ago(1, 1)})
		}
	}
	list = append(list, crowdOf(60, "d", "click", "a", ago(1, 2))...)
	for _, unit := range []string{"users", "identities"} { // each at a client of its own, or they are compared
		c, _ := grouped(t, n, proto.ClientName(unit))
		submitAll(t, n, c, list)
		for i := 1; i < 60; i++ {
			link(t, n, c, proto.Identity(fmt.Sprint("browser:d", i/2)), proto.Identity(fmt.Sprint("browser:d", i)), yes())
		}
		settle(t, n)
		got := report(t, n, c, proto.CampaignRequest{Unit: unit, By: "creative"}, floor)
		if got.Reach != nil || got.Clickers != nil || len(got.Frequency)+len(got.Values) > 0 {
			t.Error(unit, numbersOf(t, got))
		}
		submitAll(t, n, c, crowdOf(55, "v", "impression", "a", ago(1, 1)))
		got = report(t, n, c, proto.CampaignRequest{Unit: unit}, floor)
		if want := map[string]uint64{"identities": 115, "users": 56}[unit]; *got.Reach != want || len(got.Frequency) != 1 { // the others' bins are of one person
			t.Error(unit, numbersOf(t, got))
		}
		if got.Clickers != nil {
			t.Error("clicks of one person are told")
		}
	}
}

// From no sum can be had, by subtracting what is told, what fewer people than the
// floor did: over random worlds, against what the events say.
func TestCampaignSubtraction(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	for world := range 12 {
		r := rand.New(rand.NewPCG(9, uint64(world)))
		c, _ := grouped(t, n, proto.ClientName(fmt.Sprint("world", world)))
		const few = 6
		var events []did
		who := map[string]map[string]bool{} // by "metric row"
		total := map[string]uint64{}
		note := func(metric, row, visitor string) {
			if who[metric+row] == nil {
				who[metric+row] = map[string]bool{}
			}
			who[metric+row][visitor] = true
			total[metric+row]++
		}
		for range 30 + r.IntN(120) {
			d := did{fmt.Sprint("v", r.IntN(30)), []string{"impression", "click"}[r.IntN(4)/3], "c1", fmt.Sprint(r.IntN(1 + r.IntN(6))), ago(r.IntN(1+r.IntN(8)), -1)}
			events = append(events, d)
			for _, row := range []string{"", proto.DayOf(d.at).String(), "=" + d.creative} {
				note(d.name, row, d.who)
			}
		}
		submitAll(t, n, c, events)
		got := report(t, n, c, proto.CampaignRequest{By: "creative", From: proto.DayOf(ago(10, 0))}, few)
		for metric, of := range map[string]func(proto.CampaignCounts) *uint64{
			"impression": func(x proto.CampaignCounts) *uint64 { return x.Impressions }, "click": func(x proto.CampaignCounts) *uint64 { return x.Clicks },
		} {
			sum := of(got.CampaignCounts)
			if (sum != nil) != (len(who[metric]) >= few) {
				t.Errorf("world %d: %s told: %v, of %d people", world, metric, sum != nil, len(who[metric]))
			}
			if sum == nil {
				continue
			}
			days, values := map[string]*uint64{}, map[string]*uint64{}
			for _, d := range got.Days {
				days[d.Day.String()] = of(d.CampaignCounts)
			}
			for _, v := range got.Values {
				values["="+v.Value] = of(v.CampaignCounts)
			}
			for _, table := range []struct {
				told   map[string]*uint64
				values bool
			}{{days, false}, {values, true}} {
				left, hidden := *sum, map[string]bool{}
				for row, people := range who {
					name, ours := strings.CutPrefix(row, metric)
					if !ours || name == "" || strings.HasPrefix(name, "=") != table.values {
						continue
					}
					told := table.told[name]
					if told == nil {
						maps.Copy(hidden, people)
						continue
					}
					if left -= *told; len(people) < few || *told != total[row] {
						t.Errorf("world %d: %s of %d people told as %d, is %d", world, row, len(people), *told, total[row])
					}
				}
				if left > 0 && len(hidden) < few {
					t.Errorf("world %d: %d of %s are left, of %d people", world, left, metric, len(hidden))
				}
			}
		}
	}
}

// A range that is longer by a day on which one person was reached is not told
// beside the other, in neither order; one of a day of many, or of nobody, is.
func TestCampaignRangesByOneDay(t *testing.T) {
	today := proto.DayOf(ago(0, 0))
	short, long := proto.CampaignRequest{To: today - 2, From: today - 5}, proto.CampaignRequest{To: today - 1, From: today - 5}
	for _, x := range []struct {
		name  string
		last  []did
		other proto.CampaignRequest
		want  proto.Code
	}{
		{"one", crowdOf(1, "victim", "impression", "", ago(1, 1)), short, proto.CodeFloor},
		{"one who is known", crowdOf(1, "v", "impression", "", ago(1, 1)), short, proto.CodeFloor},
		{"one clicks", append(crowdOf(60, "w", "impression", "", ago(1, 1)), crowdOf(1, "v", "click", "", ago(1, 2))...), short, proto.CodeFloor},
		{"nobody", nil, short, ""},
		{"many", crowdOf(60, "w", "impression", "", ago(1, 1)), short, ""},
		{"the same", crowdOf(1, "victim", "impression", "", ago(1, 1)), long, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := testNode(t, t.TempDir())
			defer closeNode(t, n)
			c := acme(t, n)
			submitAll(t, n, c, slices.Concat(crowdOf(70, "v", "impression", "", ago(3, 1)), crowdOf(60, "v", "click", "", ago(3, 2)), x.last))
			for _, pair := range [][2]proto.CampaignRequest{{long, x.other}, {x.other, long}} {
				c, _ := grouped(t, n, "pair"+proto.ClientName(pair[0].To.String()))
				submitAll(t, n, c, slices.Concat(crowdOf(70, "v", "impression", "", ago(3, 1)), crowdOf(60, "v", "click", "", ago(3, 2)), x.last))
				if got := refusal(t, n, c, pair[0]); got != "" {
					t.Fatalf("the first is refused: %s", got)
				}
				if got := refusal(t, n, c, pair[1]); got != x.want {
					t.Errorf("the second: %q, want %q", got, x.want)
				}
				if got := refusal(t, n, c, pair[0]); got != "" {
					t.Errorf("the first again: %q", got)
				}
			}
		})
	}
}

// A day of one person, which a report keeps back with another day, cannot be had by
// asking for that other day too, before or after.
func TestCampaignDayKeptBackWithAnother(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	today := proto.DayOf(ago(0, 0))
	list := crowdOf(1, "victim", "impression", "", ago(1, 1))
	for i, people := range []int{0, 0, 90, 55, 80, 70} {
		list = append(list, crowdOf(people, fmt.Sprint("v", i, "-"), "impression", "", ago(i, 1))...)
	}
	all := proto.CampaignRequest{From: today - 5, To: today}
	of := func(from, to proto.Day) proto.CampaignRequest {
		return proto.CampaignRequest{From: today - from, To: today - to}
	}
	hidden := func(r proto.CampaignReport) (days []proto.Day) {
		for _, d := range r.Days {
			if d.Impressions == nil {
				days = append(days, today-d.Day)
			}
		}
		return days
	}
	for _, x := range []struct {
		name   string
		first  []proto.CampaignRequest
		hidden []proto.Day // in all, which is asked next
		then   map[proto.CampaignRequest]proto.Code
	}{
		{"all first", nil, []proto.Day{3, 1, 0}, map[proto.CampaignRequest]proto.Code{of(3, 3): proto.CodeFloor, of(3, 2): proto.CodeFloor, of(5, 5): "", of(5, 4): "", all: ""}},
		{"that day first", []proto.CampaignRequest{of(3, 3)}, []proto.Day{5, 1, 0}, map[proto.CampaignRequest]proto.Code{of(5, 5): proto.CodeFloor, of(4, 4): "", of(3, 3): "", all: ""}},
	} {
		t.Run(x.name, func(t *testing.T) {
			for next, want := range x.then {
				c, _ := grouped(t, n, proto.ClientName(fmt.Sprintf("c%d-%d-%d", next.From, next.To, len(x.first))))
				submitAll(t, n, c, list)
				for _, r := range x.first {
					report(t, n, c, r, floor)
				}
				if got := hidden(report(t, n, c, all, floor)); !slices.Equal(got, x.hidden) {
					t.Errorf("days so long ago are kept back: %v, want %v", got, x.hidden)
				}
				if got := refusal(t, n, c, next); got != want {
					t.Errorf("%s to %s: %q, want %q", next.From, next.To, got, want)
				}
				if got := hidden(report(t, n, c, all, floor)); !slices.Equal(got, x.hidden) {
					t.Errorf("asked again %v are kept back, not %v", got, x.hidden)
				}
			}
		})
	}
	// Where each day was told, their sum is not.
	c, _ := grouped(t, n, "each")
	submitAll(t, n, c, list)
	for day := proto.Day(2); day <= 5; day++ {
		report(t, n, c, of(day, day), floor)
	}
	if got := refusal(t, n, c, all); got != proto.CodeFloor {
		t.Errorf("after each day: %q", got)
	}
}

// Whatever ranges are asked for, of impressions or of the same events as clicks or
// conversions of either unit, the numbers that are told do not come to that of a day of
// few: over random worlds, by elimination. On some days others do it on an account that
// is linked to the one that has seen it, so that they convert as users only.
func TestCampaignRangesTogether(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	const days = 6
	today := proto.DayOf(ago(0, 0))
	told := 0
	for world := range 12 {
		r := rand.New(rand.NewPCG(5, uint64(world)))
		c, _ := grouped(t, n, proto.ClientName(fmt.Sprint("world", world)))
		people, linked := [days]int{}, [days]bool{}
		for i := range people {
			people[i] = []int{0, 1, 60, 70, 80}[r.IntN(5)]
			who := fmt.Sprint("v", i, "-")
			submitAll(t, n, c, append(crowdOf(people[i], who, "seen", "", ago(days, 1)), crowdOf(people[i], who, "impression", "", ago(i, 1))...))
			if linked[i] = world%2 == 1 && r.IntN(3) == 0; linked[i] {
				submitAll(t, n, c, crowdOf(60, "account", "impression", "", ago(i, 2)))
			}
		}
		if slices.Contains(linked[:], true) {
			submitAll(t, n, c, crowdOf(60, "device", "seen", "", ago(days, 1)))
			for i := range 60 {
				link(t, n, c, proto.Identity(fmt.Sprint("browser:device", i)), proto.Identity(fmt.Sprint("browser:account", i)), yes())
			}
			settle(t, n)
		}
		var rows [][]float64 // which days each number is the sum of, and of which with those who are linked
		for range 14 {
			from := r.IntN(days)
			to := r.IntN(from + 1)
			q := proto.CampaignRequest{From: today - proto.Day(from), To: today - proto.Day(to)}
			of, alone := func(x proto.CampaignCounts) *uint64 { return x.Impressions }, false
			q.Unit = []string{"identities", "users"}[r.IntN(2)]
			switch r.IntN(3) {
			case 0:
				q.Impression, q.Click = "other", "impression"
				of = func(x proto.CampaignCounts) *uint64 { return x.Clicks }
			case 1:
				q.Impression, q.Click, q.Conversion = "seen", "other", `event.name == "impression"`
				of = func(x proto.CampaignCounts) *uint64 { return x.Conversions }
				alone = q.Unit == "identities"
			}
			got, err := n.CampaignReport(t.Context(), c, span(q), floor)
			if err != nil || of(got.CampaignCounts) == nil {
				continue
			}
			told++
			sum := make([]float64, 2*days)
			for _, d := range got.Days {
				day, i := make([]float64, 2*days), int(today-d.Day)
				if linked[i] && !alone {
					i += days
				}
				sum[i], day[i] = 1, 1
				if of(d.CampaignCounts) != nil {
					rows = append(rows, day)
				}
			}
			rows = append(rows, sum)
		}
		for day := range days {
			if people[day] == 1 && spans(rows, day) {
				t.Errorf("world %d: of %v people a day that of day %d comes out", world, people, day)
			}
		}
	}
	if told < 20 {
		t.Errorf("%d reports are told", told)
	}
}

// What identities convert to on a day does not come out by what users do on others, nor
// where the later report is about none of the days that tell which one was kept back.
func TestCampaignDaysOfTwoUnits(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	today := proto.DayOf(ago(0, 0))
	list := slices.Concat(crowdOf(70, "v", "impression", "", ago(3, 1)), crowdOf(60, "w", "impression", "", ago(3, 1)),
		crowdOf(70, "v", "order", "", ago(3, 2)), crowdOf(3, "v", "order", "", ago(2, 2)), crowdOf(60, "account", "order", "", ago(2, 2)), crowdOf(60, "w", "order", "", ago(1, 2)))
	ask := func(unit string, from, to proto.Day) proto.CampaignRequest {
		return proto.CampaignRequest{Unit: unit, Conversion: `event.name == "order"`, From: today - from, To: today - to}
	}
	all := ask("identities", 3, 1)
	for i, x := range []struct {
		told []proto.CampaignRequest
		next proto.CampaignRequest
		want proto.Code
	}{
		{[]proto.CampaignRequest{ask("users", 3, 1)}, all, proto.CodeFloor},
		{[]proto.CampaignRequest{ask("users", 2, 2)}, all, ""}, // which is another number
		{[]proto.CampaignRequest{ask("users", 1, 1), all}, ask("identities", 1, 1), ""},
		{[]proto.CampaignRequest{ask("users", 1, 1), all}, ask("identities", 3, 3), proto.CodeFloor},
		{[]proto.CampaignRequest{ask("users", 3, 3), all}, ask("identities", 3, 3), ""},
		{[]proto.CampaignRequest{ask("users", 3, 3), all}, ask("identities", 1, 1), proto.CodeFloor},
	} {
		c, _ := grouped(t, n, proto.ClientName(fmt.Sprint("c", i)))
		submitAll(t, n, c, list)
		for i := range 60 {
			link(t, n, c, proto.Identity(fmt.Sprint("browser:v", 3+i)), proto.Identity(fmt.Sprint("browser:account", i)), yes())
		}
		settle(t, n)
		for _, r := range x.told {
			report(t, n, c, r, floor)
		}
		if got := refusal(t, n, c, x.next); got != x.want {
			t.Errorf("%d: %q, want %q", i, got, x.want)
		}
	}
}

// The same holds in one unit: which day was kept back goes by what another report told,
// also if the later one is about none of its days.
func TestCampaignDayKeptBackForAnother(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	today := proto.DayOf(ago(0, 0))
	list := slices.Concat(crowdOf(70, "v", "seen", "", ago(6, 1)), crowdOf(60, "w", "seen", "", ago(6, 1)),
		crowdOf(70, "v", "impression", "", ago(3, 1)), crowdOf(3, "u", "impression", "", ago(2, 1)), crowdOf(60, "w", "impression", "", ago(1, 1)))
	for name, of := range map[string]proto.CampaignRequest{
		"clicks":      {Impression: "other", Click: "impression"},
		"conversions": {Impression: "seen", Conversion: `event.name == "impression"`},
	} {
		c, _ := grouped(t, n, proto.ClientName(name))
		submitAll(t, n, c, list)
		of.From, of.To = today-1, today-1
		report(t, n, c, of, floor)
		report(t, n, c, proto.CampaignRequest{From: today - 3, To: today - 1}, floor)
		if got := refusal(t, n, c, proto.CampaignRequest{From: today - 3, To: today - 3}); got != proto.CodeFloor {
			t.Errorf("after %s: %q", name, got)
		}
	}
}

// spans reports whether a sum of multiples of rows is one of a day alone.
func spans(rows [][]float64, day int) bool {
	var m [][]float64
	for _, r := range rows {
		m = append(m, slices.Clone(r))
	}
	rank := 0
	for col := range len(rows[0]) { // that of the day last
		if col = (day + 1 + col) % len(rows[0]); rank == len(m) {
			break
		}
		best := rank
		for i := rank; i < len(m); i++ {
			if math.Abs(m[i][col]) > math.Abs(m[best][col]) {
				best = i
			}
		}
		if math.Abs(m[best][col]) < 1e-9 {
			continue
		}
		if col == day {
			return true // a row of it alone is left
		}
		m[rank], m[best] = m[best], m[rank]
		for i := rank + 1; i < len(m); i++ {
			f := m[i][col] / m[rank][col]
			for k := range m[i] {
				m[i][k] -= f * m[rank][k]
			}
		}
		rank++
	}
	return false
}

// A condition that only one person meets tells nothing alone, and nothing beside
// another one; the unit, the names of events and the window are no way around.
func TestCampaignConditions(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	list := slices.Concat(crowdOf(80, "v", "impression", "", ago(3, 1)), crowdOf(60, "v", "conversion", "", ago(3, 2)))
	list = append(list, did{"v70", "secret", "", "", ago(3, 3)}, did{"v71", "conversion", "", "", ago(2, 9)})
	submitAll(t, n, c, list)
	got := report(t, n, c, proto.CampaignRequest{Conversion: `event.name == "secret"`}, floor)
	if got.Converters != nil || got.Conversions != nil || *got.Reach != 80 {
		t.Error(numbersOf(t, got))
	}
	if got = report(t, n, c, proto.CampaignRequest{Window: "12h"}, floor); *got.Converters != 60 {
		t.Error(numbersOf(t, got))
	}
	for _, x := range []struct {
		r    proto.CampaignRequest
		want proto.Code
	}{
		{proto.CampaignRequest{Window: "12h", Conversion: `event.name in ["conversion", "secret"]`}, proto.CodeFloor},
		{proto.CampaignRequest{Window: "12h", Conversion: `event.name == "conversion" && event.time != 0`}, proto.CodeRule},
		{proto.CampaignRequest{Window: "7d"}, proto.CodeFloor}, // v71 converts after a day
		{proto.CampaignRequest{Window: "12h", Unit: "users"}, ""},
		{proto.CampaignRequest{Window: "12h", Click: "conversion"}, ""},
		{proto.CampaignRequest{Window: "12h", Impression: "conversion"}, proto.CodeFloor}, // 61 of 80
	} {
		if got := refusal(t, n, c, x.r); got != x.want {
			t.Errorf("%+v: %q, want %q", x.r, got, x.want)
		}
	}
	// Another client's, and an admin's, are apart.
	other, _ := grouped(t, n, "other")
	submitAll(t, n, other, list)
	if got := refusal(t, n, other, proto.CampaignRequest{}); got != "" {
		t.Errorf("another client is refused: %s", got)
	}
	if got := report(t, n, c, proto.CampaignRequest{}, 0); *got.Converters != 61 {
		t.Error(numbersOf(t, got))
	}
}

// What an event is called in a report, an impression, a click or a conversion, is no way
// around: it is the same event.
func TestCampaignRolesOfAnEvent(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	today := proto.DayOf(ago(0, 0))
	list := slices.Concat(crowdOf(70, "v", "impression", "a", ago(3, 1)), crowdOf(60, "w", "impression", "b", ago(2, 1)))
	for hour := range time.Duration(2) {
		list = slices.Concat(list, crowdOf(70, "v", "seen", "a", ago(6, hour)), crowdOf(60, "w", "seen", "b", ago(6, hour)))
	}
	first := []did{{"v0", "impression", "c1", "a", ago(5, 2)}}
	others := append(crowdOf(60, "w", "click", "", ago(3, 1)), crowdOf(60, "v", "click", "", ago(2, 1))...)
	long := proto.CampaignRequest{From: today - 5, Click: "x1"}
	as := map[string]proto.CampaignRequest{
		"clicks":      {Impression: "x2", Click: "impression"},
		"conversions": {Impression: "seen", Click: "x2", Conversion: `event.name == "impression"`},
		"more":        {Impression: "seen", Click: "x2", Conversion: `event.name in ["impression", "click"]`},
		"another":     {Impression: "seen", Click: "x2"},
	}
	for _, x := range []struct {
		name  string
		as    string
		from  proto.Day
		first []did
		want  proto.Code
	}{
		{"all", "clicks", today - 5, first, ""},
		{"without one", "clicks", today - 4, first, proto.CodeFloor},
		{"without many", "clicks", today - 2, nil, ""},
		{"all convert", "conversions", today - 5, first, ""},
		{"all but one convert", "conversions", today - 4, first, proto.CodeFloor},
		{"many do not convert", "conversions", today - 2, nil, ""},
		{"others convert too", "more", today - 4, first, ""},
		{"nothing in common", "another", today - 4, first, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, turned := range []bool{false, true} {
				c, _ := grouped(t, n, proto.ClientName(fmt.Sprintf("%s%d%t", x.as, x.from, turned)))
				submitAll(t, n, c, slices.Concat(list, x.first, others))
				one, two := long, as[x.as]
				two.From, two.By, one.By = x.from, "creative", "creative"
				if turned {
					one, two = two, one
				}
				if got := refusal(t, n, c, one); got != "" {
					t.Fatalf("the first is refused: %s", got)
				}
				if got := refusal(t, n, c, two); got != x.want {
					t.Errorf("the second: %q, want %q", got, x.want)
				}
			}
		})
	}
	// A day that was kept back with one of few is not told of clicks or conversions
	// either, and one that these told is not the one that is kept back.
	for name, of := range as {
		if name == "another" {
			continue
		}
		c, _ := grouped(t, n, "days"+proto.ClientName(name))
		submitAll(t, n, c, append(list, first...))
		for _, d := range report(t, n, c, long, floor).Days {
			if hidden := d.Impressions == nil; hidden != (d.Day != today-3) {
				t.Errorf("%s is kept back: %t", d.Day, hidden)
			}
		}
		for day, want := range map[proto.Day]proto.Code{today - 2: proto.CodeFloor, today - 3: ""} {
			if of.From, of.To = day, day; refusal(t, n, c, of) != want {
				t.Errorf("%s of %s: not %q", name, day, want)
			}
		}
		c, _ = grouped(t, n, "turned"+proto.ClientName(name))
		submitAll(t, n, c, append(list, first...))
		of.From, of.To = today-2, today-2
		report(t, n, c, of, floor)
		for _, d := range report(t, n, c, long, floor).Days {
			if hidden := d.Impressions == nil; hidden != (d.Day != today-2) {
				t.Errorf("after %s of %s %s is kept back: %t", name, of.From, d.Day, hidden)
			}
		}
	}
}

// Nor is a day that was kept back told by another condition or window that counts the same
// on it; by one that counts others it is.
func TestCampaignDayOfOtherConversions(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	today := proto.DayOf(ago(0, 0))
	list := slices.Concat(crowdOf(70, "v", "seen", "", ago(6, 1)), crowdOf(60, "w", "seen", "", ago(6, 1)), crowdOf(60, "x", "seen", "", ago(6, 1)),
		crowdOf(70, "v", "buy", "", ago(3, 1)), crowdOf(60, "w", "buy", "", ago(2, 1)), crowdOf(60, "x", "rent", "", ago(2, 1)),
		[]did{{"v0", "buy", "c1", "", ago(5, 1)}})
	for i, x := range []struct {
		window, conversion string
		want               proto.Code
	}{
		{"20d", `event.name == "buy"`, proto.CodeFloor},
		{"21d", `event.name == "buy"`, proto.CodeFloor},
		{"20d", `event.name in ["buy", "never"]`, proto.CodeFloor},
		{"20d", `event.name in ["buy", "rent"]`, ""},
		{"20d", `event.name == "rent"`, ""},
	} {
		c, _ := grouped(t, n, proto.ClientName(fmt.Sprint("c", i)))
		submitAll(t, n, c, list)
		report(t, n, c, proto.CampaignRequest{Impression: "seen", Window: "20d", Conversion: `event.name == "buy"`, From: today - 6}, floor)
		next := proto.CampaignRequest{Impression: "seen", Window: x.window, Conversion: x.conversion, From: today - 2, To: today - 2}
		if got := refusal(t, n, c, next); got != x.want {
			t.Errorf("%s of %s: %q, want %q", x.conversion, x.window, got, x.want)
		}
	}
}

// Nor are the conversions of one report a way around, where an impression or a click may
// be one.
func TestCampaignMetricsOfOneReport(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	list := slices.Concat(crowdOf(90, "v", "impression", "a", ago(3, 1)), crowdOf(70, "v", "click", "a", ago(2, 1)),
		crowdOf(60, "v", "click", "c", ago(2, 2)), []did{{"v70", "click", "c1", "b", ago(2, 1)}})
	for i, x := range []struct {
		r    proto.CampaignRequest
		want proto.Code
	}{
		{proto.CampaignRequest{Conversion: `event.name == "click"`}, ""},
		{proto.CampaignRequest{Conversion: `event.name == "click" && event.creative != "b"`}, proto.CodeFloor},
		{proto.CampaignRequest{Conversion: `event.name == "click" && event.creative != "b"`, Impression: "click", Click: "impression"}, proto.CodeFloor},
		{proto.CampaignRequest{Conversion: `event.name == "click" && event.creative != "c"`}, ""}, // by many
		{proto.CampaignRequest{Conversion: `event.name == "click" && event.creative == "b"`}, ""}, // of too few to be told
	} {
		c, _ := grouped(t, n, proto.ClientName(fmt.Sprint("one", i)))
		submitAll(t, n, c, list)
		if got := refusal(t, n, c, x.r); got != x.want {
			t.Errorf("%+v: %q, want %q", x.r, got, x.want)
		}
		report(t, n, c, x.r, 0)
	}
	// A day that impressions keep back with one of few is not told by conversions.
	c, _ := grouped(t, n, "days")
	submitAll(t, n, c, slices.Concat(crowdOf(70, "v", "seen", "", ago(4, 1)), crowdOf(60, "w", "seen", "", ago(4, 1)), crowdOf(70, "v", "impression", "a", ago(2, 1)),
		crowdOf(60, "w", "impression", "b", ago(1, 1)), []did{{"v0", "impression", "c1", "a", ago(3, 1)}}))
	for conversion, want := range map[string]proto.Code{
		`event.name == "impression"`:                            "",
		`event.name == "impression" && event.creative == "b"`:   proto.CodeFloor,
		`event.name == "impression" && event.creative == "all"`: "",
	} {
		r := proto.CampaignRequest{Conversion: conversion, Click: "seen", To: proto.DayOf(ago(1, 0)), From: proto.DayOf(ago(3, 0))}
		if got := refusal(t, n, c, r); got != want {
			t.Errorf("%s: %q, want %q", conversion, got, want)
		}
	}
}

// Nor are conversions that are a report's own impressions or clicks together with what few
// did, or without it: how many those are is known, as nobody's first converts.
func TestCampaignPartsOfConversions(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c, _ := grouped(t, n, "parts")
	list := crowdOf(3, "v", "secret", "", ago(1, 1))
	for hour := range time.Duration(2) {
		list = slices.Concat(list, crowdOf(70, "v", "impression", "a", ago(3, hour)), crowdOf(60, "v", "click", "", ago(2, hour)),
			crowdOf(60, "v", "order", "", ago(1, hour)), crowdOf(2, "v", "impression", "b", ago(2, hour)))
	}
	submitAll(t, n, c, list)
	for i, x := range []struct {
		conversion, click string
		want              proto.Code
	}{
		{`event.name == "impression"`, "none", ""},
		{`event.name == "impression" || event.name == "secret"`, "none", proto.CodeFloor},
		{`event.name in ["click", "order"]`, "click", ""},
		{`event.name in ["click", "secret"]`, "click", proto.CodeFloor},
		{`event.name == "impression" && event.creative == "a"`, "none", proto.CodeFloor},
		{`event.name == "click" || event.creative == "b"`, "click", proto.CodeFloor},
		{`event.name in ["order", "secret"]`, "none", ""}, // of which nothing else is known
		{`event.name == "secret"`, "click", ""},
	} {
		c, _ := grouped(t, n, proto.ClientName(fmt.Sprint("parts", i)))
		submitAll(t, n, c, list)
		r := proto.CampaignRequest{Conversion: x.conversion, Click: x.click, Window: "90d"}
		if got := refusal(t, n, c, r); got != x.want {
			t.Errorf("%s: %q, want %q", x.conversion, got, x.want)
		}
		report(t, n, c, r, 0)
	}
	// By day too.
	c, _ = grouped(t, n, "partsbyday")
	submitAll(t, n, c, append(list, crowdOf(2, "v", "order", "", ago(2, 5))...))
	if got := refusal(t, n, c, proto.CampaignRequest{Conversion: `event.name in ["click", "order"]`}); got != proto.CodeFloor {
		t.Errorf("on a day: %q", got)
	}
}

// Where few people have several identities, a report by users is not told beside one
// by identities: their figures would differ by those few. Where many have, it is.
func TestCampaignUnitsOfFew(t *testing.T) {
	for _, x := range []struct {
		name   string
		linked int
		double bool // whoever is linked had an impression on both
		want   proto.Code
	}{
		{"one", 1, true, proto.CodeFloor},
		{"one who met it once", 1, false, ""},
		{"many", 60, true, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := testNode(t, t.TempDir(), lanes(2))
			defer closeNode(t, n)
			list := crowdOf(80, "v", "impression", "a", ago(1, 1))
			if x.double {
				list = append(list, crowdOf(x.linked, "w", "impression", "a", ago(1, 2))...)
			}
			for _, units := range [][2]string{{"identities", "users"}, {"users", "identities"}} {
				c, _ := grouped(t, n, proto.ClientName(units[0]))
				submitAll(t, n, c, list)
				for i := range x.linked {
					link(t, n, c, proto.Identity(fmt.Sprint("browser:v", i)), proto.Identity(fmt.Sprint("browser:w", i)), yes())
				}
				settle(t, n)
				if got := refusal(t, n, c, proto.CampaignRequest{Unit: units[0]}); got != "" {
					t.Fatalf("by %s: %s", units[0], got)
				}
				if got := refusal(t, n, c, proto.CampaignRequest{Unit: units[1]}); got != x.want {
					t.Errorf("by %s after %s: %q, want %q", units[1], units[0], got, x.want)
				}
			}
		})
	}
}

// So many reports of a campaign are told on a day.
func TestCampaignReportsPerDay(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, crowdOf(60, "v", "impression", "", ago(1, 1)))
	for i := range 32 {
		if got := refusal(t, n, c, proto.CampaignRequest{Window: fmt.Sprint(1+i, "d")}); got != "" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	if got := refusal(t, n, c, proto.CampaignRequest{Window: "60d"}); got != proto.CodeRateLimited {
		t.Errorf("the 33rd: %q", got)
	}
	if got := refusal(t, n, c, proto.CampaignRequest{Window: "1d"}); got != "" {
		t.Errorf("the first again: %q", got)
	}
	if got := refusal(t, n, c, proto.CampaignRequest{Campaign: "c2"}); got != "" {
		t.Errorf("another campaign: %q", got)
	}
}

// What was told is known to all nodes over one log, to one that tells meanwhile too,
// and after a restart.
func TestCampaignReportsOfOtherNodes(t *testing.T) {
	mem := log.NewMemory(1, nil)
	config := newScript(t).config(func(c *engine.Config) { c.Now, c.DiskReserve = nil, 1 })
	stores := [2]store.Store{store.NewMemory(), store.NewMemory()}
	start := func(i int) *engine.Node {
		n, err := engine.NewOver(config, unclosed{mem}, stores[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return n
	}
	n, m := start(0), start(1)
	defer func() { closeNode(t, n); closeNode(t, m) }()
	if _, err := n.CreateKey(t.Context(), "acme", proto.RoleClient, ""); err != nil {
		t.Fatal(err)
	}
	c := acme(t, n)
	submitAll(t, n, c, append(crowdOf(70, "v", "impression", "", ago(3, 1)), crowdOf(1, "victim", "impression", "", ago(1, 1))...))
	until(t, m, 20*time.Second, "the other node", func() bool {
		return *report(t, m, c, proto.CampaignRequest{}, 0).Reach == 71
	})
	all := proto.CampaignRequest{}
	without := proto.CampaignRequest{To: proto.DayOf(ago(2, 0)), From: proto.DayOf(ago(5, 0))}
	meanwhile := sync.OnceFunc(func() {
		if got := refusal(t, m, c, all); got != "" {
			t.Errorf("the other node refuses what nobody was told: %s", got)
		}
	})
	n.WhenScanned(meanwhile)
	if got := refusal(t, n, c, without); got != proto.CodeFloor {
		t.Errorf("without the victim, while another node told of all: %q", got)
	}
	if got := refusal(t, n, c, all); got != "" {
		t.Errorf("what another node told: %q", got)
	}
	closeNode(t, n)
	n = start(0)
	until(t, n, 20*time.Second, "the restart", func() bool {
		return *report(t, n, c, proto.CampaignRequest{}, 0).Reach == 71
	})
	if got := refusal(t, n, c, without); got != proto.CodeFloor {
		t.Errorf("without the victim, after a restart: %q", got)
	}
}

// What is written down has a bound; whoever sees all is not bound by it.
func TestCampaignConditionsAreBounded(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	long := proto.CampaignRequest{Conversion: `event.name == "` + strings.Repeat("x", 1000) + `"` + strings.Repeat(` || event.name == "`+strings.Repeat("y", 1000)+`"`, 2)}
	if got := refusal(t, n, c, long); got != proto.CodeRule {
		t.Errorf("a client's key: %q", got)
	}
	report(t, n, c, long, 0)
}
