package segments

import (
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// arrayMax is how many ordinals of one chunk a roaring bitmap keeps as a list;
// more are kept as bits.
const arrayMax = 4096

// Overlap adds to out[i] how many are in row and in columns[i], which may be nil.
// The bitmaps stay unchanged. Merging two lists is slow where there are many: for
// many columns row's bits are laid out, and the lists of others looked up in them.
func Overlap(row *roaring.Bitmap, columns []*roaring.Bitmap, out []uint64) {
	if row == nil {
		return
	}
	size := row.GetCardinality()
	var plain plainBits
	if len(columns) >= 8 {
		plain = newPlainBits(row)
	}
	listed := plain.chunks != nil && size <= arrayMax*uint64(len(plain.chunks))
	for i, c := range columns {
		switch {
		case c == nil:
		case c == row:
			out[i] += size
		case listed && c.GetCardinality() <= arrayMax*uint64(len(plain.chunks)):
			out[i] += plain.count(c)
		default:
			out[i] += row.AndCardinality(c)
		}
	}
}

// plainChunk is the bits of 65,536 neighbouring ordinals.
type plainChunk [chunkWords]uint64

const chunkWords = 1 << (chunkBits - 6)

// plainBits is a bitmap without its compression, chunk by chunk.
type plainBits struct {
	chunks map[uint32]*plainChunk // by the ordinal's upper half
	buffer []uint32
}

func newPlainBits(b *roaring.Bitmap) plainBits {
	p := plainBits{chunks: map[uint32]*plainChunk{}, buffer: make([]uint32, arrayMax)}
	p.each(b, func(high uint32, list []uint32) {
		c := p.chunks[high]
		if c == nil {
			c = new(plainChunk)
			p.chunks[high] = c
		}
		for _, o := range list {
			c[o>>6&(chunkWords-1)] |= 1 << (o & 63)
		}
	})
	return p
}

// each gives the ordinals of b, of one chunk at a time.
func (p plainBits) each(b *roaring.Bitmap, fn func(high uint32, list []uint32)) {
	it := b.ManyIterator()
	for n := it.NextMany(p.buffer); n > 0; n = it.NextMany(p.buffer) {
		for list := p.buffer[:n]; len(list) > 0; {
			high := list[0] >> chunkBits
			end := len(list)
			if list[end-1]>>chunkBits != high {
				end, _ = slices.BinarySearch(list, (high+1)<<chunkBits)
			}
			fn(high, list[:end])
			list = list[end:]
		}
	}
}

// count is how many of b are set in p.
func (p plainBits) count(b *roaring.Bitmap) (sum uint64) {
	p.each(b, func(high uint32, list []uint32) {
		c := p.chunks[high]
		if c == nil {
			return
		}
		for _, o := range list {
			sum += c[o>>6&(chunkWords-1)] >> (o & 63) & 1
		}
	})
	return sum
}
