package segments

import (
	"cmp"
	"maps"
	"slices"

	"kith/proto"
)

// Program is the rules of one client, indexed for evaluation. One goroutine
// may change it while nobody evaluates; evaluations only read it. What it
// decides depends on the definitions in it and not on how they came there.
type Program struct {
	version proto.SegmentKey
	byID    map[proto.SegmentID]*segment
	byKey   map[proto.SegmentKey]*segment
	order   []*segment // by key
	base    []*segment // by key: those that hold of an identity with no facts
	preds   map[predID]*tracked
	filled  []*tracked // by since, then id
	traits  map[string][]*segment
	index   index
	kept    int // times and days that one identity may have to keep

	segmentSlots, predSlots slots
}

// segment is a definition in a program. It stays the same object when its ID
// is defined anew, so that rules that refer to it need not be touched.
type segment struct {
	def        Definition
	slot       int
	tree       term
	rank       int // above that of every segment that it refers to
	base       bool
	refs       []*segment // those in member() of this rule
	dependents []*segment // those whose rule refers to this one; by key
}

// tracked is a predicate that some rule of the program uses.
type tracked struct {
	*predicate
	slot   int
	uses   []use // by key
	need   need
	since  proto.SegmentKey // memories of this version or later have what is needed
	rules  []*segment       // by key
	keys   []coverKey
	always bool
}

type use struct {
	seg  *segment
	key  proto.SegmentKey
	need need
}

// slots hands out small numbers, for arrays beside the program.
type slots struct {
	free []int
	size int
}

func (s *slots) take() int {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot
	}
	s.size++
	return s.size - 1
}

// NewProgram is a program without rules, of version 0.
func NewProgram() *Program {
	return &Program{
		byID: map[proto.SegmentID]*segment{}, byKey: map[proto.SegmentKey]*segment{},
		preds: map[predID]*tracked{}, traits: map[string][]*segment{}, index: newIndex(),
	}
}

// Version is the sequence of the last change, 0 if there was none.
func (p *Program) Version() proto.SegmentKey { return p.version }

// SetVersion moves the version forward, for a program that is built again from
// its definitions when the last change was an Undefine.
func (p *Program) SetVersion(seq proto.SegmentKey) { p.version = max(p.version, seq) }

// Get is the definition of id, and whether there is one.
func (p *Program) Get(id proto.SegmentID) (Definition, bool) { return p.byID[id].definition() }

// ByKey is the definition with key, and whether it is still in force.
func (p *Program) ByKey(key proto.SegmentKey) (Definition, bool) { return p.byKey[key].definition() }

func (s *segment) definition() (Definition, bool) {
	if s == nil {
		return Definition{}, false
	}
	return s.def, true
}

// All lists the definitions by ID.
func (p *Program) All() []Definition {
	all := make([]Definition, 0, len(p.byID))
	for _, id := range slices.Sorted(maps.Keys(p.byID)) {
		all = append(all, p.byID[id].def)
	}
	return all
}

// NeedsHistory reports whether Update has to go through m's history: some rule
// that m has not seen keeps more of a predicate than m has.
func (p *Program) NeedsHistory(m *Memory) bool {
	n := len(p.filled)
	return n > 0 && p.filled[n-1].since > m.version
}

// Define adds d, or puts it in the place of the definition with the same ID.
// Refused, with nothing changed, as Check says.
func (p *Program) Define(d Definition) error {
	refs, err := p.check(d)
	if err != nil {
		return err
	}
	s := p.byID[d.ID]
	if s == nil {
		s = &segment{slot: p.segmentSlots.take()}
		p.byID[d.ID] = s
	} else {
		p.unlink(s)
	}
	s.def, s.refs = d, refs
	p.link(s)
	p.version = max(p.version, d.Key)
	return nil
}

// Undefine removes a definition. CodeNotFound if there is none, CodeConflict
// while another rule refers to it.
func (p *Program) Undefine(id proto.SegmentID, seq proto.SegmentKey) error {
	s := p.byID[id]
	if s == nil {
		return proto.Errorf(proto.CodeNotFound, "segment %q is not defined", clip(string(id)))
	}
	if len(s.dependents) > 0 {
		return proto.Errorf(proto.CodeConflict, "segment %q is in use by %q: change or delete that first", id, s.dependents[0].def.ID)
	}
	p.unlink(s)
	delete(p.byID, id)
	p.segmentSlots.free = append(p.segmentSlots.free, s.slot)
	p.version = max(p.version, seq)
	return nil
}

func byDefinition(a, b *segment) int { return cmp.Compare(a.def.Key, b.def.Key) }

// place inserts s into a list kept by key, once.
func place(list []*segment, s *segment) []*segment {
	i, found := slices.BinarySearchFunc(list, s, byDefinition)
	if found {
		return list
	}
	return slices.Insert(list, i, s)
}

// displace takes s out of a list kept by key.
func displace(list []*segment, s *segment) []*segment {
	if i, found := slices.BinarySearchFunc(list, s, byDefinition); found {
		return slices.Delete(list, i, i+1)
	}
	return list
}

func (p *Program) link(s *segment) {
	p.byKey[s.def.Key] = s
	p.order = place(p.order, s)
	for _, r := range s.refs {
		r.dependents = place(r.dependents, s)
	}
	s.tree = p.term(s, s.def.Rule.root)
	p.settle(s)
	for _, d := range s.above() {
		p.settle(d)
	}
}

// unlink takes s out of everything but byID and the lists of its dependents.
func (p *Program) unlink(s *segment) {
	delete(p.byKey, s.def.Key)
	p.order = displace(p.order, s)
	p.base = displace(p.base, s)
	s.base = false
	for _, r := range s.refs {
		r.dependents = displace(r.dependents, s)
	}
	s.def.Rule.root.traits(func(key string) {
		if list := displace(p.traits[key], s); len(list) > 0 {
			p.traits[key] = list
		} else {
			delete(p.traits, key)
		}
	})
	for _, q := range s.def.Rule.preds {
		p.release(p.preds[q.id], s)
	}
}

// settle works out anew what depends on other rules: the rank and the base
// value of s.
func (p *Program) settle(s *segment) {
	s.rank = 0
	for _, r := range s.refs {
		s.rank = max(s.rank, r.rank+1)
	}
	base := s.tree.empty()
	if base && !s.base {
		p.base = place(p.base, s)
	} else if !base && s.base {
		p.base = displace(p.base, s)
	}
	s.base = base
}

// traits calls yield with every trait that the rule looks at.
func (n *node) traits(yield func(key string)) {
	if n.op == nodeTrait {
		yield(n.pred.attr.key)
	}
	for _, k := range n.kids {
		k.traits(yield)
	}
}

// track adds one use of a predicate.
func (p *Program) track(q *predicate, s *segment, n need) *tracked {
	t := p.preds[q.id]
	if t == nil {
		t = &tracked{predicate: q, slot: p.predSlots.take()}
		p.preds[q.id] = t
		p.index.add(t)
	} else {
		p.unfile(t)
	}
	i, _ := slices.BinarySearchFunc(t.uses, s.def.Key, func(u use, k proto.SegmentKey) int { return cmp.Compare(u.key, k) })
	t.uses = slices.Insert(t.uses, i, use{seg: s, key: s.def.Key, need: n})
	t.rules = place(t.rules, s)
	if joined := t.need.join(n); i == len(t.uses)-1 {
		if joined != t.need {
			t.need, t.since = joined, s.def.Key
		}
	} else {
		t.recount()
	}
	p.file(t)
	return t
}

// release drops all uses that s makes of a predicate.
func (p *Program) release(t *tracked, s *segment) {
	p.unfile(t)
	t.rules = displace(t.rules, s)
	t.uses = slices.DeleteFunc(t.uses, func(u use) bool { return u.seg == s })
	if len(t.uses) == 0 {
		delete(p.preds, t.id)
		p.index.remove(t)
		p.predSlots.free = append(p.predSlots.free, t.slot)
		return
	}
	t.recount()
	p.file(t)
}

// recount works out need and since from the uses in order of their keys.
func (t *tracked) recount() {
	t.need, t.since = need{}, 0
	for _, u := range t.uses {
		if joined := t.need.join(u.need); joined != t.need {
			t.need, t.since = joined, u.key
		}
	}
}

func bySince(a, b *tracked) int {
	return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.id, b.id))
}

func (p *Program) file(t *tracked) {
	p.kept += t.need.kept()
	i, _ := slices.BinarySearchFunc(p.filled, t, bySince)
	p.filled = slices.Insert(p.filled, i, t)
}

func (p *Program) unfile(t *tracked) {
	if i, found := slices.BinarySearchFunc(p.filled, t, bySince); found {
		p.kept -= t.need.kept()
		p.filled = slices.Delete(p.filled, i, i+1)
	}
}
