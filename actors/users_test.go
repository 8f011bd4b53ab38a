package actors_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/actors"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// newTestRig is a direct shell of all partitions.
func newTestRig(t *testing.T, r *rules) *rig { return newRig(t, actors.NewDirect(config(r, 1<<20))) }

// user is who is one with a visitor, by what its node's root knows.
func (g *rig) user(s proto.SpaceID, visitor string) int {
	state, _ := g.store.state(g.t, nodeIn(s, visitor))
	if state == nil || state.Graph == nil {
		return 1
	}
	root, _ := g.store.state(g.t, proto.Node{Hash: state.Graph.RootOf(nodeIn(s, visitor).Hash), Space: s})
	return 1 + len(root.Graph.Members)
}

// in reports whether a visitor is in a segment, by the bits.
func (g *rig) in(s proto.SpaceID, visitor string, client proto.ClientID, key proto.SegmentKey) bool {
	state, _ := g.store.state(g.t, nodeIn(s, visitor))
	return state != nil && state.Named && g.store.bits[segments.BitDelta{Key: key, Client: client, Ordinal: state.Ordinal}]
}

// decided are the answers to commands of the last batch, the graph's too.
func (g *rig) decided() []graph.Decision {
	list := g.graphed
	g.graphed = nil
	for _, o := range g.outs {
		list = append(list, o.Decisions...)
	}
	return list
}

func wantDecided(t *testing.T, g *rig, what string, want ...graph.Decision) {
	t.Helper()
	if diff := cmp.Diff(want, g.decided()); diff != "" {
		t.Errorf("%s: decisions (-want +got):\n%s", what, diff)
	}
}

// An event that is sent again links nobody again: not who was parted since, and not
// who opted out and in.
func TestRepeatLinksNobody(t *testing.T) {
	for what, between := range map[string][]command{
		"parted":         {unlink(1, 1, "a", "b", start+second)},
		"out, and in":    {cut(proto.CutOptOut, "b", start+second, 7), optIn("b", 1, start+2*second, 8)},
		"naming another": nil,
	} {
		g := newTestRig(t, newRules(t))
		g.do(eventIn(1, 1, "x", "e1", start, "a", "b"))
		if g.user(1, "a") != 2 {
			t.Fatalf("%s: the event linked nobody", what)
		}
		want, who := 1, []string{"a", "b"}
		if what == "naming another" {
			want, who = 2, []string{"a", "c"}
		}
		for _, c := range between {
			g.wait(second)
			g.do(c)
		}
		g.wait(second)
		g.do(eventIn(1, 1, "x", "e1", g.now, who...))
		g.rest()
		if got := g.user(1, "a"); got != want {
			t.Errorf("%s: after the repeat the user has %d nodes, want %d", what, got, want)
		}
		g.do(eventIn(1, 1, "x", "e3", g.now+1, who...))
		g.rest()
		if got := g.user(1, "a"); got != want+1 {
			t.Errorf("%s: after another event the user has %d nodes, want %d", what, got, want+1)
		}
		g.store.audit(t)
	}
}

// Identities that nothing is known of but a link are named, at both ends, and
// count for what their user is made of.
func TestLinkNamesBoth(t *testing.T) {
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}, {"account:a", "b"}, {"a", "account:b"}} {
		g := newTestRig(t, newRules(t))
		g.do(link(1, 2, pair[0], pair[1], start, 7))
		wantDecided(t, g, fmt.Sprint(pair), graph.Decision{Command: 7, Linked: true})
		g.store.audit(t)
		if len(g.store.names) != 2 || g.user(1, "a") > 2 {
			t.Fatalf("%v: named are %v", pair, g.store.names)
		}
		devices := 0
		for _, v := range pair {
			if called(v).Kind() == "browser" {
				devices++
			}
		}
		// Segment 4 wants two devices; nobody has told anything of the other one.
		g.do(eventIn(1, 2, "x", "", g.now, pair[0]))
		for _, v := range pair {
			if got := g.in(1, v, 2, 4); got != (devices >= 2) {
				t.Errorf("%v: with %d devices, %s is in: %v", pair, devices, v, got)
			}
		}
	}
}

// An identity that a command links is named though its batch was committed,
// and its lane began anew, before the other end's lane agreed.
func TestLinkNamesAcrossLanes(t *testing.T) {
	a, b := "a", "b"
	var laneOf [proto.Partitions]proto.LaneID
	laneOf[homeOf(b)] = 1
	if homeOf(a) == homeOf(b) {
		t.Fatal("both have the same home")
	}
	r := newRules(t)
	var rigs [2]*rig
	var configs [2]actors.Config
	for i := range rigs {
		configs[i] = config(r, 1<<20)
		configs[i].Partitions = nil
		for p, l := range laneOf {
			if int(l) == i {
				configs[i].Partitions = append(configs[i].Partitions, proto.PartitionID(p))
			}
		}
		rigs[i] = newRig(t, actors.NewDirect(configs[i]))
		rigs[i].lane = graph.NewLane(proto.LaneID(i), 2, &laneOf)
	}
	rigs[0].do(link(1, 2, a, b, start, 7))
	for range 20 {
		for i, g := range rigs {
			to := rigs[1-i]
			lo, pack := g.lane.Outbox[to.lane.ID].Pack(to.lane.Applied[i]+1, 1000)
			to.now++
			to.take([]entry{{now: to.now, received: to.lane.Receive(g.lane.ID, lo, pack)}})
			g.lane.Outbox[to.lane.ID].Trim(to.lane.Applied[i])
			to.restart(configs[1-i])
		}
	}
	for i, g := range rigs {
		g.store.audit(t)
		if len(g.store.names) != 1 || len(g.store.users) != 1 {
			t.Errorf("lane %d has named %v, with users %v", i, g.store.names, g.store.users)
		}
	}
}

// A link that is refused, and one that is removed in the entry that asked for
// it, leave two that are alone.
func TestLinkThatDoesNotLast(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(cut(proto.CutOptOut, "b", start, 1))
	g.do(link(1, 1, "a", "b", g.now+1, 7))
	wantDecided(t, g, "with one who is out", graph.Decision{Command: 7, Reason: graph.ReasonOptedOut})
	g.do(link(1, 1, "b", "a", g.now+1, 8))
	wantDecided(t, g, "by one who is out", graph.Decision{Command: 8, Reason: graph.ReasonOptedOut})
	g.do(link(1, 1, "a", "c", g.now+1, 9), unlink(1, 1, "a", "c", g.now+1))
	wantDecided(t, g, "removed at once", graph.Decision{Command: 9, Reason: graph.ReasonRemoved})
	g.store.audit(t)
	if len(g.store.users) > 0 {
		t.Errorf("users are %v", g.store.users)
	}
}

// A removal removes what the lane has, though the clock was set back since: the lane's
// time stays where it was, and so do links by it.
func TestRemovalByAClockSetBack(t *testing.T) {
	for what, b := range map[string]string{"of an edge": "b", "of a client's": ""} {
		g := newTestRig(t, newRules(t))
		ahead := start + 3600*second
		g.now = ahead
		g.do(eventIn(1, 1, "x", "", ahead, "a", "b"))
		if g.user(1, "a") != 2 {
			t.Fatalf("%s: the event linked nobody", what)
		}
		g.do(unlink(1, 1, "a", b, start))
		g.rest()
		if got := g.user(1, "a"); got != 1 {
			t.Errorf("%s: after the removal the user has %d nodes", what, got)
		}
		g.do(link(1, 1, "a", "b", g.now+1, 7))
		wantDecided(t, g, what+": a newer link", graph.Decision{Command: 7, Linked: true})
		g.store.audit(t)
	}
}

// A removal goes as far ahead as the newest that the other end may have, and no further
// than clocks differ: one wrong clock bars a pair no longer.
func TestRemovalAsOfAnotherLane(t *testing.T) {
	for what, b := range map[string]string{"of an edge": "b", "of a client's": ""} {
		g := newTestRig(t, newRules(t))
		g.do(eventIn(1, 1, "x", "", start, "a", "b"))
		g.do(unlinkAsOf(1, 1, "a", b, start, start+3600*second))
		g.rest()
		if got := g.user(1, "a"); got != 1 {
			t.Errorf("%s: after the removal the user has %d nodes", what, got)
		}
		removed := g.now
		g.now = removed + 499
		g.do(link(1, 1, "a", "b", g.now, 7))
		wantDecided(t, g, what+": within the skew", graph.Decision{Command: 7, Reason: graph.ReasonRemoved})
		g.now = removed + 3*second
		g.do(link(1, 1, "a", "b", g.now, 8))
		wantDecided(t, g, what+": beyond it", graph.Decision{Command: 8, Linked: true})
		g.store.audit(t)
	}
}

// A proposal with another identity's name does not name the node so.
func TestProposalWithAnotherName(t *testing.T) {
	for name, named := range map[string]int{"browser:a": 1, "browser:c": 0, "": 0} {
		g := newTestRig(t, newRules(t))
		half := graph.Message{Kind: graph.Half, To: nodeOf("a"), From: nodeOf("b").Hash, Gen: 1, Evidence: graph.Evidence{Time: start}, Body: []byte(name)}
		g.take([]entry{{now: g.now, received: []graph.Message{half}}})
		g.settle()
		if len(g.store.names) != named {
			t.Errorf("a proposal with the name %q names %v", name, g.store.names)
		}
	}
}

// A proposal without a name does not name who was called so by a command that
// panicked; a link of the same entry has its name for it all the same.
func TestNameOfWhatPanicked(t *testing.T) {
	r := newRules(t)
	r.poisoned.Store(poison)
	defer r.poisoned.Store(0)
	bad := event(poison, "a", "p", "", start)
	g := newTestRig(t, r)
	half := graph.Message{Kind: graph.Half, To: nodeOf("a"), From: nodeOf("b").Hash, Gen: 1, Evidence: graph.Evidence{Time: start}}
	g.take([]entry{{now: g.now, commands: []command{bad}}, {now: g.now + 1, received: []graph.Message{half}}})
	g.settle()
	if len(g.store.names) > 0 {
		t.Errorf("named is %v", g.store.names)
	}
	g = newTestRig(t, r)
	g.do(link(1, 1, "a", "b", start, 1), bad)
	if len(g.store.names) != 2 {
		t.Errorf("with a link, named is %v", g.store.names)
	}
	g.store.audit(t)
}

// A panic on an event of a linked identity leaves it as its links, verdicts and
// cuts of the same batch made it.
func TestPanicOfLinked(t *testing.T) {
	r := newRules(t)
	r.poisoned.Store(poison)
	defer r.poisoned.Store(0)
	bad := func(v string) command { return event(poison, v, "p", "", start+100*second) }
	for what, c := range map[string]struct{ before, batch []command }{
		"named by a link": {nil, []command{link(1, 1, "a", "b", start, 1), bad("a"), bad("b")}},
		"named by a link of an event": {nil, []command{
			eventIn(1, 1, "x", "", start, "a", "b"), bad("b"), event(1, "b", "x", "", start), bad("b"),
		}},
		"erased, and seen again": {[]command{eventIn(1, 1, "x", "", start, "a", "b")}, []command{
			cut(proto.CutErase, "b", start, 1), bad("b"), event(1, "b", "x", "", start+100*second), bad("b"),
		}},
		"forgotten by one of two": {[]command{event(1, "a", "x", "", start), event(2, "a", "x", "", start)}, []command{
			event(1, "a", strings.Repeat("z", 600), "", start), forget(1, 1, "a", start, 1), bad("a"), event(1, "a", "x", "", start), bad("a"),
		}},
		"a verdict with an exit": {[]command{eventIn(1, 1, "x", "", start, "a", "b")}, []command{
			eventIn(1, 1, "x", "", start, "b"), bad("a"), bad("b"), traits(2, "a", proto.Prop{Key: "vip", Value: proto.FlagOf(true)}), bad("a"),
		}},
		"parted": {[]command{eventIn(1, 2, "x", "", start, "a", "b")}, []command{
			unlink(1, 2, "b", "a", start+1), bad("b"), event(2, "b", "x", "", start+1), bad("b"),
		}},
	} {
		t.Run(what, func(t *testing.T) {
			run := func(poisoned bool) *rig {
				g := newTestRig(t, r)
				g.do(c.before...)
				var batch []entry
				for i, x := range c.batch {
					if isBad := strings.Contains(string(x.body), "\x01p"); poisoned || !isBad {
						batch = append(batch, entry{now: g.now + second*proto.Millis(i), commands: []command{x}})
					}
				}
				g.take(append(batch, entry{now: g.now + 10*second, beat: true}))
				dead := 0
				for _, o := range g.outs {
					dead += len(o.Dead)
				}
				if (dead > 0) != poisoned {
					t.Errorf("%d commands are dead, poisoned: %v", dead, poisoned)
				}
				g.now += 10 * second
				g.wait(10 * second)
				g.store.audit(t)
				return g
			}
			with, without := run(true), run(false)
			if diff := cmp.Diff(withoutIgnored(told(without.all)), withoutIgnored(told(with.all))); diff != "" {
				t.Errorf("told (-without panics +with):\n%s", diff)
			}
			wantStored(t, "(-without panics +with)", without.store, with.store)
		})
	}
}

// What a client had forgotten does not come back in the history by which its
// new rules are judged, though neither is committed yet.
func TestForgottenBlocksStayForgotten(t *testing.T) {
	big := strings.Repeat("z", 600) // seals a block each
	run := func(lag int) *rig {
		r := newRules(t)
		g := newTestRig(t, r)
		g.lag = lag
		one := func(c command) { g.take([]entry{{now: g.now, commands: []command{c}}}) }
		one(event(2, "a", "x", "", start))
		for range 3 {
			one(event(1, "a", big, "", start))
		}
		one(forget(1, 1, "a", start, 1))
		one(event(1, "a", big, "", start))
		r.define(t, 1, 9, fmt.Sprintf(`count(event.name == %q) >= 2`, big))
		one(event(1, "a", "y", "", start))
		g.settle()
		g.store.audit(t)
		return g
	}
	late, soon := run(100), run(0)
	if late.in(1, "a", 1, 9) || soon.in(1, "a", 1, 9) {
		t.Errorf("one event of that name is left; counted as two: with late commits %v, soon %v", late.in(1, "a", 1, 9), soon.in(1, "a", 1, 9))
	}
	wantStored(t, "(-committed soon +late)", soon.store, late.store)
}

// An identity that panics after a client's history was forgotten is rebuilt
// without it, whatever would have been read of it before.
func TestPanicAfterForgottenHistory(t *testing.T) {
	big := strings.Repeat("z", 600)
	run := func(poisoned bool) *rig {
		r := newRules(t)
		g := newTestRig(t, r)
		g.lag = 100
		for _, c := range []command{
			event(2, "a", "x", "", start), event(1, "a", big, "", start), event(1, "a", big, "", start), event(1, "a", "x", "", start), event(1, "a", "x", "", start),
		} {
			g.take([]entry{{now: g.now, commands: []command{c}}})
		}
		r.define(t, 1, 9, fmt.Sprintf(`count(event.name == %q) >= 2`, big))
		late := g.now + 10*second
		batch := []entry{{now: late, beat: true}, {now: late, commands: []command{forget(1, 1, "a", late, 1)}}}
		if poisoned {
			r.poisoned.Store(poison)
			batch = append(batch, entry{now: late, commands: []command{event(poison, "a", "p", "", late)}})
		}
		g.take(batch)
		r.poisoned.Store(0)
		g.settle()
		g.store.audit(t)
		return g
	}
	wantStored(t, "(-without the panic +with)", run(false).store, run(true).store)
}

// Time takes a user's memberships away at all its nodes, whichever timer comes
// first, after a new start too.
func TestUserLeavesByTime(t *testing.T) {
	r := newRules(t)
	g := newTestRig(t, r)
	g.do(eventIn(1, 1, "x", "", start, "a", "b", "c"))
	g.do(event(1, "b", "x", "", g.now))
	for _, v := range []string{"a", "b", "c"} {
		if !g.in(1, v, 1, 1) || g.in(1, v, 1, ownSegment) == (v == "c") {
			t.Fatalf("%s is in the user's segment %v, in its own %v", v, g.in(1, v, 1, 1), g.in(1, v, 1, ownSegment))
		}
	}
	g.restart(config(r, 1<<20))
	g.wait(5 * second)
	for _, v := range []string{"a", "b", "c"} {
		if g.in(1, v, 1, 1) || g.in(1, v, 1, ownSegment) {
			t.Errorf("after five seconds %s is in the user's segment %v, in its own %v", v, g.in(1, v, 1, 1), g.in(1, v, 1, ownSegment))
		}
	}
	g.store.audit(t)
}
