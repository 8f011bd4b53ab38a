package segments

import (
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"
)

// arrayMax is how many ordinals of one chunk a roaring bitmap keeps as a list;
// more are kept as bits.
const arrayMax = 4096

// overlapShare is how many columns are taken at a time, and overlapFew how many are
// too few to lay a row out for.
const (
	overlapShare = 16
	overlapFew   = 8
)

// Overlap adds to out[i] how many are in row and in columns[i], which may be nil, on
// as many goroutines as workers says. The bitmaps stay unchanged. Two lists, or a list
// and runs, take roaring long where there are many; a list it looks up in bits: for
// many columns the row is laid out as those.
func Overlap(row *roaring.Bitmap, columns []*roaring.Bitmap, out []uint64, workers int) {
	if row == nil || row.IsEmpty() {
		return
	}
	if words := int(row.Maximum()>>6) + 1; len(columns) >= overlapFew && words <= denseWordsMax {
		d := densePool.Get().(*dense)
		defer d.release()
		d.reach(words)
		if d.load(row, 0); d.in.err == nil {
			row = d.first
		}
	}
	var next atomic.Int64
	work := func() {
		for {
			to := int(next.Add(overlapShare))
			from := to - overlapShare
			if from >= len(columns) {
				return
			}
			for i, c := range columns[from:min(to, len(columns))] {
				if c != nil {
					out[from+i] += row.AndCardinality(c)
				}
			}
		}
	}
	var busy sync.WaitGroup
	defer busy.Wait()
	for range min(workers, (len(columns)+overlapShare-1)/overlapShare) - 1 {
		busy.Go(work)
	}
	work()
}
