package segments

import (
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"
)

// rowFew is how many columns are too few to lay a row out for, rowSparse how many words
// an ordinal are too many: eight of a chunk, of which roaring leaps through lists of
// over 500. And rowWordsMax bounds them: ordinals up to 67 million.
const (
	rowFew      = 8
	rowSparse   = 128
	rowWordsMax = 1 << 20
)

// Row is a segment that others are intersected with, by any number of goroutines
// until it is released. Two lists, or a list and runs, take roaring long where there
// are many; a list is looked up in bits faster: for many columns the row is laid out as
// those, unless it has so few that roaring leaps through the columns.
type Row struct {
	bits *roaring.Bitmap
	laid *rowWords // nil if it is not
}

type rowWords struct{ words []uint64 }

var rowPool = sync.Pool{New: func() any { return new(rowWords) }}

// NewRow is of b, which may be nil and stays unchanged, for so many columns.
func NewRow(b *roaring.Bitmap, columns int) *Row {
	r := &Row{bits: b}
	if b == nil || b.IsEmpty() || columns < rowFew {
		return r
	}
	words := (int(b.Maximum()>>chunkBits) + 1) * chunkWords
	if words > rowWordsMax || b.GetCardinality() < uint64(words/rowSparse) {
		return r
	}
	var reader chunkReader
	chunks, err := reader.read(nil, b)
	if err != nil {
		return r
	}
	r.laid = rowPool.Get().(*rowWords)
	r.laid.words = slices.Grow(r.laid.words[:0], words)[:words]
	clear(r.laid.words)
	for i := range chunks {
		chunks[i].addTo(r.laid.of(&chunks[i]))
	}
	return r
}

// of are the words of a chunk, nil beyond the last.
func (w *rowWords) of(c *chunk) *[chunkWords]uint64 {
	if len(w.words) < (c.key+1)*chunkWords {
		return nil
	}
	return (*[chunkWords]uint64)(w.words[c.key*chunkWords:])
}

// Release gives back what r is laid out in. It is used no more.
func (r *Row) Release() {
	if r.laid != nil {
		rowPool.Put(r.laid)
	}
	*r = Row{}
}

// Overlap adds to out[i] how many are in r and in columns[i], which may be nil and
// stays unchanged.
func (r *Row) Overlap(columns []*roaring.Bitmap, out []uint64) {
	var reader chunkReader
	var chunks []chunk
	for i, b := range columns {
		if b == nil || r.bits == nil {
			continue
		}
		var err error
		if r.laid != nil {
			chunks, err = reader.read(chunks[:0], b)
		}
		if r.laid == nil || err != nil {
			out[i] += r.bits.AndCardinality(b)
			continue
		}
		for j := range chunks {
			if w := r.laid.of(&chunks[j]); w != nil {
				out[i] += chunks[j].countIn(w)
			}
		}
	}
}
