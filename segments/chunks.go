package segments

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2"
)

const (
	chunkWords = 1 << (chunkBits - 6) // of one chunk

	// arrayMax is how many ordinals of one chunk a roaring bitmap keeps as a list;
	// more are kept as bits.
	arrayMax = 4096
)

// Of roaring's portable format, https://github.com/RoaringBitmap/RoaringFormatSpec.
const (
	cookieRuns   = 12347 // in 16 bits, then the number of chunks less one in 16 and a bit for each that is runs
	cookieNoRuns = 12346 // in 32 bits, then the number of chunks in 32
)

var errFormat = errors.New("not as the format has it")

// chunk is one chunk of a bitmap as roaring keeps it, not copied: it holds until the
// bitmap changes.
type chunk struct {
	key  int // the upper 16 bits of its ordinals
	size int // how many they are, 1 to 65,536
	form chunkForm
	data []byte // by form; numbers are little-endian
}

type chunkForm uint8

const (
	formList chunkForm = iota // the lower 16 bits of each ordinal
	formRuns                  // of each run the first and how many follow it, of 16 bits each
	formBits                  // a bit for each ordinal that there could be
)

// chunkReader reads a bitmap's chunks. To go through a bitmap one by one takes roaring
// 5 ns an ordinal; but what it writes is its chunks, as they are in memory.
type chunkReader struct {
	chunks []chunk
	head   bool   // has been read
	keys   []byte // of the chunks that are to come: 16 bits of its key, 16 of its size less one
	runs   []byte // a bit for each chunk, or none
	at     int
}

// read is into with the chunks of b, which may be nil, in their order.
func (x *chunkReader) read(into []chunk, b *roaring.Bitmap) ([]chunk, error) {
	if b == nil || b.IsEmpty() {
		return into, nil
	}
	*x = chunkReader{chunks: into}
	_, err := b.WriteTo(x)
	if err == nil {
		err = x.end()
	}
	into = x.chunks
	*x = chunkReader{}
	return into, err
}

// Write takes the header, then one chunk at a time. It keeps that, which a writer may not
// count on: but roaring writes what it has.
func (x *chunkReader) Write(p []byte) (int, error) {
	if !x.head {
		x.head = true
		return len(p), x.header(p)
	}
	if len(x.keys) < 4 {
		return 0, errFormat
	}
	c := chunk{
		key:  int(binary.LittleEndian.Uint16(x.keys)),
		size: int(binary.LittleEndian.Uint16(x.keys[2:])) + 1,
		data: p,
	}
	runs := x.runs != nil && x.runs[x.at/8]>>(x.at%8)&1 != 0
	x.keys, x.at = x.keys[4:], x.at+1
	switch {
	case runs:
		if len(p) < 2 || len(p) != 2+4*int(binary.LittleEndian.Uint16(p)) {
			return 0, errFormat
		}
		c.form, c.data = formRuns, p[2:]
	case c.size > arrayMax:
		if len(p) != 8*chunkWords {
			return 0, errFormat
		}
		c.form = formBits
	case len(p) != 2*c.size:
		return 0, errFormat
	}
	x.chunks = append(x.chunks, c)
	return len(p), nil
}

// end says whether all chunks came.
func (x *chunkReader) end() error {
	if !x.head || len(x.keys) > 0 {
		return errFormat
	}
	return nil
}

func (x *chunkReader) header(p []byte) error {
	if len(p) < 4 {
		return errFormat
	}
	var chunks int
	if binary.LittleEndian.Uint16(p) == cookieRuns {
		chunks = int(binary.LittleEndian.Uint16(p[2:])) + 1
		runs := 4 + (chunks+7)/8
		if len(p) < runs {
			return errFormat
		}
		x.runs, p = p[4:runs], p[runs:]
	} else if len(p) < 8 || binary.LittleEndian.Uint32(p) != cookieNoRuns {
		return errFormat
	} else {
		chunks, p = int(binary.LittleEndian.Uint32(p[4:])), p[8:]
	}
	if len(p) < 4*chunks {
		return errFormat
	}
	x.keys = p[:4*chunks]
	return nil
}

// addTo sets the ordinals of c in the words of its chunk.
func (c *chunk) addTo(w *[chunkWords]uint64) {
	switch c.form {
	case formList:
		setList(w, c.data)
	case formRuns:
		eachWord(c.data, func(i int, mask uint64) { w[i] |= mask })
	case formBits:
		orBits(w, c.data)
	}
}

// takeFrom clears the ordinals of c in the words of its chunk.
func (c *chunk) takeFrom(w *[chunkWords]uint64) {
	switch c.form {
	case formList:
		clearList(w, c.data)
	case formRuns:
		eachWord(c.data, func(i int, mask uint64) { w[i] &^= mask })
	case formBits:
		clearBits(w, c.data)
	}
}

// countIn is how many of c are in the words of its chunk.
func (c *chunk) countIn(w *[chunkWords]uint64) (n uint64) {
	switch c.form {
	case formList:
		return countList(w, c.data)
	case formRuns:
		eachWord(c.data, func(i int, mask uint64) { n += uint64(bits.OnesCount64(w[i] & mask)) })
	case formBits:
		for i, p := 0, c.data; i < chunkWords && len(p) >= 8; i, p = i+1, p[8:] {
			n += uint64(bits.OnesCount64(w[i] & binary.LittleEndian.Uint64(p)))
		}
	}
	return n
}

// eachWord gives the words in which there is some of the runs, with that.
func eachWord(runs []byte, f func(i int, mask uint64)) {
	for p := runs; len(p) >= 4; p = p[4:] {
		from := uint(binary.LittleEndian.Uint16(p))
		to := from + uint(binary.LittleEndian.Uint16(p[2:]))
		for i := from >> 6; i <= to>>6 && i < chunkWords; i++ {
			mask := ^uint64(0)
			if i == from>>6 {
				mask <<= from & 63
			}
			if i == to>>6 {
				mask &= ^uint64(0) >> (63 - to&63)
			}
			f(int(i), mask)
		}
	}
}
