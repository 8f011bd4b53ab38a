package segments

import (
	"encoding/binary"
	"math"

	"kith/proto"
)

// A compiled rule is: the version byte, then the tree from its root, each part
// an operator byte and what the operator needs:
//
//	and, or         count, parts
//	not             part
//	count, days     comparison byte, number, window in ms (0: none), predicate
//	last at         comparison byte, time as a zig-zag varint, predicate
//	last ago        comparison byte, window in ms, predicate
//	trait           predicate, a leaf over a trait
//	member          text
//	devices         comparison byte, number
//	sum, min, max   comparison byte, value, window in ms, attribute, predicate
//	distinct        comparison byte, number, window in ms, attribute, predicate
//	sequence        two windows in ms (between the two, and of both), two predicates
//	first at, ago   as last
//
// and of a predicate:
//
//	and, or, not    as above
//	compare         attribute, comparison byte, value
//	in              attribute, count, values
//	starts … has    attribute, and but for has a text
//
// An attribute is a byte, 0x80 added if its letters are made small, and the
// key of a property or trait. Numbers are varints, texts have their length
// before them, values are as in an event.
const ruleVersion = 1

const lowerFlag = 0x80

// compiledBytesMax is above what any rule of RuleBytesMax compiles to.
const compiledBytesMax = 4 * RuleBytesMax

// AppendBinary appends the compiled form, which DecodeRule reads.
func (r *Rule) AppendBinary(b []byte) ([]byte, error) {
	return r.root.appendBinary(append(b, ruleVersion)), nil
}

func (n *node) appendBinary(b []byte) []byte {
	b = append(b, byte(n.op))
	switch n.op {
	case nodeAnd, nodeOr:
		b = binary.AppendUvarint(b, uint64(len(n.kids)))
	case nodeCount, nodeDays:
		b = binary.AppendUvarint(append(b, byte(n.cmp)), uint64(n.n))
		b = binary.AppendUvarint(b, uint64(n.window))
	case nodeDevices:
		b = binary.AppendUvarint(append(b, byte(n.cmp)), uint64(n.n))
	case nodeSum, nodeMin, nodeMax:
		b = proto.NumberOf(n.amount).Append(append(b, byte(n.cmp)))
		b = n.of.appendBinary(binary.AppendUvarint(b, uint64(n.window)), false)
	case nodeDistinct:
		b = binary.AppendUvarint(append(b, byte(n.cmp)), uint64(n.n))
		b = n.of.appendBinary(binary.AppendUvarint(b, uint64(n.window)), false)
	case nodeSequence:
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(n.within)), uint64(n.window))
	case nodeLastAt, nodeFirstAt:
		b = proto.AppendVarint(append(b, byte(n.cmp)), int64(n.at))
	case nodeLastAgo, nodeFirstAgo:
		b = binary.AppendUvarint(append(b, byte(n.cmp)), uint64(n.window))
	case nodeMember:
		b = proto.AppendString(b, string(n.member))
	}
	if n.pred != nil {
		b = n.pred.appendBinary(b)
	}
	if n.then != nil {
		b = n.then.appendBinary(b)
	}
	for _, k := range n.kids {
		b = k.appendBinary(b)
	}
	return b
}

func (p *pred) appendBinary(b []byte) []byte {
	b = append(b, byte(p.op))
	switch p.op {
	case predFalse, predTrue:
		return b
	case predAnd, predOr, predNot:
		if p.op != predNot {
			b = binary.AppendUvarint(b, uint64(len(p.kids)))
		}
		for _, k := range p.kids {
			b = k.appendBinary(b)
		}
		return b
	}
	b = p.attr.appendBinary(b, p.lower)
	switch p.op {
	case predCmp:
		return p.lits[0].Append(append(b, byte(p.cmp)))
	case predIn:
		b = binary.AppendUvarint(b, uint64(len(p.lits)))
		for _, v := range p.lits {
			b = v.Append(b)
		}
		return b
	case predHas:
		return b
	}
	return proto.AppendString(b, p.lits[0].Text)
}

func (a attr) appendBinary(b []byte, lower bool) []byte {
	kind := byte(a.kind)
	if lower {
		kind |= lowerFlag
	}
	b = append(b, kind)
	if a.kind >= attrProp {
		b = proto.AppendString(b, a.key)
	}
	return b
}

// DecodeRule reads what AppendBinary wrote and checks it as Compile would.
// CodeCorrupt if the bytes are malformed or of an unknown version, CodeRule if
// the rule is over a limit.
func DecodeRule(b []byte) (*Rule, error) {
	if len(b) > compiledBytesMax {
		return nil, proto.Errorf(proto.CodeCorrupt, "compiled rule has %d bytes: none is over %d", len(b), compiledBytesMax)
	}
	r := proto.NewReader(append([]byte(nil), b...)) // the rule keeps the texts
	if v := r.Byte(); v != ruleVersion {
		return nil, proto.Errorf(proto.CodeCorrupt, "compiled rule has version %d: this kith knows %d, install the one that wrote it", v, ruleVersion)
	}
	d := decoder{r: &r}
	root := d.node(1)
	if r.Bad() || r.Len() != 0 {
		return nil, proto.Errorf(proto.CodeCorrupt, "compiled rule of %d bytes is malformed", len(b))
	}
	return seal(root)
}

type decoder struct {
	r     *proto.Reader
	nodes int
}

// enter counts a part; false stops the descent.
func (d *decoder) enter(depth int) bool {
	d.nodes++
	d.check(d.nodes <= RuleNodesMax && depth <= RuleDepthMax)
	return !d.r.Bad()
}

func (d *decoder) check(ok bool) {
	if !ok {
		d.r.Fail()
	}
}

func (d *decoder) cmp() cmpOp {
	c := cmpOp(d.r.Byte())
	d.check(c <= cmpGe)
	return min(c, cmpGe)
}

func (d *decoder) window(least uint64) proto.Millis {
	w := d.r.Uvarint()
	d.check(w >= least && w <= uint64(WindowMax/1e6))
	return proto.Millis(w)
}

func (d *decoder) number(limit uint64) int {
	n := d.r.Uvarint()
	d.check(n <= limit)
	return int(n)
}

func (d *decoder) node(depth int) *node {
	n := &node{op: nodeOp(d.r.Byte())}
	if !d.enter(depth) {
		return n
	}
	switch n.op {
	case nodeFalse, nodeTrue:
	case nodeAnd, nodeOr:
		d.joined(n, depth)
	case nodeNot:
		n.kids = []*node{d.node(depth + 1)}
		d.check(n.kids[0].op != nodeNot)
	case nodeCount:
		n.cmp, n.n, n.window = d.cmp(), d.number(CountMax), d.window(0)
	case nodeDays:
		n.cmp, n.n, n.window = d.cmp(), d.number(DaysMax), d.window(0)
	case nodeDevices:
		n.cmp, n.n = d.cmp(), d.number(DevicesMax)
	case nodeSum, nodeMin, nodeMax:
		n.cmp, n.amount, n.window, n.of = d.cmp(), d.amount(), d.window(0), d.property()
	case nodeDistinct:
		n.cmp, n.n, n.window, n.of = d.cmp(), d.number(DistinctMax), d.window(0), d.property()
	case nodeSequence:
		n.within, n.window = d.window(1), d.window(0)
	case nodeLastAt, nodeFirstAt:
		n.cmp, n.at = d.cmp(), proto.Millis(d.r.Varint())
		d.check(n.at >= 0 && n.at <= timeMax)
	case nodeLastAgo, nodeFirstAgo:
		n.cmp, n.window = d.cmp(), d.window(1)
	case nodeTrait:
		n.pred = d.pred(depth+1, true)
		d.check(n.pred.op >= predCmp && n.pred.op < predHas)
	case nodeMember:
		id, err := proto.ParseSegmentID(d.r.String())
		d.check(err == nil)
		n.member = id
	default:
		d.r.Fail()
	}
	if n.aggregates() {
		n.pred = d.pred(depth+1, false)
	}
	if n.op == nodeSequence {
		n.then = d.pred(depth+1, false)
	}
	return n
}

// amount is a number that an aggregate is compared with.
func (d *decoder) amount() float64 {
	v := proto.ReadValue(d.r)
	d.check(v.Kind == proto.NumberValue && !math.IsInf(v.Number, 0) && !math.IsNaN(v.Number))
	return v.Number + 0 // no minus zero
}

// property is an attribute of an event.
func (d *decoder) property() attr {
	var p pred
	d.attr(&p, false)
	d.check(!p.lower)
	return p.attr
}

func (d *decoder) joined(n *node, depth int) {
	count := d.r.Count(1)
	d.check(count >= 2)
	for range count {
		k := d.node(depth + 1)
		d.check(k.op != n.op)
		n.kids = append(n.kids, k)
		if d.r.Bad() {
			return
		}
	}
}

func (d *decoder) pred(depth int, trait bool) *pred {
	p := &pred{op: predOp(d.r.Byte())}
	if !d.enter(depth) {
		return p
	}
	switch {
	case p.op <= predTrue:
	case p.op == predAnd || p.op == predOr:
		d.joinedPreds(p, depth, trait)
	case p.op == predNot:
		p.kids = []*pred{d.pred(depth+1, trait)}
		d.check(p.kids[0].op != predNot)
	case p.op <= predHas:
		d.leaf(p, trait)
	default:
		d.r.Fail()
	}
	return p
}

func (d *decoder) joinedPreds(p *pred, depth int, trait bool) {
	count := d.r.Count(1)
	d.check(count >= 2)
	for range count {
		k := d.pred(depth+1, trait)
		d.check(k.op != p.op)
		p.kids = append(p.kids, k)
		if d.r.Bad() {
			return
		}
	}
}

func (d *decoder) leaf(p *pred, trait bool) {
	d.attr(p, trait)
	switch p.op {
	case predCmp:
		p.cmp = d.cmp()
		p.lits = []proto.Value{d.literal(p)}
	case predIn:
		n := d.r.Count(1)
		d.check(n >= 1)
		for range n {
			p.lits = append(p.lits, d.literal(p))
		}
	case predHas:
		d.check(p.attr.kind == attrProp && !p.lower)
	default:
		p.lits = []proto.Value{proto.TextOf(d.r.String())}
	}
}

func (d *decoder) attr(p *pred, trait bool) {
	kind := d.r.Byte()
	p.lower = kind&lowerFlag != 0
	p.attr.kind = attrKind(kind &^ lowerFlag)
	d.check(p.attr.kind <= attrTrait && (p.attr.kind == attrTrait) == trait)
	if p.attr.kind >= attrProp {
		p.attr.key = d.r.String()
		d.check(p.attr.key != "" && len(p.attr.key) <= proto.PropKeyBytesMax)
	}
}

func (d *decoder) literal(p *pred) proto.Value {
	v := proto.ReadValue(d.r)
	flag := v.Kind == proto.FalseValue || v.Kind == proto.TrueValue
	d.check(!(flag && p.op == predCmp && p.cmp > cmpNe))
	d.check(!(p.lower && v.Kind != proto.TextValue))
	if v.Kind == proto.NumberValue {
		v.Number += 0 // no minus zero
	}
	return v
}
