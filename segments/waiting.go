package segments

import (
	"cmp"
	"slices"

	"kith/proto"
)

// This file is how a segment's rule is replaced without anybody's noticing
// until the new one is ready. A version that waits is evaluated beside the one
// that answers, with memberships of its own under its own key; member() in any
// rule, also in its own, means the version that answers. Swap has it answer.

// Waiting is the version of id that waits, and whether there is one.
func (p *Program) Waiting(id proto.SegmentID) (Definition, bool) {
	if s := p.byID[id]; s != nil {
		return s.next.definition()
	}
	return Definition{}, false
}

// Waits reports whether key is that of a version that waits.
func (p *Program) Waits(key proto.SegmentKey) bool {
	s := p.byKey[key]
	return s != nil && s.of != nil
}

// DefineBeside puts d beside the definition with the same ID, which goes on
// answering, in the place of one that waits there already. Refused, with
// nothing changed, as CheckBeside says.
func (p *Program) DefineBeside(d Definition) error {
	refs, err := p.check(d, true)
	if err != nil {
		return err
	}
	p.putBeside(d, refs)
	return nil
}

// CheckBeside says what DefineBeside would, and changes nothing: as Check, and
// CodeNotFound if there is nothing to be beside.
func (p *Program) CheckBeside(d Definition) error {
	return p.afford(d, true)
}

func (p *Program) putBeside(d Definition, refs []*segment) {
	s := p.byID[d.ID]
	p.dropWaiting(s)
	s.next = &segment{slot: p.segmentSlots.take(), of: s, def: d, refs: refs, since: d.Key}
	p.link(s.next)
	p.version = max(p.version, d.Key)
}

// dropWaiting lets go of the version of s that waits, if there is one.
func (p *Program) dropWaiting(s *segment) {
	if w := s.next; w != nil {
		p.unlink(w)
		p.segmentSlots.free = append(p.segmentSlots.free, w.slot)
		s.next = nil
	}
}

// Cancel lets go of the version of id that waits.
func (p *Program) Cancel(id proto.SegmentID, seq proto.SegmentKey) {
	if s := p.byID[id]; s != nil && s.next != nil {
		p.dropWaiting(s)
		p.version = max(p.version, seq)
	}
}

// Swap has the version of id that waits under key answer from version seq on;
// the one that answered goes. Without such a version it changes nothing and is
// false. Rules that refer to id are judged anew by the next Update.
func (p *Program) Swap(id proto.SegmentID, key, seq proto.SegmentKey) bool {
	s := p.byID[id]
	if s == nil || s.next == nil || s.next.def.Key != key {
		return false
	}
	d, refs := s.next.def, s.next.refs
	p.dropWaiting(s)
	p.replace(s, d, refs, seq)
	p.version = max(p.version, seq)
	return true
}

// Restore adds a definition that was checked when it was made, for a program
// that is built again: since is from what version on it answers, 0 that of its
// key. One with an ID that is there already waits beside it. What it refers to
// must be there.
func (p *Program) Restore(d Definition, since proto.SegmentKey) error {
	refs, err := p.refs(d)
	if err != nil {
		return err
	}
	if p.byID[d.ID] != nil {
		p.putBeside(d, refs)
		return nil
	}
	p.put(d, refs, max(since, d.Key))
	p.version = max(p.version, since)
	return nil
}

// Dependents are the definitions, by key, whose rules refer to id, however
// indirectly, those that wait among them.
func (p *Program) Dependents(id proto.SegmentID) (list []Definition) {
	for _, s := range p.byID[id].above() {
		list = append(list, s.def)
	}
	slices.SortFunc(list, func(a, b Definition) int { return cmp.Compare(a.Key, b.Key) })
	return list
}

// Since is the version from which on memories hold what the definition with key
// says: its own, or the newest of those at which the rules that it reaches by
// member() began to answer. 0 if there is no such definition.
func (p *Program) Since(key proto.SegmentKey) proto.SegmentKey {
	seen := map[*segment]proto.SegmentKey{}
	var walk func(s *segment) proto.SegmentKey
	walk = func(s *segment) proto.SegmentKey {
		since, ok := seen[s]
		if !ok {
			since = s.def.Key
			for _, r := range s.refs {
				since = max(since, r.since, walk(r))
			}
			seen[s] = since
		}
		return since
	}
	if s := p.byKey[key]; s != nil {
		return walk(s)
	}
	return 0
}

// fileSwapped keeps the list of definitions that answer since later than their
// key: memories between the two have not seen it.
func (p *Program) fileSwapped(s *segment, in bool) {
	i, found := slices.BinarySearchFunc(p.swapped, s, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.def.Key, b.def.Key))
	})
	switch {
	case in && !found:
		p.swapped = slices.Insert(p.swapped, i, s)
	case !in && found:
		p.swapped = slices.Delete(p.swapped, i, i+1)
	}
}

// answers is the version that answers of the segment that s is a version of.
func (s *segment) answers() *segment {
	if s.of != nil {
		return s.of
	}
	return s
}
