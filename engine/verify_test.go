package engine_test

import (
	"testing"
	"time"

	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// A node verifies once at a time: each one holds much of the data in memory.
func TestOneVerificationAtATime(t *testing.T) {
	n := testNode(t, t.TempDir())
	release := n.HoldVerifying()
	if _, err := n.Verify(t.Context()); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("beside another one: %v", err)
	}
	release()
	for range 2 {
		verifyClean(t, n)
	}
	closeNode(t, n)
}

// Between beats, or while a log stands still, a look-up applies one change by time to
// each membership. That a rule has turned twice is no difference, nor is what refers to
// it; the next beat brings both.
func TestVerifyWhileChangesAreDue(t *testing.T) {
	const brief = `last(event.section == "x") < now - "1s" && count(event.section == "x", "2s") >= 1`
	for _, scope := range []string{"identity", "user"} {
		t.Run(scope, func(t *testing.T) {
			s := newScript(t)
			acme := s.client("acme", "")
			for _, r := range []*pb.Control{
				defineRecord(t, acme, "brief", brief),
				defineRecord(t, acme, "through", `member("brief") && last(event.section == "x") < now - "2500ms"`),
			} {
				r.GetDefine().Scope = scope
				s.control(r)
			}
			s.beat(0) // without a time of the lane events are not of now
			both := s.event(acme, "a", "x")
			both.Identities = append(both.Identities, "browser:b")
			s.events(both)
			for range 5 {
				s.beat(100 * time.Millisecond)
			}
			s.now = s.now.Add(4 * time.Second)
			s.events(s.event(acme, "other", "y"))
			follows := proto.Beat{Node: "test", Incarnation: 1, Time: s.now, Follows: true}
			s.lane(proto.CommandBeat, follows.Append(nil)) // which is what a start waits for, and moves no time
			st := store.NewMemory()
			if r := s.apply(st); r.Events != 2 || r.Memberships == 0 {
				t.Errorf("not all was held against the rules: %+v", r)
			}
			s.beat(0)
			n := s.run(st)
			if got := s.lookup(n, acme, "a"); got != "true []" {
				t.Errorf("after a beat it is in %s", got)
			}
			closeNode(t, n)
			s.verify(st)
		})
	}
}
