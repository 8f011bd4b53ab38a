package engine_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// wantOut sees that a node knows nothing of identities, but of another one.
func (w *township) wantOut(n *engine.Node, known proto.Identity, out ...proto.Identity) {
	w.t.Helper()
	for _, id := range out {
		seen, list := lookup(w.t, n, w.acme, id)
		s, err := n.OptOutState(w.t.Context(), id)
		if seen.Known || len(list) > 0 || err != nil || !s.OptedOut {
			w.t.Errorf("%s: %+v %v, opt-out %+v, %v", id, seen, list, s, err)
		}
	}
	if seen, _ := lookup(w.t, n, w.acme, known); !seen.Known {
		w.t.Errorf("%s is not known", known)
	}
	if got := membersOf(w.t, n, w.acme, known); slices.ContainsFunc(out, func(id proto.Identity) bool { return slices.Contains(got, id) }) {
		w.t.Errorf("%s is of %v", known, got)
	}
}

// Whoever opted out after the backup is out in as many lanes as the restore makes,
// and the ledger goes on: with it an older backup has them out too.
func TestRelaneWithNewerLedger(t *testing.T) {
	w := newTownship(t, 2)
	w.populate()
	older := w.backup()
	w.breakOff() // 128 and 151 are out, which the ledger has not heard
	file := w.backup()
	untold := w.config(filepath.Join(t.TempDir(), "untold"), 1)
	untold.RestoreLanes = 3
	w.check(engine.Restore(t.Context(), untold, bytes.NewReader(file)))

	w.rest()
	w.cut(townsman(104), proto.CutCommand{Kind: proto.CutOptOut})
	w.cut(townsman(24), proto.CutCommand{Kind: proto.CutOptOut}) // for the second time
	w.rest()
	ledger := filepath.Join(t.TempDir(), "ledger")
	var text bytes.Buffer
	w.check(w.sim.WriteLedger(t.Context(), &text))
	w.check(os.WriteFile(ledger, text.Bytes(), 0o600))
	restore := func(file []byte, ledger string, lanes int) *engine.Node {
		t.Helper()
		c := w.config(filepath.Join(t.TempDir(), "data"), 1)
		c.AcceptLostOptOuts, c.Ledger, c.RestoreLanes = false, ledger, lanes
		w.check(engine.Restore(t.Context(), c, bytes.NewReader(file)))
		c.Lanes, c.RestoreLanes = lanes, 0
		return w.open(c)
	}
	n := restore(file, ledger, 5)
	w.wantOut(n, townsman(105), townsman(104), townsman(24), townsman(128), townsman(151))
	text.Reset()
	w.check(n.WriteLedger(t.Context(), &text))
	closeNode(t, n)
	w.check(os.WriteFile(ledger, text.Bytes(), 0o600))
	for _, lanes := range []int{1, 2} {
		n = restore(older, ledger, lanes)
		w.wantOut(n, townsman(105), townsman(104), townsman(24), townsman(128), townsman(151))
		closeNode(t, n)
	}
	// The restore itself told the ledger what was untold: no node has run since.
	n = restore(older, untold.Dir, 3)
	w.wantOut(n, townsman(105), townsman(128), townsman(151))
	closeNode(t, n)
}

// All who restore a backup for a cluster come to the same, whatever the time and
// their names.
func TestRelaneForCluster(t *testing.T) {
	w := newTownship(t, 3)
	w.populate()
	w.breakOff()
	w.now = w.now.Add(24 * time.Hour)
	w.beat(2) // so that the others have a day to end
	w.apply()
	file := w.backup()
	type made struct {
		Rows []string
		Kept []byte
	}
	var all []made
	for _, node := range []string{"n1", "n2"} {
		c := w.config(filepath.Join(t.TempDir(), "data"), 1)
		c.ForCluster, c.RestoreLanes, c.Node = true, 4, node
		w.check(engine.Restore(t.Context(), c, bytes.NewReader(file)))
		x := made{}
		w.stored(c, func(st store.Store) { x.Rows = engine.RowsOf(st) })
		var err error
		x.Kept, err = os.ReadFile(filepath.Join(c.Dir, "RESTORED"))
		w.check(err)
		all = append(all, x)
		if _, err := engine.Open(t.Context(), c); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("opened without a cluster: %v", err)
		}
		w.now += 3600_000
	}
	if diff := cmp.Diff(all[0], all[1]); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
	if len(all[0].Rows) < 500 {
		t.Errorf("%d rows", len(all[0].Rows))
	}
}

// Nodes that were restored with different numbers of lanes do not make a cluster.
func TestRelaneAlikeInACluster(t *testing.T) {
	w := newTownship(t, 2)
	w.calm = true
	w.populate()
	file := w.backup()
	lg := log.NewMemory(4, nil)
	for _, node := range []struct {
		lanes int
		fits  bool
	}{{4, true}, {4, true}, {3, false}} {
		c := w.config(filepath.Join(t.TempDir(), "data"), 1)
		c.ForCluster, c.RestoreLanes = true, node.lanes
		w.check(engine.Restore(t.Context(), c, bytes.NewReader(file)))
		c.Lanes = node.lanes
		w.stored(c, func(st store.Store) {
			if err := engine.CheckLanes(c, st); err != nil {
				t.Error(err)
			}
			other := c
			other.Lanes = 2
			if err := engine.CheckLanes(other, st); proto.CodeOf(err) != proto.CodeConflict {
				t.Errorf("with another configuration: %v", err)
			}
			err := engine.PlantRestored(t.Context(), c, lg, st)
			if node.fits && err != nil || !node.fits && proto.CodeOf(err) != proto.CodeConflict {
				t.Errorf("with %d lanes: %v", node.lanes, err)
			}
		})
	}
}

// A delta against an export of before a restore is refused, also of a lane that is
// there still.
func TestRelaneRefusesDelta(t *testing.T) {
	w := newTownship(t, 2)
	w.populate()
	since := sinceOf(t, take(t, w.sim.Node, w.acme, proto.ExportRequest{Expr: "auto"}).Audience)
	n := w.open(w.restore(w.backup(), 3))
	defer closeNode(t, n)
	if _, err := n.OpenAudience(t.Context(), w.acme, &proto.ExportRequest{Expr: "auto", Since: since}); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("a delta over other lanes: %v", err)
	}
}

// A lane that was behind when a day ended has its part of the sizes too.
func TestRelaneAtMidnight(t *testing.T) {
	w := newTownship(t, 3)
	w.populate()
	w.now = w.now.Add(24 * time.Hour)
	w.beat(1)
	w.apply()
	n := w.open(w.restore(w.backup(), 2))
	defer closeNode(t, n)
	days, err := n.Sizes(w.acme, "seen", w.now.Day()-1, w.now.Day()-1)
	if err != nil || len(days) != 1 || days[0].Partitions != nil || *days[0].Identities != count(t, n, w.acme, "seen") {
		t.Errorf("%+v, %v", days, err)
	}
}

// What few did loses its name in as many lanes as there are when the day grows
// old as it would have in one.
func TestRelaneOfFew(t *testing.T) {
	w := newTownship(t, 1)
	w.populate()
	for i := range 60 {
		var b proto.Batch
		for _, name := range []string{"many", "few"} {
			e := page(w.acme, "", "x", w.now.Time())
			e.Name, e.Received, e.Identities = name, w.now, []proto.Identity{townsman(64 + i)}
			if name == "many" || i < 20 {
				b.AddEvent(w.sim.Hasher(), e)
			}
		}
		w.take(&b)
	}
	w.rest()
	file, day := w.backup(), w.now.Day()
	want := map[string][2]bool{"young": {true, true}, "old": {true, false}}
	configs := []engine.Config{w.restore(file, 1), w.restore(file, 4)}
	for _, age := range []string{"young", "old"} {
		for _, c := range configs {
			n := w.open(c)
			until(t, n, 30*time.Second, "the day", func() bool {
				return !slices.ContainsFunc(n.Lanes(), func(l proto.LaneStatus) bool { return l.LagSeconds > 3600 })
			})
			a, err := n.Aggregates(t.Context(), w.acme, "event", day, day, 0)
			if err != nil || len(a.Days) != 1 {
				t.Fatalf("%+v, %v", a, err)
			}
			named := func(name string) bool {
				return slices.ContainsFunc(a.Days[0].Names, func(x proto.AggregateName) bool { return x.Name == name })
			}
			if got := [2]bool{named("many"), named("few")}; got != want[age] {
				t.Errorf("in %d lanes, %s: many and few are named: %v, want %v", c.Lanes, age, got, want[age])
			}
			closeNode(t, n)
		}
		w.now = w.now.Add(33 * 24 * time.Hour)
	}
}

// countdown ends after it was looked at so many times.
type countdown struct {
	context.Context
	left atomic.Int64
	done chan struct{}
}

func (c *countdown) Done() <-chan struct{} { return c.done }

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// A restore that was broken off anywhere leaves a directory that does not count.
func TestRelaneBrokenOff(t *testing.T) {
	w := newTownship(t, 2)
	w.populate()
	file := w.backup()
	whole := int64(0)
	for _, part := range []float64{1, 0.1, 0.5, 0.8, 0.95, 0.99} {
		ctx := &countdown{Context: t.Context(), done: make(chan struct{})}
		ctx.left.Store(1 << 40)
		if whole > 0 {
			ctx.left.Store(int64(float64(whole) * part))
		}
		c := w.config(filepath.Join(t.TempDir(), "data"), 1)
		c.RestoreLanes = 3
		err := engine.Restore(ctx, c, bytes.NewReader(file))
		if whole == 0 {
			w.check(err)
			whole = 1<<40 - ctx.left.Load()
			continue
		}
		c.Lanes = 3
		if _, open := engine.Verify(t.Context(), c); proto.CodeOf(err) != proto.CodeUnavailable || proto.CodeOf(open) != proto.CodeConflict {
			t.Errorf("broken off at %v of %d looks: %v, then %v", part, whole, err, open)
		}
		if err := engine.Restore(t.Context(), c, bytes.NewReader(file)); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("restored over it: %v", err)
		}
	}
}

// A node of a cluster may have a lane that took in what another of its lanes has
// not sent yet. Its backup has no state that other lanes could be made of.
func TestRelaneRefusesLanesBehind(t *testing.T) {
	w := newTownship(t, 2)
	w.populate()
	st, err := store.Open(store.Config{Dir: filepath.Join(t.TempDir(), "store"), Small: true})
	w.check(err)
	follower, err := engine.Simulate(w.config(t.TempDir(), 2), held{w.log}, st, townSecret, w.poison.judge)
	w.check(err)
	for range 2 {
		w.check(follower.Apply(1, 1<<30, engine.NoCrash))
	}
	if follower.Whole() {
		t.Fatal("the follower is not behind")
	}
	var file bytes.Buffer
	late, cancel := context.WithTimeout(t.Context(), time.Second/4)
	defer cancel()
	if err := follower.Backup(late, &file); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("backed up: %v", err)
	}
	// As a build that did not look made it:
	if err := engine.SettleStore(t.Context(), w.config(t.TempDir(), 2), w.now.Time(), w.controls, st); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("brought to rest: %v", err)
	}
}

// A backup waits until the lanes of its node have caught up with one another.
func TestBackupWaitsForLanesBehind(t *testing.T) {
	w := newTownship(t, 2)
	w.calm = true // another node must come to the same
	w.populate()
	st, err := store.Open(store.Config{Dir: filepath.Join(t.TempDir(), "store"), Small: true})
	w.check(err)
	follower, err := engine.Simulate(w.config(t.TempDir(), 2), held{w.log}, st, townSecret, w.poison.judge)
	w.check(err)
	w.check(follower.Apply(1, 1<<30, engine.NoCrash))
	time.AfterFunc(100*time.Millisecond, func() {
		if err := follower.Apply(0, 1<<30, engine.NoCrash); err != nil {
			t.Error(err)
		}
	})
	var file bytes.Buffer
	w.check(follower.Backup(t.Context(), &file))
	if !follower.Whole() {
		t.Error("it did not wait")
	}
	w.restore(file.Bytes(), 3)
}

// held is a log that outlives its node.
type held struct{ *log.Memory }

func (held) Close() error { return nil }

// On a full disk it ends, and says so.
func TestRelaneDiskFull(t *testing.T) {
	w := newTownship(t, 2)
	w.populate()
	w.breakOff()
	c := w.config(filepath.Join(t.TempDir(), "data"), 1)
	c.RestoreLanes, c.DiskReserve = 3, 1<<62
	backup := w.backup()
	if err := engine.Restore(t.Context(), c, bytes.NewReader(backup)); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("restored: %v", err)
	}
	c = w.config(filepath.Join(t.TempDir(), "data"), 1)
	c.RestoreLanes, c.ForCluster = 3, true // its store is left at rest
	if err := engine.Restore(t.Context(), c, bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	c.Lanes = 3
	if err := engine.RelaneOnFullDisk(t, c, 2); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("rewritten: %v", err)
	}
}

// A restore says what it cannot make.
func TestRelaneNumbers(t *testing.T) {
	for _, lanes := range []int{-1, 65} {
		c := engine.Config{Dir: filepath.Join(t.TempDir(), "data"), AcceptLostOptOuts: true, RestoreLanes: lanes}
		if err := engine.Restore(t.Context(), c, bytes.NewReader(nil)); proto.CodeOf(err) != proto.CodeInvalid {
			t.Errorf("%d lanes: %v", lanes, err)
		}
	}
}
