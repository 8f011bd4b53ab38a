package segments_test

import (
	"fmt"
	"testing"
	"time"

	"kith/proto"
	"kith/segments"
)

// capped is a program of n frequency caps, one for each campaign.
func capped(tb testing.TB, n int) *segments.Program {
	p := segments.NewProgram()
	for i := range n {
		rule := compile(tb, fmt.Sprintf(`count(event.name == "impression" && event.campaign == "c%d", "24h") >= 3`, i))
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(i + 1), ID: proto.SegmentID(fmt.Sprintf("capped_c%d", i)), Rule: rule}); err != nil {
			tb.Fatal(err)
		}
	}
	return p
}

func impression() *proto.EventBody {
	return &proto.EventBody{Name: "impression", Props: []proto.Prop{
		{Key: "campaign", Value: proto.TextOf("c7")}, {Key: "creative", Value: proto.TextOf("blue")}, {Key: "placement", Value: proto.TextOf("top")},
	}}
}

// TestCappedEventCostsItsCampaign counts predicates tried, whatever the number of
// campaigns.
func TestCappedEventCostsItsCampaign(t *testing.T) {
	for _, n := range []int{10, 1000} {
		if tried := segments.Tried(capped(t, n), impression()); tried != 1 {
			t.Errorf("of %d caps an impression tries %d", n, tried)
		}
	}
}

// BenchmarkCapped is one impression's cost with 10 and with 1,000 frequency caps;
// their ratio is of one run, in turns.
func BenchmarkCapped(b *testing.B) {
	few, many := newCappedRun(b, 10), newCappedRun(b, 1000)
	var spent [2]time.Duration
	for b.Loop() {
		spent[0] += few.burst()
		spent[1] += many.burst()
	}
	b.ReportMetric(float64(spent[0].Nanoseconds())/float64(b.N*cappedBurst), "ns/event-10")
	b.ReportMetric(float64(spent[1].Nanoseconds())/float64(b.N*cappedBurst), "ns/event-1000")
	b.ReportMetric(float64(spent[1])/float64(spent[0]), "1000/10")
}

const cappedBurst = 1000

// cappedRun is some visitors that see the campaign again and again.
type cappedRun struct {
	p        *segments.Program
	ev       *segments.Evaluator
	d        segments.Delta
	e        *proto.EventBody
	memories []segments.Memory
	now      proto.Millis
}

func newCappedRun(tb testing.TB, n int) *cappedRun {
	return &cappedRun{p: capped(tb, n), ev: segments.NewEvaluator(), e: impression(), memories: make([]segments.Memory, 64), now: start}
}

func (r *cappedRun) burst() time.Duration {
	from := time.Now()
	for i := range cappedBurst {
		r.now += 1000
		r.ev.Observe(r.p, &r.memories[i%len(r.memories)], r.e, r.now, r.now, &r.d)
		r.d.Reset()
	}
	return time.Since(from)
}
