package sim

import (
	"encoding/binary"
	"fmt"
	"strings"

	"kith/actors/identity"
	"kith/engine"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
)

// This file is what a run tells, with -tell, when something went wrong.

// tellOptOut tells, with -tell, what is kept of an opt-out.
func (w *world) tellOptOut(n *node, i int) {
	if !*tellFlag {
		return
	}
	h := w.hashOf(i)
	snap := n.store.Snapshot()
	defer snap.Release()
	_, err := snap.Get(append([]byte{'T', byte(h.Partition())}, h[:]...), func(v []byte) error {
		var o identity.OptOut
		err := o.Decode(v)
		fmt.Printf("%d = %v: %+v\n", i, h, o)
		return err
	})
	w.must(err)
	for _, c := range []int{0, 2} {
		key := append(append([]byte{'N', byte(h.Partition())}, h[:]...), 0, 0)
		key = append(binary.BigEndian.AppendUint32(key, uint32(w.clients[c].Space)), 'd')
		_, err := snap.Get(key, func(v []byte) error {
			var x graph.State
			_, err := x.Decode(v)
			fmt.Printf("   in space %d, dark: %+v\n", w.clients[c].Space, x)
			return err
		})
		w.must(err)
		for gen := range uint16(20) {
			key := append([]byte{'N', byte(h.Partition())}, h[:]...)
			key = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(key, gen), uint32(w.clients[c].Space))
			_, err := snap.Get(append(key, 'f'), func(v []byte) error {
				var s identity.State
				_, err := s.Decode(v)
				fmt.Printf("   in space %d: %+v\n", w.clients[c].Space, s.Graph)
				return err
			})
			w.must(err)
		}
	}
}

// finalIn reports whether all cuts of an identity are final in a node's store.
func (w *world) finalIn(n *node, i int) (final bool) {
	h := w.hashOf(i)
	snap := n.store.Snapshot()
	defer snap.Release()
	_, err := snap.Get(append([]byte{'T', byte(h.Partition())}, h[:]...), func(v []byte) error {
		var o identity.OptOut
		err := o.Decode(v)
		final = o.Open() == 0
		return err
	})
	w.must(err)
	return final
}

// tellProblems tells, with -tell, what verification finds.
func (w *world) tellProblems(n *node) {
	if !*tellFlag {
		return
	}
	r, err := n.sim.Verify(w.context())
	w.must(err)
	fmt.Printf("unsettled %v, problems %q\n", r.Unsettled, r.Problems)
	w.findEntry()
	for i := range w.ids {
		fmt.Printf("%d is %s = %v in lane %d\n", i, w.ids[i], w.hashOf(i), w.home(i))
	}
}

// findEntry tells the first entry after which a fresh node, which takes entries
// one by one, does not verify.
func (w *world) findEntry() {
	if !*tellFlag {
		return
	}
	if w.purged || w.lost {
		fmt.Println("the log is not whole")
		return
	}
	s := w.over(store.NewMemory())
	for l := range proto.LaneID(w.lanes) {
		for range w.infoOf(l) {
			w.must(s.Apply(l, 1, engine.NoCrash))
			r, err := s.Verify(w.context())
			w.must(err)
			for _, p := range r.Problems {
				if !strings.HasPrefix(p, "lane ") {
					continue
				}
				fmt.Println(p)
				for at := max(1, s.Applied(l)-4); at <= s.Applied(l); at++ {
					w.tellEntry(l, at)
				}
				return
			}
		}
	}
	fmt.Println("a fresh node verifies after each entry")
}

// tellUnsettled tells, with -tell, what is under way and what the logs hold.
func (w *world) tellUnsettled(n *node) {
	if !*tellFlag {
		return
	}
	for i := range w.ids {
		w.tellOptOut(n, i)
	}
	for l := range proto.LaneID(w.lanes) {
		fmt.Printf("lane %d: applied %d of %d, carries %v\n", l, n.sim.Applied(l), w.infoOf(l), n.sim.Carries(l))
		for at := proto.Offset(1); at <= w.infoOf(l); at++ {
			w.tellEntry(l, at)
		}
	}
}

// diverge tells, with -tell, at which entry nodes that go entry by entry part
// from those that go in one batch.
func (w *world) diverge(l proto.LaneID) {
	if !*tellFlag || w.purged {
		return
	}
	for upTo := proto.Offset(2); upTo <= w.infoOf(l); upTo++ {
		if !w.tellDifference(l, int(upTo)) {
			continue
		}
		for at := upTo - 1; at <= upTo; at++ {
			w.tellEntry(l, at)
		}
		return
	}
	fmt.Println("batches alone do not make the difference")
}

// tellDifference tells which keys of the two stores differ.
func (w *world) tellDifference(l proto.LaneID, upTo int) (differ bool) {
	x, y := store.NewMemory(), store.NewMemory()
	a, b := w.over(x), w.over(y)
	for range upTo {
		w.must(a.Apply(l, 1, engine.NoCrash))
	}
	w.must(b.Apply(l, upTo, engine.NoCrash))
	left, right := keysOf(x), keysOf(y)
	for k, v := range left {
		if right[k] != v && k[:1] != "L" {
			differ = true
			fmt.Printf("%q: one by one %x, together %x\n", k, v, right[k])
		}
	}
	for k, v := range right {
		if _, ok := left[k]; !ok && k[:1] != "L" {
			differ = true
			differ = true
			fmt.Printf("%q: one by one nothing, together %x\n", k, v)
		}
	}
	return differ
}

func keysOf(m *store.Memory) map[string]string {
	all := map[string]string{}
	snap := m.Snapshot()
	defer snap.Release()
	_ = snap.Scan(nil, nil, func(k, v []byte) (bool, error) { all[string(k)] = string(v); return true, nil })
	return all
}

func (w *world) tellEntry(l proto.LaneID, at proto.Offset) {
	r, _ := w.log.Lane(l).Get(w.context(), at)
	e, _ := proto.DecodeEntry(r.Data, l)
	fmt.Printf("entry %d at %d:\n", at, e.Time-startTime)
	for rest := e.Commands; len(rest) > 0; {
		var c proto.Command
		c, rest, _ = proto.NextCommand(rest)
		fmt.Printf("  kind %d partition %d %x\n", c.Kind, c.Partition, c.Body)
		if c.Kind == proto.CommandGraph {
			x, _ := proto.DecodeGraphPack(c.Body)
			for _, raw := range x.Batches {
				b, _ := graph.DecodeBatch(raw, w.lanes)
				for i := range b.Messages {
					fmt.Printf("    %+v\n", b.Messages[i])
				}
			}
		}
	}
}

func (w *world) infoOf(l proto.LaneID) proto.Offset {
	info, err := w.log.Lane(l).Info(w.context())
	w.must(err)
	return info.Last
}

func (w *world) over(m *store.Memory) *engine.Simulated {
	s, err := engine.Simulate(engine.Config{Dir: "sim", Lanes: w.lanes, DiskReserve: 1}, w.log, m, secret, nil)
	w.must(err)
	return s
}
