package sim

import (
	"testing"

	"kith/proto"
)

// What came later has the newer evidence also where it comes through a lane
// that has been without a beat, as while its log elects a leader: a link after
// the removal of another stays, and a removal after a link removes it.
func TestOrderThroughALaneThatLags(t *testing.T) {
	for _, removal := range []bool{false, true} {
		var s stats
		w := newWorld(1, 2, &s)
		w.crowd, w.quiet = false, true
		w.begin()
		w.nodes = w.nodes[:1]
		n := w.nodes[0]
		a, b := 0, 1
		for w.home(b) == w.home(a) {
			b++
		}
		link := func(from, to int) {
			c := w.clients[0]
			var batch proto.Batch
			batch.AddLink(w.hasher, &proto.LinkCommand{Client: c.ID, Space: c.Space, A: w.ids[from], B: w.ids[to], Received: w.now, Confidence: 1000})
			w.submit(w.home(from), &batch)
		}
		unlink := func(from, to int) {
			c := w.clients[0]
			var batch proto.Batch
			batch.AddUnlink(&proto.UnlinkCommand{Client: c.ID, Space: c.Space, A: w.hashOf(from), B: w.hashOf(to), Received: w.now})
			w.submit(w.home(from), &batch)
		}
		if removal {
			unlink(a, b)
		} else {
			link(a, b)
		}
		w.settle()
		w.now += 9000
		w.beat(n, w.home(a), w.now) // the lane of b gets none
		if removal {
			link(a, b)
		} else {
			unlink(a, b)
		}
		w.now += 10
		if removal {
			unlink(b, a)
		} else {
			link(b, a)
		}
		n.apply(w.home(b), 100, 0)
		w.settle()
		if w.err != nil {
			t.Fatal(w.err)
		}
		u, err := n.sim.User(t.Context(), w.clients[0], w.ids[a])
		if err != nil {
			t.Fatal(err)
		}
		if linked := len(u.Edges) == 1; linked == removal {
			t.Errorf("linked: %v, the last that was asked for was a removal: %v", linked, removal)
		}
		w.close()
	}
}
