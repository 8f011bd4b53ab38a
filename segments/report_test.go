package segments_test

import (
	"fmt"
	"testing"

	"kith/proto"
	"kith/segments"
)

func audienceOf(t *testing.T, text string) *segments.Audience {
	t.Helper()
	a, err := segments.ParseAudience(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// tell decides and writes down.
func tell(t *testing.T, b *segments.ReportBook, day proto.Day, text, unit string, m segments.Measure) segments.Report {
	t.Helper()
	r := b.Decide(day, audienceOf(t, text), unit, m, 50, 5)
	b.Take(r)
	return r
}

// The floor is held against the exact count; the rounding comes after.
func TestRoundingEdges(t *testing.T) {
	var b segments.ReportBook
	for count, want := range map[uint64]uint64{0: 0, 49: 0, 50: 50, 54: 50, 55: 60, 64: 60, 65: 70, 1234: 1230, 1235: 1240} {
		a := audienceOf(t, "a")
		r := b.Decide(1, a, "identities", segments.Measure{Count: count}, 50, 5)
		if r.Told != want || (r.Verdict == segments.VerdictTold) != (want > 0) {
			t.Errorf("of %d %d is told, verdict %d; want %d", count, r.Told, r.Verdict, want)
		}
		for edge := range uint64(10) { // wherever it jumps: a multiple, near, not below the floor
			r := b.Decide(1, a, "identities", segments.Measure{Count: count}, 50, edge)
			if want > 0 && (r.Told%10 != 0 || r.Told < 50 || r.Told+10 <= count || r.Told >= count+10) {
				t.Errorf("of %d %d is told with edge %d", count, r.Told, edge)
			}
		}
	}
	if r := b.Decide(1, audienceOf(t, "a"), "identities", segments.Measure{Count: 55}, 55, 0); r.Told != 60 {
		t.Errorf("with floor 55, of 55 %d is told", r.Told)
	}
	// Sixty devices of few people are few.
	if r := b.Decide(1, audienceOf(t, "a"), "identities", segments.Measure{Count: 60, Few: true}, 50, 5); r.Verdict != segments.VerdictBelow {
		t.Errorf("devices of few people: %+v", r)
	}
}

func TestReportBookKeepsTwoDays(t *testing.T) {
	var b segments.ReportBook
	tell(t, &b, 10, "a", "identities", segments.Measure{Count: 100})
	tell(t, &b, 10, "tiny", "identities", segments.Measure{Count: 3})
	tell(t, &b, 10, "near", "identities", segments.Measure{Count: 101, Close: true})
	rivals := func(day proto.Day, text string) string { return fmt.Sprint(b.Rivals(day, audienceOf(t, text))) }
	// Only figures that were told can be subtracted.
	if got := rivals(10, "b"); got != "[a !a]" {
		t.Errorf("rivals %s", got)
	}
	if got := rivals(10, "a & a"); got != "[!a]" {
		t.Errorf("rivals of itself %s", got)
	}
	if _, ok := b.Find(10, audienceOf(t, "a | a & c"), "identities"); !ok {
		t.Error("rewritten, it is not found")
	}
	if _, ok := b.Find(10, audienceOf(t, "a"), "users"); ok {
		t.Error("another unit is found")
	}
	// A minute may lie between two days, but a clock set back makes no new one.
	if got := rivals(11, "b"); got != "[a !a]" {
		t.Errorf("rivals the next day %s", got)
	}
	tell(t, &b, 11, "c", "identities", segments.Measure{Count: 70})
	if b.Day(10) != 11 || b.Asked(11) != 1 || b.Asked(10) != 0 {
		t.Errorf("the day is %d, asked %d", b.Day(10), b.Asked(11))
	}
	if got := rivals(11, "b"); got != "[c !c a !a]" {
		t.Errorf("rivals %s", got)
	}
	if got := rivals(12, "b"); got != "[c !c]" {
		t.Errorf("rivals the day after %s", got)
	}
	if got := rivals(20, "b"); got != "[]" {
		t.Errorf("rivals much later %s", got)
	}
	b.Take(segments.Report{Day: 10, Audience: audienceOf(t, "late")})
	if b.Asked(11) != 1 {
		t.Error("a report of a day that is over was taken")
	}
}

// From one day to the next a figure stays, unless as many as the floor came or
// went since it was decided: else one could watch a single person.
func TestFiguresStayOverMidnight(t *testing.T) {
	var b segments.ReportBook
	day := proto.Day(10)
	for i, step := range []struct{ count, told uint64 }{
		{100, 100}, {101, 100}, {149, 100}, {150, 150}, {101, 150}, {100, 100}, {51, 100}, {50, 50}, {49, 0}, {50, 50},
	} {
		if r := tell(t, &b, day, "a", "identities", segments.Measure{Count: step.count}); r.Told != step.told {
			t.Errorf("step %d: of %d %d is told, want %d", i, step.count, r.Told, step.told)
		}
		day++
	}
}
