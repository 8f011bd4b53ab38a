package segments

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"kith/proto"
)

// predicate reads a condition on one event.
func (l *lowering) predicate(e ast.Expr, depth int) (*pred, error) {
	if err := l.step(e, depth); err != nil {
		return nil, err
	}
	switch e.Kind() {
	case ast.LiteralKind:
		if v, ok := e.AsLiteral().(types.Bool); ok && bool(v) {
			return &pred{op: predTrue}, nil
		} else if ok {
			return &pred{op: predFalse}, nil
		}
		return nil, l.fail(e, "a condition on an event is due here: write event.name == \"x\", or true for every event")
	case ast.CallKind:
		return l.predicateCall(e, e.AsCall(), depth)
	case ast.IdentKind:
		if e.AsIdent() != "event" {
			return nil, l.unknown(e)
		}
		return nil, l.fail(e, "event alone is not a condition: write true for every event")
	case ast.SelectKind:
		a, err := l.attr(e)
		if err != nil {
			return nil, err
		}
		text := string(a.append(nil))
		return nil, l.fail(e, "%s is a value, not a condition: write %s == true or has(%s)", text, text, text)
	}
	return nil, l.unknown(e)
}

func (l *lowering) predicateCall(e ast.Expr, c ast.CallExpr, depth int) (*pred, error) {
	switch name := c.FunctionName(); name {
	case operators.LogicalAnd, operators.LogicalOr:
		return l.predicateJoin(c, depth)
	case operators.LogicalNot:
		k, err := l.predicate(c.Args()[0], depth+1)
		if err != nil {
			return nil, err
		}
		if k.op == predNot {
			return k.kids[0], nil
		}
		return &pred{op: predNot, kids: []*pred{k}}, nil
	case "has":
		return l.has(e, c)
	}
	if slices.Contains(outside, c.FunctionName()) {
		return nil, l.outside(e, c)
	}
	return l.leaf(e, c, l.eventValue)
}

// outside names the functions that are about an identity and not one event.
var outside = []string{"count", "days", "first", "last", "sum", "min", "max", "distinct", "sequence", "devices", "trait", "member"}

func (l *lowering) outside(e ast.Expr, c ast.CallExpr) error {
	return l.fail(e, "%s() cannot stand inside a condition on an event: join it outside with && or ||", c.FunctionName())
}

func (l *lowering) predicateJoin(c ast.CallExpr, depth int) (*pred, error) {
	p := &pred{op: predAnd}
	if c.FunctionName() == operators.LogicalOr {
		p.op = predOr
	}
	for _, a := range c.Args() {
		k, err := l.predicate(a, depth+1)
		if err != nil {
			return nil, err
		}
		if k.op == p.op {
			p.kids = append(p.kids, k.kids...)
		} else {
			p.kids = append(p.kids, k)
		}
	}
	return p, nil
}

func (l *lowering) has(e ast.Expr, c ast.CallExpr) (*pred, error) {
	if len(c.Args()) != 1 || c.IsMemberFunction() {
		return nil, l.fail(e, "has takes one property: write has(event.section)")
	}
	a, err := l.attr(c.Args()[0])
	if err != nil {
		return nil, err
	}
	if a.kind != attrProp {
		return nil, l.fail(e, "%s is always there: compare it with \"\" instead", string(a.append(nil)))
	}
	return &pred{op: predHas, attr: a}, nil
}

// leaf reads a test of one value, which value finds: of an event or a trait.
func (l *lowering) leaf(e ast.Expr, c ast.CallExpr, value func(ast.Expr) (*pred, error)) (*pred, error) {
	name := c.FunctionName()
	if op, ok := comparisons[name]; ok {
		return l.leafCompare(e, op, c.Args()[0], c.Args()[1], value)
	}
	if name == operators.In {
		return l.leafIn(e, c, value)
	}
	for op, call := range textCalls {
		if c.IsMemberFunction() && name == call[1:] {
			return l.leafText(e, c, op, value)
		}
	}
	if name == "lowerAscii" {
		return nil, l.fail(e, "lowerAscii() gives a text: compare it with one")
	}
	return nil, l.unknown(e)
}

func (l *lowering) leafCompare(e ast.Expr, op cmpOp, left, right ast.Expr, value func(ast.Expr) (*pred, error)) (*pred, error) {
	if left.Kind() == ast.LiteralKind {
		left, right, op = right, left, op.flip()
	}
	p, err := value(left)
	if err != nil {
		return nil, err
	}
	if right.Kind() != ast.LiteralKind {
		return nil, l.fail(right, "%s is compared with a text, a number, true or false, nothing else", p.attrText())
	}
	v, err := l.literal(right)
	if err != nil {
		return nil, err
	}
	p.op, p.cmp, p.lits = predCmp, op, []proto.Value{v}
	return p, l.orderable(p, e)
}

func (l *lowering) leafIn(e ast.Expr, c ast.CallExpr, value func(ast.Expr) (*pred, error)) (*pred, error) {
	p, err := value(c.Args()[0])
	if err != nil {
		return nil, err
	}
	list := c.Args()[1]
	if list.Kind() != ast.ListKind || list.AsList().Size() == 0 {
		return nil, l.fail(list, "in takes a list that is not empty: write in [\"a\", \"b\"]")
	}
	p.op = predIn
	for _, el := range list.AsList().Elements() {
		v, err := l.literal(el)
		if err != nil {
			return nil, err
		}
		p.lits = append(p.lits, v)
	}
	return p, l.orderable(p, e)
}

func (l *lowering) leafText(e ast.Expr, c ast.CallExpr, op predOp, value func(ast.Expr) (*pred, error)) (*pred, error) {
	p, err := value(c.Target())
	if err != nil {
		return nil, err
	}
	if len(c.Args()) != 1 {
		return nil, l.fail(e, "%s takes one text", c.FunctionName())
	}
	text, ok := textLiteral(c.Args()[0])
	if !ok {
		return nil, l.fail(c.Args()[0], "%s takes a text in quotes", c.FunctionName())
	}
	if op == predMatches {
		if err := l.pattern(c.Args()[0], text); err != nil {
			return nil, err
		}
	}
	p.op, p.lits = op, []proto.Value{proto.TextOf(text)}
	return p, nil
}

// pattern checks a pattern early, where its place is known.
func (l *lowering) pattern(e ast.Expr, text string) error {
	if len(text) > RegexBytesMax {
		return l.fail(e, "the pattern has %d bytes: at most %d are allowed", len(text), RegexBytesMax)
	}
	return l.placeNil(checkPattern(text), e)
}

// orderable refuses what has no meaning: flags have no order, and letters are
// made small for texts only.
func (l *lowering) orderable(p *pred, e ast.Expr) error {
	for _, v := range p.lits {
		if p.op == predCmp && p.cmp > cmpNe && (v.Kind == proto.FalseValue || v.Kind == proto.TrueValue) {
			return l.fail(e, "true and false have no order: use == or !=")
		}
		if p.lower && v.Kind != proto.TextValue {
			return l.fail(e, "lowerAscii() gives a text: compare it with one")
		}
	}
	return nil
}

// traitLeaf reads trait("x") in […] and trait("x").startsWith("…").
func (l *lowering) traitLeaf(e ast.Expr, depth int) (*node, error) {
	p, err := l.leaf(e, e.AsCall(), l.traitValue)
	if err != nil {
		return nil, err
	}
	return &node{op: nodeTrait, pred: p}, nil
}

// lowered strips .lowerAscii() off.
func lowered(e ast.Expr) (ast.Expr, bool) {
	if e.Kind() == ast.CallKind {
		if c := e.AsCall(); c.IsMemberFunction() && c.FunctionName() == "lowerAscii" && len(c.Args()) == 0 {
			return c.Target(), true
		}
	}
	return e, false
}

func (l *lowering) traitValue(e ast.Expr) (*pred, error) {
	inner, lower := lowered(e)
	if inner.Kind() != ast.CallKind || inner.AsCall().FunctionName() != "trait" {
		if inner.Kind() == ast.CallKind {
			return nil, l.unknown(inner)
		}
		return nil, l.fail(e, "only trait(\"x\") can stand here")
	}
	a, err := l.trait(inner, inner.AsCall())
	return &pred{attr: a, lower: lower}, err
}

func (l *lowering) eventValue(e ast.Expr) (*pred, error) {
	inner, lower := lowered(e)
	a, err := l.attr(inner)
	return &pred{attr: a, lower: lower}, err
}

var eventFields = []string{"name", "url", "ref"}

// attr reads event.name, event.section, event.props["section"].
func (l *lowering) attr(e ast.Expr) (attr, error) {
	switch e.Kind() {
	case ast.SelectKind:
		s := e.AsSelect()
		if isProps(s.Operand()) {
			return attr{kind: attrProp, key: s.FieldName()}, l.checkKey(s.FieldName(), e)
		}
		if isIdent(s.Operand(), "event") {
			return l.field(e, s.FieldName())
		}
	case ast.CallKind:
		c := e.AsCall()
		if c.FunctionName() == operators.Index && isProps(c.Args()[0]) {
			if key, ok := textLiteral(c.Args()[1]); ok {
				return attr{kind: attrProp, key: key}, l.checkKey(key, e)
			}
			return attr{}, l.fail(c.Args()[1], "a property's name is a text: write event.props[\"section\"]")
		}
		if slices.Contains(outside, c.FunctionName()) {
			return attr{}, l.outside(e, c)
		}
		return attr{}, l.unknown(e)
	}
	if root := first(e); root.Kind() == ast.IdentKind && root.AsIdent() != "event" {
		return attr{}, l.unknown(root)
	}
	return attr{}, l.fail(e, "a property of the event is due here: write event.name, event.url, event.ref or event.section")
}

func (l *lowering) field(e ast.Expr, name string) (attr, error) {
	switch name {
	case "time":
		return attr{}, l.fail(e, "event.time is not supported: give the aggregate a window, such as count(true, \"7d\"), or use last()")
	case "props":
		return attr{}, l.fail(e, "event.props needs a name: write event.props[\"section\"]")
	}
	if i := slices.Index(eventFields, name); i >= 0 {
		return attr{kind: attrKind(i)}, nil
	}
	return attr{kind: attrProp, key: name}, l.checkKey(name, e)
}

func isIdent(e ast.Expr, name string) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == name }

func isProps(e ast.Expr) bool {
	return e.Kind() == ast.SelectKind && e.AsSelect().FieldName() == "props" && isIdent(e.AsSelect().Operand(), "event")
}
