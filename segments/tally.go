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

// tally counts who is in each of some groups, that is in one of its sets at least, and
// in none of other sets. It goes chunk by chunk. Where all are lists it marks the ordinals,
// a byte each: to set a mark takes 0.7 ns and to look at one 1.2, where roaring merges lists
// at several. Else it joins bits as words, and sets a list's in those.
type tally struct {
	sets    []tallySet
	groups  []tallyGroup // those of one set first; there is one at least
	none    []tallyGroup
	read    int  // chunks
	touched byte // nothing reads it
	reader  chunkReader

	marks  [1 << chunkBits]uint8
	marked uint8 // no mark is larger
	words  [2][chunkWords]uint64
}

// tallySet is a bitmap on the way through its chunks.
type tallySet struct {
	bits   *roaring.Bitmap // nil if there is none
	chunks []chunk
	on     int // the chunk that it has come to
}

// tallyGroup is sets from one up to before another.
type tallyGroup struct{ from, to int }

func (g tallyGroup) sets() int { return g.to - g.from }

// What is more is roaring's: after a dozen intersections little is left, of which it finds
// what there is in long lists, and a union of many sets it builds as bits. A chunk takes 48
// bytes, of which a tally keeps so many when it is used no more.
const (
	tallyPartsMax   = 12
	tallySetsMax    = 64
	tallyChunksMax  = 1 << 16
	tallyChunksKept = 1 << 14
)

// searchSkew is how many times as long as another a list is if it is faster searched
// for each of the other than gone through; and up to marksFew ordinals, the bits of others
// are looked at for each.
const (
	searchSkew = 64
	marksFew   = 256
)

// listsShort is how many ordinals two lists have together if they are faster counted by
// bits, which are an eighth of the marks: after a wait, as between two questions, those are
// no longer in the processor's nearest cache.
const listsShort = 1024

var tallyPool = sync.Pool{New: func() any { return new(tally) }}

// tallied is how many a describes; ok is false if a is better evaluated.
func (a *Audience) tallied(get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) (count uint64, ok bool) {
	parts, others := a.root.parts()
	if len(parts) > tallyPartsMax || a.Mentions() > tallySetsMax {
		return 0, false
	}
	t := tallyPool.Get().(*tally)
	defer t.release()
	if !t.take(parts, others, get, universe) {
		return 0, false
	}
	count = t.count()
	switch {
	case !others:
		return count, true
	case universe == nil:
		return 0, true
	}
	return universe.GetCardinality() - count, true
}

// countBoth is how many are in both of two bitmaps, which may be nil. Roaring has it fast,
// unless both are lists of like lengths.
func countBoth(a, b *roaring.Bitmap) uint64 {
	if a == nil || b == nil || a.IsEmpty() || b.IsEmpty() {
		return 0
	}
	if m, n := a.GetCardinality(), b.GetCardinality(); min(m, n)*searchSkew >= max(m, n) && sparse(a, m) && sparse(b, n) {
		t := tallyPool.Get().(*tally)
		defer t.release()
		if t.addGroup(a) && t.addGroup(b) {
			return t.count()
		}
	}
	return a.AndCardinality(b)
}

// sparse says whether b has few to a chunk: if they are alike, and no runs, they are lists.
func sparse(b *roaring.Bitmap, size uint64) bool {
	return size/uint64(b.Maximum()>>chunkBits+1) <= arrayMax
}

// parts are what n is the intersection of, or of which it is all others.
func (n *audienceNode) parts() (parts []*audienceNode, others bool) {
	switch complement := n.complement(); {
	case n.op == audienceAnd:
		return n.kids, false
	case complement && n.op == audienceNot && n.kids[0].op == audienceAnd:
		return n.kids[0].kids, true
	case complement && n.op == audienceOr: // a | !b = !(!a & b)
		for _, kid := range n.kids {
			parts = append(parts, negated(kid))
		}
		return parts, true
	}
	return []*audienceNode{n}, false
}

func (t *tally) release() {
	kept := 0
	for _, s := range t.sets[:cap(t.sets)] {
		kept += cap(s.chunks)
	}
	if kept > tallyChunksKept {
		return
	}
	for i := range t.sets {
		clear(t.sets[i].chunks)
		t.sets[i].bits = nil
	}
	t.sets, t.groups, t.none, t.read = t.sets[:0], t.groups[:0], t.none[:0], 0
	tallyPool.Put(t)
}

// take adds the sets of an intersection, within the universe if it needs one. It gives
// false if they are too many, or roaring writes something else.
func (t *tally) take(parts []*audienceNode, others bool, get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) bool {
	if others || !slices.ContainsFunc(parts, func(n *audienceNode) bool { return !n.complement() }) {
		if !t.addGroup(universe) {
			return false
		}
	}
	for _, n := range parts {
		to := &t.groups
		if n.complement() {
			to = &t.none
			if n.op == audienceNot {
				n = n.kids[0]
			}
		}
		g, ok := t.members(n, get)
		if !ok {
			return false
		}
		*to = append(*to, g)
	}
	slices.SortStableFunc(t.groups, func(a, b tallyGroup) int { return min(a.sets(), 2) - min(b.sets(), 2) })
	return true
}

// count goes through all chunks in which there is something of each group.
func (t *tally) count() (n uint64) {
	switch {
	case len(t.sets) == 1:
		if b := t.sets[0].bits; b != nil {
			n = b.GetCardinality()
		}
		return n
	case len(t.sets) == 2 && len(t.groups) == 2:
		return t.countTwo()
	}
	for key := t.next(0); key >= 0; key = t.next(key + 1) {
		n += t.chunk(key)
	}
	return n
}

// touchBytes is how much of a chunk is touched: of what comes after it the processor
// takes care.
const touchBytes = 1 << 10

// touch reads a byte of each line of memory that the chunks of s are in. Nothing depends
// on what it reads, so what is not in a cache is waited for at once, and not chunk after
// chunk.
func (t *tally) touch(s *tallySet) {
	for i := range s.chunks {
		data := s.chunks[i].data
		for at := 0; at < min(len(data), touchBytes); at += 64 {
			t.touched ^= data[at]
		}
	}
}

// countTwo is count for two sets, with nothing else in between.
func (t *tally) countTwo() (n uint64) {
	a, b := &t.sets[0], &t.sets[1]
	t.touch(a)
	t.touch(b)
	for a.on < len(a.chunks) && b.on < len(b.chunks) {
		switch x, y := &a.chunks[a.on], &b.chunks[b.on]; {
		case x.key < y.key:
			a.on++
		case x.key > y.key:
			b.on++
		default:
			if x.form == formList && y.form == formList && x.size+y.size <= listsShort {
				n += countLists(&t.words[0], x.data, y.data)
			} else {
				n += t.chunk(x.key)
			}
			a.on++
			b.on++
		}
	}
	return n
}

// members adds the sets of a union, or the one that anything else is; of a complement,
// what it is the complement of. What has no name is evaluated.
func (t *tally) members(n *audienceNode, get func(proto.SegmentID) *roaring.Bitmap) (g tallyGroup, ok bool) {
	kids := []*audienceNode{n}
	if n.op == audienceOr && !n.complement() {
		kids = n.kids
	}
	g.from = len(t.sets)
	for _, kid := range kids {
		var b *roaring.Bitmap
		if kid.op == audienceName {
			b = get(kid.id)
		} else {
			b = kid.eval(get).bits
		}
		if !t.add(b) {
			return g, false
		}
	}
	g.to = len(t.sets)
	return g, true
}

// complement says whether n is evaluated to one.
func (n *audienceNode) complement() bool {
	switch n.op {
	case audienceNot:
		return !n.kids[0].complement()
	case audienceAnd:
		return !slices.ContainsFunc(n.kids, func(k *audienceNode) bool { return !k.complement() })
	case audienceOr:
		return slices.ContainsFunc(n.kids, (*audienceNode).complement)
	}
	return false
}

// addGroup adds a group of one set.
func (t *tally) addGroup(b *roaring.Bitmap) bool {
	t.groups = append(t.groups, tallyGroup{len(t.sets), len(t.sets) + 1})
	return t.add(b)
}

func (t *tally) add(b *roaring.Bitmap) bool {
	at := len(t.sets)
	t.sets = slices.Grow(t.sets, 1)[:at+1] // with the room that one before it had
	s := &t.sets[at]
	var err error
	s.bits, s.on = b, 0
	s.chunks, err = t.reader.read(s.chunks[:0], b)
	t.read += len(s.chunks)
	return err == nil && t.read <= tallyChunksMax
}

// next is the first key, from one on, at which there is something of each group; -1
// if there is none.
func (t *tally) next(key int) int {
	for {
		from := key
		for _, g := range t.groups {
			first := math.MaxInt
			for i := g.from; i < g.to; i++ {
				if s := &t.sets[i]; s.seek(key) {
					first = min(first, s.chunks[s.on].key)
				}
			}
			if first == math.MaxInt {
				return -1
			}
			key = max(key, first)
		}
		if key == from {
			return key
		}
	}
}

// seek goes to the first chunk that is not before key, and says whether there is one.
func (s *tallySet) seek(key int) bool {
	for s.on < len(s.chunks) && s.chunks[s.on].key < key {
		s.on++
	}
	return s.on < len(s.chunks)
}

// chunks are those that a group's sets have at a key.
func (t *tally) chunks(g tallyGroup, key int) iter.Seq[*chunk] {
	return func(yield func(*chunk) bool) {
		for i := g.from; i < g.to; i++ {
			if s := &t.sets[i]; s.seek(key) && s.chunks[s.on].key == key && !yield(&s.chunks[s.on]) {
				return
			}
		}
	}
}

// chunk counts in one chunk, in which each group has something.
func (t *tally) chunk(key int) uint64 {
	lists, base := t.listed(key), -1
	for i := 0; i < len(t.groups) && t.groups[i].sets() == 1; i++ {
		if c := t.only(i, key); c.form == formList && (base < 0 || c.size < t.only(base, key).size) {
			base = i
		}
	}
	switch one := t.one(key); {
	case one != nil:
		return uint64(one.size)
	case base >= 0 && (lists || t.only(base, key).size <= marksFew):
		return t.byMarks(key, base, lists)
	case lists:
		return t.unions(key)
	}
	return t.byWords(key, base)
}

// one is the only chunk that there is at a key, nil if there are more.
func (t *tally) one(key int) (only *chunk) {
	if len(t.groups) > 1 {
		return nil
	}
	for c := range t.chunks(t.groups[0], key) {
		if only != nil {
			return nil
		}
		only = c
	}
	for _, g := range t.none {
		for range t.chunks(g, key) {
			return nil
		}
	}
	return only
}

// listed says whether all that there is at a key are lists.
func (t *tally) listed(key int) bool {
	for _, groups := range [...][]tallyGroup{t.groups, t.none} {
		for _, g := range groups {
			for c := range t.chunks(g, key) {
				if c.form != formList {
					return false
				}
			}
		}
	}
	return true
}

// only is the chunk of a group of one set.
func (t *tally) only(group, key int) *chunk {
	s := &t.sets[t.groups[group].from]
	s.seek(key)
	return &s.chunks[s.on]
}

// ordinals is how many a group's sets have at a key together.
func (t *tally) ordinals(g tallyGroup, key int) (n int) {
	for c := range t.chunks(g, key) {
		n += c.size
	}
	return n
}

// unmarked is less than all marks.
const unmarked = 0

// fresh gives n marks in a row that no ordinal has, by the first.
func (t *tally) fresh(n int) uint8 {
	if int(t.marked)+n > math.MaxUint8 {
		t.marked = unmarked
		clear(t.marks[:])
	}
	first := t.marked + 1
	t.marked += uint8(n)
	return first
}

// byMarks counts in the group base, which has a list. It marks the ordinals of a first
// group, and moves the marks on by each other that they are in. An ordinal of base has the
// mark just when it is in all groups so far and in none of the others; one that is not in
// base may have any, so base is first or last. What is no list, or too long a one, is only
// asked about those of base.
func (t *tally) byMarks(key, base int, lists bool) uint64 {
	of := t.only(base, key)
	most := searchSkew * of.size
	first, last := base, base
	if lists {
		first, last = t.ends(key, base, most)
	}
	mark := t.fresh(len(t.groups))
	for c := range t.chunks(t.groups[first], key) {
		setMarks(&t.marks, c.data, mark)
	}
	for _, g := range t.none {
		for c := range t.chunks(g, key) {
			if c.form == formList && c.size <= most {
				setMarks(&t.marks, c.data, unmarked)
			} else {
				t.move(of, c, mark, unmarked)
			}
		}
	}
	for i, g := range t.groups {
		if i == first || i == last {
			continue
		}
		left := uint64(0)
		for c := range t.chunks(g, key) {
			left += t.move(of, c, mark, mark+1)
		}
		if left == 0 {
			return 0
		}
		mark++
	}
	return countMarks(&t.marks, t.only(last, key).data, mark)
}

// ends are the groups to go through first and last where all are lists, of which base has
// to be one. The other is the longest: a union first, since of the first no mark is looked
// at, and a list last, since of that none is changed.
func (t *tally) ends(key, base, most int) (first, last int) {
	other, longest := base, 0
	for i, g := range t.groups {
		if n := t.ordinals(g, key); i != base && n <= most && n > longest {
			other, longest = i, n
		}
	}
	if t.groups[other].sets() > 1 {
		return other, base
	}
	return base, other
}

// move changes the mark of those of a list that are in c, and maybe of others, and counts
// them.
func (t *tally) move(list, c *chunk, from, to uint8) uint64 {
	switch {
	case c.form == formBits:
		return moveInBits(&t.marks, list.data, c.data, from, to)
	case c.form == formRuns:
		return moveInRuns(&t.marks, list.data, c.data, from, to)
	case c.size > searchSkew*list.size:
		return moveFound(&t.marks, list.data, c.data, from, to)
	}
	return moveList(&t.marks, c.data, from, to)
}

// unions counts by marks, with no group of one set: an ordinal's mark is moved once for
// each group, whoever of it has the ordinal.
func (t *tally) unions(key int) (n uint64) {
	mark := t.fresh(len(t.groups) + 1)
	for _, g := range t.none {
		for c := range t.chunks(g, key) {
			setMarks(&t.marks, c.data, mark)
		}
	}
	for i, g := range t.groups {
		n = 0
		for c := range t.chunks(g, key) {
			if i == 0 {
				n += markOthers(&t.marks, c.data, mark, mark+1)
			} else {
				n += moveList(&t.marks, c.data, mark, mark+1)
			}
		}
		if n == 0 {
			return 0
		}
		mark++
	}
	return n
}

// byWords counts where not all are lists, in the list of the group base if there is one.
func (t *tally) byWords(key, base int) (n uint64) {
	w := &t.words[0]
	for i := range w {
		w[i] = math.MaxUint64
	}
	for i, g := range t.groups {
		if i == base || g.sets() == 1 && t.only(i, key).size == 1<<chunkBits {
			continue
		}
		if g.sets() == 1 && t.only(i, key).form == formBits {
			andBits(w, t.only(i, key).data)
			continue
		}
		union := &t.words[1]
		clear(union[:])
		for c := range t.chunks(g, key) {
			c.addTo(union)
		}
		for j := range w {
			w[j] &= union[j]
		}
	}
	for _, g := range t.none {
		for c := range t.chunks(g, key) {
			c.takeFrom(w)
		}
	}
	if base >= 0 {
		return t.only(base, key).countIn(w)
	}
	for _, x := range w {
		n += uint64(bits.OnesCount64(x))
	}
	return n
}
