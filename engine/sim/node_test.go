package sim

import (
	"fmt"

	"kith/actors/identity"
	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

// node is one of those that apply the log, with its own store.
type node struct {
	id        int
	w         *world
	sim       *engine.Simulated // nil: down
	store     *store.Memory
	activeMax int
	inc       uint64
	lag       bool
	judge     func(identity.Rules) identity.Rules
	links     map[uint64]func() (engine.Answer, bool)
	cuts      map[uint64]func() (engine.Answer, bool)

	// the lease rule's: see lease_test.go
	rate, offset int
	beats        int
	sent         map[int]proto.Millis
	lease        []proto.Millis
	heard        []map[int]proto.Millis
}

// image is what a snapshot holds.
type image struct {
	store   *store.Memory
	applied []proto.Offset
	whole   bool // it can be restored without the log
}

func newNode(w *world, id int) *node {
	n := &node{
		id: id, w: w, store: store.NewForgetful(), activeMax: proto.Partitions, sent: map[int]proto.Millis{},
		rate: 1000 + drift*(w.rng.IntN(3)-1), offset: w.rng.IntN(100_000), lag: id > 0 && w.chance(50),
	}
	if w.chance(50) {
		n.activeMax = 100_000
	}
	n.up()
	return n
}

func (n *node) name() string { return fmt.Sprintf("node-%d", n.id) }

// up starts the node over what its store has.
func (n *node) up() {
	if n.sim != nil {
		return
	}
	s, err := engine.Simulate(n.w.config(n), n.w.log, n.store, secret, n.judge)
	if err != nil {
		n.w.fail("OPEN: node %d: %v", n.id, err)
		panic("it does not open")
	}
	if n.w.supersteps > 0 {
		s.BoundSupersteps(n.w.supersteps)
	}
	n.sim = s
	n.inc++
	n.links, n.cuts = map[uint64]func() (engine.Answer, bool){}, map[uint64]func() (engine.Answer, bool){}
	for _, c := range sorted(n.w.links) {
		n.links[c] = s.Expect(c)
	}
	for _, c := range sorted(n.w.cuts) {
		n.cuts[c] = s.Expect(c)
	}
	n.begin()
}

// down stops the node as a crash does, which takes along some of what was not
// durable.
func (n *node) down() {
	if n.sim == nil {
		return
	}
	n.sim.End()
	n.sim = nil
	if lost := n.store.PowerCut(n.w.rng.IntN(1 << n.w.rng.IntN(7))); lost > 0 {
		n.w.trace("node %d lost %d batches", n.id, lost)
		n.w.stats.Lost += lost
	}
}

// apply lets a lane of the node go on by some entries, and looks at what came of it.
func (n *node) apply(l proto.LaneID, entries int, crash engine.CrashPoint) {
	before := n.sim.Applied(l)
	if err := n.sim.Apply(l, entries, crash); err != nil {
		n.w.fail("APPLY: node %d lane %d: %v", n.id, l, err)
		return
	}
	if crash != engine.NoCrash {
		n.down()
		return
	}
	if n.sim.Applied(l) == before {
		return
	}
	n.w.trace("node %d applied %d of lane %d: %x", n.id, n.sim.Applied(l), l, n.sim.Chain(l))
	if n.sim.Carries(l) {
		n.w.stats.Carried++
	}
	n.hear(l, before, n.sim.Applied(l))
	n.compare(l)
	if n.id == 0 && n.w.chance(50) { // often: a receipt that is too early is so for moments
		n.sim.Tell()
	}
	n.collect()
	n.w.confirm()
	n.w.look(n)
}

// compare holds the node's history of a lane against that of the others.
func (n *node) compare(l proto.LaneID) {
	at, chain := n.sim.Applied(l), n.sim.Chain(l)
	if other, ok := n.w.chains[l][at]; ok && other != chain {
		n.w.diverge(l)
		n.w.fail("CHAIN: node %d went another way than one before it, up to %d of lane %d", n.id, at, l)
	} else if ok {
		n.w.stats.Compared++
	}
	n.w.chains[l][at] = chain
}

// collect takes answers in.
func (n *node) collect() {
	for _, c := range sorted(n.links) {
		if a, ok := n.links[c](); ok {
			n.w.linked(c, a)
			delete(n.links, c)
		}
	}
	for _, c := range sorted(n.cuts) {
		if a, ok := n.cuts[c](); ok {
			n.w.cutAnswered(n, c, a)
			delete(n.cuts, c)
		}
	}
}

// copyOf is a store with the same keys.
func copyOf(m *store.Memory) *store.Memory {
	c := store.NewForgetful()
	snap, b := m.Snapshot(), c.NewBatch()
	defer snap.Release()
	err := snap.Scan(nil, nil, func(k, v []byte) (bool, error) { return true, b.Set(k, v) })
	if err == nil {
		err = b.Commit()
	}
	if err != nil {
		panic(err)
	}
	return c
}

// image is a snapshot of the node.
func (n *node) image() *image {
	n.w.must(n.store.Sync()) // as a backup does
	x := &image{store: copyOf(n.store), whole: n.sim.Whole()}
	for l := range proto.LaneID(n.w.lanes) {
		x.applied = append(x.applied, n.sim.Applied(l))
	}
	return x
}

// restore makes the node be what it, or another, was.
func (n *node) restore(x *image) {
	n.down()
	n.store = copyOf(x.store)
	n.up()
}
