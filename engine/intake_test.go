package engine_test

import (
	"context"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// Events wait for a lane that is behind, and are refused in the end; what was
// taken before stays, and an opt-out is taken all the same.
func TestIntakeKeepsPace(t *testing.T) {
	n := testNode(t, t.TempDir())
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
