package bench_test

import (
	"syscall"
	"testing"

	"kith/internal/bench"
)

// benchmarkDrive puts entries through a shell; a unit is an event. Posts of many
// events make full batches, single ones small batches of which each host gets little.
func benchmarkDrive(b *testing.B, direct bool) {
	for _, x := range []struct {
		name               string
		perBatch, commands int
	}{{"posts", 8, 512}, {"pixels", 2, 20}} {
		b.Run(x.name, func(b *testing.B) {
			d, err := bench.NewDrive(direct, x.perBatch, x.commands)
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			for events := 0; events < 100_000; {
				n, err := d.Batch()
				if err != nil {
					b.Fatal(err)
				}
				events += n
			}
			events, before := 0, spent()
			b.ReportAllocs()
			for b.Loop() {
				n, err := d.Batch()
				if err != nil {
					b.Fatal(err)
				}
				events += n
			}
			b.ReportMetric(float64(spent()-before)/float64(events), "cpu-ns/event")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
		})
	}
}

// spent is the processor's time of this process, which other work on the machine
// does not stretch as it does the clock's.
func spent() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkShell(b *testing.B)  { benchmarkDrive(b, false) }
func BenchmarkDirect(b *testing.B) { benchmarkDrive(b, true) }
