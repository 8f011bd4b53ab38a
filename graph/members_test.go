package graph_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/graph"
)

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

func TestOldLeaveKeepsNewerCopy(t *testing.T) {
	root := newHome(a)
	root.established(b)
	root.take(contrib(b, 5, a))
	root.take(graph.Message{Kind: graph.Leave, From: b.hash(), Ver: 4, Gen: 1})
	if root.state.Copy(b.hash()) == nil {
		t.Error("the copy of version 5 left with version 4")
	}
}

func TestStrayCopyIsTurnedAway(t *testing.T) {
	x := newHome(b)
	x.established(a)
	x.take(graph.Message{Kind: graph.Invite, From: a.hash(), ToGen: 1, List: []graph.Ref{{Peer: a.hash(), Gen: 1}}})
	wantSends(t, "a copy at b, which follows a", x.take(contrib(c, 1, b)), "b -> c Verdict out", "b -> c Release")
}

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
