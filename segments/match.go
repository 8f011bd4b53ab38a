package segments

import (
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"kith/proto"
)

// scratch holds the text of a value while it is compared, so that a number is
// written, or letters are made small, without an allocation.
type scratch struct{ buf []byte }

// text is v as text; it is valid until the next call.
func (s *scratch) text(v proto.Value, lower bool) string {
	var t string
	switch v.Kind {
	case proto.TextValue:
		t = v.Text
	case proto.NumberValue:
		s.buf = strconv.AppendFloat(s.buf[:0], v.Number, 'f', -1, 64)
		return unsafe.String(unsafe.SliceData(s.buf), len(s.buf)) // digits have no case
	case proto.FalseValue:
		return "false"
	case proto.TrueValue:
		return "true"
	}
	if lower && hasUpper(t) {
		return s.lower(t)
	}
	return t
}

func hasUpper(t string) bool {
	for i := 0; i < len(t); i++ {
		if t[i]-'A' < 26 {
			return true
		}
	}
	return false
}

func (s *scratch) lower(t string) string {
	s.buf = append(s.buf[:0], t...)
	for i, c := range s.buf {
		if c-'A' < 26 {
			s.buf[i] = c + 'a' - 'A'
		}
	}
	return unsafe.String(unsafe.SliceData(s.buf), len(s.buf))
}

// matches reports whether e satisfies the predicate.
func (p *pred) matches(e *proto.EventBody, s *scratch) bool {
	switch p.op {
	case predFalse:
		return false
	case predTrue:
		return true
	case predAnd:
		for _, k := range p.kids {
			if !k.matches(e, s) {
				return false
			}
		}
		return true
	case predOr:
		for _, k := range p.kids {
			if k.matches(e, s) {
				return true
			}
		}
		return false
	case predNot:
		return !p.kids[0].matches(e, s)
	}
	v, ok := p.attr.of(e)
	return ok && p.accepts(v, s)
}

// of is the attribute's value in e; a name, url or ref is always there.
func (a *attr) of(e *proto.EventBody) (proto.Value, bool) {
	switch a.kind {
	case attrName:
		return proto.TextOf(e.Name), true
	case attrURL:
		return proto.TextOf(e.URL), true
	case attrRef:
		return proto.TextOf(e.Ref), true
	}
	return e.Prop(a.key)
}

// accepts reports whether a leaf holds for a value that is there.
func (p *pred) accepts(v proto.Value, s *scratch) bool {
	switch p.op {
	case predHas:
		return true
	case predCmp:
		return compareLiteral(v, p.cmp, p.lits[0], p.lower, s)
	case predIn:
		return slices.ContainsFunc(p.lits, func(l proto.Value) bool { return compareLiteral(v, cmpEq, l, p.lower, s) })
	case predPrefix:
		return strings.HasPrefix(s.text(v, p.lower), p.lits[0].Text)
	case predSuffix:
		return strings.HasSuffix(s.text(v, p.lower), p.lits[0].Text)
	case predContains:
		return strings.Contains(s.text(v, p.lower), p.lits[0].Text)
	case predMatches:
		return p.matchesText(s.text(v, p.lower))
	}
	return false
}

// compareLiteral compares by the literal's type; a value that is not of it
// makes any comparison false.
func compareLiteral(v proto.Value, op cmpOp, lit proto.Value, lower bool, s *scratch) bool {
	switch lit.Kind {
	case proto.TextValue:
		t := s.text(v, lower)
		if op == cmpEq {
			return t == lit.Text
		}
		return op.ordered(strings.Compare(t, lit.Text))
	case proto.NumberValue:
		f, ok := numberOf(v)
		return ok && op.ordered(compareFloats(f, lit.Number))
	}
	flag, ok := flagOf(v)
	return ok && (op == cmpEq) == (flag == (lit.Kind == proto.TrueValue))
}

func compareFloats(a, b float64) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

func flagOf(v proto.Value) (flag, ok bool) {
	switch {
	case v.Kind == proto.TrueValue, v.Kind == proto.TextValue && v.Text == "true":
		return true, true
	case v.Kind == proto.FalseValue, v.Kind == proto.TextValue && v.Text == "false":
		return false, true
	}
	return false, false
}

// numberOf reads decimal digits with sign, point and exponent; nothing else
// that ParseFloat would take is a number here.
func numberOf(v proto.Value) (float64, bool) {
	if v.Kind == proto.NumberValue {
		return v.Number, true
	}
	if v.Kind != proto.TextValue || v.Text == "" || len(v.Text) > 64 {
		return 0, false
	}
	for i := 0; i < len(v.Text); i++ {
		if c := v.Text[i]; c-'0' > 9 && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(v.Text, 64)
	return f, err == nil
}
