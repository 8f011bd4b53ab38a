package graph_test

import (
	"math/rand/v2"
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
