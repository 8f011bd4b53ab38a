package segments_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
	"kith/segments"
)

// given is a program of rules with the keys 1, 2, … and the ids s1, s2, ….
func given(t *testing.T, rules ...string) *segments.Program {
	t.Helper()
	p := segments.NewProgram()
	for i, text := range rules {
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(i + 1), ID: proto.SegmentID(fmt.Sprintf("s%d", i+1)), Rule: compile(t, text)}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// TestNewerRulesWaitForUpdate: an event that comes before Update must not
// judge a rule by a memory that was not filled for it.
func TestNewerRulesWaitForUpdate(t *testing.T) {
	p, ev, m, d := given(t, `count(true) > 5`), segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	old := happened{start, proto.EventBody{Name: "old"}}
	ev.Observe(p, m, &old.body, old.at, start, d)
	if err := p.Define(segments.Definition{Key: 2, ID: "s2", Rule: compile(t, `count(true, "1d") == 1`)}); err != nil {
		t.Fatal(err)
	}
	now := happened{start + hour, proto.EventBody{Name: "new"}}
	ev.Observe(p, m, &now.body, now.at, now.at, d)
	if len(d.Entered) != 0 || m.Version() != 1 || !p.NeedsHistory(m) {
		t.Fatalf("before the update: entered %v, version %d", d.Entered, m.Version())
	}
	ev.Update(p, m, seq([]happened{old, now}), now.at, d)
	want := []segments.Membership{{Key: 2, Next: start + day}}
	if diff := cmp.Diff(want, m.Memberships()); diff != "" || p.NeedsHistory(m) {
		t.Fatalf("after it (-want +got), needs history %v:\n%s", p.NeedsHistory(m), diff)
	}
}

// TestForgottenAsIfNeverAsked: what only an undefined rule needed is gone.
func TestForgottenAsIfNeverAsked(t *testing.T) {
	ev, d := segments.NewEvaluator(), &segments.Delta{}
	var history []happened
	live := func(p *segments.Program) *segments.Memory {
		m := &segments.Memory{}
		for i := range 20 {
			h := happened{start + proto.Millis(i)*hour, proto.EventBody{Name: "x"}}
			history = append(history, h)
			ev.Observe(p, m, &h.body, h.at, h.at, d)
		}
		return m
	}
	greedy := given(t, `count(true, "30d") >= 2`, `count(true, "30d") >= 15 && count(true) < 9 && last(true) > now - "1d"`, `days(event.name == "x") > 3`)
	m := live(greedy)
	for _, id := range []proto.SegmentID{"s2", "s3"} {
		if err := greedy.Undefine(id, 9); err != nil {
			t.Fatal(err)
		}
	}
	if greedy.NeedsHistory(m) {
		t.Fatal("history is needed to forget")
	}
	ev.Update(greedy, m, nil, history[len(history)-1].at, d)
	modest := given(t, `count(true, "30d") >= 2`)
	modest.SetVersion(9)
	if diff := cmp.Diff(live(modest).Append(nil, start), m.Append(nil, start)); diff != "" {
		t.Fatalf("memory of the rule alone (-) and after others were undefined (+):\n%s", diff)
	}
}

func TestTraitsAreBoundedAndCopied(t *testing.T) {
	p, ev, m, d := given(t, `trait("k00") == "v"`), segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	key, value := []byte("k00"), []byte("v")
	r := proto.NewReader(proto.AppendString(proto.AppendString(nil, string(key)), string(value)))
	ev.SetTraits(p, m, []proto.Prop{{Key: r.String(), Value: proto.TextOf(r.String())}}, start, d)
	packed := proto.AppendString(proto.AppendString(nil, "k00"), "v")
	r = proto.NewReader(packed)
	ev.SetTraits(p, m, []proto.Prop{{Key: r.String(), Value: proto.TextOf("w")}}, start, d)
	ev.SetTraits(p, m, []proto.Prop{{Key: "k00", Value: proto.TextOf(r.String())}}, start, d)
	copy(packed, strings.Repeat("#", len(packed)))
	if v := m.Traits()[0].Value.Text; v != "v" {
		t.Fatalf("trait became %q when the entry's bytes were used again", v)
	}
	for i := range 2 * segments.TraitsMax {
		ev.SetTraits(p, m, []proto.Prop{{Key: fmt.Sprintf("k%02d", i), Value: proto.TextOf("v")}}, start, d)
	}
	if n := len(m.Traits()); n != segments.TraitsMax {
		t.Fatalf("%d traits kept", n)
	}
	ev.SetTraits(p, m, []proto.Prop{{Key: "k00", Value: proto.TextOf("")}}, start, d)
	if n := len(m.Traits()); n != segments.TraitsMax-1 || len(m.Memberships()) != 0 {
		t.Fatalf("%d traits and %v after one was removed", n, m.Memberships())
	}
}

// A trait that is -0, as logs of before the gateway made it 0 have, becomes 0 if that is set.
func TestMinusZeroIsSetToZero(t *testing.T) {
	p, ev, m, d := given(t, `trait("n").startsWith("-")`), segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	for _, n := range []float64{math.Copysign(0, -1), 0} {
		ev.SetTraits(p, m, []proto.Prop{{Key: "n", Value: proto.NumberOf(n)}}, start, d)
	}
	if len(m.Memberships()) != 0 || m.Traits()[0].Value.String() != "0" {
		t.Errorf("kept is %s: %v", m.Traits()[0].Value, m.Memberships())
	}
}

// TestReadMemoryRefuses lists forgeries that bounds must catch.
func TestReadMemoryRefuses(t *testing.T) {
	match := func(id byte, rest ...byte) []byte { return append([]byte{id, 0, 0, 0, 0, 0}, rest...) }
	for name, b := range map[string][]byte{
		"empty":                        {},
		"unknown version":              {9, 0, 0, 0, 0},
		"cut short":                    {1, 0, 0},
		"count without contents":       {1, 0, 0, 0xff, 0xff, 0x03},
		"membership that says nothing": {1, 0, 0, 1, 1 << 2, 0, 0, 0},
		"membership twice":             {1, 0, 0, 2, 1<<2 | 1, 0, 0<<2 | 1, 0, 0},
		"trait out of order":           {1, 0, 2, 1, 'b', 2, 1, 'a', 2, 0, 0},
		"nothing kept of a predicate":  append([]byte{1, 0, 0, 0, 1}, match(1, 0, 0)...),
		"same day twice":               append([]byte{1, 0, 0, 0, 1}, match(1, 8, 2, 0, 1)...),
		"too great a total":            append([]byte{1, 0, 0, 0, 1}, match(1, 1, 0xff, 0x7f)...),
	} {
		m, r := &segments.Memory{}, proto.NewReader(b)
		segments.ReadMemory(&r, start+hour, m)
		if !r.Bad() {
			t.Errorf("%s: read as %v", name, m)
		}
	}
}

func TestDecodeRuleRefuses(t *testing.T) {
	good, _ := compile(t, `count(true) > 1 && member("a")`).AppendBinary(nil)
	for name, b := range map[string][]byte{
		"empty":           {},
		"unknown version": append([]byte{9}, good[1:]...),
		"cut short":       good[:len(good)-1],
		"more behind":     append(good[:len(good):len(good)], 0),
		"deep":            append(append([]byte{1}, strings.Repeat("\x02\x02\x01\x03\x02\x01", 100)...), 1),
		"huge":            make([]byte, 1<<20),
	} {
		if r, err := segments.DecodeRule(b); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}
