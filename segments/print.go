package segments

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"kith/proto"
)

// exactIntMax bounds the whole numbers that a float64 holds exactly.
const exactIntMax = 1 << 53

func (n *node) String() string { return string(n.append(nil)) }
func (p *pred) String() string { return string(p.append(nil)) }

func (n *node) append(b []byte) []byte {
	switch n.op {
	case nodeFalse:
		return append(b, "false"...)
	case nodeTrue:
		return append(b, "true"...)
	case nodeAnd, nodeOr:
		return appendJoined(b, n.kids, n.op == nodeAnd, func(k *node) bool { return k.op == nodeAnd || k.op == nodeOr })
	case nodeNot:
		return appendNot(b, n.kids[0], n.kids[0].op == nodeMember)
	case nodeTrait:
		return n.pred.append(b)
	case nodeMember:
		return append(appendQuoted(append(b, "member("...), string(n.member)), ')')
	case nodeSequence:
		return n.appendSequence(b)
	}
	b = n.appendAggregate(b)
	b = append(append(append(b, ' '), cmpText[n.cmp]...), ' ')
	switch n.op {
	case nodeLastAt, nodeFirstAt:
		b = append(appendQuoted(append(b, "timestamp("...), n.at.String()), ')')
	case nodeLastAgo, nodeFirstAgo:
		b = appendQuoted(append(b, "now - "...), windowText(n.window))
	case nodeSum, nodeMin, nodeMax:
		b = appendNumber(b, n.amount)
	default:
		b = strconv.AppendInt(b, int64(n.n), 10)
	}
	return b
}

// appendAggregate writes the call alone, without its comparison.
func (n *node) appendAggregate(b []byte) []byte {
	if n.op == nodeDevices {
		return append(b, "devices()"...)
	}
	b = append(append(b, aggregateNames[n.op]...), '(')
	if n.op < nodeSum || n.op > nodeDistinct {
		b = n.pred.append(b)
	} else if b = n.of.append(b); n.pred.op != predTrue {
		b = n.pred.append(append(b, ", "...))
	}
	if n.op != nodeLastAgo && n.op != nodeFirstAgo && n.window != 0 {
		b = appendQuoted(append(b, ", "...), windowText(n.window))
	}
	return append(b, ')')
}

var aggregateNames = map[nodeOp]string{
	nodeCount: "count", nodeDays: "days", nodeLastAt: "last", nodeLastAgo: "last", nodeFirstAt: "first", nodeFirstAgo: "first",
	nodeSum: "sum", nodeMin: "min", nodeMax: "max", nodeDistinct: "distinct",
}

func (n *node) appendSequence(b []byte) []byte {
	b = n.pred.append(append(b, "sequence("...))
	b = n.then.append(append(b, ", "...))
	b = appendQuoted(append(b, ", "...), windowText(n.within))
	if n.window != 0 {
		b = appendQuoted(append(b, ", "...), windowText(n.window))
	}
	return append(b, ')')
}

type printable interface{ append(b []byte) []byte }

func appendJoined[T printable](b []byte, kids []T, and bool, compound func(T) bool) []byte {
	for i, k := range kids {
		if i > 0 && and {
			b = append(b, " && "...)
		} else if i > 0 {
			b = append(b, " || "...)
		}
		if compound(k) {
			b = append(k.append(append(b, '(')), ')')
		} else {
			b = k.append(b)
		}
	}
	return b
}

func appendNot[T printable](b []byte, kid T, simple bool) []byte {
	if simple {
		return kid.append(append(b, '!'))
	}
	return append(kid.append(append(b, "!("...)), ')')
}

func (p *pred) append(b []byte) []byte {
	switch p.op {
	case predFalse:
		return append(b, "false"...)
	case predTrue:
		return append(b, "true"...)
	case predAnd, predOr:
		return appendJoined(b, p.kids, p.op == predAnd, func(k *pred) bool { return k.op == predAnd || k.op == predOr })
	case predNot:
		return appendNot(b, p.kids[0], p.kids[0].op == predHas)
	case predHas:
		return append(p.attr.append(append(b, "has("...)), ')')
	}
	b = p.attr.append(b)
	if p.lower {
		b = append(b, ".lowerAscii()"...)
	}
	switch p.op {
	case predCmp:
		b = append(append(append(b, ' '), cmpText[p.cmp]...), ' ')
		return appendLiteral(b, p.lits[0])
	case predIn:
		b = append(b, " in ["...)
		for i, l := range p.lits {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = appendLiteral(b, l)
		}
		return append(b, ']')
	}
	b = append(b, textCalls[p.op]...)
	return append(appendLiteral(append(b, '('), p.lits[0]), ')')
}

var textCalls = map[predOp]string{predPrefix: ".startsWith", predSuffix: ".endsWith", predContains: ".contains", predMatches: ".matches"}

func (a attr) append(b []byte) []byte {
	switch a.kind {
	case attrName:
		return append(b, "event.name"...)
	case attrURL:
		return append(b, "event.url"...)
	case attrRef:
		return append(b, "event.ref"...)
	case attrTrait:
		return append(appendQuoted(append(b, "trait("...), a.key), ')')
	}
	if plainKey(a.key) {
		return append(append(b, "event."...), a.key...)
	}
	return append(appendQuoted(append(b, "event.props["...), a.key), ']')
}

// collisions are the words that cannot be a plain property's name: the event's
// own fields, and CEL's reserved words.
var collisions = strings.Fields("name time url ref props as break const continue else false for function if import in let loop package namespace null return true var void while")

// plainKey reports whether event.KEY means the property.
func plainKey(key string) bool {
	for i := 0; i < len(key); i++ {
		c := key[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return key != "" && !slices.Contains(collisions, key)
}

func appendLiteral(b []byte, v proto.Value) []byte {
	switch v.Kind {
	case proto.NumberValue:
		return appendNumber(b, v.Number)
	case proto.TextValue:
		return appendQuoted(b, v.Text)
	}
	return append(b, v.String()...)
}

// appendNumber writes whole numbers as CEL's int and others as its double.
func appendNumber(b []byte, f float64) []byte {
	if f == math.Trunc(f) && math.Abs(f) <= exactIntMax {
		return strconv.AppendInt(b, int64(f), 10)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

// appendQuoted writes a CEL string: Go's escapes are among CEL's, and in valid
// UTF-8 mean the same.
func appendQuoted(b []byte, s string) []byte { return strconv.AppendQuote(b, s) }
