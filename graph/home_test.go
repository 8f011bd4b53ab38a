package graph_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/graph"
	"kith/proto"
)

// home is one identity's home, stepped by hand: for rules that a whole history
// rarely puts to the test.
type home struct {
	simNode
	self id
	fx   graph.Effects
	env  graph.Env
}

func newHome(self id) *home {
	h := &home{self: self}
	h.env = graph.Env{Config: graph.DefaultConfig(), Facts: &h.facts}
	return h
}

// take has the home take messages in and gives what it sends.
func (h *home) take(in ...graph.Message) []graph.Message {
	for i := range in {
		in[i].To = h.self.node()
	}
	h.fx.Reset()
	graph.Step(&h.env, h.self.node(), &h.state, in, &h.fx)
	return h.fx.Out
}

// sends lists what messages say, in short.
func sends(out []graph.Message) []string {
	list := []string{}
	for i := range out {
		list = append(list, describe(&out[i]))
	}
	return list
}

func at(t proto.Millis) graph.Evidence { return graph.Evidence{Time: t} }

// contrib is a member's copy with edges to some others of generation 1.
func contrib(from id, ver uint64, to ...id) graph.Message {
	c := &graph.Contribution{Gen: 1, Ver: ver, Data: graph.Data(eventBody(int(ver)))}
	for _, x := range to {
		c.Edges = append(c.Edges, graph.Edge{Peer: x.hash(), Gen: 1, Evidence: at(1)})
	}
	return graph.Message{Kind: graph.Contrib, From: from.hash(), Copy: c}
}

const (
	a id = iota
	b
	c
	d
	e
)

// established gives h an edge to peer.
func (h *home) established(peer id) {
	h.take(graph.Message{Kind: graph.Half, From: peer.hash(), Gen: 1, Evidence: at(1)})
}

func wantSends(t *testing.T, what string, out []graph.Message, list ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, list...), sends(out)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// R4: b leaves a's user while c still shows a verdict that b's copy went into.
// a may tell b that nothing is left only when c has confirmed another one.
// R6: b left a and came back. A verdict that a computed from b's older copy is
// still under way; what it came from may have been taken back since.
// R2: an invitation names all ways. The invited may have lost one of them.
// R2: an invitation is heeded only for this generation, over an own edge to
// the generation that it names.
// R3: a member is reached over an edge that both ends report, each naming the
// other's present generation.
// R4: a Leave that is older than the copy does not take it away.
// R4: versions go on after an opt-in, so that no old message is taken for new.
// R5: a copy that reaches a node which is no root is told so at once.
// R6: who comes back is given the value again, though it is the same: it was
// told that it is out.
// R1: an agreement is for the generation and the evidence that was proposed,
// and one that nobody waits for is taken back.
// R1: a removal from before the opt-in is not remembered, and its sender told.
// R7: an Unlink of an earlier generation does not end an edge to a later one.
// R7: who gave verdicts waits until they are replaced, before its neighbours
// are told.
// Everywhere: each is cut at the listed generation only.
// R10: a full root refuses whoever is beyond without inviting.
// R10: an edge that was answered linked stays, though older evidence for
// another comes before the ends' copies say so.
// R1: evidence that is older than a removal is refused, on a tie too.
// R1: a Drop that is older than the evidence is answered by a proposal, and a
// refusal of that one ends the edge.
// R1: a removal here was older than the other end's evidence, but a cap does
// not let the edge come back: the removal is told again, so that the other end,
// when it is cut, knows who remembers it.
// R10: the number of neighbours, removed ones included, is bounded.
// Commands that wait for a decision are bounded, and a repeated one is not
// answered twice.
// An opt-out command is known when it comes again, for as long as 32 others.
// A node that was never linked or cut has nothing to store.
func TestSingletonStoresNothing(t *testing.T) {
	x := newHome(a)
	for n := range 5 {
		x.take(graph.Message{Kind: graph.Event, Evidence: at(1), Body: eventBody(n)})
		if fx := &x.fx; fx.Node || fx.Shown || len(fx.Links)+len(fx.Copies)+len(fx.Out) > 0 || !x.state.Unlinked() {
			t.Fatalf("an event of a singleton: node row %v, shown %v, %d messages, state %+v", fx.Node, fx.Shown, len(fx.Out), x.state)
		}
	}
}

// A node of an identity that opted out before it was seen in this space.
// The root shows the value of the whole user too, again by its own rules when
// time passed.
func TestConfigValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*graph.Config)
		ok     bool
	}{
		{"default", func(*graph.Config) {}, true},
		{"skew", func(c *graph.Config) { c.SkewMillis = -1 }, false},
		{"no edges", func(c *graph.Config) { c.EdgesMax = 0 }, false},
		{"one member", func(c *graph.Config) { c.MembersMax = 1 }, false},
		{"fewer neighbours than edges", func(c *graph.Config) { c.LinksMax = c.EdgesMax - 1 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := graph.DefaultConfig()
			tt.change(&c)
			if err := c.Validate(); (err == nil) != tt.ok || err != nil && proto.CodeOf(err) != proto.CodeInvalid {
				t.Errorf("got %v", err)
			}
		})
	}
}

// R8: numbers at or below the last are skipped, a gap drops the pack.
// An acknowledgement waits for the leases by the slowest clock that is allowed.
