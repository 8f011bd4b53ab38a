package actors_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kith/actors"
)

// Identities that nobody used for long are passivated, once their last change
// is committed; the next event finds them as they were.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(newRules(t), 1000)
		c.ActiveIdle = time.Minute
		for _, lag := range []int{0, 1} {
			g := &rig{t: t, shell: actors.NewDirect(c), store: newMemory(), now: start, lag: lag}
			sweep := func() {
				g.run(nil, nil)
				for range 8 { // eight hosts each
					g.shell.Sweep()
				}
			}
			var first []command
			for i := range visitors {
				first = append(first, event(1, fmt.Sprint("v", i), "x", "", start))
			}
			g.run([][]command{first}, nil)
			sweep()
			if got := g.shell.Active(); got != visitors {
				t.Fatalf("lag %d: %d identities are active right after their events, want %d", lag, got, visitors)
			}
			time.Sleep(50 * time.Second) // virtual
			g.run([][]command{{event(1, "v0", "y", "", start)}}, nil)
			time.Sleep(15 * time.Second)
			sweep()
			if got := g.shell.Active(); got != 1 {
				t.Fatalf("lag %d: %d identities are active, want the one that was used", lag, got)
			}
			g.now += second
			var again []command
			for i := range visitors {
				again = append(again, event(1, fmt.Sprint("v", i), "x", "", g.now))
			}
			g.run([][]command{again}, nil)
			entered := 0
			for _, o := range g.outs {
				for _, b := range o.Bits {
					if b.Key == 1 && b.Set {
						entered++
					}
				}
			}
			if entered != visitors {
				t.Errorf("lag %d: %d of %d entered the segment with their second event", lag, entered, visitors)
			}
		}
	})
}

// What is not committed stays, however long it was not used.
func TestSweepKeepsWhatIsNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(newRules(t), 1000)
		c.ActiveIdle = time.Minute
		g := &rig{t: t, shell: actors.NewDirect(c), store: newMemory(), now: start, lag: 1000}
		g.run([][]command{{event(1, "v0", "x", "", start)}}, nil)
		time.Sleep(time.Hour)
		for range 8 {
			g.run(nil, nil)
			g.shell.Sweep()
		}
		if got := g.shell.Active(); got != 1 {
			t.Errorf("%d identities are active, want the one whose change is not committed", got)
		}
	})
}
