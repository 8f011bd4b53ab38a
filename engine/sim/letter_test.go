package sim

import (
	"slices"
	"testing"

	"kith/actors/identity"
	"kith/engine"
	"kith/proto"
	"kith/segments"
)

// broken rules make every step of one client's facts panic.
type broken struct {
	identity.Rules
	client proto.ClientID
}

// Program implements identity.Rules.
func (b broken) Program(c proto.ClientID) *segments.Program {
	if c == b.client {
		panic("broken rules")
	}
	return b.Rules.Program(c)
}

// brokenWorld is a world of one node, which sets aside all events of one client.
func brokenWorld(lanes int) (*world, *node) {
	w := newWorld(1, lanes, &stats{})
	w.crowd, w.every, w.quiet = false, true, true
	w.begin()
	n := w.nodes[0]
	w.nodes = w.nodes[:1]
	n.down()
	n.judge = func(r identity.Rules) identity.Rules { return broken{r, w.clients[2].ID} }
	n.up()
	return w, n
}

// submitBroken has that client tell of an event of two identities.
func (w *world) submitBroken(i, k int) {
	c := w.clients[2]
	var b proto.Batch
	b.AddEvent(w.hasher, &proto.Event{
		Client: c.ID, Space: c.Space, Time: w.now, Received: w.now, Identities: []proto.Identity{w.ids[i], w.ids[k]}, EventBody: proto.EventBody{Name: "page"},
	})
	w.submit(w.home(i), &b)
}

// A dead letter goes with any of the identities that it names, also over a
// restart, and is not taken in again.
func TestLettersGo(t *testing.T) {
	w, n := brokenWorld(1)
	for i := range 3 {
		w.submitBroken(i, (i+1)%3)
	}
	w.settle()
	if list, err := n.sim.DeadLetters(t.Context(), 10); err != nil || len(list) != 3 {
		t.Fatalf("letters: %v %v", list, err)
	}
	n.down()
	n.up()
	w.putCut(0, proto.CutCommand{Kind: proto.CutOptOut}, false)
	w.settle()
	list, err := n.sim.DeadLetters(t.Context(), 10)
	if err != nil || len(list) != 1 {
		t.Errorf("letters after the cut: %+v %v", list, err)
	}
	o, err := n.sim.OptOutState(t.Context(), w.ids[0])
	if err != nil || o.Receipt == nil || !engine.ValidReceipt(o.Receipt) {
		t.Fatalf("%+v %v", o, err)
	}
	if x, err := n.sim.CheckReceipt(t.Context(), 0, *o.Receipt); err != nil || !x.Clean {
		t.Errorf("%+v %v", x, err)
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
}

// What names an identity of another lane does not stay when that is cut there: its
// lane does not know of the letter.
func TestLettersGoOverLanes(t *testing.T) {
	w, n := brokenWorld(2)
	other := slices.IndexFunc(w.ids, func(id proto.Identity) bool { return w.home(w.by[w.hasher.Hash(id)]) != w.home(0) })
	w.submitBroken(0, other)
	w.settle()
	w.putCut(other, proto.CutCommand{Kind: proto.CutOptOut}, false)
	w.settle()
	o, err := n.sim.OptOutState(t.Context(), w.ids[other])
	if err != nil || o.Receipt == nil {
		t.Fatalf("%+v %v", o, err)
	}
	if x, err := n.sim.CheckReceipt(t.Context(), 0, *o.Receipt); err != nil || !x.Clean {
		t.Errorf("%+v %v", x, err)
	}
	if list, err := n.sim.DeadLetters(t.Context(), 10); err != nil || len(list) != 1 {
		t.Errorf("the letter of who is not cut: %+v %v", list, err)
	}
	w.putCut(0, proto.CutCommand{Kind: proto.CutOptOut}, false)
	w.settle()
	if list, err := n.sim.DeadLetters(t.Context(), 10); err != nil || len(list) != 0 {
		t.Errorf("letters after the cut: %+v %v", list, err)
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
}

// Letters of several lanes are one list, oldest first, of which the oldest are told.
func TestLettersOfLanesAreOneList(t *testing.T) {
	w, n := brokenWorld(2)
	other := slices.IndexFunc(w.ids, func(id proto.Identity) bool { return w.home(w.by[w.hasher.Hash(id)]) != w.home(0) })
	var want []proto.LaneID
	for i := range 6 {
		who := []int{0, other}[i%2]
		w.submitBroken(who, who)
		want = append(want, w.home(who))
		w.settle()
		w.now += 1000
	}
	for _, limit := range []int{10, 6, 5, 1} {
		list, err := n.sim.DeadLetters(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		var lanes []proto.LaneID
		for _, d := range list {
			lanes = append(lanes, d.Lane)
		}
		if !slices.Equal(lanes, want[:min(limit, 6)]) {
			t.Errorf("of at most %d letters the lanes are %v, want those of %v", limit, lanes, want)
		}
	}
}
