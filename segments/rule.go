package segments

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"kith/proto"
)

// Rule is one checked rule. It does not change, and may be shared.
type Rule struct {
	root   *node
	text   string            // canonical
	preds  []*predicate      // those under aggregates, each once, by id
	refers []proto.SegmentID // each once, sorted
	weight weight            // its own

	traitPatterns int // steps of the patterns that traits are tried with

	members  []mention // by member(), in the order of the text; of a compiled form none
	reserved []mention // likewise, of traits that are kept for imported lists
}

// mention is where a rule's text names a segment, or a trait.
type mention struct {
	name         string
	line, column int
}

// place puts on an error about a segment where r's text names it first.
func (r *Rule) place(err error, id proto.SegmentID) error {
	return placeIn(r.members, err, string(id))
}

func placeIn(list []mention, err error, name string) error {
	for _, m := range list {
		if m.name == name {
			return at(err, m.line, m.column)
		}
	}
	return err
}

// predicate is a condition on one event that aggregates are taken over.
type predicate struct {
	id   predID
	text string
	tree *pred // satisfied by every event that counts

	patterns int // steps of those that an event is tried with

	series       seriesKind
	of           attr         // amounts, distincts
	lead, follow *pred        // pairs
	within       proto.Millis // pairs
}

// predID is a predicate's stable name: 48 bits of the hash of its text.
type predID uint64

// The operators of a rule's tree. Their numbers are part of the compiled form.
type nodeOp uint8

const (
	nodeFalse   nodeOp = 0
	nodeTrue    nodeOp = 1
	nodeAnd     nodeOp = 2
	nodeOr      nodeOp = 3
	nodeNot     nodeOp = 4
	nodeCount   nodeOp = 5 // count(pred[, window]) cmp n
	nodeDays    nodeOp = 6 // days(pred[, window]) cmp n
	nodeLastAt  nodeOp = 7 // last(pred) cmp timestamp(at)
	nodeLastAgo nodeOp = 8 // last(pred) cmp now - window
	nodeTrait   nodeOp = 9 // pred is a leaf over a trait
	nodeMember  nodeOp = 10
	nodeDevices nodeOp = 11 // devices() cmp n

	nodeSum      nodeOp = 12 // sum(of[, pred][, window]) cmp amount
	nodeMin      nodeOp = 13
	nodeMax      nodeOp = 14
	nodeDistinct nodeOp = 15 // distinct(of[, pred][, window]) cmp n
	nodeSequence nodeOp = 16 // sequence(pred, then, within[, window])
	nodeFirstAt  nodeOp = 17 // as nodeLastAt
	nodeFirstAgo nodeOp = 18
)

// node is a part of a rule.
type node struct {
	op     nodeOp
	cmp    cmpOp
	n      int          // nodeCount, nodeDays, nodeDevices, nodeDistinct
	amount float64      // nodeSum, nodeMin, nodeMax
	of     attr         // nodeSum, nodeMin, nodeMax, nodeDistinct
	window proto.Millis // 0: the whole history
	at     proto.Millis // nodeLastAt, nodeFirstAt
	pred   *pred
	then   *pred        // nodeSequence
	within proto.Millis // nodeSequence
	owner  *predicate   // of pred, under an aggregate; set by seal
	member proto.SegmentID
	kids   []*node
}

// cmpOp is a comparison. The numbers are part of the compiled form.
type cmpOp uint8

const (
	cmpEq cmpOp = 0
	cmpNe cmpOp = 1
	cmpLt cmpOp = 2
	cmpLe cmpOp = 3
	cmpGt cmpOp = 4
	cmpGe cmpOp = 5
)

var cmpText = [...]string{"==", "!=", "<", "<=", ">", ">="}

// flip is the comparison with its sides exchanged.
func (c cmpOp) flip() cmpOp { return [...]cmpOp{cmpEq, cmpNe, cmpGt, cmpGe, cmpLt, cmpLe}[c] }

// ordered reports whether three-way result d satisfies c.
func (c cmpOp) ordered(d int) bool {
	switch c {
	case cmpEq:
		return d == 0
	case cmpNe:
		return d != 0
	case cmpLt:
		return d < 0
	case cmpLe:
		return d <= 0
	case cmpGt:
		return d > 0
	}
	return d >= 0
}

// The operators of a predicate's tree; numbers as above.
type predOp uint8

const (
	predFalse    predOp = 0
	predTrue     predOp = 1
	predAnd      predOp = 2
	predOr       predOp = 3
	predNot      predOp = 4
	predCmp      predOp = 5
	predIn       predOp = 6
	predPrefix   predOp = 7
	predSuffix   predOp = 8
	predContains predOp = 9
	predMatches  predOp = 10
	predHas      predOp = 11
)

// pred is a part of a predicate. Leaves look at one attribute; a leaf over a
// trait is only found under nodeTrait.
type pred struct {
	op    predOp
	cmp   cmpOp
	attr  attr
	lower bool           // letters A to Z of the value are made small first
	lits  []proto.Value  // one, or for predIn sorted and each once
	re    *regexp.Regexp // of predMatches; nil: it is not run
	steps int            // of re
	kids  []*pred
}

// attrKind is where an attribute is found; numbers as above.
type attrKind uint8

const (
	attrName  attrKind = 0
	attrURL   attrKind = 1
	attrRef   attrKind = 2
	attrProp  attrKind = 3
	attrTrait attrKind = 4
)

type attr struct {
	kind attrKind
	key  string // of attrProp, attrTrait
}

// String is the canonical text, which Compile reads back to an equal rule.
func (r *Rule) String() string { return r.text }

// Refers lists the segments that member() names, sorted.
func (r *Rule) Refers() []proto.SegmentID { return slices.Clone(r.refers) }

// Looks tells what the rule looks at by itself, without member(): how far back
// at events, 0 at none, or at the whole history; and whether at traits.
func (r *Rule) Looks() (back proto.Millis, whole, traits bool) {
	var walk func(n *node)
	walk = func(n *node) {
		if traits = traits || n.op == nodeTrait; n.aggregates() {
			back = max(back, n.window)
			whole = whole || n.window == 0 || n.op == nodeLastAgo || n.op == nodeFirstAgo
		}
		for _, k := range n.kids {
			walk(k)
		}
	}
	walk(r.root)
	return back, whole, traits
}

// Reserved is a trait that the rule looks at and that only imports set, "" if
// there is none.
func (r *Rule) Reserved() (found string) {
	r.root.traits(func(key string) {
		if proto.ReservedTrait(key) {
			found = key
		}
	})
	return found
}

// CheckTraits is an error, with its place, if the rule looks at a trait that is kept for
// imported lists.
func (r *Rule) CheckTraits() error {
	key := r.Reserved()
	if key == "" {
		return nil
	}
	return placeIn(r.reserved, proto.Errorf(proto.CodeRule, "trait(%q) is kept for imported lists: ask for the list's segment with member(\"…\")", key), key)
}

// Cost is how many parts the rule has.
func (r *Rule) Cost() int { return r.weight.parts }

// seal makes a Rule of a tree, from text or from bytes, and checks all bounds
// that do not depend on where a part stands in a text.
func seal(root *node) (*Rule, error) {
	s := sealer{preds: map[string]*predicate{}}
	if err := s.node(root, 1); err != nil {
		return nil, err
	}
	r := &Rule{root: root, weight: root.weigh(), text: root.String(), refers: s.refers, traitPatterns: s.traitPatterns}
	r.weight.parts = s.nodes
	for _, p := range s.preds {
		r.preds = append(r.preds, p)
	}
	slices.SortFunc(r.preds, func(a, b *predicate) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.text, b.text))
	})
	slices.Sort(r.refers)
	r.refers = slices.Compact(r.refers)
	if len(r.text) > RuleBytesMax {
		return nil, proto.Errorf(proto.CodeRule, "the rule is %d bytes when written out: at most %d are allowed", len(r.text), RuleBytesMax)
	}
	return r, nil
}

type sealer struct {
	nodes, aggregates int
	elements          int // of lists, those among nodes
	preds             map[string]*predicate
	refers            []proto.SegmentID
	traitPatterns     int
}

func (s *sealer) step(depth int) error {
	if s.nodes++; s.nodes > RuleNodesMax && s.nodes-s.elements <= RuleNodesMax {
		return proto.Errorf(proto.CodeRule, "the rule has more than %d parts, of which each element of a list is one: shorten the list, or use startsWith or a pattern", RuleNodesMax)
	}
	if s.nodes > RuleNodesMax {
		return proto.Errorf(proto.CodeRule, "the rule has more than %d parts: split it and join the parts with member()", RuleNodesMax)
	}
	if depth > RuleDepthMax {
		return proto.Errorf(proto.CodeRule, "the rule is nested deeper than %d levels", RuleDepthMax)
	}
	return nil
}

func (s *sealer) node(n *node, depth int) error {
	if err := s.step(depth); err != nil {
		return err
	}
	switch n.op {
	case nodeMember:
		s.refers = append(s.refers, n.member)
	case nodeTrait:
		err := s.pred(n.pred, depth+1)
		s.traitPatterns += n.pred.patterns()
		return err
	}
	if n.aggregates() {
		return s.aggregate(n, depth)
	}
	for _, k := range n.kids {
		if err := s.node(k, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (s *sealer) aggregate(n *node, depth int) error {
	if s.aggregates++; s.aggregates > RuleAggregatesMax {
		return proto.Errorf(proto.CodeRule, "the rule has more than %d aggregates: split it and join the parts with member()", RuleAggregatesMax)
	}
	if err := s.pred(n.pred, depth+1); err != nil {
		return err
	}
	if n.then != nil {
		if err := s.pred(n.then, depth+1); err != nil {
			return err
		}
	}
	if !utf8.ValidString(n.of.key) {
		return proto.Errorf(proto.CodeRule, "a text in the rule is not valid UTF-8")
	}
	q := n.predicate()
	if s.preds[q.text] == nil {
		q.id = hashPredicate(q.text)
		q.patterns = n.pred.patterns() + n.then.patterns()
		s.preds[q.text] = q
	}
	n.owner = s.preds[q.text]
	return nil
}

// aggregates reports whether the part is about the events of a history.
func (n *node) aggregates() bool {
	return n.op >= nodeCount && n.op <= nodeLastAgo || n.op >= nodeSum && n.op <= nodeFirstAgo
}

// predicate is what the part's aggregate is taken over. Its text tells apart
// what is kept apart.
func (n *node) predicate() *predicate {
	switch n.op {
	case nodeSum, nodeMin, nodeMax:
		return n.seriesPredicate(amounts, "amounts of ")
	case nodeDistinct:
		return n.seriesPredicate(distincts, "values of ")
	case nodeSequence:
		text := n.pred.String() + " then " + n.then.String() + " within " + windowText(n.within)
		either := &pred{op: predOr, kids: []*pred{n.pred, n.then}}
		return &predicate{text: text, tree: either, series: pairs, lead: n.pred, follow: n.then, within: n.within}
	}
	return &predicate{text: n.pred.String(), tree: n.pred}
}

func (n *node) seriesPredicate(kind seriesKind, what string) *predicate {
	q := &predicate{text: what + string(n.of.append(nil)) + " where " + n.pred.String(), tree: n.pred, series: kind, of: n.of}
	if n.of.kind == attrProp { // events without the property need not be looked at
		q.tree = &pred{op: predAnd, kids: []*pred{{op: predHas, attr: n.of}, n.pred}}
	}
	return q
}

func (s *sealer) pred(p *pred, depth int) error {
	if err := s.step(depth); err != nil {
		return err
	}
	if err := p.seal(); err != nil {
		return err
	}
	elements := max(0, len(p.lits)-1)
	s.nodes, s.elements = s.nodes+elements, s.elements+elements
	for _, k := range p.kids {
		if err := s.pred(k, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// seal compiles a pattern and puts a list in order.
func (p *pred) seal() error {
	bad := func(l proto.Value) bool { return !utf8.ValidString(l.Text) }
	if !utf8.ValidString(p.attr.key) || slices.ContainsFunc(p.lits, bad) {
		return proto.Errorf(proto.CodeRule, "a text in the rule is not valid UTF-8")
	}
	if p.op == predIn {
		slices.SortFunc(p.lits, compareValues)
		p.lits = slices.Compact(p.lits)
	}
	if p.op == predMatches {
		return p.sealPattern()
	}
	return nil
}

// compareValues is 0 only of values that are the same: -0 comes after 0.
func compareValues(a, b proto.Value) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Number, b.Number),
		cmp.Compare(math.Float64bits(a.Number), math.Float64bits(b.Number)))
}

func hashPredicate(text string) predID { return predID(xxhash.Sum64String(text) >> 16) }
