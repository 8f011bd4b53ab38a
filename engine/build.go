package engine

import (
	"iter"
	"slices"

	"kith/actors"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// batch is some whole entries on their way from the stepper to the readers.
type batch struct {
	number   uint64
	lane     *lane
	source   *laneSnapshot
	commands actors.Commands
	full     bool

	offsets  []proto.Offset // of its entries
	times    []proto.Millis // likewise: lane time
	newest   proto.Millis   // when the last of them was made
	outcomes []*actors.Outcome
	exits    []actors.Exit
	puts     []put
	deletes  [][]byte
	dropped  []proto.SegmentKey
	fills    []fillProgress
	erasures []clientErasure
	ended    []proto.ClientID // clients, whose dead letters go; nothing comes after it in the batch
	unkept   uint64           // commands that were set aside and are not among the letters
	record   []byte           // the lane's
	journal  uint64
	control  uint64
	beats    int
	proofs   []proto.Beat // that nodes are alive
	laneTime proto.Millis
	now      proto.Millis // of the last entry
	fired    proto.Millis // no exit record before it is still to fire
	chain    uint64

	sent      []outgoing // graph messages to other lanes
	taken     []uint64   // by lane: newest batch taken in from there
	carry     bool       // graph messages are left for the next entry
	decisions []graph.Decision
	notices   []notice
	marks     []feedMove // of definitions, for feeds
	moved     bool       // there is something for feeds
	graph     graphCounts

	writes store.Batch
	bits   []segments.BitDelta
	logged int    // bytes of the journal
	parts  uint32 // of the journal
}

// journalPartMax bounds the deltas of one journal value: 25,000 segments may
// change for each of thousands of identities in one batch.
const journalPartMax = 50_000

type put struct{ key, value []byte }

// build turns stepped batches into store batches until there are none. After
// a failure it only lets go of them.
func (l *lane) build() {
	defer close(l.commits)
	failed := false
	for b := range l.built {
		if !failed {
			b.writes = l.store.NewBatch()
			if err := recovered(b.fillWrites); err != nil {
				failed = true
				l.fail("building a commit", err)
				b.writes.Discard()
			}
		}
		if failed {
			l.inflight.Done()
			continue
		}
		l.commits <- b
	}
}

// writer adds to a store batch and keeps the first error.
type writer struct {
	batch store.Batch
	err   error
}

func (w *writer) set(key, value []byte) {
	if w.err == nil {
		w.err = w.batch.Set(key, value)
	}
}

func (w *writer) delete(key []byte) {
	if w.err == nil {
		w.err = w.batch.Delete(key)
	}
}

// put sets the key, or with a nil value deletes it.
func (w *writer) put(key, value []byte) {
	if value == nil {
		w.delete(key)
	} else {
		w.set(key, value)
	}
}

func (b *batch) fillWrites() error {
	w := &writer{batch: b.writes}
	for _, o := range b.outcomes {
		b.writeOutcome(w, o)
		b.bits = append(b.bits, o.Bits...)
	}
	for _, p := range b.puts {
		w.set(p.key, p.value)
	}
	for _, k := range b.deletes {
		w.delete(k)
	}
	id := b.lane.id
	for part := range slices.Chunk(b.bits, journalPartMax) {
		value := segments.AppendDeltas(nil, part)
		b.logged += len(value)
		w.set(journalKey(id, b.journal, b.parts), value)
		b.parts++
	}
	hours, values := encodeExits(b.exits)
	for i, h := range hours {
		w.set(exitRowKey(id, h, b.journal, i), values[i])
	}
	for _, x := range b.sent {
		w.set(outboxKey(id, x.to, x.number), x.data)
	}
	for i := range b.notices {
		x := &b.notices[i]
		w.set(noticeKey(id, x.at, x.number), x.append(nil))
	}
	w.set(recordKey(id), b.record)
	return w.err
}

// networkMark is the value of a network's row: its key says all.
var networkMark = []byte{1}

func (b *batch) writeOutcome(w *writer, o *actors.Outcome) {
	// One slab for all keys of the outcome: they are many and short.
	slab := make([]byte, 0, len(o.Puts)*(nodePrefixLen+1))
	for i := range o.Puts {
		start := len(slab)
		slab = append(appendNodeKey(slab, o.Puts[i].Node, o.Puts[i].Gen), 'f')
		w.put(slab[start:len(slab):len(slab)], o.Puts[i].Value)
	}
	for i := range o.Darks {
		w.put(darkKey(o.Darks[i].Node), o.Darks[i].Value)
	}
	for i := range o.Copies {
		w.put(copyKey(o.Copies[i].Node, o.Copies[i].Member), o.Copies[i].Value)
	}
	for i := range o.OptOuts {
		w.put(optOutKey(o.OptOuts[i].Hash), o.OptOuts[i].Value)
	}
	for i := range o.Named {
		n := &o.Named[i]
		w.set(ordinalKey(b.lane.id, n.Ordinal), encodeOrdinal(n.Node.Space, n.Identity))
	}
	for _, ordinal := range o.Unnamed {
		w.delete(ordinalKey(b.lane.id, ordinal))
	}
	for i := range o.Blocks {
		n := &o.Blocks[i]
		w.put(blockKey(n.Node, n.Gen, n.Client, n.Number), n.Data)
	}
	for i := range o.Networks {
		x := &o.Networks[i]
		key := networkKey(x.Client, x.Network, x.Node)
		if x.Gone {
			w.delete(key)
		} else {
			w.set(key, networkMark)
		}
	}
}

// source reads nodes for the hosts.
type source struct{ snap store.Snapshot }

// Node implements actors.Source.
func (s source) Node(n proto.Node, gen uint32, fn func([]byte) error) (bool, error) {
	return s.snap.Get(stateKey(n, gen), fn)
}

// Dark implements actors.Source.
func (s source) Dark(n proto.Node, fn func([]byte) error) (bool, error) {
	return s.snap.Get(darkKey(n), fn)
}

// Copy implements actors.Source.
func (s source) Copy(n proto.Node, member graph.Hash, fn func([]byte) error) (bool, error) {
	return s.snap.Get(copyKey(n, member), fn)
}

// OptOut implements actors.Source.
func (s source) OptOut(h graph.Hash, fn func([]byte) error) (bool, error) {
	return s.snap.Get(optOutKey(h), fn)
}

// Blocks implements actors.Source.
func (s source) Blocks(n proto.Node, gen uint32, c proto.ClientID, first, next uint32) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for i := first; i < next; i++ {
			found, err := s.snap.Get(blockKey(n, gen, c, i), func(v []byte) error {
				if !yield(v, nil) {
					return errStop
				}
				return nil
			})
			if err == errStop {
				return
			}
			if err == nil && !found {
				err = proto.Errorf(proto.CodeCorrupt, "history block %d of a node is missing", i)
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

var errStop = proto.Errorf(proto.CodeInternal, "stop")
