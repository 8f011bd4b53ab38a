package segments

import "github.com/RoaringBitmap/roaring/v2"

// arrayMax is how many ordinals of one chunk a roaring bitmap keeps as a list;
// more are kept as bits.
const arrayMax = 4096

// Overlap adds to out[i] how many are in row and in columns[i], which may be nil.
// The bitmaps stay unchanged. Merging two lists is slow where there are many. All but
// a list are kept as bits, in which roaring looks another list up: for many columns
// it is those outside of row that are counted.
func Overlap(row *roaring.Bitmap, columns []*roaring.Bitmap, out []uint64) {
	if row == nil {
		return
	}
	var others *roaring.Bitmap
	if len(columns) >= 8 && listed(row) {
		last := row.Maximum()
		for _, c := range columns {
			if c != nil && !c.IsEmpty() {
				last = max(last, c.Maximum())
			}
		}
		others = roaring.Flip(row, 0, uint64(last)+1)
	}
	for i, c := range columns {
		switch {
		case c == nil:
		case others != nil && listed(c):
			out[i] += c.GetCardinality() - others.AndCardinality(c)
		default:
			out[i] += row.AndCardinality(c)
		}
	}
}
