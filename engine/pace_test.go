package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Background work has all the time while nobody asks, and a fifth of it while
// somebody does.
func TestBackgroundWorkRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{share: 0.2}
		rested := func(work time.Duration) time.Duration {
			start := time.Now()
			if !p.rest(t.Context(), work) {
				t.Fatal("the work is to end")
			}
			return time.Since(start)
		}
		if d := rested(10 * time.Millisecond); d != 0 {
			t.Errorf("with nobody who asks it rested for %v", d)
		}
		p.ask()
		for range 3 { // for half a second after the last question
			if d := rested(10 * time.Millisecond); d != 40*time.Millisecond {
				t.Errorf("after 10 ms of work it rested for %v", d)
			}
		}
		time.Sleep(paceAlone)
		if d := rested(10 * time.Millisecond); d != 0 {
			t.Errorf("half a second after the last question it rested for %v", d)
		}
		p.ask()
		if d := rested(time.Hour); d != paceRestMax {
			t.Errorf("it rested for %v", d)
		}
		work := p.begin()
		start := time.Now()
		if err := work.breathe(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("it rested before it had done anything (%v)", err)
		}
		p.ask()
		time.Sleep(2 * time.Millisecond)
		start = time.Now()
		if err := work.breathe(t.Context()); err != nil || time.Since(start) != 8*time.Millisecond {
			t.Errorf("after 2 ms of work it rested for %v (%v)", time.Since(start), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if p.ask(); p.rest(ctx, time.Second) || work.breathe(ctx) == nil {
			t.Error("it goes on though it was ended")
		}
	})
}

// What a step waited for its turn is rest too, and where steps wait long they are
// larger: a fill keeps its share of the time.
func TestStepsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		p := &pace{share: 1.0 / 16}
		for _, x := range []struct{ work, took, rest time.Duration }{{5 * ms, 5 * ms, 75 * ms}, {5 * ms, 50 * ms, 30 * ms}, {5 * ms, 400 * ms, 0}, {15 * ms, 16 * ms, paceRestMax}} {
			p.ask()
			start := time.Now()
			if !p.restOf(t.Context(), x.work, x.took) || time.Since(start) != x.rest {
				t.Errorf("after a step of %v that took %v it rested for %v, not %v", x.work, x.took, time.Since(start), x.rest)
			}
		}
		for _, x := range []struct {
			step       int
			work, took time.Duration
			next       int
		}{
			{256, 5 * ms, 5 * ms, 256}, {256, 2 * ms, 5 * ms, 512}, {256, 11 * ms, 12 * ms, 128}, {fillStepMin, time.Second, time.Second, fillStepMin},
			{256, 5 * ms, 400 * ms, 512}, {512, 20 * ms, 400 * ms, 512}, {512, 51 * ms, 400 * ms, 256}, {512, 99 * ms, time.Minute, 512}, {512, 201 * ms, time.Minute, 256}, {fillStepMax, ms, time.Minute, fillStepMax},
		} {
			if next := nextStep(x.step, x.work, p.of(x.took)); next != x.next {
				t.Errorf("after a step of %d that was work for %v and took %v the next is %d, not %d", x.step, x.work, x.took, next, x.next)
			}
		}
	})
}
