package cluster

import (
	"cmp"
	"slices"

	"kith/proto"
)

// Lanes is a set of lanes.
type Lanes uint64

// Has reports whether a lane is in the set.
func (s Lanes) Has(id proto.LaneID) bool { return s>>id&1 != 0 }

// With is the set with a lane too.
func (s Lanes) With(id proto.LaneID) Lanes { return s | 1<<id }

// Without is the set without a lane.
func (s Lanes) Without(id proto.LaneID) Lanes { return s &^ (1 << id) }

// Table is who holds and who answers for which lane, by one view of the
// members. It never changes and may be shared.
type Table struct {
	members []Member // by name
	holders [proto.LanesMax][]string
	answer  [proto.LanesMax][]string
}

// Placed are lanes whose owner was named by hand. It counts while that member
// answers for the lane and does not drain.
type Placed map[proto.LaneID]string

// NewTable places lanes on members, each on replicas of them. Of several
// members of a name the one that started last counts: the others are its
// process before.
func NewTable(members []Member, lanes, replicas int, placed Placed) *Table {
	t := &Table{members: slices.Clone(members)}
	slices.SortFunc(t.members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Started, a.Started))
	})
	t.members = slices.CompactFunc(t.members, func(a, b Member) bool { return a.Name == b.Name })
	for i := range min(lanes, proto.LanesMax) {
		id := proto.LaneID(i)
		t.holders[i] = t.first(Holders(id, t.members, len(t.members)), placed[id])
		t.holders[i] = t.holders[i][:min(replicas, len(t.holders[i]))]
		var ready []Member
		for _, m := range t.members {
			if m.Ready.Has(id) {
				ready = append(ready, m)
			}
		}
		t.answer[i] = t.first(Holders(id, ready, len(ready)), placed[id])
	}
	return t
}

// first puts the member of a name before the others, if it is among them and
// stays.
func (t *Table) first(list []string, name string) []string {
	i := slices.Index(list, name)
	if m, ok := t.Member(name); i < 0 || !ok || m.Draining {
		return list
	}
	return slices.Concat([]string{name}, list[:i], list[i+1:])
}

// Members are all members, by name.
func (t *Table) Members() []Member { return slices.Clone(t.members) }

// Member is the member of a name.
func (t *Table) Member(name string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(t.members, name, func(m Member, name string) int { return cmp.Compare(m.Name, name) })
	if !ok {
		return Member{}, false
	}
	return t.members[i], true
}

// Holders are the members that should hold a lane.
func (t *Table) Holders(id proto.LaneID) []string { return slices.Clone(t.holders[id]) }

// Answering are the members that have a lane and are not behind, the owner
// first. One that should not hold the lane any more is among them until it
// says that it let go: so nobody is without an answer while others catch up.
func (t *Table) Answering(id proto.LaneID) []string { return slices.Clone(t.answer[id]) }

// Owner is the member that does what one must do for a lane, "" while none is
// ready. Two that see different members may both think that they are: what an
// owner does must bear that.
func (t *Table) Owner(id proto.LaneID) string {
	if len(t.answer[id]) == 0 {
		return ""
	}
	return t.answer[id][0]
}

// MayLetGo reports whether a member may let go of a lane: it should not hold
// it, and all that should are ready.
func (t *Table) MayLetGo(name string, id proto.LaneID) bool {
	if slices.Contains(t.holders[id], name) {
		return false
	}
	for _, h := range t.holders[id] {
		if !slices.Contains(t.answer[id], h) {
			return false
		}
	}
	return len(t.holders[id]) > 0
}
