package segments_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
	"kith/segments"
)

// zipfSets are 2,000 segments among a million, whose sizes follow Zipf's law.
func zipfSets() []*roaring.Bitmap {
	const people, names = 1_000_000, 2000
	r := rand.New(rand.NewPCG(1, 1))
	sets := make([]*roaring.Bitmap, names)
	for i := range sets {
		sets[i] = roaring.New()
		for o := 0.0; o < people; o += 1 + r.ExpFloat64()*max(0.1, float64(i+1)/2.5) {
			sets[i].Add(uint32(o))
		}
	}
	return sets
}

// BenchmarkAudience counts over segments of all sizes and over the hundred largest
// of them, beside the plain calls.
func BenchmarkAudience(b *testing.B) {
	r, sets := rand.New(rand.NewPCG(1, 1)), zipfSets()
	for _, among := range []int{len(sets), 100} {
		var at [][]int
		for range 64 {
			at = append(at, r.Perm(among)[:6])
		}
		b.Run(fmt.Sprint("of=", among), func(b *testing.B) { benchmarkCounts(b, sets, at) })
	}
}

func benchmarkCounts(b *testing.B, sets []*roaring.Bitmap, at [][]int) {
	get := func(id proto.SegmentID) *roaring.Bitmap {
		i, _ := strconv.Atoi(string(id))
		return sets[i]
	}
	for name, format := range map[string]string{"two": "%d & %d", "six": "(%d | %d | %d | %d) & %d & !%d"} {
		b.Run(name, func(b *testing.B) {
			var list []*segments.Audience
			for _, x := range at {
				args := []any{x[0], x[1], x[2], x[3], x[4], x[5]}
				a, err := segments.ParseAudience(fmt.Sprintf(format, args[:strings.Count(format, "%")]...))
				if err != nil {
					b.Fatal(err)
				}
				list = append(list, a)
			}
			b.ReportAllocs()
			for i := range b.N {
				list[i%len(list)].Count(get, nil)
			}
		})
	}
	b.Run("six/roaring", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			x := at[i%len(at)]
			u := roaring.FastOr(sets[x[0]], sets[x[1]], sets[x[2]], sets[x[3]])
			u.And(sets[x[4]])
			u.AndNot(sets[x[5]])
			u.GetCardinality()
		}
	})
}
