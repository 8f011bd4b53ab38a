package bench_test

import (
	"testing"

	"kith/internal/bench"
)

// benchmarkDrive puts entries through a shell; a unit is an event.
func benchmarkDrive(b *testing.B, direct bool) {
	d, err := bench.NewDrive(direct)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for range 64 {
		if _, err := d.Batch(); err != nil {
			b.Fatal(err)
		}
	}
	events := 0
	b.ReportAllocs()
	for b.Loop() {
		n, err := d.Batch()
		if err != nil {
			b.Fatal(err)
		}
		events += n
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
}

func BenchmarkShell(b *testing.B)  { benchmarkDrive(b, false) }
func BenchmarkDirect(b *testing.B) { benchmarkDrive(b, true) }
