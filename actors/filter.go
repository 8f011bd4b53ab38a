package actors

import (
	"encoding/binary"
	"math/bits"

	"kith/graph"
)

// CutFilter knows, but for some it takes for such, which identities were ever
// cut: a Bloom filter. Every identity that is seen for the first time is asked
// about, and a look into the store for what is not there costs as much as for
// what is.
type CutFilter struct{ words []uint64 }

// cutFilterBits is how many bits there are for each identity expected.
const (
	cutFilterBits  = 16
	cutFilterLeast = 1 << 13 // identities that any filter has room for
)

// NewCutFilter has room for twice as many identities before it errs more often.
func NewCutFilter(count int) *CutFilter {
	n := uint(max(2*count, cutFilterLeast)*cutFilterBits - 1)
	return &CutFilter{make([]uint64, (1<<bits.Len(n))/64)}
}

// places are the bits of an identity: its hash is random enough to be cut up.
func (f *CutFilter) places(h graph.Hash) [4]uint64 {
	a, b := binary.LittleEndian.Uint64(h[:8])>>8, binary.LittleEndian.Uint64(h[8:])
	n := uint64(len(f.words)) * 64
	return [4]uint64{a & (n - 1), b & (n - 1), (a + 3*b) >> 7 & (n - 1), (b + 5*a) >> 13 & (n - 1)}
}

// Add notes an identity that was cut. A nil filter holds everybody.
func (f *CutFilter) Add(h graph.Hash) {
	if f == nil {
		return
	}
	for _, p := range f.places(h) {
		f.words[p/64] |= 1 << (p % 64)
	}
}

// MayHold reports whether the identity may have been cut.
func (f *CutFilter) MayHold(h graph.Hash) bool {
	if f == nil {
		return true
	}
	for _, p := range f.places(h) {
		if f.words[p/64]>>(p%64)&1 == 0 {
			return false
		}
	}
	return true
}
