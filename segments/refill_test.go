package segments_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

// A memory that is made anew from the events that are left agrees with the
// plain reading of them, and goes on to do so; where the oldest might be gone and are
// not, nothing is added.
func TestRefill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.draw(t)
		for range rapid.IntRange(1, 5).Draw(t, "rules") {
			w.drawDefinition(t)
		}
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			for range rapid.IntRange(1, 12).Draw(t, "steps") {
				w.step(t, true)
			}
			if rapid.Bool().Draw(t, "under newer rules") {
				w.drawDefinition(t)
				w.drawUndefinition(t)
				w.drawSwap(t)
			}
			cut := w.now - rapid.SampledFrom([]proto.Millis{0, hour, day, 3 * day}).Draw(t, "kept")
			w.history = slices.DeleteFunc(w.history, func(h happened) bool { return h.at < cut })
			w.ev.SetDevices(w.devices)
			truncated := w.copyMemory(t)
			w.ev.RefillTruncated(w.program, truncated, seq(w.history), cut, w.now, &segments.Delta{})
			w.ev.Refill(w.program, w.memory, seq(w.history), w.now, &w.delta)
			w.apply()
			if diff := cmp.Diff(w.memory.Append(nil, start), truncated.Append(nil, start)); diff != "" {
				t.Fatalf("with all later events Refill (-) and RefillTruncated (+) differ:\n%s", diff)
			}
			if len(w.program.All()) > 0 {
				w.check(t)
			}
		}
	})
}

// A segment that was defined anew, or whose new version answers, takes those that refer
// to it along although none of its own facts is left.
func TestRefillUnderNewerRules(t *testing.T) {
	for _, beside := range []bool{false, true} {
		v := visits(t, `count(event.name == "x") >= 1`, `member("s1")`)
		v.event("x")
		if beside {
			v.key++
			if err := v.program.DefineBeside(segments.Definition{Key: v.key, ID: "s1", Rule: compile(t, `count(event.name == "never") >= 1`)}); err != nil {
				t.Fatal(err)
			}
			v.update()
			v.key++
			v.program.Swap("s1", v.key-1, v.key)
		} else {
			v.define("s1", `count(event.name == "never") >= 1`)
		}
		v.ev.Refill(v.program, v.memory, seq(nil), v.now, &v.delta)
		if v.membership("s1").In || v.membership("s2").In {
			t.Errorf("beside %v: still %v", beside, v.memory.Memberships())
		}
	}
}
