package sim

import (
	"flag"
	"fmt"
	"slices"
	"testing"

	"kith/proto"
)

var everywhereFlag = flag.Int("everywhere", 100, "how many seeds TestCutEverywhere runs, from -seed on; with -short a tenth")

// TestCutEverywhere runs histories in which nothing is linked any more while
// identities of two spaces are cut everywhere, under faults: when a cut is
// acknowledged the users that its identity had in both spaces are out, whatever the
// order in which their spaces were gone through, and at rest nobody else is.
func TestCutEverywhere(t *testing.T) {
	if testing.Short() {
		*everywhereFlag = max(1, *everywhereFlag/10)
	}
	for seed := *seedFlag; seed < *seedFlag+*everywhereFlag; seed++ {
		for lanes := 1; lanes <= 3; lanes++ {
			if *lanesFlag > 0 && lanes != *lanesFlag {
				continue
			}
			if err := runEverywhere(seed, lanes); err != nil {
				t.Fatalf("%v\nreplay: go test ./engine/sim -run TestCutEverywhere -seed %d -everywhere 1 -lanes %d -v -tell", err, seed, lanes)
			}
		}
	}
}

func runEverywhere(seed, lanes int) error {
	var s stats
	w := newWorld(seed, lanes, &s)
	defer w.close()
	w.crowd, w.ids = false, w.ids[:min(len(w.ids), 20)] // caps would refuse links
	w.model = newModel(w)
	w.begin()
	w.linkInBoth()
	out := map[int]bool{}
	for range 2 {
		w.cutSome(out)
	}
	w.rest()
	return w.err
}

// linkInBoth links identities at random, in the space of the first two clients
// and in that of the third. Each does something, so that others show what derives from it.
func (w *world) linkInBoth() {
	for i := range w.ids {
		w.numbers++
		c := w.clients[0]
		var b proto.Batch
		b.AddEvent(w.hasher, &proto.Event{
			Client: c.ID, Space: c.Space, Time: w.now, Received: w.now, Identities: []proto.Identity{w.ids[i]},
			EventBody: proto.EventBody{Name: "page", Props: []proto.Prop{{Key: "mark", Value: proto.TextOf(fmt.Sprint(i))}, {Key: "n", Value: proto.NumberOf(float64(w.numbers))}}},
		})
		w.submit(w.home(i), &b)
	}
	for range len(w.ids) * 3 / 2 {
		i := w.rng.IntN(len(w.ids))
		j := (i + 1 + w.rng.IntN(len(w.ids)-1)) % len(w.ids)
		c := w.clients[2*w.rng.IntN(2)]
		var b proto.Batch
		b.AddLink(w.hasher, &proto.LinkCommand{Client: c.ID, Space: c.Space, A: w.ids[i], B: w.ids[j], Received: w.now, Confidence: 1000})
		w.trace("link %d %d in space %d", i, j, c.Space)
		w.submit(w.home(i), &b)
	}
	w.quiet = true
	w.settle()
	w.quiet = false
}

// cutSome cuts one identity everywhere, or two at about the same time, and sees
// who is out then.
func (w *world) cutSome(out map[int]bool) {
	a := w.rng.IntN(len(w.ids))
	asked := []int{a}
	if w.chance(40) {
		asked = append(asked, (a+1+w.rng.IntN(len(w.ids)-1))%len(w.ids))
	}
	may, must := w.whoGoes(asked, out)
	for _, i := range asked {
		w.putCut(i, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: true}, false)
		switch {
		case out[i]:
		case len(asked) == 1:
			w.cuts[w.commands].takes = must[0]
		case asked[0] == i:
			w.cuts[w.commands].takes = w.sureOf(i, asked[1], out)
		default:
			w.cuts[w.commands].takes = w.sureOf(i, asked[0], out)
		}
	}
	for range 30 + w.rng.IntN(60) {
		if w.err != nil {
			return
		}
		w.pass(proto.Millis(w.rng.IntN(400)))
		w.run()
		if w.chance(6) {
			w.fault()
		}
	}
	w.quiet, w.air = true, nil
	for _, n := range w.nodes {
		n.up()
	}
	w.settle()
	w.quiet = false
	w.checkOut(may, must, out)
}

// whoGoes says whom cuts of those who are asked for may take along, and whom they
// must: one of the lists, by whose cut comes first.
func (w *world) whoGoes(asked []int, out map[int]bool) (may map[int]bool, must [][]int) {
	may = map[int]bool{}
	for k := range asked {
		gone := map[int]bool{}
		for i := range out {
			gone[i] = true
		}
		for n := range asked {
			i := asked[(k+n)%len(asked)]
			for _, j := range w.userOf(i, out) {
				may[j] = true
			}
			for _, j := range w.userOf(i, gone) {
				gone[j] = true
			}
		}
		must = append(must, sorted(gone))
	}
	return may, must
}

// userOf gives i and all who are linked with it in one space or the other, through
// nobody who is gone.
func (w *world) userOf(i int, gone map[int]bool) (list []int) {
	if gone[i] {
		return []int{i}
	}
	for _, c := range []int{0, 2} {
		list = append(list, w.reached(c, i, gone, nil)...)
	}
	return list
}

// reached gives i and all who are linked with it in a client's space, through nobody who
// is gone; of those in ends nobody beyond.
func (w *world) reached(c, i int, gone map[int]bool, ends []int) []int {
	user := []int{i}
	for n := 0; n < len(user); n++ {
		for j := range w.ids {
			k := pair{w.clients[c].Space, min(user[n], j), max(user[n], j)}
			if w.model.pairs[k] != nil && !gone[j] && !slices.Contains(user, j) && !slices.Contains(ends, user[n]) {
				user = append(user, j)
			}
		}
	}
	return user
}

// sureOf gives those who are out in all spaces once the cut of i is answered, while that
// of other is under way: who is of both in one space may go with the other there, and
// whom only one of the other's joins to i may not be reached.
func (w *world) sureOf(i, other int, out map[int]bool) (list []int) {
	ends := w.userOf(other, out)
	for _, c := range []int{0, 2} {
		others := w.reached(c, other, out, nil)
		for _, j := range w.reached(c, i, out, ends) {
			if j == i || !slices.Contains(others, j) {
				list = append(list, j)
			}
		}
	}
	return list
}

// checkOut sees that those are out who must be, and nobody who may not.
func (w *world) checkOut(may map[int]bool, must [][]int, out map[int]bool) {
	for i := range w.ids {
		s, err := w.nodes[0].sim.OptOutState(w.context(), w.ids[i])
		w.must(err)
		if s.OptedOut && !out[i] && !may[i] {
			w.fail("EVERYWHERE: %d is out, who is of no user that was cut", i)
		}
		if s.OptedOut {
			out[i] = true
		}
	}
	if !slices.ContainsFunc(must, func(list []int) bool {
		return !slices.ContainsFunc(list, func(i int) bool { return !out[i] })
	}) {
		w.fail("EVERYWHERE: out are %v, must be %v", sorted(out), must)
	}
}
