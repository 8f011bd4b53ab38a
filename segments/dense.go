package segments

import (
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

// dense counts over plain words what roaring would merge lists for, at several
// nanoseconds an ordinal; setting its bit takes two, looking it up one. That is
// unions, and intersections of two lists of like sizes: in others roaring leaps
// through the larger.
type dense struct {
	get   func(proto.SegmentID) *roaring.Bitmap
	sets  []sized // that were asked for; of many, the first
	words int     // of a level: whole chunks
	in    inWords
	free  [denseDepthMax][]uint64
	first *roaring.Bitmap // its bits are the words of the first level
}

// sized is a segment's bitmap with what tells how to count it, which takes a walk
// over its chunks.
type sized struct {
	id     proto.SegmentID
	bits   *roaring.Bitmap // nil if it has none
	count  uint64
	words  int
	listed bool // mostly, its chunks are kept as lists
}

// setsKept is how many segments are looked through for one that was asked for before.
const setsKept = 64

var densePool = sync.Pool{New: func() any { return &dense{first: roaring.New()} }}

// countDense is the size of the set that a describes, if it is one for words.
func (a *Audience) countDense(get func(proto.SegmentID) *roaring.Bitmap) (count uint64, ok bool) {
	n := a.root
	if n.op != audienceAnd {
		return 0, false
	}
	d := densePool.Get().(*dense)
	defer d.release()
	d.get = get
	if !slices.ContainsFunc(n.kids, func(k *audienceNode) bool { return k.op == audienceOr }) && !d.merges(n) {
		return 0, false
	}
	rest, probe := d.withoutProbe(n)
	words, plain := d.extent(rest, 1)
	if !plain || words > denseWordsMax || d.sum(a.ids) < uint64(words/denseSparseMax) {
		return 0, false
	}
	d.reach(words)
	out := d.fill(rest, 0)
	if d.in.err != nil {
		return 0, false
	}
	if probe.bits != nil {
		return d.first.AndCardinality(probe.bits), true
	}
	for _, w := range out {
		count += uint64(bits.OnesCount64(w))
	}
	return count, true
}

func (d *dense) release() {
	d.get, d.in.err = nil, nil
	clear(d.sets)
	d.sets = d.sets[:0]
	densePool.Put(d)
}

// of is a segment's bitmap with its sizes.
func (d *dense) of(id proto.SegmentID) sized {
	for i := range d.sets {
		if d.sets[i].id == id {
			return d.sets[i]
		}
	}
	s := sizedOf(d.get(id))
	s.id = id
	if len(d.sets) < setsKept {
		d.sets = append(d.sets, s)
	}
	return s
}

func sizedOf(b *roaring.Bitmap) sized {
	if b == nil || b.IsEmpty() {
		return sized{}
	}
	count, last := b.GetCardinality(), b.Maximum()
	return sized{bits: b, count: count, words: int(last>>6) + 1, listed: count/uint64(last>>chunkBits+1) <= arrayMax}
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
func (d *dense) withoutProbe(n *audienceNode) (rest *audienceNode, probe sized) {
	at := 0
	for i, kid := range n.kids {
		if kid.op != audienceName || i == 0 && n.kids[1].op == audienceNot { // what is left begins with no complement
			continue
		}
		if s := d.of(kid.id); s.count > probe.count {
			at, probe = i, s
		}
	}
	if probe.bits == nil {
		return n, probe
	}
	return &audienceNode{op: n.op, kids: slices.Delete(slices.Clone(n.kids), at, at+1)}, probe
}

// mergeSkewMax is how much larger one list may be than another if roaring merges
// them in full; else it leaps through the larger.
const mergeSkewMax = 64

// merges reports whether n intersects nothing but two lists of like sizes. Of more,
// what is left of the first two is short.
func (d *dense) merges(n *audienceNode) bool {
	if len(n.kids) != 2 || n.kids[0].op != audienceName || n.kids[1].op != audienceName {
		return false
	}
	a, b := d.of(n.kids[0].id), d.of(n.kids[1].id)
	return a.listed && b.listed && min(a.count, b.count)*mergeSkewMax >= max(a.count, b.count)
}

// sum is how many there are in segments together.
func (d *dense) sum(ids []proto.SegmentID) (n uint64) {
	for _, id := range ids {
		n += d.of(id).count
	}
	return n
}

// extent is how many words n takes; plain says that it needs no universe and does
// not nest too deep.
func (d *dense) extent(n *audienceNode, depth int) (words int, plain bool) {
	switch {
	case n.op == audienceName:
		return d.of(n.id).words, depth <= denseDepthMax
	case n.op == audienceNot || n.op == audienceSaved || depth == denseDepthMax:
		return 0, false
	}
	for i, kid := range n.kids {
		if kid.op == audienceNot && n.op == audienceAnd && i > 0 {
			kid = kid.kids[0]
		}
		w, ok := d.extent(kid, depth+1)
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
		return d.load(d.of(n.id).bits, level)
	}
	out := d.fill(n.kids[0], level)
	for _, kid := range n.kids[1:] {
		switch {
		case n.op == audienceOr:
			d.join(out, kid, level)
		case kid.op == audienceNot:
			d.takeOut(out, kid.kids[0], level)
		default:
			for i, w := range d.fill(kid, level+1) {
				out[i] &= w
			}
		}
	}
	return out
}

// join adds n to the words of a level.
func (d *dense) join(out []uint64, n *audienceNode, level int) {
	if n.op == audienceName {
		d.in.set(out, d.of(n.id).bits)
		return
	}
	for i, w := range d.fill(n, level+1) {
		out[i] |= w
	}
}

// takeOut takes n out of the words of a level.
func (d *dense) takeOut(out []uint64, n *audienceNode, level int) {
	switch n.op {
	case audienceName:
		d.in.without(out, d.of(n.id).bits)
	case audienceOr:
		for _, kid := range n.kids {
			d.takeOut(out, kid, level)
		}
	default:
		for i, w := range d.fill(n, level+1) {
			out[i] &^= w
		}
	}
}

func (d *dense) load(b *roaring.Bitmap, level int) []uint64 {
	out := d.room(level)
	clear(out)
	d.in.set(out, b)
	return out
}

// room is the words of a level.
func (d *dense) room(level int) []uint64 {
	if cap(d.free[level]) < d.words {
		d.free[level] = make([]uint64, d.words)
	}
	return d.free[level][:d.words]
}
