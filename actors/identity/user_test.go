package identity_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// goldenUser is a node in whose state every part has something: the root of a
// user of three, with facts and memberships of two clients.
func goldenUser(t testing.TB) *identity.State {
	w := newTown(t, 3)
	w.people[0].state.Ordinal = proto.MakeOrdinal(300, 1)
	w.define(acme, "twice", segments.ScopeUser, `count(event.name == "x", "30s") >= 2`)
	w.define(acme, "quiet", segments.ScopeUser, `!(count(event.name == "y", "20s") >= 1)`)
	w.define(zeta, "mine", segments.ScopeIdentity, `count(true) >= 1`)
	w.event(acme, 0, 0, "x")
	w.event(acme, 1, 0, "x")
	w.event(acme, 2, 0, "y")
	w.event(zeta, 2, 0, "y")
	w.link(acme, 0, 1)
	w.link(zeta, 1, 2)
	w.check()
	s := &w.people[0].state
	if !s.Named || !s.Device || !s.Follows || !s.Graph.Leads() || len(s.User) != 2 || s.Exit == 0 || s.UserChange() == 0 {
		t.Fatalf("the golden state lacks something: %+v", s)
	}
	return s
}

// Two that are linked are judged together by the rules of scope user, each for
// itself by those of scope identity; parted, each is its own again.
func TestLinkedAndParted(t *testing.T) {
	w := newTown(t, 2)
	both := w.define(acme, "both", segments.ScopeUser, `count(event.name == "x") >= 1 && count(event.name == "y") >= 1`)
	devices := w.define(acme, "devices", segments.ScopeUser, `devices() >= 1 && count(true) >= 1`)
	alone := w.define(acme, "alone", segments.ScopeIdentity, `count(event.name == "x") >= 1 && count(event.name == "y") >= 1`)
	w.event(acme, 0, 0, "x")
	w.event(acme, 1, 0, "y")
	before := []string{tellBits(w.people[0].bits), tellBits(w.people[1].bits)}
	want(t, "bits before the link", []string{fmt.Sprintf("7/0 7/%d", devices), "7/0"}, before)

	w.link(acme, 0, 1)
	w.check()
	after := fmt.Sprintf("7/0 7/%d 7/%d", both, devices)
	for i, d := range w.people {
		want(t, fmt.Sprint("bits when linked of ", i), after, tellBits(d.bits))
		if m := d.state.Client(acme).Memory.Memberships(); i == 1 && len(m) != 0 {
			t.Errorf("the other's history went into its own memory: %v", m)
		}
	}
	if w.people[0].bits[identity.Bit{Client: acme, Key: alone}] {
		t.Error("a rule of scope identity was judged over the user")
	}

	w.unlink(1, 0)
	w.check()
	for i, d := range w.people {
		want(t, fmt.Sprint("bits when parted of ", i), before[i], tellBits(d.bits))
	}
}

// Who is in stays in, since when it was.
func TestSinceOutlivesTheLink(t *testing.T) {
	w := newTown(t, 2)
	seen := w.define(acme, "seen", segments.ScopeUser, `count(event.name == "x") >= 1`)
	w.event(acme, 0, 0, "x")
	entered := w.now
	w.wait(10 * second)
	w.link(acme, 0, 1)
	linked := w.now
	w.event(acme, 1, 0, "x") // the value is another, and is shown again
	if got := w.sinceOf(0, seen); got != entered {
		t.Errorf("since %v, it entered at %v", got, entered)
	}
	if got := w.sinceOf(1, seen); got != linked {
		t.Errorf("the other is in since %v, it was linked at %v", got, linked)
	}
}

// sinceOf is since when a node is in a segment of its user.
func (w *town) sinceOf(i int, key proto.SegmentKey) proto.Millis {
	for _, m := range w.people[i].state.View().OfUser(acme).Members {
		if m.Key == key && m.In {
			return m.Since
		}
	}
	w.t.Fatalf("%d is not in", i)
	return 0
}

// Whom time lets in is in since then, whenever the lane comes to it: by the timer, or
// by what comes before that.
func TestSinceOfTimeIsExact(t *testing.T) {
	for what, late := range map[string]func(*town){
		"a late timer": func(w *town) { w.wait(30 * second) },
		"a value before the timer": func(w *town) {
			w.now += 30 * second
			w.step(0, &identity.Input{Kind: identity.InputEvent, Client: acme, Device: true, Event: &proto.Event{Client: acme, Space: 1, Time: w.now, EventBody: body("x")}})
			w.settle()
		},
	} {
		w := newTown(t, 2)
		quiet := w.define(acme, "quiet", segments.ScopeUser, `last(event.name == "y") < now - "20s"`)
		w.define(acme, "twice", segments.ScopeUser, `count(event.name == "x") >= 1`)
		w.event(acme, 0, 0, "y")
		w.link(acme, 0, 1)
		w.event(acme, 1, 0, "y")
		opens := w.now + 20*second + 1
		late(w)
		for i := range w.people {
			if got := w.sinceOf(i, quiet); got != opens {
				t.Errorf("%s: %d is in %v after time let it in", what, i, got-opens)
			}
		}
	}
}

// A trim brings a node up to the rules too: what its user was in may be no more.
func TestTrimUnderNewRules(t *testing.T) {
	w := newTown(t, 2)
	w.define(acme, "seen", segments.ScopeUser, `count(event.name == "x") >= 1`)
	w.event(acme, 0, 0, "y")
	w.wait(10 * second)
	w.event(acme, 1, 0, "x")
	w.link(acme, 0, 1)
	if members := w.people[0].state.View().OfUser(acme).Members; len(members) != 1 {
		t.Fatalf("its user is in %v", members)
	}
	w.undefine(acme, "seen")
	w.step(0, &identity.Input{Kind: identity.InputTrim, Client: acme, At: w.now - 5*second})
	if members := w.people[0].state.View().OfUser(acme).Members; len(members) != 0 || !w.fx.Published {
		t.Errorf("its user is in %v, which is no more; published %v", members, w.fx.Published)
	}
}

// A cut takes everything of the identity back: the others are as if it had
// never been linked.
func TestCutIsAsIfNeverLinked(t *testing.T) {
	for what, leave := range map[string]func(*town){
		"opted out":     func(w *town) { w.leave(1, graph.Cut) },
		"erased":        func(w *town) { w.leave(1, graph.Erase) },
		"out and in":    func(w *town) { w.leave(1, graph.Cut); w.optIn(1) },
		"out and again": func(w *town) { w.leave(1, graph.Cut); w.tick(); w.leave(1, graph.Cut) },
	} {
		t.Run(what, func(t *testing.T) {
			run := func(linked bool) *town {
				w := newTown(t, 3)
				w.define(acme, "both", segments.ScopeUser, `count(event.name == "x") >= 1 && count(event.name == "y", "60s") >= 1`)
				w.define(acme, "quiet", segments.ScopeUser, `!(count(event.name == "y") >= 1)`)
				w.define(zeta, "vip", segments.ScopeUser, `trait("vip") == true`)
				w.event(acme, 0, 0, "x")
				w.event(acme, 1, 0, "y")
				w.trait(zeta, 1, "vip", proto.FlagOf(true))
				w.event(acme, 2, 0, "z")
				w.event(acme, 1, 0, longName) // so that history is sealed
				w.event(acme, 1, 0, longName+"z")
				if len(w.people[1].blocks[acme]) == 0 {
					t.Fatal("no history was sealed")
				}
				if linked {
					w.link(acme, 0, 1)
					w.link(acme, 1, 2)
					if !w.people[0].state.Follows || !w.people[2].bits[identity.Bit{Client: zeta}] {
						t.Fatal("they are not one user")
					}
				} else {
					w.tick()
					w.tick()
				}
				leave(w)
				w.wait(60 * second) // nothing is left that time would bring out
				w.check()
				return w
			}
			with, without := run(true), run(false)
			wantSame(t, what, with, without, 0, 1, 2)
			for i, d := range with.people {
				if i != 1 && (d.state.Follows || d.state.User != nil) {
					t.Errorf("%d still has memberships of a user: %+v", i, d.state.User)
				}
			}
			if v := with.people[1].state.View(); v != nil && (!v.OptedOut || len(v.Clients)+len(v.User) > 0) {
				t.Errorf("who was cut still shows %+v", v)
			}
			if len(with.people[1].bits) > 0 || with.people[1].state.Known() || len(with.people[1].blocks[acme]) > 0 {
				t.Errorf("of who was cut there is left %s", tellBits(with.people[1].bits))
			}
		})
	}
}

// Time takes the user's memberships away, at all its identities, and the root
// looks what time will change next.
func TestUserLeavesByTime(t *testing.T) {
	w := newTown(t, 3)
	hot := w.define(acme, "hot", segments.ScopeUser, `count(event.name == "x", "5s") >= 1`)
	both := w.define(acme, "both", segments.ScopeUser, `count(event.name == "x", "3s") >= 1 || count(event.name == "y", "20s") >= 2`)
	w.link(acme, 0, 1)
	w.link(acme, 1, 2)
	w.event(acme, 2, 0, "x")
	w.event(acme, 1, 0, "y")
	at := w.now - 1 // of the x
	bits := func(keys ...proto.SegmentKey) string {
		want := map[identity.Bit]bool{{Client: acme}: true}
		for _, k := range keys {
			want[identity.Bit{Client: acme, Key: k}] = true
		}
		return tellBits(want)
	}
	all := func(what, want string) {
		t.Helper()
		w.check()
		for i, d := range w.people {
			if got := tellBits(d.bits); got != want {
				t.Errorf("%s: %d has the bits %s, want %s", what, i, got, want)
			}
		}
	}
	next := func(want proto.Millis) {
		t.Helper()
		for i, d := range w.people {
			if got := d.state.UserChange(); got != want {
				t.Errorf("the user of %d changes next at %v, want %v", i, got-start, want-start)
			}
		}
	}
	all("at first", bits(hot, both))
	next(at + 3*second)

	// A member's timer alone: its own bits are turned, nobody is told anything
	// that only the root knows.
	w.now = at + 3*second
	d := w.people[2]
	w.step(2, &identity.Input{Kind: identity.InputTimer, At: d.state.Exit})
	if !w.fx.Due || !w.fx.Published || len(w.inbox) != 1 || w.inbox[0].Kind != graph.Refresh || len(w.inbox[0].Body) > 0 {
		t.Errorf("effects of a member's timer: %+v, told %v", w.fx, w.inbox)
	}
	want(t, "bits of the member whose timer fired", bits(hot), tellBits(d.bits))
	w.wait(0)
	all("after three seconds", bits(hot))
	next(at + 5*second)

	w.event(acme, 0, 0, "y") // at the root: in again, for as long as the y of before counts
	all("after another y", bits(hot, both))
	w.wait(at + 5*second - w.now)
	all("after five seconds", bits(both))
	next(at + 1 + 20*second)
	w.wait(20 * second)
	all("in the end", bits())
	next(0)
	for i, d := range w.people {
		if len(d.state.User) != 1 || len(d.state.User[0].Members) != 0 {
			t.Errorf("%d keeps %+v", i, d.state.User)
		}
	}
}

// A rule that says what must not be holds until somebody of the user did it,
// and again once that is long ago.
func TestUserNegation(t *testing.T) {
	w := newTown(t, 2)
	quiet := w.define(acme, "quiet", segments.ScopeUser, `!(count(event.name == "y", "5s") >= 1)`)
	w.event(acme, 0, 0, "x")
	w.event(acme, 1, 0, "y")
	w.link(acme, 0, 1)
	in := func(what string, want bool) {
		t.Helper()
		w.check()
		for i, d := range w.people {
			if got := d.bits[identity.Bit{Client: acme, Key: quiet}]; got != want {
				t.Errorf("%s: %d is in: %v, want %v", what, i, got, want)
			}
		}
	}
	in("linked with a loud one", false)
	w.wait(5 * second)
	in("five seconds later", true)
	w.event(acme, 0, 0, "y")
	in("loud again", false)
	w.wait(3 * second)
	w.event(acme, 1, 0, "y")
	w.wait(3 * second) // the first alone would be quiet by now
	in("loud by one of them", false)
	w.wait(second)
	w.event(acme, 0, 0, "y")
	in("loud for the third time", false)
	w.unlink(0, 1)
	w.wait(second)
	if w.check(); w.people[0].bits[identity.Bit{Client: acme, Key: quiet}] || !w.people[1].bits[identity.Bit{Client: acme, Key: quiet}] {
		t.Error("parted, the loud one must be out and the other in")
	}
	// A client that knows none of them has no user to say it of.
	w.define(zeta, "quiet", segments.ScopeUser, `!(count(event.name == "y") >= 1)`)
	w.link(acme, 0, 1)
	if w.check(); w.people[0].bits[identity.Bit{Client: zeta}] {
		t.Error("a client is told of a user that it does not know")
	}
}

// A client that knows one of two learns by the other too what its user is in;
// when it forgets the one, both are gone from its sight, and other clients see
// what they saw.
func TestClientThatKnowsOne(t *testing.T) {
	w := newTown(t, 2)
	seen := w.define(acme, "seen", segments.ScopeUser, `count(event.name == "x") >= 1`)
	w.define(acme, "own", segments.ScopeIdentity, `count(event.name == "x") >= 1`)
	w.define(zeta, "seen", segments.ScopeUser, `count(true) >= 1`)
	w.event(acme, 0, 0, "x")
	w.event(zeta, 1, 0, "y")
	w.link(zeta, 1, 0)
	w.check()
	want(t, "bits of the one that acme does not know", fmt.Sprintf("7/0 7/%d 9/0 9/%d", seen, w.key), tellBits(w.people[1].bits))

	w.forget(acme, 0)
	w.check()
	for i, d := range w.people {
		want(t, fmt.Sprint("bits once forgotten of ", i), fmt.Sprintf("9/0 9/%d", w.key), tellBits(d.bits))
		if d.state.View().Client(acme) != nil || d.state.View().OfUser(acme) != nil {
			t.Errorf("%d still shows acme %+v", i, d.state.View())
		}
	}
	if !w.people[0].state.Named || !w.people[0].state.Follows {
		t.Error("the link went with what one client knew")
	}
}

// A client that forgets one of two that it knows goes on knowing their user.
func TestClientThatForgetsOne(t *testing.T) {
	w := newTown(t, 2)
	seen := w.define(acme, "seen", segments.ScopeUser, `count(event.name == "y") >= 1`)
	w.define(acme, "own", segments.ScopeIdentity, `count(event.name == "x") >= 1`)
	w.event(acme, 0, 0, "x")
	w.event(acme, 1, 0, "y")
	w.link(zeta, 1, 0)
	w.forget(acme, 0)
	w.check()
	want(t, "bits of the forgotten one", fmt.Sprintf("7/0 7/%d", seen), tellBits(w.people[0].bits))
}

// The root's lane may have rules that the node's own has not obeyed yet: what
// they say of the user counts at once, and nothing is missing later.
func TestRulesOfAnotherLaneAreAhead(t *testing.T) {
	w := newTown(t, 2)
	w.define(acme, "old", segments.ScopeUser, `count(event.name == "x") >= 1`)
	behind := rules{acme: segments.NewProgram()}
	d, _ := w.program(acme).Get("old")
	if err := behind[acme].Define(d); err != nil {
		t.Fatal(err)
	}
	w.people[1].lane = identity.NewStepper(behind)
	w.event(acme, 0, 0, "x")
	w.event(acme, 1, 0, "y")
	w.link(acme, 0, 1)
	key := w.define(acme, "new", segments.ScopeUser, `count(event.name == "x") >= 1 && count(true) < 9`)
	if in := func(i int) bool { return w.people[i].bits[identity.Bit{Client: acme, Key: key}] }; !in(0) || !in(1) {
		t.Errorf("with the rule in one lane they are in: %v, %v", in(0), in(1))
	}
	d, _ = w.program(acme).Get("new")
	if err := behind[acme].Define(d); err != nil {
		t.Fatal(err)
	}
	w.fill(acme)
	w.check()
}

// A look-up of a client that holds facts of the node but none of its user's
// others, and of one that holds none.
func TestViewOfUser(t *testing.T) {
	s := goldenUser(t)
	v := s.View()
	if !v.Follows || v.Client(zeta) != nil || v.OfUser(zeta) == nil || v.OfUser(3) != nil || v.Client(acme) == nil {
		t.Errorf("the view is %+v", v)
	}
	var none *identity.View
	if none.OfUser(acme) != nil {
		t.Error("nothing has a user")
	}
	v.Follows = false
	if v.OfUser(acme) != nil {
		t.Error("who is alone has a user")
	}
}

// A segment that there is no more does not come back because its time came.
func TestUndefinedIsNotTurnedByTime(t *testing.T) {
	w := newTown(t, 2)
	w.define(acme, "quiet", segments.ScopeUser, `!(count(event.name == "y", "5s") >= 1)`)
	w.event(acme, 1, 0, "y")
	w.link(acme, 0, 1)
	w.undefine(acme, "quiet")
	w.wait(5 * second)
	w.check()
}

// What a user was in by a rule that there is no more goes when a node is next
// brought up to the rules, not only when its user is judged again.
func TestUndefinedIsForgotten(t *testing.T) {
	w := newTown(t, 2)
	gone := w.define(acme, "gone", segments.ScopeUser, `count(event.name == "x") >= 1`)
	w.event(acme, 0, 0, "x")
	w.event(acme, 1, 0, "x")
	w.link(acme, 0, 1)
	keeps := func() bool {
		u := w.people[1].state.User
		return len(u) > 0 && slices.ContainsFunc(u[0].Members, func(m segments.Membership) bool { return m.Key == gone })
	}
	if !keeps() {
		t.Fatal("the user is not in the segment")
	}
	w.undefine(acme, "gone")
	w.step(1, &identity.Input{Kind: identity.InputFill, Client: acme})
	if keeps() {
		t.Error("still in a segment that there is no more")
	}
	w.settle()
	w.check()
}

// Values that another build or a damaged copy gives are refused.
func TestValueRefused(t *testing.T) {
	good := goldenUser(t).Graph.Given
	if list, err := identity.DecodeValue(good); err != nil || len(list) != 2 {
		t.Fatalf("%x reads as %+v, %v", good, list, err)
	}
	for n := range good {
		if _, err := identity.DecodeValue(good[:n]); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("the first %d of %d bytes: %v", n, len(good), err)
		}
	}
	for what, v := range map[string]graph.Value{
		"newer": "\x02" + good[1:], "longer": good + "\x00",
		"a client twice":        "\x01\x02\x07\x00\x07\x00",
		"a segment twice":       "\x01\x01\x07\x02\x05\x01",
		"a next that is none":   "\x01\x01\x07\x01\x07\x00",
		"a key too large":       "\x01\x01\x07\x01\x81\x80\x80\x80\x80\x01",
		"more clients than any": "\x01\xff\xff\xff\x0f",
	} {
		if list, err := identity.DecodeValue(v); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %+v, %v", what, list, err)
		}
	}
}

// What a user comes to and what an identity gives are stored in copies and
// verdicts.
func TestUserGolden(t *testing.T) {
	s := goldenUser(t)
	golden(t, "value.hex", []byte(s.Graph.Given))
	golden(t, "data.hex", []byte(s.Graph.Members[0].Copy.Data))
}

func FuzzDecodeValue(f *testing.F) {
	f.Add([]byte(goldenUser(f).Graph.Given))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := identity.DecodeValue(graph.Value(b))
		if err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		// What is read can be stored as a node's user and read again.
		s := identity.State{Named: true, Follows: true, User: list, Graph: &graph.State{Gen: 1}}
		var again identity.State
		if _, err := again.Decode(s.Append(nil)); err != nil {
			t.Fatalf("%x reads, but its state does not: %v", b, err)
		}
		if !bytes.Equal(again.Append(nil), s.Append(nil)) {
			t.Fatalf("%+v reads again as %+v", list, again.User)
		}
	})
}

// Whatever happens to a few identities, what everybody sees of each is what
// the rules say, plainly, of its own history or of its user's.
func TestTownAgreesWithPlainReading(t *testing.T) {
	const people = 5
	whens := []string{
		`count(event.name == "x", "3s") >= 2`, `!(count(event.name == "y", "2s") >= 1)`, `count(event.name == "x", "4s") >= 1 && !(trait("vip") == true)`,
		`trait("vip") == true && count(true) >= 1`, `devices() >= 2 && count(event.name == "y") >= 1`, `count(true, "5s") == 3`, `last(event.name == "x") < now - "2s" || count(event.name == "y") >= 3`,
		`distinct(event.n, "9s") >= 2`,
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newTown(rt, people)
		clients := []proto.ClientID{3, acme, zeta}
		client, who := rapid.SampledFrom(clients), rapid.IntRange(0, people-1)
		id := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		define := func(rt *rapid.T) {
			when := rapid.SampledFrom(whens).Draw(rt, "when")
			if rapid.IntRange(0, 4).Draw(rt, "refers") == 0 {
				when = fmt.Sprintf(`member(%q) || count(event.name == "z") >= 1`, id.Draw(rt, "other"))
			}
			w.define(client.Draw(rt, "client"), id.Draw(rt, "id"), rapid.SampledFrom([]segments.Scope{segments.ScopeUser, segments.ScopeUser, segments.ScopeIdentity}).Draw(rt, "scope"), when)
		}
		for range 5 {
			define(rt)
		}
		event := func(rt *rapid.T) {
			b := body(rapid.SampledFrom([]string{"x", "y", "z", longName, longName + "z"}).Draw(rt, "name"))
			if n := rapid.SampledFrom([]float64{1, 0, math.Copysign(0, -1)}).Draw(rt, "n"); n != 1 {
				b.Props = []proto.Prop{{Key: "n", Value: proto.NumberOf(n)}} // logs of before the gateway made them one have both
			}
			w.happens(client.Draw(rt, "client"), who.Draw(rt, "who"), proto.Millis(rapid.IntRange(-10, 4000).Draw(rt, "age")), b)
		}
		link := func(rt *rapid.T) { w.link(client.Draw(rt, "client"), who.Draw(rt, "a"), who.Draw(rt, "b")) }
		forget := func(rt *rapid.T) { w.forget(client.Draw(rt, "client"), who.Draw(rt, "who")) }
		wait := func(rt *rapid.T) { w.wait(proto.Millis(rapid.IntRange(1, 3000).Draw(rt, "ms"))) }
		rt.Repeat(map[string]func(*rapid.T){
			"event": event, "event again": event, "link": link, "link again": link, "wait": wait, "wait again": wait, "define": define,
			"undefine": func(rt *rapid.T) { w.undefine(client.Draw(rt, "client"), proto.SegmentID(id.Draw(rt, "id"))) },
			"trait": func(rt *rapid.T) {
				v := rapid.SampledFrom([]proto.Value{proto.FlagOf(true), proto.FlagOf(false), proto.TextOf("")}).Draw(rt, "v")
				w.trait(client.Draw(rt, "client"), who.Draw(rt, "who"), "vip", v)
			},
			"unlink":   func(rt *rapid.T) { w.unlink(who.Draw(rt, "a"), who.Draw(rt, "b")) },
			"withdraw": func(rt *rapid.T) { w.withdraw(client.Draw(rt, "client"), who.Draw(rt, "who")) },
			"forget":   forget, "forget again": forget,
			"cut":   func(rt *rapid.T) { w.leave(who.Draw(rt, "who"), graph.Cut) },
			"erase": func(rt *rapid.T) { w.leave(who.Draw(rt, "who"), graph.Erase) },
			"opt in": func(rt *rapid.T) {
				w.optIn(who.Draw(rt, "who"))
				w.wait(21)
			},
			"reload": func(rt *rapid.T) {
				i := who.Draw(rt, "who")
				before := w.people[i].state.Append(nil)
				w.reload(i)
				if diff := cmp.Diff(before, w.people[i].state.Append(nil)); diff != "" {
					rt.Fatalf("read and written again:\n%s", diff)
				}
			},
			"": func(*rapid.T) { w.check() },
		})
	})
}

// An identity that was erased, and then linked by a neighbour before anybody
// said its name again, has no number: it must not turn bits, which would be
// those of number 0.
func TestWithoutNumberNoBits(t *testing.T) {
	w := newTown(t, 3)
	var s identity.State
	if _, err := s.Decode(goldenUser(t).Append(nil)); err != nil {
		t.Fatal(err)
	}
	s.Named, s.Facts = false, nil
	var gfx graph.Effects
	var fx identity.Effects
	p := w.stepperOf(w.people[0])
	in := []graph.Message{{Kind: graph.Cut, To: w.people[0].node, Evidence: graph.Evidence{Time: w.now}}}
	p.StepGraph(w.limits, nil, w.people[0].node, &s, in, w.now, &gfx, &fx)
	if !fx.Purged || len(fx.Bits) > 0 {
		t.Errorf("purged %v, bits %v", fx.Purged, fx.Bits)
	}
}
