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
