package engine_test

import (
	"strings"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// testClocks are a wall and a monotonic clock, and the node's time by them.
type testClocks struct {
	t          *testing.T
	mono, step time.Duration
	clock      engine.Clock
}

func newTestClocks(t *testing.T) *testClocks {
	x := &testClocks{t: t}
	x.clock = engine.NewClock(func() time.Time { return x.at(x.mono + x.step) }, func() time.Duration { return x.mono })
	return x
}

func (x *testClocks) at(d time.Duration) time.Time { return time.Unix(1_800_000_000, 0).Add(d) }

// shows wants the node's time to be so far, after it was looked at with other
// nodes' wall clocks so far ahead of it.
func (x *testClocks) shows(what string, want time.Duration, said string, hold time.Duration, walls ...time.Duration) {
	x.t.Helper()
	if got := x.clock.Settle(hold, walls...); got != said {
		x.t.Errorf("%s: it is said to be %q, want %q", what, got, said)
	}
	if got := x.clock.Now(); !got.Equal(x.at(want)) {
		x.t.Errorf("%s: time is %v after the beginning, want %v", what, got.Sub(x.at(0)), want)
	}
}

// A node that is alone goes on by the monotonic clock for an interval after a step
// of the wall clock, then believes it; slow drift is followed.
func TestSteppedClock(t *testing.T) {
	x := newTestClocks(t)
	x.shows("a steady clock", 0, "", 2*time.Second)
	for range 5 {
		x.mono, x.step = x.mono+time.Minute, x.step+500*time.Millisecond
		x.shows("half a second of drift", x.mono+x.step, "", 2*time.Second)
	}
	drift := x.step
	x.step += 2 * time.Hour
	if got := x.clock.Now(); !got.Equal(x.at(x.mono + drift)) {
		t.Errorf("before the step was looked at time is %v", got)
	}
	x.shows("right after a step", x.mono+drift, "held", 2*time.Second)
	x.mono += time.Second
	x.shows("a second after", x.mono+drift, "", 2*time.Second)
	x.mono += time.Second
	x.shows("an interval after", x.mono+drift+2*time.Hour, "trusted", 2*time.Second)
	x.step -= time.Hour
	x.shows("right after a step back", x.mono+drift+2*time.Hour, "held", 2*time.Second)
	x.mono += time.Second
	x.step += time.Hour
	x.shows("and it comes back", x.mono+x.step, "back", 2*time.Second)
	x.step += time.Hour
	x.mono += time.Hour
	x.shows("another step is another", x.mono+x.step-time.Hour, "held", 2*time.Second)
}

// In a cluster most of the others' wall clocks decide, and only where they do not
// time.
func TestSteppedClockAmongOthers(t *testing.T) {
	const hour, hold = time.Hour, 15 * time.Second
	for _, c := range []struct {
		what  string
		by    time.Duration
		walls []time.Duration
		said  string // 14 s after the step
		later string // 16 s after it
	}{
		{"only this one was stepped", hour, []time.Duration{0, 900 * time.Millisecond}, "", ""},
		{"only this one was stepped back", -hour, []time.Duration{-20 * time.Millisecond, 0}, "", ""},
		{"by little", 5 * time.Second, []time.Duration{0, 0}, "", ""},
		{"one of the others is away", hour, []time.Duration{0}, "", ""},
		{"all were", hour, []time.Duration{hour, hour}, "trusted", ""},
		{"this one was set right", -hour, []time.Duration{-hour, -hour + 300*time.Millisecond}, "trusted", ""},
		{"two of five were", hour, []time.Duration{hour, 0, 0, 0}, "", ""},
		{"three of five were", hour, []time.Duration{hour, hour, 0, 0}, "", "trusted"}, // the time before the step is a voice
		{"nobody answers", hour, nil, "", "trusted"},
		{"one is with it and one not", hour, []time.Duration{0, hour}, "", "trusted"},
		{"each has another", hour, []time.Duration{2 * hour, -hour}, "", "trusted"},
	} {
		t.Run(c.what, func(t *testing.T) {
			x := newTestClocks(t)
			x.mono = time.Minute
			x.step = c.by
			x.shows("at first", x.mono, "held", hold) // nobody was asked yet
			for _, after := range []struct {
				d    time.Duration
				said string
			}{{14 * time.Second, c.said}, {2 * time.Second, c.later}} {
				x.mono += after.d
				want := x.mono
				if after.said == "trusted" || c.said == "trusted" {
					want += c.by
				}
				x.shows("then", want, after.said, hold, c.walls...)
			}
		})
	}
}

// A node whose time is not that of most says so and stops, after a second look; it
// goes on when some other's is near, not because nobody answers.
func TestClockOfMost(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		what  string
		times []time.Duration
		want  string // a part of why it stops
	}{
		{"all are near", []time.Duration{time.Second, -time.Second}, ""},
		{"both others are behind", []time.Duration{-hour, -hour}, "1h0m0s ahead of"},
		{"both others are ahead, not by the same", []time.Duration{1200 * time.Millisecond, hour}, "1.2s behind"},
		{"one other is", []time.Duration{hour, 0}, ""},
		{"the others are on both sides", []time.Duration{hour, -hour}, ""},
		{"two nodes, of which nobody knows who is right", []time.Duration{hour}, ""},
		{"three of five", []time.Duration{hour, hour, hour, 0}, "1h0m0s behind"},
		{"two of four others", []time.Duration{hour, hour, 0, 0}, ""},
		{"nobody answers", nil, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			x := newTestClocks(t)
			if err := x.clock.Compare(false, c.times...); err != nil {
				t.Errorf("at the first look: %v", err)
			}
			err := x.clock.Compare(false, c.times...)
			if c.want == "" && err != nil || c.want != "" && (proto.CodeOf(err) != proto.CodeUnavailable || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("it stops with %v, want %q", err, c.want)
			}
			if err == nil {
				return
			}
			for _, times := range [][]time.Duration{nil, {hour}} {
				if x.clock.Compare(false, times...) == nil {
					t.Errorf("it goes on with %v", times)
				}
			}
			if err := x.clock.Compare(false, 0, hour); err != nil {
				t.Errorf("with another near it stops still: %v", err)
			}
			x.clock.Compare(false, c.times...)
			x.clock.Compare(false, c.times...)
			if err := x.clock.Compare(true); err != nil {
				t.Errorf("alone it stops still: %v", err)
			}
		})
	}
}
