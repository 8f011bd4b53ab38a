package actors

import (
	"encoding/binary"

	"kith/graph"
)

// Filter is a set of identities that may take others for its own, some two in
// a hundred, and never forgets one: a Bloom filter that grows. Every identity
// that is seen for the first time is asked about, and a look into the store for
// what is not there costs as much as for what is.
//
// It takes 2 to 4 bytes an identity: layers of 16 bits for each that they have
// room for and 4 bits set by each, the next twice as large when one is full.
type Filter struct{ layers []filterLayer }

type filterLayer struct {
	words []uint64 // a power of two of them
	room  int      // for how many more
}

const (
	filterBits  = 16
	filterLeast = 1 << 10 // room of the first layer
)

// places are the bits of an identity among n, a power of two: its hash is
// random enough to be cut up.
func places(h *graph.Hash, n uint64) [4]uint64 {
	a, b := binary.LittleEndian.Uint64(h[:8])>>8, binary.LittleEndian.Uint64(h[8:])
	return [4]uint64{a & (n - 1), b & (n - 1), (a + 3*b) >> 7 & (n - 1), (b + 5*a) >> 13 & (n - 1)}
}

// Add puts an identity in. A nil filter holds everybody.
func (f *Filter) Add(h graph.Hash) {
	if f == nil || f.MayHold(h) {
		return
	}
	last := len(f.layers) - 1
	if last < 0 || f.layers[last].room == 0 {
		room := filterLeast << len(f.layers)
		f.layers = append(f.layers, filterLayer{make([]uint64, room*filterBits/64), room})
		last++
	}
	l := &f.layers[last]
	l.room--
	for _, p := range places(&h, uint64(len(l.words))*64) {
		l.words[p/64] |= 1 << (p % 64)
	}
}

// MayHold reports whether the identity may be in the set.
func (f *Filter) MayHold(h graph.Hash) bool {
	if f == nil {
		return true
	}
	for i := len(f.layers) - 1; i >= 0; i-- {
		if f.layers[i].mayHold(&h) {
			return true
		}
	}
	return false
}

func (l *filterLayer) mayHold(h *graph.Hash) bool {
	for _, p := range places(h, uint64(len(l.words))*64) {
		if l.words[p/64]>>(p%64)&1 == 0 {
			return false
		}
	}
	return true
}
