package segments

import (
	"iter"
	"math"
	"math/bits"
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// Bounds of counting over plain words: ordinals up to 67 million, and nesting,
// of which each level takes words of its own.
const (
	denseWordsMax = 1 << 20
	denseDepthMax = 6
)

// plainChunk is the bits of 65,536 neighbouring ordinals.
type plainChunk [chunkWords]uint64

const chunkWords = 1 << (chunkBits - 6)

// dense counts over plain words what roaring would merge lists for, at several
// nanoseconds an ordinal; setting its bit takes one. That is unions, and
// intersections of lists of like sizes: in others roaring skips more than that.
type dense struct {
	get     func(proto.SegmentID) *roaring.Bitmap
	words   int
	some    [1024]uint32
	free    [denseDepthMax][]uint64
	cursors [2]listCursor
	marks   plainChunk // all zero, but while countLists runs
}

var densePool = sync.Pool{New: func() any { return new(dense) }}

// countDense is the size of the set that a describes, if it is one for words.
func (a *Audience) countDense(get func(proto.SegmentID) *roaring.Bitmap) (count uint64, ok bool) {
	n := a.root
	if n.op != audienceAnd {
		return 0, false
	}
	if x, y, ok := n.twoLists(get); ok {
		d := densePool.Get().(*dense)
		defer densePool.Put(d)
		return d.countLists(x, y), true
	}
	if !slices.ContainsFunc(n.kids, func(k *audienceNode) bool { return k.op == audienceOr }) && !n.merges(get) {
		return 0, false
	}
	words, plain := n.denseWords(get, 1)
	if !plain || words > denseWordsMax || a.sum(get) < uint64(words) { // few in a wide range: words would be empty
		return 0, false
	}
	d := densePool.Get().(*dense)
	defer densePool.Put(d)
	d.get, d.words = get, words
	rest, probe := n.withoutProbe(get)
	if out := d.fill(rest, 0); probe != nil {
		count = d.countIn(out, probe)
	} else {
		for _, w := range out {
			count += uint64(bits.OnesCount64(w))
		}
	}
	d.get = nil
	return count, true
}

// twoLists are what n intersects, if that is two lists of like sizes, so short that
// words for them would be empty mostly.
func (n *audienceNode) twoLists(get func(proto.SegmentID) *roaring.Bitmap) (x, y *roaring.Bitmap, ok bool) {
	if len(n.kids) != 2 || n.kids[0].op != audienceName || n.kids[1].op != audienceName {
		return nil, nil, false
	}
	x, y = get(n.kids[0].id), get(n.kids[1].id)
	if x == nil || y == nil || x.IsEmpty() || y.IsEmpty() {
		return nil, nil, false
	}
	a, b, most := x.GetCardinality(), y.GetCardinality(), max(x.Maximum(), y.Maximum())
	return x, y, a+b <= uint64(most>>6) && alike(a, b)
}

// withoutProbe is n without one of the segments that it intersects, kept as a list:
// that is gone through in place of laying it out as words and going through those. If
// there is none it is n itself.
func (n *audienceNode) withoutProbe(get func(proto.SegmentID) *roaring.Bitmap) (rest *audienceNode, probe *roaring.Bitmap) {
	for i, kid := range n.kids {
		if i > 0 && kid.op == audienceName && listed(get(kid.id)) {
			return &audienceNode{op: n.op, kids: slices.Delete(slices.Clone(n.kids), i, i+1)}, get(kid.id)
		}
	}
	return n, nil
}

// listed reports whether a bitmap is kept as lists, mostly.
func listed(b *roaring.Bitmap) bool {
	return b != nil && !b.IsEmpty() && b.GetCardinality()/(uint64(b.Maximum())>>chunkBits+1) <= arrayMax
}

// countIn is how many of b are in words, which reach as far as b does.
func (d *dense) countIn(words []uint64, b *roaring.Bitmap) (count uint64) {
	for part := range d.parts(b) {
		for _, v := range part {
			count += words[v>>6] >> (v & 63) & 1
		}
	}
	return count
}

// parts goes through b, as many at a time as some holds.
func (d *dense) parts(b *roaring.Bitmap) iter.Seq[[]uint32] {
	return func(yield func([]uint32) bool) {
		it := b.ManyIterator()
		for n := it.NextMany(d.some[:]); n > 0 && yield(d.some[:n]); {
			n = it.NextMany(d.some[:])
		}
	}
}

// listCursor goes through a bitmap chunk by chunk.
type listCursor struct {
	it     roaring.ManyIntIterator
	buffer [1024]uint32
	part   []uint32 // what is to come of the buffer; empty: nothing is to come at all
}

func (c *listCursor) start(b *roaring.Bitmap) {
	c.it.Initialize(b)
	c.part = nil
	c.drop(0)
}

// run is what part begins with of one chunk.
func (c *listCursor) run(high uint32) []uint32 {
	end := len(c.part)
	if c.part[end-1]>>chunkBits != high {
		end, _ = slices.BinarySearch(c.part, (high+1)<<chunkBits)
	}
	return c.part[:end]
}

// drop goes on after the first n of part.
func (c *listCursor) drop(n int) {
	if c.part = c.part[n:]; len(c.part) == 0 {
		c.part = c.buffer[:c.it.NextMany(c.buffer[:])]
	}
}

func (c *listCursor) at(high uint32) bool { return len(c.part) > 0 && c.part[0]>>chunkBits == high }

// countLists is how many are in both of two lists, chunk by chunk: those of one are
// marked in the bits of a chunk, which stay in the nearest cache, those of the other
// looked up there.
func (d *dense) countLists(a, b *roaring.Bitmap) (count uint64) {
	x, y, marks := &d.cursors[0], &d.cursors[1], &d.marks
	x.start(a)
	y.start(b)
	for len(x.part) > 0 && len(y.part) > 0 {
		high, other := x.part[0]>>chunkBits, y.part[0]>>chunkBits
		switch {
		case high < other:
			x.drop(len(x.run(high)))
			continue
		case high > other:
			y.drop(len(y.run(other)))
			continue
		}
		for x.at(high) {
			run := x.run(high)
			for _, v := range run {
				marks[v>>6&(chunkWords-1)] |= 1 << (v & 63)
			}
			x.drop(len(run))
		}
		for y.at(high) {
			run := y.run(high)
			for _, v := range run {
				count += marks[v>>6&(chunkWords-1)] >> (v & 63) & 1
			}
			y.drop(len(run))
		}
		clear(marks[:])
	}
	x.it, y.it = roaring.ManyIntIterator{}, roaring.ManyIntIterator{} // what waits in the pool holds no bitmap
	return count
}

// mergeSkewMax is how much larger one list may be than another if they are merged
// in full; else roaring leaps through it.
const mergeSkewMax = 8

func alike(a, b uint64) bool { return min(a, b)*mergeSkewMax >= max(a, b) }

// merges reports whether n intersects nothing but lists of like sizes.
func (n *audienceNode) merges(get func(proto.SegmentID) *roaring.Bitmap) bool {
	least, most := uint64(math.MaxUint64), uint64(0)
	for _, kid := range n.kids {
		if kid.op != audienceName {
			return false
		}
		b := get(kid.id)
		if !listed(b) {
			return false
		}
		size := b.GetCardinality()
		least, most = min(least, size), max(most, size)
	}
	return alike(least, most)
}

// sum is how many there are in the segments that a names, together.
func (a *Audience) sum(get func(proto.SegmentID) *roaring.Bitmap) (n uint64) {
	for _, id := range a.ids {
		if b := get(id); b != nil {
			n += b.GetCardinality()
		}
	}
	return n
}

// denseWords is how many words n takes; plain says that it needs no universe and
// does not nest too deep.
func (n *audienceNode) denseWords(get func(proto.SegmentID) *roaring.Bitmap, depth int) (words int, plain bool) {
	switch {
	case n.op == audienceName:
		if b := get(n.id); b != nil && !b.IsEmpty() {
			words = int(b.Maximum()>>6) + 1
		}
		return words, depth <= denseDepthMax
	case n.op == audienceNot || n.op == audienceSaved || depth == denseDepthMax:
		return 0, false
	}
	for i, kid := range n.kids {
		if kid.op == audienceNot && n.op == audienceAnd && i > 0 {
			kid = kid.kids[0]
		}
		w, ok := kid.denseWords(get, depth+1)
		if !ok {
			return 0, false
		}
		words = max(words, w)
	}
	return words, true
}

// fill gives the bits of n, in the words of a level.
func (d *dense) fill(n *audienceNode, level int) []uint64 {
	if n.op == audienceName {
		return d.load(n.id, level)
	}
	out := d.fill(n.kids[0], level)
	for _, kid := range n.kids[1:] {
		switch {
		case kid.op == audienceNot:
			if kid = kid.kids[0]; kid.op == audienceName && d.few(d.get(kid.id)) {
				d.takeOut(out, d.get(kid.id))
				continue
			}
			for i, w := range d.fill(kid, level+1) {
				out[i] &^= w
			}
		case n.op == audienceAnd:
			for i, w := range d.fill(kid, level+1) {
				out[i] &= w
			}
		case kid.op == audienceName && adds(d.get(kid.id)):
			d.get(kid.id).WriteDenseTo(out)
		default:
			for i, w := range d.fill(kid, level+1) {
				out[i] |= w
			}
		}
	}
	return out
}

// adds reports whether WriteDenseTo sets the bits of b and leaves others: it copies
// containers that are bitmaps over what is there.
func adds(b *roaring.Bitmap) bool { return b != nil && b.Stats().BitmapContainers == 0 }

// few reports whether b is faster gone through than laid out as words.
func (d *dense) few(b *roaring.Bitmap) bool {
	return b != nil && b.GetCardinality() < uint64(d.words)/2
}

func (d *dense) takeOut(words []uint64, b *roaring.Bitmap) {
	for part := range d.parts(b) {
		for _, v := range part {
			words[v>>6] &^= 1 << (v & 63)
		}
	}
}

func (d *dense) load(id proto.SegmentID, level int) []uint64 {
	if cap(d.free[level]) < d.words {
		d.free[level] = make([]uint64, d.words)
	}
	out := d.free[level][:d.words]
	clear(out)
	if b := d.get(id); b != nil {
		b.WriteDenseTo(out)
	}
	return out
}
