package segments_test

import (
	"slices"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"kith/segments"
)

// An overlap is the intersections' sizes, however the bitmaps are kept.
func TestOverlapCountsIntersections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		row := drawOrdinals(t)
		columns := []*roaring.Bitmap{nil, row, row.Clone()}
		for range rapid.IntRange(0, 9).Draw(t, "columns") {
			columns = append(columns, drawOrdinals(t))
		}
		out := make([]uint64, len(columns))
		out[0] = 7
		of := segments.NewRow(row, len(columns))
		some := rapid.IntRange(0, len(columns)).Draw(t, "some") // as parts of it are counted elsewhere
		of.Overlap(columns[:some], out)
		of.Overlap(columns[some:], out[some:])
		of.Release()
		for i, c := range columns {
			want := uint64(0)
			if i == 0 {
				want = 7 // it adds
			}
			if c != nil {
				want += roaring.And(row, c).GetCardinality()
			}
			if out[i] != want {
				t.Fatalf("column %d: %d, want %d", i, out[i], want)
			}
		}
		none := segments.NewRow(nil, len(columns))
		before := slices.Clone(out)
		none.Overlap(columns, out)
		if none.Release(); !slices.Equal(out, before) {
			t.Fatal("nobody overlaps with somebody")
		}
	})
}
