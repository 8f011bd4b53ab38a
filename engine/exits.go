package engine

import (
	"container/heap"
	"encoding/binary"
	"slices"

	"kith/actors"
	"kith/engine/store"
	"kith/proto"
)

// exitIndex knows which nodes must be looked at when, by lane time. All
// records are in the store, by hour; those of the hours that are near are in
// memory too. Records are never moved: a node's state names the one that
// counts, the others are stale and ignored when they come due.
//
// A stored value is a version byte and records: time (varint, delta to the
// record before), hash (16), space (uvarint); sorted by time and node.
//
// It belongs to the lane's stepper.
type exitIndex struct {
	lane   proto.LaneID
	near   exitHeap
	loaded uint32      // hours up to here are in near
	popped actors.Exit // the last that due gave
}

const (
	exitVersion   = 1
	exitHourMs    = 3600 * 1000
	exitHoursNear = 1 // hours beyond the present one that are kept in memory
)

func hourOf(t proto.Millis) uint32 { return uint32(max(t, 0) / exitHourMs) }

// exitHour is the hour in a stored record's key.
func exitHour(key []byte) uint32 { return binary.BigEndian.Uint32(key[3:]) }

type exitHeap []actors.Exit

func (h exitHeap) Len() int           { return len(h) }
func (h exitHeap) Less(i, j int) bool { return compareExits(h[i], h[j]) < 0 }
func (h exitHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *exitHeap) Push(x any)        { *h = append(*h, x.(actors.Exit)) }
func (h *exitHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func compareExits(a, b actors.Exit) int {
	switch {
	case a.At < b.At:
		return -1
	case a.At > b.At:
		return 1
	}
	return a.Node.Compare(b.Node)
}

// add takes in new records; those of far hours are in the store only.
func (x *exitIndex) add(list []actors.Exit) {
	for _, e := range list {
		if hourOf(e.At) <= x.loaded {
			heap.Push(&x.near, e)
		}
	}
}

// needsLoad reports whether time at brings hours near that are not in memory.
func (x *exitIndex) needsLoad(at proto.Millis) bool { return hourOf(at)+exitHoursNear > x.loaded }

// load reads the hours that time at brings near. Everything that was applied
// must be committed and in snap.
func (x *exitIndex) load(snap store.Snapshot, at proto.Millis) error {
	upTo := hourOf(at) + exitHoursNear
	prefix := laneKey(x.lane, 'x')
	start := exitKey(x.lane, x.loaded+1, 0)
	if x.loaded == 0 {
		start = prefix
	}
	err := snap.Scan(prefix, start, func(k, v []byte) (bool, error) {
		if exitHour(k) > upTo {
			return false, nil
		}
		list, err := decodeExits(v)
		for _, e := range list {
			heap.Push(&x.near, e)
		}
		return true, err
	})
	if err == nil {
		x.loaded = upTo
	}
	return err
}

// due takes the next record that is due at time at. One that was added twice,
// which a store keeps once, it gives once until popped is reset.
func (x *exitIndex) due(at proto.Millis) (actors.Exit, bool) {
	for len(x.near) > 0 && x.near[0].At <= at {
		if e := heap.Pop(&x.near).(actors.Exit); e != x.popped {
			x.popped = e
			return e, true
		}
	}
	return actors.Exit{}, false
}

// next is when the earliest record is due, 0 if none is near.
func (x *exitIndex) next() proto.Millis {
	if len(x.near) == 0 {
		return 0
	}
	return x.near[0].At
}

// exitsPerRow bounds the records of a row: a value of a store takes 50,000.
const exitsPerRow = 16 << 10

// encodeExits gives the stored rows of a commit's records, each of one hour.
func encodeExits(list []actors.Exit) (hours []uint32, values [][]byte) {
	slices.SortFunc(list, compareExits)
	list = slices.Compact(list)
	for len(list) > 0 {
		hour := hourOf(list[0].At)
		n := 1
		for n < min(len(list), exitsPerRow) && hourOf(list[n].At) == hour {
			n++
		}
		b := []byte{exitVersion}
		var prev proto.Millis
		for _, e := range list[:n] {
			b = proto.AppendVarint(b, int64(e.At-prev))
			prev = e.At
			b = append(b, e.Node.Hash[:]...)
			b = binary.AppendUvarint(b, uint64(e.Node.Space))
		}
		hours, values = append(hours, hour), append(values, b)
		list = list[n:]
	}
	return hours, values
}

// decodeExits reads one stored value; CodeCorrupt if it is malformed.
func decodeExits(b []byte) ([]actors.Exit, error) {
	r := proto.NewReader(b)
	if v := r.Byte(); v != exitVersion {
		return nil, proto.Errorf(proto.CodeCorrupt, "exit records have version %d, this build reads %d", v, exitVersion)
	}
	var list []actors.Exit
	var at proto.Millis
	for r.Len() > 0 {
		at += proto.Millis(r.Varint())
		e := actors.Exit{At: at}
		copy(e.Node.Hash[:], r.Take(16))
		e.Node.Space = proto.SpaceID(r.Uvarint())
		if r.Bad() {
			return nil, proto.Errorf(proto.CodeCorrupt, "exit records are malformed")
		}
		list = append(list, e)
	}
	return list, nil
}
