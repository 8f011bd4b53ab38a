package graph_test

import (
	"testing"

	"kith/graph"
)

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

func TestUnlinkNamesGeneration(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 3, Evidence: at(90_000)})
	wantSends(t, "a late Unlink", x.take(graph.Message{Kind: graph.Unlink, From: b.hash(), Gen: 1, Evidence: at(10)}), "a -> b UnlinkAck")
	if len(x.state.Edges()) != 1 {
		t.Error("the edge to generation 3 is gone")
	}
}

func TestCutRootWaitsForReceivers(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.take(contrib(b, 1, a))
	wantSends(t, "cut", root.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(10)}), "a -> b Verdict out")
	out := root.take(graph.Message{Kind: graph.VerdictAck, From: b.hash(), Number: root.state.Number})
	wantSends(t, "b confirmed", out, "a -> b Release", "a -> b Unlink")
}

func TestCutWithNamesGeneration(t *testing.T) {
	x := newHome(b)
	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(10)}, graph.Message{Kind: graph.OptIn, ToGen: 2, Evidence: at(20)})
	out := x.take(graph.Message{Kind: graph.CutMember, From: a.hash(), About: c.hash(), Gen: 1, ToGen: 1, Evidence: at(15)})
	wantSends(t, "listed before its own cut and opt-in", out, "b -> c CutDone")
	if x.state.Dark {
		t.Error("a later generation was cut")
	}
}

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

// An identity that is cut again, while those whom its first cut takes along are
// not all cut: the caller knows receipts by their order.
func TestReceiptsComeInTheOrderOfCuts(t *testing.T) {
	x := newHome(a)
	x.established(b)
	x.take(graph.Message{Kind: graph.Cut, All: true, Evidence: at(10)})
	x.take(graph.Message{Kind: graph.UnlinkAck, From: b.hash(), Gen: 1})
	x.take(graph.Message{Kind: graph.Cut, Evidence: at(20)})
	if len(x.fx.Receipts) > 0 {
		t.Fatalf("b is not cut, and the receipts are %+v", x.fx.Receipts)
	}
	x.take(graph.Message{Kind: graph.CutDone, From: b.hash(), Gen: 1, All: true})
	if r := x.fx.Receipts; len(r) != 2 || r[0].Gen != 1 || r[0].Spread != 1 || r[1].Gen != 3 || len(x.state.Cuts) > 0 {
		t.Errorf("receipts %+v, left %+v; want those of generations 1 and 3", r, x.state.Cuts)
	}
}

// Whom those have in other spaces who are taken along, only who was asked first takes along
// there: the others hand them up.
func TestRestIsHandedUp(t *testing.T) {
	x := newHome(a)
	x.established(b)
	x.take(graph.Message{Kind: graph.CutMember, From: c.hash(), About: c.hash(), Gen: 5, ToGen: 1, Evidence: at(10)})
	x.take(graph.Message{Kind: graph.UnlinkAck, From: b.hash(), Gen: 1})
	out := x.take(graph.Message{Kind: graph.CutDone, From: b.hash(), Gen: 1, All: true, List: []graph.Ref{{Peer: d.hash(), Gen: 7}}})
	wantSends(t, "b is cut", out, "a -> c CutDone by d")
	if r := x.fx.Receipts; len(r) != 1 || len(r[0].Rest) > 0 {
		t.Errorf("receipts %+v, want one without a rest", r)
	}
}

// a is cut everywhere and comes back before that is final; what it took along
// then takes it along again. The second cut's answer cannot wait for the first
// one's receipt, which waits for that answer.
func TestTakenAlongBehindItsOwnCut(t *testing.T) {
	x := newHome(a)
	x.established(b)
	x.take(graph.Message{Kind: graph.Cut, All: true, Evidence: at(10)})
	x.take(graph.Message{Kind: graph.UnlinkAck, From: b.hash(), Gen: 1}, graph.Message{Kind: graph.OptIn, ToGen: 2, Evidence: at(20)})
	out := x.take(graph.Message{Kind: graph.CutMember, From: c.hash(), About: c.hash(), Gen: 5, ToGen: 3, Evidence: at(10)})
	wantSends(t, "taken along", out, "a -> c CutDone")
	if len(x.fx.Receipts) > 0 {
		t.Errorf("receipts before b is cut: %+v", x.fx.Receipts)
	}
	wantSends(t, "b is cut", x.take(graph.Message{Kind: graph.CutDone, From: b.hash(), Gen: 1, All: true}))
	if r := x.fx.Receipts; len(r) != 2 || r[0].Gen != 1 || r[1].Gen != 3 {
		t.Errorf("receipts %+v, want those of generations 1 and 3", r)
	}
}
