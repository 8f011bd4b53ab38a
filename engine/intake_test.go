package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// Events wait for a lane that is behind, and are refused in the end; what was
// taken before stays, and an opt-out is taken all the same.
func TestIntakeKeepsPace(t *testing.T) {
	stopped := time.Now() // nothing gets old, however long the test takes
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Now = func() time.Time { return stopped } })
	defer closeNode(t, n)
	c := acme(t, n)
	define(t, n, "seen", `count(true) >= 1`)
	submit(t, n, page(c, "gone", "auto", time.Now()))
	send := func(ctx context.Context) proto.Submitted {
		var b proto.Batch
		b.AddEvent(n.Hasher(), page(c, "v", "auto", time.Now()))
		return n.Submit(ctx, &b)
	}
	release := n.HoldBack(0)
	var last proto.Submitted
	for taken := 0; ; taken++ {
		x := send(t.Context())
		if x.Err != nil {
			if code := proto.CodeOf(x.Err); code != proto.CodeOverloaded || taken < engine.AheadMax/2 {
				t.Fatalf("after %d entries: %v", taken, x.Err)
			}
			break
		}
		if last = x; taken > 2*engine.AheadMax {
			t.Fatalf("%d entries were taken, and none of them applied", taken)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := n.OptOut(short, "browser:gone", false); proto.CodeOf(err) == proto.CodeOverloaded {
		t.Errorf("an opt-out was refused: %v", err)
	}
	release()
	if err := n.Wait(t.Context(), last.Position); err != nil {
		t.Fatal(err)
	}
	if x := send(t.Context()); x.Err != nil {
		t.Errorf("the lane has caught up: %v", x.Err)
	}
	until(t, n, 10*time.Second, "the opt-out", func() bool {
		s, err := n.OptOutState(t.Context(), "browser:gone")
		return err == nil && s.Final
	})
	verifyClean(t, n)
}

// Events wait too for a lane that is behind with few entries but for long.
func TestIntakeWaitsForWhatIsOld(t *testing.T) {
	var later atomic.Int64
	start := time.Now()
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Now = func() time.Time { return start.Add(time.Duration(later.Load())) }
	})
	defer closeNode(t, n)
	c := acme(t, n)
	send := func() proto.Submitted {
		var b proto.Batch
		b.AddEvent(n.Hasher(), page(c, "v", "auto", start))
		return n.Submit(t.Context(), &b)
	}
	submit(t, n, page(c, "v", "auto", start))
	later.Store(int64(time.Hour)) // a lane that has nothing to do does not get old
	release := n.HoldBack(0)
	if x := send(); x.Err != nil {
		t.Fatalf("a first event behind none: %v", x.Err)
	}
	later.Add(int64(time.Second))
	if x := send(); proto.CodeOf(x.Err) != proto.CodeOverloaded {
		t.Errorf("behind an event a second old: %v", x.Err)
	}
	release()
	until(t, n, 10*time.Second, "catching up", func() bool { return send().Err == nil })
	verifyClean(t, n)
}

// What is durable after its caller left counts as what is ahead of the lane too.
func TestIntakeCountsWhoseCallerLeft(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	submit(t, n, page(c, "a", "auto", time.Now()))
	before := n.Acknowledged()
	gone, leave := context.WithCancel(t.Context())
	leave()
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(c, "b", "auto", time.Now()))
	n.Submit(gone, &b)
	until(t, n, 20*time.Second, "the event to count", func() bool { return len(sections(t, n, c, "b")) == 1 && n.Acknowledged() > before })
}
