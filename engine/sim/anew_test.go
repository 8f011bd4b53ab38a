package sim

import (
	"context"
	"slices"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/proto"
)

// restoreAnew loses everything but an old snapshot and the ledger: a node
// restored from them, over a new log, must not know who opted out or was erased
// since, whatever else it lost.
func (w *world) restoreAnew(again bool) {
	w.images = slices.DeleteFunc(w.images, func(x *image) bool { return !x.whole })
	if len(w.images) == 0 {
		return
	}
	w.stats.Anew++
	w.quiet = true
	x := w.images[w.rng.IntN(len(w.images))]
	w.trace("all is lost but a snapshot at %v", x.applied)
	ledger := recordsOf(w, w.log.Ledger())
	controls := recordsOf(w, w.log.Control())
	w.log = log.NewMemory(w.lanes, func() time.Time { return w.now.Time() })
	for seq, raw := range controls {
		_, err := w.log.Control().Append(w.context(), raw, uint64(seq))
		w.must(err)
	}
	w.reset(x)
	late, err := engine.BeginRestored(w.config(w.nodes[0]), w.log, w.nodes[0].store, ledger)
	w.must(err)
	for l := range late {
		for i := range late[l] {
			w.write(proto.LaneID(l), late[l][i].Bytes(), late[l][i].Len())
		}
	}
	w.nodes[0].up()
	for l := range proto.LaneID(w.lanes) {
		w.beat(w.nodes[0], l, w.now)
	}
	acked, erased := w.acked, w.erased
	w.acked, w.erased = map[int]uint32{}, nil // nothing is served before all is settled
	w.settle()
	w.acked, w.erased = acked, erased
	if w.err == nil {
		w.checkAnew(w.nodes[0])
	}
	if w.err != nil {
		return
	}
	w.images = []*image{w.nodes[0].image()}
	w.goOn()
	if w.err == nil && again {
		w.images = append(w.images, x) // the backup from before both
		w.restoreAnew(false)
	}
}

// reset leaves of the world a node that is down, with an old store.
func (w *world) reset(x *image) {
	n := w.nodes[0]
	n.down()
	n.store = copyOf(x.store)
	w.nodes = w.nodes[:1]
	w.images, w.air, w.barred, w.repeats = nil, nil, nil, nil
	clear(w.links)
	clear(w.cuts)
	w.erased = slices.DeleteFunc(w.erased, func(c *cutAsk) bool { return c.kind == proto.CutForget }) // not in the ledger
	for l := range w.lanes {
		w.base[l] = x.applied[l]
		w.beats[l], w.chains[l], w.states[l] = map[proto.Offset]beat{}, map[proto.Offset]uint64{}, map[proto.Offset]string{}
	}
}

// recordsOf reads a stream that is never purged.
func recordsOf(w *world, s log.ControlStream) (list [][]byte) {
	last, err := s.Last(w.context())
	w.must(err)
	ctx, stop := context.WithCancel(w.context())
	defer stop()
	for uint64(len(list)) < last {
		_ = s.Read(ctx, uint64(len(list))+1, func(r log.Record) error {
			if list = append(list, r.Data); uint64(len(list)) == last {
				stop()
			}
			return ctx.Err()
		})
	}
	return list
}

// checkAnew sees that who was gone is gone, and that what is there fits.
func (w *world) checkAnew(n *node) {
	w.verify(n)
	w.checkCounts(n)
	for i := range w.ids {
		p := &w.model.people[i]
		s, err := n.sim.OptOutState(w.context(), w.ids[i])
		w.must(err)
		if !w.every && s.OptedOut != p.dark {
			w.fail("ANEW: %d is opted out: %v, want %v", i, s.OptedOut, p.dark)
		}
		if s.Since != nil && !s.Final {
			w.fail("ANEW: the cut of %d is never final", i)
		}
		for c, client := range w.clients {
			w.checkOldFacts(n, i, c, client)
		}
	}
	for _, i := range sorted(w.acked) {
		w.lookAt(n, i, true)
	}
	w.lookForMarks(n, sorted(w.acked), true)
}

// checkOldFacts sees that a node holds no events that were cut away: what is
// left of the snapshot is of the present life of the identity.
func (w *world) checkOldFacts(n *node, i, c int, client proto.ClientInfo) {
	if w.every || w.model.people[i].hazy[client.Space] > 0 {
		return // what one client had erased is not in the ledger
	}
	r, err := n.sim.Record(w.context(), client, w.ids[i])
	w.must(err)
	f := w.model.people[i].facts[factsKey{client.ID, client.Space}]
	for _, e := range r.Events {
		found := false
		for k := 0; f != nil && k < len(f.events); k++ {
			found = found || f.events[k].number == int(e.Props["n"].(float64))
		}
		if !found {
			w.fail("ANEW: client %d has event %v of %d, which was cut away", c, e.Props["n"], i)
		}
	}
}

// goOn lets some more happen: the restored node must work. The model does not
// know which facts were lost.
func (w *world) goOn() {
	w.lost, w.quiet, w.steps = true, false, 0
	for range 15 {
		w.step()
		if w.err != nil {
			return
		}
	}
	w.rest()
}
