package segments

import "github.com/RoaringBitmap/roaring/v2"

// arrayMax is how many ordinals of one chunk a roaring bitmap keeps as a list;
// more are kept as bits.
const arrayMax = 4096

// rowFew is how many columns are too few to lay a row out for, and rowSparse how many
// words an ordinal are too many: eight of a chunk, of which roaring leaps through lists
// of over 500.
const (
	rowFew    = 8
	rowSparse = 128
)

// Row is a segment that others are intersected with, by any number of goroutines
// until it is released. Two lists, or a list and runs, take roaring long where there
// are many; a list it looks up in bits: for many columns the row is laid out as those,
// unless it has so few that roaring leaps through the columns.
type Row struct {
	bits *roaring.Bitmap
	laid *dense
}

// NewRow is of b, which may be nil and stays unchanged, for so many columns.
func NewRow(b *roaring.Bitmap, columns int) *Row {
	of := sizedOf(b)
	if of.bits == nil || columns < rowFew || of.words > denseWordsMax || of.count < uint64(of.words/rowSparse) {
		return &Row{bits: of.bits}
	}
	d := densePool.Get().(*dense)
	d.reach(of.words)
	if d.load(of.bits, 0); d.in.err != nil {
		d.release()
		return &Row{bits: of.bits}
	}
	return &Row{bits: d.first, laid: d}
}

// Release gives back what r is laid out in. It is used no more.
func (r *Row) Release() {
	if r.laid != nil {
		r.laid.release()
	}
	*r = Row{}
}

// Overlap adds to out[i] how many are in r and in columns[i], which may be nil and
// stays unchanged.
func (r *Row) Overlap(columns []*roaring.Bitmap, out []uint64) {
	for i, c := range columns {
		if c != nil && r.bits != nil {
			out[i] += r.bits.AndCardinality(c)
		}
	}
}
