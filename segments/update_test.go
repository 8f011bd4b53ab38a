package segments_test

import (
	"testing"

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

func TestNewRuleOverSomebodyWhoLeft(t *testing.T) {
	v := visits(t, `count(true) < 1`)
	v.event("x")
	v.define("s2", `!member("s1")`)
	v.update()
	if !v.membership("s2").In {
		t.Fatalf("only %v", v.memory.Memberships())
	}
}

// TestHistoryThatWasCut: events beyond the history's bound are gone, and a
// predicate that is filled anew is judged by what is left.
func TestHistoryThatWasCut(t *testing.T) {
	v := visits(t, `count(true) >= 1`)
	v.event("x")
	v.history = nil
	v.define("s2", `count(true) >= 5`)
	v.update()
	if v.membership("s1").In {
		t.Fatalf("judged by events that are no longer known: %v", v.memory.Memberships())
	}
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
