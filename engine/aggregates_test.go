package engine_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// named is an event of a visitor now, of a campaign if that is not "".
func (s *script) named(c proto.ClientInfo, visitor, name, campaign string) *proto.Event {
	e := s.event(c, visitor, "s")
	e.Name = name
	if campaign != "" {
		e.Props = append(e.Props, proto.Prop{Key: "campaign", Value: proto.TextOf(campaign)})
	}
	return e
}

// totals are a client's of all of the script's days, as text.
func (s *script) totals(n *engine.Node, c proto.ClientInfo, by string, floor int) (out []string) {
	s.t.Helper()
	first := scriptStart.Day() - 40
	for ; first <= s.now.Day(); first += 366 {
		a, err := n.Aggregates(s.t.Context(), c, by, first, first+365, floor)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, d := range a.Days {
			out = append(out, dayText(d))
		}
	}
	return out
}

func dayText(d proto.AggregateDay) string {
	var b strings.Builder
	fmt.Fprint(&b, d.Day)
	if d.SoFar {
		b.WriteString(" so far")
	}
	fmt.Fprintf(&b, ": %s new %s", numberText(d.Events), numberText(d.NewIdentities))
	write := func(name string, x proto.AggregateCounts) {
		fmt.Fprintf(&b, ", %s", name)
		for _, n := range []*uint64{x.Count, x.Impressions, x.Clicks, x.Conversions} {
			if n != nil {
				fmt.Fprintf(&b, " %d", *n)
			} else {
				b.WriteString(" -")
			}
		}
	}
	for _, x := range d.Names {
		write(x.Name, x.AggregateCounts)
	}
	if d.Other != nil {
		write("other", *d.Other)
	}
	return b.String()
}

func numberText(n *uint64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// Totals are of the day on which an event happened; repeated events do not count;
// those who opt out stay counted, and are new when they come back.
func TestAggregates(t *testing.T) {
	s := newScript(t)
	c, other := s.client("acme", ""), s.client("other", "")
	s.beat(0)
	late := s.named(c, "a", "click", "spring")
	late.Time -= proto.Millis(25 * time.Hour / time.Millisecond)
	twice := s.named(c, "b", "page", "")
	twice.ID = "x"
	s.events(s.named(c, "a", "page", ""), s.named(c, "a", "impression", "spring"), s.named(c, "b", "impression", "spring"), late, twice, twice,
		s.named(c, "b", "conversion", ""), s.named(c, "b", "impression", strings.Repeat("long", 40)), s.named(other, "a", "page", "spring"))
	var b proto.Batch
	b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash("browser:a"), Kind: proto.CutOptOut, Received: s.now, Command: 1})
	s.own(b.Bytes(), 1)
	s.events(s.named(c, "a", "page", ""))
	s.beat(24 * time.Hour)
	s.events(s.named(c, "c", "page", ""))
	s.beat(time.Second)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	if d := cmp.Diff([]string{
		"2025-12-30: 1 new 0, click 1 - - -",
		"2026-01-01: 6 new 2, conversion 1 - - -, impression 3 - - -, page 2 - - -",
		"2026-01-02 so far: 1 new 1, page 1 - - -",
	}, s.totals(n, c, "event", 0)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{
		"2025-12-30: - new 0, spring - - 1 -",
		"2026-01-01: - new 2, spring - 2 - -, other - 1 - 1",
		"2026-01-02 so far: - new 1",
	}, s.totals(n, c, "campaign", 0)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"2026-01-01: 1 new 1, page 1 - - -"}, s.totals(n, other, "event", 0)); d != "" {
		t.Error(d)
	}
}

// What is kept is what the log says, however it is cut into commits and restarts:
// which names there is room for, too.
func TestAggregatesAreTheLogs(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	r := rand.New(rand.NewPCG(1, 7))
	write := func(rounds int) {
		for range rounds {
			var list []*proto.Event
			for range 1 + r.IntN(20) {
				e := s.named(c, fmt.Sprint("v", r.IntN(400)), fmt.Sprint("e", r.IntN(160)), fmt.Sprint("c", r.IntN(160)))
				if r.IntN(2) == 0 {
					e.Name = "impression"
				}
				e.Time -= proto.Millis(r.IntN(3)) * 24 * 60 * 60 * 1000
				list = append(list, e)
			}
			s.events(list...)
			if r.IntN(20) == 0 {
				s.beat(6 * time.Hour)
			}
		}
		s.beat(time.Second)
	}
	write(400)
	whole := s.apply(store.NewMemory())
	s.lump = func() int { return 1 }
	st := store.NewMemory()
	if pieces := s.apply(st); whole.Lanes[0].StateHash != pieces.Lanes[0].StateHash {
		t.Error("applied one by one the state differs")
	}
	s.lump = nil
	write(300)
	s.beat(40 * day) // no day is young any more
	s.events(s.named(c, "v1", "quite late", ""))
	s.beat(time.Second)
	s.lump = func() int { return 1 + r.IntN(30) }
	again := s.apply(st)
	s.lump = nil
	fresh := store.NewMemory()
	if anew := s.apply(fresh); anew.Lanes[0].StateHash != again.Lanes[0].StateHash {
		t.Error("after a restart the state differs")
	}
	s.beat(time.Second)
	n := s.run(fresh)
	defer closeNode(t, n)
	a, err := n.Aggregates(t.Context(), c, "event", scriptStart.Day(), scriptStart.Day()+20, 0)
	if err != nil || len(a.Days) == 0 {
		t.Fatal(a, err)
	}
	for _, d := range a.Days {
		if len(d.Names) > 1 { // only impressions are of fifty
			t.Errorf("of %s there are still %d names", d.Day, len(d.Names))
		}
	}
}

// A day has a hundred names of a kind, those that came first.
func TestAggregatesOfManyNames(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	for i := range 150 {
		s.events(s.named(c, fmt.Sprint("v", i), fmt.Sprintf("e%03d", 149-i), ""))
	}
	s.events(s.named(c, "v", "e100", ""), s.named(c, "v", "e001", ""))
	s.beat(time.Second)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	a, err := n.Aggregates(t.Context(), c, "event", scriptStart.Day(), scriptStart.Day(), 0)
	if err != nil || len(a.Days) != 1 || len(a.Days[0].Names) != 100 {
		t.Fatal(a, err)
	}
	d := a.Days[0]
	if first := d.Names[0]; first.Name != "e050" || *d.Names[50].Count != 2 || *d.Other.Count != 51 {
		t.Error(dayText(d))
	}
}

// With a floor what few did is told of in no way: neither alone, nor as what is
// left of a sum, nor by counting one identity often.
func TestAggregatesFloor(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	crowd := func(people, each int, name, campaign string) {
		var list []*proto.Event
		for i := range people * each {
			list = append(list, s.named(c, fmt.Sprint(name, campaign, i%people), name, campaign))
		}
		s.events(list...)
	}
	crowd(200, 1, "page", "")
	crowd(90, 2, "search", "")
	crowd(1, 80, "rare", "")
	crowd(100, 1, "impression", "spring")
	crowd(80, 1, "impression", "autumn")
	crowd(2, 40, "impression", "secret")
	crowd(3, 20, "click", "spring")
	s.beat(day)
	crowd(60, 1, "page", "next")
	crowd(1, 1, "rare", "")
	s.beat(day)
	crowd(200, 1, "page", "")
	crowd(60, 1, "impression", "spring") // kept back with what is rare, so its campaigns too
	crowd(1, 1, "rare", "")
	s.beat(time.Second)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	if d := cmp.Diff([]string{
		// rare and click with search, the least that is not of too few
		"2026-01-01: 780 new 476, impression 260 - - -, page 200 - - -, other 320 - - -",
		"2026-01-02: 61 new 60, other 61 - - -",
		"2026-01-03 so far: 261 new -, page 200 - - -, other 61 - - -",
	}, s.totals(n, c, "event", 50)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{
		"2026-01-01: - new 476, spring - 100 - -, other - 160 - -", // autumn and secret
		"2026-01-02: - new 60",
		"2026-01-03 so far: - new -",
	}, s.totals(n, c, "campaign", 50)); d != "" {
		t.Error(d)
	}
	a, err := n.Aggregates(t.Context(), c, "event", scriptStart.Day(), scriptStart.Day(), 400)
	if err != nil || dayText(a.Days[0]) != "2026-01-01: - new 476" {
		t.Errorf("more than is told of people: %s, %v", dayText(a.Days[0]), err)
	}
}

// Days go when they are too old, and what few did loses its name before.
func TestAggregatesGrowOld(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{AggregatesMs: (60 * day).Milliseconds()}}})
	s.beat(0)
	var list []*proto.Event
	for i := range 60 {
		list = append(list, s.named(c, fmt.Sprint("v", i), "page", ""))
	}
	s.events(append(list, s.named(c, "v1", "rare", ""))...)
	s.beat(31 * day)
	s.events(s.named(c, "v1", "rare", ""))
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	want := []string{"2026-01-01: 61 new 60, page 60 - - -, rare 1 - - -", "2026-02-01 so far: 1 new 0, rare 1 - - -"}
	if d := cmp.Diff(want, s.totals(n, c, "event", 0)); d != "" {
		t.Error(d)
	}
	closeNode(t, n)
	s.beat(day)
	n = s.run(st)
	want = []string{"2026-01-01: 61 new 60, page 60 - - -, other 1 - - -", "2026-02-01: 1 new 0, rare 1 - - -"}
	if d := cmp.Diff(want, s.totals(n, c, "event", 0)); d != "" {
		t.Error(d)
	}
	closeNode(t, n)
	s.beat(29 * day) // 60 days are over when the first of them is 61 back
	n = s.run(st)
	if got := s.totals(n, c, "event", 0); len(got) != 1 || !strings.HasPrefix(got[0], "2026-02-01") {
		t.Error(got)
	}
	closeNode(t, n)
	if anew := s.apply(store.NewMemory()); anew.Lanes[0].StateHash != s.verify(st).Lanes[0].StateHash {
		t.Error("with restarts the state differs")
	}
}

// Events of days that are kept no longer still come: such a day begins from
// nothing, wherever batches end, and goes again.
func TestAggregatesOfDaysThatWent(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{AggregatesMs: (3 * day).Milliseconds()}}})
	s.beat(0)
	r := rand.New(rand.NewPCG(2, 7))
	for range 300 {
		var list []*proto.Event
		for range 1 + r.IntN(5) {
			e := s.named(c, fmt.Sprint("v", r.IntN(40)), "page", "")
			e.Time -= proto.Millis(r.IntN(6)) * proto.Millis(day.Milliseconds())
			list = append(list, e)
		}
		s.events(list...)
		if r.IntN(4) == 0 {
			s.beat(7 * time.Hour)
		}
	}
	s.beat(time.Second)
	whole := s.apply(store.NewMemory()).Lanes[0].StateHash
	for most := range 6 {
		s.lump = func() int { return 1 + r.IntN(1<<most) }
		if st := store.NewMemory(); s.apply(st).Lanes[0].StateHash != whole {
			t.Errorf("in batches of up to %d the state differs", 1<<most)
		}
	}
}

// Verify holds totals against histories.
func TestVerifyFindsLostTotals(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	s.events(s.named(c, "a", "page", ""), s.named(c, "b", "page", ""))
	s.beat(time.Second)
	st := store.NewMemory()
	s.apply(st)
	if err := engine.SpoilTotals(st, c.ID, scriptStart.Day()); err != nil {
		t.Fatal(err)
	}
	r, err := engine.VerifyStore(t.Context(), s.config(), st)
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "totals") {
		t.Errorf("%q, %v", r.Problems, err)
	}
}

// A store of a build that kept no totals is verified from the day on of which all is
// in them.
func TestAggregatesOfAnOlderStore(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	s.events(s.named(c, "a", "page", ""), s.named(c, "b", "page", ""))
	s.beat(time.Second)
	st := store.NewMemory()
	s.apply(st)
	if err := engine.DropTotals(st); err != nil {
		t.Fatal(err)
	}
	s.events(s.named(c, "a", "page", ""))
	s.beat(day)
	s.events(s.named(c, "a", "page", ""))
	s.beat(day)
	s.events(s.named(c, "a", "page", ""))
	s.beat(time.Second)
	s.apply(st)
	for d, want := range []int{0, 0, 1} {
		copied := s.now.Day() - 2 + proto.Day(d)
		if err := engine.SpoilTotals(st, c.ID, copied); err != nil {
			t.Fatal(err)
		}
		r, err := engine.VerifyStore(t.Context(), s.config(), st)
		if err != nil || len(r.Problems) != want {
			t.Errorf("%s: %q, %v", copied, r.Problems, err)
		}
	}
}

// goldenDay is a day's totals.
const goldenDay = "01" + "03" + // version, how many
	"01" + "00" + "00" + "00" + // events without a name: none
	"01" + "0470616765" + "02" + "02" + "0502" + // two named page, of bits 5 and 7
	"02" + "046175746f" + "ac02" + "8002" // 300 impressions of auto, of many people

func TestAggregatesGolden(t *testing.T) {
	raw, err := hex.DecodeString(goldenDay)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := engine.RepackDay(raw); err != nil || string(got) != string(raw) {
		t.Errorf("bytes on disk would change: %x, %v", got, err)
	}
	for _, since := range []string{"00004f31", "00004f3100004f3204"} { // a day; and before which one four lanes counted
		raw, err := hex.DecodeString(since)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := engine.RepackSince(raw); err != nil || string(got) != string(raw) {
			t.Errorf("bytes on disk would change: %x, %v", got, err)
		}
	}
}

func FuzzAggregates(f *testing.F) {
	raw, _ := hex.DecodeString(goldenDay)
	f.Add(raw)
	f.Add(append([]byte{1, 5, 7}, raw[1:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, repack := range []func([]byte) ([]byte, error){engine.RepackDay, engine.RepackAdded, engine.RepackSince} {
			packed, err := repack(b)
			if err != nil {
				if proto.CodeOf(err) != proto.CodeCorrupt {
					t.Fatalf("code of %v", err)
				}
				continue
			}
			if again, err := repack(packed); err != nil || string(again) != string(packed) {
				t.Fatalf("%x reads as %x, %v", packed, again, err)
			}
		}
	})
}
