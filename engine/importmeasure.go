package engine

import (
	"kith/proto"
	"kith/segments"
)

// importMeasure is what an import comes to. It decides nothing but what may be
// told of it.
type importMeasure struct {
	identities uint64 // on the import
	matched    uint64 // of those, whom the client knows otherwise
	people     uint64 // whom the list would match, counted up to the floor at least
	lists      map[proto.SegmentID]*likeness
}

// likeness is how much a list and the import have in common.
type likeness struct {
	size, both uint64
	told       figures
}

func newImportMeasure() importMeasure {
	return importMeasure{lists: map[proto.SegmentID]*likeness{}}
}

// compare notes on which lists with figures an identity is; in: on the import too.
func (m *importMeasure) compare(marks []proto.Prop, lists map[proto.SegmentID]importList, in bool) {
	for i := range marks {
		id, _ := proto.ParseReserved(marks[i].Key)
		l, ok := lists[id]
		if !ok || !l.figured || uint64(marks[i].Value.Number) < l.number {
			continue
		}
		x := m.lists[id]
		if x == nil {
			x = &likeness{told: l.told}
			m.lists[id] = x
		}
		x.size++
		x.both += flag64(in)
	}
}

// told is what client keys may know of the import. Figures of two sets that differ
// by fewer identities than the floor would tell of those, so the second has the
// first one's; nothing is told unless as many as the floor are matched and as many
// are not. edge is as for reports.
func (m *importMeasure) told(mode proto.ImportMode, floor int, edge uint64) figures {
	least := uint64(max(floor, 1))
	if mode == proto.ImportAdd || mode == proto.ImportRemove {
		return figures{}
	}
	var near proto.SegmentID
	for id, x := range m.lists {
		if x.size+m.identities-2*x.both < least && (near == "" || id < near) {
			near = id
		}
	}
	if near != "" {
		return m.lists[near].told
	}
	other := m.identities - m.matched
	if m.matched < least || other < least {
		return figures{}
	}
	matched := segments.RoundReport(m.matched, floor, edge)
	return figures{matched + segments.RoundReport(other, floor, edge), matched}
}
