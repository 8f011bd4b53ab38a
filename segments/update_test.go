package segments_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

// visitor is one identity whose events are told by name.
type visitor struct {
	*world
	t *testing.T
}

func visits(t *testing.T, rules ...string) *visitor {
	w := newWorld()
	w.program, w.key = given(t, rules...), proto.SegmentKey(len(rules))
	w.update()
	return &visitor{w, t}
}

func (v *visitor) event(name string) {
	h := happened{v.now, proto.EventBody{Name: name}}
	v.history = append(v.history, h)
	v.ev.Observe(v.program, v.memory, &h.body, h.at, v.now, &v.delta)
}

func (v *visitor) define(id proto.SegmentID, text string) {
	v.t.Helper()
	v.key++
	if err := v.program.Define(segments.Definition{Key: v.key, ID: id, Rule: compile(v.t, text)}); err != nil {
		v.t.Fatal(err)
	}
}

// membership is that of a segment, zero if none is kept.
func (v *visitor) membership(id proto.SegmentID) segments.Membership {
	d, _ := v.program.Get(id)
	for _, ms := range v.memory.Memberships() {
		if ms.Key == d.Key {
			return ms
		}
	}
	return segments.Membership{}
}

func TestSegmentDefinedAnewTakesItsReferrersAlong(t *testing.T) {
	v := visits(t, `count(event.name == "x") >= 1`, `member("s1")`)
	v.event("x")
	v.define("s1", `count(event.name == "never") >= 1`)
	v.update()
	if v.membership("s1").In || v.membership("s2").In {
		t.Fatalf("still %v", v.memory.Memberships())
	}
}

// What came due before the rules were obeyed began when it was due.
func TestDueBeforeAnUpdate(t *testing.T) {
	v := visits(t, `last(event.name == "cart") <= now - "1h" && last(event.name == "cart") > now - "1d"`, `!member("s1")`)
	v.event("cart")
	v.define("s3", `last(event.name == "cart") <= now - "2h"`)
	v.now += 6 * hour
	v.update()
	if in := v.membership("s1"); !in.In || in.Since != start+hour || in.Next != start+day {
		t.Errorf("who was to be in an hour after the cart is so as %+v", in)
	}
	if in := v.membership("s3"); !in.In || in.Since != v.now {
		t.Errorf("who is in by a new rule is so as %+v", in)
	}
	if v.membership("s2").In {
		t.Error("in one and in its opposite")
	}
}

func TestNewRuleOverSomebodyWhoLeft(t *testing.T) {
	v := visits(t, `count(true) < 1`)
	v.event("x")
	v.define("s2", `!member("s1")`)
	v.update()
	if !v.membership("s2").In {
		t.Fatalf("only %v", v.memory.Memberships())
	}
}

// updateTruncated is update where the oldest events are gone.
func (w *world) updateTruncated() {
	w.ev.SetDevices(w.devices)
	w.ev.UpdateTruncated(w.program, w.memory, seq(w.history), w.now, &w.delta)
}

// Events beyond a history's bound are gone: a newer rule counts them as far as
// others did, and takes nobody out of those.
func TestHistoryThatWasTruncated(t *testing.T) {
	for _, x := range []struct{ old, newer string }{
		{`count(event.name == "x") >= 2`, `count(event.name == "x") >= 5`},
		{`count(event.name == "x", "3d") == 2`, `count(event.name == "x", "9d") >= 5`},
		{`days(event.name == "x") >= 1`, `days(event.name == "x") >= 5`},
		{`first(event.name == "x") < now - "1h"`, `last(event.name == "x") > now - "9d"`},
		{`last(event.name == "x") > now - "9d"`, `first(event.name == "x") < now - "1h"`},
	} {
		v := visits(t, x.old)
		v.event("x")
		v.event("x")
		v.now += 2 * hour
		v.history = nil
		v.event("y")
		v.define("s2", x.newer)
		v.updateTruncated()
		if !v.membership("s1").In {
			t.Errorf("%s no longer holds once there is %s: %v", x.old, x.newer, v.memory.Memberships())
		}
		if v.program.NeedsHistory(v.memory) {
			t.Errorf("%s: needs history again", x.newer)
		}
	}
}

// drawAggregate is one of few predicates, so that rules often share what is kept.
func drawAggregate(t *rapid.T) string {
	where := rapid.SampledFrom([]string{"true", `event.name == "a"`}).Draw(t, "where")
	op := rapid.SampledFrom([]string{"==", "<", ">="}).Draw(t, "op")
	n, w := rapid.IntRange(0, 6).Draw(t, "n"), windows.Draw(t, "window")
	return rapid.SampledFrom([]string{
		fmt.Sprintf("count(%s) %s %d", where, op, n), fmt.Sprintf("count(%s, %q) %s %d", where, w, op, n),
		fmt.Sprintf("days(%s) %s %d", where, op, n), fmt.Sprintf("days(%s, %q) %s %d", where, w, op, n),
		fmt.Sprintf("first(%s) < now - %q", where, w), fmt.Sprintf("last(%s) < now - %q", where, w),
		fmt.Sprintf("sum(event.x, %s, %q) %s %d", where, w, op, n), fmt.Sprintf("max(event.x, %s) %s %d", where, op, n),
		fmt.Sprintf("distinct(event.name, %q) %s %d", w, op, n), fmt.Sprintf("distinct(event.name) %s %d", op, n),
		fmt.Sprintf(`sequence(event.name == "a", %s, "7h")`, where), fmt.Sprintf(`sequence(event.name == "a", %s, "7h", %q)`, where, w),
	}).Draw(t, "aggregate")
}

// Without the events that are gone, newer rules change no membership of older ones;
// with all of them there is nothing to join, byte for byte.
func TestTruncatedChangesNoOtherSegment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.draw(t)
		for i := range rapid.IntRange(1, 4).Draw(t, "rules") {
			w.drawScope(t, proto.SegmentID(fmt.Sprint("s", i)), drawAggregate(t))
		}
		w.update()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			w.step(t, false)
		}
		w.update()
		w.apply()
		older := w.program.Version()
		ofOlder := func() []segments.Membership {
			return slices.DeleteFunc(append([]segments.Membership{}, stateOf(w.memory)...), func(m segments.Membership) bool { return m.Key > older })
		}
		before := ofOlder()
		for i := range rapid.IntRange(1, 3).Draw(t, "newer rules") {
			w.drawScope(t, proto.SegmentID(fmt.Sprint("newer", i)), drawAggregate(t))
		}
		whole, same := w.copyMemory(t), w.copyMemory(t)
		w.ev.Update(w.program, whole, seq(w.history), w.now, &segments.Delta{})
		w.ev.UpdateTruncated(w.program, same, seq(w.history), w.now, &segments.Delta{})
		if diff := cmp.Diff(whole.Append(nil, start), same.Append(nil, start)); diff != "" {
			t.Fatalf("with all events Update (-) and UpdateTruncated (+) differ:\n%s", diff)
		}
		w.history = w.history[rapid.IntRange(0, len(w.history)).Draw(t, "gone"):]
		w.updateTruncated()
		if diff := cmp.Diff(before, ofOlder()); diff != "" {
			t.Fatalf("before (-) and after (+) newer rules:\n%s", diff)
		}
	})
}

func TestNeedOutlivesAnotherRule(t *testing.T) {
	v := visits(t, `count(true, "30d") >= 1`)
	for range 9 {
		v.event("x")
	}
	v.define("s2", `count(true, "30d") >= 9`)
	v.define("s3", `count(true, "30d") >= 2`)
	v.key++
	if err := v.program.Undefine("s3", v.key); err != nil {
		t.Fatal(err)
	}
	v.update()
	if !v.membership("s2").In {
		t.Fatalf("not filled: %v", v.memory.Memberships())
	}
}

// TestLookingAheadAlongMember: whether and when s2 changes depends on where s1
// will be at times beyond its own next change.
func TestLookingAheadAlongMember(t *testing.T) {
	for _, text := range []string{
		`!member("s1") && last(event.name == "q") < now - "3d"`,
		`last(event.name == "q") < now - "3d" && !member("s1")`,
	} {
		v := visits(t, `count(event.name == "a", "1d") >= 1 || last(event.name == "b") < now - "2d"`, text)
		v.event("a")
		v.event("q")
		if got, want := v.membership("s2").Next, start+3*day+1; got != want {
			t.Errorf("%s: changes at %s, not %s", text, got, want)
		}
		v.now += hour
		v.event("b")
		if got := v.membership("s2"); got != (segments.Membership{}) {
			t.Errorf("%s: s1 will be back two days after b, yet this is to change at %s", text, got.Next)
		}
	}
}
