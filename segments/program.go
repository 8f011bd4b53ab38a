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
	version  proto.SegmentKey
	byID     map[proto.SegmentID]*segment
	byKey    map[proto.SegmentKey]*segment
	order    []*segment // by key
	base     []*segment // by key: those that hold of an identity with no facts that is no device
	userBase []*segment // by key: those of base that are shared
	counting []*segment // by key: those whose rule has devices() in it
	swapped  []*segment // by since: those that answer since later than their key
	preds    map[predID]*tracked
	filled   []*tracked // by since, then id
	traits   map[string]*watched
	index    index
	kept     int // times and days that one identity may have to keep
	series   int // of them, those with values beside
	patterns int // steps of the patterns that an event and traits may be tried with

	ahead     int                   // steps that one event may have the rules look ahead
	unweighed map[*segment]struct{} // whose share of that is not known yet

	segmentSlots, predSlots slots
}

// segment is a definition in a program. It stays the same object when its ID
// is defined anew, so that rules that refer to it need not be touched.
type segment struct {
	def        Definition
	since      proto.SegmentKey // the version from which on def answers
	next       *segment         // the version that waits; nil: none
	of         *segment         // of a version that waits: the one that answers
	slot       int
	tree       term
	rank       int // above that of every segment that it refers to
	ahead      int // steps, as counted in the program's
	base       bool
	refs       []*segment // those in member() of this rule
	dependents []*segment // those whose rule refers to this one; by key
	shared     bool       // of scope user, or a shared one refers to it
	sharers    int        // how many shared ones refer to it
}

// watched is a trait that some rule of the program looks at.
type watched struct {
	rules  []*segment // by key
	shared int        // how many conditions of shared rules look at it
}

// tracked is a predicate that some rule of the program uses.
type tracked struct {
	*predicate
	slot   int
	uses   []use // by key
	need   need
	shared need // what of it shared rules ask for; zero if none does
	gives  gives
	since  proto.SegmentKey // memories of this version or later have what is needed
	rules  []*segment       // by key
	keys   []coverKey
	always bool
}

// gives is how much of what is kept of a predicate shared rules ask for.
type gives uint8

const (
	givesNothing gives = iota
	givesPart
	givesAll
)

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
		preds: map[predID]*tracked{}, traits: map[string]*watched{}, index: newIndex(), unweighed: map[*segment]struct{}{},
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

// All lists the definitions by ID, those that wait behind those that answer.
func (p *Program) All() []Definition {
	all := make([]Definition, 0, len(p.byID))
	for _, id := range slices.Sorted(maps.Keys(p.byID)) {
		s := p.byID[id]
		all = append(all, s.def)
		if s.next != nil {
			all = append(all, s.next.def)
		}
	}
	return all
}

// NeedsHistory reports whether Update has to go through m's history: some rule
// that m has not seen keeps more of a predicate than m has.
func (p *Program) NeedsHistory(m *Memory) bool {
	n := len(p.filled)
	return n > 0 && p.filled[n-1].since > m.version
}

// Define adds d, or puts it in the place of the definition with the same ID and
// of the one that waits there. Refused, with nothing changed, as Check says.
func (p *Program) Define(d Definition) error {
	refs, err := p.check(d, false)
	if err != nil {
		return err
	}
	p.put(d, refs, d.Key)
	return nil
}

// put is Define of what was checked.
func (p *Program) put(d Definition, refs []*segment, since proto.SegmentKey) {
	s := p.byID[d.ID]
	if s == nil {
		s = &segment{slot: p.segmentSlots.take(), def: d, refs: refs, since: since}
		p.byID[d.ID] = s
		p.link(s)
	} else {
		p.dropWaiting(s)
		p.replace(s, d, refs, since)
	}
	p.version = max(p.version, d.Key)
}

// replace makes s another definition.
func (p *Program) replace(s *segment, d Definition, refs []*segment, since proto.SegmentKey) {
	p.unlink(s)
	s.def, s.refs, s.since = d, refs, since
	p.link(s)
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
	p.dropWaiting(s)
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
	p.fileSwapped(s, s.since > s.def.Key)
	for _, r := range s.refs {
		r.dependents = place(r.dependents, s)
	}
	s.tree = p.term(s, s.def.Rule.root)
	p.patterns += s.def.Rule.traitPatterns
	p.settle(s)
	for _, d := range s.above() {
		p.settle(d)
	}
	p.share(s, s.def.Scope == ScopeUser || s.sharers > 0)
}

// unlink takes s out of everything but byID and the lists of its dependents.
func (p *Program) unlink(s *segment) {
	p.share(s, false)
	delete(p.byKey, s.def.Key)
	p.patterns -= s.def.Rule.traitPatterns
	p.ahead -= s.ahead
	s.ahead = 0
	delete(p.unweighed, s)
	p.order = displace(p.order, s)
	p.fileSwapped(s, false)
	p.counting = displace(p.counting, s)
	s.base = false
	p.fileBase(s)
	for _, r := range s.refs {
		r.dependents = displace(r.dependents, s)
	}
	s.def.Rule.root.traits(func(key string) { p.unwatch(key, s) })
	for _, q := range s.def.Rule.preds {
		p.release(p.preds[q.id], s)
	}
}

// settle works out anew what depends on other rules: the rank and the base
// value of s; what it looks ahead, which is asked for seldom, by weigh.
func (p *Program) settle(s *segment) {
	s.rank = 0
	for _, r := range s.refs {
		s.rank = max(s.rank, r.rank+1)
	}
	s.base = s.tree.empty()
	p.fileBase(s)
	p.unweighed[s] = struct{}{}
}

func (p *Program) fileBase(s *segment) {
	p.base = keep(p.base, s, s.base)
	p.userBase = keep(p.userBase, s, s.base && s.shared)
}

// keep has s in a list kept by key, or not.
func keep(list []*segment, s *segment, in bool) []*segment {
	if in {
		return place(list, s)
	}
	return displace(list, s)
}

// share has s shared, or not, and with it what its rule looks at and refers to.
func (p *Program) share(s *segment, shared bool) {
	if s.shared == shared {
		return
	}
	s.shared = shared
	step := 1
	if !shared {
		step = -1
	}
	s.def.Rule.root.traits(func(key string) { p.traits[key].shared += step })
	if shared {
		p.joinShared(s.def.Rule.root)
	} else {
		for _, q := range s.def.Rule.preds {
			p.preds[q.id].recountShared()
		}
	}
	p.fileBase(s)
	for _, r := range s.refs {
		r.sharers += step
		p.share(r, r.def.Scope == ScopeUser || r.sharers > 0)
	}
}

// joinShared adds to what shared rules ask for.
func (p *Program) joinShared(n *node) {
	if n.owner != nil {
		t := p.preds[n.owner.id]
		t.shared = t.shared.join(needOf(n))
		t.weigh()
	}
	for _, k := range n.kids {
		p.joinShared(k)
	}
}

// watch notes that the rule of s looks at a trait.
func (p *Program) watch(key string, s *segment) {
	w := p.traits[key]
	if w == nil {
		w = &watched{}
		p.traits[key] = w
	}
	w.rules = place(w.rules, s)
}

func (p *Program) unwatch(key string, s *segment) {
	w := p.traits[key]
	if w == nil {
		return // a rule may look at a trait more than once
	}
	if w.rules = displace(w.rules, s); len(w.rules) == 0 {
		delete(p.traits, key)
	}
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
		p.patterns += q.patterns
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
		p.patterns -= t.patterns
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

// without is the need of all but some segments, noNeed if there are no others.
func (t *tracked) without(gone []*segment) (others need) {
	for _, u := range t.uses {
		if !slices.Contains(gone, u.seg) {
			others = others.join(u.need)
		}
	}
	return others
}

// recountShared works out what shared rules ask for.
func (t *tracked) recountShared() {
	t.shared = need{}
	for _, u := range t.uses {
		if u.seg.shared {
			t.shared = t.shared.join(u.need)
		}
	}
	t.weigh()
}

func (t *tracked) weigh() {
	switch t.shared {
	case noNeed:
		t.gives = givesNothing
	case t.need:
		t.gives = givesAll
	default:
		t.gives = givesPart
	}
}

func bySince(a, b *tracked) int {
	return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.id, b.id))
}

func (p *Program) file(t *tracked) {
	t.weigh()
	p.kept += t.need.kept()
	p.series += t.need.series()
	i, _ := slices.BinarySearchFunc(p.filled, t, bySince)
	p.filled = slices.Insert(p.filled, i, t)
}

func (p *Program) unfile(t *tracked) {
	if i, found := slices.BinarySearchFunc(p.filled, t, bySince); found {
		p.kept -= t.need.kept()
		p.series -= t.need.series()
		p.filled = slices.Delete(p.filled, i, i+1)
	}
}
