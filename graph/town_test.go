package graph_test

import (
	"fmt"
	"slices"
	"strings"

	"kith/graph"
	"kith/proto"
)

// town is a few identities, named by letters, over one or two lanes, whose
// messages arrive without faults: for stories and tests of single rules.
type town struct {
	lanes  []*graph.Lane
	laneOf [proto.Partitions]proto.LaneID
	config graph.Config
	nodes  map[proto.Node]*simNode
	clock  proto.Millis
	trace  bool
	steps  int // supersteps of an entry
	log    strings.Builder
	count  int // messages between homes
}

func newTown(lanes int) *town {
	t := &town{config: graph.DefaultConfig(), nodes: map[proto.Node]*simNode{}, clock: 1_000_000, steps: graph.SuperstepsMax}
	t.config.SkewMillis = 10
	for i := range t.laneOf {
		t.laneOf[i] = proto.LaneID(i % lanes)
	}
	for l := range lanes {
		t.lanes = append(t.lanes, graph.NewLane(proto.LaneID(l), lanes, &t.laneOf))
	}
	return t
}

// named is the identity with a letter, in a space of its own if one is given:
// "a" or "a@2".
func named(s string) proto.Node {
	n := proto.Node{Hash: id(s[0] - 'a').hash(), Space: 1}
	if i := strings.IndexByte(s, '@'); i > 0 {
		_, _ = fmt.Sscan(s[i+1:], &n.Space)
	}
	return n
}

func letter(h graph.Hash) string {
	if h == (graph.Hash{}) {
		return "-"
	}
	return string(rune('a' + int(idOf(h))))
}

func (t *town) node(n proto.Node) *simNode {
	x := t.nodes[n]
	if x == nil {
		x = &simNode{}
		t.nodes[n] = x
	}
	return x
}

// Step steps the groups in their order and notes what is worth telling.
func (t *town) Step(groups []graph.Group) error {
	for k := range groups {
		g := &groups[k]
		x := t.node(g.To)
		for i := range g.In {
			if t.trace {
				fmt.Fprintf(&t.log, "  %s\n", describe(&g.In[i]))
			}
			if !g.In[i].Kind.Outside() {
				t.count++
			}
		}
		graph.Step(&graph.Env{Config: t.config, Facts: &x.facts}, g.To, &x.state, g.In, &g.Effects)
		t.tell(&g.Effects)
	}
	return nil
}

// describe is a message in a few words.
func describe(m *graph.Message) string {
	s := fmt.Sprintf("%s -> %s %s", letter(m.From), letter(m.To.Hash), m.Kind)
	if m.About != (graph.Hash{}) {
		s += " of " + letter(m.About)
	}
	if m.Out && m.Kind == graph.Verdict {
		s += " out"
	}
	if m.Value != "" {
		s += fmt.Sprintf(" %x", string(m.Value))
	}
	for _, r := range m.List {
		s += " by " + letter(r.Peer)
	}
	return s
}

func (t *town) tell(fx *graph.Effects) {
	for _, d := range fx.Decisions {
		if d.Linked {
			t.log.WriteString("answer: linked\n")
		} else {
			fmt.Fprintf(&t.log, "answer: not linked, %s\n", d.Reason)
		}
	}
	for _, r := range fx.Refused {
		fmt.Fprintf(&t.log, "refused: %s-%s, %s\n", letter(r.Node.Hash), letter(r.Peer), r.Reason)
	}
	for _, r := range fx.Receipts {
		fmt.Fprintf(&t.log, "receipt: %s cut, %d copies retracted, %d members refreshed\n", letter(r.Node.Hash), r.Copies, r.Members)
	}
	if fx.Ignored != graph.ReasonNone && len(fx.Decisions) == 0 {
		fmt.Fprintf(&t.log, "ignored: %s\n", fx.Ignored)
	}
}

// send appends an entry with one message and lets follow what follows.
func (t *town) send(m graph.Message) {
	t.clock += 1000
	if m.Time == 0 {
		m.Time = t.clock
	}
	t.entry(t.laneOf[m.To.Hash.Partition()], []graph.Message{m})
	t.settle()
}

func (t *town) entry(lane proto.LaneID, in []graph.Message) {
	l := t.lanes[lane]
	l.BoundSupersteps(t.steps)
	var out graph.Outcome
	if err := l.Apply(l.Position+1, in, t, &out); err != nil {
		panic(err)
	}
}

// settle relays and ticks until nothing moves, or only as far as one entry if
// the number of supersteps is limited.
func (t *town) settle() {
	for busy := t.steps == graph.SuperstepsMax; busy; {
		busy = false
		for _, l := range t.lanes {
			if len(l.Carry) > 0 {
				t.entry(l.ID, nil)
				busy = true
			}
			for d := range t.lanes {
				lo, pack := l.Outbox[d].Pack(t.lanes[d].Applied[l.ID]+1, 1000)
				if len(pack) == 0 {
					continue
				}
				in := t.lanes[d].Receive(l.ID, lo, pack)
				t.entry(proto.LaneID(d), in)
				l.Outbox[d].Trim(t.lanes[d].Applied[l.ID])
				busy = true
			}
		}
	}
}

// users lists the users of a space, as their roots have them.
func (t *town) users(space proto.SpaceID) string {
	var users []string
	for n, x := range t.nodes {
		if n.Space != space {
			continue
		}
		if x.state.Dark {
			users = append(users, letter(n.Hash)+" (out)")
			continue
		}
		if x.state.RootOf(n.Hash) != n.Hash {
			continue
		}
		who := []string{letter(n.Hash)}
		for _, m := range x.state.Members {
			who = append(who, letter(m.Peer))
		}
		users = append(users, "{"+strings.Join(who, " ")+"}")
	}
	slices.Sort(users)
	return strings.Join(users, " ")
}

// view tells what one identity's home knows.
func (t *town) view(n proto.Node) string {
	x := t.node(n)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: generation %d, root %s", letter(n.Hash), max(x.state.Gen, 1), letter(x.state.RootOf(n.Hash)))
	if x.state.Dark {
		b.WriteString(", opted out")
	}
	fmt.Fprintf(&b, ", %d events", len(x.facts.events))
	shown := x.state.Shown.Value
	if x.state.Shown == (graph.Shown{}) {
		shown = aggregate([]graph.Data{x.facts.Data()})
	}
	fmt.Fprintf(&b, ", shows %x\n", string(shown))
	for _, l := range x.state.Links {
		switch {
		case l.Stage == graph.Established:
			fmt.Fprintf(&b, "  edge to %s, %s\n", letter(l.Peer), l.Method)
		case l.Stage == graph.Pending:
			fmt.Fprintf(&b, "  pending edge to %s\n", letter(l.Peer))
		}
		if l.Mark != graph.Unmarked {
			fmt.Fprintf(&b, "  remembers %s\n", letter(l.Peer))
		}
	}
	for _, m := range x.state.Members {
		var to []string
		for _, e := range m.Copy.Edges {
			to = append(to, letter(e.Peer))
		}
		fmt.Fprintf(&b, "  copy of %s: edges to %s, %d events\n", letter(m.Peer), strings.Join(to, " "), len(m.Copy.Data)/4)
	}
	return b.String()
}
