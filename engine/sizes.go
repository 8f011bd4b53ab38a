package engine

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"kith/engine/store"
	"kith/proto"
)

// sizesDaysMax is how long daily sizes are kept: five years. They name nobody.
const sizesDaysMax = 5*366 + 1

// segmentSize is how many identities of a lane are in a segment.
type segmentSize struct {
	key  proto.SegmentKey
	size uint64
}

// Sizes are stored as: version 1; per segment, ascending by key: the key's
// distance from the one before, the size. All are uvarints.
const sizesVersion = 1

func appendSizes(b []byte, list []segmentSize) []byte {
	b = binary.AppendUvarint(b, sizesVersion)
	var last proto.SegmentKey
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(s.key-last))
		b = binary.AppendUvarint(b, s.size)
		last = s.key
	}
	return b
}

func readSizes(b []byte) (list []segmentSize, err error) {
	r := proto.NewReader(b)
	if r.Uvarint() != sizesVersion {
		r.Fail()
	}
	var last uint64
	for !r.Bad() && r.Len() > 0 {
		gap, size := r.Uvarint(), r.Uvarint()
		if gap == 0 || gap > math.MaxUint32-last || size > math.MaxUint32 {
			r.Fail()
		}
		last += gap
		list = append(list, segmentSize{proto.SegmentKey(last), size})
	}
	if r.Bad() {
		return nil, proto.Errorf(proto.CodeCorrupt, "a day's sizes of segments are malformed: restore a backup")
	}
	return list, nil
}

// dayEnds reports whether a beat at t is the first of a day after another one.
// Only the log decides that, and so all who apply it keep the same sizes.
func (l *lane) dayEnds(t proto.Millis) bool {
	return l.record.LaneTimeMs != 0 && t.Day() > proto.Millis(l.record.LaneTimeMs).Day()
}

// keepSizes writes down, for the day that has ended, the sizes of all segments,
// and deletes what is too old. The bitmaps must be as the log has them up to here.
func (l *lane) keepSizes(b *batch) error {
	day := proto.Millis(l.record.LaneTimeMs).Day()
	byClient := map[proto.ClientID][]segmentSize{}
	for _, key := range slices.Sorted(maps.Keys(l.rules.defines)) {
		c := l.rules.defines[key].client
		byClient[c] = append(byClient[c], segmentSize{key, l.bitmaps.Cardinality(key)})
	}
	for _, c := range slices.Sorted(maps.Keys(byClient)) {
		b.puts = append(b.puts, put{sizesKey(l.id, c, day), appendSizes(nil, byClient[c])})
		if day < sizesDaysMax {
			continue
		}
		err := b.source.Scan(sizesPrefix(l.id, c), sizesPrefix(l.id, c), func(k, _ []byte) (bool, error) {
			old := sizesDay(k) <= day-sizesDaysMax
			if old {
				b.deletes = append(b.deletes, slices.Clone(k))
			}
			return old, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func sizesDay(k []byte) proto.Day { return proto.Day(binary.BigEndian.Uint32(k[len(k)-4:])) }

// Sizes are how many identities were in the segment when each of the days ended,
// under all rules that its name has stood for, and today's so far. CodeNotFound
// if there never was such a segment.
func (n *Node) Sizes(client proto.ClientInfo, id proto.SegmentID, from, to proto.Day) ([]proto.DaySize, error) {
	keys := n.registry.everOf(client.ID, id)
	if len(keys) == 0 {
		return nil, notDefined(id)
	}
	days := map[proto.Day]*proto.DaySize{}
	for _, l := range n.lanes {
		if err := l.addDays(client.ID, keys, from, to, days); err != nil {
			return nil, err
		}
	}
	if s, ok := n.Segment(client, id); ok {
		if today := proto.DayOf(n.config.Now()); from <= today && today <= to {
			days[today] = &proto.DaySize{Day: today, Identities: s.Size, SoFar: true}
		}
	}
	out := make([]proto.DaySize, 0, len(days))
	for _, d := range days {
		out = append(out, complete(d))
	}
	slices.SortFunc(out, func(a, b proto.DaySize) int { return cmp.Compare(a.Day, b.Day) })
	return out, nil
}

// complete is d, saying how much of the hash space it is of only if that is not all.
func complete(d *proto.DaySize) proto.DaySize {
	out := *d
	if out.Partitions != nil && out.Partitions.Answered == out.Partitions.Of {
		out.Partitions = nil
	}
	return out
}

// everOf are the keys that a name has stood for.
func (r *registry) everOf(c proto.ClientID, id proto.SegmentID) []proto.SegmentKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ever[defined{c, id}])
}

// addDays adds what the lane has of the days.
func (l *lane) addDays(c proto.ClientID, keys []proto.SegmentKey, from, to proto.Day, days map[proto.Day]*proto.DaySize) error {
	snap := l.acquire()
	defer snap.release()
	return scanSizes(snap, sizesPrefix(l.id, c), sizesKey(l.id, c, from), to, func(day proto.Day, list []segmentSize) {
		for _, s := range list {
			if slices.Contains(keys, s.key) {
				addSize(days, day, day, s.size, len(l.partitions))
			}
		}
	})
}

func scanSizes(snap store.Snapshot, prefix, from []byte, to proto.Day, fn func(proto.Day, []segmentSize)) error {
	return snap.Scan(prefix, from, func(k, v []byte) (bool, error) {
		day := sizesDay(k)
		if day > to {
			return false, nil
		}
		list, err := readSizes(v)
		if err == nil {
			fn(day, list)
		}
		return true, err
	})
}

// namesEver are the names that a client's segments have had, by key.
func (r *registry) namesEver(c proto.ClientID) map[proto.SegmentKey]proto.SegmentID {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[proto.SegmentKey]proto.SegmentID{}
	for name, keys := range r.ever {
		if name.client != c {
			continue
		}
		for _, k := range keys {
			names[k] = name.id
		}
	}
	return names
}

// sizedDays are the days of which a lane has the sizes of a client's segments.
func (n *Node) sizedDays(c proto.ClientID) ([]proto.Day, error) {
	days := map[proto.Day]bool{}
	for _, l := range n.lanes {
		snap := l.acquire()
		err := snap.Scan(sizesPrefix(l.id, c), sizesPrefix(l.id, c), func(k, _ []byte) (bool, error) {
			days[sizesDay(k)] = true
			return true, nil
		})
		snap.release()
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(days)), nil
}

// sizesOn are the sizes of a client's segments when a day ended, by the names
// that its keys have had.
func (n *Node) sizesOn(c proto.ClientID, day proto.Day, names map[proto.SegmentKey]proto.SegmentID) (map[proto.SegmentID]*proto.DaySize, error) {
	sizes := map[proto.SegmentID]*proto.DaySize{}
	for _, l := range n.lanes {
		if err := l.addSizesOn(c, day, names, sizes); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

func (l *lane) addSizesOn(c proto.ClientID, day proto.Day, names map[proto.SegmentKey]proto.SegmentID, sizes map[proto.SegmentID]*proto.DaySize) error {
	snap := l.acquire()
	defer snap.release()
	return scanSizes(snap, sizesPrefix(l.id, c), sizesKey(l.id, c, day), day, func(_ proto.Day, list []segmentSize) {
		for _, s := range list {
			if name, ok := names[s.key]; ok {
				addSize(sizes, name, day, s.size, len(l.partitions))
			}
		}
	})
}

// addSize adds a lane's part of a segment's size on a day.
func addSize[K comparable](sizes map[K]*proto.DaySize, at K, day proto.Day, size uint64, partitions int) {
	d := sizes[at]
	if d == nil {
		d = &proto.DaySize{Day: day, Identities: new(uint64), Partitions: &proto.Answered{Of: proto.Partitions}}
		sizes[at] = d
	}
	*d.Identities += size
	d.Partitions.Answered += partitions
}
