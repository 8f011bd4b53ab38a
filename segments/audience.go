package segments

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// Limits of one audience expression.
const (
	AudienceBytesMax = 64 << 10
	AudienceTermsMax = 1000
	AudienceDepthMax = 200
)

// Audience is a set expression over segments: names, @names of saved audiences,
// & (and), | (or), ! (not) and parentheses; ! binds closest, then &. One that
// names saved audiences must be expanded before it is evaluated. It is immutable.
type Audience struct {
	root  *audienceNode
	ids   []proto.SegmentID
	saved []proto.AudienceID
}

type audienceOp uint8

const (
	audienceName audienceOp = iota
	audienceNot
	audienceAnd
	audienceOr
	audienceSaved
)

// audienceNode has one kid under audienceNot, two or more under audienceAnd
// and audienceOr, of which none has the same op.
type audienceNode struct {
	op    audienceOp
	id    proto.SegmentID
	saved proto.AudienceID
	kids  []*audienceNode
}

// Segments are the segments that a names, each once, in the order of their
// first mention.
func (a *Audience) Segments() []proto.SegmentID { return slices.Clone(a.ids) }

// Mentions is how often a names segments: what it takes to evaluate it.
func (a *Audience) Mentions() int { return a.root.mentions() }

func (n *audienceNode) mentions() int {
	count := 1
	if len(n.kids) > 0 {
		count = 0
	}
	for _, kid := range n.kids {
		count += kid.mentions()
	}
	return count
}

// String is a in canonical form: no needless parentheses, one space around
// & and |, quotes only where a name needs them (none does today).
func (a *Audience) String() string { return string(a.root.append(nil, audienceOr)) }

// append writes n; around is the loosest operator that needs no parentheses.
func (n *audienceNode) append(b []byte, around audienceOp) []byte {
	switch n.op {
	case audienceName:
		return append(b, n.id...)
	case audienceSaved:
		return append(append(b, '@'), n.saved...)
	case audienceNot:
		return n.kids[0].append(append(b, '!'), audienceNot)
	}
	sign, inner := " & ", audienceNot
	if n.op == audienceOr {
		sign, inner = " | ", audienceAnd
	}
	if n.op > around {
		b = append(b, '(')
	}
	for i, kid := range n.kids {
		if i > 0 {
			b = append(b, sign...)
		}
		b = kid.append(b, inner)
	}
	if n.op > around {
		b = append(b, ')')
	}
	return b
}

// ParseAudience reads an audience expression such as `auto & !(owners |
// lapsed)`. A name may stand in double quotes. Its canonical form can be read
// again. Errors are CodeExpr with line and column, in characters.
func ParseAudience(text string) (*Audience, error) {
	p := &audienceParser{text: text}
	switch {
	case len(text) > AudienceBytesMax:
		return nil, proto.Errorf(proto.CodeExpr, "the expression has %d bytes: at most %d are allowed", len(text), AudienceBytesMax)
	case !utf8.ValidString(text):
		return nil, proto.Errorf(proto.CodeExpr, "the expression is not valid UTF-8")
	}
	root, err := p.or(0)
	if err == nil && (p.peek() != 0 || p.at < len(text)) { // a NUL is no end
		err = p.unexpected("an operator: & or |")
	}
	if err != nil {
		return nil, err
	}
	a := &Audience{root: root, ids: p.segments.ids, saved: p.saved}
	// Its canonical form, which is kept and sent, has two spaces an operator more.
	if len(text)+2*p.terms > AudienceBytesMax {
		if n := len(a.String()); n > AudienceBytesMax {
			return nil, proto.Errorf(proto.CodeExpr, "the expression has %d bytes with spaces around its operators: at most %d are allowed", n, AudienceBytesMax)
		}
	}
	return a, nil
}

type audienceParser struct {
	text     string
	at       int // byte
	terms    int
	segments segmentSet
	saved    []proto.AudienceID
}

// segmentSet are segments, each once, in the order of their first mention. A map is
// made for many only.
type segmentSet struct {
	ids  []proto.SegmentID
	seen map[proto.SegmentID]struct{}
}

const segmentsFew = 16

func (m *segmentSet) add(id proto.SegmentID) {
	if len(m.ids) < segmentsFew {
		if m.ids == nil {
			m.ids = make([]proto.SegmentID, 0, segmentsFew/2)
		}
		if !slices.Contains(m.ids, id) {
			m.ids = append(m.ids, id)
		}
		return
	}
	if m.seen == nil {
		m.seen = make(map[proto.SegmentID]struct{}, 2*segmentsFew)
		for _, known := range m.ids {
			m.seen[known] = struct{}{}
		}
	}
	if _, ok := m.seen[id]; !ok {
		m.seen[id] = struct{}{}
		m.ids = append(m.ids, id)
	}
}

// peek skips white space and gives the next byte, 0 at the end.
func (p *audienceParser) peek() byte {
	for ; p.at < len(p.text); p.at++ {
		if c := p.text[p.at]; c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c
		}
	}
	return 0
}

func (p *audienceParser) fail(at int, format string, args ...any) error {
	e := proto.Errorf(proto.CodeExpr, format, args...)
	before := p.text[:at]
	e.Line = strings.Count(before, "\n") + 1
	e.Column = utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return e
}

func (p *audienceParser) unexpected(want string) error {
	c := p.peek()
	if c == 0 && p.at == len(p.text) {
		return p.fail(p.at, "the expression ends where there should be %s", want)
	}
	r, _ := utf8.DecodeRuneInString(p.text[p.at:])
	hint := ""
	switch {
	case p.at > 0 && (c == '&' || c == '|') && p.text[p.at-1] == c:
		hint = ": write a single " + string(c)
	case c == '-' || c == '+' || c == ',':
		hint = ": the operators are & | ! and parentheses, a difference is a & !b"
	}
	return p.fail(p.at, "%q stands where there should be %s%s", r, want, hint)
}

func (p *audienceParser) or(depth int) (*audienceNode, error) {
	return p.chain(audienceOr, '|', (*audienceParser).and, depth)
}

func (p *audienceParser) and(depth int) (*audienceNode, error) {
	return p.chain(audienceAnd, '&', (*audienceParser).unary, depth)
}

// chain reads operands that sign joins.
func (p *audienceParser) chain(op audienceOp, sign byte, operand func(*audienceParser, int) (*audienceNode, error), depth int) (*audienceNode, error) {
	kid, err := operand(p, depth)
	if err != nil || p.peek() != sign {
		return kid, err
	}
	kids := make([]*audienceNode, 0, 4)
	for {
		if kid.op == op {
			kids = append(kids, kid.kids...)
		} else {
			kids = append(kids, kid)
		}
		if p.peek() != sign {
			return joined(op, kids), nil
		}
		p.at++
		if kid, err = operand(p, depth); err != nil {
			return nil, err
		}
	}
}

// joined is kids, which are not of the same op, under op.
func joined(op audienceOp, kids []*audienceNode) *audienceNode {
	if len(kids) == 1 {
		return kids[0]
	}
	return &audienceNode{op: op, kids: kids}
}

func negated(n *audienceNode) *audienceNode {
	if n.op == audienceNot {
		return n.kids[0]
	}
	return &audienceNode{op: audienceNot, kids: []*audienceNode{n}}
}

func (p *audienceParser) unary(depth int) (*audienceNode, error) {
	not := false
	for p.peek() == '!' {
		not = !not
		p.at++
	}
	n, err := p.primary(depth)
	if err != nil || !not {
		return n, err
	}
	return negated(n), nil
}

func (p *audienceParser) primary(depth int) (*audienceNode, error) {
	switch c := p.peek(); {
	case c == '(':
		if depth == AudienceDepthMax {
			return nil, p.fail(p.at, "parentheses are nested more than %d deep: split the expression", AudienceDepthMax)
		}
		p.at++
		n, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.unexpected("an operator or )")
		}
		p.at++
		return n, nil
	case c == '"':
		return p.quoted()
	case c == '@':
		return p.savedName()
	case nameByte(c):
		start := p.at
		return p.name(start, p.word())
	}
	return nil, p.unexpected("a segment, ! or (")
}

// word takes the bytes of a name.
func (p *audienceParser) word() string {
	start := p.at
	for p.at < len(p.text) && nameByte(p.text[p.at]) {
		p.at++
	}
	return p.text[start:p.at]
}

// savedName is one mention of a saved audience, which begins with @.
func (p *audienceParser) savedName() (*audienceNode, error) {
	start := p.at
	p.at++
	id, err := proto.ParseAudienceID(p.word())
	if err != nil {
		return nil, p.fail(start, "@ must be followed by the name of a saved audience, as in @car-buyers")
	}
	if err := p.term(start); err != nil {
		return nil, err
	}
	if !slices.Contains(p.saved, id) {
		p.saved = append(p.saved, id)
	}
	return &audienceNode{op: audienceSaved, saved: id}, nil
}

func (p *audienceParser) term(start int) error {
	if p.terms++; p.terms > AudienceTermsMax {
		return p.fail(start, "the expression names segments more than %d times: split it", AudienceTermsMax)
	}
	return nil
}

func (p *audienceParser) quoted() (*audienceNode, error) {
	start := p.at
	end := strings.IndexByte(p.text[start+1:], '"')
	if end < 0 {
		return nil, p.fail(start, "the quote is not closed")
	}
	p.at = start + end + 2
	return p.name(start, p.text[start+1:start+1+end])
}

// name is one mention of a segment, at byte start.
func (p *audienceParser) name(start int, s string) (*audienceNode, error) {
	id, err := proto.ParseSegmentID(s)
	if err != nil {
		return nil, p.fail(start, "%q does not name a segment: use 1 to 64 of A-Z a-z 0-9 _ - and dots, not a dot first", clip(s))
	}
	if err := p.term(start); err != nil {
		return nil, err
	}
	p.segments.add(id)
	return &audienceNode{op: audienceName, id: id}, nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
}

// audienceSet is a bitmap or, if not, its complement; own says that bits may
// be changed.
type audienceSet struct {
	bits *roaring.Bitmap
	not  bool
	own  bool
}

var emptyBits = roaring.New() // never changed

// Eval is the set of ordinals that a describes: a bitmap of its own. get gives
// a segment's bitmap (nil: empty); a complement is taken within universe. The
// inputs stay unchanged.
func (a *Audience) Eval(get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) *roaring.Bitmap {
	s := a.root.eval(get)
	switch {
	case s.not && universe == nil:
		return roaring.New()
	case s.not:
		return roaring.AndNot(universe, s.bits)
	case !s.own:
		return s.bits.Clone()
	}
	return s.bits
}

// Count is the cardinality of Eval, of which it builds what is nested deep at most.
func (a *Audience) Count(get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) uint64 {
	if n, ok := a.root.countFew(get, universe); ok {
		return n
	}
	if n, ok := a.tallied(get, universe); ok {
		return n
	}
	s := a.root.eval(get)
	switch {
	case s.not && universe == nil:
		return 0
	case s.not:
		return universe.GetCardinality() - universe.AndCardinality(s.bits)
	}
	return s.bits.GetCardinality()
}

// countFew counts by what one or two segments have in common.
func (n *audienceNode) countFew(get func(proto.SegmentID) *roaring.Bitmap, universe *roaring.Bitmap) (count uint64, ok bool) {
	size := func(b *roaring.Bitmap) uint64 {
		if b == nil {
			return 0
		}
		return b.GetCardinality()
	}
	if n.op == audienceName {
		return size(get(n.id)), true
	}
	if n.op == audienceNot && n.kids[0].op == audienceName {
		return size(universe) - countBoth(universe, get(n.kids[0].id)), true
	}
	if len(n.kids) != 2 {
		return 0, false
	}
	x, y := n.kids[0], n.kids[1]
	if x.op == audienceNot {
		x, y = y, x
	}
	without := n.op == audienceAnd && y.op == audienceNot
	if without {
		y = y.kids[0]
	}
	if x.op != audienceName || y.op != audienceName {
		return 0, false
	}
	a, b := get(x.id), get(y.id)
	both := countBoth(a, b)
	switch {
	case without:
		return size(a) - both, true
	case n.op == audienceAnd:
		return both, true
	}
	return size(a) + size(b) - both, true
}

func (n *audienceNode) eval(get func(proto.SegmentID) *roaring.Bitmap) audienceSet {
	switch n.op {
	case audienceName:
		if bits := get(n.id); bits != nil {
			return audienceSet{bits: bits}
		}
		return audienceSet{bits: emptyBits}
	case audienceSaved: // not expanded: nobody, which Expand's callers never see
		return audienceSet{bits: emptyBits}
	case audienceNot:
		s := n.kids[0].eval(get)
		s.not = !s.not
		return s
	}
	in, out := split(n.operands(get))
	switch {
	case n.op == audienceAnd && len(in) > 0: // a & !b = a - b
		return minus(intersection(in), out)
	case n.op == audienceAnd: // !a & !b = !(a | b)
		return complement(union(out))
	case len(out) == 0:
		return union(in)
	}
	return complement(minus(intersection(out), in)) // a | !b = !(b - a)
}

func (n *audienceNode) operands(get func(proto.SegmentID) *roaring.Bitmap) []audienceSet {
	s := make([]audienceSet, len(n.kids))
	for i, kid := range n.kids {
		s[i] = kid.eval(get)
	}
	return s
}

// split parts the sets from the complements.
func split(s []audienceSet) (in, out []audienceSet) {
	for _, x := range s {
		if x.not {
			out = append(out, x)
		} else {
			in = append(in, x)
		}
	}
	slices.SortFunc(in, bySize)
	slices.SortFunc(out, bySize)
	return in, out
}

func bySize(a, b audienceSet) int {
	return cmp.Compare(a.bits.GetCardinality(), b.bits.GetCardinality())
}

func complement(s audienceSet) audienceSet {
	s.not = true
	return s
}

// union, intersection and minus look at bits only and give a set.

func union(s []audienceSet) audienceSet {
	if len(s) == 1 {
		return audienceSet{bits: s[0].bits, own: s[0].own}
	}
	bits := make([]*roaring.Bitmap, len(s))
	for i := range s {
		bits[i] = s[i].bits
	}
	return audienceSet{bits: roaring.FastOr(bits...), own: true}
}

func intersection(s []audienceSet) audienceSet {
	acc := audienceSet{bits: s[0].bits, own: s[0].own}
	for _, x := range s[1:] {
		switch {
		case acc.own:
			acc.bits.And(x.bits)
		case x.own:
			x.bits.And(acc.bits)
			acc = audienceSet{bits: x.bits, own: true}
		default:
			acc = audienceSet{bits: roaring.And(acc.bits, x.bits), own: true}
		}
	}
	return acc
}

func minus(acc audienceSet, out []audienceSet) audienceSet {
	acc.not = false
	for _, x := range out {
		if acc.own {
			acc.bits.AndNot(x.bits)
		} else {
			acc = audienceSet{bits: roaring.AndNot(acc.bits, x.bits), own: true}
		}
	}
	return acc
}
