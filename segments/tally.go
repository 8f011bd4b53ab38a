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
	sets   []tallySet
	groups []tallyGroup // those of one set first
	none   []tallyGroup
	reader chunkReader
	err    error // of any set

	marks  [1 << chunkBits]uint8
	marked uint8 // no mark is larger
	words  [2][chunkWords]uint64
}

// tallySet is a bitmap on the way through its chunks.
type tallySet struct {
	bits   *roaring.Bitmap // nil if there is none
	chunks []chunk
	at     int
}

// tallyGroup is sets from one up to before another.
type tallyGroup struct{ from, to int }

func (g tallyGroup) size() int { return g.to - g.from }

// tallyGroupsMax is fewer than there are marks.
const tallyGroupsMax = 200

// searchSkew is how many times as long as another a list is if it is faster searched
// for each of the other than gone through; and up to marksFew ordinals, the bits of others
// are looked at for each.
const (
	searchSkew = 64
	marksFew   = 256
)

var tallyPool = sync.Pool{New: func() any { return new(tally) }}

// tallied is how many a describes, unless that is not to be counted so.
func (a *Audience) tallied(get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) (count uint64, ok bool) {
	if a.root.op == audienceName {
		return 0, false
	}
	t := tallyPool.Get().(*tally)
	defer t.release()
	parts, others := a.root.parts()
	t.read(parts, others, get, universe)
	if t.err != nil || len(t.groups) > tallyGroupsMax {
		return 0, false
	}
	if t.twoAsBits() {
		return t.sets[0].bits.AndCardinality(t.sets[1].bits), true
	}
	for key := t.next(0); key >= 0; key = t.next(key + 1) {
		count += t.chunk(key)
	}
	if !others {
		return count, true
	}
	if universe == nil {
		return 0, true
	}
	return universe.GetCardinality() - count, true
}

// parts are what n is the intersection of, or of which it is all others.
func (n *audienceNode) parts() (parts []*audienceNode, others bool) {
	switch {
	case n.op == audienceAnd:
		return n.kids, false
	case n.op == audienceNot && n.kids[0].op == audienceAnd:
		return n.kids[0].kids, true
	case n.op == audienceOr && n.complement(): // a | !b = !(!a & b)
		for _, kid := range n.kids {
			parts = append(parts, negated(kid))
		}
		return parts, true
	}
	return []*audienceNode{n}, false
}

// twoAsBits says whether it is an intersection of two of which one is kept as bits, mostly:
// those roaring has fast.
func (t *tally) twoAsBits() bool {
	return len(t.sets) == 2 && len(t.groups) == 2 && t.sets[0].bits != nil && t.sets[1].bits != nil &&
		(!t.sets[0].listed() || !t.sets[1].listed())
}

// listed says whether half of a set's chunks or more are lists.
func (s *tallySet) listed() bool {
	lists := 0
	for i := range s.chunks {
		if s.chunks[i].form == formList {
			lists++
		}
	}
	return 2*lists >= len(s.chunks)
}

func (t *tally) release() {
	for i := range t.sets {
		clear(t.sets[i].chunks)
		t.sets[i].bits = nil
	}
	t.sets, t.groups, t.none, t.err = t.sets[:0], t.groups[:0], t.none[:0], nil
	tallyPool.Put(t)
}

// read takes the sets of an intersection, within the universe if it needs one.
func (t *tally) read(parts []*audienceNode, others bool, get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) {
	if others || !slices.ContainsFunc(parts, func(n *audienceNode) bool { return !n.complement() }) {
		t.groups = append(t.groups, t.add(universe))
	}
	for _, n := range parts {
		if !n.complement() {
			t.groups = append(t.groups, t.members(n, get))
			continue
		}
		if n.op == audienceNot {
			n = n.kids[0]
		}
		t.none = append(t.none, t.members(n, get))
	}
	slices.SortStableFunc(t.groups, func(a, b tallyGroup) int { return min(a.size(), 2) - min(b.size(), 2) })
}

// members are the sets of a union, or of whatever else the one, evaluated unless it is a
// name; of a complement, what it is the complement of.
func (t *tally) members(n *audienceNode, get func(proto.SegmentID) *roaring.Bitmap) tallyGroup {
	kids := []*audienceNode{n}
	if n.op == audienceOr && !n.complement() {
		kids = n.kids
	}
	g := tallyGroup{from: len(t.sets)}
	for _, kid := range kids {
		if kid.op == audienceName {
			t.add(get(kid.id))
		} else {
			t.add(kid.eval(get).bits)
		}
	}
	g.to = len(t.sets)
	return g
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

func (t *tally) add(b *roaring.Bitmap) tallyGroup {
	at := len(t.sets)
	if at < cap(t.sets) {
		t.sets = t.sets[:at+1] // with the room that one before it had
	} else {
		t.sets = append(t.sets, tallySet{})
	}
	s := &t.sets[at]
	s.bits, s.at = b, 0
	var err error
	if s.chunks, err = t.reader.read(s.chunks[:0], b); err != nil {
		t.err = err
	}
	return tallyGroup{at, at + 1}
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
					first = min(first, s.chunks[s.at].key)
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
	for s.at < len(s.chunks) && s.chunks[s.at].key < key {
		s.at++
	}
	return s.at < len(s.chunks)
}

// at are the chunks that a group's sets have at a key.
func (t *tally) at(g tallyGroup, key int) iter.Seq[*chunk] {
	return func(yield func(*chunk) bool) {
		for i := g.from; i < g.to; i++ {
			if s := &t.sets[i]; s.seek(key) && s.chunks[s.at].key == key && !yield(&s.chunks[s.at]) {
				return
			}
		}
	}
}

// chunk counts in one chunk, in which each group has something.
func (t *tally) chunk(key int) uint64 {
	lists, base := t.listed(key), -1
	for i := 0; i < len(t.groups) && t.groups[i].size() == 1; i++ {
		if c := t.only(i, key); c.form == formList && (base < 0 || c.size < t.only(base, key).size) {
			base = i
		}
	}
	switch {
	case base >= 0 && (lists || t.only(base, key).size <= marksFew):
		return t.byMarks(key, base, lists)
	case lists:
		return t.unions(key)
	}
	return t.byWords(key, base)
}

// listed says whether all that there is at a key are lists.
func (t *tally) listed(key int) bool {
	for _, groups := range [...][]tallyGroup{t.groups, t.none} {
		for _, g := range groups {
			for c := range t.at(g, key) {
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
	return &s.chunks[s.at]
}

// size is how many ordinals a group's sets have at a key, each.
func (t *tally) size(g tallyGroup, key int) (n int) {
	for c := range t.at(g, key) {
		n += c.size
	}
	return n
}

// fresh is the first of n marks that no ordinal has, nor has it the one before them.
func (t *tally) fresh(n int) uint8 {
	if int(t.marked)+1+n > math.MaxUint8 {
		t.marked = 0
		clear(t.marks[:])
	}
	first := t.marked + 2
	t.marked += uint8(n + 1)
	return first
}

// byMarks counts in the group base, which has a list. It marks the ordinals of a first
// group, moves their marks on for each other that they are in, and goes through the last to
// look at them; those not in base may get any mark. Else than by that list it only goes
// through lists: if not all are, through it first and last.
func (t *tally) byMarks(key, base int, lists bool) uint64 {
	of := t.only(base, key)
	most := searchSkew * of.size
	first, last := base, base
	if lists {
		first, last = t.ends(key, base, most)
	}
	mark := t.fresh(len(t.groups))
	for c := range t.at(t.groups[first], key) {
		setMarks(&t.marks, c.data, mark)
	}
	for _, g := range t.none {
		for c := range t.at(g, key) {
			if c.form == formList && c.size <= most {
				setMarks(&t.marks, c.data, mark-1)
			} else {
				t.move(of, c, mark, mark-1)
			}
		}
	}
	for i, g := range t.groups {
		if i == first || i == last {
			continue
		}
		for c := range t.at(g, key) {
			t.move(of, c, mark, mark+1)
		}
		mark++
	}
	return countMarks(&t.marks, t.only(last, key).data, mark)
}

// ends are the groups to go through first and last where all are lists: the longest, since
// of the first no mark is looked at and of the last none is changed.
func (t *tally) ends(key, base, most int) (first, last int) {
	first, last = base, base
	longest := 0
	for i, g := range t.groups {
		n := t.size(g, key)
		switch {
		case i == base || n > most:
		case g.size() > 1 && (first == base || n > longest):
			first, last, longest = i, base, n
		case g.size() == 1 && n > longest:
			last, longest = i, n
		}
	}
	return first, last
}

// move changes the mark of those of a list that are in c, and maybe of others.
func (t *tally) move(list, c *chunk, from, to uint8) {
	switch {
	case c.form == formBits:
		moveInBits(&t.marks, list.data, c.data, from, to)
	case c.form == formRuns:
		moveInRuns(&t.marks, list.data, c.data, from, to)
	case c.size > searchSkew*list.size:
		moveFound(&t.marks, list.data, c.data, from, to)
	default:
		moveList(&t.marks, c.data, from, to)
	}
}

// unions counts by marks, with no group of one set: an ordinal's mark is moved once for
// each group, whoever of it has the ordinal.
func (t *tally) unions(key int) (n uint64) {
	mark := t.fresh(len(t.groups) + 1)
	for _, g := range t.none {
		for c := range t.at(g, key) {
			setMarks(&t.marks, c.data, mark)
		}
	}
	for i, g := range t.groups {
		n = 0
		for c := range t.at(g, key) {
			if i == 0 {
				n += markOthers(&t.marks, c.data, mark, mark+1)
			} else {
				n += moveList(&t.marks, c.data, mark, mark+1)
			}
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
		if g.size() == 1 {
			if c := t.only(i, key); i == base || c.size == 1<<chunkBits {
				continue
			} else if c.form == formBits {
				andBits(w, c.data)
				continue
			}
		}
		union := &t.words[1]
		clear(union[:])
		for c := range t.at(g, key) {
			c.addTo(union)
		}
		for j := range w {
			w[j] &= union[j]
		}
	}
	for _, g := range t.none {
		for c := range t.at(g, key) {
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
