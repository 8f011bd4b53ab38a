package engine

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"kith/actors"
	"kith/proto"
	"kith/segments"
)

// This file is how each kind of a lane's keys gets into other lanes.

// kinds are all kinds of keys that a lane has (engine.go), and what carries each.
func (x *relaning) kinds() map[byte]func() error {
	with := func() error { return nil }
	return map[byte]func() error{
		'r': with, // what it counts, at the end
		'e': x.graphs,
		'o': x.names,
		'b': x.chunks,
		'x': x.exits,
		'd': x.same('d'),
		'v': x.same('v'),
		'w': x.same('w'),
		'p': x.same('p'),
		's': x.spaces,
		'g': x.fills,
		'k': x.erasures,
		'q': x.letters,
		'u': x.notices,
		'z': x.sizes,
		'y': x.totals,
		'a': with, // 'y'
		'c': x.since,
		'f': x.same('f'),
		't': with, // a restored node's feeds begin anew
		'l': with,
		'j': x.none('j'),
		'm': x.none('m'),
	}
}

// names moves the names of nodes whose partition another lane carries.
func (x *relaning) names() error {
	for n := range x.from {
		err := x.scan(n, 'o', func(k, v []byte) error {
			o := ordinalOf(k)
			m := x.laneOf(o.Partition())
			if m == n {
				return nil
			}
			if err := x.out.delete(slices.Clone(k)); err != nil {
				return err
			}
			return x.out.set(ordinalKey(proto.LaneID(m), o), slices.Clone(v))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// chunks deals the bits of bitmaps out by the partition of each.
func (x *relaning) chunks() error {
	return x.together(x.all(), 'b', func(rest []byte, values [][]byte) error {
		if len(rest) != 10 {
			return proto.Errorf(proto.CodeCorrupt, "a bitmap chunk's key has %d bytes", 3+len(rest))
		}
		var list []segments.Chunk
		for _, v := range values {
			list = append(list, segments.Chunk{
				Client: proto.ClientID(binary.BigEndian.Uint32(rest)), Key: proto.SegmentKey(binary.BigEndian.Uint32(rest[4:])),
				High: binary.BigEndian.Uint16(rest[8:]), Data: v,
			})
		}
		list, err := segments.DealChunks(list, x.to, func(o proto.Ordinal) int { return x.laneOf(o.Partition()) })
		if err != nil {
			return err
		}
		for m := range list {
			if len(list[m].Data) == 0 {
				continue
			}
			if err := x.put(m, 'b', rest, list[m].Data); err != nil {
				return err
			}
		}
		return nil
	})
}

// exits deals exit records out by the partition of each node.
func (x *relaning) exits() error {
	lists, size := make([][]actors.Exit, x.to), 0
	numbers := make([]uint64, x.to) // of the last row
	flush := func() error {
		for m := range lists {
			numbers[m]++
			hours, values := encodeExits(lists[m])
			for i := range hours {
				if err := x.out.set(exitRowKey(proto.LaneID(m), hours[i], numbers[m], i), values[i]); err != nil {
					return err
				}
			}
			lists[m] = nil
		}
		size = 0
		return nil
	}
	for n := range x.from {
		hour := uint32(0)
		err := x.scan(n, 'x', func(k, v []byte) error {
			if h := exitHour(k); h != hour || size >= exitsPerRow {
				hour = h
				if err := flush(); err != nil {
					return err
				}
			}
			list, err := decodeExits(v)
			for _, e := range list {
				m := x.laneOf(e.Node.Hash.Partition())
				lists[m] = append(lists[m], e)
			}
			size += len(list)
			return err
		})
		if err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	// The number of the next commit must be above those of rows of its hours.
	x.journal = max(x.journal, slices.Max(numbers))
	return nil
}

// spaces has each lane know the spaces that any knew.
func (x *relaning) spaces() error {
	all := map[uint64]bool{}
	for n := range x.from {
		err := x.scan(n, 's', func(_, v []byte) error {
			r := proto.NewReader(v)
			for r.Len() > 0 && !r.Bad() {
				all[r.Uvarint()] = true
			}
			if r.Bad() {
				return proto.Errorf(proto.CodeCorrupt, "the spaces of lane %d are malformed", n)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	var v []byte
	for _, s := range slices.Sorted(maps.Keys(all)) {
		v = binary.AppendUvarint(v, s)
	}
	for m := range x.to {
		if err := x.put(m, 's', nil, v); err != nil {
			return err
		}
	}
	return nil
}

// fills has each lane be as far as the least far of those whose identities it got:
// whom a fill comes to again, it finds up to date.
func (x *relaning) fills() error {
	return x.together(x.all(), 'g', func(rest []byte, values [][]byte) error {
		list := make([]fillProgress, len(values))
		for n, v := range values {
			if v == nil {
				return notAtRest("lane %d has no record of fill %x", n, rest)
			}
			f, err := decodeFill(append(laneKey(proto.LaneID(n), 'g'), rest...), v)
			if err != nil {
				return err
			}
			list[n] = f
		}
		for m := range x.to {
			var f fillProgress
			for i, n := range x.ofLane(m) {
				if i == 0 {
					f = list[n]
				}
				f = f.leastOf(list[n])
			}
			if err := x.put(m, 'g', rest, f.append(nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

// leastOf is what holds of the nodes of both.
func (f fillProgress) leastOf(o fillProgress) fillProgress {
	f.whole = f.exact() && o.exact() && (f.whole || o.whole)
	switch {
	case f.done:
		f.next = o.next
	case !o.done:
		f.next = min(f.next, o.next)
	}
	f.along = (f.along || f.done) && (o.along || o.done) && !(f.done && o.done)
	f.done, f.since = f.done && o.done, min(f.since, o.since)
	return f
}

// erasures is fills, of clients that were ended.
func (x *relaning) erasures() error {
	return x.together(x.all(), 'k', func(rest []byte, values [][]byte) error {
		if len(rest) != 4 {
			return proto.Errorf(proto.CodeCorrupt, "the key of a client's erasure has %d bytes", 3+len(rest))
		}
		list := make([]clientErasure, len(values))
		for n, v := range values {
			if v == nil {
				return notAtRest("lane %d does not know that client %x was ended", n, rest)
			}
			e, err := decodeClientErasure(proto.ClientID(binary.BigEndian.Uint32(rest)), v)
			if err != nil {
				return err
			}
			list[n] = e
		}
		for m := range x.to {
			e := clientErasure{done: true}
			for i, n := range x.ofLane(m) {
				if o := list[n]; i == 0 || e.done || !o.done && o.next < e.next {
					e = o
				}
			}
			if err := x.put(m, 'k', rest, e.append(nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

// letters gives dead letters, oldest first, new numbers: those of several lanes may
// be the same. All are of before whatever a lane is told next. They name whose home is
// their lane, as all do.
func (x *relaning) letters() error {
	type letter struct {
		at   uint64
		lane int
		key  string
	}
	var list []letter
	for n := range x.from {
		err := x.scan(n, 'q', func(k, v []byte) error {
			if len(v) < 11 {
				return proto.Errorf(proto.CodeCorrupt, "a dead letter is malformed")
			}
			list = append(list, letter{binary.BigEndian.Uint64(v), n, string(k)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortFunc(list, func(a, b letter) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.lane, b.lane), cmp.Compare(a.key, b.key))
	})
	for i, l := range list {
		_, err := x.snap.Get([]byte(l.key), func(v []byte) error {
			d, err := decodeDead([]byte(l.key), v)
			if err != nil {
				return err
			}
			m := x.laneOf(d.partition)
			body := namingOnly(d.replay.Kind, d.replay.Body, func(id proto.Identity) bool { return x.laneOf(x.hasher.Hash(id).Partition()) == m })
			return x.out.set(deadKey(proto.LaneID(m), x.offset, i), slices.Concat(v[:len(v)-len(d.replay.Body)], body))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notices leaves what the feed is to be told to the lane of each identity.
func (x *relaning) notices() error {
	first := x.offset - proto.Offset(len(x.finals))
	for i := range x.finals {
		u := &x.finals[i]
		m := x.laneOf(u.hash.Partition())
		if err := x.out.set(noticeKey(proto.LaneID(m), first+1+proto.Offset(i), 0), u.append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// sizes adds up the sizes of each day, with of how many partitions they are.
func (x *relaning) sizes() error {
	for m := range x.to {
		lanes := x.besideOf(m)
		err := x.together(lanes, 'z', func(rest []byte, values [][]byte) error {
			all := map[proto.SegmentKey]segmentSize{}
			for i, v := range values {
				if v == nil {
					continue
				}
				list, err := readSizes(v)
				if err != nil {
					return err
				}
				for _, s := range list {
					sum := all[s.key]
					sum.key, sum.size = s.key, sum.size+s.size
					sum.partitions += cmp.Or(s.partitions, len(partitionsOf(proto.LaneID(lanes[i]), x.from)))
					all[s.key] = sum
				}
			}
			var list []segmentSize
			for _, key := range slices.Sorted(maps.Keys(all)) {
				list = append(list, all[key])
			}
			return x.put(m, 'z', rest, appendSizes(nil, list))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// totals adds up the totals of each day, with what is not folded into them yet.
func (x *relaning) totals() error {
	for m := range x.to {
		added := map[clientDay]dayCells{}
		for _, n := range x.besideOf(m) {
			err := x.scan(n, 'a', func(_, v []byte) error {
				return joinAdded(added, v, func(clientDay) bool { return true })
			})
			if err != nil {
				return err
			}
		}
		write := func(at clientDay, d dayCells) error {
			if d.boundNames(aggregateJoinedMax); len(d) == 0 {
				return nil
			}
			return x.out.set(aggregateKey(proto.LaneID(m), at.day, at.client), encodeDay(d))
		}
		err := x.together(x.besideOf(m), 'y', func(rest []byte, values [][]byte) error {
			at, err := aggregateOf(append(laneKey(proto.LaneID(m), 'y'), rest...))
			if err != nil {
				return err
			}
			all := dayCells{}
			all.join(added[at])
			delete(added, at)
			for _, v := range values {
				if v == nil {
					continue
				}
				d, err := decodeDay(v)
				if err != nil {
					return err
				}
				all.join(d)
			}
			return write(at, all)
		})
		if err != nil {
			return err
		}
		for _, at := range slices.SortedFunc(maps.Keys(added), clientDay.compare) {
			if err := write(at, added[at]); err != nil {
				return err
			}
		}
	}
	return nil
}

// since is from when on all events of a lane's identities are in its totals: if
// those of before are in other lanes' too, from the day that is next. What totals
// a lane got are of so many of the lanes before.
func (x *relaning) since() error {
	type begin struct {
		known bool
		day   proto.Day
		moved movedTotals
	}
	next, old := proto.Day(0), make([]begin, x.from)
	for n := range x.from {
		err := x.scan(n, 'c', func(_, v []byte) (err error) {
			old[n].known = true
			old[n].day, old[n].moved, err = sinceOf(v)
			return err
		})
		if err != nil {
			return err
		}
		next = max(next, proto.Millis(max(x.old[n].LaneTimeMs, x.old[n].NowMs)).Day()+1)
	}
	for m := range x.to {
		day, known, moved := proto.Day(0), true, movedTotals{lanes: x.from}
		beside := x.besideOf(m)
		for _, n := range x.ofLane(m) {
			if !slices.Contains(beside, n) {
				day = next
			}
			day, known = max(day, old[n].day), known && old[n].known
		}
		if !known {
			continue // the lane finds out when a day ends
		}
		for _, n := range beside {
			moved.before = next
			if old[n].moved.before > 0 {
				moved.lanes = min(moved.lanes, old[n].moved.lanes)
			}
		}
		moved.lanes = max(moved.lanes/max(len(beside), 1), 1)
		if err := x.put(m, 'c', nil, appendSince(nil, day, moved)); err != nil {
			return err
		}
	}
	return nil
}

// aggregateJoinedMax is how many names a day's totals of one kind keep where those
// of several lanes are joined: they are one value of the store.
const aggregateJoinedMax = 4 * aggregateNamesMax

// boundNames takes the names from what the fewest identities did, if there are
// more of a kind.
func (d dayCells) boundNames(most int) {
	for kind := range actors.TallyKinds {
		more := d.names(kind) - most
		if more <= 0 {
			continue
		}
		var list []cellKey
		for k := range d {
			if k.kind == kind && k.name != "" {
				list = append(list, k)
			}
		}
		slices.SortFunc(list, func(a, b cellKey) int {
			return cmp.Or(cmp.Compare(d[a].people.AtLeast(), d[b].people.AtLeast()), cmp.Compare(d[a].count, d[b].count), cmp.Compare(a.name, b.name))
		})
		for _, k := range list[:more] {
			d.add(cellKey{kind: kind}, d[k])
			delete(d, k)
		}
	}
}
