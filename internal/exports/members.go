package exports

import (
	"cmp"
	"slices"

	"kith/proto"
)

// Number64 is a number of any lane: lane<<32 | ordinal.
type Number64 uint64

// NumberOf is the number of an ordinal.
func NumberOf(l proto.LaneID, o uint32) Number64 { return Number64(l)<<32 | Number64(o) }

// Lane is the number's lane.
func (n Number64) Lane() proto.LaneID { return proto.LaneID(n >> 32) }

// Ordinal is the number in its lane.
func (n Number64) Ordinal() uint32 { return uint32(n) }

// Belongs says which row of an audience by users an identity belongs to.
type Belongs struct{ Row, Member Number64 }

// CompareBelongs orders by row, then by member.
func CompareBelongs(a, b Belongs) int {
	return cmp.Or(cmp.Compare(a.Row, b.Row), cmp.Compare(a.Member, b.Member))
}

// memberLists are who the users of a part's rows are.
type memberLists struct {
	ids    []int64 // the numbers of all, row after row, ascending in each
	bounds []int32 // in ids, from the first row's begin, which is 0, to the last's end
	names  texts   // by ids

	others []other // who is not a row itself
	read64 texts   // their names, by number
	order  []int32 // where in read64 the name of each of ids is; -1-row: the row's own
	some   []uint32
}

// other is a member that is not its row, and where in ids it stands.
type other struct {
	id Number64
	at int32
}

// read finds the members of p's rows, whose names are read, and names them.
func (m *memberLists) read(a *Audience, p *part) error {
	m.find(a.Belongs, p)
	if err := m.nameOthers(a.Names); err != nil {
		return err
	}
	m.names.reset()
	for _, at := range m.order {
		if at < 0 {
			m.names.add(p.names.at(int(-1 - at)))
		} else {
			m.names.add(m.read64.at(int(at)))
		}
	}
	return nil
}

// find lists the numbers of each row's members. A row of which nothing is said
// is alone.
func (m *memberLists) find(all []Belongs, p *part) {
	m.ids, m.bounds, m.order, m.others = m.ids[:0], append(m.bounds[:0], 0), m.order[:0], m.others[:0]
	first := Belongs{Row: NumberOf(p.lane, p.ordinals[0])}
	at, _ := slices.BinarySearchFunc(all, first, CompareBelongs)
	rest := all[at:]
	for i, o := range p.ordinals {
		row := NumberOf(p.lane, o)
		n := 0
		for ; n < len(rest) && rest[n].Row == row; n++ {
			m.add(rest[n].Member, row, i)
		}
		if rest = rest[n:]; n == 0 {
			m.add(row, row, i)
		}
		m.bounds = append(m.bounds, int32(len(m.ids)))
	}
}

func (m *memberLists) add(id, row Number64, i int) {
	if id != row {
		m.others = append(m.others, other{id, int32(len(m.ids))})
	}
	m.ids = append(m.ids, int64(id))
	m.order = append(m.order, int32(-1-i))
}

// nameOthers names those who are not rows, lane by lane.
func (m *memberLists) nameOthers(names Names) error {
	slices.SortFunc(m.others, func(a, b other) int { return cmp.Compare(a.id, b.id) })
	m.read64.reset()
	for i, x := range m.others {
		m.order[x.at] = int32(i)
	}
	for rest := m.others; len(rest) > 0; {
		lane := rest[0].id.Lane()
		m.some = m.some[:0]
		for len(rest) > 0 && rest[0].id.Lane() == lane {
			m.some = append(m.some, rest[0].id.Ordinal())
			rest = rest[1:]
		}
		if err := names.Name(lane, m.some, func(_ proto.Ordinal, id []byte) { m.read64.add(id) }); err != nil {
			return err
		}
	}
	return nil
}

// of are the members of a row: from..to in ids and names.
func (m *memberLists) of(row int) (from, to int) { return int(m.bounds[row]), int(m.bounds[row+1]) }
