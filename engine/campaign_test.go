package engine_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// did is one event of a campaign test: who did what, so many days and hours ago.
type did struct {
	who, name, campaign, creative string
	at                            time.Time
}

// ago is a time on the day so many days before today.
func ago(days int, hour time.Duration) time.Time {
	return time.Now().UTC().Truncate(day).Add(-time.Duration(days)*day + hour*time.Hour)
}

func (d did) event(c proto.ClientInfo) *proto.Event {
	e := page(c, d.who, "s", d.at)
	e.Name = d.name
	for k, v := range map[string]string{"campaign": d.campaign, "creative": d.creative} {
		if v != "" {
			e.Props = append(e.Props, proto.Prop{Key: k, Value: proto.TextOf(v)})
		}
	}
	return e
}

func submitAll(t *testing.T, n *engine.Node, c proto.ClientInfo, list []did) {
	t.Helper()
	for part := range slices.Chunk(list, 200) {
		var events []*proto.Event
		for _, d := range part {
			events = append(events, d.event(c))
		}
		submit(t, n, events...)
	}
}

// crowdOf are n visitors that each do it.
func crowdOf(n int, prefix, name, creative string, at time.Time) (list []did) {
	for i := range n {
		list = append(list, did{fmt.Sprint(prefix, i), name, "c1", creative, at})
	}
	return list
}

func report(t *testing.T, n *engine.Node, c proto.ClientInfo, r proto.CampaignRequest, floor int) proto.CampaignReport {
	t.Helper()
	out, err := n.CampaignReport(t.Context(), c, span(r), floor)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return out
}

// span fills in campaign c1 and the last ten days.
func span(r proto.CampaignRequest) *proto.CampaignRequest {
	r.Campaign = cmp.Or(r.Campaign, "c1")
	r.To = cmp.Or(r.To, proto.DayOf(time.Now()))
	r.From = cmp.Or(r.From, r.To-9)
	return &r
}

// plainReport counts in the simplest way: persons are lists of who is one.
func plainReport(persons [][]string, events []did, r *proto.CampaignRequest, window time.Duration) proto.CampaignReport {
	type key struct {
		metric int
		row    string
	}
	times, who := map[key]uint64{}, map[key]map[int]bool{}
	frequency := make([]uint64, 10)
	for p, ids := range persons {
		impressions := 0
		add := func(metric int, d did, creative string) {
			for _, row := range []string{"", "day " + d.at.Format(time.DateOnly), "value " + creative} {
				k := key{metric, row}
				times[k]++
				if who[k] == nil {
					who[k] = map[int]bool{}
				}
				who[k][p] = true
			}
		}
		for _, d := range events {
			today := proto.DayOf(d.at)
			if !slices.Contains(ids, d.who) || today < r.From || today > r.To {
				continue
			}
			switch {
			case d.campaign == r.Campaign && d.name == "impression":
				impressions++
				add(0, d, d.creative)
			case d.campaign == r.Campaign && d.name == "click":
				add(1, d, d.creative)
			case d.name == "conversion":
				var last *did
				for _, x := range events {
					ours := slices.Contains(ids, x.who) && x.campaign == r.Campaign && (x.name == "impression" || x.name == "click")
					if ours && !x.at.After(d.at) && d.at.Sub(x.at) <= window && (last == nil || !x.at.Before(last.at)) {
						last = &x
					}
				}
				if last != nil {
					add(2, d, last.creative)
				}
			}
		}
		if impressions > 0 {
			frequency[min(impressions, 10)-1]++
		}
	}
	row := func(name string) (x proto.CampaignCounts) {
		n := func(v uint64) *uint64 { return &v }
		at := func(metric int) (a, b *uint64) {
			k := key{metric, name}
			return n(times[k]), n(uint64(len(who[k])))
		}
		x.Impressions, x.Reach = at(0)
		x.Clicks, x.Clickers = at(1)
		x.Conversions, x.Converters = at(2)
		return x
	}
	out := proto.CampaignReport{CampaignCounts: row("")}
	for i, n := range frequency {
		out.Frequency = append(out.Frequency, proto.FrequencyBin{From: i + 1, To: (i + 1) % 10, People: n})
		if i == 9 {
			out.Frequency[9].To = 0
		}
	}
	out.Frequency[8].To = 9
	for d := r.From; d <= r.To; d++ {
		out.Days = append(out.Days, proto.CampaignDay{Day: d, CampaignCounts: row("day " + d.String())})
	}
	values := map[string]bool{}
	for k := range times {
		if v, ok := strings.CutPrefix(k.row, "value "); ok && v != "" {
			values[v] = true
		}
	}
	for _, v := range slices.Sorted(maps.Keys(values)) {
		out.Values = append(out.Values, proto.CampaignValue{Value: v, CampaignCounts: row("value " + v)})
	}
	return out
}

// numbersOf is what the plain report has too, as text.
func numbersOf(t *testing.T, r proto.CampaignReport) string {
	t.Helper()
	b, err := json.MarshalIndent(map[string]any{"all": r.CampaignCounts, "frequency": r.Frequency, "days": r.Days, "values": r.Values}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A report is what the plain reading of the events says, by identities and by
// users, with several lanes and after a restart; what another client knows, and
// whoever opted out, is not in it.
func TestCampaignReport(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir, lanes(3))
	defer func() { closeNode(t, n) }()
	c, _ := grouped(t, n, "alpha")
	other, _ := grouped(t, n, "beta")
	r := rand.New(rand.NewPCG(3, 1))
	var events, theirs []did
	at := map[time.Time]bool{}
	for len(events) < 1500 {
		d := did{
			who: fmt.Sprint("v", r.IntN(60)), name: []string{"impression", "impression", "click", "conversion", "page"}[r.IntN(5)],
			campaign: []string{"c1", "c1", "c2", ""}[r.IntN(4)], creative: []string{"a", "b", ""}[r.IntN(3)],
			at: ago(r.IntN(15), 0).Add(-time.Duration(r.IntN(86_400_000)) * time.Millisecond),
		}
		if !at[d.at] {
			at[d.at] = true
			events = append(events, d)
		}
	}
	for i := range 100 {
		theirs = append(theirs, did{fmt.Sprint("v", i), "impression", "c1", "a", ago(1, 2)})
	}
	submitAll(t, n, c, events)
	submitAll(t, n, other, theirs)
	var persons, alone [][]string
	for i := 0; i < 60; i += 3 {
		a, b, x := fmt.Sprint("v", i), fmt.Sprint("v", i+1), fmt.Sprint("v", i+2)
		alone = append(alone, []string{a}, []string{b}, []string{x})
		switch {
		case i == 57: // v57 opts out
			persons = append(persons, []string{b}, []string{x})
			alone = slices.DeleteFunc(alone, func(l []string) bool { return l[0] == a })
		case i%2 == 0:
			link(t, n, c, proto.Identity("browser:"+a), proto.Identity("browser:"+b), yes())
			link(t, n, other, proto.Identity("browser:"+b), proto.Identity("browser:"+x), yes())
			persons = append(persons, []string{a, b, x})
		default:
			persons = append(persons, []string{a}, []string{b}, []string{x})
		}
	}
	link(t, n, other, "browser:v3", "browser:v61", yes()) // of whom alpha knows nothing
	optOut(t, n, "browser:v57", false)
	settle(t, n)
	check := func() {
		t.Helper()
		for _, x := range []struct {
			unit    string
			persons [][]string
			window  string
			length  time.Duration
			from    proto.Day
		}{
			{"identities", alone, "", 7 * day, 0}, {"users", persons, "", 7 * day, 0},
			{"users", persons, "6h", 6 * time.Hour, 0}, {"identities", alone, "2d", 2 * day, proto.DayOf(ago(4, 0))},
		} {
			q := span(proto.CampaignRequest{Unit: x.unit, Window: x.window, From: x.from, By: "creative"})
			got := report(t, n, c, *q, 0)
			if !got.Exact || got.Partitions.Answered != 64 || strings.Count(got.Position, ":") != 3 {
				t.Errorf("%+v", got)
			}
			want := plainReport(x.persons, events, q, x.length)
			if d := gocmp.Diff(numbersOf(t, want), numbersOf(t, got)); d != "" {
				t.Errorf("%s, %s (-plain +report):\n%s", x.unit, x.window, d)
			}
		}
	}
	check()
	closeNode(t, n)
	n = testNode(t, dir, lanes(3))
	check()
}

// A click that is what a conversion shall be is one for what was before it, never
// for itself.
func TestCampaignClicksAsConversions(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, []did{
		{"alone", "click", "c1", "red", ago(2, 1)},
		{"led", "impression", "c1", "blue", ago(2, 1)}, {"led", "click", "c1", "", ago(2, 2)},
		{"late", "impression", "c1", "blue", ago(5, 1)}, {"late", "click", "c1", "red", ago(2, 1)},
	})
	got := report(t, n, c, proto.CampaignRequest{By: "creative", Window: "1d", Conversion: `event.name == "click"`}, 0)
	if *got.Conversions != 1 || *got.Converters != 1 || *got.Clicks != 3 {
		t.Error(numbersOf(t, got))
	}
	for _, v := range got.Values {
		if v.Conversions != nil && (*v.Conversions == 1) != (v.Value == "blue") {
			t.Errorf("%s has %d conversions", v.Value, *v.Conversions)
		}
	}
}

// Who opts out while a report is made is not in it; nor is a device that was of a
// user, who stays.
func TestCampaignReportDuringOptOut(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, append(crowdOf(20, "v", "impression", "a", ago(1, 1)), crowdOf(20, "v", "impression", "a", ago(2, 1))...))
	link(t, n, c, "browser:v0", "browser:v1", yes())
	link(t, n, c, "browser:v1", "browser:v2", yes())
	settle(t, n) // so that all lanes know of the user
	n.WhenScanned(func() {
		n.WhenScanned(nil)
		optOut(t, n, "browser:v1", false)
		optOut(t, n, "browser:v5", true)
	})
	got := report(t, n, c, proto.CampaignRequest{Unit: "users"}, 0)
	// Users of then: v0 with v2, 16 others; the two had 2 impressions each.
	if *got.Reach != 17 || *got.Impressions != 36 || got.Frequency[1].People != 16 || got.Frequency[3].People != 1 {
		t.Error(numbersOf(t, got))
	}
	if again := report(t, n, c, proto.CampaignRequest{}, 0); *again.Reach != 18 || *again.Impressions != 36 {
		t.Error(numbersOf(t, again))
	}
}

// What a client had erased while a report is made is not told, though it knows of the
// identity again, or of its user, by the end.
func TestReportsDuringErasure(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c, _ := grouped(t, n, "alpha")
	other, _ := grouped(t, n, "beta") // or what alpha had erased would be a stranger when it is back
	list := crowdOf(20, "v", "impression", "a", ago(1, 1))
	submitAll(t, n, c, list)
	submitAll(t, n, other, list)
	for i := range 20 {
		submit(t, n, hosts(c, fmt.Sprint("v", i), "https://news.example/", "cdn.example", ago(1, 1)))
	}
	link(t, n, other, "browser:v1", "browser:v2", yes())
	settle(t, n)
	gone := 3
	erase := func() {
		for _, id := range []string{"v1", fmt.Sprint("v", gone)} {
			if _, err := n.Erase(t.Context(), &c, proto.Identity("browser:"+id)); err != nil {
				t.Error(err)
			}
		}
		submit(t, n, page(c, fmt.Sprint("v", gone), "s", time.Now()))
		gone++
	}
	n.WhenScanned(sync.OnceFunc(erase))
	if got := report(t, n, c, proto.CampaignRequest{}, 0); *got.Reach != 18 || *got.Impressions != 18 {
		t.Error(numbersOf(t, got))
	}
	n.WhenTold(sync.OnceFunc(erase))
	if got := report(t, n, c, proto.CampaignRequest{}, 5); *got.Reach != 17 || *got.Impressions != 17 {
		t.Error(numbersOf(t, got))
	}
	n.WhenLooked(sync.OnceFunc(erase))
	for range 2 {
		if got := leakage(t, n, c, 9, 0); len(got.Hosts) != 1 || *got.Pages != 16 || got.Hosts[0].Identities != 16 {
			t.Errorf("four are erased: %+v", got)
		}
	}
	if got := report(t, n, other, proto.CampaignRequest{}, 0); *got.Reach != 20 {
		t.Error(numbersOf(t, got))
	}
}

// Nor is it told by a leakage report of whose lane was done by then.
func TestLeakageDuringErasureInAnotherLane(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c, _ := grouped(t, n, "alpha")
	var of [2]proto.Identity
	for i := range 20 {
		who := fmt.Sprint("v", i)
		submit(t, n, hosts(c, who, "https://news.example/", "cdn.example", ago(1, 1)))
		of[n.LaneOf(proto.Identity("browser:"+who))] = proto.Identity("browser:" + who)
	}
	looks := 0
	n.WhenLooked(func() {
		if looks++; looks <= len(of) { // the last lane's first
			optOut(t, n, of[len(of)-looks], false)
		}
	})
	if got := leakage(t, n, c, 9, 0); *got.Pages != 18 || got.Hosts[0].Identities != 18 || got.Hosts[0].Pages != 18 {
		t.Errorf("two are erased: %+v", got)
	}
	if looks != 3 {
		t.Errorf("it was looked %d times", looks)
	}
}

// Who opts out while a report is written down is not in what is told of it; and one
// that can never be sure of that is not told.
func TestCampaignReportIsToldAfterOptOut(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, crowdOf(70, "v", "impression", "a", ago(1, 1)))
	n.WhenTold(func() {
		n.WhenTold(nil)
		optOut(t, n, "browser:v1", false)
	})
	if got := report(t, n, c, proto.CampaignRequest{}, floor); *got.Reach != 69 || *got.Impressions != 69 {
		t.Error(numbersOf(t, got))
	}
	out := 1
	n.WhenLooked(func() {
		out++
		optOut(t, n, proto.Identity(fmt.Sprint("browser:v", out)), false)
	})
	if _, err := n.CampaignReport(t.Context(), c, span(proto.CampaignRequest{}), 0); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("somebody was forgotten each time, and it ends with %v", err)
	}
	if out > 10 {
		t.Errorf("it was looked %d times", out-1)
	}
}

func TestCampaignReportEnds(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, crowdOf(3, "v", "impression", "", ago(1, 1)))
	ctx, cancel := context.WithCancel(t.Context())
	n.WhenScanned(func() {
		optOut(t, n, "browser:v1", false)
		cancel()
	})
	if _, err := n.CampaignReport(ctx, c, span(proto.CampaignRequest{}), 0); proto.CodeOf(err) != proto.CodeTimeout {
		t.Errorf("a report that nobody waits for: %v", err)
	}
	n.WhenScanned(nil)
	if _, err := n.CampaignReport(ctx, c, span(proto.CampaignRequest{}), 0); proto.CodeOf(err) != proto.CodeTimeout && proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("asked by nobody: %v", err)
	}
	for _, x := range []struct {
		r    proto.CampaignRequest
		code proto.Code
	}{
		{proto.CampaignRequest{Unit: "devices"}, proto.CodeInvalid},
		{proto.CampaignRequest{From: 1}, proto.CodeInvalid},
		{proto.CampaignRequest{From: proto.DayOf(time.Now()) + 1}, proto.CodeInvalid},
		{proto.CampaignRequest{Window: "91d"}, proto.CodeInvalid},
		{proto.CampaignRequest{Window: "soon"}, proto.CodeRule},
		{proto.CampaignRequest{Click: "impression"}, proto.CodeInvalid},
		{proto.CampaignRequest{Conversion: `count(true) >= 1`}, proto.CodeRule},
		{proto.CampaignRequest{Conversion: `event.name ==`}, proto.CodeRule},
	} {
		if _, err := n.CampaignReport(t.Context(), c, span(x.r), 0); proto.CodeOf(err) != x.code {
			t.Errorf("%+v: %v, want %s", x.r, err, x.code)
		}
	}
}

// A history that lost its beginning, and days before what is kept, make a report
// inexact, and it says so.
func TestCampaignReportSaysWhatIsMissing(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Retention = &engine.RetentionConfig{Sessions: 5 * day} })
	defer closeNode(t, n)
	c := acme(t, n)
	submitAll(t, n, c, crowdOf(3, "v", "impression", "", ago(1, 1)))
	q := proto.CampaignRequest{From: proto.DayOf(ago(3, 0))}
	if got := report(t, n, c, q, 0); !got.Exact || got.KeptSince != nil {
		t.Errorf("%+v", got)
	}
	if got := report(t, n, c, proto.CampaignRequest{}, 0); got.Exact || got.KeptSince == nil {
		t.Errorf("%+v", got)
	}
	var list []did
	for i := range 7000 {
		list = append(list, did{"v1", "page", "", fmt.Sprint(i, strings.Repeat("x", 30), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()), ago(1, 2)})
	}
	submitAll(t, n, c, list)
	if got := report(t, n, c, q, 0); got.Exact || !got.Truncated {
		t.Errorf("%+v", got)
	}
}

// Of one person so much counts at most, and the report says that there was more. The
// newest stays, in whichever order it came.
func TestCampaignReportOfOneWithMuch(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	const newer = engine.TouchesMax - 68
	var list []did
	for i := range newer + 300 {
		at := ago(1, 2)
		if i >= newer {
			at = ago(3, 2)
		}
		list = append(list, did{"v", "impression", "c1", "a", at.Add(time.Duration(i) * time.Millisecond)})
	}
	submitAll(t, n, c, list)
	got := report(t, n, c, proto.CampaignRequest{By: "creative"}, 0)
	if !got.Truncated || got.Exact || *got.Impressions != engine.TouchesMax || *got.Days[8].Impressions != newer || *got.Days[6].Impressions != 68 {
		t.Error(numbersOf(t, got))
	}
	if got := report(t, n, c, proto.CampaignRequest{From: proto.DayOf(ago(2, 0)), Window: "6h"}, 0); got.Truncated || *got.Impressions != newer {
		t.Error(numbersOf(t, got))
	}
}

// What a report keeps of one person is bounded, of touches and of what may convert.
func TestCampaignPathIsBounded(t *testing.T) {
	for _, x := range []struct {
		name                     string
		touches                  int // of a million events, evenly
		impressions, conversions uint64
	}{
		{"all are touches", 1_000_000, engine.TouchesMax, engine.TouchesMax - 1}, // each but for the first after another
		{"few are", 10, 10, engine.ConversionsMax},
	} {
		t.Run(x.name, func(t *testing.T) {
			touch, other := &proto.EventBody{Name: "impression"}, &proto.EventBody{Name: "page"}
			began := proto.MillisOf(ago(5, 0))
			impressions, conversions, most, err := engine.PathOf(span(proto.CampaignRequest{Conversion: "true"}), func(yield func(proto.Millis, *proto.EventBody) bool) {
				for i := range 1_000_000 {
					e := other
					if i%(1_000_000/x.touches) == 0 {
						e = touch
					}
					if !yield(began+proto.Millis(i)*100, e) {
						return
					}
				}
			})
			if err != nil || impressions != x.impressions || conversions != x.conversions {
				t.Errorf("%d impressions, %d conversions, %v", impressions, conversions, err)
			}
			if most > 2*(engine.TouchesMax+engine.ConversionsMax) {
				t.Errorf("%d are kept", most)
			}
		})
	}
}

// A report ends with its caller, in the middle of a history too.
func TestCampaignReportIsGivenUp(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	long := strings.Repeat("b", 1000)
	for range 20 {
		var list []*proto.Event
		for range 100 {
			list = append(list, page(c, "v", long, time.Now()))
		}
		submit(t, n, list...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	slow := `event.section.matches("` + strings.Repeat(".?", 120) + `~")` // some milliseconds
	_, err := n.CampaignReport(ctx, c, span(proto.CampaignRequest{Conversion: slow}), 0)
	if took := time.Since(began); proto.CodeOf(err) != proto.CodeTimeout || took > 2*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

// However many reports one client asks for, another one's is next.
func TestReportsOfOneClientWaitForEachOther(t *testing.T) {
	n := engine.NewReportQueue()
	end, ok := n.Begin(t.Context(), 1)
	if !ok {
		t.Fatal("the first report waits")
	}
	turns := make(chan proto.ClientID, 10)
	var busy sync.WaitGroup
	ask := func(c proto.ClientID) {
		busy.Go(func() {
			end, ok := n.Begin(t.Context(), c)
			if !ok {
				t.Error("no turn")
				return
			}
			turns <- c
			end()
		})
	}
	for range 5 {
		ask(1)
	}
	time.Sleep(20 * time.Millisecond) // they wait before the other one comes
	ask(2)
	time.Sleep(20 * time.Millisecond)
	end()
	if c := <-turns; c != 2 {
		t.Errorf("the next report is of client %d", c)
	}
	busy.Wait()
}
