package identity_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

var optOutOptions = cmpopts.EquateEmpty()

func spaces(list ...proto.SpaceID) []proto.SpaceID { return list }

func cutOf(kind proto.CutKind, command uint64) identity.Cut {
	return identity.Cut{Command: command, Kind: kind, Time: start, Offset: proto.Offset(command)}
}

// Every opt-out, opt-in and erasure begins a generation, odd while the
// identity is out, and a node that is met then begins where the identity is.
func TestOptOutGenerations(t *testing.T) {
	out := func(o *identity.OptOut) { o.Begin(cutOf(proto.CutOptOut, 1), nil) }
	erase := func(o *identity.OptOut) {
		o.Fence = start + 20
		o.Begin(cutOf(proto.CutErase, 2), nil)
	}
	forgotten := cutOf(proto.CutForget, 3)
	forgotten.Client = acme
	forget := func(o *identity.OptOut) { o.Begin(forgotten, nil) }
	lift := func(o *identity.OptOut) { o.Lift(start+second, start+second+20) }
	for _, c := range []struct {
		what  string
		do    []func(*identity.OptOut)
		gen   uint32
		dark  bool
		fresh *graph.State // nil: as of any other
		since proto.Millis
	}{
		{what: "never"},
		{"out", []func(*identity.OptOut){out}, 1, true, &graph.State{Gen: 2, Dark: true}, start},
		{"out again", []func(*identity.OptOut){out, out}, 3, true, &graph.State{Gen: 4, Dark: true}, start},
		{"in again", []func(*identity.OptOut){out, lift}, 2, false, &graph.State{Gen: 3, Fence: start + second + 20}, start + second},
		{"out after in", []func(*identity.OptOut){out, lift, out}, 3, true, &graph.State{Gen: 4, Dark: true}, start},
		{"erased", []func(*identity.OptOut){erase}, 2, false, &graph.State{Gen: 3, Fence: start + 20}, start},
		{"erased, then out", []func(*identity.OptOut){erase, out}, 3, true, &graph.State{Gen: 4, Dark: true}, start},
		{"forgotten", []func(*identity.OptOut){forget}, 0, false, nil, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			var o identity.OptOut
			for _, do := range c.do {
				do(&o)
			}
			if o.Gen != c.gen || o.Dark() != c.dark || o.Since != c.since {
				t.Errorf("generation %d, out %v, since %v; want %d, %v, %v", o.Gen, o.Dark(), o.Since, c.gen, c.dark, c.since)
			}
			if diff := cmp.Diff(c.fresh, o.Fresh(), cmpopts.IgnoreUnexported(graph.State{})); diff != "" {
				t.Errorf("a node that is met now (-want +got):\n%s", diff)
			}
			if n := o.Newest(0); (n == nil) != (c.gen == 0) { // what one client forgot is not shown
				t.Errorf("the newest cut is %+v", n)
			} else if n != nil && c.what == "out again" && n.Gen != 4 {
				t.Errorf("the newest cut leaves generation %d", n.Gen)
			}
		})
	}
}

// What a client forgot is the newest to that client alone, and only until the
// identity is cut out.
func TestNewestCut(t *testing.T) {
	forgotten := func(c proto.ClientID, command uint64) identity.Cut {
		x := cutOf(proto.CutForget, command)
		x.Client = c
		return x
	}
	var o identity.OptOut
	for _, x := range []struct {
		cut                 identity.Cut
		mine, other, nobody uint64 // commands; 0: none
	}{
		{forgotten(acme, 2), 2, 0, 0},
		{cutOf(proto.CutErase, 3), 3, 3, 3},
		{forgotten(acme, 4), 4, 3, 3},
		{cutOf(proto.CutOptOut, 5), 5, 5, 5},
		{forgotten(zeta, 6), 5, 6, 5}, // later ones of clients let old cuts go, but not this one
		{forgotten(zeta, 7), 5, 7, 5},
		{forgotten(zeta, 8), 5, 8, 5},
		{forgotten(zeta, 9), 5, 9, 5},
		{forgotten(zeta, 10), 5, 10, 5},
		{forgotten(acme, 11), 11, 10, 5},
		{cutOf(proto.CutErase, 12), 12, 12, 12},
	} {
		o.Begin(x.cut, nil)
		o.Settle(nil, func(*identity.Cut) {})
		if n := len(o.Cuts); n > identity.FinalCutsKept+3 { // those of two clients, and of the person
			t.Errorf("after cut %d, %d are remembered", x.cut.Command, n)
		}
		for client, want := range map[proto.ClientID]uint64{acme: x.mine, zeta: x.other, 0: x.nobody} {
			got := uint64(0)
			if c := o.Newest(client); c != nil {
				got = c.Command
			}
			if got != want {
				t.Errorf("after cut %d the newest for client %d is %d, want %d", x.cut.Command, client, got, want)
			}
		}
	}
}

// A cut is final when every node is done with it and every cut before it is
// final; what was held goes when nothing is open any more.
func TestOptOutSettles(t *testing.T) {
	var o identity.OptOut
	var finals, parts []string
	settle := func() []graph.Message {
		return o.Settle([]proto.Offset{7, 8}, func(c *identity.Cut) {
			finals = append(finals, fmt.Sprintf("%d: %d copies, %d members, %d also, at %v", c.Command, c.Copies, c.Members, c.Also, c.Vector))
			parts = append(parts, fmt.Sprintf("%v %v %v", c.In(1), c.In(2), c.Spaces))
		})
	}
	receipt := func(s proto.SpaceID, copies int, also ...graph.Ref) {
		o.Released(s, &graph.Receipt{Copies: copies, Members: copies + 1, Spread: len(also)})
	}
	o.Begin(cutOf(proto.CutErase, 1), spaces(1, 2))
	o.Begin(cutOf(proto.CutOptOut, 2), spaces(2))
	o.Begin(cutOf(proto.CutOptOut, 3), nil)
	o.Held = []graph.Message{{Kind: graph.CutDone, Gen: 5}}
	wantOpen := func(what string, n int, list ...string) {
		t.Helper()
		if o.Open() != n {
			t.Errorf("%s: %d cuts are open, want %d", what, o.Open(), n)
		}
		if diff := cmp.Diff(list, finals); diff != "" {
			t.Errorf("%s: final (-want +got):\n%s", what, diff)
		}
		finals = nil
	}
	if held := settle(); held != nil {
		t.Errorf("with cuts open %v is let go", held)
	}
	wantOpen("at first", 3)
	o.Released(2, &graph.Receipt{Copies: 50, Quiet: true}) // of no command
	receipt(2, 4, graph.Ref{Gen: 1})                       // of the older of the two that the node has
	settle()
	wantOpen("after the first of space 2", 3)
	receipt(2, 10)
	settle()
	wantOpen("after the second of space 2", 3) // the first waits for space 1
	receipt(9, 100)                            // a space that nothing is open for
	receipt(1, 1)
	held := settle()
	wantOpen("after space 1", 0, "1: 5 copies, 7 members, 1 also, at [7 8]", "2: 10 copies, 11 members, 0 also, at [7 8]", "3: 0 copies, 0 members, 0 also, at [7 8]")
	if len(held) != 1 || held[0].Gen != 5 || o.Held != nil {
		t.Errorf("let go %v, still held %v", held, o.Held)
	}
	want := []string{
		"{1 2 0} {4 5 1} [{1 {1 2 0}} {2 {4 5 1}}]", // of it space 2 was done first
		"{0 0 0} {10 11 0} [{2 {10 11 0}}]", "{0 0 0} {0 0 0} []",
	}
	if diff := cmp.Diff(want, parts); diff != "" {
		t.Errorf("by space (-want +got):\n%s", diff)
	}
	if held := settle(); len(held) > 0 || len(finals) > 0 {
		t.Errorf("settled again: %v, %v", finals, held)
	}
}

// Commands are known again while their cut is among those kept: all that are
// open, and the newest that are final.
func TestOptOutRepeats(t *testing.T) {
	var o identity.OptOut
	vector := []proto.Offset{1}
	final := func(*identity.Cut) {}
	for n := range uint64(identity.FinalCutsKept + 3) {
		o.Begin(cutOf(proto.CutOptOut, n+1), nil)
		o.Settle(vector, final)
		vector[0]++ // the caller's own
	}
	if len(o.Cuts) != identity.FinalCutsKept || o.Cuts[0].Vector[0] != 4 {
		t.Errorf("kept are %+v", o.Cuts)
	}
	for n, known := range map[uint64]bool{0: false, 3: false, 4: true, 7: true, 8: false} {
		if o.Repeated(n) != known {
			t.Errorf("command %d is known: %v", n, !known)
		}
	}
	o.Begin(cutOf(proto.CutOptOut, 0), spaces(1)) // with another's: it has no command
	for n := range uint64(5) {
		o.Begin(cutOf(proto.CutOptOut, 100+n), spaces(1))
		o.Settle(vector, final)
	}
	if o.Open() != 6 || !o.Repeated(4) || !o.Repeated(100) || o.Repeated(0) {
		t.Errorf("with %d open, the older are forgotten, or what is no command is known: %+v", o.Open(), o.Cuts)
	}
}

func TestOptOutNotesNodes(t *testing.T) {
	var o identity.OptOut
	for _, c := range []struct {
		space proto.SpaceID
		gen   uint32
		dark  bool
		news  bool
	}{{5, 3, false, true}, {2, 2, true, true}, {5, 3, false, false}, {5, 4, true, true}, {5, 4, false, true}, {9, 1, false, true}} {
		if got := o.Note(c.space, c.gen, c.dark); got != c.news {
			t.Errorf("%+v is news: %v", c, got)
		}
	}
	want := []identity.CutNode{{2, 2, true}, {5, 4, false}, {9, 1, false}}
	if diff := cmp.Diff(want, o.Nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if o.Node(3) != nil || o.Node(5).Gen != 4 {
		t.Errorf("node of space 3 is %v, of 5 %v", o.Node(3), o.Node(5))
	}
}

func goldenOptOut() *identity.OptOut {
	return &identity.OptOut{
		Gen: 301, Fence: start + 20, Since: start + second,
		Nodes: []identity.CutNode{{Space: 1, Gen: 302, Dark: true}, {Space: 300, Gen: 3}},
		Cuts: []identity.Cut{
			{Command: 1 << 60, Kind: proto.CutErase, Final: true, Gen: 3, Time: start, Offset: 1 << 40, CutCounts: identity.CutCounts{Copies: 1, Members: 300, Also: 3}, Vector: []proto.Offset{15, 77}}, // of an earlier build
			{Kind: proto.CutOptOut, Everywhere: true, Gen: 302, Time: start + second, Offset: 1<<40 + 1, Pending: spaces(1, 300), CutCounts: identity.CutCounts{Copies: 201, Members: 4, Also: 1},
				Spaces: []identity.SpaceCounts{{Space: 2, CutCounts: identity.CutCounts{Copies: 200, Also: 1}}, {Space: 300, CutCounts: identity.CutCounts{Copies: 1, Members: 4}}}},
		},
		Held: []graph.Message{{Kind: graph.CutDone, To: proto.Node{Hash: graph.Hash{1}, Space: 300}, From: graph.Hash{2}, Gen: 5}},
	}
}

func TestOptOutGolden(t *testing.T) {
	golden(t, "optout.hex", goldenOptOut().Append(nil))
	var o identity.OptOut
	if err := o.Decode(readGolden(t, "optout.hex")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goldenOptOut(), &o, optOutOptions); diff != "" {
		t.Errorf("reads otherwise (-want +got):\n%s", diff)
	}
}

// A cut of which something waits is longer than what earlier versions wrote.
func TestOptOutWaitingGolden(t *testing.T) {
	want := goldenOptOut()
	want.Cuts[1].Later = spaces(300)
	want.Cuts[1].Rest = []identity.Taken{{Ref: graph.Ref{Peer: graph.Hash{3}, Gen: 7}, Space: 1}, {Ref: graph.Ref{Peer: graph.Hash{2}, Gen: 300}, Space: 300}}
	golden(t, "optout_waiting.hex", want.Append(nil))
	var o identity.OptOut
	if err := o.Decode(readGolden(t, "optout_waiting.hex")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &o, optOutOptions); diff != "" {
		t.Errorf("reads otherwise (-want +got):\n%s", diff)
	}
	slices.Reverse(want.Cuts[1].Rest)
	if err := o.Decode(want.Append(nil)); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("others out of order: %v", err)
	}
}

// Who was cut with another has nodes that are cut later, and whoever asked waits
// for those of others.
func TestOptOutWaits(t *testing.T) {
	var o identity.OptOut
	c := cutOf(proto.CutOptOut, 0)
	c.Later = spaces(2, 3)
	o.Begin(c, spaces(1, 2, 3))
	o.Released(2, &graph.Receipt{}) // of an erasure that was under way
	if !o.Later(2) || !o.Later(3) || o.Later(1) || len(o.Cuts[0].Pending) != 3 {
		t.Errorf("at first it is %+v", o.Cuts[0])
	}
	o.Reached(2)
	if o.Later(2) || !o.Waiting() {
		t.Errorf("after the node in space 2 was cut it is %+v", o.Cuts[0])
	}
	if list := o.TakeLater(); len(list) != 1 || list[0] != 3 || o.Waiting() {
		t.Errorf("cut now are %v, left is %+v", list, o.Cuts[0])
	}
	rest := graph.Receipt{Rest: []graph.Ref{{Peer: graph.Hash{9}, Gen: 5}}}
	if tell := slices.Concat(o.Released(1, &rest), o.Released(2, &graph.Receipt{})); len(tell) > 0 {
		t.Errorf("with a node that is not done %v are told", tell)
	}
	tell := o.Released(3, &graph.Receipt{})
	if len(tell) != 1 || tell[0] != (identity.Taken{Ref: rest.Rest[0], Space: 1}) {
		t.Errorf("when all nodes are done %v are told", tell)
	}
	final := 0
	settle := func() { o.Settle(nil, func(*identity.Cut) { final++ }) }
	if settle(); final > 0 {
		t.Error("it is final before who was told has answered")
	}
	o.Answered(tell[0])
	if settle(); final != 1 {
		t.Error("it is not final after who was told has answered")
	}
}

func TestOptOutRoundTrip(t *testing.T) {
	millis := rapid.Custom(func(t *rapid.T) proto.Millis {
		return proto.Millis(rapid.Int64Range(-1<<52, 1<<52).Draw(t, "millis"))
	})
	space := rapid.Custom(func(t *rapid.T) proto.SpaceID { return proto.SpaceID(rapid.Uint32().Draw(t, "space")) })
	offset := rapid.Custom(func(t *rapid.T) proto.Offset { return proto.Offset(rapid.Uint64().Draw(t, "offset")) })
	sorted := func(t *rapid.T, name string) (list []proto.SpaceID) {
		next := proto.SpaceID(rapid.IntRange(0, 5).Draw(t, name))
		for range rapid.IntRange(0, 4).Draw(t, "of them") {
			list = append(list, next)
			next += proto.SpaceID(rapid.IntRange(1, 1<<29).Draw(t, "gap"))
		}
		return list
	}
	counts := func(t *rapid.T, what string) identity.CutCounts {
		return identity.CutCounts{Copies: rapid.Uint64().Draw(t, what+" copies"), Members: rapid.Uint64().Draw(t, what+" members"), Also: rapid.Uint64().Draw(t, what+" also")}
	}
	inSpaces := func(t *rapid.T) (list []identity.SpaceCounts) {
		for _, s := range sorted(t, "counted") {
			list = append(list, identity.SpaceCounts{Space: s, CutCounts: counts(t, "space's")})
		}
		return list
	}
	rapid.Check(t, func(t *rapid.T) {
		want := identity.OptOut{Gen: rapid.Uint32().Draw(t, "gen"), Fence: millis.Draw(t, "fence"), Since: millis.Draw(t, "since")}
		for _, s := range sorted(t, "nodes") {
			want.Nodes = append(want.Nodes, identity.CutNode{Space: s, Gen: rapid.Uint32().Draw(t, "node's gen"), Dark: rapid.Bool().Draw(t, "dark")})
		}
		for range rapid.IntRange(0, 3).Draw(t, "cuts") {
			want.Cuts = append(want.Cuts, identity.Cut{
				Command: rapid.Uint64().Draw(t, "command"), Kind: rapid.SampledFrom([]proto.CutKind{proto.CutOptOut, proto.CutErase, proto.CutForget}).Draw(t, "kind"),
				Everywhere: rapid.Bool().Draw(t, "everywhere"), Final: rapid.Bool().Draw(t, "final"), Gen: rapid.Uint32().Draw(t, "cut's gen"), Time: millis.Draw(t, "time"),
				Offset: offset.Draw(t, "offset"), Pending: sorted(t, "pending"), CutCounts: counts(t, "counts"), Spaces: inSpaces(t), Vector: rapid.SliceOfN(offset, 0, 3).Draw(t, "vector"),
			})
		}
		for range rapid.IntRange(0, 2).Draw(t, "held") {
			want.Held = append(want.Held, graph.Message{Kind: graph.CutDone, To: proto.Node{Hash: graph.Hash{1}, Space: space.Draw(t, "space")}, From: graph.Hash{2}, Gen: rapid.Uint32().Draw(t, "held gen")})
		}
		b := want.Append(nil)
		got := identity.OptOut{Held: []graph.Message{{}}, Nodes: []identity.CutNode{{}}} // of an earlier use
		if err := got.Decode(b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, optOutOptions); diff != "" {
			t.Fatalf("reads otherwise (-written +read):\n%s", diff)
		}
		for i := range want.Cuts {
			r := proto.NewReader(want.Cuts[i].Append(nil))
			if got := identity.ReadCut(&r); r.Bad() || r.Len() > 0 || !cmp.Equal(want.Cuts[i], got, optOutOptions) {
				t.Fatalf("a cut reads as %+v", got)
			}
		}
	})
}

func TestOptOutRefused(t *testing.T) {
	var o identity.OptOut
	b := goldenOptOut().Append(nil)
	bare := goldenOptOut()
	bare.Held = nil
	whole := len(bare.Append(nil)) // here the record could have ended
	for n := range b {
		if err := o.Decode(b[:n]); proto.CodeOf(err) != proto.CodeCorrupt && n != whole {
			t.Errorf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
	for what, change := range map[string]func(*identity.OptOut){
		"spaces out of order": func(o *identity.OptOut) { o.Nodes[0], o.Nodes[1] = o.Nodes[1], o.Nodes[0] },
		"a space twice":       func(o *identity.OptOut) { o.Nodes[1] = o.Nodes[0] },
		"pending twice":       func(o *identity.OptOut) { o.Cuts[1].Pending = spaces(1, 1) },
		"pending disordered":  func(o *identity.OptOut) { o.Cuts[1].Pending = spaces(300, 1) },
		"no kind":             func(o *identity.OptOut) { o.Cuts[0].Kind = 0 },
		"an unknown kind":     func(o *identity.OptOut) { o.Cuts[0].Kind = 4 },
	} {
		x := goldenOptOut()
		change(x)
		if err := o.Decode(x.Append(nil)); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, b := range map[string][]byte{
		"newer":                append([]byte{2}, b[1:]...),
		"longer":               append(bytes.Clone(b), 0),
		"a gen that is wider":  {1, 0x81, 0x80, 0x80, 0x80, 0x10, 0, 0, 0, 0},
		"a flag that is none":  {1, 1, 0, 0, 1, 1, 2, 2, 0},
		"a space that is wide": {1, 1, 0, 0, 1, 0x81, 0x80, 0x80, 0x80, 0x10, 2, 1, 0},
	} {
		if err := o.Decode(b); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzOptOut(f *testing.F) {
	f.Add(goldenOptOut().Append(nil))
	f.Add((&identity.OptOut{}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y identity.OptOut
		if err := x.Decode(b); err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		again := x.Append(nil)
		if err := y.Decode(again); err != nil || !bytes.Equal(y.Append(nil), again) {
			t.Fatalf("%x reads as %x, that as %x: %v", b, again, y.Append(nil), err)
		}
		x.Settle(nil, func(*identity.Cut) {})
		x.Fresh()
	})
}
