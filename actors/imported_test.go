package actors_test

import (
	"testing"

	"kith/actors"
	"kith/proto"
)

// after does commands one by one, and tells how many were ignored.
func after(t *testing.T, commands []command) (g *rig, ignored int) {
	t.Helper()
	g = newTestRig(t, newRules(t))
	for _, c := range commands {
		g.do(c)
	}
	for _, o := range g.all {
		ignored += o.Ignored
	}
	return g, ignored
}

// knownTo tells whether a client has facts of a, and whether a is kept at all.
func knownTo(t *testing.T, g *rig, c proto.ClientID) (facts, named bool) {
	t.Helper()
	s, _ := g.store.state(t, nodeOf("a"))
	return s != nil && s.Client(c) != nil, s != nil && s.Named
}

// A command that needs a trait does nothing to whoever has not got it: neither
// does somebody come back who was erased in between, nor is anybody made. When the
// last mark goes, so do facts that say nothing else, and nothing but those.
func TestNeededTraits(t *testing.T) {
	staged := proto.Prop{Key: "import#1", Value: proto.FlagOf(true)}
	listed := []proto.Prop{{Key: "import.l", Value: proto.NumberOf(1)}, {Key: "import#1", Value: proto.TextOf("")}}
	off := proto.Prop{Key: "import.l", Value: proto.TextOf("")}
	for _, x := range []struct {
		name     string
		commands []command
		facts    bool // client 1 has some of a in the end
		named    bool
		ignored  int
	}{
		{"nobody", []command{needing("import#1", 1, 1, "a", start, listed...)}, false, false, 1},
		{"on it", []command{traits(1, "a", staged), needing("import#1", 1, 1, "a", start, listed...)}, true, true, 0},
		{"twice", []command{traits(1, "a", staged), needing("import#1", 1, 1, "a", start, listed...), needing("import#1", 1, 1, "a", start, listed...)}, true, true, 1},
		{"another client's", []command{traits(2, "a", staged), needing("import#1", 1, 1, "a", start, listed...)}, false, true, 1},
		{"erased in between", []command{traits(1, "a", staged), forget(1, 1, "a", start, 1), needing("import#1", 1, 1, "a", start, listed...)}, false, false, 1},
		{"off it", []command{traits(1, "a", staged), needing("import#1", 1, 1, "a", start, listed...), needing("import.l", 1, 1, "a", start, off)}, false, false, 0},
		{"off it, with another list", []command{traits(1, "a", staged, proto.Prop{Key: "import.k", Value: proto.NumberOf(1)}), needing("import#1", 1, 1, "a", start, listed...), needing("import.l", 1, 1, "a", start, off)}, true, true, 0},
		{"off it, with events", []command{event(1, "a", "x", "", start), traits(1, "a", staged), needing("import#1", 1, 1, "a", start, listed...), needing("import.l", 1, 1, "a", start, off)}, true, true, 0},
		{"off it, known to another", []command{event(2, "a", "x", "", start), traits(1, "a", staged), needing("import#1", 1, 1, "a", start, listed...), needing("import.l", 1, 1, "a", start, off)}, false, true, 0},
		{"off it, linked", []command{eventIn(1, 1, "x", "", start, "b", "a"), traits(1, "a", staged), needing("import#1", 1, 1, "a", start, listed...), needing("import.l", 1, 1, "a", start, off)}, false, true, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			g, ignored := after(t, x.commands)
			if facts, named := knownTo(t, g, 1); facts != x.facts || named != x.named || ignored != x.ignored {
				t.Errorf("facts %v, named %v, ignored %d; want %v, %v, %d", facts, named, ignored, x.facts, x.named, x.ignored)
			}
			if facts, _ := knownTo(t, g, 2); facts != (x.name == "another client's" || x.name == "off it, known to another") {
				t.Errorf("the other client has facts: %v", facts)
			}
			g.store.audit(t)
		})
	}
	g := newTestRig(t, newRules(t))
	g.do(eventIn(1, 1, "x", "", start, "b", "a"))
	g.do(traits(1, "a", staged))
	g.do(needing("import#1", 1, 1, "a", start, proto.Prop{Key: "import#1", Value: proto.TextOf("")}))
	if s, _ := g.store.state(t, nodeOf("a")); s == nil || s.Graph == nil || len(s.Graph.Links) != 1 || !s.Follows && !s.Graph.Leads() {
		t.Errorf("a link went with the mark: %+v", s)
	}
}

// Traits that are only taken away make nobody known, and leave alone who is.
func TestRemovedTraits(t *testing.T) {
	none, vip := proto.Prop{Key: "age", Value: proto.TextOf("")}, proto.Prop{Key: "vip", Value: proto.FlagOf(true)}
	for _, x := range []struct {
		name     string
		commands []command
		facts    bool // client 1 has some of a in the end
		named    bool
		ignored  int
	}{
		{"nobody", []command{traits(1, "a", none)}, false, false, 1},
		{"nobody, several", []command{traits(1, "a", none, proto.Prop{Key: "vip", Value: proto.TextOf("")})}, false, false, 1},
		{"nobody, and one set", []command{traits(1, "a", none, vip)}, true, true, 0},
		{"another client's", []command{traits(2, "a", vip), traits(1, "a", none)}, false, true, 1},
		{"linked", []command{eventIn(1, 2, "x", "", start, "b", "a"), traits(1, "a", none)}, false, true, 1},
		{"erased in between", []command{traits(1, "a", vip), forget(1, 1, "a", start, 1), traits(1, "a", none)}, false, false, 1},
		{"somebody", []command{traits(1, "a", vip), traits(1, "a", proto.Prop{Key: "vip", Value: proto.TextOf("")})}, true, true, 0},
		{"somebody by events", []command{event(1, "a", "x", "", start), traits(1, "a", none)}, true, true, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			g, ignored := after(t, x.commands)
			if facts, named := knownTo(t, g, 1); facts != x.facts || named != x.named || ignored != x.ignored {
				t.Errorf("facts %v, named %v, ignored %d; want %v, %v, %d", facts, named, ignored, x.facts, x.named, x.ignored)
			}
			g.store.audit(t)
		})
	}
}

// A step through history leaves who has neither events nor traits as it is, whatever
// command the batch before had: other nodes had others.
func TestFillLetsGoOfNobody(t *testing.T) {
	vip, none := proto.Prop{Key: "vip", Value: proto.FlagOf(true)}, proto.Prop{Key: "vip", Value: proto.TextOf("")}
	g, _ := after(t, []command{traits(1, "a", vip), traits(1, "a", none)})
	g.do(needing("import#1", 1, 2, "a", start, vip))
	g.take([]entry{{now: g.now, beat: true, due: []*actors.Due{{Node: nodeOf("a"), Fill: 1}}}})
	g.settle()
	if facts, named := knownTo(t, g, 1); !facts || !named {
		t.Errorf("facts %v, named %v after a step through history", facts, named)
	}
	g.store.audit(t)
}
