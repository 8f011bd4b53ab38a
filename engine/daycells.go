package engine

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"kith/actors"
	"kith/proto"
)

// This file is a day's totals as they lie in memory and in the store.

const aggregateVersion = 1

// clientDay is what one value is of.
type clientDay struct {
	day    proto.Day
	client proto.ClientID
}

func (a clientDay) compare(b clientDay) int {
	return cmp.Or(cmp.Compare(a.day, b.day), cmp.Compare(a.client, b.client))
}

// cellKey is one of a day's counts.
type cellKey struct {
	kind actors.TallyKind
	name string
}

func (a cellKey) compare(b cellKey) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
}

type cell struct {
	count  uint64
	people actors.People
}

func (c *cell) add(o *cell) {
	c.count += o.count
	c.people.Join(&o.people)
}

// dayCells are the counts of a client's day.
type dayCells map[cellKey]*cell

func (d dayCells) add(k cellKey, x *cell) {
	c := d[k]
	if c == nil {
		c = &cell{}
		d[k] = c
	}
	c.add(x)
}

// join adds all of o.
func (d dayCells) join(o dayCells) {
	for k, x := range o {
		d.add(k, x)
	}
}

func (d dayCells) names(kind actors.TallyKind) (n int) {
	for k := range d {
		if k.kind == kind && k.name != "" {
			n++
		}
	}
	return n
}

// append packs the cells: how many, then ascending by kind and name each: kind,
// name with its length, count, how many people at least and, below the most that
// is told, their bits as distances. All but kind and name are uvarints.
func (d dayCells) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d)))
	var list []uint16
	for _, k := range slices.SortedFunc(maps.Keys(d), cellKey.compare) {
		c := d[k]
		b = proto.AppendString(append(b, byte(k.kind)), k.name)
		b = binary.AppendUvarint(b, c.count)
		people := c.people.AtLeast()
		b = binary.AppendUvarint(b, uint64(people))
		if people == actors.PeopleMax {
			continue
		}
		last := uint16(0)
		list = c.people.Bits(list[:0])
		for _, bit := range list {
			b = binary.AppendUvarint(b, uint64(bit-last))
			last = bit
		}
	}
	return b
}

// readCells reads what append wrote.
func readCells(r *proto.Reader) dayCells {
	n := r.Count(4)
	d := make(dayCells, n)
	var last cellKey
	for i := range n {
		k := cellKey{actors.TallyKind(r.Byte()), clone(r.String())}
		c := &cell{count: r.Uvarint()}
		people := r.Uvarint()
		if k.kind >= actors.TallyKinds || i > 0 && last.compare(k) >= 0 || people > actors.PeopleMax {
			r.Fail()
			return nil
		}
		readPeople(r, int(people), &c.people)
		d[k], last = c, k
	}
	return d
}

func readPeople(r *proto.Reader, n int, p *actors.People) {
	if n == actors.PeopleMax {
		for i := range p {
			p[i] = math.MaxUint64
		}
		return
	}
	at := uint64(0)
	for i := range n {
		gap := r.Uvarint()
		if at += gap; i > 0 && gap == 0 || gap >= 64*uint64(len(p)) || at >= 64*uint64(len(p)) {
			r.Fail()
			return
		}
		p.Set(uint16(at))
	}
}

func corruptAggregates() error {
	return proto.Errorf(proto.CodeCorrupt, "a day's totals are malformed or of another version than %d: restore a backup, or use the kith that wrote it", aggregateVersion)
}

func encodeDay(d dayCells) []byte { return d.append([]byte{aggregateVersion}) }

func decodeDay(v []byte) (dayCells, error) {
	r := proto.NewReader(v)
	version := r.Byte()
	d := readCells(&r)
	if r.Bad() || r.Len() != 0 || version != aggregateVersion {
		return nil, corruptAggregates()
	}
	return d, nil
}

// A commit's record is: version byte, then ascending by day and client each: day,
// client, cells.
func encodeAdded(added map[clientDay]dayCells) []byte {
	b := []byte{aggregateVersion}
	for _, at := range slices.SortedFunc(maps.Keys(added), clientDay.compare) {
		b = binary.AppendUvarint(b, uint64(at.day))
		b = binary.AppendUvarint(b, uint64(at.client))
		b = added[at].append(b)
	}
	return b
}

// joinAdded adds what one commit added to the days that are wanted.
func joinAdded(added map[clientDay]dayCells, v []byte, wanted func(clientDay) bool) error {
	return decodeAdded(v, func(at clientDay, d dayCells) error {
		if !wanted(at) {
			return nil
		}
		if added[at] == nil {
			added[at] = dayCells{}
		}
		added[at].join(d)
		return nil
	})
}

func decodeAdded(v []byte, fn func(clientDay, dayCells) error) error {
	r := proto.NewReader(v)
	if r.Byte() != aggregateVersion {
		r.Fail()
	}
	for !r.Bad() && r.Len() > 0 {
		at := clientDay{day: proto.Day(r.Uint32()), client: proto.ClientID(r.Uint32())}
		d := readCells(&r)
		if r.Bad() {
			break
		}
		if err := fn(at, d); err != nil {
			return err
		}
	}
	if r.Bad() {
		return corruptAggregates()
	}
	return nil
}

// forgetFew moves what fewer identities did to what has no name.
func (d dayCells) forgetFew(few uint64) (changed bool) {
	for k, c := range d {
		if k.name != "" && uint64(c.people.AtLeast()) < few {
			d.add(cellKey{kind: k.kind}, c)
			delete(d, k)
			changed = true
		}
	}
	return changed
}
