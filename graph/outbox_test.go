package graph_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"kith/graph"
	"kith/proto"
)

func TestChannelNumbers(t *testing.T) {
	town := newTown(2)
	l := town.lanes[1]
	batch := func(n id) graph.Batch {
		m := graph.Message{Kind: graph.Nudge, To: b.node(), From: n.hash(), About: c.hash()}
		return graph.Batch{Vector: []proto.Offset{proto.Offset(n), 0}, Messages: []graph.Message{m}}
	}
	for _, tt := range []struct {
		lo   uint64
		pack []graph.Batch
		want int
		last uint64
	}{
		{2, []graph.Batch{batch(2)}, 0, 0},
		{1, []graph.Batch{batch(1), batch(2)}, 2, 2},
		{1, []graph.Batch{batch(1), batch(2), batch(3)}, 1, 3},
		{5, []graph.Batch{batch(5)}, 0, 3},
		{2, []graph.Batch{batch(2)}, 0, 3},
	} {
		if in := l.Receive(0, tt.lo, tt.pack); len(in) != tt.want || l.Applied[0] != tt.last {
			t.Errorf("pack from %d: %d messages, applied %d; want %d, %d", tt.lo, len(in), l.Applied[0], tt.want, tt.last)
		}
	}
	if l.Vector[0] != 3 {
		t.Errorf("vector %v, want the newest batch's", l.Vector)
	}
	ch := graph.Channel{Batches: []graph.Batch{batch(1), batch(2), batch(3)}}
	ch.Trim(2)
	if lo, pack := ch.Pack(1, 5); lo != 3 || len(pack) != 1 || ch.Last() != 3 {
		t.Errorf("after a trim: from %d, %d batches, last %d", lo, len(pack), ch.Last())
	}
	ch.Trim(1)
	if ch.Base != 2 {
		t.Errorf("an older trim moved the base to %d", ch.Base)
	}
}

// flood has the first node that is stepped tell b a lot.
type flood struct{ messages, bytes int }

func (f flood) Step(groups []graph.Group) error {
	for i := range f.messages {
		m := graph.Message{Kind: graph.Verdict, To: b.node(), From: a.hash(), Number: uint64(i + 1), Value: graph.Value(strings.Repeat("x", f.bytes))}
		groups[0].Effects.Out = append(groups[0].Effects.Out, m)
	}
	return nil
}

// What one entry has for another lane is split where it is too much for one row
// of the store; each part says which entry it is of.
func TestLargeEntriesAreSplit(t *testing.T) {
	var laneOf [proto.Partitions]proto.LaneID
	for p := range laneOf {
		laneOf[p] = 1
	}
	laneOf[a.hash().Partition()] = 0
	if a.hash().Partition() == b.hash().Partition() {
		t.Fatal("a and b are of one partition")
	}
	from, to := graph.NewLane(0, 2, &laneOf), graph.NewLane(1, 2, &laneOf)
	const messages, bytes = 12, 100 << 10
	var out graph.Outcome
	if err := from.Apply(5, []graph.Message{{Kind: graph.Refresh, To: a.node()}}, flood{messages, bytes}, &out); err != nil {
		t.Fatal(err)
	}
	batches := from.Outbox[1].Batches
	if len(batches) < messages/3 || out.Sent != messages {
		t.Fatalf("%d messages of %d bytes are %d batches", out.Sent, bytes, len(batches))
	}
	next := uint64(1)
	for i, x := range batches {
		if n := len(x.Append(nil)); n > graph.BatchBytesMax+bytes {
			t.Errorf("batch %d has %d bytes", i, n)
		}
		for _, m := range to.Receive(0, uint64(i+1), batches[i:i+1]) {
			if m.Number != next {
				t.Errorf("message %d came after %d", m.Number, next-1)
			}
			next++
		}
		if to.Vector[0] != 5 {
			t.Errorf("after %d of %d parts the vector is %v", i+1, len(batches), to.Vector)
		}
	}
	if next != messages+1 {
		t.Errorf("%d messages came, want %d", next-1, messages)
	}
}

func TestLeaseOutlivesDrift(t *testing.T) {
	w, _, _, _, _ := makeWorld(1, 1, rand.New(rand.NewPCG(1, 7)), &simStats{})
	fast, slow := w.machines[0], w.machines[1]
	fast.rate, slow.rate = 1000+simDrift, 1000-simDrift
	for _, m := range w.machines[2:] {
		m.cut = true
	}
	deliver := func(m *machine) {
		for m.served[0].pos < len(w.logs[0].entries) {
			w.stepApply(m, 0)
		}
	}
	w.append(0, &entry{kind: outsideEntry, messages: []graph.Message{{Kind: graph.Event, To: a.node(), Evidence: at(1), Body: eventBody(0)}}})
	w.beat(slow, 0)
	w.append(0, w.air[0].e)
	deliver(fast)
	deliver(slow)
	w.append(0, &entry{kind: outsideEntry, messages: []graph.Message{{Kind: graph.Cut, To: a.node(), Evidence: at(2), Command: 2}}})
	deliver(fast) // slow does not hear of it, and answers while its lease lasts
	for len(w.pending) > 0 && w.err == nil {
		w.now++
		if p := w.pending[0]; p.bars[0].deadline == nil {
			w.countDown(&p.bars[0], fast, 0)
		}
		w.barriers()
	}
	if w.err != nil {
		t.Error(w.err) // the slow machine answered after the acknowledgement
	}
	if slow.served[0].leaseTo == 0 || slow.served[0].pos == w.heads[0].pos {
		t.Error("the slow machine had no lease, or heard of the cut: this shows nothing")
	}
}
