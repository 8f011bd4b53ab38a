package graph_test

import (
	"math/rand/v2"
	"testing"

	"kith/graph"
	"kith/proto"
)

// crowd is many identities on several lanes without faults, but with much
// under way at once: what hubs, kiosks and caps do to users of real sizes.
type crowd struct {
	t       *testing.T
	lanes   []*graph.Lane
	laneOf  [proto.Partitions]proto.LaneID
	nodes   map[proto.Node]*simNode
	env     graph.Env
	answers map[uint64]graph.Decision
	refused map[[2]graph.Hash]bool
	cut     map[graph.Hash]bool
	out     graph.Outcome
	clock   proto.Millis
}

func newCrowd(t *testing.T, lanes int) *crowd {
	c := &crowd{t: t, nodes: map[proto.Node]*simNode{}, answers: map[uint64]graph.Decision{}, refused: map[[2]graph.Hash]bool{}, cut: map[graph.Hash]bool{}}
	c.env.Config = graph.DefaultConfig()
	c.clock = 1_000_000
	for i := range c.laneOf {
		c.laneOf[i] = proto.LaneID(i % lanes)
	}
	for l := range lanes {
		c.lanes = append(c.lanes, graph.NewLane(proto.LaneID(l), lanes, &c.laneOf))
	}
	return c
}

func (c *crowd) Step(groups []graph.Group) error {
	for k := range groups {
		g := &groups[k]
		n := c.nodes[g.To]
		if n == nil {
			n = &simNode{}
			c.nodes[g.To] = n
		}
		c.env.Facts = &n.facts
		graph.Step(&c.env, g.To, &n.state, g.In, &g.Effects)
		if len(n.state.Members)+1 > c.env.Config.MembersMax || len(n.state.Edges()) > c.env.Config.EdgesMax {
			c.t.Fatalf("%v has %d members and %d edges", g.To, len(n.state.Members)+1, len(n.state.Edges()))
		}
	}
	return nil
}

func order(a, b graph.Hash) [2]graph.Hash {
	if string(b[:]) < string(a[:]) {
		a, b = b, a
	}
	return [2]graph.Hash{a, b}
}

func (c *crowd) apply(l *graph.Lane, in []graph.Message) {
	c.out.Reset()
	if err := l.Apply(l.Position+1, in, c, &c.out); err != nil {
		c.t.Fatal(err)
	}
	for _, d := range c.out.Decisions {
		c.answers[d.Command] = d
	}
	for _, r := range c.out.Refused {
		c.refused[order(r.Node.Hash, r.Peer)] = true
	}
	for _, r := range c.out.Receipts {
		c.cut[r.Node.Hash] = true
	}
}

// relay moves what is there between lanes, once, and reports whether there
// was anything.
func (c *crowd) relay() (moved bool) {
	for _, l := range c.lanes {
		if len(l.Carry) > 0 {
			c.apply(l, nil)
			moved = true
		}
		for d, to := range c.lanes {
			lo, pack := l.Outbox[d].Pack(to.Applied[l.ID]+1, 64)
			if len(pack) > 0 {
				c.apply(to, to.Receive(l.ID, lo, pack))
				l.Outbox[d].Trim(to.Applied[l.ID])
				moved = true
			}
		}
	}
	return moved
}

// send appends messages, so many to an entry, with one relay between entries.
func (c *crowd) send(list []graph.Message, perEntry int) {
	open := make([][]graph.Message, len(c.lanes))
	flush := func(l int) {
		if len(open[l]) > 0 {
			c.apply(c.lanes[l], open[l])
			open[l] = nil
			c.relay()
		}
	}
	for i := range list {
		m := list[i]
		c.clock++
		m.Time = c.clock
		l := int(c.laneOf[m.To.Hash.Partition()])
		if open[l] = append(open[l], m); len(open[l]) == perEntry {
			flush(l)
		}
	}
	for l := range open {
		flush(l)
	}
	for c.relay() {
	}
}

// links draws pairs: most link two of a household, some a hub or a kiosk.
func crowdLinks(rng *rand.Rand, who []proto.Node, n int) []graph.Message {
	list := make([]graph.Message, 0, n)
	for len(list) < n {
		i := rng.IntN(len(who))
		j := i/4*4 + rng.IntN(4)
		switch rng.IntN(20) {
		case 0:
			j = rng.IntN(len(who))
		case 1:
			j = rng.IntN(len(who)/400+1) * 400 // a kiosk
		case 2, 3:
			j = i / 60 * 60 // a hub
		}
		if j >= len(who) || i == j {
			continue
		}
		list = append(list, graph.Message{Kind: graph.Link, To: who[i], About: who[j].Hash, Command: uint64(len(list) + 1)})
	}
	return list
}

// users compares the users with the components of the edges answered as
// linked, without those that were cut or that a cap unmade later, which it
// counts.
func (c *crowd) users(links []graph.Message) (revoked int) {
	u := graph.NewUnion()
	for _, m := range links {
		d, ok := c.answers[m.Command]
		if !ok {
			c.t.Fatalf("command %d has no answer", m.Command)
		}
		if !d.Linked || c.cut[m.To.Hash] || c.cut[m.About] {
			continue
		}
		if l := c.nodes[m.To].state.Link(m.About); l == nil || l.Stage != graph.Established {
			if !c.refused[order(m.To.Hash, m.About)] {
				c.t.Errorf("command %d was answered linked, the edge is gone and was not refused", m.Command)
			}
			revoked++
			continue
		}
		u.Join(m.To.Hash, m.About)
	}
	for n, x := range c.nodes {
		if x.state.Dark {
			continue
		}
		if got, want := x.state.RootOf(n.Hash), u.Root(n.Hash); got != want {
			c.t.Fatalf("root of %v is %v, want %v", n.Hash, got, want)
		}
		if !x.state.Settled() {
			c.t.Fatalf("%v is not settled: %+v", n.Hash, x.state)
		}
	}
	return revoked
}

// TestCrowd links, then cuts some, on one lane and on four.
func TestCrowd(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		rng := rand.New(rand.NewPCG(uint64(lanes), uint64(*seedFlag)))
		c := newCrowd(t, lanes)
		who := make([]proto.Node, 4000)
		for i := range who {
			who[i] = wide(rng)
		}
		links := crowdLinks(rng, who, 3000)
		c.send(links, 32)
		revoked := c.users(links)
		linked := 0
		for _, d := range c.answers {
			if d.Linked {
				linked++
			}
		}
		t.Logf("%d lanes: %d links, %d linked, %d pairs refused, %d answers revoked", lanes, len(links), linked, len(c.refused), revoked)
		if linked < len(links)/2 || len(c.refused) == 0 {
			t.Errorf("%d of %d linked, %d refused: this shows nothing", linked, len(links), len(c.refused))
		}
		if revoked > 0 {
			t.Errorf("%d answers did not hold", revoked)
		}
		var cuts []graph.Message
		for i := 0; i < len(who); i += 50 {
			cuts = append(cuts, graph.Message{Kind: graph.Cut, To: who[i], Command: uint64(i + 1)})
		}
		c.send(cuts, 8)
		if len(c.cut) != len(cuts) {
			t.Errorf("%d receipts for %d cuts", len(c.cut), len(cuts))
		}
		c.users(links)
	}
}
