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
		if d.Partitions != nil && d.Partitions.Answered == d.Partitions.Of {
			d.Partitions = nil
		}
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b proto.DaySize) int { return cmp.Compare(a.Day, b.Day) })
	return out, nil
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
			if !slices.Contains(keys, s.key) {
				continue
			}
			d := days[day]
			if d == nil {
				d = &proto.DaySize{Day: day, Identities: new(uint64), Partitions: &proto.Answered{Of: proto.Partitions}}
				days[day] = d
			}
			*d.Identities += s.size
			d.Partitions.Answered += len(l.partitions)
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
