package sim

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"kith/proto"
)

func (w *world) context() context.Context { return context.Background() }

// acknowledged takes in that whoever asked for a cut was told that it is final.
func (w *world) acknowledged(c *cutAsk) {
	if c.acked {
		return
	}
	c.acked = true
	w.stats.Acks++
	p := &w.model.people[c.i]
	w.trace("the cut of %d is acknowledged", c.i)
	switch {
	case c.kind != proto.CutOptOut:
		w.erased = slices.DeleteFunc(w.erased, func(x *cutAsk) bool {
			return x.i == c.i && x.kind == c.kind && x.client == c.client
		})
		w.erased = append(w.erased, c)
	case p.dark && c.gen >= p.since:
		w.acked[c.i] = p.gen
		for _, i := range c.takes {
			w.acked[i] = max(w.acked[i], 1)
		}
	}
	for _, n := range w.nodes {
		w.look(n)
	}
}

// look sees that a node, for the lanes for which it may answer, shows nothing
// of those whose opt-out was acknowledged, and nothing that was erased.
func (w *world) look(n *node) {
	if len(w.acked)+len(w.erased) == 0 || n.sim == nil {
		return
	}
	all := true
	for l := range proto.LaneID(w.lanes) {
		all = all && n.mayAnswer(l)
	}
	w.lookForErased(n, all)
	gone := sorted(w.acked)
	for _, i := range gone {
		if n.mayAnswer(w.home(i)) {
			w.lookAt(n, i, all)
		}
	}
	if !w.crowd {
		w.lookForMarks(n, gone, all)
	}
	if w.chance(10) {
		w.lookForNetworks(n, gone)
	}
}

// lookForErased sees that a node shows nothing that was erased, or that a client had
// forgotten, where it has taken nothing in since. The model does not know that where
// some cut took others along.
func (w *world) lookForErased(n *node, all bool) {
	if w.every {
		return
	}
	var blank []int
	for _, c := range w.erased {
		p := &w.model.people[c.i]
		if c.kind == proto.CutErase {
			if maps.Equal(p.taken, c.taken) && !slices.Contains(blank, c.i) {
				blank = append(blank, c.i)
			}
			continue
		}
		k := factsKey{c.client, c.space}
		client := w.clients[slices.IndexFunc(w.clients, func(x proto.ClientInfo) bool { return x.ID == c.client })]
		if p.taken[k] == c.taken[k] && n.mayAnswer(w.home(c.i)) {
			w.lookAtForgotten(n, c.i, client)
		}
		if all && (c == w.erased[len(w.erased)-1] || w.chance(5)) {
			w.lookForEdges(n, c, client)
		}
	}
	if !w.crowd {
		w.lookForMarks(n, blank, all)
	}
}

// lookAtForgotten looks for facts that a client had forgotten.
func (w *world) lookAtForgotten(n *node, i int, client proto.ClientInfo) {
	r, err := n.sim.Record(w.context(), client, w.ids[i])
	w.must(err)
	if len(r.Events)+len(r.Traits)+len(r.Networks) > 0 {
		w.fail("FORGOTTEN: node %d shows client %d what it had forgotten of %d: %+v", n.id, client.ID, i, r)
	}
}

// lookForEdges looks for links by what a client said of an identity before it had it
// forgotten.
func (w *world) lookForEdges(n *node, c *cutAsk, client proto.ClientInfo) {
	for j := range w.ids {
		u, err := n.sim.User(w.context(), client, w.ids[j])
		w.must(err)
		for _, e := range u.Edges {
			if (e.A == w.ids[c.i] || e.B == w.ids[c.i]) && e.Client == client.Name && proto.MillisOf(e.Time) <= c.until {
				w.fail("FORGOTTEN: node %d shows in the user of %d that %s and %s are linked by client %d as of %d, which had %d forgotten until %d",
					n.id, j, e.A, e.B, client.ID, e.Time.UnixMilli(), c.i, c.until)
			}
		}
	}
}

// lookForNetworks looks for rows by which opted-out identities are found from a
// network.
func (w *world) lookForNetworks(n *node, gone []int) {
	of := map[proto.IdentityHash]int{}
	for _, i := range gone {
		if n.mayAnswer(w.home(i)) {
			of[w.hashOf(i)] = i
		}
	}
	snap := n.store.Snapshot()
	defer snap.Release()
	err := snap.Scan([]byte{'H'}, []byte{'H'}, func(k, _ []byte) (bool, error) {
		if i, ok := of[proto.IdentityHash(k[17:])]; ok {
			w.fail("NETWORK: node %d finds %d from a network", n.id, i)
		}
		return true, nil
	})
	w.must(err)
}

// seenAs sees that what is asked without segments is what a look-up said.
func (w *world) seenAs(n *node, client proto.ClientInfo, i int, want proto.Seen) {
	got, err := n.sim.Seen(client, w.ids[i])
	w.must(err)
	if got != want {
		w.fail("SEEN: node %d says of %d, %+v with its segments and %+v without", n.id, i, want, got)
	}
}

// lookAt looks an opted-out identity up.
func (w *world) lookAt(n *node, i int, all bool) {
	for c, client := range w.clients {
		seen, list, err := n.sim.Lookup(client, w.ids[i], w.now, nil)
		w.must(err)
		if !seen.OptedOut || seen.Known || len(list) > 0 {
			w.fail("SHOWN: node %d shows %d to client %d: %+v %v", n.id, i, c, seen, list)
		}
		w.seenAs(n, client, i, seen)
	}
	if !w.chance(10) {
		return
	}
	client := w.clients[w.rng.IntN(3)]
	r, err := n.sim.Record(w.context(), client, w.ids[i])
	w.must(err)
	if r.Known || !r.OptedOut || len(r.Events)+len(r.Segments)+len(r.Traits)+len(r.Networks) > 0 {
		w.fail("SHOWN: node %d has a record of %d: %+v", n.id, i, r)
	}
	u, err := n.sim.User(w.context(), client, w.ids[i])
	w.must(err)
	if len(u.Members) != 1 || len(u.Edges) > 0 {
		w.fail("SHOWN: node %d has a user of %d: %+v", n.id, i, u)
	}
	if !all {
		return
	}
	j := w.other(i)
	u, err = n.sim.User(w.context(), client, w.ids[j])
	w.must(err)
	if slices.Contains(u.Members, w.ids[i]) {
		w.fail("SHOWN: node %d has %d in the user of %d: %+v", n.id, i, j, u)
	}
}

// lookForMarks looks for what derives from opted-out identities: client 0 has a
// segment for each, into which only what it did leads.
func (w *world) lookForMarks(n *node, gone []int, all bool) {
	if n.sim.Obeyed(0) == 0 || len(gone) == 0 {
		return
	}
	names := map[proto.SegmentID]int{}
	for _, i := range gone {
		names[proto.SegmentID(marker(i))] = i
	}
	var list []proto.SegmentID
	for j := range w.ids {
		if !n.mayAnswer(w.home(j)) {
			continue
		}
		_, got, err := n.sim.Lookup(w.clients[0], w.ids[j], w.now, list[:0])
		w.must(err)
		for _, s := range got {
			if i, ok := names[s]; ok {
				w.fail("DERIVED: node %d shows of %d what %d did", n.id, j, i)
			}
		}
		list = got
	}
	if !all {
		return
	}
	w.stats.Stale++
	for _, i := range gone {
		c, err := n.sim.Count(w.context(), w.clients[0], marker(i), "")
		w.must(err)
		if *c.Count > 0 {
			w.fail("DERIVED: node %d counts %d for what %d did", n.id, *c.Count, i)
		}
	}
	i, j := gone[w.rng.IntN(len(gone))], w.rng.IntN(len(w.ids))
	x, err := n.sim.Explain(w.context(), w.clients[0], w.ids[j], proto.SegmentID(marker(i)), time.Time{})
	w.must(err)
	for _, f := range x.Facts {
		if x.In || f.Holds || len(f.Events) > 0 {
			w.fail("DERIVED: node %d explains %d by what %d did: %+v", n.id, j, i, x)
		}
	}
}

// verify has a node recompute what it derived. What goes over lanes counts at
// rest only: until then the lanes' rules and times differ.
func (w *world) verify(n *node) {
	r, err := n.sim.Verify(w.context())
	w.must(err)
	w.stats.Verified++
	for _, p := range r.Problems {
		if w.quiet || strings.HasPrefix(p, "lane ") {
			w.findEntry()
			w.fail("VERIFY: node %d: %s", n.id, p)
		}
	}
	for _, l := range r.Lanes {
		if other, ok := w.states[l.Lane][l.Offset]; ok && other != l.StateHash {
			w.fail("STATE: node %d has another state than one before it, at %d of lane %v", n.id, l.Offset, l.Lane)
		}
		w.states[l.Lane][l.Offset] = l.StateHash
	}
	if w.quiet && r.Unsettled {
		w.tellUnsettled(n)
		w.fail("UNSETTLED: node %d", n.id)
	}
}
