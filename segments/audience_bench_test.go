package segments_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
	"kith/segments"
)

// BenchmarkAudience counts among a million over the hundred largest of segments
// whose sizes follow Zipf's law, beside the plain calls.
func BenchmarkAudience(b *testing.B) {
	const people, largest = 1_000_000, 100
	r := rand.New(rand.NewPCG(1, 1))
	sets := map[proto.SegmentID]*roaring.Bitmap{}
	names := make([]string, largest)
	for i := range names {
		names[i] = fmt.Sprint("s", i)
		bits := roaring.New()
		for o, share := uint32(0), min(0.9, 2.5/float64(i+1)); o < people; o++ {
			if r.Float64() < share {
				bits.Add(o)
			}
		}
		sets[proto.SegmentID(names[i])] = bits
	}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	var two, six []*segments.Audience
	var at [][]int
	for range 64 {
		p := r.Perm(largest)
		at = append(at, p)
		parse := func(format string, n int) *segments.Audience {
			args := make([]any, n)
			for i := range args {
				args[i] = names[p[i]]
			}
			a, err := segments.ParseAudience(fmt.Sprintf(format, args...))
			if err != nil {
				b.Fatal(err)
			}
			return a
		}
		two = append(two, parse("%s & %s", 2))
		six = append(six, parse("("+strings.Repeat("%s | ", 3)+"%s) & %s & !%s", 6))
	}
	run := func(name string, list []*segments.Audience) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				list[i%len(list)].Count(get, nil)
			}
		})
	}
	run("two", two)
	run("six", six)
	b.Run("six/roaring", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			x := func(k int) *roaring.Bitmap { return sets[proto.SegmentID(names[at[i%len(at)][k]])] }
			u := roaring.FastOr(x(0), x(1), x(2), x(3))
			u.And(x(4))
			u.AndNot(x(5))
			u.GetCardinality()
		}
	})
}
