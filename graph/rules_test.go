package graph_test

import (
	"fmt"
	"math/rand/v2"
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
func TestReleaseWaitsForVerdictsOfOthers(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.established(c)
	out := root.take(contrib(b, 1, a), contrib(c, 1, a))
	var newest uint64
	for _, m := range out {
		if m.Kind == graph.Verdict {
			newest = max(newest, m.Number)
		}
	}
	for _, m := range out {
		if m.Kind == graph.Verdict {
			root.take(graph.Message{Kind: graph.VerdictAck, From: m.To.Hash, Number: m.Number})
		}
	}
	out = root.take(graph.Message{Kind: graph.Leave, From: b.hash(), Ver: 1, Gen: 1})
	wantSends(t, "a Leave is answered before c stopped showing what it came from", out, "a -> b Invite by a", "a -> c Verdict 10")
	out = root.take(graph.Message{Kind: graph.VerdictAck, From: c.hash(), Number: newest})
	wantSends(t, "the confirmation of an older verdict was taken for the newer one's", out)
	out = root.take(graph.Message{Kind: graph.VerdictAck, From: c.hash(), Number: root.state.Number})
	wantSends(t, "no Release after c's confirmation", out, "a -> b Release")
}

// R6: b left a and came back. A verdict that a computed from b's older copy is
// still under way; what it came from may have been taken back since.
func TestVerdictFromBeforeAdoptionIsNotShown(t *testing.T) {
	x := newHome(c)
	x.established(a)
	x.established(b)
	invite := func(root id) []graph.Message {
		return x.take(graph.Message{Kind: graph.Invite, From: root.hash(), ToGen: 1, List: []graph.Ref{{Peer: root.hash(), Gen: 1}}})
	}
	invite(b)
	old := x.state.Ver
	invite(a)
	x.take(graph.Message{Kind: graph.Verdict, From: a.hash(), Number: 1, Out: true, Ver: x.state.Ver})
	invite(b)
	out := x.take(graph.Message{Kind: graph.Verdict, From: b.hash(), Number: 2, Ver: old, Value: "old"})
	wantSends(t, "every verdict is confirmed", out, "c -> b VerdictAck")
	if x.state.Shown != (graph.Shown{}) {
		t.Errorf("shows %+v, computed from a copy of before it followed this root", x.state.Shown)
	}
	x.take(graph.Message{Kind: graph.Verdict, From: b.hash(), Number: 3, Ver: x.state.Ver, Value: "new"})
	if x.state.Shown.Value != "new" {
		t.Errorf("shows %+v, want the verdict from its present copy", x.state.Shown)
	}
}

// R2: an invitation names all ways. The invited may have lost one of them.
func TestInvitationNamesAllWays(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.established(c)
	root.take(contrib(b, 1, a))
	out := root.take(contrib(b, 2, a, d), contrib(c, 1, a, d))
	var list []graph.Ref
	for _, m := range out {
		if m.Kind == graph.Invite && m.To.Hash == d.hash() {
			list = m.List
		}
	}
	if diff := cmp.Diff([]graph.Ref{{Peer: b.hash(), Gen: 1}, {Peer: c.hash(), Gen: 1}}, list); diff != "" {
		t.Errorf("ways to d (-want +got):\n%s", diff)
	}
	invited := newHome(d)
	invited.established(c) // the edge to b is gone
	out = invited.take(graph.Message{Kind: graph.Invite, From: a.hash(), ToGen: 1, List: list})
	wantSends(t, "the second way is not heeded", out, "d -> a Contrib")
}

// R2: an invitation is heeded only for this generation, over an own edge to
// the generation that it names.
func TestInvitationNeedsOwnWay(t *testing.T) {
	x := newHome(d)
	x.established(b)
	for name, m := range map[string]graph.Message{
		"no such edge":                   {ToGen: 1, List: []graph.Ref{{Peer: c.hash(), Gen: 1}}},
		"another generation of the edge": {ToGen: 1, List: []graph.Ref{{Peer: b.hash(), Gen: 2}}},
		"another generation of its own":  {ToGen: 2, List: []graph.Ref{{Peer: b.hash(), Gen: 1}}},
		"no way":                         {ToGen: 1},
	} {
		m.Kind, m.From = graph.Invite, a.hash()
		wantSends(t, name, x.take(m))
	}
}

// R3: a member is reached over an edge that both ends report, each naming the
// other's present generation.
func TestReachableNeedsBothReports(t *testing.T) {
	for name, change := range map[string]func(near, far *graph.Contribution){
		"the near end names another generation": func(near, _ *graph.Contribution) { near.Edges[1].Gen = 2 },
		"the far end names another generation":  func(_, far *graph.Contribution) { far.Edges[0].Gen = 2 },
		"the far end does not report it":        func(_, far *graph.Contribution) { far.Edges = nil },
	} {
		root := newHome(a)
		root.established(b)
		near, far := contrib(b, 1, a, c), contrib(c, 1, b)
		change(near.Copy, far.Copy)
		root.take(near, far)
		if root.state.Copy(c.hash()) != nil || root.state.Copy(b.hash()) == nil {
			t.Errorf("%s: members %+v, want b alone", name, root.state.Members)
		}
	}
}

// R4: a Leave that is older than the copy does not take it away.
func TestOldLeaveKeepsNewerCopy(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.take(contrib(b, 5, a))
	root.take(graph.Message{Kind: graph.Leave, From: b.hash(), Ver: 4, Gen: 1})
	if root.state.Copy(b.hash()) == nil {
		t.Error("the copy of version 5 left with version 4")
	}
}

// R4: versions go on after an opt-in, so that no old message is taken for new.
func TestVersionsNeverRestart(t *testing.T) {
	x := newHome(b)
	x.established(a)
	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(50)})
	ver, number := x.state.Ver, x.state.Number
	x.take(graph.Message{Kind: graph.OptIn, ToGen: 2, Evidence: at(60)})
	if x.state.Ver <= ver || x.state.Number < number || ver == 0 {
		t.Errorf("version %d after %d, number %d after %d", x.state.Ver, ver, x.state.Number, number)
	}
}

// R5: a copy that reaches a node which is no root is told so at once.
func TestStrayCopyIsTurnedAway(t *testing.T) {
	x := newHome(b)
	x.established(a)
	x.take(graph.Message{Kind: graph.Invite, From: a.hash(), ToGen: 1, List: []graph.Ref{{Peer: a.hash(), Gen: 1}}})
	wantSends(t, "a copy at b, which follows a", x.take(contrib(c, 1, b)), "b -> c Verdict out", "b -> c Release")
}

// R6: who comes back is given the value again, though it is the same: it was
// told that it is out.
func TestReturningMemberIsGivenTheValue(t *testing.T) {
	root := newHome(a)
	copies := func(ver uint64, ids ...id) (list []graph.Message) {
		for _, i := range ids {
			m := contrib(i, ver, a)
			m.Copy.Data = ""
			list = append(list, m)
		}
		return list
	}
	for _, i := range []id{b, c, d} {
		root.established(i)
	}
	root.take(copies(1, b, c, d)...)
	lost := copies(2, d)
	lost[0].Copy.Edges = nil
	value := root.state.Given
	wantSends(t, "d is out, the value of three is that of four", root.take(lost...), "a -> d ContribAck", "a -> d Verdict out")
	wantSends(t, "d is back", root.take(copies(3, d)...), "a -> d ContribAck", fmt.Sprintf("a -> d Verdict %x", string(value)))
}

// R1: an agreement is for the generation and the evidence that was proposed,
// and one that nobody waits for is taken back.
func TestAgreementMustMatch(t *testing.T) {
	ok := func(toGen uint32, t proto.Millis) graph.Message {
		return graph.Message{Kind: graph.HalfOK, From: b.hash(), ToGen: toGen, Gen: 1, Evidence: at(t), Echo: t}
	}
	x := newHome(a)
	wantSends(t, "nobody waits", x.take(ok(1, 10)), "a -> b Drop", "a -> b Forgot")
	x.take(graph.Message{Kind: graph.Forgot, From: b.hash(), Evidence: at(10)})
	x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(10)})
	x.take(ok(2, 10))
	if x.state.Link(b.hash()).Stage != graph.Pending {
		t.Error("an agreement with another generation was taken")
	}
	x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(20)})
	x.take(ok(1, 10))
	if x.state.Link(b.hash()).Stage != graph.Pending {
		t.Error("an agreement to older evidence was taken, the newer may be declined yet")
	}
	x.take(ok(1, 20))
	if x.state.Link(b.hash()).Stage != graph.Established {
		t.Error("the agreement was not taken")
	}
}

// R1: a removal from before the opt-in is not remembered, and its sender told.
func TestDropFromBeforeOptIn(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(50)})
	wantSends(t, "a removal at a tombstone", x.take(graph.Message{Kind: graph.Drop, From: b.hash(), Gen: 1, Evidence: at(40)}), "a -> b DropNo")
	x.take(graph.Message{Kind: graph.OptIn, ToGen: 2, Evidence: at(60)})
	wantSends(t, "a removal from before the opt-in", x.take(graph.Message{Kind: graph.Drop, From: b.hash(), Gen: 1, Evidence: at(55)}), "a -> b DropNo")
	if x.state.Link(b.hash()) != nil {
		t.Error("it is remembered")
	}
}

// R7: an Unlink of an earlier generation does not end an edge to a later one.
func TestUnlinkNamesGeneration(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 3, Evidence: at(90_000)})
	wantSends(t, "a late Unlink", x.take(graph.Message{Kind: graph.Unlink, From: b.hash(), Gen: 1, Evidence: at(10)}), "a -> b UnlinkAck")
	if len(x.state.Edges()) != 1 {
		t.Error("the edge to generation 3 is gone")
	}
}

// R7: who gave verdicts waits until they are replaced, before its neighbours
// are told.
func TestCutRootWaitsForReceivers(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.take(contrib(b, 1, a))
	wantSends(t, "cut", root.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(10)}), "a -> b Verdict out")
	out := root.take(graph.Message{Kind: graph.VerdictAck, From: b.hash(), Number: root.state.Number})
	wantSends(t, "b confirmed", out, "a -> b Release", "a -> b Unlink")
}

// Everywhere: each is cut at the listed generation only.
func TestCutWithNamesGeneration(t *testing.T) {
	x := newHome(b)
	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(10)}, graph.Message{Kind: graph.OptIn, ToGen: 2, Evidence: at(20)})
	out := x.take(graph.Message{Kind: graph.CutMember, From: a.hash(), About: c.hash(), Gen: 1, ToGen: 1, Evidence: at(15)})
	wantSends(t, "listed before its own cut and opt-in", out, "b -> c CutDone")
	if x.state.Dark {
		t.Error("a later generation was cut")
	}
}

// R10: a full root refuses whoever is beyond without inviting.
func TestFullRootDoesNotInvite(t *testing.T) {
	root := newHome(a)
	root.env.Config.MembersMax = 3
	root.established(b)
	root.established(c)
	late := contrib(c, 1, a, d)
	late.Copy.Edges[1].Time = 9
	wantSends(t, "d is the fourth", root.take(contrib(b, 1, a), late),
		"a -> b ContribAck", "a -> c ContribAck", "a -> c Refuse of d", "a -> b Verdict 31", "a -> c Verdict 31")
}

// R10: an edge that was answered linked stays, though older evidence for
// another comes before the ends' copies say so.
func TestPromisedEdgeStays(t *testing.T) {
	root := newHome(a)
	root.env.Config.MembersMax = 3
	root.established(b)
	near, far := contrib(b, 1, a, c), contrib(c, 1, b)
	near.Copy.Edges[1].Time, far.Copy.Edges[0].Time = 5, 5
	root.take(near, far)
	out := root.take(graph.Message{Kind: graph.Ask, From: b.hash(), About: c.hash()})
	wantSends(t, "both ends are told", out, "a -> b Joined of c", "a -> c Joined of b")
	older := contrib(b, 2, a, c, d)
	older.Copy.Edges[1].Time, older.Copy.Edges[2].Time = 5, 3
	out = root.take(older)
	wantSends(t, "the edge to d is older, but b - c was promised", out, "a -> b ContribAck", "a -> b Refuse of d")
	told := contrib(c, 2, b)
	told.Copy.Edges[0].Settled, told.Copy.Edges[0].Time = true, 5
	root.take(told)
	if diff := cmp.Diff([]graph.Question{{Peer: b.hash(), About: c.hash()}}, root.state.Promises); diff != "" {
		t.Errorf("promises, after c's copy says so (-want +got):\n%s", diff)
	}
}

// R1: evidence that is older than a removal is refused, on a tie too.
func TestRemovalWinsTies(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Remove, About: b.hash(), Evidence: at(10)})
	wantSends(t, "a link of the same time", x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(10)}))
	wantSends(t, "a proposal of the same time", x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(10)}), "a -> b HalfNo")
	wantSends(t, "a newer link", x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(11)}), "a -> b Half")
}

// R1: a Drop that is older than the evidence is answered by a proposal, and a
// refusal of that one ends the edge.
func TestOldDropIsAnswered(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(20)})
	out := x.take(graph.Message{Kind: graph.Drop, From: b.hash(), Gen: 1, Evidence: at(10)})
	wantSends(t, "old Drop", out, "a -> b Half")
	if !out[0].Again {
		t.Error("the proposal does not say that it is about an edge that is there")
	}
	x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(30)})
	out = x.take(graph.Message{Kind: graph.HalfNo, From: b.hash(), Again: true, ToGen: 1, Gen: 1, Evidence: at(20)})
	wantSends(t, "declined, but there is newer evidence", out, "a -> b Half")
	out = x.take(graph.Message{Kind: graph.HalfNo, From: b.hash(), Again: true, ToGen: 1, Gen: 1, Evidence: at(30)})
	wantSends(t, "declined", out, "a -> b Forgot")
	if len(x.state.Edges()) > 0 {
		t.Errorf("the edge is still there: %+v", x.state.Links)
	}
}

// R1: a removal here was older than the other end's evidence, but a cap does
// not let the edge come back: the removal is told again, so that the other end,
// when it is cut, knows who remembers it.
func TestDeclinedEdgeTellsRemovalAgain(t *testing.T) {
	x := newHome(a)
	x.env.Config.EdgesMax = 1
	x.take(graph.Message{Kind: graph.Remove, About: b.hash(), Evidence: at(10)})
	x.established(c)
	out := x.take(graph.Message{Kind: graph.Half, From: b.hash(), Again: true, Gen: 1, Evidence: at(20)})
	wantSends(t, "declined", out, "a -> b HalfNo", "a -> b Drop", "a -> b Forgot")
	y := newHome(b)
	y.established(a)
	out = y.take(graph.Message{Kind: graph.Drop, From: a.hash(), Gen: 1, Evidence: at(10)})
	wantSends(t, "the other end", out, "b -> a DropOK")
}

// R10: the number of neighbours, removed ones included, is bounded.
func TestNeighboursAreBounded(t *testing.T) {
	x := newHome(a)
	x.env.Config.LinksMax, x.env.Config.EdgesMax = 2, 2
	x.take(graph.Message{Kind: graph.Remove, About: b.hash(), Evidence: at(10)}, graph.Message{Kind: graph.Remove, About: c.hash(), Evidence: at(10)})
	x.take(graph.Message{Kind: graph.Link, About: d.hash(), Evidence: at(20), Command: 9})
	if diff := cmp.Diff([]graph.Decision{{Command: 9, Reason: graph.ReasonLinksFull}}, x.fx.Decisions); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
	if len(x.fx.Refused) != 1 {
		t.Errorf("refused %v, want it counted", x.fx.Refused)
	}
	wantSends(t, "a proposal", x.take(graph.Message{Kind: graph.Half, From: d.hash(), Gen: 1, Evidence: at(20)}), "a -> d HalfNo")
	wantSends(t, "a removal that cannot be remembered", x.take(graph.Message{Kind: graph.Drop, From: d.hash(), Gen: 1, Evidence: at(20)}), "a -> d DropNo")
	wantSends(t, "a removal from outside", x.take(graph.Message{Kind: graph.Remove, About: d.hash(), Evidence: at(20)}))
}

// Commands that wait for a decision are bounded, and a repeated one is not
// answered twice.
func TestWaitingCommandsAreBounded(t *testing.T) {
	x := newHome(a)
	for n := range uint64(300) {
		x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(1), Command: n/2 + 1})
	}
	if n := len(x.state.Asks); n != 150 {
		t.Errorf("%d commands wait, want 150", n)
	}
	for n := range uint64(300) {
		x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(1), Command: n + 1})
	}
	if n := len(x.state.Asks); n != 256 {
		t.Errorf("%d commands wait, want 256", n)
	}
	if diff := cmp.Diff([]graph.Decision{{Command: 300, Reason: graph.ReasonBusy}}, x.fx.Decisions); diff != "" {
		t.Errorf("the last one's decision (-want +got):\n%s", diff)
	}
}

// An opt-out command is known when it comes again, for as long as 32 others.
func TestRepeatedCommandsAreKnown(t *testing.T) {
	x := newHome(a)
	for n := range uint64(32) {
		x.take(graph.Message{Kind: graph.Cut, Command: n + 1, Evidence: at(1)})
	}
	gen := x.state.Gen
	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(1)})
	if x.state.Gen != gen || x.fx.Ignored != graph.ReasonRepeated {
		t.Errorf("generation %d, ignored %v; want %d and %v", x.state.Gen, x.fx.Ignored, gen, graph.ReasonRepeated)
	}
	x.take(graph.Message{Kind: graph.Cut, Command: 40, Evidence: at(1)})
	if n := len(x.state.Commands); n != 32 || x.state.Gen != gen+2 {
		t.Errorf("%d commands are remembered, generation %d", n, x.state.Gen)
	}
}

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
func TestTombstonedFromBirth(t *testing.T) {
	x := newHome(a)
	x.state = graph.Tombstoned(4)
	x.take(graph.Message{Kind: graph.Event, Evidence: at(5), Body: eventBody(1)})
	wantSends(t, "a proposal", x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(5)}), "a -> b HalfNo")
	if x.state.Admits(5) || len(x.facts.events) > 0 {
		t.Errorf("holds %v", x.facts.events)
	}
	x.take(graph.Message{Kind: graph.OptIn, ToGen: 4, Evidence: at(6)})
	if !x.fx.Reborn || x.state.Dark || x.state.Gen != 5 {
		t.Errorf("after the opt-in: %+v", x.state)
	}
}

// The root shows the value of the whole user too, again by its own rules when
// time passed.
func TestRefreshRecomputes(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.take(contrib(b, 1, a))
	if root.state.Shown.Value == "" {
		t.Fatal("the root shows its own data alone")
	}
	wantSends(t, "nothing changed", root.take(graph.Message{Kind: graph.Refresh}))
	root.facts.season = "w"
	wantSends(t, "the rules give something else now", root.take(graph.Message{Kind: graph.Refresh}), "a -> b Verdict 1077")
}

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
func TestChannelNumbers(t *testing.T) {
	town := newTown(2)
	l := town.lanes[1]
	batch := func(n id) graph.Batch {
		m := graph.Message{Kind: graph.Nudge, To: b.node(), From: n.hash(), About: c.hash()}
		return graph.Batch{Vector: []proto.Offset{proto.Offset(n), 0}, Messages: []graph.Message{m}}
	}
	for _, tt := range []struct {
		lo   uint64
		pack []graph.Batch
		want int
		last uint64
	}{
		{2, []graph.Batch{batch(2)}, 0, 0},
		{1, []graph.Batch{batch(1), batch(2)}, 2, 2},
		{1, []graph.Batch{batch(1), batch(2), batch(3)}, 1, 3},
		{5, []graph.Batch{batch(5)}, 0, 3},
		{2, []graph.Batch{batch(2)}, 0, 3},
	} {
		if in := l.Receive(0, tt.lo, tt.pack); len(in) != tt.want || l.Applied[0] != tt.last {
			t.Errorf("pack from %d: %d messages, applied %d; want %d, %d", tt.lo, len(in), l.Applied[0], tt.want, tt.last)
		}
	}
	if l.Vector[0] != 3 {
		t.Errorf("vector %v, want the newest batch's", l.Vector)
	}
	ch := graph.Channel{Batches: []graph.Batch{batch(1), batch(2), batch(3)}}
	ch.Trim(2)
	if lo, pack := ch.Pack(1, 5); lo != 3 || len(pack) != 1 || ch.Last() != 3 {
		t.Errorf("after a trim: from %d, %d batches, last %d", lo, len(pack), ch.Last())
	}
	ch.Trim(1)
	if ch.Base != 2 {
		t.Errorf("an older trim moved the base to %d", ch.Base)
	}
}

// An acknowledgement waits for the leases by the slowest clock that is allowed.
func TestLeaseOutlivesDrift(t *testing.T) {
	w, _, _, _, _ := makeWorld(1, 1, rand.New(rand.NewPCG(1, 7)), &simStats{})
	fast, slow := w.machines[0], w.machines[1]
	fast.rate, slow.rate = 1000+simDrift, 1000-simDrift
	for _, m := range w.machines[2:] {
		m.cut = true
	}
	deliver := func(m *machine) {
		for m.served[0].pos < len(w.logs[0].entries) {
			w.stepApply(m, 0)
		}
	}
	w.append(0, &entry{kind: outsideEntry, messages: []graph.Message{{Kind: graph.Event, To: a.node(), Evidence: at(1), Body: eventBody(0)}}})
	w.beat(slow, 0)
	w.append(0, w.air[0].e)
	deliver(fast)
	deliver(slow)
	w.append(0, &entry{kind: outsideEntry, messages: []graph.Message{{Kind: graph.Cut, To: a.node(), Evidence: at(2), Command: 2}}})
	deliver(fast) // slow does not hear of it, and answers while its lease lasts
	for len(w.pending) > 0 && w.err == nil {
		w.now++
		if p := w.pending[0]; p.bars[0].deadline == nil {
			w.countDown(&p.bars[0], fast, 0)
		}
		w.barriers()
	}
	if w.err != nil {
		t.Error(w.err) // the slow machine answered after the acknowledgement
	}
	if slow.served[0].leaseTo == 0 || slow.served[0].pos == w.heads[0].pos {
		t.Error("the slow machine had no lease, or heard of the cut: this shows nothing")
	}
}
