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

	denseSparseMax = 16 // words to an ordinal: to clear more takes longer than to merge
)

// chunkWords are the words of one chunk.
const chunkWords = 1 << (chunkBits - 6)

// dense counts over plain words what roaring would merge lists for, at several
// nanoseconds an ordinal; setting its bit takes two, looking it up less than one.
// That is unions, and intersections of two lists of like sizes: in others roaring
// leaps through the larger.
type dense struct {
	get   func(proto.SegmentID) *roaring.Bitmap
	words int // of a level: whole chunks
	some  [1024]uint32
	free  [denseDepthMax][]uint64
	first *roaring.Bitmap // its bits are the words of the first level
}

var densePool = sync.Pool{New: func() any { return &dense{first: roaring.New()} }}

// countDense is the size of the set that a describes, if it is one for words.
func (a *Audience) countDense(get func(proto.SegmentID) *roaring.Bitmap) (count uint64, ok bool) {
	n := a.root
	if n.op != audienceAnd {
		return 0, false
	}
	if !slices.ContainsFunc(n.kids, func(k *audienceNode) bool { return k.op == audienceOr }) && !n.merges(get) {
		return 0, false
	}
	rest, probe := n.withoutProbe(get)
	words, plain := rest.denseWords(get, 1)
	if !plain || words > denseWordsMax || a.sum(get) < uint64(words/denseSparseMax) {
		return 0, false
	}
	d := densePool.Get().(*dense)
	defer densePool.Put(d)
	d.get = get
	d.reach(words)
	if out := d.fill(rest, 0); probe != nil {
		count = d.first.AndCardinality(probe)
	} else {
		for _, w := range out {
			count += uint64(bits.OnesCount64(w))
		}
	}
	d.get = nil
	return count, true
}

// reach makes levels of words or more. Of words that are full roaring makes a bitmap
// that keeps all its chunks as bits, which are these words and not a copy. It can be
// intersected with whatever they become, but its own size is not to be asked for.
func (d *dense) reach(words int) {
	words = (words + chunkWords - 1) &^ (chunkWords - 1)
	if words <= d.words && d.words <= 2*words {
		return
	}
	d.words = words
	full := d.room(0)
	for i := range full {
		full[i] = math.MaxUint64
	}
	d.first = roaring.FromDense(full, false)
}

// withoutProbe is n without the largest of the segments that it intersects, which is
// looked up in the words of the others and not laid out. If there is none it is n itself.
func (n *audienceNode) withoutProbe(get func(proto.SegmentID) *roaring.Bitmap) (rest *audienceNode, probe *roaring.Bitmap) {
	at, most := 0, uint64(0)
	for i, kid := range n.kids {
		if kid.op != audienceName || i == 0 && n.kids[1].op == audienceNot { // what is left begins with no complement
			continue
		}
		if b := get(kid.id); b != nil && b.GetCardinality() > most {
			at, most, probe = i, b.GetCardinality(), b
		}
	}
	if probe == nil {
		return n, nil
	}
	return &audienceNode{op: n.op, kids: slices.Delete(slices.Clone(n.kids), at, at+1)}, probe
}

// listed reports whether a bitmap is kept as lists, mostly.
func listed(b *roaring.Bitmap) bool {
	return b != nil && !b.IsEmpty() && b.GetCardinality()/(uint64(b.Maximum())>>chunkBits+1) <= arrayMax
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

// mergeSkewMax is how much larger one list may be than another if roaring merges
// them in full; else it leaps through the larger.
const mergeSkewMax = 64

// merges reports whether n intersects nothing but two lists of like sizes. Of more,
// what is left of the first two is short.
func (n *audienceNode) merges(get func(proto.SegmentID) *roaring.Bitmap) bool {
	if len(n.kids) != 2 || n.kids[0].op != audienceName || n.kids[1].op != audienceName {
		return false
	}
	x, y := get(n.kids[0].id), get(n.kids[1].id)
	if !listed(x) || !listed(y) {
		return false
	}
	a, b := x.GetCardinality(), y.GetCardinality()
	return min(a, b)*mergeSkewMax >= max(a, b)
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
	out := d.room(level)
	clear(out)
	if b := d.get(id); b != nil {
		b.WriteDenseTo(out)
	}
	return out
}

// room is the words of a level.
func (d *dense) room(level int) []uint64 {
	if cap(d.free[level]) < d.words {
		d.free[level] = make([]uint64, d.words)
	}
	return d.free[level][:d.words]
}
