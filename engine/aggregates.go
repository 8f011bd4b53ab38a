package engine

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"kith/actors"
	"kith/engine/store"
	"kith/proto"
)

// This file keeps a client's totals of each day: how many events of which name,
// how many impressions, clicks and conversions of which campaign, how many new
// identities. They name nobody and are not about what is kept: who opts out, and
// what grows old, stays counted. A lane keeps them by its log alone.
//
// A commit writes what it adds as one record ('a'); every so many commits those
// are folded into the days' values ('y').

// Bounds of a lane's aggregates.
const (
	aggregateDaysMax   = 5*366 + 1 // days that are kept where nothing else is agreed
	aggregateNamesMax  = 100       // of a client, day and kind, those that come first; others have no name
	aggregateFoldEvery = 256       // commits, after which they are folded
	aggregateFoldBytes = 1 << 20   // or so many bytes of records
	aggregateFoldDays  = 1024      // or days of clients
	aggregateFew       = 50        // what fewer identities did loses its name when the day is no longer young
)

// aggregates are a lane's, as far as they are in memory. The stepper's.
type aggregates struct {
	days    map[clientDay]*aggregateDay // all that changed since the last folding, and some
	records []uint64                    // numbers of the commits whose records are not folded
	bytes   int
	changed int       // days
	due     bool      // a value was rewritten: the commit under way must fold
	opened  bool      // since is known
	since   proto.Day // all events of it and later days are in
	begun   bool      // since is to be written
	moved   movedTotals
}

// movedTotals says of days that were counted before a restore made other lanes
// how many lanes it took for all identities: what few did is fewer in one of many.
type movedTotals struct {
	before proto.Day // 0: none were
	lanes  int
}

// sinceOf reads a lane's record of from when on its totals are whole: the day,
// and if totals were moved the day before which, and of how many lanes (1 byte).
func sinceOf(v []byte) (since proto.Day, moved movedTotals, err error) {
	switch len(v) {
	case 9:
		moved = movedTotals{proto.Day(binary.BigEndian.Uint32(v[4:])), int(v[8])}
	case 4:
	default:
		return 0, moved, corruptAggregates()
	}
	if len(v) == 9 && (moved.lanes < 1 || moved.lanes > proto.LanesMax) {
		return 0, moved, corruptAggregates()
	}
	return proto.Day(binary.BigEndian.Uint32(v)), moved, nil
}

// appendSince packs what sinceOf reads.
func appendSince(b []byte, since proto.Day, moved movedTotals) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(since))
	if moved.before == 0 {
		return b
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(moved.before)), byte(moved.lanes))
}

// few is how many identities in the lane are too few for a name on a day.
func (a *aggregates) few(day proto.Day, lanes int) uint64 {
	if day < a.moved.before {
		lanes = a.moved.lanes
	}
	return uint64(max(aggregateFew/lanes, 2))
}

type aggregateDay struct {
	cells   dayCells
	changed bool
	batch   uint64 // that wrote the value
}

// aggregateDay finds a day's counts in memory or in the store.
func (l *lane) aggregateDay(snap store.Snapshot, at clientDay) (*aggregateDay, error) {
	a := &l.totals
	if d := a.days[at]; d != nil {
		return d, nil
	}
	d := &aggregateDay{cells: dayCells{}}
	_, err := snap.Get(aggregateKey(l.id, at.day, at.client), func(v []byte) (err error) {
		d.cells, err = decodeDay(v)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.days[at] = d
	return d, nil
}

func (a *aggregates) mark(d *aggregateDay) {
	if !d.changed {
		d.changed = true
		a.changed++
	}
}

// loadAggregates reads what is not folded yet.
func (l *lane) loadAggregates(snap store.Snapshot) error {
	a := &l.totals
	a.days = map[clientDay]*aggregateDay{}
	found, err := snap.Get(sinceKey(l.id), func(v []byte) (err error) {
		a.since, a.moved, err = sinceOf(v)
		return err
	})
	if err != nil {
		return err
	}
	a.opened, a.begun = found || l.record.Offset == 0, !found && l.record.Offset == 0
	prefix := laneKey(l.id, 'a')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 11 {
			return false, proto.Errorf(proto.CodeCorrupt, "the key of a commit's totals has %d bytes", len(k))
		}
		a.records = append(a.records, binary.BigEndian.Uint64(k[3:]))
		a.bytes += len(v)
		return true, decodeAdded(v, func(at clientDay, added dayCells) error {
			d, err := l.aggregateDay(snap, at)
			if err != nil {
				return err
			}
			d.cells.join(added)
			a.mark(d)
			return nil
		})
	})
}

// addTallies adds what a batch took in. A name that is new is one of the day's
// if there is room when it first comes: by entry, then by name, so that it does
// not matter where batches end and which host was first.
func (l *lane) addTallies(b *batch) error {
	a := &l.totals
	added := map[clientDay]dayCells{}
	var late []*actors.Tally
	for _, o := range b.outcomes {
		for i := range o.Tallies {
			t := &o.Tallies[i]
			d, err := l.aggregateDay(b.source, clientDay{t.Day, t.Client})
			if err != nil {
				return err
			}
			k := cellKey{t.Kind, t.Name}
			if t.Name != "" && d.cells[k] == nil {
				late = append(late, t)
				continue
			}
			l.addTally(added, d, k, t)
		}
	}
	slices.SortStableFunc(late, func(x, y *actors.Tally) int {
		return cmp.Or(cmp.Compare(x.Entry, y.Entry), cmp.Compare(x.Name, y.Name))
	})
	for _, t := range late {
		d := a.days[clientDay{t.Day, t.Client}]
		k := cellKey{t.Kind, t.Name}
		if d.cells[k] == nil {
			if k.name = ""; d.cells.names(t.Kind) < aggregateNamesMax {
				k.name = clone(t.Name)
			}
		}
		l.addTally(added, d, k, t)
	}
	l.writeTallies(b, added)
	return nil
}

func (l *lane) addTally(added map[clientDay]dayCells, d *aggregateDay, k cellKey, t *actors.Tally) {
	at := clientDay{t.Day, t.Client}
	if added[at] == nil {
		added[at] = dayCells{}
	}
	x := &cell{t.Count, t.People}
	d.cells.add(k, x)
	added[at].add(k, x)
	l.totals.mark(d)
}

// writeTallies has the commit hold what it adds, or all that is not folded.
func (l *lane) writeTallies(b *batch, added map[clientDay]dayCells) {
	a := &l.totals
	if a.begun {
		b.puts, a.begun = append(b.puts, put{sinceKey(l.id), appendSince(nil, 0, a.moved)}), false
	}
	if len(added) > 0 {
		if len(a.records) < aggregateFoldEvery && a.bytes < aggregateFoldBytes && a.changed < aggregateFoldDays && !a.due {
			v := encodeAdded(added)
			a.records, a.bytes = append(a.records, l.record.Journal), a.bytes+len(v)
			b.puts = append(b.puts, put{tallyKey(l.id, l.record.Journal), v})
			return
		}
		a.due = true
	}
	if a.due {
		l.foldTallies(b)
	}
}

// foldTallies writes the values of the days that changed and deletes the records
// that they hold. Values that the store has by now need not be in memory.
func (l *lane) foldTallies(b *batch) {
	a := &l.totals
	for _, at := range slices.SortedFunc(maps.Keys(a.days), clientDay.compare) {
		d := a.days[at]
		switch {
		case d.changed:
			key := aggregateKey(l.id, at.day, at.client)
			if len(d.cells) > 0 {
				b.puts = append(b.puts, put{key, encodeDay(d.cells)})
			} else {
				b.deletes = append(b.deletes, key)
			}
			d.changed, d.batch = false, b.number
		case d.batch <= b.source.batch:
			delete(a.days, at)
		}
	}
	for _, n := range a.records {
		b.deletes = append(b.deletes, tallyKey(l.id, n))
	}
	a.records, a.bytes, a.changed, a.due = nil, 0, 0, false
}

// agedTallies takes, when a day ends, the names from what few did on days that
// are no longer young, and deletes days that are kept no longer. The lane must be
// drained.
func (l *lane) agedTallies(b *batch, was, now proto.Day) error {
	a := &l.totals
	if !a.opened {
		a.opened, a.since = true, now+1 // some of today's may have come before this build
		b.puts = append(b.puts, put{sinceKey(l.id), appendSince(nil, a.since, a.moved)})
	}
	first, next := was-min(was, actors.TallyYoungDays), now-min(now, actors.TallyYoungDays)
	err := l.eachDay(b.source, first, next, func(at clientDay) error {
		d, err := l.aggregateDay(b.source, at)
		if err == nil && d.cells.forgetFew(a.few(at.day, l.node.config.Lanes)) {
			a.mark(d)
			a.due = true
		}
		return err
	})
	if err != nil {
		return err
	}
	return l.eachDay(b.source, 0, now-min(now, l.aggregatesKept()), func(at clientDay) error {
		l.dropDay(at)
		return nil
	})
}

// aggregatesKept is for how many days totals are kept.
func (l *lane) aggregatesKept() proto.Day {
	r, agreed := l.rules.keep[0]
	switch {
	case !agreed:
		return aggregateDaysMax
	case r.Aggregates == 0:
		return math.MaxUint32
	}
	return proto.Day(min(int64(r.Aggregates)/(24*60*60*1000), math.MaxUint32))
}

// eachDay calls fn with all that there is of days from first to before next.
func (l *lane) eachDay(snap store.Snapshot, first, next proto.Day, fn func(clientDay) error) error {
	all := map[clientDay]bool{}
	for at := range l.totals.days {
		if first <= at.day && at.day < next {
			all[at] = true
		}
	}
	err := snap.Scan(laneKey(l.id, 'y'), aggregateKey(l.id, first, 0), func(k, _ []byte) (bool, error) {
		at, err := aggregateOf(k)
		if err != nil || at.day >= next {
			return false, err
		}
		all[at] = true
		return true, nil
	})
	for _, at := range slices.SortedFunc(maps.Keys(all), clientDay.compare) {
		if err == nil {
			err = fn(at)
		}
	}
	return err
}

// dropDay has a day begin from nothing. It is kept in memory until the store has
// no value of it: events of it may still come.
func (l *lane) dropDay(at clientDay) {
	a := &l.totals
	d := a.days[at]
	switch {
	case d == nil:
		d = &aggregateDay{}
		a.days[at] = d
	case len(d.cells) == 0 && !d.changed: // it went, and only waits for the store
		return
	}
	d.cells = dayCells{}
	a.mark(d)
	a.due = true // its part of the records goes too
}

// forgetTotals deletes an ended client's totals and sizes. The lane must be drained.
func (l *lane) forgetTotals(b *batch, client proto.ClientID) error {
	err := l.eachDay(b.source, 0, math.MaxUint32, func(at clientDay) error {
		if at.client == client {
			l.dropDay(at)
		}
		return nil
	})
	if err != nil {
		return err
	}
	prefix := sizesPrefix(l.id, client)
	return b.source.Scan(prefix, prefix, func(k, _ []byte) (bool, error) {
		b.deletes = append(b.deletes, slices.Clone(k))
		return true, nil
	})
}

// scanTotals calls fn with a client's days from first to last, ascending, as a
// snapshot of the lane has them; with those of all clients for client 0.
func scanTotals(snap store.Snapshot, lane proto.LaneID, client proto.ClientID, first, last proto.Day, fn func(clientDay, dayCells) error) error {
	wanted := func(at clientDay) bool {
		return first <= at.day && at.day <= last && (client == 0 || at.client == client)
	}
	added := map[clientDay]dayCells{}
	prefix := laneKey(lane, 'a')
	err := snap.Scan(prefix, prefix, func(_, v []byte) (bool, error) {
		return true, joinAdded(added, v, wanted)
	})
	if err != nil {
		return err
	}
	more := slices.SortedFunc(maps.Keys(added), clientDay.compare)
	before := func(at clientDay) error { // what has no value yet
		for len(more) > 0 && more[0].compare(at) < 0 {
			if err := fn(more[0], added[more[0]]); err != nil {
				return err
			}
			more = more[1:]
		}
		return nil
	}
	err = snap.Scan(laneKey(lane, 'y'), aggregateKey(lane, first, 0), func(k, v []byte) (bool, error) {
		at, err := aggregateOf(k)
		if err != nil || at.day > last {
			return false, err
		}
		if !wanted(at) {
			return true, nil
		}
		d, err := decodeDay(v)
		if err == nil {
			err = before(at)
		}
		if err != nil {
			return false, err
		}
		d.join(added[at])
		if len(more) > 0 && more[0] == at {
			more = more[1:]
		}
		return true, fn(at, d)
	})
	if err != nil {
		return err
	}
	return before(clientDay{day: math.MaxUint32, client: math.MaxUint32})
}
