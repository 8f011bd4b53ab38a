package segments_test

import (
	"errors"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"kith/segments"
)

// What roaring writes is read as the format says: of each kind of chunk nothing is
// missed and nothing added.
func TestChunks(t *testing.T) {
	const words = 5 << 10 // five chunks
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) *roaring.Bitmap {
			b := drawOrdinals(t)
			if rapid.Bool().Draw(t, name+": last of a chunk") {
				b.Add(1<<16 - 1)
			}
			b.RemoveRange(64*words, 1<<32)
			return b
		}
		b, other := draw("one"), draw("other")
		in := make([]uint64, words)
		other.WriteDenseTo(in)
		got, both, err := segments.Chunks(b, in)
		if err != nil {
			t.Fatal(err)
		}
		if !roaring.FromDense(got, true).Equals(b) {
			t.Fatal("the bits are not those of the bitmap")
		}
		if want := b.AndCardinality(other); both != want {
			t.Fatalf("%d are in both, want %d", both, want)
		}
	})
	for _, b := range []*roaring.Bitmap{nil, roaring.New()} {
		if _, both, err := segments.Chunks(b, nil); both != 0 || err != nil {
			t.Fatal(both, err)
		}
	}
}

// Should roaring write something else one day, that is an error.
func TestChunksOfAnotherFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(0, 20).Draw(t, "bitmaps") {
			_ = segments.ReadChunks(rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 0, 4).Draw(t, "writes")) // it does not panic
		}
	})
	header, list := []byte{0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0}, []byte{1, 0, 2, 0}
	runsHeader, runs := []byte{0x3b, 0x30, 0, 0, 1, 0, 0, 1, 0}, []byte{1, 0, 1, 0, 1, 0}
	if err := errors.Join(segments.ReadChunks([][]byte{header, list}), segments.ReadChunks([][]byte{runsHeader, runs})); err != nil {
		t.Fatal(err)
	}
	for name, writes := range map[string][][]byte{
		"no chunk": {header}, "a short header": {header[:10]}, "no cookie": {list, list}, "too short": {header[:3]}, "a short list": {header, list[:2]}, "two lists": {header, list, list},
		"no bits": {{0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff}, list}, "short runs": {runsHeader, runs[:4]}, "half of runs": {runsHeader, runs[:1]}, "no which are runs": {runsHeader[:4], runs},
	} {
		if segments.ReadChunks(writes) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
