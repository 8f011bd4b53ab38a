package segments

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"kith/proto"
)

// operand is one side of a comparison.
type operand struct {
	kind   operandKind
	agg    *node        // of kinds before opTrait: the call
	leaf   *pred        // opTrait
	value  proto.Value  // opLiteral
	window proto.Millis // opSpan, opAgo
	at     proto.Millis // opAt
}

type operandKind uint8

const (
	opCount operandKind = iota
	opDays
	opDevices
	opDistinct
	opAmount  // sum, min, max
	opTime    // last(p), first(p)
	opAge     // now - last(p), now - first(p)
	opTrait   // trait("x")
	opLiteral // "x", 3, true
	opSpan    // duration("7d")
	opAt      // timestamp("…")
	opNow     // now
	opAgo     // now - "7d"
)

// constant reports whether o stays on the right in the canonical form.
func (o *operand) constant() bool { return o.kind >= opLiteral }

func (o *operand) text() string {
	if o.kind == opTrait {
		return clip(o.leaf.attrText())
	}
	return clip(string(o.agg.appendAggregate(nil)))
}

func (p *pred) attrText() string { return string(p.attr.append(nil)) }

// compare reads a comparison of an aggregate, a time or a trait.
func (l *lowering) compare(e ast.Expr, op cmpOp, left, right ast.Expr, depth int) (*node, error) {
	a, err := l.operand(left, depth+1)
	if err != nil {
		return nil, err
	}
	b, err := l.operand(right, depth+1)
	if err != nil {
		return nil, err
	}
	if a.constant() && !b.constant() {
		a, b, op, left, right = b, a, op.flip(), right, left
	}
	switch a.kind {
	case opCount, opDays, opDevices, opDistinct:
		return l.compareNumber(a, op, b, right)
	case opAmount:
		return l.compareAmount(a, op, b, right)
	case opTime, opAge:
		return l.compareTime(a, op, b, right)
	case opTrait:
		if b.kind != opLiteral {
			return nil, l.fail(right, "%s is compared with a text, a number, true or false", a.text())
		}
		a.leaf.op, a.leaf.cmp, a.leaf.lits = predCmp, op, []proto.Value{b.value}
		return &node{op: nodeTrait, pred: a.leaf}, l.orderable(a.leaf, e)
	}
	return nil, l.fail(e, "this compares two constants: one side must be an aggregate such as count(), devices() or trait()")
}

func (l *lowering) compareNumber(a *operand, op cmpOp, b *operand, right ast.Expr) (*node, error) {
	limit := map[operandKind]int{opCount: CountMax, opDays: DaysMax, opDevices: DevicesMax, opDistinct: DistinctMax}[a.kind]
	if b.kind != opLiteral || b.value.Kind != proto.NumberValue {
		return nil, l.fail(right, "%s is a number: compare it with a whole number from 0 to %d", a.text(), limit)
	}
	f := b.value.Number
	if f != math.Trunc(f) || f < 0 || f > float64(limit) {
		return nil, l.fail(right, "%s is compared with a whole number from 0 to %d, not with %s", a.text(), limit, b.value)
	}
	a.agg.cmp, a.agg.n = op, int(f)
	return a.agg, nil
}

func (l *lowering) compareAmount(a *operand, op cmpOp, b *operand, right ast.Expr) (*node, error) {
	if b.kind != opLiteral || b.value.Kind != proto.NumberValue {
		return nil, l.fail(right, "%s is a number: compare it with one", a.text())
	}
	if math.Abs(b.value.Number) > amountMax {
		return nil, l.fail(right, "amounts beyond 1e300 are left out: compare %s with a number up to that", a.text())
	}
	a.agg.cmp, a.agg.amount = op, b.value.Number
	return a.agg, nil
}

// compareTime reads the closed set of forms: last(p), or first(p), against a timestamp or
// now - window, and now - last(p) against a window, which is the same turned
// around: the younger, the later.
func (l *lowering) compareTime(a *operand, op cmpOp, b *operand, right ast.Expr) (*node, error) {
	n := a.agg
	switch {
	case a.kind == opTime && b.kind == opAt:
		n.cmp, n.at = op, b.at
		return n, nil
	case a.kind == opTime && b.kind == opAgo:
		n.op, n.cmp, n.window = n.op.ago(), op, b.window
		return n, nil
	case a.kind == opAge:
		window, err := l.span(b, right)
		if err != nil {
			return nil, err
		}
		n.op, n.cmp, n.window = n.op.ago(), op.flip(), window
		return n, nil
	}
	return nil, l.fail(right, "%s is a time: compare it with now - \"7d\" or timestamp(\"2026-01-02T00:00:00Z\")", a.text())
}

// ago is nodeLastAt, or nodeFirstAt, against a time before now.
func (o nodeOp) ago() nodeOp {
	if o == nodeFirstAt {
		return nodeFirstAgo
	}
	return nodeLastAgo
}

// span is the length of time that o gives, as duration("7d") or plain "7d".
func (l *lowering) span(o *operand, e ast.Expr) (proto.Millis, error) {
	if o.kind == opSpan {
		return o.window, nil
	}
	if o.kind != opLiteral || o.value.Kind != proto.TextValue {
		return 0, l.fail(e, "a length of time is due here: write something like \"7d\"")
	}
	d, err := ParseWindow(o.value.Text)
	return proto.Millis(d / time.Millisecond), l.placeNil(err, e)
}

func (l *lowering) placeNil(err error, e ast.Expr) error {
	if err == nil {
		return nil
	}
	return l.place(err, e)
}

func (l *lowering) operand(e ast.Expr, depth int) (*operand, error) {
	if err := l.deep(e, depth); err != nil {
		return nil, err
	}
	switch e.Kind() {
	case ast.LiteralKind:
		v, err := l.literal(e)
		return &operand{kind: opLiteral, value: v}, err
	case ast.IdentKind:
		if e.AsIdent() == "now" {
			return &operand{kind: opNow}, nil
		}
	case ast.CallKind:
		return l.operandCall(e, e.AsCall(), depth)
	}
	return nil, l.unknown(e)
}

func (l *lowering) operandCall(e ast.Expr, c ast.CallExpr, depth int) (*operand, error) {
	if inner, lower := lowered(e); lower {
		p, err := l.traitValue(e)
		if err != nil {
			return nil, l.place(err, inner)
		}
		return &operand{kind: opTrait, leaf: p}, nil
	}
	if c.IsMemberFunction() {
		return nil, l.fail(e, "a call of %s cannot be compared here", clip(c.FunctionName()))
	}
	switch c.FunctionName() {
	case "count":
		n, err := l.aggregate(e, c, nodeCount, 2, depth)
		return &operand{kind: opCount, agg: n}, err
	case "days":
		n, err := l.aggregate(e, c, nodeDays, 2, depth)
		return &operand{kind: opDays, agg: n}, err
	case "last":
		n, err := l.aggregate(e, c, nodeLastAt, 1, depth)
		return &operand{kind: opTime, agg: n}, err
	case "first":
		n, err := l.aggregate(e, c, nodeFirstAt, 1, depth)
		return &operand{kind: opTime, agg: n}, err
	case "sum", "min", "max":
		n, err := l.ofProperty(e, c, map[string]nodeOp{"sum": nodeSum, "min": nodeMin, "max": nodeMax}[c.FunctionName()], depth)
		return &operand{kind: opAmount, agg: n}, err
	case "distinct":
		n, err := l.ofProperty(e, c, nodeDistinct, depth)
		return &operand{kind: opDistinct, agg: n}, err
	case "devices":
		if len(c.Args()) != 0 {
			return nil, l.fail(e, "devices has %d arguments: write devices() >= 2", len(c.Args()))
		}
		return &operand{kind: opDevices, agg: &node{op: nodeDevices}}, nil
	case "trait":
		a, err := l.trait(e, c)
		return &operand{kind: opTrait, leaf: &pred{attr: a}}, err
	case "timestamp":
		return l.timestamp(e, c)
	case "duration":
		return l.duration(e, c)
	case operators.Subtract:
		return l.subtract(e, c, depth)
	case "member":
		return nil, l.fail(e, "member() is a condition already: write member(\"x\") or !member(\"x\")")
	case "sequence":
		return nil, l.fail(e, "sequence() is a condition already: write it, or !sequence(…), alone")
	}
	return nil, l.unknown(e)
}

// aggregate reads count(pred[, window]) and its kin.
func (l *lowering) aggregate(e ast.Expr, c ast.CallExpr, op nodeOp, argsMax, depth int) (*node, error) {
	args := c.Args()
	if len(args) == 0 || len(args) > argsMax {
		form := c.FunctionName() + "(event.name == \"x\", \"30d\")"
		if argsMax == 1 {
			form = c.FunctionName() + "(event.name == \"x\")"
		}
		return nil, l.fail(e, "%s has %d arguments: write %s", c.FunctionName(), len(args), form)
	}
	p, err := l.predicate(args[0], depth+1)
	if err != nil {
		return nil, err
	}
	n := &node{op: op, pred: p}
	if len(args) == 2 {
		n.window, err = l.window(args[1], "the window")
	}
	return n, err
}

func (l *lowering) window(e ast.Expr, what string) (proto.Millis, error) {
	text, ok := textLiteral(e)
	if !ok {
		return 0, l.fail(e, "%s is a text such as \"30d\"", what)
	}
	d, err := ParseWindow(text)
	return proto.Millis(d / time.Millisecond), l.placeNil(err, e)
}

// ofProperty reads sum(event.price[, pred][, window]) and its kin.
func (l *lowering) ofProperty(e ast.Expr, c ast.CallExpr, op nodeOp, depth int) (*node, error) {
	args := c.Args()
	if len(args) == 0 || len(args) > 3 {
		return nil, l.fail(e, "%s has %d arguments: write %s(event.price, event.name == \"order\", \"30d\"), of which only the first must be", c.FunctionName(), len(args), c.FunctionName())
	}
	a, err := l.property(args[0], c.FunctionName())
	if err != nil {
		return nil, err
	}
	n := &node{op: op, of: a, pred: &pred{op: predTrue}}
	rest := args[1:]
	if len(rest) > 0 {
		if _, window := textLiteral(rest[len(rest)-1]); window || len(rest) == 2 {
			if n.window, err = l.window(rest[len(rest)-1], "the window"); err != nil {
				return nil, err
			}
			rest = rest[:len(rest)-1]
		}
	}
	if len(rest) > 0 {
		n.pred, err = l.predicate(rest[0], depth+1)
	}
	return n, err
}

// property reads the first argument of sum and its kin.
func (l *lowering) property(e ast.Expr, call string) (attr, error) {
	switch {
	case e.Kind() == ast.IdentKind && e.AsIdent() != "event" && e.AsIdent() != "now":
		return attr{}, l.fail(e, "%s is of a property of events: write %s(event.%s)", call, call, clip(e.AsIdent()))
	case e.Kind() == ast.CallKind && infix(e.AsCall().FunctionName()) && e.AsCall().FunctionName() != operators.Index:
		return attr{}, l.fail(e, "%s is of a property of events, the condition comes after it: write %s(event.price, event.name == \"order\")", call, call)
	}
	return l.attr(e)
}

// sequence reads sequence(pred, then, within[, window]).
func (l *lowering) sequence(e ast.Expr, c ast.CallExpr, depth int) (*node, error) {
	args := c.Args()
	if len(args) < 3 || len(args) > 4 {
		return nil, l.fail(e, "sequence has %d arguments: write sequence(event.name == \"cart\", event.name == \"order\", \"1h\", \"30d\"): the first, what follows, within, and in which window", len(args))
	}
	n := &node{op: nodeSequence}
	var err error
	if n.pred, err = l.predicate(args[0], depth+1); err != nil {
		return nil, err
	}
	if n.then, err = l.predicate(args[1], depth+1); err != nil {
		return nil, err
	}
	if n.within, err = l.window(args[2], "the longest time between the two"); err == nil && len(args) == 4 {
		n.window, err = l.window(args[3], "the window")
	}
	return n, err
}

func (l *lowering) trait(e ast.Expr, c ast.CallExpr) (attr, error) {
	if len(c.Args()) == 1 {
		if key, ok := textLiteral(c.Args()[0]); ok {
			if proto.ReservedTrait(key) {
				l.reserved = append(l.reserved, l.mention(key, c.Args()[0]))
			}
			return attr{kind: attrTrait, key: key}, l.checkKey(key, e)
		}
	}
	return attr{}, l.fail(e, "trait takes one name in quotes: write trait(\"age\")")
}

func (l *lowering) checkKey(key string, e ast.Expr) error {
	if key == "" || len(key) > proto.PropKeyBytesMax {
		return l.fail(e, "a name has 1 to %d bytes, not %d", proto.PropKeyBytesMax, len(key))
	}
	return nil
}

// timeMax is the end of the year 9999, the last that RFC 3339 can write.
const timeMax = proto.Millis(253402300799999)

func (l *lowering) timestamp(e ast.Expr, c ast.CallExpr) (*operand, error) {
	if len(c.Args()) == 1 {
		if text, ok := textLiteral(c.Args()[0]); ok {
			t, err := time.Parse(time.RFC3339, text)
			if ms := proto.MillisOf(t); err == nil && ms >= 0 && ms <= timeMax {
				return &operand{kind: opAt, at: ms}, nil
			}
			return nil, l.fail(e, "timestamp %q is not valid: write a time from 1970 on, such as \"2026-01-02T00:00:00Z\"", clip(text))
		}
	}
	return nil, l.fail(e, "timestamp takes one text: write timestamp(\"2026-01-02T00:00:00Z\")")
}

func (l *lowering) duration(e ast.Expr, c ast.CallExpr) (*operand, error) {
	if len(c.Args()) == 1 {
		if text, ok := textLiteral(c.Args()[0]); ok {
			d, err := ParseWindow(text)
			return &operand{kind: opSpan, window: proto.Millis(d / time.Millisecond)}, l.placeNil(err, e)
		}
	}
	return nil, l.fail(e, "duration takes one text: write duration(\"7d\")")
}

// subtract reads now - last(p) and now - "7d".
func (l *lowering) subtract(e ast.Expr, c ast.CallExpr, depth int) (*operand, error) {
	a, err := l.operand(c.Args()[0], depth+1)
	if err != nil {
		return nil, err
	}
	b, err := l.operand(c.Args()[1], depth+1)
	if err != nil {
		return nil, err
	}
	if a.kind != opNow || (b.constant() && b.kind != opLiteral && b.kind != opSpan) {
		return nil, l.fail(e, "of subtractions only now - last(…) and now - \"7d\" are supported")
	}
	if b.kind == opTime {
		b.kind = opAge
		return b, nil
	}
	window, err := l.span(b, c.Args()[1])
	return &operand{kind: opAgo, window: window}, err
}

var functions = []string{"count", "days", "first", "last", "sum", "min", "max", "distinct", "sequence", "devices", "trait", "member", "timestamp", "duration", "has", "startsWith", "endsWith", "contains", "matches", "lowerAscii"}

// unknown refuses a name or a form that the language does not have.
func (l *lowering) unknown(e ast.Expr) error {
	switch e.Kind() {
	case ast.IdentKind:
		if e.AsIdent() == "now" {
			return l.fail(e, "now is a time, not a condition: write last(…) > now - \"7d\"")
		}
		if e.AsIdent() == "devices" {
			return l.fail(e, "devices is a function: write devices() >= 2")
		}
		return l.fail(e, "variable %q is unknown%s", clip(e.AsIdent()), suggest(e.AsIdent(), []string{"event", "now"}, "rules know event and now"))
	case ast.CallKind:
		name := e.AsCall().FunctionName()
		if sign, ok := operators.FindReverse(name); ok && sign != "" {
			return l.fail(e, "operator %s is not supported here", sign)
		}
		if strings.ContainsAny(name, "_@?") && !plainKey(name) {
			return l.fail(e, "this operator is not supported in a rule")
		}
		if slices.Contains(functions, name) {
			return l.fail(e, "%s cannot stand here", name)
		}
		return l.fail(e, "function %q is unknown%s", clip(name), suggest(name, functions, "rules know count, days, first, last, sum, min, max, distinct, sequence, devices, trait and member"))
	case ast.SelectKind:
		return l.fail(e, "%q is unknown: only event has fields", clip(e.AsSelect().FieldName()))
	}
	return l.fail(e, "lists, maps and messages cannot stand here")
}

// suggest names the candidate nearest to name, if one is near.
func suggest(name string, candidates []string, otherwise string) string {
	if len(name) > 32 {
		return ": " + otherwise
	}
	distance := func(s string) int { return proto.EditDistance(strings.ToLower(name), strings.ToLower(s)) }
	best := slices.MinFunc(candidates, func(a, b string) int { return cmp.Compare(distance(a), distance(b)) })
	if distance(best) <= max(1, len(best)/2) {
		return ": did you mean " + best + "?"
	}
	return ": " + otherwise
}
