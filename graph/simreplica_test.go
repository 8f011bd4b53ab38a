package graph_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"kith/graph"
	"kith/proto"
)

// id numbers the identities of a simulation; their hashes have the same order.
type id int

const simSpace = 7

func (i id) hash() (h graph.Hash) {
	h[0], h[15] = byte(i+1), byte(i)
	return h
}

func (i id) node() proto.Node { return proto.Node{Hash: i.hash(), Space: simSpace} }

func idOf(h graph.Hash) id { return id(h[0]) - 1 }

// simNode is an identity that is in memory.
type simNode struct {
	state graph.State
	facts facts
}

// rowKey names a stored row: of a node 'n', its facts 'f', its fences 'x', the link 'l' or the
// copy 'c' of a peer.
type rowKey struct {
	kind byte
	node graph.Hash
	peer graph.Hash
}

// replica is one copy of a lane: its state, and the rows from which a crash
// brings it back.
type replica struct {
	w      *world
	lane   *graph.Lane
	rows   map[rowKey]string
	active map[id]*simNode
	beats  map[int]int // node -> position of its newest beat
	pos    int
	head   bool // never stops; its effects are checked
	rng    *rand.Rand
	out    graph.Outcome
	env    graph.Env
}

func newReplica(w *world, lane int, head bool, rng *rand.Rand) *replica {
	r := &replica{
		w: w, rows: map[rowKey]string{}, active: map[id]*simNode{}, beats: map[int]int{}, head: head, rng: rng,
		lane: graph.NewLane(proto.LaneID(lane), w.lanes, &w.laneOf), env: graph.Env{Config: w.config},
	}
	r.lane.BoundSupersteps(w.supersteps)
	r.lane.BoundBatches(w.batchBytes)
	return r
}

// load brings an identity into memory, from its rows.
func (r *replica) load(i id) *simNode {
	n := r.active[i]
	if n != nil {
		return n
	}
	n = &simNode{}
	r.active[i] = n
	h := i.hash()
	if row, ok := r.rows[rowKey{kind: 'n', node: h}]; ok {
		r.must(n.state.DecodeNode([]byte(row)))
	}
	for j := range id(r.w.n) {
		if row, ok := r.rows[rowKey{'l', h, j.hash()}]; ok {
			r.must(n.state.AddLink(j.hash(), []byte(row)))
		}
		if row, ok := r.rows[rowKey{'c', h, j.hash()}]; ok {
			r.must(n.state.AddCopy(j.hash(), []byte(row)))
		}
	}
	if _, ok := r.rows[rowKey{kind: 'n', node: h}]; ok {
		r.whole(&n.state, h)
	}
	row := []byte(r.rows[rowKey{kind: 'f', node: h}])
	for ; len(row) > 0; row = row[4:] {
		n.facts.events = append(n.facts.events, uint32(row[0])<<24|uint32(row[1])<<16|uint32(row[2])<<8|uint32(row[3]))
	}
	n.facts.readFences([]byte(r.rows[rowKey{kind: 'x', node: h}]))
	return n
}

// whole has a state go through its other form on disk, in which all of it but
// the copies is one value.
func (r *replica) whole(x *graph.State, of graph.Hash) {
	var back graph.State
	members, err := back.Decode(x.Append(nil))
	r.must(err)
	for _, m := range members {
		r.must(back.AddCopy(m, []byte(r.rows[rowKey{'c', of, m}])))
	}
	if len(members) != len(x.Members) {
		r.w.fail("ROWS: %d members of a state read as %d", len(x.Members), len(members))
	}
	*x = back
}

func (r *replica) must(err error) {
	if err != nil {
		r.w.fail("ROWS: %v", err)
	}
}

// Step runs the groups in any order: it must not matter.
func (r *replica) Step(groups []graph.Group) error {
	order := r.rng.Perm(len(groups))
	for _, k := range order {
		g := &groups[k]
		i := idOf(g.To.Hash)
		n := r.load(i)
		for k := range g.In {
			if m := &g.In[k]; m.Kind == graph.Withdraw && m.Again {
				n.facts.forget(m)
			}
		}
		r.env.Facts, r.env.Fences = &n.facts, n.facts.fences
		before, links := n.state.Shown, slices.Clone(n.state.Links)
		if r.head {
			r.w.withdrawals(i, r, n, g)
		}
		graph.Step(&r.env, g.To, &n.state, g.In, &g.Effects)
		r.store(i, n, &g.Effects)
		if r.head {
			if now := n.state.Shown; !g.Effects.Shown && (before.Value != now.Value || (before.Root == graph.Hash{}) != (now.Root == graph.Hash{})) {
				r.w.fail("UNPUBLISHED: what %d shows changed from %+v to %+v and nobody was told", i, before, now)
			}
			r.w.observe(i, n, g, links)
		}
	}
	return nil
}

// after is what a node's links are after these messages, which it does not take in.
func (r *replica) after(n *simNode, of proto.Node, in []graph.Message) []graph.Neighbour {
	from := n.state
	from.Gen = max(from.Gen, 1)
	var x graph.State
	members, err := x.Decode(from.Append(nil))
	r.must(err)
	for k, m := range members {
		r.must(x.AddCopy(m, n.state.Members[k].Copy.Append(nil)))
	}
	f := facts{events: slices.Clone(n.facts.events), season: n.facts.season}
	graph.Step(&graph.Env{Config: r.env.Config, Facts: &f, Fences: n.facts.fences}, of, &x, in, &graph.Effects{})
	return x.Links
}

// store writes the rows that the effects name.
func (r *replica) store(i id, n *simNode, fx *graph.Effects) {
	h := i.hash()
	if fx.Node {
		r.rows[rowKey{kind: 'n', node: h}] = string(n.state.AppendNode(nil))
	}
	for _, p := range fx.Links {
		if l := n.state.Link(p); l != nil {
			r.rows[rowKey{'l', h, p}] = string(l.AppendLink(nil))
		} else {
			delete(r.rows, rowKey{'l', h, p})
		}
	}
	for _, p := range fx.Copies {
		if c := n.state.Copy(p); c != nil {
			r.rows[rowKey{'c', h, p}] = string(c.Append(nil))
		} else {
			delete(r.rows, rowKey{'c', h, p})
		}
	}
	if n.facts.dirty {
		n.facts.dirty = false
		r.rows[rowKey{kind: 'f', node: h}] = string(n.facts.bytes())
		r.rows[rowKey{kind: 'x', node: h}] = string(n.facts.fenceBytes())
	}
}

// apply takes in the next entry.
func (r *replica) apply(e *entry) {
	r.pos++
	var in []graph.Message
	switch e.kind {
	case outsideEntry:
		in = e.messages
	case beatEntry:
		r.beats[e.node] = r.pos
		for d, t := range e.trim {
			r.lane.Outbox[d].Trim(t)
		}
	case channelEntry:
		in = r.lane.Receive(proto.LaneID(e.from), e.lo, e.batches(r.w))
	}
	r.out.Reset()
	if err := r.lane.Apply(proto.Offset(r.pos), in, r, &r.out); err != nil {
		r.w.fail("APPLY: %v", err)
	}
	if !r.head && r.rng.IntN(20) == 0 { // passivate everybody
		clear(r.active)
	}
}

// image is what a snapshot holds.
type image struct {
	pos    int
	rows   map[rowKey]string
	record []byte
	outbox map[string][]byte
	beats  map[int]int
}

func outboxKey(to proto.LaneID, n uint64) string { return fmt.Sprintf("%d/%d", to, n) }

func (r *replica) image() *image {
	m := &image{pos: r.pos, rows: maps.Clone(r.rows), record: r.lane.AppendRecord(nil), outbox: map[string][]byte{}, beats: maps.Clone(r.beats)}
	for d := range r.lane.Outbox {
		c := &r.lane.Outbox[d]
		for k := range c.Batches {
			m.outbox[outboxKey(proto.LaneID(d), c.Base+1+uint64(k))] = c.Batches[k].Append(nil)
		}
	}
	return m
}

// restore makes the replica as the image has it.
func (r *replica) restore(m *image) {
	l, err := graph.DecodeRecord(m.record, &r.w.laneOf, func(to proto.LaneID, n uint64) ([]byte, error) {
		return m.outbox[outboxKey(to, n)], nil
	})
	if err != nil {
		r.w.fail("SNAPSHOT: %v", err)
		return
	}
	l.BoundSupersteps(r.w.supersteps)
	l.BoundBatches(r.w.batchBytes)
	r.lane, r.rows, r.beats, r.pos = l, maps.Clone(m.rows), maps.Clone(m.beats), m.pos
	clear(r.active)
}

// differs says where two replicas of a lane differ, "" if nowhere.
func (r *replica) differs(o *replica) string {
	a, b := r.image(), o.image()
	switch {
	case a.pos != b.pos:
		return fmt.Sprintf("position %d, %d", a.pos, b.pos)
	case string(a.record) != string(b.record):
		return "lane record"
	case !maps.Equal(a.beats, b.beats):
		return "beats"
	case !maps.EqualFunc(a.outbox, b.outbox, func(x, y []byte) bool { return string(x) == string(y) }):
		return "outbox"
	}
	keys := slices.Collect(maps.Keys(a.rows))
	keys = append(keys, slices.Collect(maps.Keys(b.rows))...)
	for _, k := range keys {
		if a.rows[k] != b.rows[k] {
			return fmt.Sprintf("row %c of %d, peer %d", k.kind, idOf(k.node), idOf(k.peer))
		}
	}
	return ""
}

// unwritten says which row of an identity in memory is not what is stored.
func (r *replica) unwritten() string {
	stored := &replica{w: r.w, rows: r.rows, active: map[id]*simNode{}}
	for i, n := range r.active {
		s := stored.load(i)
		if n.state.Gen <= 1 && s.state.Gen == 0 {
			s.state.Gen = n.state.Gen
		}
		if string(n.state.AppendNode(nil)) != string(s.state.AppendNode(nil)) {
			return fmt.Sprintf("node row of %d", i)
		}
		if !slices.Equal(n.state.Links, s.state.Links) {
			return fmt.Sprintf("links of %d", i)
		}
		same := slices.EqualFunc(n.state.Members, s.state.Members, func(a, b graph.Member) bool {
			return a.Peer == b.Peer && string(a.Copy.Append(nil)) == string(b.Copy.Append(nil))
		})
		if !same {
			return fmt.Sprintf("copies of %d", i)
		}
	}
	return ""
}
