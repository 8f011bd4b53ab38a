package segments_test

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"kith/segments"
)

// What roaring writes is read as the format says: of each kind of chunk nothing is
// missed and nothing added, and other bits stay.
func TestInWords(t *testing.T) {
	const words = 5 << 10 // five chunks
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (sets []*roaring.Bitmap) {
			for range rapid.IntRange(0, 3).Draw(t, name) {
				b := drawOrdinals(t)
				if rapid.Bool().Draw(t, "last of a chunk") {
					b.Add(1<<16 - 1)
				}
				b.RemoveRange(64*words, 1<<32)
				sets = append(sets, b)
			}
			return append(sets, nil, roaring.New())
		}
		in, out := draw("in"), draw("out")
		want := roaring.New()
		for _, b := range in {
			if b != nil {
				want.Or(b)
			}
		}
		for _, b := range out {
			if b != nil {
				want.AndNot(b)
			}
		}
		got := make([]uint64, words)
		if err := segments.InWords(got, in, out); err != nil {
			t.Fatal(err)
		}
		if !roaring.FromDense(got, true).Equals(want) {
			t.Fatal("the bits are not those of the sets")
		}
	})
	if err := segments.InWords(make([]uint64, 1<<10), []*roaring.Bitmap{roaring.BitmapOf(1 << 16)}, nil); err == nil {
		t.Fatal("an ordinal beyond the words was taken")
	}
}
