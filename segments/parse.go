package segments

import (
	"errors"
	"math"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"kith/proto"
)

// Compile reads a rule. An error has CodeRule, says what to write instead where
// that can be guessed, and carries line and column.
//
// CEL's parser makes the tree. Types are checked here and not by CEL's checker,
// because the language compares by the type of the literal (a property may be
// text in one event and a number in the next) and takes windows as text.
func Compile(text string) (*Rule, error) {
	if len(text) > RuleBytesMax {
		return nil, at(proto.Errorf(proto.CodeRule, "the rule has %d bytes: at most %d are allowed", len(text), RuleBytesMax), 1, 1)
	}
	if !utf8.ValidString(text) {
		return nil, at(proto.Errorf(proto.CodeRule, "the rule is not valid UTF-8"), 1, 1)
	}
	tree, err := parseCEL(text)
	if err != nil {
		return nil, err
	}
	l := lowering{info: tree.SourceInfo(), text: []rune(text)}
	root, err := l.rule(tree.Expr(), 1)
	if err != nil {
		return nil, err
	}
	r, err := seal(root)
	if err != nil {
		return nil, at(err, 1, 1)
	}
	r.members, r.reserved = l.members, l.reserved
	return r, nil
}

// parseCEL runs CEL's parser with no macros: has() is a call like any other.
func parseCEL(text string) (tree *ast.AST, err error) {
	// The parser is not ours and its input is hostile: a panic in it refuses
	// the rule and nothing else.
	defer func() {
		if p := recover(); p != nil {
			tree, err = nil, at(proto.Errorf(proto.CodeRule, "the rule cannot be parsed: %v", p), 1, 1)
		}
	}()
	p, err := parser.NewParser(parser.EnablePrattParser(true), parser.EnableVariadicOperatorASTs(true),
		parser.MaxRecursionDepth(RuleDepthMax+textDepth), parser.ErrorRecoveryLimit(1), parser.ErrorReportingLimit(1),
		parser.ExpressionSizeCodePointLimit(RuleBytesMax), parser.MaxExpressionNodeCount(RuleBytesMax))
	if err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "CEL's parser does not start: %w", err)
	}
	tree, errs := p.Parse(common.NewTextSource(text))
	if list := errs.GetErrors(); len(list) > 0 {
		e := list[0]
		if strings.Contains(e.Message, "recursion limit") {
			return nil, at(proto.Errorf(proto.CodeRule, "the rule is nested deeper than %d levels: split it and join the parts with member()", RuleDepthMax), 1, 1)
		}
		return nil, at(proto.Errorf(proto.CodeRule, "%s", strings.TrimPrefix(e.Message, "Syntax error: ")), e.Location.Line(), e.Location.Column()+1)
	}
	return tree, nil
}

// at puts a position on an error that has none yet.
func at(err error, line, column int) error {
	var e *proto.Error
	if errors.As(err, &e) && e.Line <= 0 {
		e.Line, e.Column = max(line, 1), max(column, 1)
	}
	return err
}

// lowering turns CEL's tree into ours.
type lowering struct {
	info     *ast.SourceInfo
	text     []rune
	nodes    int
	members  []mention
	reserved []mention
}

func (l *lowering) fail(e ast.Expr, format string, args ...any) error {
	return l.place(proto.Errorf(proto.CodeRule, format, args...), e)
}

func (l *lowering) mention(name string, e ast.Expr) mention {
	line, column := l.position(e)
	return mention{name, line, column}
}

// place puts e's position on an error made elsewhere.
func (l *lowering) place(err error, e ast.Expr) error {
	line, column := l.position(e)
	return at(err, line, column)
}

func (l *lowering) position(e ast.Expr) (line, column int) {
	e = first(e)
	loc := l.info.GetStartLocation(e.ID())
	column = loc.Column() + 1
	if e.Kind() == ast.CallKind {
		column -= l.nameBefore(e)
	}
	return loc.Line(), column
}

// nameBefore is how far a call's name begins before the parenthesis by which
// CEL places it.
func (l *lowering) nameBefore(e ast.Expr) int {
	r, ok := l.info.GetOffsetRange(e.ID())
	name := len([]rune(e.AsCall().FunctionName()))
	from := int(r.Start) - name
	if !ok || from < 0 || int(r.Start) > len(l.text) || string(l.text[from:r.Start]) != e.AsCall().FunctionName() {
		return 0
	}
	return name
}

// first is the part of e that stands first in the text: CEL places an operator
// at its sign, and a person looks for where the expression begins.
func first(e ast.Expr) ast.Expr {
	for {
		switch e.Kind() {
		case ast.SelectKind:
			e = e.AsSelect().Operand()
			continue
		case ast.CallKind:
			c := e.AsCall()
			if c.IsMemberFunction() {
				e = c.Target()
				continue
			}
			if infix(c.FunctionName()) && len(c.Args()) > 0 {
				e = c.Args()[0]
				continue
			}
		}
		return e
	}
}

func infix(name string) bool {
	if _, binary := operators.FindReverseBinaryOperator(name); binary {
		return true
	}
	return name == operators.Conditional || name == operators.Index
}

func (l *lowering) step(e ast.Expr, depth int) error {
	if l.nodes++; l.nodes > RuleNodesMax {
		return l.fail(e, "the rule has more than %d parts: split it and join the parts with member()", RuleNodesMax)
	}
	return l.deep(e, depth)
}

// textDepth is how much deeper a text may be nested than its rule, whose bound
// seal checks: calls and operands are levels to CEL and none to us.
const textDepth = 10

func (l *lowering) deep(e ast.Expr, depth int) error {
	if depth > RuleDepthMax+textDepth {
		return l.fail(e, "the rule is nested deeper than %d levels", RuleDepthMax)
	}
	return nil
}

var comparisons = map[string]cmpOp{
	operators.Equals: cmpEq, operators.NotEquals: cmpNe, operators.Less: cmpLt,
	operators.LessEquals: cmpLe, operators.Greater: cmpGt, operators.GreaterEquals: cmpGe,
}

// rule reads a condition on an identity.
func (l *lowering) rule(e ast.Expr, depth int) (*node, error) {
	if err := l.step(e, depth); err != nil {
		return nil, err
	}
	if e.Kind() == ast.LiteralKind {
		if v, ok := e.AsLiteral().(types.Bool); ok && bool(v) {
			return &node{op: nodeTrue}, nil
		} else if ok {
			return &node{op: nodeFalse}, nil
		}
		return nil, l.fail(e, "a rule is a condition, not a value: write something like count(true) >= 1")
	}
	if aboutEvent(e) {
		return nil, l.bare(e, depth)
	}
	if e.Kind() != ast.CallKind {
		return nil, l.unknown(e)
	}
	c := e.AsCall()
	switch name := c.FunctionName(); {
	case name == operators.LogicalAnd || name == operators.LogicalOr:
		return l.ruleJoin(c, depth)
	case name == operators.LogicalNot:
		k, err := l.rule(c.Args()[0], depth+1)
		if err != nil {
			return nil, err
		}
		return notNode(k), nil
	case name == operators.In || c.IsMemberFunction():
		return l.traitLeaf(e, depth)
	case name == "member":
		return l.member(e, c)
	case name == "sequence":
		return l.sequence(e, c, depth)
	default:
		if op, ok := comparisons[name]; ok {
			return l.compare(e, op, c.Args()[0], c.Args()[1], depth)
		}
	}
	return nil, l.notCondition(e, depth)
}

func notNode(k *node) *node {
	if k.op == nodeNot {
		return k.kids[0]
	}
	return &node{op: nodeNot, kids: []*node{k}}
}

// ruleJoin flattens a && (b && c), so that equal rules have one text.
func (l *lowering) ruleJoin(c ast.CallExpr, depth int) (*node, error) {
	n := &node{op: nodeAnd}
	if c.FunctionName() == operators.LogicalOr {
		n.op = nodeOr
	}
	for _, a := range c.Args() {
		k, err := l.rule(a, depth+1)
		if err != nil {
			return nil, err
		}
		if k.op == n.op {
			n.kids = append(n.kids, k.kids...)
		} else {
			n.kids = append(n.kids, k)
		}
	}
	return n, nil
}

func (l *lowering) member(e ast.Expr, c ast.CallExpr) (*node, error) {
	if len(c.Args()) != 1 {
		return nil, l.fail(e, "member takes one segment: write member(\"owners\")")
	}
	name, ok := textLiteral(c.Args()[0])
	if !ok {
		return nil, l.fail(c.Args()[0], "member takes a segment's id in quotes: write member(\"owners\")")
	}
	id, err := proto.ParseSegmentID(name)
	if err != nil {
		return nil, l.fail(c.Args()[0], "segment id %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ - and dots, not a dot first", clip(name))
	}
	l.members = append(l.members, l.mention(string(id), c.Args()[0]))
	return &node{op: nodeMember, member: id}, nil
}

// bare refuses a condition on an event that no aggregate is taken over.
func (l *lowering) bare(e ast.Expr, depth int) error {
	p, err := l.predicate(e, depth)
	if err != nil {
		return err
	}
	return l.fail(e, "a condition on an event needs an aggregate over the history: write count(%s) >= 1", clip(p.String()))
}

// notCondition refuses a call that gives a value where a condition is due.
func (l *lowering) notCondition(e ast.Expr, depth int) error {
	o, err := l.operand(e, depth)
	if err != nil {
		return err
	}
	switch o.kind {
	case opCount, opDays, opDistinct, opAmount:
		return l.fail(e, "%s gives a number: write %s >= 1", o.text(), o.text())
	case opDevices:
		return l.fail(e, "devices() gives a number: write devices() >= 2")
	case opTime:
		return l.fail(e, "%s gives a time: write %s > now - \"7d\"", o.text(), o.text())
	case opTrait:
		return l.fail(e, "%s gives a value: write %s == \"x\"", o.text(), o.text())
	}
	return l.fail(e, "a rule is a condition, not a value: write something like count(true) >= 1")
}

// aboutEvent reports whether e looks at event outside of any aggregate.
func aboutEvent(e ast.Expr) bool {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent() == "event"
	case ast.SelectKind:
		return aboutEvent(e.AsSelect().Operand())
	case ast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot:
			return false // look again below, where the place is known better
		}
		if c.IsMemberFunction() {
			return aboutEvent(c.Target())
		}
		if infix(c.FunctionName()) || c.FunctionName() == "has" {
			for _, a := range c.Args() {
				if aboutEvent(a) {
					return true
				}
			}
		}
	}
	return false
}

func textLiteral(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// literal reads a text, number or flag.
func (l *lowering) literal(e ast.Expr) (proto.Value, error) {
	if e.Kind() != ast.LiteralKind {
		return proto.Value{}, l.fail(e, "only a text, a number, true or false can stand here")
	}
	switch v := e.AsLiteral().(type) {
	case types.String:
		return proto.TextOf(string(v)), nil
	case types.Bool:
		return proto.FlagOf(bool(v)), nil
	case types.Int:
		if v > exactIntMax || v < -exactIntMax {
			return proto.Value{}, l.fail(e, "the number is too large to be compared exactly: at most 2^53")
		}
		return proto.NumberOf(float64(v)), nil
	case types.Double:
		if math.IsInf(float64(v), 0) || math.IsNaN(float64(v)) {
			return proto.Value{}, l.fail(e, "the number is too large")
		}
		return proto.NumberOf(float64(v) + 0), nil // no minus zero
	}
	return proto.Value{}, l.fail(e, "a %s literal is not supported: use a text, a number, true or false", e.AsLiteral().Type().TypeName())
}
