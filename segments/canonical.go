package segments

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// tableNamesMax is the number of segments of which a truth table has 64 rows.
const tableNamesMax = 6

// tableMasks are the rows in which each of six names is true.
var tableMasks = [tableNamesMax]uint64{
	0xaaaaaaaaaaaaaaaa, 0xcccccccccccccccc, 0xf0f0f0f0f0f0f0f0,
	0xff00ff00ff00ff00, 0xffff0000ffff0000, 0xffffffff00000000,
}

// Key is the same for two audiences only if they are the same set whatever is
// in their segments, and always then where they name at most six segments;
// beyond that, where they differ in order, repetition and parentheses. a must be
// expanded.
func (a *Audience) Key() string {
	if len(a.ids) > tableNamesMax {
		return "expr " + string(a.root.sorted().append(nil, audienceOr))
	}
	names := slices.Sorted(slices.Values(a.ids))
	rows := a.root.table(names)
	for i := len(names) - 1; i >= 0; i-- { // names that decide nothing
		if with, without := half(rows, i, true), half(rows, i, false); with == without {
			rows, names = drop(rows, i), slices.Delete(names, i, i+1)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table %x", rows)
	for _, id := range names {
		b.WriteString(" " + string(id))
	}
	return b.String()
}

// table is in which rows n holds.
func (n *audienceNode) table(names []proto.SegmentID) uint64 {
	switch n.op {
	case audienceName:
		i, _ := slices.BinarySearch(names, n.id)
		return tableMasks[i]
	case audienceNot:
		return ^n.kids[0].table(names)
	}
	rows := n.kids[0].table(names)
	for _, kid := range n.kids[1:] {
		if n.op == audienceAnd {
			rows &= kid.table(names)
		} else {
			rows |= kid.table(names)
		}
	}
	return rows
}

// half is the rows in which name i is true, or false, moved to where it is false.
func half(rows uint64, i int, is bool) uint64 {
	if is {
		return rows & tableMasks[i] >> (1 << i)
	}
	return rows &^ tableMasks[i]
}

// drop takes name i, which decides nothing, out: the names after it move up.
func drop(rows uint64, i int) (out uint64) {
	for row := range 64 {
		low := row & (1<<i - 1)
		from := low | row>>i<<(i+1)
		out |= rows >> (from & 63) & 1 << row
	}
	return out
}

// sorted is n with operands in order, each once.
func (n *audienceNode) sorted() *audienceNode {
	if n.op == audienceName {
		return n
	}
	byText := map[string]*audienceNode{}
	for _, kid := range n.kids {
		operands := []*audienceNode{kid.sorted()}
		if k := operands[0]; k.op == n.op && n.op != audienceNot { // of (a & b | b & a) & c only a & b is left
			operands = k.kids
		}
		for _, k := range operands {
			byText[string(k.append(nil, audienceOr))] = k
		}
	}
	kids := make([]*audienceNode, 0, len(byText))
	for _, text := range slices.Sorted(maps.Keys(byText)) {
		kids = append(kids, byText[text])
	}
	if n.op == audienceNot {
		return negated(kids[0])
	}
	return joined(n.op, kids)
}

// complement is everybody who is not in a, which is expanded.
func (a *Audience) complement() *Audience { return &Audience{root: negated(a.root), ids: a.ids} }

// Apart is the set of those who are in one of a and b, and not in the other.
func Apart(a, b *Audience, get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) *roaring.Bitmap {
	out := a.Eval(get, universe)
	out.Xor(b.Eval(get, universe))
	return out
}
