package graph_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/graph"
	"kith/proto"
)

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

func TestForgottenEvidence(t *testing.T) {
	by := func(c proto.ClientID, at proto.Millis) graph.Evidence { return graph.Evidence{Time: at, Client: c} }
	half := func(e graph.Evidence, again bool) graph.Message {
		return graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Again: again, Evidence: e}
	}
	fenced := func(in ...graph.Message) *home {
		x := newHome(a)
		x.take(in...)
		x.env.Fences = []graph.Fence{{Client: 1, Time: 20}}
		return x
	}
	pending := graph.Message{Kind: graph.Link, About: b.hash(), Evidence: by(2, 10)}

	x := fenced()
	wantSends(t, "a proposal", x.take(half(by(1, 20), false)), "a -> b HalfNo")
	wantSends(t, "a link", x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: by(1, 20)}))
	if x.state.Link(b.hash()) != nil {
		t.Error("it is remembered")
	}
	wantSends(t, "another's", x.take(half(by(2, 20), false)), "a -> b HalfOK", "a -> b Invite by a")
	wantSends(t, "newer", x.take(half(by(1, 21), true)), "a -> b HalfOK")

	keep := func(what string, x *home, in graph.Message, at proto.Millis) {
		t.Helper()
		out := x.take(in)
		wantSends(t, what, out, "a -> b HalfOK")
		if m := out[0]; !m.Again || m.Client != 2 || m.Time != at || m.Echo != in.Time {
			t.Errorf("%s: it is answered by %+v", what, m)
		}
		if l := x.state.Link(b.hash()); l.Client != 2 || l.Time != at {
			t.Errorf("%s: the edge is %+v", what, l)
		}
	}
	keep("newer than an edge's", fenced(half(by(2, 10), false)), half(by(1, 15), true), 10)
	keep("older than an edge's", fenced(half(by(2, 18), false)), half(by(1, 15), true), 18)
	keep("while this home proposes another's", fenced(pending), half(by(1, 15), false), 10)
	x = fenced(half(by(2, 10), false))
	again := half(by(1, 15), true)
	again.Gen = 3
	wantSends(t, "to a later generation", x.take(again), "a -> b HalfNo", "a -> b Forgot")

	answer := graph.Message{Kind: graph.HalfOK, From: b.hash(), ToGen: 1, Gen: 1, Evidence: by(1, 15), Echo: 10}
	x = fenced(pending)
	wantSends(t, "in an agreement", x.take(answer), "a -> b HalfOK", "a -> b Invite by a")
	if l := x.state.Link(b.hash()); l.Stage != graph.Established || l.Client != 2 || l.Time != 10 {
		t.Errorf("after an agreement that brings it the edge is %+v", l)
	}
}

// Who proposed what does not count at the other end takes what is kept there, and has the
// command answered no; the edge stays if it proposed something newer since, or goes if it was itself told to remove that.
func TestKeepInstead(t *testing.T) {
	ok := graph.Message{Kind: graph.HalfOK, From: b.hash(), Again: true, ToGen: 1, Gen: 1, Evidence: graph.Evidence{Time: 10, Client: 2}, Echo: 15, Number: 1}
	proposed := func(at proto.Millis) graph.Message {
		return graph.Message{Kind: graph.Link, About: b.hash(), Command: uint64(at), Evidence: graph.Evidence{Time: at, Client: 1}}
	}
	other := []graph.Fence{{Client: 2, Time: 20}} // neither end has evidence that counts at the other
	for what, c := range map[string]struct {
		before   []graph.Message
		fences   []graph.Fence
		stage    graph.Stage
		at       proto.Millis
		answered []uint64 // no
	}{
		"a proposal":                    {[]graph.Message{proposed(15)}, nil, graph.Established, 10, []uint64{15}},
		"an edge":                       {[]graph.Message{{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(5)}, proposed(15)}, nil, graph.Established, 10, []uint64{15}},
		"older ones wait too":           {[]graph.Message{proposed(12), proposed(15)}, nil, graph.Established, 10, []uint64{15}},
		"a newer one since":             {[]graph.Message{proposed(15), proposed(17)}, nil, graph.Pending, 17, []uint64{15}},
		"a newer one in an event since": {[]graph.Message{{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(5)}, proposed(15), {Kind: graph.Link, About: b.hash(), Evidence: graph.Evidence{Time: 17, Client: 1}}}, nil, graph.Established, 17, []uint64{15}},
		"removed here since it":         {[]graph.Message{{Kind: graph.Remove, About: b.hash(), Evidence: at(12)}, proposed(15)}, nil, graph.Absent, 0, []uint64{15}},
		"a proposal, forgotten":         {[]graph.Message{proposed(15)}, other, graph.Absent, 0, []uint64{15}},
		"an edge, forgotten":            {[]graph.Message{{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(5)}, proposed(15)}, other, graph.Absent, 0, []uint64{15}},
	} {
		x := newHome(a)
		x.take(c.before...)
		x.env.Fences = c.fences
		x.take(ok)
		var no []uint64
		for _, d := range x.fx.Decisions {
			if !d.Linked {
				no = append(no, d.Command)
			}
		}
		var l graph.Neighbour
		if known := x.state.Link(b.hash()); known != nil {
			l = *known
		}
		if l.Stage != c.stage || l.Time != c.at || !slices.Equal(no, c.answered) {
			t.Errorf("%s: the edge is %+v, answered no are %v", what, l, no)
		}
		for _, q := range x.state.Asks {
			if c.stage == graph.Established && q.Since > 0 {
				t.Errorf("%s: %+v waits for ever", what, q)
			}
		}
	}
}

// What an end is told to keep, unasked, answers none of its proposals.
func TestKeepUnasked(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: graph.Evidence{Time: 5, Client: 1}})
	x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: graph.Evidence{Time: 15, Client: 3}})
	open := x.state.Link(b.hash()).Open
	x.take(graph.Message{Kind: graph.HalfOK, From: b.hash(), Again: true, Capped: true, ToGen: 1, Gen: 1, Evidence: graph.Evidence{Time: 10, Client: 2}, Echo: 15, Number: 3})
	if l := x.state.Link(b.hash()); open == 0 || l.Open != open || l.Client != 2 {
		t.Errorf("of %d proposals that were open %d are: %+v", open, l.Open, l)
	}
	y := newHome(a)
	wantSends(t, "of an edge that is not there", y.take(graph.Message{Kind: graph.HalfOK, From: b.hash(), Again: true, Capped: true, ToGen: 1, Gen: 1, Evidence: at(10), Echo: 15}))
}

func TestWithdrawTakesWhatClocksAheadBrought(t *testing.T) {
	x := newHome(a)
	skew := 2 * x.env.Config.SkewMillis
	for i, p := range []id{b, c, d} { // at the time of the withdrawal, as far ahead as clocks may be, and beyond
		at := []proto.Millis{10, 10 + skew, 11 + skew}[i]
		x.take(graph.Message{Kind: graph.Half, From: p.hash(), Gen: 1, Evidence: graph.Evidence{Time: at, Client: 1}})
	}
	x.take(graph.Message{Kind: graph.Withdraw, Evidence: graph.Evidence{Time: 10, Client: 1}})
	for p, mark := range map[id]proto.Millis{b: 10, c: 10 + skew} {
		if l := x.state.Link(p.hash()); l.Stage != graph.Absent || l.Mark != graph.RemovedMark || l.MarkTime != mark {
			t.Errorf("the link to %d is %+v, want it removed as of %d", p, l, mark)
		}
	}
	if l := x.state.Link(d.hash()); l.Stage != graph.Established {
		t.Errorf("one that is newer than any clock may be ahead is %+v", l)
	}
}

func TestRemovalWinsTies(t *testing.T) {
	x := newHome(a)
	x.take(graph.Message{Kind: graph.Remove, About: b.hash(), Evidence: at(10)})
	wantSends(t, "a link of the same time", x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(10)}))
	wantSends(t, "a proposal of the same time", x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(10)}), "a -> b HalfNo")
	wantSends(t, "a newer link", x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(11)}), "a -> b Half")
}

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

func TestAnswerAboutAnEarlierRemoval(t *testing.T) {
	x := newHome(a)
	remove := func() uint64 {
		out := x.take(graph.Message{Kind: graph.Remove, About: b.hash(), Evidence: at(10)})
		wantSends(t, "a removal", out, "a -> b Drop")
		return out[0].Number
	}
	answer := func(k graph.Kind, number uint64) *graph.Neighbour {
		x.take(graph.Message{Kind: k, From: b.hash(), ToGen: x.state.Gen, Gen: 1, Number: number})
		return x.state.Link(b.hash())
	}
	first := remove()
	x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(20)})
	x.take(graph.Message{Kind: graph.Refuse, From: c.hash(), About: b.hash(), AboutGen: 1, ToGen: 1, Evidence: at(20)})
	second := remove() // of the same time as the first, whose mark the edge ended
	if l := answer(graph.DropNo, first); l == nil {
		t.Fatal("the mark is gone by an answer about the one before it")
	}
	if l := answer(graph.DropOK, first); l.MarkGen != 0 {
		t.Error("the other end is thought to remember the removal, by an answer about the one before it")
	}
	if l := answer(graph.DropOK, second); l.MarkGen != 1 {
		t.Errorf("confirmed: %+v, want generation 1", l)
	}
	if l := answer(graph.DropNo, second); l == nil {
		t.Error("a confirmed mark is gone by a late answer")
	}

	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(50)})
	x.take(graph.Message{Kind: graph.OptIn, ToGen: 2, Evidence: at(60)})
	x.env.Config.SkewMillis, x.state.Fence = 0, 0
	if third := remove(); third <= second {
		t.Errorf("removal %d after the opt-in, %d before it: numbers began anew", third, second)
	}
	if l := answer(graph.DropNo, x.state.Removals); l != nil {
		t.Errorf("the other end does not remember it, and here it still is: %+v", l)
	}
}

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

// R10: a link is answered when the other end has its evidence, not that of an
// earlier one: a removal from in between may still be under way to there.
func TestAnswerWaitsForTheOtherEnd(t *testing.T) {
	x := newHome(a)
	x.established(b)
	x.take(contrib(b, 1, a))
	decided := func(what string, out []graph.Message, sent []string, commands ...uint64) {
		t.Helper()
		wantSends(t, what, out, sent...)
		var got []uint64
		for _, d := range x.fx.Decisions {
			if got = append(got, d.Command); !d.Linked {
				t.Errorf("%s: %+v", what, d)
			}
		}
		if diff := cmp.Diff(commands, got); diff != "" {
			t.Errorf("%s: answered (-want +got):\n%s", what, diff)
		}
	}
	link := func(t proto.Millis, command uint64) []graph.Message {
		return x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(t), Command: command})
	}
	agree := func(t proto.Millis) []graph.Message {
		return x.take(graph.Message{Kind: graph.HalfOK, From: b.hash(), ToGen: 1, Gen: 1, Evidence: at(t), Echo: t})
	}
	asks := []string{"a -> b Half"}
	decided("a link", link(20, 1), asks)
	decided("a newer one", link(30, 2), asks)
	decided("the other end has the first", agree(20), []string{"a -> b Joined of a"}, 1)
	decided("an older link", link(25, 3), asks)
	decided("the other end has the newer", agree(30), nil, 2, 3)
	decided("one that nobody waits for", x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(40)}), nil)
}

// R10: the root is asked again when the edge is to a later generation: what it
// answers may be about the earlier one.
func TestAskedAgainOfALaterGeneration(t *testing.T) {
	x := newHome(c)
	x.established(b)
	x.take(graph.Message{Kind: graph.Invite, From: b.hash(), ToGen: 1, List: []graph.Ref{{Peer: b.hash(), Gen: 1}}})
	x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(20), Command: 1})
	out := x.take(graph.Message{Kind: graph.HalfOK, From: b.hash(), ToGen: 1, Gen: 1, Evidence: at(20), Echo: 20})
	wantSends(t, "the other end has it", out, "c -> b Ask of b")
	out = x.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 2, Evidence: at(30)})
	wantSends(t, "the other end was erased and is linked again", out, "c -> b HalfOK", "c -> b Contrib", "c -> b Ask of b")
}

// R10: an edge can be refused twice with the same evidence. What the other end
// says of the first time does not end the mark of the second, without which a cut
// would not tell it.
func TestForgotOfAnEarlierRefusal(t *testing.T) {
	x := newHome(a)
	x.env.Config.EdgesMax = 1
	refused := func() uint64 {
		x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(10)})
		x.take(graph.Message{Kind: graph.HalfOK, From: b.hash(), ToGen: 1, Gen: 1, Evidence: at(10), Echo: 10})
		out := x.take(graph.Message{Kind: graph.Refuse, From: c.hash(), About: b.hash(), AboutGen: 1, ToGen: 1, Evidence: at(10)})
		if len(out) == 0 || out[0].Kind != graph.Drop || out[0].Number == 0 {
			t.Fatalf("refused: %+v", out)
		}
		return out[0].Number
	}
	marked := func(what string, number uint64, theirs, want bool) {
		t.Helper()
		x.take(graph.Message{Kind: graph.Forgot, From: b.hash(), Number: number, Out: theirs, Evidence: at(10)})
		if l := x.state.Link(b.hash()); (l != nil) != want {
			t.Errorf("%s: %+v", what, l)
		}
	}
	first := refused()
	second := refused()
	marked("about the first", first, false, true)
	marked("a number of the other end's", second, true, true)
	x.established(c)
	out := x.take(graph.Message{Kind: graph.Half, From: b.hash(), Again: true, Gen: 1, Evidence: at(20)})
	wantSends(t, "there is no room for newer evidence", out, "a -> b HalfNo", "a -> b Forgot")
	if out[0].Number <= second {
		t.Errorf("declined as number %d, after %d", out[0].Number, second)
	}
	marked("about what was declined", out[0].Number, false, false)

	y := newHome(b)
	y.established(a)
	y.take(graph.Message{Kind: graph.Drop, From: a.hash(), Capped: true, ToGen: 1, Gen: 1, Number: second, Evidence: at(10)})
	if l := y.state.Link(a.hash()); l == nil || l.Mark != graph.CappedMark {
		t.Fatalf("the other end remembers %+v", l)
	}
	y.take(graph.Message{Kind: graph.Forgot, From: a.hash(), Number: second, Evidence: at(10)})
	if y.state.Link(a.hash()) == nil {
		t.Error("the mark is gone by a number that is its own")
	}
	y.take(graph.Message{Kind: graph.Forgot, From: a.hash(), Number: second, Out: true, Evidence: at(10)})
	if l := y.state.Link(a.hash()); l != nil {
		t.Errorf("forgotten, and here it still is: %+v", l)
	}
}

// R1: who was erased and agrees anew has the edge in its new generation, and a
// later refusal must name that.
func TestAgreementOfALaterGeneration(t *testing.T) {
	x := newHome(a)
	x.established(b)
	for _, gen := range []uint32{3, 1} {
		x.take(graph.Message{Kind: graph.HalfOK, From: b.hash(), ToGen: 1, Gen: gen, Evidence: at(20), Echo: 20})
		if l := x.state.Link(b.hash()); l.Stage != graph.Established || l.Gen != 3 {
			t.Errorf("after an agreement of generation %d: %+v", gen, l)
		}
	}
}

// R1: whom a proposal is under way to is remembered until it is answered: it may
// yet make the edge there, and a cut must tell.
func TestOpenProposalsAreRemembered(t *testing.T) {
	x := newHome(a)
	link := func(t proto.Millis) {
		x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(t), Command: uint64(t)})
	}
	no := func(t proto.Millis) {
		x.take(graph.Message{Kind: graph.HalfNo, From: b.hash(), ToGen: 1, Gen: 1, Evidence: at(t)})
	}
	link(10)
	link(20)
	no(20) // of another command with that time
	if l := x.state.Link(b.hash()); l == nil || l.Stage != graph.Absent || l.Open != 1 {
		t.Fatalf("one of two is answered: %+v", l)
	}
	if x.state.Settled() {
		t.Error("it counts as settled")
	}
	out := x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(50)})
	wantSends(t, "a cut", out, "a -> b Unlink")
	y := newHome(a)
	y.established(b)
	y.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(30), Command: 1})
	y.take(graph.Message{Kind: graph.Half, From: b.hash(), Gen: 1, Evidence: at(40)})
	y.take(graph.Message{Kind: graph.Drop, From: b.hash(), Capped: true, ToGen: 1, Gen: 1, Number: 1, Evidence: at(40)})
	y.take(graph.Message{Kind: graph.Forgot, From: b.hash(), Number: 1, Out: true, Evidence: at(40)})
	if l := y.state.Link(b.hash()); l == nil || l.Open != 1 {
		t.Errorf("a proposal is still under way: %+v", l)
	}
	y.take(graph.Message{Kind: graph.HalfNo, From: b.hash(), Again: true, ToGen: 1, Gen: 1, Number: 2, Evidence: at(30)})
	if l := y.state.Link(b.hash()); l != nil {
		t.Errorf("all is answered: %+v", l)
	}
}

// R7: a tombstone says that it does not remember a removal only when no copy of it
// is left: who asks has no mark then, and a copy may name it.
func TestTombstoneAnswersARemovalLast(t *testing.T) {
	x := newHome(c)
	x.established(b)
	x.take(graph.Message{Kind: graph.Invite, From: b.hash(), ToGen: 1, List: []graph.Ref{{Peer: b.hash(), Gen: 1}}})
	x.take(graph.Message{Kind: graph.Cut, Command: 1, Evidence: at(50)})
	drop := graph.Message{Kind: graph.Drop, From: d.hash(), Gen: 1, Number: 7, Evidence: at(40)}
	wantSends(t, "a removal while a copy is taken back", x.take(drop))
	out := x.take(graph.Message{Kind: graph.Release, From: b.hash(), Ver: x.state.Ver, Gen: 1})
	wantSends(t, "the copy is gone", out, "c -> d DropNo", "c -> b Unlink")
	if out[0].Number != 7 {
		t.Errorf("it answers removal %d, want 7", out[0].Number)
	}
}

// Evidence of another client goes to the other end, that of the same does not; an
// answer from before it is corrected, and of the same time both keep the same.
func TestEvidenceOfAnotherClient(t *testing.T) {
	x := newHome(a)
	x.established(b)
	link := func(t proto.Millis, c proto.ClientID) []graph.Message {
		return x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: graph.Evidence{Time: t, Client: c}})
	}
	wantSends(t, "another client", link(100, 7), "a -> b Half")
	wantSends(t, "the same client", link(110, 7))
	if !slices.Contains(x.fx.Links, b.hash()) {
		t.Error("the newer time is not written")
	}
	old := graph.Message{Kind: graph.HalfOK, From: b.hash(), Gen: 1, ToGen: 1, Evidence: graph.Evidence{Time: 105, Client: 3}, Echo: 100}
	wantSends(t, "an older answer that says something else", x.take(old), "a -> b Half")
	old.Evidence = graph.Evidence{Time: 110, Client: 8}
	wantSends(t, "an answer of the same time", x.take(old))
	if l := x.state.Link(b.hash()); l.Client != 8 {
		t.Errorf("kept is %+v", l)
	}
}

// What is seen together every day is as young at the other end as here, but for
// the day.
func TestRenewedOnceADay(t *testing.T) {
	const hour = proto.Millis(60 * 60 * 1000)
	x, y := newHome(a), newHome(b)
	link := func(h proto.Millis) []graph.Message {
		return x.take(graph.Message{Kind: graph.Link, About: b.hash(), Evidence: at(h * hour)})
	}
	x.take(y.take(link(1)...)...)
	wantSends(t, "the same day", link(23))
	out := link(24)
	wantSends(t, "the next day", out, "a -> b Half")
	ver := y.state.Ver
	wantSends(t, "its answer", x.take(y.take(out...)...))
	if l := y.state.Link(a.hash()); l.Time != 24*hour || y.state.Ver != ver {
		t.Errorf("the other end has %+v, version %d after %d", l, y.state.Ver, ver)
	}
	wantSends(t, "later that day", link(30))
	wantSends(t, "an older day", link(20))
}
