package segments_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kith/proto"
)

// A memory that is made anew from the events that are left agrees with the
// plain reading of them, and goes on to do so.
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
			cut := w.now - rapid.SampledFrom([]proto.Millis{0, hour, day, 3 * day}).Draw(t, "kept")
			w.history = slices.DeleteFunc(w.history, func(h happened) bool { return h.at < cut })
			w.ev.SetDevices(w.devices)
			w.ev.Refill(w.program, w.memory, seq(w.history), w.now, &w.delta)
			w.apply()
			if len(w.program.All()) > 0 {
				w.check(t)
			}
		}
	})
}
