package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kith/actors/identity"
	"kith/engine"
	"kith/graph"
	"kith/proto"
)

// roundsMax is when the lanes must have come to rest without faults.
const roundsMax = 1500

// rest lets everything come to an end, and then checks that all is as the model
// says and as it was asked for.
func (w *world) rest() {
	if w.err != nil {
		return
	}
	w.quiet = true
	w.steps = -1
	w.putLate()
	w.air = nil
	for _, n := range w.nodes {
		n.up()
	}
	w.settle()
	for _, d := range []proto.Millis{0, 20_000, 65_000, 700_000, 4 * 24 * 3_600_000} {
		if w.err != nil {
			return
		}
		w.now += d
		w.settle()
		w.checkCounts(w.nodes[0])
		w.checkModel()
	}
	for c := range w.clients {
		w.checkUsers(w.nodes[0], c)
	}
	w.checkAnswers()
	w.checkFilled(w.nodes[0])
	w.checkVersions(w.nodes[0])
	for _, n := range w.nodes {
		w.checkEnded(n)
		w.checkExpired(n)
	}
	w.checkBlocks(w.nodes[0])
	for _, n := range w.nodes {
		w.verify(n)
		w.look(n)
	}
	if w.err == nil {
		w.checkModel()
		w.checkReplay()
		w.hash += w.finalHash()
	}
}

// settle goes on without faults until nothing is under way on any node.
func (w *world) settle() {
	for round := 0; w.err == nil; round++ {
		if round > roundsMax {
			w.fail("LIVELOCK: the lanes do not come to rest")
			return
		}
		for l := range proto.LaneID(w.lanes) {
			w.beat(w.nodes[0], l, w.now)
		}
		moved := w.swap(w.nodes[round%len(w.nodes)])
		for _, n := range w.nodes {
			for l := range proto.LaneID(w.lanes) {
				n.apply(l, 1<<20, engine.NoCrash)
				if w.err != nil {
					return
				}
			}
		}
		n := w.nodes[round%len(w.nodes)]
		for l := range proto.LaneID(w.lanes) {
			moved = w.work(n, l) || moved
		}
		w.err = errors.Join(w.err, n.sim.Trim())
		if !moved && round%len(w.nodes) == len(w.nodes)-1 {
			break
		}
	}
	n := w.nodes[0]
	w.err = errors.Join(w.err, n.sim.Trim())
	if !n.sim.Tell() {
		w.fail("UNTOLD: the ledger waits for messages between lanes at rest")
	}
	n.collect()
	w.confirm()
}

// work has a node do what is to be done for a lane, and reports whether there
// was anything.
func (w *world) work(n *node, l proto.LaneID) (moved bool) {
	before := w.seq
	w.relayControl(n, l)
	w.fill(n, l)
	w.forget(n, l)
	w.expire(n, l)
	for to := range proto.LaneID(w.lanes) {
		if x := n.sim.Pack(l, to, 0); to != l && x != nil {
			w.own(to, proto.CommandGraph, x.Append(nil))
		}
	}
	next := n.sim.NextExit(l)
	return w.seq != before || n.sim.Carries(l) || next != 0 && next <= w.now
}

// checkCounts compares look-ups, which know of time, with counts, which have
// been told.
func (w *world) checkCounts(n *node) {
	for c, client := range w.clients {
		for _, id := range sortedKeys(w.defined[c]) {
			want := uint64(0)
			for i := range w.ids {
				_, list, err := n.sim.Lookup(client, w.ids[i], w.now, nil)
				w.must(err)
				if slices.Contains(list, proto.SegmentID(id)) {
					want++
				}
			}
			got, err := n.sim.Count(w.context(), client, id, "")
			if w.must(err); err != nil {
				return
			}
			if *got.Count != want {
				w.tellProblems(n)
				w.fail("COUNT: client %d counts %d in %q, look-ups say %d, %d after the start", c, *got.Count, id, want, w.now-startTime)
			}
		}
	}
}

// checkVersions sees that every segment answers by the rule that it was last
// given.
func (w *world) checkVersions(n *node) {
	for c, client := range w.clients {
		for _, id := range sortedKeys(w.defined[c]) {
			s, ok := n.sim.Segment(client, proto.SegmentID(id))
			if got := s.Scope + " " + s.When; !ok || s.Next != nil || got != w.defined[c][id] {
				w.fail("VERSION: client %d has %q by %s, next %+v, want %s", c, id, got, s.Next, w.defined[c][id])
			}
		}
	}
}

// checkUsers compares the count of a client's users with what each look-up of a
// user says.
func (w *world) checkUsers(n *node, c int) {
	any := sortedKeys(w.defined[c])
	if len(any) == 0 {
		return
	}
	roots := map[string]bool{}
	known := uint64(0)
	for i := range w.ids {
		seen, _, err := n.sim.Lookup(w.clients[c], w.ids[i], w.now, nil)
		w.must(err)
		if !seen.Known {
			continue
		}
		known++
		u, err := n.sim.User(w.context(), w.clients[c], w.ids[i])
		w.must(err)
		roots[string(u.Root)] = true
	}
	expr := any[0] + " | !" + any[0]
	users, err := n.sim.Count(w.context(), w.clients[c], expr, "users")
	w.must(err)
	all, err := n.sim.Count(w.context(), w.clients[c], expr, "")
	w.must(err)
	if *all.Count != known || *users.Count != uint64(len(roots)) {
		w.fail("COUNT: client %d counts %d identities of %d users, look-ups say %d of %d", c, *all.Count, *users.Count, known, len(roots))
	}
}

func sortedKeys(m map[string]string) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// checkAnswers sees that everybody who asked was answered.
func (w *world) checkAnswers() {
	for _, n := range w.nodes {
		for i := range w.ids {
			s, err := n.sim.OptOutState(w.context(), w.ids[i])
			w.must(err)
			if n.id == 0 && s.Since != nil && !s.Final {
				w.tellOptOut(n, i)
				w.fail("NEVER FINAL: the cut of %d", i)
			}
			if p := &w.model.people[i]; !w.every && s.OptedOut != p.dark {
				w.fail("OPT-OUT: %d is opted out: %v, want %v", i, s.OptedOut, p.dark)
			}
			if n.id == 0 && s.Receipt != nil && s.OptedOut {
				w.checkReceipt(n, i, s.Receipt)
			}
		}
	}
}

func (w *world) checkReceipt(n *node, i int, r *proto.Receipt) {
	if !engine.ValidReceipt(r) {
		w.fail("RECEIPT: that of %d is not signed", i)
	}
	if !w.chance(20) {
		return
	}
	x, err := n.sim.CheckReceipt(w.context(), 0, *r)
	w.must(err)
	if !x.Clean {
		w.fail("RECEIPT: something of %d is left: %+v", i, x.Places)
	}
}

// checkModel compares facts and links with the model.
func (w *world) checkModel() {
	if w.every || w.lost {
		return
	}
	n := w.nodes[len(w.nodes)-1]
	for i := range w.ids {
		for c := range w.clients {
			w.checkFacts(n, i, c)
		}
	}
	for _, s := range []int{0, 2} {
		w.checkLinks(n, w.clients[s])
	}
}

func (w *world) checkFacts(n *node, i, c int) {
	client := w.clients[c]
	r, err := n.sim.Record(w.context(), client, w.ids[i])
	w.must(err)
	f := w.model.people[i].facts[factsKey{client.ID, client.Space}]
	if f == nil {
		f = &facts{}
	}
	var got []int
	for _, e := range r.Events {
		got = append(got, int(e.Props["n"].(float64)))
	}
	k := 0
	for _, e := range f.events {
		if k < len(got) && got[k] == e.number {
			k++
		} else if !e.maybe {
			w.fail("FACTS: client %d has events %v of %d, want %+v", c, got, i, f.events)
			return
		}
	}
	if k < len(got) {
		w.fail("FACTS: client %d has events %v of %d, want %+v", c, got, i, f.events)
	}
	if plan, _ := r.Traits["plan"].(string); !f.hazy && plan != f.traits["plan"] {
		w.fail("FACTS: client %d has traits %v of %d, want %v", c, r.Traits, i, f.traits)
	}
}

// checkLinks compares edges.
func (w *world) checkLinks(n *node, client proto.ClientInfo) {
	edges := map[pair]bool{}
	of := map[int]string{}
	degree := map[int]int{}
	for i := range w.ids {
		u, err := n.sim.User(w.context(), client, w.ids[i])
		w.must(err)
		of[i] = string(u.Root)
		if len(u.Members) > 64 {
			w.fail("CAP: the user of %d has %d identities", i, len(u.Members))
		}
		for _, e := range u.Edges {
			a, b := w.by[w.hasher.Hash(e.A)], w.by[w.hasher.Hash(e.B)]
			edges[pair{client.Space, min(a, b), max(a, b)}] = true
			w.checkVouched(client.Space, a, b, &e)
		}
	}
	for k := range edges {
		degree[k.a]++
		degree[k.b]++
		if may, _ := w.model.edge(k); !may {
			w.fail("LINKS: %d and %d are linked, %+v, %+v, %+v", k.a, k.b, *w.model.pair(k.space, k.a, k.b), w.model.people[k.a], w.model.people[k.b])
		}
	}
	for i, d := range degree {
		if d > 32 {
			w.fail("CAP: %d has %d edges", i, d)
		}
	}
	for k := range w.model.pairs {
		if _, must := w.model.edge(k); must && !w.crowd && k.space == client.Space && (!edges[k] || of[k.a] != of[k.b]) {
			if w.nameless(n, client.Space, k.a) || w.nameless(n, client.Space, k.b) {
				w.stats.Nameless++
				continue
			}
			w.fail("LINKS: %d and %d are not linked: %+v", k.a, k.b, *w.model.pairs[k])
		}
	}
}

// checkVouched sees that no link is there by what its client had forgotten since, of
// either end.
func (w *world) checkVouched(s proto.SpaceID, a, b int, e *proto.UserEdge) {
	for _, c := range w.clients {
		k := factsKey{c.ID, s}
		if until := max(w.model.people[a].gone[k], w.model.people[b].gone[k]); c.Name == e.Client && proto.Millis(e.Time.UnixMilli()) <= until {
			w.fail("FORGOTTEN: %d and %d are linked by client %d as of %d, which had one of them forgotten until %d", a, b, c.ID, e.Time.UnixMilli(), until)
		}
	}
}

// nameless reports whether nobody knows an identity by name. One that was cut
// and whose neighbour held on to a newer link is linked by its hash until its
// name comes again; until then nothing shows it.
func (w *world) nameless(n *node, s proto.SpaceID, i int) bool {
	for _, c := range w.clients {
		seen, _, err := n.sim.Lookup(c, w.ids[i], w.now, nil)
		if w.must(err); c.Space == s && seen.Known {
			return false
		}
	}
	return true
}

// checkReplay has a node of no past apply the whole log: it must come to the
// same state, and tell all answers.
func (w *world) checkReplay() {
	if !w.chance(40) || w.purged || w.lost {
		return
	}
	n := newNode(w, len(w.nodes))
	w.nodes = append(w.nodes, n)
	for l := range proto.LaneID(w.lanes) {
		for w.err == nil {
			before := n.sim.Applied(l)
			n.apply(l, 1+w.rng.IntN(30), engine.NoCrash)
			if n.sim.Applied(l) == before {
				break
			}
		}
	}
	if w.err != nil {
		return
	}
	w.verify(n)
	for _, c := range sorted(w.links) {
		if w.links[c].answer == nil {
			w.fail("UNANSWERED: link %d of %d and %d", c, w.links[c].a, w.links[c].b)
		}
	}
}

// finalHash is over the states of all lanes.
func (w *world) finalHash() string {
	r, err := w.nodes[0].sim.Verify(w.context())
	w.must(err)
	var s strings.Builder
	for _, l := range r.Lanes {
		fmt.Fprintf(&s, "%d %s %s;", l.Offset, l.Chain, l.StateHash)
	}
	return s.String()
}

// checkFilled sees that history was gone through for every segment that asked for it.
func (w *world) checkFilled(n *node) {
	for c, client := range w.clients {
		for _, s := range n.sim.Segments(client) {
			if s.Backfill && !*s.Filled {
				w.fail("UNFILLED: segment %q of client %d", s.ID, c)
			}
		}
	}
}

// checkEnded sees that nothing is left of a client that was erased.
func (w *world) checkEnded(n *node) {
	if w.ended == 0 || w.err != nil {
		return
	}
	c := w.clients[w.ended]
	if x, ok := n.sim.ClientErasure(c.Name); !ok || !x.Erased {
		w.fail("ENDED: client %d is not erased on node %d: %+v", c.ID, n.id, x)
	}
	snap := n.store.Snapshot()
	defer snap.Release()
	err := snap.Scan([]byte{'N'}, []byte{'N'}, func(k, v []byte) (bool, error) {
		if k[24] != 'f' {
			return true, nil
		}
		var s identity.State
		if _, err := s.Decode(v); err != nil {
			return false, err
		}
		switch {
		case s.Client(c.ID) != nil:
			w.fail("ENDED: client %d has facts of %x", c.ID, k[:24])
		case s.Graph != nil && slices.ContainsFunc(s.Graph.Links, func(l graph.Neighbour) bool { return l.Stage != graph.Absent && l.Client == c.ID }):
			w.fail("ENDED: client %d vouches for a link of %x", c.ID, k[:24])
		case w.ended == 2 && s.Named && binary.BigEndian.Uint32(k[20:]) == uint32(c.Space):
			w.fail("ENDED: %x has a number in the space of client %d, which was alone there: %+v %+v", k[:24], c.ID, s, s.Graph)
		}
		return true, nil
	})
	w.must(err)
}

// checkExpired sees that nothing is left that is older than it may be: all is,
// at rest.
func (w *world) checkExpired(n *node) {
	if w.keep.Sessions == 0 || w.err != nil {
		return
	}
	snap := n.store.Snapshot()
	defer snap.Release()
	err := snap.Scan([]byte{'N'}, []byte{'N'}, func(k, v []byte) (bool, error) {
		if k[24] != 'f' {
			return true, nil
		}
		var s identity.State
		if _, err := s.Decode(v); err != nil {
			return false, err
		}
		for _, f := range s.Facts {
			if f.History.TailEvents > 0 || f.History.First < f.History.Next || w.keep.Idle > 0 {
				w.fail("EXPIRED: client %d still has events of %x: %+v", f.Client, k[:24], f)
			}
		}
		return true, nil
	})
	w.must(err)
}

// checkBlocks sees that no sealed history is left of what was forgotten.
func (w *world) checkBlocks(n *node) {
	live := map[string]bool{}
	var blocks []string
	snap := n.store.Snapshot()
	defer snap.Release()
	err := snap.Scan([]byte{'N'}, []byte{'N'}, func(k, v []byte) (bool, error) {
		switch prefix := string(k[:24]); k[24] {
		case 'f':
			var s identity.State
			if _, err := s.Decode(v); err != nil {
				return false, err
			}
			for _, f := range s.Facts {
				for i := f.History.First; i < f.History.Next; i++ {
					live[prefix+string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(f.Client)), i))] = true
				}
			}
		case 'h':
			blocks = append(blocks, prefix+string(k[25:]))
		}
		return true, nil
	})
	w.must(err)
	w.stats.Blocks += len(blocks)
	for _, b := range blocks {
		if !live[b] {
			w.fail("BLOCKS: a piece of history of nobody is left: %x", b)
		}
		delete(live, b)
	}
	if len(live) > 0 {
		w.fail("BLOCKS: %d pieces of history are missing", len(live))
	}
}
