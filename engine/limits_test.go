package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// Many segments that many identities enter at once make more bit changes in
// one commit than fit into one value of the store.
func TestManyBitsAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("a million bits: not in short runs")
	}
	dir := t.TempDir()
	n := testNode(t, dir)
	c := acme(t, n)
	var wait sync.WaitGroup
	few := make(chan struct{}, 64)
	for i := range 1200 {
		few <- struct{}{}
		wait.Go(func() {
			defer func() { <-few }()
			when := fmt.Sprintf(`count(true, "%dh") >= 1`, i+1)
			if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: proto.SegmentID(fmt.Sprint("s", i)), Scope: "identity", When: when}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	var list []*proto.Event
	for v := range 1000 {
		list = append(list, page(c, fmt.Sprint("v", v), "x", time.Now()))
	}
	submit(t, n, list...)
	for range 2 {
		for _, id := range []string{"s0", "s1199"} {
			if got := count(t, n, c, id); got != 1000 {
				t.Errorf("%s has %d members, want 1000", id, got)
			}
		}
		closeNode(t, n)
		n = testNode(t, dir)
	}
	verifyClean(t, n)
	closeNode(t, n)
}

// What the rules of a client may ask for is bounded when they are defined, and
// what is kept of one identity when events come: a value that the store does not
// take would end the lane.
func TestKeptIsBounded(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	var err error
	defined := 0
	for i := range 40 {
		var parts []string
		for j := range 30 {
			parts = append(parts, fmt.Sprintf(`count(event.n > %d, "30d") >= 1000`, i*30+j))
		}
		spec := proto.SegmentSpec{ID: proto.SegmentID(fmt.Sprint("s", i)), Scope: "identity", When: strings.Join(parts, " || ")}
		if _, err = n.Define(t.Context(), c, spec); err != nil {
			break
		}
		defined++
	}
	if proto.CodeOf(err) != proto.CodeRule || defined < 30 {
		t.Fatalf("after %d segments of 30,000 times: %v, want a refusal with code rule", defined, err)
	}
	events := make([]*proto.Event, 120) // each meets all of some 990 conditions
	for i := range events {
		e := page(c, "robot", "x", time.Now())
		e.Props = append(e.Props, proto.Prop{Key: "n", Value: proto.NumberOf(10_000)})
		events[i] = e
	}
	for part := range slices.Chunk(events, 20) {
		submit(t, n, part...)
	}
	submit(t, n, page(c, "person", "x", time.Now()))
	for id, want := range map[proto.Identity]bool{"browser:robot": true, "browser:person": false} {
		r, err := n.Record(t.Context(), c, id)
		if err != nil || !r.Known || r.Truncated != want {
			t.Errorf("%s: known %v, truncated %v (%v)", id, r.Known, r.Truncated, err)
		}
	}
	verifyClean(t, n)
	if err := n.Undefine(t.Context(), c, "s0"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: "again", Scope: "identity", When: `count(event.n > 1, "30d") >= 1000`}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// What is sent again answers when lanes obey it, as what is sent first does.
func TestRepeatedControlIsObeyed(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	obeyed := proto.SegmentSpec{ID: "old", Scope: "identity", When: "count(true) >= 1"}
	if _, err := n.Define(t.Context(), c, obeyed); err != nil {
		t.Fatal(err)
	}
	n.StopLane(0)
	n.Stopped(0)
	if _, err := n.Define(t.Context(), c, obeyed); err != nil {
		t.Errorf("the lane obeyed it: %v", err)
	}
	never := proto.SegmentSpec{ID: "new", Scope: "identity", When: "count(true) >= 2"}
	for _, what := range []string{"a definition", "the same again"} {
		if _, err := n.Define(t.Context(), c, never); proto.CodeOf(err) != proto.CodeQuarantined {
			t.Errorf("%s, of a lane that obeys nothing any more: %v", what, err)
		}
	}
	for _, what := range []string{"the end of a client", "the same again"} {
		if _, err := n.EraseClient(t.Context(), c.Name); proto.CodeOf(err) != proto.CodeQuarantined {
			t.Errorf("%s, of a lane that obeys nothing any more: %v", what, err)
		}
	}
	if _, err := n.EraseClient(t.Context(), "nobody"); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("the end of no client: %v", err)
	}
}

// The rule that is in force, sent again with another wish for backfill, lets
// nobody go; while history is gone through a count says that it is not exact.
func TestSameRuleAgain(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	spec := proto.SegmentSpec{ID: "all", Scope: "identity", When: "count(true) >= 1"}
	first, err := n.Define(t.Context(), c, spec)
	if err != nil {
		t.Fatal(err)
	}
	submit(t, n, page(c, "a", "x", time.Now()))
	for _, backfill := range []bool{true, false, true} {
		spec.Backfill = backfill
		again, err := n.Define(t.Context(), c, spec)
		if err != nil {
			t.Fatal(err)
		}
		if again.Version != first.Version || again.Backfill != backfill {
			t.Errorf("backfill %v made version %d of %d: %+v", backfill, again.Version, first.Version, again)
		}
		if got := segmentsOf(t, n, "a"); len(got) != 1 {
			t.Errorf("backfill %v: a is in %v", backfill, got)
		}
	}
	until(t, n, 20*time.Second, "filling", func() bool { s, _ := n.Segment(c, "all"); return *s.Filled })
	verifyClean(t, n)
}

// A store whose log directory was lost would give clients the numbers of
// others: it is refused, rebase or not.
func TestLostControlStream(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	submit(t, n, page(acme(t, n), "a", "x", time.Now()))
	closeNode(t, n)
	if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	for _, rebase := range []bool{false, true} {
		n, err := engine.Open(t.Context(), engine.Config{Dir: dir, LogBytesMax: 64 << 20, DiskReserve: 1 << 20, RebaseLog: rebase})
		if proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), "control stream") {
			t.Errorf("rebase %v: %v", rebase, err)
		}
		if err == nil {
			closeNode(t, n)
		}
	}
}

// Asking for a rebase of a log that fits changes nothing.
func TestNothingToRebase(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	define(t, n, "all", "count(true) >= 1")
	at := submit(t, n, page(acme(t, n), "a", "x", time.Now()))
	closeNode(t, n)
	n = testNode(t, dir, func(c *engine.Config) { c.RebaseLog = true })
	defer closeNode(t, n)
	if next := submit(t, n, page(acme(t, n), "b", "x", time.Now())); next[0] <= at[0] {
		t.Errorf("position %v after %v", next, at)
	}
	if got := count(t, n, acme(t, n), "all"); got != 2 {
		t.Errorf("%d members, want 2", got)
	}
}

// A store that goes on without its log is behind what the ledger has: who opted out
// stays so, and who does so afterwards is told to the ledger, whatever offsets it knew.
func TestRebasedByTheLedger(t *testing.T) {
	dir := t.TempDir()
	kept, lost := filepath.Join(dir, "kept"), filepath.Join(dir, "log", "jetstream")
	n := testNode(t, dir)
	define(t, n, "all", "count(true) >= 1")
	submit(t, n, page(acme(t, n), "early", "x", time.Now()), page(acme(t, n), "late", "x", time.Now()))
	closeNode(t, n)
	if err := os.CopyFS(kept, os.DirFS(filepath.Join(dir, "store"))); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, dir)
	if optOut(t, n, "browser:early", false).Signature == "" {
		t.Fatal("no receipt")
	}
	for range 20 {
		submit(t, n, page(acme(t, n), "other", "x", time.Now()))
	}
	closeNode(t, n)
	// What a crash may leave of a store that writes back, and a log that lost its files.
	lane, err := filepath.Glob(filepath.Join(lost, "*", "streams", "KITH_L00"))
	if err != nil || len(lane) != 1 {
		t.Fatalf("the lane's stream: %v, %v", lane, err)
	}
	if err := errors.Join(os.RemoveAll(lane[0]), os.RemoveAll(filepath.Join(dir, "store")), os.Rename(kept, filepath.Join(dir, "store"))); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, dir, func(c *engine.Config) { c.RebaseLog = true })
	if s, err := n.OptOutState(t.Context(), "browser:early"); err != nil || !s.OptedOut {
		t.Errorf("opted out before: %+v, %v", s, err)
	}
	if got := count(t, n, acme(t, n), "all"); got != 1 {
		t.Errorf("%d members, want the other one", got)
	}
	optOut(t, n, "browser:late", false)
	var file bytes.Buffer
	if err := n.WriteLedger(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	for _, who := range []proto.Identity{"browser:early", "browser:late"} {
		hash := n.Hasher().Hash(who)
		if !bytes.Contains(file.Bytes(), hash[:]) {
			t.Errorf("%s is not in the ledger", who)
		}
	}
	verifyClean(t, n)
	closeNode(t, n)
	n = testNode(t, dir)
	defer closeNode(t, n)
	if got := count(t, n, acme(t, n), "all"); got != 0 {
		t.Errorf("after another start %d members", got)
	}
}

// However large the control records are that wait, a lane is given as many as fit
// into an entry, and obeys all in the end.
func TestLargeControlRecords(t *testing.T) {
	w := newTownship(t, 1)
	acme := w.client("acme")
	values := make([]string, 650)
	for i := range values {
		values[i] = fmt.Sprintf(`"section %03d"`, i)
	}
	when := fmt.Sprintf("count(event.section in [%s]) >= 1", strings.Join(values, ", "))
	for i := range 80 {
		r := defineRecord(t, acme, fmt.Sprint("s", i), when)
		r.GetDefine().Backfill = false
		w.control(r)
	}
	entries := 0
	for list := w.sim.Controls(0); len(list) > 0; list = w.sim.Controls(0) {
		w.lane(0, proto.CommandControl, list...)
		w.apply()
		entries++
	}
	if entries < 2 {
		t.Errorf("all fit into %d entries", entries)
	}
}
