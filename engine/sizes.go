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
	key        proto.SegmentKey
	size       uint64
	partitions int // of how many that is; 0: of the lane's
}

// Sizes are stored as: version 1 or 2; per segment, ascending by key: the key's
// distance from the one before, the size, in version 2 of how many partitions.
// All are uvarints. A lane writes version 1; where a restore gave the store
// another number of lanes, what lanes were before wrote is there as version 2.
const (
	sizesVersion = 1
	sizesMoved   = 2
)

func appendSizes(b []byte, list []segmentSize) []byte {
	moved := slices.ContainsFunc(list, func(s segmentSize) bool { return s.partitions > 0 })
	version := uint64(sizesVersion)
	if moved {
		version = sizesMoved
	}
	b = binary.AppendUvarint(b, version)
	var last proto.SegmentKey
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(s.key-last))
		b = binary.AppendUvarint(b, s.size)
		if moved {
			b = binary.AppendUvarint(b, uint64(s.partitions))
		}
		last = s.key
	}
	return b
}

func readSizes(b []byte) (list []segmentSize, err error) {
	r := proto.NewReader(b)
	version := r.Uvarint()
	if version != sizesVersion && version != sizesMoved {
		r.Fail()
	}
	var last uint64
	for !r.Bad() && r.Len() > 0 {
		gap, size, partitions := r.Uvarint(), r.Uvarint(), uint64(0)
		if version == sizesMoved {
			partitions = r.Uvarint()
		}
		if gap == 0 || gap > math.MaxUint32-last || size > math.MaxUint32 || partitions > proto.Partitions || version == sizesMoved && partitions == 0 {
			r.Fail()
		}
		last += gap
		list = append(list, segmentSize{proto.SegmentKey(last), size, int(partitions)})
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
		byClient[c] = append(byClient[c], segmentSize{key: key, size: l.bitmaps.Cardinality(key)})
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
// by the rule that answered then, and today's so far. CodeNotFound if there never
// was such a segment.
func (n *Node) Sizes(client proto.ClientInfo, id proto.SegmentID, from, to proto.Day) ([]proto.DaySize, error) {
	versions := n.registry.versionsOf(client.ID, id)
	if len(versions) == 0 {
		return nil, notDefined(id)
	}
	days := sizesBy[proto.Day]{}
	err := n.eachSize(client.ID, from, to, func(day proto.Day, s segmentSize, partitions int) {
		if slices.ContainsFunc(versions, func(v version) bool { return v.key == s.key }) {
			days.add(day, s, partitions)
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]proto.DaySize, 0, len(days)+1)
	for day, of := range days {
		out = append(out, of.answered(day, versions))
	}
	if s, ok := n.Segment(client, id); ok {
		if today := proto.DayOf(n.config.Now()); from <= today && today <= to {
			out = slices.DeleteFunc(out, func(d proto.DaySize) bool { return d.Day == today })
			out = append(out, proto.DaySize{Day: today, Identities: s.Size, SoFar: true})
		}
	}
	slices.SortFunc(out, func(a, b proto.DaySize) int { return cmp.Compare(a.Day, b.Day) })
	return out, n.mayAnswerAll()
}

// sizesBy are sizes by day, or by segment, and version: while one waits beside
// another, lanes write down both.
type sizesBy[K comparable] map[K]versionSizes

func (x sizesBy[K]) add(k K, s segmentSize, partitions int) {
	if x[k] == nil {
		x[k] = versionSizes{}
	}
	x[k].add(s, partitions)
}

type versionSizes map[proto.SegmentKey]*versionSize

type versionSize struct {
	size       uint64
	partitions int
}

// add adds a lane's part.
func (x versionSizes) add(s segmentSize, partitions int) {
	d := x[s.key]
	if d == nil {
		d = &versionSize{}
		x[s.key] = d
	}
	d.size += s.size
	d.partitions += partitions
}

// answered is the size under the version that most of the hash space knows; of
// several, the newest that answered when the day ended.
func (x versionSizes) answered(day proto.Day, versions []version) proto.DaySize {
	var best versionSize
	ended := false // the best had begun to answer when the day ended
	for _, v := range slices.Backward(versions) {
		s := x[v.key]
		if s == nil {
			continue
		}
		if in := v.from.Day() <= day; s.partitions > best.partitions || s.partitions == best.partitions && in && !ended {
			best, ended = *s, in
		}
	}
	out := proto.DaySize{Day: day, Identities: &best.size}
	if best.partitions < proto.Partitions {
		out.Partitions = &proto.Answered{Answered: best.partitions, Of: proto.Partitions}
	}
	return out
}

// eachSize calls fn with all that lanes have of the days for a client, and of how
// many partitions that is.
func (n *Node) eachSize(c proto.ClientID, from, to proto.Day, fn func(day proto.Day, s segmentSize, partitions int)) error {
	for _, l := range n.lanes {
		snap := l.acquire()
		err := scanSizes(snap, sizesPrefix(l.id, c), sizesKey(l.id, c, from), to, func(day proto.Day, list []segmentSize) {
			for _, s := range list {
				fn(day, s, cmp.Or(s.partitions, len(l.partitions)))
			}
		})
		snap.release()
		if err != nil {
			return err
		}
	}
	return nil
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

// sizesOn are the sizes of a client's segments when a day ended, of all that they
// have ever stood for by the rule that answered then. names has the segments of
// those versions.
func (n *Node) sizesOn(c proto.ClientID, day proto.Day, ever map[proto.SegmentID][]version, names map[proto.SegmentKey]proto.SegmentID) (map[proto.SegmentID]proto.DaySize, error) {
	of := sizesBy[proto.SegmentID]{}
	err := n.eachSize(c, day, day, func(_ proto.Day, s segmentSize, partitions int) {
		if name, ok := names[s.key]; ok {
			of.add(name, s, partitions)
		}
	})
	sizes := map[proto.SegmentID]proto.DaySize{}
	for id, x := range of {
		sizes[id] = x.answered(day, ever[id])
	}
	return sizes, err
}
