package bench_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/internal/bench"
)

func TestQuantile(t *testing.T) {
	v := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.25: 1, 0.5: 2, 0.75: 3, 0.99: 4, 1: 4} {
		if got := bench.Quantile(v, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if got := bench.Quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.8: "0.8", 12.345: "12.3", 999: "999", 1234: "1.23k", 9994: "9.99k", 9995: "10k", 150_000: "150k", 999_499: "999k", 999_500: "1M", 1_320_000: "1.32M"} {
		if got := bench.Figure(v); got != want {
			t.Errorf("%g is written %s, want %s", v, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	r := bench.Report{
		Date: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Cores: 2, Go: "go1", Platform: "linux/amd64", Seconds: 3, Rounds: 5,
		LoadBefore: "0.1", LoadAfter: "2.0", Traffic: "traffic: some",
		Results: []bench.Result{
			{Work: "ingest", Unit: "events/s", Ours: 151_000, Yardstick: "bare", Beside: 302_000, Ratio: 0.5, Goals: []bench.Goal{{Text: "events/s >= 150k", Met: true}, {Text: "ratio >= 0.6"}}, Notes: []string{"a note"}},
			{Work: "look-up", Unit: "ms", Ours: 3.25, Goals: []bench.Goal{{Text: "ms <= 5", Met: true}}},
			{Work: "memory", Unit: "MB", Ours: 12},
		},
	}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `2026-11-22T12:00:00Z, 2 cores, go1, linux/amd64; medians of 5 samples of 3s, ours and yardstick in turn
load average before: 0.1; after: 2.0 (the load generator is on this machine too)
traffic: some

work     ours           yardstick  ratio  goal                            met
ingest   151k events/s  bare 302k  0.50   events/s >= 150k, ratio >= 0.6  NO
look-up  3.25 ms        -          -      ms <= 5                         yes
memory   12 MB          -          -      -                               -

ingest:
  a note
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestUnknownMeasurement(t *testing.T) {
	if _, err := bench.Run(t.Context(), bench.Config{Self: []string{"kith"}, Only: []string{"nothing"}}); err == nil {
		t.Error("no error")
	}
}
