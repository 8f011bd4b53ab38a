package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"kith/engine"
	"kith/proto"
)

// twinOp is something that happens in both of two worlds, unless it is of the
// identity that one of them never met.
type twinOp struct {
	wait    proto.Millis
	kind    int
	client  int
	a, b    int
	with    []int // an event's other identities
	section string
	plan    string
}

// drawTwinOps draws the lives of n identities.
func drawTwinOps(seed, n int) (ops []twinOp) {
	rng := random(seed, 77)
	for range 25 + rng.IntN(30) {
		o := twinOp{
			wait: proto.Millis(rng.IntN(3000)), kind: rng.IntN(10), client: rng.IntN(3), a: rng.IntN(n), b: rng.IntN(n),
			section: []string{"a", "b", "c"}[rng.IntN(3)], plan: []string{"gold", "lead"}[rng.IntN(2)],
		}
		for rng.IntN(3) == 0 && len(o.with) < 3 {
			o.with = append(o.with, rng.IntN(n))
		}
		ops = append(ops, o)
	}
	return ops
}

// do has the operation happen; without is who was never met, -1 nobody.
func (o *twinOp) do(w *world, without int) {
	c := w.clients[o.client]
	var b proto.Batch
	switch {
	case o.a == without:
		return
	case o.kind < 5:
		w.numbers++
		e := proto.Event{Client: c.ID, Space: c.Space, Time: w.now, Received: w.now, Identities: []proto.Identity{w.ids[o.a]}, EventBody: proto.EventBody{
			Name: "page", Props: []proto.Prop{{Key: "section", Value: proto.TextOf(o.section)}, {Key: "mark", Value: proto.TextOf(fmt.Sprint(o.a))}, {Key: "n", Value: proto.NumberOf(1)}},
		}}
		for _, i := range o.with {
			if i != without && i != o.a {
				e.Identities = append(e.Identities, w.ids[i])
			}
		}
		b.AddEvent(w.hasher, &e)
	case o.kind < 6:
		b.AddTraits(w.hasher, &proto.Traits{Client: c.ID, Space: c.Space, Identity: w.ids[o.a], Received: w.now, Set: []proto.Prop{{Key: "plan", Value: proto.TextOf(o.plan)}}})
	case o.a == o.b || o.b == without:
		return
	case o.kind < 9:
		b.AddLink(w.hasher, &proto.LinkCommand{Client: c.ID, Space: c.Space, A: w.ids[o.a], B: w.ids[o.b], Received: w.now, Confidence: 900})
	default:
		b.AddUnlink(&proto.UnlinkCommand{Client: c.ID, Space: c.Space, A: w.hashOf(o.a), B: w.hashOf(o.b), Received: w.now})
	}
	w.submit(w.home(o.a), &b)
}

// live makes a world and lets the operations happen in it; in one x is cut on
// the way, by kind, in the other it never was.
func live(seed, lanes int, ops []twinOp, x int, kind proto.CutKind, met bool) *world {
	var s stats
	w := newWorld(seed, lanes, &s)
	w.crowd, w.every = false, true
	w.begin()
	cutAt := len(ops) / 2
	without := x
	if met {
		without = -1
	}
	for i := range ops {
		w.pass(ops[i].wait)
		if ops[i].do(w, without); i == cutAt || i%3 == 0 {
			w.settle()
		}
		if i != cutAt {
			continue
		}
		if without = x; met {
			var b proto.Batch
			b.AddCut(&proto.CutCommand{Hash: w.hashOf(x), Kind: kind, Received: w.now, Command: 1})
			w.submit(w.home(x), &b)
		}
		w.settle()
	}
	w.settle()
	return w
}

// seen is all that can be asked about everybody but x.
func (w *world) seen(x int) string {
	var s strings.Builder
	n := w.nodes[0]
	for c, client := range w.clients {
		for i := range w.ids {
			if i == x {
				continue
			}
			seen, list, err := n.sim.Lookup(client, w.ids[i], w.now, nil)
			w.must(err)
			w.seenAs(n, client, i, seen)
			slices.Sort(list)
			u, err := n.sim.User(w.context(), client, w.ids[i])
			w.must(err)
			fmt.Fprintf(&s, "%d %s: %+v %v with %v\n", c, w.ids[i], seen, list, u.Members)
		}
		for _, id := range sortedKeys(w.defined[c]) {
			for _, unit := range []string{"identities", "users"} {
				k, err := n.sim.Count(w.context(), client, id, unit)
				w.must(err)
				fmt.Fprintf(&s, "%d %s: %d %s\n", c, id, *k.Count, unit)
			}
		}
	}
	return s.String()
}

// Who was linked and then cut leaves everybody else as if it had never been:
// look-ups, users and counts, then and when time has passed (G3).
func TestUnmerge(t *testing.T) {
	for seed := range 24 {
		lanes, kind := 1+seed%3, []proto.CutKind{proto.CutOptOut, proto.CutErase}[seed%2]
		var s stats
		ops := drawTwinOps(seed, len(newWorld(seed, lanes, &s).ids))
		x := seed % 4
		met, never := live(seed, lanes, ops, x, kind, true), live(seed, lanes, ops, x, kind, false)
		for _, d := range []proto.Millis{0, 31_000, 200_000, 3_600_000} {
			for _, w := range []*world{met, never} {
				w.now += d
				w.settle()
			}
			if a, b := met.seen(x), never.seen(x); a != b {
				t.Fatalf("seed %d: after %v cut %d left a trace:\n%s", seed, d, x, firstDifference(a, b))
			}
		}
		for _, w := range []*world{met, never} {
			if w.close(); w.err != nil {
				t.Fatal(w.err)
			}
		}
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("met:   %s\nnever: %s", x[i], y[i])
		}
	}
	return a + "\n" + b
}

// Two identities of a user are opted out with all of it, at once and in two
// lanes: each is on the other's list, and both come to an end, after all is done.
func TestOptOutsEverywhereCross(t *testing.T) {
	for seed := range 16 {
		var s stats
		w := newWorld(seed, 2+seed%2, &s)
		w.every, w.quiet, w.crowd = true, true, false
		w.begin()
		a, b := 0, 1
		for w.home(b) == w.home(a) && b < len(w.ids)-1 {
			b++
		}
		for i := 1; i < min(5, len(w.ids)); i++ {
			for _, c := range []int{0, 2} {
				w.linkNow(w.clients[c], i-1, i)
			}
		}
		for _, c := range []int{0, 2} {
			w.linkNow(w.clients[c], a, b)
		}
		w.settle()
		for _, i := range []int{a, b} {
			w.putCut(i, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: true}, false)
		}
		w.creep(func() { w.checkEverywhere(w.nodes[0]) })
		w.settle()
		w.checkAnswers()
		w.verify(w.nodes[0])
		if w.close(); w.err != nil {
			t.Fatal(w.err)
		}
	}
}

func (w *world) linkNow(c proto.ClientInfo, i, j int) {
	var b proto.Batch
	b.AddLink(w.hasher, &proto.LinkCommand{Client: c.ID, Space: c.Space, A: w.ids[i], B: w.ids[j], Received: w.now, Confidence: 900})
	w.submit(w.home(i), &b)
}

// creep has node 0 apply entry by entry and relay batch by batch until nothing
// moves, and looks after each.
func (w *world) creep(look func()) {
	n := w.nodes[0]
	for moved := true; moved && w.err == nil; {
		moved = false
		for l := range proto.LaneID(w.lanes) {
			before := n.sim.Applied(l)
			n.apply(l, 1, engine.NoCrash)
			moved = moved || n.sim.Applied(l) != before
			look()
		}
		if moved {
			continue
		}
		for from := range proto.LaneID(w.lanes) {
			for to := range proto.LaneID(w.lanes) {
				if x := n.sim.Pack(from, to, 0); from != to && x != nil {
					x.Batches = x.Batches[:1]
					w.own(to, proto.CommandGraph, x.Append(nil))
					moved = true
				}
			}
			if n.sim.Carries(from) {
				w.beat(n, from, w.now)
				moved = true
			}
		}
	}
}

// checkEverywhere sees that once an opt-out everywhere is final, whoever was of
// the user, which here is everybody who was ever linked, is dark in all spaces.
func (w *world) checkEverywhere(n *node) {
	for _, i := range sorted(w.cuts) {
		c := w.cuts[i]
		s, err := n.sim.OptOutState(w.context(), w.ids[c.i])
		w.must(err)
		if !s.OptedOut || !w.finalIn(n, c.i) {
			continue
		}
		for j := range min(5, len(w.ids)) {
			for k, client := range w.clients {
				seen, _, err := n.sim.Lookup(client, w.ids[j], w.now, nil)
				w.must(err)
				if !seen.OptedOut {
					w.fail("EVERYWHERE: the opt-out of %d is final, %d is shown to client %d: %+v", c.i, j, k, seen)
				}
			}
		}
	}
}
