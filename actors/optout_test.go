package actors_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/actors"
	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// finals are the cuts that the last batch told to be final, in short.
func (g *rig) finals() (list []string) {
	for _, o := range g.outs {
		for _, f := range o.Finals {
			list = append(list, fmt.Sprintf("%d: kind %d, generation %d, %d copies, %d members, %d also", f.Cut.Command, f.Cut.Kind, f.Cut.Gen, f.Cut.Copies, f.Cut.Members, f.Cut.Also))
		}
	}
	return list
}

func wantFinals(t *testing.T, g *rig, what string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, g.finals()); diff != "" {
		t.Errorf("%s: final (-want +got):\n%s", what, diff)
	}
}

func (g *rig) dark(s proto.SpaceID, visitor string) bool {
	state, _ := g.store.state(g.t, nodeIn(s, visitor))
	return state != nil && state.Dark()
}

func (g *rig) ignored() (n int) {
	for _, o := range g.outs {
		n += o.Ignored
	}
	return n
}

// One command takes the identity out of every space; where it is first met
// later it is out from the start; one command lets it in again everywhere.
func TestCutInAllSpaces(t *testing.T) {
	r := newRules(t)
	for what, again := range map[string]func(*rig){"at once": func(*rig) {}, "after a new start": func(g *rig) { g.restart(config(r, 1<<20)) }} {
		t.Run(what, func(t *testing.T) {
			g := newTestRig(t, r)
			g.do(eventIn(1, 1, "x", "", start, "a", "b"), eventIn(2, 2, "x", "", start, "a", "c"), eventIn(3, 2, "x", "", start, "d"))
			again(g)
			g.do(cut(proto.CutOptOut, "a", g.now, 7))
			wantFinals(t, g, "opted out", "7: kind 1, generation 2, 0 copies, 2 members, 0 also")
			if !g.dark(1, "a") || !g.dark(2, "a") || len(g.store.users) > 0 || len(g.store.names) != 3 {
				t.Errorf("out in space 1 %v, in 2 %v; users %v, names %v", g.dark(1, "a"), g.dark(2, "a"), g.store.users, g.store.names)
			}
			g.store.audit(t)
			again(g)
			// In space 3 it was never seen.
			g.do(eventIn(3, 1, "x", "", g.now, "a"), eventIn(1, 1, "x", "", g.now, "a"), link(3, 1, "d", "a", g.now, 8), traitsIn(2, 1, "a", g.now))
			if g.ignored() != 3 {
				t.Errorf("%d commands were ignored, want 3", g.ignored())
			}
			wantDecided(t, g, "a link", graph.Decision{Command: 8, Reason: graph.ReasonOptedOut})
			if s, _ := g.store.state(t, nodeIn(3, "a")); s != nil {
				t.Errorf("of space 3 is kept %+v", s)
			}
			again(g)
			opened := g.now + 1
			g.do(optIn("a", 1, opened, 9))
			wantDecided(t, g, "opt-in", graph.Decision{Command: 9, Linked: true})
			again(g)
			for s := proto.SpaceID(1); s <= 3; s++ {
				// Up to the fence is too early: it may be from before.
				g.do(eventIn(s, 1, "x", "", opened+500, "a"))
				if g.now = opened + 501; g.ignored() != 1 {
					t.Errorf("space %d: an event at the opt-in's time was taken in", s)
				}
				g.do(eventIn(s, 1, "x", "", opened+500, "a"))
				if g.ignored() != 1 {
					t.Errorf("space %d: an event from before the fence was taken in", s)
				}
				g.do(eventIn(s, 1, "x", "", opened+501, "a"))
				if g.ignored() != 0 {
					t.Errorf("space %d: an event after the opt-in was ignored", s)
				}
				if state, gen := g.store.state(t, nodeIn(s, "a")); state == nil || gen != 3 || !state.Known() {
					t.Errorf("space %d: generation %d is %+v", s, gen, state)
				}
			}
			g.store.audit(t)
		})
	}
}

// An event on an unknown identity is not stored under a tombstone's number; an
// opt-out of nobody is kept, and its events ignored.
func TestCutOfNobody(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "b", "x", "", start)) // so that there is a space
	g.do(cut(proto.CutOptOut, "a", start, 7), event(1, "a", "x", "", start))
	wantFinals(t, g, "opted out", "7: kind 1, generation 2, 0 copies, 0 members, 0 also")
	if g.ignored() != 1 || len(g.store.darks) > 0 || len(g.store.nodes) != 1 || len(g.store.optOuts) != 1 {
		t.Errorf("%d ignored, stored are %v, %v, %v", g.ignored(), g.store.nodes, g.store.darks, g.store.optOuts)
	}
	g.store.audit(t)
}

// Everywhere: who is cut with another is cut in its other spaces too, and the
// other's cut is not final before that.
func TestCutEverywhereWaitsForOtherSpaces(t *testing.T) {
	g := newTestRig(t, newRules(t))
	// In space 1 a and b are one; in space 2 b and c are, and b has many links
	// to take back.
	g.do(eventIn(1, 1, "x", "", start, "a", "b"))
	g.do(eventIn(2, 1, "x", "", start, "b", "c", "d", "e"))
	var log []string
	step := 0
	g.watch = func(groups []graph.Group) {
		step++
		for i := range groups {
			x := &groups[i]
			for range x.Effects.Receipts {
				if x.To.Hash == nodeOf("b").Hash {
					log = append(log, fmt.Sprintf("b is cut in space %d", x.To.Space))
				} else {
					log = append(log, "a is cut")
				}
			}
			for _, m := range x.Effects.Out {
				if m.From == nodeOf("b").Hash && (m.Kind == graph.CutDone || m.Kind == graph.RestDone) {
					log = append(log, fmt.Sprintf("%v, in space %d", m.Kind, m.To.Space))
				}
			}
		}
	}
	g.do(everywhere(proto.CutOptOut, "a", g.now, 7))
	if !g.dark(1, "a") || !g.dark(1, "b") || !g.dark(2, "b") || g.dark(2, "c") {
		t.Errorf("out are a %v, b %v and %v, c %v", g.dark(1, "a"), g.dark(1, "b"), g.dark(2, "b"), g.dark(2, "c"))
	}
	want := []string{"b is cut in space 1", "CutDone, in space 1", "a is cut", "b is cut in space 2", "RestDone, in space 1"}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("the order of things (-want +got):\n%s", diff)
	}
	var commands []uint64
	for _, o := range g.outs {
		for _, f := range o.Finals {
			commands = append(commands, f.Cut.Command)
			if f.Cut.Command == 7 && f.Cut.Also != 1 {
				t.Errorf("%d others were cut with it, want 1", f.Cut.Also)
			}
		}
	}
	if slices.Sort(commands); !slices.Equal(commands, []uint64{0, 7}) {
		t.Errorf("final are %v", commands)
	}
	if o := g.store.optOut(t, nodeOf("b").Hash); !o.Dark() || o.Gen != 1 {
		t.Errorf("who was cut with another is %+v", o)
	}
	g.store.audit(t)
}

// Everywhere: whom an identity is joined with in a space is cut also where a way
// to them leads through one that is cut in another space first; nobody beyond is.
func TestCutEverywhereThroughWhoIsCutElsewhere(t *testing.T) {
	for supersteps := 1; supersteps <= 3; supersteps++ { // of an entry
		g := newTestRig(t, newRules(t))
		g.lane = oneLane()
		g.lane.BoundSupersteps(supersteps)
		links := func(s proto.SpaceID, list ...string) {
			for i := 1; i < len(list); i++ {
				g.do(eventIn(s, 1, "x", "", g.now, list[i-1], list[i]))
			}
		}
		links(1, "x", "y", "v")
		links(2, "x", "w", "w2", "y", "z")
		links(3, "v", "u")
		g.rest()
		g.do(everywhere(proto.CutOptOut, "x", g.now, 7))
		for g.carried && !slices.ContainsFunc(g.finals(), func(s string) bool { return s[0] == '7' }) {
			g.wait(1)
		}
		for _, c := range []struct {
			space proto.SpaceID
			who   string
			dark  bool
		}{{1, "x", true}, {1, "y", true}, {1, "v", true}, {2, "x", true}, {2, "w", true}, {2, "w2", true}, {2, "y", true}, {2, "z", true}, {3, "v", true}, {3, "u", false}} {
			if g.dark(c.space, c.who) != c.dark {
				t.Errorf("%d supersteps: when the cut is final %s is out in space %d: %v", supersteps, c.who, c.space, !c.dark)
			}
		}
		g.rest()
		g.store.audit(t)
	}
}

// Who waits to be cut in other spaces and opts out itself, everywhere, takes those
// along whom it is joined with there.
func TestCutEverywhereOfWhoWaits(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.lane = oneLane()
	g.do(eventIn(1, 1, "x", "", start, "x", "y"))
	g.do(eventIn(2, 1, "x", "", start, "y", "z"))
	g.lane.BoundSupersteps(1)
	g.do(everywhere(proto.CutOptOut, "x", g.now, 7))
	for !g.dark(1, "y") {
		g.wait(1)
	}
	if g.dark(2, "y") || !g.store.optOut(t, nodeOf("y").Hash).Later(2) {
		t.Fatal("y does not wait in space 2")
	}
	g.do(optIn("y", 1, g.now, 8))
	wantDecided(t, g, "an opt-in of who waits", graph.Decision{Command: 8, Reason: graph.ReasonBusy})
	g.restart(config(newRules(t), 1<<20)) // what waits is stored
	g.do(everywhere(proto.CutOptOut, "y", g.now, 9))
	g.rest()
	if !g.dark(2, "y") || !g.dark(2, "z") {
		t.Errorf("out are y %v, z %v", g.dark(2, "y"), g.dark(2, "z"))
	}
	g.store.audit(t)
}

// Two that have one another cut, everywhere, at once: both become final.
func TestCutEverywhereOfEachOther(t *testing.T) {
	g := newTestRig(t, newRules(t))
	for s := proto.SpaceID(1); s <= 2; s++ {
		g.do(eventIn(s, 1, "x", "", start, "a", "b"))
	}
	g.do(everywhere(proto.CutOptOut, "a", g.now, 7), everywhere(proto.CutOptOut, "b", g.now, 8))
	if n := len(g.finals()); n != 2 {
		t.Errorf("final are %v", g.finals())
	}
	g.store.audit(t)
}

// What one client knows goes; the node stays for the others, with their links.
func TestForgetOfOneClient(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(eventIn(1, 1, "x", "", start, "a", "b"), eventIn(1, 2, "x", "", start, "a", "c"), event(1, "a", "x", "", start))
	g.do(forget(1, 1, "a", g.now, 7))
	wantFinals(t, g, "forgotten", "7: kind 3, generation 1, 0 copies, 0 members, 0 also")
	s, gen := g.store.state(t, nodeOf("a"))
	if gen != 1 || s.Client(1) != nil || s.Client(2) == nil || g.user(1, "a") != 2 || g.user(1, "b") != 1 || g.user(1, "c") != 2 {
		t.Errorf("generation %d, facts %+v; users of a %d, of b %d, of c %d", gen, s.Facts, g.user(1, "a"), g.user(1, "b"), g.user(1, "c"))
	}
	for _, v := range []string{"a", "c"} {
		if g.in(1, v, 1, 0) || !g.in(1, v, 2, 0) {
			t.Errorf("%s is in the universe of client 1 %v, of 2 %v", v, g.in(1, v, 1, 0), g.in(1, v, 2, 0))
		}
	}
	g.store.audit(t)
}

// A client that links nobody and has one of two forgotten is told of neither.
func TestForgetIsToldToTheUser(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		g := newTestRig(t, newRules(t))
		g.do(eventIn(1, 2, "x", "", start, "a", "b"), event(2, "b", "x", "", start))
		g.do(event(1, who, "x", "", g.now), event(1, who, "x", "", g.now))
		if !g.in(1, "a", 1, 1) || !g.in(1, "b", 1, 1) {
			t.Fatal("they are not judged together")
		}
		g.do(forget(1, 1, who, g.now, 7))
		for _, v := range []string{"a", "b"} {
			if g.in(1, v, 1, 1) || g.in(1, v, 1, 0) || !g.in(1, v, 2, 0) {
				t.Errorf("%s is forgotten: %s is in the segment %v, in the universe %v", who, v, g.in(1, v, 1, 1), g.in(1, v, 1, 0))
			}
		}
		g.store.audit(t)
	}
}

// Where nobody else knows anything, the node goes with all that it was, in that
// space alone.
func TestForgetOfTheOnlyClient(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(eventIn(1, 1, "x", "", start, "a", "b"), eventIn(2, 1, "x", "", start, "a"))
	g.do(forget(1, 1, "a", g.now+1, 7))
	if n := len(g.finals()); n != 1 {
		t.Errorf("final are %v", g.finals())
	}
	s, gen := g.store.state(t, nodeOf("a"))
	if gen != 3 || s.Named || s.Known() || g.user(1, "b") != 1 || g.in(1, "b", 1, 1) {
		t.Errorf("generation %d, %+v; the user of b has %d", gen, s, g.user(1, "b"))
	}
	if other, gen := g.store.state(t, nodeIn(2, "a")); gen != 1 || !other.Named {
		t.Errorf("in the other space generation %d is %+v", gen, other)
	}
	if o := g.store.optOut(t, nodeOf("a").Hash); o.Gen != 0 || o.Dark() {
		t.Errorf("the identity is %+v", o)
	}
	// Of a client and a space that know nothing there is nothing to do.
	g.do(forget(1, 2, "b", g.now, 8), forget(9, 1, "b", g.now, 9), forget(1, 1, "nobody", g.now, 10))
	if n := len(g.finals()); n != 3 || g.in(1, "b", 2, 0) {
		t.Errorf("final are %v", g.finals())
	}
	// It comes back as anybody would.
	g.now += second
	g.do(event(1, "a", "x", "", g.now+1))
	if s, gen := g.store.state(t, nodeOf("a")); gen != 3 || !s.Named || !s.Known() {
		t.Errorf("seen again it is generation %d, %+v", gen, s)
	}
	g.store.audit(t)
}

// What another client brings in the entry in which the only one has the node forgotten
// stays, wherever in it; an event that is set aside brings nothing.
func TestForgetSparesOthers(t *testing.T) {
	r := newRules(t)
	r.poisoned.Store(poison)
	defer r.poisoned.Store(0)
	at := start + 10
	gone := forget(1, 1, "a", at, 7)
	for what, c := range map[string]struct {
		with []command
		gen  uint32
		user int // how many
	}{
		"an event behind it":                 {[]command{gone, event(2, "a", "x", "", at)}, 1, 1},
		"traits behind it":                   {[]command{gone, traitsIn(1, 2, "a", at, proto.Prop{Key: "vip", Value: proto.FlagOf(true)})}, 1, 1},
		"behind two of them":                 {[]command{gone, forget(1, 1, "a", at, 8), event(2, "a", "x", "", at)}, 1, 1},
		"an event that links, behind it":     {[]command{gone, eventIn(1, 2, "x", "", at, "a", "c")}, 1, 2},
		"a link behind it":                   {[]command{gone, link(1, 2, "a", "c", at, 9)}, 1, 2},
		"a link before it":                   {[]command{link(1, 2, "a", "c", at, 9), gone}, 1, 2},
		"links of both before it":            {[]command{link(1, 1, "a", "d", at, 8), link(1, 2, "a", "c", at, 9), gone}, 1, 2},
		"its own link between":               {[]command{gone, link(1, 1, "a", "d", at, 8), event(2, "a", "x", "", at)}, 1, 1},
		"its own event behind it":            {[]command{gone, event(1, "a", "x", "", at)}, 3, 1},
		"an event that is set aside":         {[]command{gone, event(poison, "a", "p", "", at)}, 3, 1},
		"an event, and the person's erasure": {[]command{gone, event(2, "a", "x", "", at), cut(proto.CutErase, "a", at, 8)}, 3, 1},
	} {
		t.Run(what, func(t *testing.T) {
			for _, linked := range []bool{false, true} {
				g := newTestRig(t, r)
				before := event(1, "a", "x", "", start)
				if linked {
					before = eventIn(1, 1, "x", "", start, "a", "b")
				}
				g.do(before)
				g.now = at
				g.do(c.with...)
				s, gen := g.store.state(t, nodeOf("a"))
				if gen != c.gen || s.Client(1) != nil || g.user(1, "a") != c.user || g.user(1, "b") > 1 {
					t.Errorf("linked %v: generation %d, facts %+v, users of a %d, of b %d", linked, gen, s.Facts, g.user(1, "a"), g.user(1, "b"))
				}
				if commands := len(c.with); len(g.finals()) == 0 || len(g.finals()) > commands {
					t.Errorf("linked %v: final are %v", linked, g.finals())
				}
				g.store.audit(t)
			}
		})
	}
}

// An erasure that is not the person's own has a fence for the client that asked for it
// alone: what is acknowledged to others right after it is kept.
func TestFenceOfOthers(t *testing.T) {
	for what, erase := range map[string]func(g *rig){
		"forgotten by a client": func(g *rig) { g.do(forget(1, 1, "a", g.now, 7)) },
		"of a client that ended": func(g *rig) {
			g.take([]entry{{now: g.now, beat: true, due: []*actors.Due{{Node: nodeOf("a"), Forget: 1}}}})
			g.settle()
		},
	} {
		g := newTestRig(t, newRules(t))
		g.do(eventIn(1, 1, "x", "", start, "a", "b"))
		g.now++
		erase(g)
		g.restart(config(newRules(t), 1<<20))
		if s, gen := g.store.state(t, nodeOf("a")); gen != 3 || s.Known() {
			t.Fatalf("%s: generation %d is %+v", what, gen, s)
		}
		g.do(event(2, "a", "x", "", g.now), traitsIn(1, 2, "a", g.now, proto.Prop{Key: "vip", Value: proto.FlagOf(true)}))
		if s, _ := g.store.state(t, nodeOf("a")); g.ignored() > 0 || s.Client(2) == nil {
			t.Errorf("%s: %d of another client's were ignored", what, g.ignored())
		}
		g.do(event(1, "a", "x", "", g.now))
		if byClient := what == "forgotten by a client"; (g.ignored() > 0) != byClient {
			t.Errorf("%s: of the client's own %d were ignored", what, g.ignored())
		}
		g.store.audit(t)
		g.do(cut(proto.CutErase, "a", g.now, 9))
		if g.do(event(2, "a", "x", "", g.now)); g.ignored() != 1 {
			t.Errorf("%s: after the person's own erasure %d were ignored", what, g.ignored())
		}
	}
}

// What a client had forgotten does not come back by its own late event where another
// client knows the node, which no fence of the graph guards.
func TestFenceOfWhatOthersKnow(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "a", "x", "", start), event(2, "a", "x", "", start))
	g.now += 10 * second
	g.do(forget(1, 1, "a", g.now, 7))
	g.do(event(1, "a", "x", "", g.now-second))
	if s, gen := g.store.state(t, nodeOf("a")); g.ignored() != 1 || gen != 1 || s.Client(1) != nil {
		t.Errorf("an event from before its client's erasure: %d ignored, generation %d, %+v", g.ignored(), gen, s.Client(1))
	}
	g.do(event(2, "a", "x", "", g.now-second))
	if g.ignored() != 0 {
		t.Error("an event of the other client was ignored")
	}
	g.now += second
	g.do(event(1, "a", "x", "", g.now))
	if s, _ := g.store.state(t, nodeOf("a")); g.ignored() != 0 || s.Client(1) == nil {
		t.Error("an event from after the erasure was ignored")
	}
	g.store.audit(t)
}

// A link that a client made in another lane, and that arrives after the same client had
// one of its ends forgotten, is not made: whoever knows that end, after a restart, and
// though other clients had it forgotten since.
func TestForgetOfLinksUnderWay(t *testing.T) {
	for what, before := range map[string][]command{
		"nobody knows it":  nil,
		"another knows it": {event(2, "b", "x", "", start)},
		"it alone knows":   {event(1, "b", "x", "", start)},
		"both know":        {event(1, "b", "x", "", start), event(2, "b", "x", "", start)},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRules(t)
			p := newLanes(t, r, "b")
			one, two := p.rigs[0], p.rigs[1]
			if before != nil {
				two.do(before...)
			}
			one.do(eventIn(1, 1, "x", "", one.now+1, "a", "b"), event(2, "c", "x", "", one.now+1))
			two.do(forget(1, 1, "b", two.now, 7))
			for n := range proto.ClientID(6) { // a fence is kept though many cuts follow
				two.do(forget(1, 10+n, "b", two.now, 10+uint64(n)))
			}
			lane := two.lane
			two.restart(config(r, 1<<20))
			two.lane = lane
			one.do(eventIn(1, 2, "x", "", one.now+1, "c", "b")) // of another client
			p.pass()
			by := func(g *rig, v string) (list []proto.ClientID) { // who vouches for its links
				if s, _ := g.store.state(t, nodeOf(v)); s.Graph != nil {
					for _, e := range s.Graph.Edges() {
						list = append(list, e.Client)
					}
				}
				return list
			}
			others := []proto.ClientID{2}
			if what == "it alone knows" { // the whole node went, which has a fence for all
				others = nil
			}
			if diff := cmp.Diff([][]proto.ClientID{nil, others, others}, [][]proto.ClientID{by(one, "a"), by(one, "c"), by(two, "b")}); diff != "" {
				t.Errorf("the links of a, c and b are of clients (-want +got):\n%s", diff)
			}
			one.now = max(one.now, two.now) + second
			two.now = one.now
			one.do(eventIn(1, 1, "x", "", one.now+1, "a", "b"))
			p.pass()
			if diff := cmp.Diff([][]proto.ClientID{{1}, others, append([]proto.ClientID{1}, others...)}, [][]proto.ClientID{by(one, "a"), by(one, "c"), slices.Sorted(slices.Values(by(two, "b")))}); diff != "" {
				t.Errorf("after a new link those of a, c and b are of clients (-want +got):\n%s", diff)
			}
		})
	}
}

// An erased identity begins anew at once; of it nothing is left, not even a
// link whose evidence the gateway took after the erasure's command.
func TestErase(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.now += 10 * second
	g.do(eventIn(1, 1, "x", "", g.now, "a", "b"))
	g.do(cut(proto.CutErase, "a", g.now-8*second, 7))
	s, gen := g.store.state(t, nodeOf("a"))
	if gen != 3 || s.Dark() || s.Named || s.Known() || len(s.Graph.Edges()) > 0 || len(g.store.names) != 1 {
		t.Errorf("generation %d, %+v, links %v", gen, s, s.Graph.Edges())
	}
	if o := g.store.optOut(t, nodeOf("a").Hash); o.Gen != 2 || o.Dark() {
		t.Errorf("the identity is %+v", o)
	}
	g.store.audit(t)
	// In every space, where it was not seen before too, what may be from before
	// comes too late.
	erased := g.now
	for s := proto.SpaceID(1); s <= 2; s++ {
		g.now = erased + 1000
		g.do(eventIn(s, 1, "x", "", erased+500, "a"))
		if g.ignored() != 1 {
			t.Errorf("space %d: an event from before the fence was taken in", s)
		}
		g.do(eventIn(s, 1, "x", "", erased+501, "a"))
		if _, gen := g.store.state(t, nodeIn(s, "a")); g.ignored() != 0 || gen != 3 {
			t.Errorf("space %d: an event after it was ignored, or is of generation %d", s, gen)
		}
	}
	g.store.audit(t)
}

// What must not be done is answered and changes nothing.
func TestCutsRefused(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "a", "x", "", start))
	unchanged := func(what string, fn func(), want ...graph.Decision) {
		t.Helper()
		before := newMemory()
		before.commit(g.all)
		fn()
		wantDecided(t, g, what, want...)
		wantStored(t, what+" (-before +after)", before, g.store)
	}
	unchanged("an opt-in of who is in", func() { g.do(optIn("a", 0, g.now, 6)) }, graph.Decision{Command: 6, Reason: graph.ReasonOtherGen})
	unchanged("an opt-in of nobody", func() { g.do(optIn("nobody", 1, g.now, 6)) }, graph.Decision{Command: 6, Reason: graph.ReasonOtherGen})

	g.do(cut(proto.CutOptOut, "a", start, 7))
	unchanged("a command that was taken in before", func() { g.do(cut(proto.CutOptOut, "a", start, 7)) })
	unchanged("erasing who is out", func() { g.do(cut(proto.CutErase, "a", g.now, 8)) }, graph.Decision{Command: 8, Reason: graph.ReasonOptedOut})
	unchanged("forgetting who is out", func() { g.do(forget(1, 1, "a", g.now, 9)) }, graph.Decision{Command: 9, Reason: graph.ReasonOptedOut})
	unchanged("an opt-in for another tombstone", func() { g.do(optIn("a", 3, g.now, 10)) }, graph.Decision{Command: 10, Reason: graph.ReasonOtherGen})
	unchanged("a timer and a fill that come too late", func() {
		due := &actors.Due{Node: nodeOf("a"), At: start + 5000}
		g.take([]entry{{now: g.now, beat: true, due: []*actors.Due{due, {Node: nodeOf("a"), Fill: 1}}}})
		g.settle()
		if !due.Ignore {
			t.Error("the timer of a tombstone is not stale")
		}
	})

	// A new tombstone makes an opt-in that was asked for before it void.
	g.do(cut(proto.CutOptOut, "a", g.now, 11))
	unchanged("an opt-in for the tombstone before", func() { g.do(optIn("a", 1, g.now, 12)) }, graph.Decision{Command: 12, Reason: graph.ReasonOtherGen})
	g.do(optIn("a", 3, g.now, 13))
	wantDecided(t, g, "an opt-in for the newest", graph.Decision{Command: 13, Linked: true})
	g.store.audit(t)
}

// An opt-in in the entry of its opt-out finds no tombstones to lift.
func TestOptInWithItsOptOut(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "a", "x", "", start), eventIn(2, 1, "x", "", start, "a"))
	g.do(cut(proto.CutOptOut, "a", g.now, 7), optIn("a", 1, g.now, 8))
	wantDecided(t, g, "at once", graph.Decision{Command: 8, Reason: graph.ReasonBusy})
	if !g.dark(1, "a") || !g.dark(2, "a") {
		t.Errorf("out in space 1 %v, in 2 %v", g.dark(1, "a"), g.dark(2, "a"))
	}
	g.do(optIn("a", 1, g.now, 9))
	wantDecided(t, g, "after it", graph.Decision{Command: 9, Linked: true})
	if g.dark(1, "a") || g.dark(2, "a") {
		t.Errorf("after the opt-in out in space 1 %v, in 2 %v", g.dark(1, "a"), g.dark(2, "a"))
	}
	g.store.audit(t)

	// Nor does one of who was out before: the tombstones are those of the opt-out before.
	g.do(cut(proto.CutOptOut, "a", g.now, 10))
	g.do(everywhere(proto.CutOptOut, "a", g.now, 11), optIn("a", 5, g.now, 12))
	wantDecided(t, g, "at once, after another", graph.Decision{Command: 12, Reason: graph.ReasonBusy})
	g.do(optIn("a", 5, g.now, 13))
	wantDecided(t, g, "after both", graph.Decision{Command: 13, Linked: true})
	g.do(cut(proto.CutErase, "a", g.now, 14))
	if g.dark(1, "a") || g.dark(2, "a") {
		t.Errorf("after the second opt-in out in space 1 %v, in 2 %v", g.dark(1, "a"), g.dark(2, "a"))
	}
	g.store.audit(t)
}

// A node that was marked in a batch, let go of and then erased with an identity
// that is otherwise unknown leaves nothing that would have to be found later.
func TestEraseOfWhatIsGone(t *testing.T) {
	r := newRules(t)
	g := newTestRig(t, r)
	at := func(n proto.Millis, c command) entry { return entry{now: g.now + n, commands: []command{c}} }
	g.take([]entry{
		at(1, unlink(1, 1, "a", "b", g.now+1)), // both remember it
		at(2, cut(proto.CutOptOut, "a", g.now+2, 7)),
		at(3, cut(proto.CutErase, "b", g.now+3, 8)),
	})
	g.restart(config(r, 1<<20))
	g.store.audit(t)
	if s, _ := g.store.state(t, nodeOf("b")); s != nil || g.store.optOut(t, nodeOf("b").Hash).Gen != 2 {
		t.Errorf("kept is %+v", s)
	}
	g.now += 10 * second
	g.do(event(1, "b", "x", "", g.now+1))
	if _, gen := g.store.state(t, nodeOf("b")); gen != 3 {
		t.Errorf("seen again it is generation %d", gen)
	}
	g.store.audit(t)
}

// Cuts that are open are bounded.
func TestOpenCutsBounded(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "a", "x", "", start))
	var list []command
	for n := range uint64(identity.OpenCutsMax + 1) {
		list = append(list, cut(proto.CutOptOut, "a", g.now, n+1))
	}
	g.do(list...)
	wantDecided(t, g, "one too many", graph.Decision{Command: identity.OpenCutsMax + 1, Reason: graph.ReasonBusy})
	if n := len(g.finals()); n != identity.OpenCutsMax {
		t.Errorf("%d cuts are final", n)
	}
	g.store.audit(t)
}

// A cut's time and place are told to the ledger, in the order of the log.
func TestTurned(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "a", "x", "", start))
	h := nodeOf("a").Hash
	g.do(cut(proto.CutOptOut, "a", g.now, 7))
	g.do(optIn("a", 1, g.now, 8))
	g.do(cut(proto.CutErase, "a", g.now, 9), forget(1, 1, "a", g.now, 10))
	var got []actors.Turned
	for _, o := range g.all {
		got = append(got, o.Turned...)
	}
	want := []actors.Turned{{h, 1, start + 2, 2}, {h, 2, start + 3, 3}, {h, 4, start + 4, 4}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("turned (-want +got):\n%s", diff)
	}
}

// Numbers of generations come round in keys: what lies under that of the first one
// may be a later one, which stays.
func TestGenerationsComeRound(t *testing.T) {
	const round = 2*0xffff + 1
	r := newRules(t)
	g := newTestRig(t, r)
	g.do(event(1, "a", "x", "", start))
	g.do(cut(proto.CutErase, "a", g.now, 7))
	n := nodeOf("a")
	s, gen := g.store.state(t, n)
	s.Graph.Gen = round
	delete(g.store.nodes, generation{n, gen})
	g.store.nodes[generation{n, 1}] = s.Append(nil)
	o := g.store.optOut(t, n.Hash)
	o.Note(1, round, false)
	g.store.optOuts[n.Hash] = o.Append(nil)
	g.restart(config(r, 1<<20))
	g.now += 10 * second
	g.do(event(1, "a", "x", "", g.now+1))
	puts := 0
	for _, x := range g.outs {
		for _, p := range x.Puts {
			if puts++; p.Gen != round || len(p.Value) == 0 {
				t.Errorf("generation %d is stored in %d bytes", p.Gen, len(p.Value))
			}
		}
	}
	if puts != 1 {
		t.Errorf("the node is stored %d times", puts)
	}
}

// However many erasures are under way, who is not opted out yet is opted out.
func TestOpenErasuresLetOptOut(t *testing.T) {
	g := newTestRig(t, newRules(t))
	g.do(event(1, "a", "x", "", start))
	var list []command
	for n := range uint64(identity.OpenCutsMax + 1) {
		list = append(list, forget(1, 1, "a", g.now, n+1))
	}
	g.do(append(list, cut(proto.CutOptOut, "a", g.now, 100), cut(proto.CutOptOut, "a", g.now, 101))...)
	wantDecided(t, g, "one too many of each",
		graph.Decision{Command: identity.OpenCutsMax + 1, Reason: graph.ReasonBusy}, graph.Decision{Command: 101, Reason: graph.ReasonBusy})
	if n := len(g.finals()); n != identity.OpenCutsMax+1 || !g.dark(1, "a") {
		t.Errorf("%d cuts are final, dark %v", n, g.dark(1, "a"))
	}
	g.store.audit(t)
}

// Nor are cuts that are open without a bound for who opts in and out in turn.
func TestOpenCutsBoundOptIns(t *testing.T) {
	p := newLanes(t, newRules(t), "y")
	g, h := p.rigs[0], nodeOf("x").Hash
	g.do(eventIn(1, 1, "x", "", start, "x", "y"))
	p.pass()
	for n := range uint64(2 * identity.OpenCutsMax) {
		g.do(cut(proto.CutOptOut, "x", g.now, 2*n+1))
		g.do(optIn("x", g.store.optOut(t, h).Gen, g.now, 2*n+2))
	}
	if o := g.store.optOut(t, h); o.Open() != identity.OpenCutsMax+1 || !o.Dark() {
		t.Errorf("%d cuts are open, out %v", o.Open(), o.Dark())
	}
	p.pass()
	g.do(optIn("x", g.store.optOut(t, h).Gen, g.now, 1000))
	wantDecided(t, g, "once they are done", graph.Decision{Command: 1000, Linked: true})
	g.store.audit(t)
}

// The receipt of an erasure that nobody asked for is not taken for that of the
// opt-out behind it.
func TestCutBehindQuietErasure(t *testing.T) {
	p := newLanes(t, newRules(t), "y")
	g := p.rigs[0]
	g.do(eventIn(1, 1, "x", "", start, "x", "y"), eventIn(2, 2, "x", "", start, "z"))
	p.pass()
	g.take([]entry{{now: g.now, beat: true, due: []*actors.Due{{Node: nodeOf("x"), Forget: 1}}}}) // client 1 ends
	g.settle()
	g.now += 10 * second
	g.do(eventIn(1, 2, "x", "", g.now+1, "x", "z"))
	if g.user(1, "x") != 2 {
		t.Fatal("x and z are not linked")
	}
	g.do(everywhere(proto.CutOptOut, "x", g.now, 7))
	wantFinals(t, g, "while the other lane stands")
	p.pass()
	var finals []string
	for _, o := range g.all {
		for _, f := range o.Finals {
			finals = append(finals, fmt.Sprintf("%d: %d also", f.Cut.Command, f.Cut.Also))
		}
	}
	if diff := cmp.Diff([]string{"0: 0 also", "7: 1 also"}, finals); diff != "" {
		t.Errorf("in the end: final (-want +got):\n%s", diff)
	}
	if !g.dark(1, "z") || !g.dark(2, "z") {
		t.Errorf("z is out in space 1 %v, in 2 %v", g.dark(1, "z"), g.dark(2, "z"))
	}
	g.store.audit(t)
}

// unread is a store that fails one read.
type unread struct {
	*memory
	at int // reads from now on
}

func (u *unread) fails() error {
	if u.at--; u.at == 0 {
		return proto.Errorf(proto.CodeUnavailable, "a read that fails")
	}
	return nil
}

func (u *unread) Node(n proto.Node, gen uint32, fn func([]byte) error) (bool, error) {
	if err := u.fails(); err != nil {
		return false, err
	}
	return u.memory.Node(n, gen, fn)
}

func (u *unread) OptOut(h graph.Hash, fn func([]byte) error) (bool, error) {
	if err := u.fails(); err != nil {
		return false, err
	}
	return u.memory.OptOut(h, fn)
}

// Whichever read of a batch with cuts fails, the batch does: no opt-out that could
// not be read is taken for none.
func TestCutWithFailedRead(t *testing.T) {
	r := newRules(t)
	before := newTestRig(t, r)
	before.do(eventIn(1, 1, "x", "", start, "b"), eventIn(2, 1, "x", "", start, "b"), eventIn(3, 1, "x", "", start, "c"))
	before.do(cut(proto.CutOptOut, "b", before.now, 6))
	before.do(optIn("b", 1, before.now, 7))
	before.now += second
	before.do(eventIn(1, 1, "x", "", before.now, "a", "b"))
	failed := 0
	for at := 1; ; at++ {
		g := newTestRig(t, r)
		g.store.commit(before.all)
		g.now, g.offset = before.now, before.offset
		g.restart(config(r, 1<<20))
		store := &unread{g.store, at}
		var err error
		g.stored, g.fails = store, func(e error) { err = e }
		g.do(everywhere(proto.CutOptOut, "a", g.now, 8))
		if store.at > 0 { // there are no more
			break
		}
		if failed++; err == nil {
			t.Errorf("read %d failed and the batch did not: %s is out %v with %+v", at, "b", g.dark(1, "b"), g.store.optOut(t, nodeOf("b").Hash))
		}
	}
	if failed < 5 {
		t.Errorf("%d reads failed", failed)
	}
}
