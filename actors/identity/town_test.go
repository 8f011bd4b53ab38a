package identity_test

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// town is a few nodes of one space whose homes are all in one lane, over a
// plain account of what happened to them.
type town struct {
	t       interface{ Fatalf(string, ...any) }
	rules   rules
	key     proto.SegmentKey
	stepper *identity.Stepper
	lane    *graph.Lane
	laneOf  [proto.Partitions]proto.LaneID
	limits  identity.Limits
	now     proto.Millis
	people  []*dweller // by name
	inbox   []graph.Message
	fx      identity.Effects
	out     graph.Outcome
}

// dweller is one node.
type dweller struct {
	node   proto.Node
	device bool
	state  identity.State
	lane   *identity.Stepper // by which its lane judges, if that has other rules
	blocks map[proto.ClientID]map[uint32][]byte
	bits   map[identity.Bit]bool // as replayed from effects
	exits  []proto.Millis

	// what happened, plainly
	dark    bool
	fence   proto.Millis
	history map[proto.ClientID][]happened
	traits  map[proto.ClientID]map[string]proto.Value
	links   map[int]proto.ClientID // to whom, by whose newest evidence
}

// longName fills a tail, so that history is sealed.
var longName = strings.Repeat("z", 300)

type happened struct {
	at   proto.Millis
	body proto.EventBody
}

func newTown(t interface{ Fatalf(string, ...any) }, people int) *town {
	w := &town{t: t, rules: rules{}, limits: graph.DefaultConfig(), now: start}
	w.limits.SkewMillis = 10
	w.lane = graph.NewLane(0, 1, &w.laneOf)
	w.stepper = identity.NewStepper(w.rules)
	for i := range people {
		d := &dweller{node: proto.Node{Hash: graph.Hash{byte(i + 1)}, Space: 1}, device: i%2 == 0, blocks: map[proto.ClientID]map[uint32][]byte{}, bits: map[identity.Bit]bool{}}
		d.empty()
		w.people = append(w.people, d)
	}
	return w
}

// empty forgets what happened.
func (d *dweller) empty() {
	d.history, d.traits = map[proto.ClientID][]happened{}, map[proto.ClientID]map[string]proto.Value{}
	d.links = map[int]proto.ClientID{}
}

// knownTo reports whether the client holds facts of it.
func (d *dweller) knownTo(c proto.ClientID) bool { return d.traits[c] != nil }

func (w *town) program(c proto.ClientID) *segments.Program {
	if w.rules[c] == nil {
		w.rules[c] = segments.NewProgram()
	}
	return w.rules[c]
}

// define gives a client a rule, and has all nodes brought up to it.
func (w *town) define(c proto.ClientID, id string, scope segments.Scope, when string) proto.SegmentKey {
	rule, err := segments.Compile(when)
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	old, redefined := w.program(c).Get(proto.SegmentID(id))
	w.key++
	if err := w.program(c).Define(segments.Definition{Key: w.key, ID: proto.SegmentID(id), Scope: scope, Rule: rule}); err != nil {
		w.key--
		return 0 // another rule refers to it in a way that would not do
	}
	if redefined {
		w.drop(old.Key)
	}
	w.fill(c)
	return w.key
}

func (w *town) undefine(c proto.ClientID, id proto.SegmentID) {
	if d, ok := w.program(c).Get(id); ok && w.program(c).Undefine(id, w.key+1) == nil {
		w.key++
		w.drop(d.Key)
	}
}

// drop is what becomes of the bits of a segment that there is no more.
func (w *town) drop(key proto.SegmentKey) {
	for _, d := range w.people {
		maps.DeleteFunc(d.bits, func(b identity.Bit, _ bool) bool { return b.Key == key })
	}
}

func (w *town) fill(c proto.ClientID) {
	for i, d := range w.people {
		if d.state.Named && !d.state.Dark() {
			w.step(i, &identity.Input{Kind: identity.InputFill, Client: c})
		}
	}
	w.settle()
}

// step lets a node take an input in, as a host does.
func (w *town) step(i int, in *identity.Input) {
	d := w.people[i]
	stepper := w.stepperOf(d)
	if stepper.NeedsHistory(&d.state, in) {
		in.History = d.blocksOf
	}
	w.fx.Reset()
	stepper.Step(&d.state, in, w.now, &w.fx)
	w.take(d)
	if x := d.state.Graph; x != nil && (w.fx.Shared || w.fx.Due) && (x.Root != graph.Hash{} || x.Leads()) {
		m := graph.Message{Kind: graph.Refresh}
		if w.fx.Shared {
			m.Body = identity.FactsChanged
		}
		w.tell(i, m)
	}
}

func (w *town) stepperOf(d *dweller) *identity.Stepper {
	if d.lane != nil {
		return d.lane
	}
	return w.stepper
}

func (d *dweller) blocksOf(c proto.ClientID) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		f := d.state.Client(c)
		for n := f.History.First; n < f.History.Next; n++ {
			if !yield(slices.Clone(d.blocks[c][n])) {
				return
			}
		}
	}
}

// take keeps what follows from a step.
func (w *town) take(d *dweller) {
	for _, b := range w.fx.Bits {
		if key := (identity.Bit{Client: b.Client, Key: b.Key}); b.Set {
			d.bits[key] = true
		} else {
			delete(d.bits, key)
		}
	}
	for _, b := range w.fx.Blocks {
		if d.blocks[b.Client] == nil {
			d.blocks[b.Client] = map[uint32][]byte{}
		}
		if b.Data == nil {
			delete(d.blocks[b.Client], b.Number)
		} else {
			d.blocks[b.Client][b.Number] = b.Data
		}
	}
	if w.fx.Exit != 0 {
		d.exits = append(d.exits, w.fx.Exit)
	}
}

func (w *town) tell(i int, m graph.Message) {
	m.To = w.people[i].node
	w.inbox = append(w.inbox, m)
}

// Step implements graph.Homes.
func (w *town) Step(groups []graph.Group) error {
	for k := range groups {
		g := &groups[k]
		d := w.people[int(g.To.Hash[0])-1]
		w.fx.Reset()
		if !d.state.Named {
			d.state.Device = d.device // as a host that learned its name says
		}
		w.stepperOf(d).StepGraph(w.limits, nil, g.To, &d.state, g.In, w.now, &g.Effects, &w.fx)
		if s := &d.state; !s.Named && s.Graph != nil && !s.Graph.Dark && len(s.Graph.Edges()) > 0 {
			w.stepperOf(d).Name(&d.state, d.device, &w.fx)
		}
		w.take(d)
	}
	return nil
}

// settle ends the entry: the graph takes in what it was told.
func (w *town) settle() {
	in := w.inbox
	w.inbox = nil
	for len(in) > 0 || len(w.lane.Carry) > 0 {
		if err := w.lane.Apply(w.lane.Position+1, in, w, &w.out); err != nil {
			w.t.Fatalf("lane: %v", err)
		}
		in = nil
	}
}

// The things that happen. Each is an entry of its own, of a time of its own.

func (w *town) tick() { w.wait(1) }

// wait lets time pass; what comes due is done as of then, and late.
func (w *town) wait(d proto.Millis) {
	w.now += d
	for again := true; again; {
		again = false
		for i, d := range w.people {
			due := slices.DeleteFunc(slices.Clone(d.exits), func(at proto.Millis) bool { return at > w.now })
			d.exits = slices.DeleteFunc(d.exits, func(at proto.Millis) bool { return at <= w.now })
			slices.Sort(due)
			for _, at := range due {
				w.step(i, &identity.Input{Kind: identity.InputTimer, At: at})
				again = true
			}
		}
		w.settle()
	}
}

func (w *town) event(c proto.ClientID, i int, age proto.Millis, name string) {
	w.happens(c, i, age, body(name))
}

func (w *town) happens(c proto.ClientID, i int, age proto.Millis, b proto.EventBody) {
	w.tick()
	d := w.people[i]
	if admits := d.state.Admits(w.now); admits != (!d.dark && w.now > d.fence) {
		w.t.Fatalf("%d admits an event: %v, opted out %v, fence %v at %v", i, admits, d.dark, d.fence, w.now)
	} else if !admits {
		return
	}
	w.step(i, &identity.Input{Kind: identity.InputEvent, Client: c, Device: d.device, Event: &proto.Event{Client: c, Space: 1, Time: w.now - age, Received: w.now, EventBody: b}})
	w.settle()
	d.know(c)
	d.history[c] = append(d.history[c], happened{min(w.now-age, w.now), b})
}

func (d *dweller) know(c proto.ClientID) {
	if d.traits[c] == nil {
		d.traits[c] = map[string]proto.Value{}
	}
}

func (w *town) trait(c proto.ClientID, i int, key string, v proto.Value) {
	w.tick()
	d := w.people[i]
	if d.dark || w.now <= d.fence {
		return
	}
	w.step(i, &identity.Input{Kind: identity.InputTraits, Client: c, Device: d.device, Traits: []proto.Prop{{Key: key, Value: v}}})
	w.settle()
	if d.know(c); v == proto.TextOf("") {
		delete(d.traits[c], key)
	} else {
		d.traits[c][key] = v
	}
}

func (w *town) link(c proto.ClientID, i, k int) {
	w.tick()
	a, b := w.people[i], w.people[k]
	w.tell(i, graph.Message{Kind: graph.Link, About: b.node.Hash, Evidence: graph.Evidence{Time: w.now, Client: c, Confidence: 1000}})
	w.settle()
	if i == k || a.dark || b.dark || w.now <= max(a.fence, b.fence) {
		return
	}
	a.links[k], b.links[i] = c, c
}

func (w *town) unlink(i, k int) {
	w.tick()
	w.tell(i, graph.Message{Kind: graph.Remove, About: w.people[k].node.Hash, Evidence: graph.Evidence{Time: w.now}})
	w.settle()
	if a := w.people[i]; !a.dark && w.now > a.fence {
		w.cutLink(i, k)
	}
}

func (w *town) cutLink(i, k int) {
	delete(w.people[i].links, k)
	delete(w.people[k].links, i)
}

// withdraw takes away the links of a node for which the client vouches.
func (w *town) withdraw(c proto.ClientID, i int) {
	w.tick()
	w.tell(i, graph.Message{Kind: graph.Withdraw, Evidence: graph.Evidence{Time: w.now, Client: c}})
	w.settle()
	if a := w.people[i]; !a.dark && w.now > a.fence {
		for k, vouches := range maps.Clone(a.links) {
			if vouches == c {
				w.cutLink(i, k)
			}
		}
	}
}

// forget takes away what the client knows of a node.
func (w *town) forget(c proto.ClientID, i int) {
	w.tick()
	d := w.people[i]
	if d.dark {
		return
	}
	w.step(i, &identity.Input{Kind: identity.InputForget, Client: c})
	w.settle()
	delete(d.history, c)
	delete(d.traits, c)
}

// leave takes a node out: for good, or so that it begins anew.
func (w *town) leave(i int, kind graph.Kind) {
	w.tick()
	w.tell(i, graph.Message{Kind: kind, Evidence: graph.Evidence{Time: w.now}})
	w.settle()
	d := w.people[i]
	if d.dark && kind == graph.Erase {
		return
	}
	for k := range w.people {
		w.cutLink(i, k)
	}
	d.empty()
	if d.dark = kind == graph.Cut; !d.dark {
		d.fence = w.now + 2*w.limits.SkewMillis
	}
}

func (w *town) optIn(i int) {
	w.tick()
	d := w.people[i]
	w.tell(i, graph.Message{Kind: graph.OptIn, ToGen: d.state.Gen(), Evidence: graph.Evidence{Time: w.now}})
	w.settle()
	if d.dark {
		d.dark, d.fence = false, w.now+2*w.limits.SkewMillis
	}
}

// reload has a node read from its bytes and its members' copies.
func (w *town) reload(i int) {
	d := w.people[i]
	var s identity.State
	members, err := s.Decode(d.state.Append(nil))
	if err != nil {
		w.t.Fatalf("the state of %d does not read back: %v", i, err)
	}
	for _, m := range members {
		if err := s.Graph.AddCopy(m, d.state.Graph.Copy(m).Append(nil)); err != nil {
			w.t.Fatalf("copy of a member: %v", err)
		}
	}
	d.state = s
}

// user is who is one with i, in order.
func (w *town) user(i int) []int {
	user := []int{i}
	for n := 0; n < len(user); n++ {
		for k := range w.people[user[n]].links {
			if !slices.Contains(user, k) {
				user = append(user, k)
			}
		}
	}
	slices.Sort(user)
	return user
}

// plain is all that a client knows of some nodes; false if nothing.
func (w *town) plain(c proto.ClientID, of []int) (segments.Plain, bool) {
	var x segments.Plain
	var all []happened
	known := false
	for _, i := range of {
		d := w.people[i]
		known = known || d.knownTo(c)
		all = append(all, d.history[c]...)
		for key, v := range d.traits[c] {
			x.Traits = append(x.Traits, proto.Prop{Key: key, Value: v})
		}
		if d.device {
			x.Devices++
		}
	}
	x.History = func(yield func(proto.Millis, *proto.EventBody) bool) {
		for i := range all {
			if !yield(all[i].at, &all[i].body) {
				return
			}
		}
	}
	return x, known
}

func plainly(p *segments.Program, x segments.Plain, id proto.SegmentID, now proto.Millis) bool {
	d, _ := p.Get(id)
	x.Member = func(id proto.SegmentID) bool { return plainly(p, x, id, now) }
	return x.Holds(d.Rule, now)
}

// wantBits are the bits that a node must have, plainly: its clients' universes
// and its memberships.
func (w *town) wantBits(i int) map[identity.Bit]bool {
	want := map[identity.Bit]bool{}
	for _, c := range []proto.ClientID{3, acme, zeta} {
		p := w.program(c)
		own, knows := w.plain(c, []int{i})
		user, known := w.plain(c, w.user(i))
		if known {
			want[identity.Bit{Client: c}] = true
		}
		for _, d := range p.All() {
			if d.Scope == segments.ScopeUser && known && plainly(p, user, d.ID, w.now) || d.Scope == segments.ScopeIdentity && knows && plainly(p, own, d.ID, w.now) {
				want[identity.Bit{Client: c, Key: d.Key}] = true
			}
		}
	}
	return want
}

// viewBits are the bits that a look-up of the node gives.
func (w *town) viewBits(i int) map[identity.Bit]bool {
	got := map[identity.Bit]bool{}
	v := w.people[i].state.View()
	if v == nil {
		return got
	}
	add := func(c proto.ClientID, list []segments.Membership, counts func(proto.SegmentKey) bool) {
		got[identity.Bit{Client: c}] = true
		for _, m := range list {
			if _, inForce := w.program(c).ByKey(m.Key); inForce && counts(m.Key) && identity.In(m, w.now) {
				got[identity.Bit{Client: c, Key: m.Key}] = true
			}
		}
	}
	for _, x := range v.Clients {
		add(x.Client, x.Members, func(k proto.SegmentKey) bool { return !v.Follows || !w.program(x.Client).UserScope(k) })
	}
	for _, x := range v.User {
		add(x.Client, x.Members, w.program(x.Client).UserScope)
	}
	return got
}

func tellBits(bits map[identity.Bit]bool) string {
	list := slices.SortedFunc(maps.Keys(bits), func(a, b identity.Bit) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Key, b.Key))
	})
	var s []string
	for _, b := range list {
		s = append(s, fmt.Sprintf("%d/%d", b.Client, b.Key))
	}
	return strings.Join(s, " ")
}

// check compares every node with the plain account.
func (w *town) check() {
	for i, d := range w.people {
		want := tellBits(w.wantBits(i))
		for what, got := range map[string]map[identity.Bit]bool{"bits": d.bits, "look-ups": w.viewBits(i)} {
			if diff := gocmp.Diff(want, tellBits(got)); diff != "" {
				w.t.Fatalf("at %v %s of %d, of the user %v (client/segment, 0 the universe; -plain +got):\n%s", w.now-start, what, i, w.user(i), diff)
			}
		}
		for c, blocks := range d.blocks {
			if f := d.state.Client(c); len(blocks) > 0 && (f == nil || len(blocks) != int(f.History.Next-f.History.First)) {
				w.t.Fatalf("%d blocks are left of what client %d knew of %d", len(blocks), c, i)
			}
		}
		if follows := len(w.user(i)) > 1; d.state.Follows != follows || d.state.Dark() != d.dark {
			w.t.Fatalf("%d follows %v and is opted out %v; its user is %v, and it is out %v", i, d.state.Follows, d.state.Dark(), w.user(i), d.dark)
		}
	}
}

// wantSame checks that nodes of two towns are the same to everybody who may
// look at them, and to whoever they will be linked with.
func wantSame(t interface{ Fatalf(string, ...any) }, what string, a, b *town, people ...int) {
	for _, i := range people {
		x, y := a.people[i], b.people[i]
		if diff := gocmp.Diff(tellBits(y.bits), tellBits(x.bits)); diff != "" {
			t.Fatalf("%s: bits of %d (-without +with):\n%s", what, i, diff)
		}
		if diff := gocmp.Diff(tellBits(b.viewBits(i)), tellBits(a.viewBits(i))); diff != "" {
			t.Fatalf("%s: look-ups of %d (-without +with):\n%s", what, i, diff)
		}
		if one, other := a.stepper.Data(&x.state), b.stepper.Data(&y.state); one != other {
			t.Fatalf("%s: %d gives %x to its user, without %x", what, i, one, other)
		}
		if one, other := len(x.state.User), len(y.state.User); one != other {
			t.Fatalf("%s: %d has memberships of its user of %d clients, without of %d", what, i, one, other)
		}
	}
}
