package segments_test

import (
	"fmt"
	"testing"

	"kith/segments"
)

// BenchmarkOverlap sets one segment against all that there are: a common one, a
// usual one and a rare one.
func BenchmarkOverlap(b *testing.B) {
	sets := zipfSets()
	out := make([]uint64, len(sets))
	for _, row := range []int{0, 100, 1000, 1999} {
		b.Run(fmt.Sprint("row=", row), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				of := segments.NewRow(sets[row], len(sets))
				of.Overlap(sets, out)
				of.Release()
			}
		})
	}
}
