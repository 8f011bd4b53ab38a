package segments_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

// people are identities under the same rules, which any division may make
// users of.
type people struct {
	rules      *world // of it only what makes rules
	identities []*person
	ev         *segments.Evaluator
	now        proto.Millis
}

type person struct {
	*world
	given string // what the deltas say was given last
}

func drawPeople(t *rapid.T) *people {
	x := &people{rules: newWorld(), ev: segments.NewEvaluator(), now: start}
	for range rapid.IntRange(1, 6).Draw(t, "rules") {
		x.rules.drawDefinition(t)
	}
	for range rapid.IntRange(1, 5).Draw(t, "identities") {
		p := &person{world: newWorld()}
		p.program = x.rules.program
		p.draw(t)
		x.identities = append(x.identities, p)
	}
	return x
}

func (x *people) step(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "rules or events") {
	case 0:
		x.rules.drawDefinition(t)
	case 1:
		x.rules.drawUndefinition(t)
	default:
		p := rapid.SampledFrom(x.identities).Draw(t, "who")
		p.now = x.now
		p.step(t, false)
		x.now = p.now
		p.give(t)
	}
}

// give holds the deltas to having told of every change in what is given.
func (p *person) give(t *rapid.T) {
	if p.memory.Version() != p.program.Version() {
		return
	}
	given := string(p.program.AppendShared(nil, p.memory))
	if !p.shared && given != p.given {
		t.Fatalf("nobody was told that\n%x became\n%x", p.given, given)
	}
	p.given, p.shared = given, false
}

// users divides the identities in two, either of which may be nobody.
func (x *people) users(t *rapid.T) [2]*user {
	users := [2]*user{{people: x}, {people: x}}
	for _, p := range x.identities {
		p.now = x.now
		p.update()
		p.apply()
		p.give(t)
		u := users[rapid.IntRange(0, 1).Draw(t, "whose")]
		u.shared = append(u.shared, p.given)
		u.history = append(u.history, p.history...)
		u.traits = append(u.traits, p.traits...)
		u.devices += p.devices
	}
	return users
}

type user struct {
	*people
	shared  []string
	history []happened
	traits  []proto.Prop
	devices int
}

func (u *user) plain(d segments.Definition, now proto.Millis) bool {
	return plainly(u.rules.program, segments.Plain{History: seq(u.history), Traits: u.traits, Devices: u.devices}, d, now)
}

func (u *user) check(t *rapid.T) {
	p := u.rules.program
	got, err := u.ev.Union(p, u.shared, u.devices, u.now, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept := map[proto.SegmentKey]segments.Membership{}
	for _, ms := range got {
		kept[ms.Key] = ms
		if !ms.In && ms.Next == 0 || ms.Since != 0 || !p.UserScope(ms.Key) {
			t.Fatalf("membership %v", ms)
		}
	}
	if len(kept) != len(got) || !slices.IsSortedFunc(got, func(a, b segments.Membership) int { return cmp.Compare(a.Key, b.Key) }) {
		t.Fatalf("not each once by key: %v", got)
	}
	for _, d := range p.All() {
		if d.Scope == segments.ScopeUser && len(u.shared) > 0 {
			u.checkOne(t, d, kept[d.Key])
		}
	}
	u.checkTwin(t, got)
}

// checkOne compares with the plain reading as world.check does.
func (u *user) checkOne(t *rapid.T, d segments.Definition, ms segments.Membership) {
	if want := u.plain(d, u.now); ms.In != want {
		t.Fatalf("%s: %s\nat %s: %v, plainly %v\nhistory %v", d.ID, d.Rule, u.now, ms.In, want, u.history)
	}
	if ms.Next == 0 {
		for _, ahead := range []proto.Millis{1, hour, day, 3*day - 1, 5 * day} {
			if u.plain(d, u.now+ahead) != ms.In {
				t.Fatalf("%s: %s\nat %s: never changes, but does by %s", d.ID, d.Rule, u.now, u.now+ahead)
			}
		}
	} else if ms.Next <= u.now || u.plain(d, ms.Next-1) != ms.In || u.plain(d, ms.Next) == ms.In {
		t.Fatalf("%s: %s\nat %s: next change %s is not exact\nhistory %v", d.ID, d.Rule, u.now, ms.Next, u.history)
	}
}

// checkTwin has another evaluator judge the same in another order, under rules
// that came in the order of their keys and never changed.
func (u *user) checkTwin(t *rapid.T, want []segments.Membership) {
	p := segments.NewProgram()
	all := u.rules.program.All()
	slices.SortFunc(all, func(a, b segments.Definition) int { return cmp.Compare(a.Key, b.Key) })
	for i := 0; len(all) > 0; i = (i + 1) % max(len(all), 1) {
		d := all[i%len(all)]
		if _, there := p.Get(d.ID); !there && u.rules.program.Waits(d.Key) {
			continue
		}
		// A rule may refer to one that was defined anew after it.
		if err := p.Restore(d, 0); err == nil {
			all = slices.Delete(all, i%len(all), i%len(all)+1)
		} else if proto.CodeOf(err) != proto.CodeNotFound {
			t.Fatal(err)
		}
	}
	p.SetVersion(u.rules.program.Version())
	got, err := segments.NewEvaluator().Union(p, rapid.Permutation(u.shared).Draw(t, "order"), u.devices, u.now, nil)
	if diff := gocmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("twin (+): %v\n%s", err, diff)
	}
	for _, o := range u.identities {
		if given := string(p.AppendShared(nil, o.memory)); given != o.given {
			t.Fatalf("by rules that never changed %x is given, not %x", given, o.given)
		}
	}
}

func TestUnionAgreesWithPlainReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawPeople(t)
		for range rapid.IntRange(1, 10).Draw(t, "rounds") {
			for range rapid.IntRange(1, 6).Draw(t, "steps") {
				x.step(t)
			}
			for _, u := range x.users(t) {
				u.check(t)
			}
		}
	})
}

// device is an identity under p after what happened; "key=value" is a trait.
func device(t *testing.T, p *segments.Program, happens ...string) string {
	t.Helper()
	m, ev, d := &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
	ev.SetDevices(1)
	ev.Update(p, m, seq(nil), start, d)
	for i, h := range happens {
		now := start + proto.Millis(i)*hour
		if key, value, trait := strings.Cut(h, "="); trait {
			ev.SetTraits(p, m, []proto.Prop{{Key: key, Value: proto.TextOf(value)}}, now, d)
		} else {
			ev.Observe(p, m, &proto.EventBody{Name: h}, now, now, d)
		}
	}
	shared := string(p.AppendShared(nil, m))
	if err := segments.CheckShared(shared); err != nil {
		t.Fatal(err)
	}
	return shared
}

// TestUnion tells by example what the documentation says of users.
func TestUnion(t *testing.T) {
	for _, c := range []struct {
		rule          string
		phone, laptop []string
		in            bool
		next          proto.Millis
	}{
		{`count(event.name == "x") >= 3`, []string{"x", "x"}, []string{"y", "x"}, true, 0},
		{`count(event.name == "x", "1d") == 2`, []string{"x"}, []string{"x"}, true, start + day},
		{`count(event.name == "x", "1d") == 2`, []string{"x", "y"}, []string{"y", "x", "x"}, false, start + day},
		{`days(true) >= 2`, []string{"x", "x"}, []string{"x"}, false, 0},
		{`!(count(event.name == "x") >= 1)`, []string{"x"}, nil, false, 0},
		{`!(count(event.name == "x") >= 1)`, nil, nil, true, 0},
		{`last(event.name == "x") > now - "1d"`, []string{"x"}, []string{"y", "x"}, true, start + hour + day},
		{`trait("age") >= 25 && trait("age") < 18`, []string{"age=30"}, []string{"age=3"}, true, 0},
		{`trait("age") != 3`, []string{"age=30"}, []string{"age=3"}, true, 0},
		{`!(trait("age") == 3)`, []string{"age=30"}, []string{"age=3"}, false, 0},
		{`devices() == 2`, nil, nil, true, 0},
		{`member("alone")`, []string{"x"}, []string{"x"}, false, 0},
		{`!member("alone") && count(true) >= 2`, []string{"x"}, []string{"x"}, true, 0},
	} {
		p := segments.NewProgram()
		for i, d := range []segments.Definition{
			{ID: "alone", Scope: segments.ScopeIdentity, Rule: compile(t, `count(event.name == "x") == 1`)},
			{ID: "user", Rule: compile(t, c.rule)},
		} {
			d.Key = proto.SegmentKey(i + 1)
			if err := p.Define(d); err != nil {
				t.Fatal(err)
			}
		}
		got, err := segments.NewEvaluator().Union(p, []string{device(t, p, c.phone...), device(t, p, c.laptop...)}, 2, start+2*hour, nil)
		var want []segments.Membership
		if c.in || c.next != 0 {
			want = append(want, segments.Membership{Key: 2, In: c.in, Next: c.next})
		}
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s with %v and %v: %v\n%s", c.rule, c.phone, c.laptop, err, diff)
		}
	}
}

// TestOnlyWhatIsShared: what no rule of scope user looks at is not given, and
// what one does no longer is not told of.
func TestOnlyWhatIsShared(t *testing.T) {
	p, ev, m, d := segments.NewProgram(), segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	define := func(key proto.SegmentKey, id proto.SegmentID, scope segments.Scope, text string) {
		t.Helper()
		if err := p.Define(segments.Definition{Key: key, ID: id, Scope: scope, Rule: compile(t, text)}); err != nil {
			t.Fatal(err)
		}
	}
	now := start
	shared := func(name string, traits ...proto.Prop) bool {
		d.Reset()
		now += hour
		ev.Observe(p, m, &proto.EventBody{Name: name}, now, now, d)
		ev.SetTraits(p, m, traits, now, d)
		return d.Shared
	}
	define(1, "own", segments.ScopeIdentity, `count(event.name == "x", "30d") >= 9 || trait("age") > 3`)
	if !shared("x") {
		t.Error("the first event tells nobody of the identity")
	}
	if shared("x", proto.Prop{Key: "age", Value: proto.NumberOf(30)}) || p.UserScope(1) {
		t.Error("shared, for a rule on one identity")
	}
	nothing := len(p.AppendShared(nil, m))
	define(2, "user", segments.ScopeUser, `count(event.name == "x") >= 1 && member("own")`)
	ev.Update(p, m, nil, now, d)
	if !d.Shared || len(p.AppendShared(nil, m)) <= nothing || !p.UserScope(2) {
		t.Error("what a rule reaches by member() is not shared")
	}
	if !shared("x") || shared("y") || !shared("y", proto.Prop{Key: "age", Value: proto.NumberOf(31)}) || shared("y", proto.Prop{Key: "age", Value: proto.NumberOf(31)}) {
		t.Error("not told of what is shared, and of nothing else")
	}
	define(3, "user", segments.ScopeUser, `count(event.name == "x") >= 1`)
	ev.Update(p, m, nil, now, d)
	for _, which := range []string{"first", "second"} {
		if !shared("x") {
			t.Error("not told of the", which)
		}
	}
	if shared("x") || shared("x", proto.Prop{Key: "age", Value: proto.NumberOf(32)}) {
		t.Error("told of more than count(…) >= 1 has to know")
	}
	define(4, "other", segments.ScopeUser, `count(event.name == "z") >= 1`)
	define(5, "more", segments.ScopeIdentity, `count(event.name == "z") >= 50`)
	ev.Update(p, m, nil, now, d)
	for i, want := range []bool{true, true, false} {
		if shared("z") != want {
			t.Errorf("z %d: told of what only a rule on one identity asks for, or of nothing", i)
		}
	}
	if err := p.Undefine("other", 8); err != nil {
		t.Fatal(err)
	}
	if err := p.Undefine("user", 9); err != nil {
		t.Fatal(err)
	}
	ev.Update(p, m, nil, now, d)
	if len(p.AppendShared(nil, m)) != nothing {
		t.Error("shared, for a rule that is gone")
	}
}

func TestUnionOfOlderParts(t *testing.T) {
	p := given(t, `count(event.name == "x") >= 1`)
	shared := []string{device(t, p, "x", "y"), device(t, p, "y")}
	if err := p.Define(segments.Definition{Key: 2, ID: "s2", Rule: compile(t, `count(event.name == "x") >= 2 || count(event.name == "y") < 1`)}); err != nil {
		t.Fatal(err)
	}
	got, err := segments.NewEvaluator().Union(p, shared, 2, start+hour, nil)
	if diff := gocmp.Diff([]segments.Membership{{Key: 1, In: true}, {Key: 2, In: true}}, got); diff != "" || err != nil {
		t.Errorf("judged by what is there: %v\n%s", err, diff)
	}
	if got, err := segments.NewEvaluator().Union(p, nil, 0, start, nil); len(got) != 0 || err != nil {
		t.Errorf("without identities: %v, %v", got, err)
	}
}

// Two identities of a user whose traits are 0 and -0, as logs of before the gateway
// made them one have, are the same user in either order.
func TestUnionKeepsMinusZero(t *testing.T) {
	p, ev := given(t, `trait("n").startsWith("-")`), segments.NewEvaluator()
	var shared []string
	for _, n := range []float64{0, math.Copysign(0, -1)} {
		m := &segments.Memory{}
		ev.SetTraits(p, m, []proto.Prop{{Key: "n", Value: proto.NumberOf(n)}}, start, &segments.Delta{})
		shared = append(shared, string(p.AppendShared(nil, m)))
	}
	for range 2 {
		if got, err := ev.Union(p, shared, 0, start, nil); err != nil || len(got) != 1 || !got[0].In {
			t.Errorf("in %v, %v", got, err)
		}
		slices.Reverse(shared)
	}
}

func TestExplainUnion(t *testing.T) {
	p := given(t, `(count(event.name == "x", "1d") >= 2 || devices() > 5) && trait("city") == "b" && !(trait("city") == "c")`)
	ev := segments.NewEvaluator()
	shared := []string{device(t, p, "x", "city=a"), device(t, p, "x", "city=b")}
	facts, err := ev.ExplainUnion(p, "s1", shared, 2, start+hour)
	want := []proto.ExplanationFact{
		{Expr: `count(event.name == "x", "1d") >= 2`, Value: 2, Holds: true, Events: []time.Time{start.Time(), start.Time()}},
		{Expr: `devices() > 5`, Value: 2},
		{Expr: `trait("city") == "b"`, Value: "b", Holds: true},
		{Expr: `trait("city") == "c"`, Value: "a"},
	}
	if diff := gocmp.Diff(want, facts); diff != "" || err != nil {
		t.Errorf("%v, facts (-want +got):\n%s", err, diff)
	}
	if err := p.Define(segments.Definition{Key: 2, ID: "own", Scope: segments.ScopeIdentity, Rule: compile(t, "true")}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id     proto.SegmentID
		shared []string
		code   proto.Code
	}{{"nobody", shared, proto.CodeNotFound}, {"own", shared, proto.CodeInvalid}, {"s1", []string{"?"}, proto.CodeCorrupt}} {
		if _, err := ev.ExplainUnion(p, c.id, c.shared, 2, start); proto.CodeOf(err) != c.code {
			t.Errorf("%s: %v, not %s", c.id, err, c.code)
		}
	}
}

func TestUnionRefuses(t *testing.T) {
	p := given(t, `count(event.name == "x") >= 1`)
	good := device(t, p, "x")
	for name, b := range map[string]string{
		"empty":             "",
		"unknown version":   "\x09" + good[1:],
		"cut short":         good[:len(good)-1],
		"more behind":       good + "\x00",
		"too great a key":   "\x01\xff\xff\xff\xff\x7f\x00\x00",
		"trait twice":       "\x01\x00\x02\x01a\x02\x01a\x02\x00",
		"predicate twice":   "\x01\x00\x00\x02" + strings.Repeat("\x01\x00\x00\x00\x00\x00\x01\x01", 2),
		"nothing of it":     "\x01\x00\x00\x01\x01\x00\x00\x00\x00\x00\x00\x00",
		"count of too many": "\x01\x00\x00\xff\xff\x03",
	} {
		dst := []segments.Membership{{Key: 9}}
		got, err := segments.NewEvaluator().Union(p, []string{good, b}, 2, start, dst)
		if proto.CodeOf(err) != proto.CodeCorrupt || fmt.Sprint(got) != fmt.Sprint(dst) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err := segments.CheckShared(b); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s checked: %v", name, err)
		}
	}
}
