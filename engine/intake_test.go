package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
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
	if _, err := n.OptOut(short, proto.ClientInfo{}, "browser:gone", false); proto.CodeOf(err) == proto.CodeOverloaded {
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

// unlucky is a log that refuses entries with a word in them.
type unlucky struct{ log.Logs }

func (l unlucky) Lane(id proto.LaneID) log.Stream { return unluckyLane{l.Logs.Lane(id)} }

type unluckyLane struct{ log.Stream }

func (l unluckyLane) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	if bytes.Contains(e.Commands, []byte("unlucky")) {
		return proto.Errorf(proto.CodeDiskFull, "full")
	}
	return l.Stream.AppendAsync(e, done)
}

// Of a body that takes several entries only what lies in those that failed is refused,
// for one lane and for several.
func TestIntakeTakesWhatIsDurable(t *testing.T) {
	s := newScript(t)
	s.inner = log.NewMemory(2, nil)
	client := s.client("acme", "")
	c := s.config(func(c *engine.Config) { c.Now = nil; c.DiskReserve = 1; c.Lanes = 2 })
	n, err := engine.NewOver(c, unlucky{s.inner}, store.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeNode(t, n)
	const all, bad = 6000, 2500
	for _, visitors := range []int{1, 100} {
		var b proto.Batch
		for i := range all {
			section := fmt.Sprint("s", i)
			if i == bad {
				section = "unlucky"
			}
			b.AddEvent(n.Hasher(), page(client, fmt.Sprint(visitors, "v", i%visitors), section, time.Now()))
		}
		x := n.Submit(t.Context(), &b)
		if proto.CodeOf(x.Err) != proto.CodeDiskFull || !slices.Contains(x.Failed, bad) || len(x.Failed) > all/2 {
			t.Fatalf("of %d events of %d visitors %d failed: %v", all, visitors, len(x.Failed), x.Err)
		}
		if err := n.Wait(t.Context(), x.Position); err != nil {
			t.Fatal(err)
		}
		kept := 0
		for v := range visitors {
			rec, err := n.Record(t.Context(), client, proto.Identity(fmt.Sprint("browser:", visitors, "v", v)))
			if err != nil {
				t.Fatal(err)
			}
			kept += len(rec.Events)
		}
		if kept != all-len(x.Failed) {
			t.Errorf("of %d visitors %d events are kept, %d of %d failed", visitors, kept, len(x.Failed), all)
		}
	}
}

// An erasure that waits for those who append lets others in again when its time is
// over, and who waits for it heeds its own.
func TestIntakeIsOpenAfterAnErasureInVain(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	release := n.Appending()
	short, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.EraseLogs(short) }()
	for !n.IntakeShut() {
		runtime.Gosched()
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(acme(t, n), "a", "auto", time.Now()))
	if x := n.Submit(gone, &b); proto.CodeOf(x.Err) != proto.CodeUnavailable {
		t.Errorf("who left while intake is shut is told: %v", x.Err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the log was emptied while somebody appended")
	}
	submit(t, n, page(acme(t, n), "a", "auto", time.Now()))
	release()
	if err := n.EraseLogs(t.Context()); err != nil {
		t.Errorf("with nobody who appends: %v", err)
	}
	submit(t, n, page(acme(t, n), "a", "auto", time.Now()))
}
