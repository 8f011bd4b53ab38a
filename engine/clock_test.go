package engine_test

import (
	"slices"
	"testing"
	"time"

	"kith/engine"
)

// A step of the wall clock holds back the beats of all lanes, for an interval;
// slow drift holds nothing back.
func TestSteppedClock(t *testing.T) {
	var mono, step time.Duration
	wall := func() time.Time { return time.Unix(1_800_000_000, 0).Add(mono + step) }
	lanes := engine.Steady(wall, func() time.Duration { return mono }, 3)
	expect := func(what string, want bool) {
		t.Helper()
		if got := lanes(); slices.Contains(got, !want) {
			t.Errorf("%s: %v", what, got)
		}
	}
	expect("a steady clock", true)
	mono, step = time.Minute, 500*time.Millisecond
	expect("half a second of drift", true)
	step = 2 * time.Hour
	expect("right after a step", false)
	mono += time.Second
	expect("a second after", false)
	mono += time.Second
	expect("an interval after", true)
	step = -time.Hour
	expect("right after a step back", false)
}
