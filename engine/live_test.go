package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// until waits for lanes to publish until cond holds.
func until(t *testing.T, n *engine.Node, within time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for !cond() {
		if err := n.AwaitChange(ctx); err != nil && !cond() {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

func count(t *testing.T, n *engine.Node, c proto.ClientInfo, expr string) uint64 {
	t.Helper()
	x, err := n.Count(t.Context(), c, expr, "")
	if err != nil || x.Count == nil {
		t.Fatalf("count %s: %v", expr, err)
	}
	return *x.Count
}

// Ten thousand memberships with windows of one to five seconds each end within
// a second of their time, with no event arriving, and not before it.
func TestExitsOnTime(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	const visitors, kinds = 10_000, 41
	windows := make([]time.Duration, kinds)
	for i := range windows {
		windows[i] = time.Second + time.Duration(i)*100*time.Millisecond
		define(t, n, fmt.Sprint("w", i), fmt.Sprintf(`count(event.section == "w%d", "%v") >= 1`, i, windows[i]))
	}
	r := rand.New(rand.NewPCG(1, 1))
	due := make([]time.Time, kinds)
	sizes := make([]uint64, kinds)
	for range 10 {
		var list []*proto.Event
		now := time.Now()
		for range visitors / 10 {
			k := r.IntN(kinds)
			list = append(list, page(c, fmt.Sprint("v", r.Uint64()), fmt.Sprint("w", k), now))
			due[k] = now.Add(windows[k])
			sizes[k]++
		}
		submit(t, n, list...)
	}
	if total := count(t, n, c, "w0 | !w0"); total != visitors {
		t.Fatalf("%d identities are known, want %d", total, visitors)
	}
	left := make([]time.Duration, kinds)
	deadline := time.Now().Add(20 * time.Second)
	for open := kinds; open > 0; {
		open = 0
		for k := range kinds {
			if left[k] != 0 {
				continue
			}
			before := time.Now()
			switch size := count(t, n, c, fmt.Sprint("w", k)); {
			case size == 0:
				left[k] = before.Sub(due[k])
			case size == sizes[k] && before.After(due[k].Add(5*time.Second)):
				t.Fatalf("none of %s left", fmt.Sprint("w", k))
			default:
				open++
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d segments are not empty after 20s", open)
		}
		if open > 0 {
			if err := n.AwaitChange(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if first := slices.Min(left); first < -5*time.Millisecond {
		t.Errorf("the last member of a segment left %v before its time", -first)
	}
	latest := slices.Max(left)
	t.Logf("the last member left at most %v after its time", latest)
	if latest > slowly(time.Second) {
		t.Errorf("the last member left %v after its time, want within a second", latest)
	}
	verifyClean(t, n)
}

// A lane whose partitions have given out their numbers stops before it gives one
// twice, and what it has is still answered.
func TestNumbersEnd(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	define(t, n, "seen", `count(true, "30d") >= 1`)
	submit(t, n, page(acme(t, n), "first", "x", time.Now()))
	closeNode(t, n)
	engine.SpendNumbers(t, dir, 5)
	n = testNode(t, dir)
	c := acme(t, n)
	for i := 0; n.Lanes()[0].Quarantined == ""; i++ {
		if i == 64*20 {
			t.Fatal("the lane goes on")
		}
		var b proto.Batch
		b.AddEvent(n.Hasher(), page(c, fmt.Sprint("v", i), "x", time.Now()))
		n.Submit(t.Context(), &b)
	}
	if why := n.Lanes()[0].Quarantined; !strings.Contains(why, "numbers are not used again") {
		t.Error(why)
	}
	if _, in, err := n.Lookup(c, "browser:first", proto.MillisOf(time.Now()), nil); err != nil || !slices.Equal(in, []proto.SegmentID{"seen"}) {
		t.Errorf("what was there before is in %v, %v", in, err)
	}
	_ = n.Close() // its lane stands still
}

// slowly is d, more under the race detector or on a machine that others use.
func slowly(d time.Duration) time.Duration { return d * 3 / 2 }

// Memberships end at their time also when the node was not running then, and
// those whose time is still to come when it is running again.
func TestExitsOverRestart(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	define(t, n, "short", `count(true, "1s") >= 1`)
	define(t, n, "long", `count(true, "3s") >= 1`)
	start := time.Now()
	submit(t, n, page(acme(t, n), "a", "x", start))
	closeNode(t, n)
	n = testNode(t, dir)
	defer closeNode(t, n)
	c := acme(t, n)
	if time.Since(start) < 2*time.Second && count(t, n, c, "long") != 1 {
		t.Error("the long membership ended with the restart")
	}
	until(t, n, 10*time.Second, "leaving short", func() bool { return count(t, n, c, "short") == 0 })
	until(t, n, 10*time.Second, "leaving long", func() bool { return count(t, n, c, "long") == 0 })
	if time.Since(start) < 3*time.Second-10*time.Millisecond {
		t.Errorf("the long membership ended after %v", time.Since(start))
	}
	verifyClean(t, n)
}

// A fill that a stop cut short goes on after it.
func TestFillResumes(t *testing.T) {
	s := newScript(t)
	s.now = proto.MillisOf(time.Now()) - 60_000
	acme := s.client("acme", "")
	const visitors = 5000
	for v := 0; v < visitors; v += 500 {
		var list []*proto.Event
		for i := range 500 {
			list = append(list, s.event(acme, fmt.Sprint("v", v+i), "x"))
		}
		s.events(list...)
	}
	key := s.define(acme, "late", `count(event.section == "x") >= 1`)
	s.fill(acme, key, 0, 2000, false)
	s.beat(0)
	st := store.NewMemory()
	n := s.run(st)
	spec, _ := n.Segment(acme, "late")
	if *spec.Filled || *spec.Size == 0 || *spec.Size == visitors {
		t.Fatalf("half way, the segment is %+v with %d members", spec, *spec.Size)
	}
	if p := spec.Progress; p == nil || *p != float64(*spec.Size*100/visitors)/100 {
		t.Errorf("with %d of %d members, its progress is %v", *spec.Size, visitors, p)
	}
	closeNode(t, n)
	m, err := engine.NewOver(s.config(func(c *engine.Config) { c.Now = nil }), s.inner, st)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeNode(t, m)
	until(t, m, 20*time.Second, "filling", func() bool {
		spec, _ := m.Segment(acme, "late")
		return *spec.Filled && *spec.Size == visitors && spec.Progress == nil
	})
	verifyClean(t, m)
}

// A fill brings along what stands where it is, and is older; each segment is
// filled by the steps that went over all nodes while it was defined, and by no
// fewer.
func TestFillsGoTogether(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	const visitors = 1000
	for v := 0; v < visitors; v += 500 {
		var list []*proto.Event
		for i := range 500 {
			list = append(list, s.event(acme, fmt.Sprint("v", v+i), "x"))
		}
		s.events(list...)
	}
	st := store.NewMemory()
	expect := func(what string, want map[proto.SegmentID]string) {
		t.Helper()
		n := s.run(st)
		defer closeNode(t, n)
		got := map[proto.SegmentID]string{}
		for _, spec := range n.Segments(acme) {
			got[spec.ID] = "filled"
			if !*spec.Filled {
				got[spec.ID] = "begun"
				if *spec.Progress == 0 {
					got[spec.ID] = "not begun"
				}
			} else if *spec.Size != visitors {
				t.Errorf("%s: %s is filled and has %d members", what, spec.ID, *spec.Size)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	first := s.define(acme, "first", `count(event.section == "x") >= 1`)
	s.fill(acme, first, 0, 500, false)
	second := s.define(acme, "second", `count(true) >= 1`)
	s.fill(acme, first, 501, 600, false)
	s.beat(0)
	expect("the newer does not go along", map[proto.SegmentID]string{"first": "begun", "second": "not begun"})
	s.fill(acme, second, 0, 400, false)
	s.fill(acme, second, 401, 650, false) // over where the first is
	s.beat(0)
	expect("both on the way", map[proto.SegmentID]string{"first": "begun", "second": "begun"})
	s.fill(acme, second, 651, 5000, true)
	s.beat(0)
	expect("the older goes along", map[proto.SegmentID]string{"first": "filled", "second": "filled"})
	third := s.define(acme, "third", `count(true) >= 1 && true`)
	fourth := s.define(acme, "fourth", `count(true, "30d") >= 1`)
	s.fill(acme, third, 0, 500, false)
	s.fill(acme, fourth, 600, 5000, true) // steps before it were lost
	s.beat(0)
	expect("nobody is passed over", map[proto.SegmentID]string{"first": "filled", "second": "filled", "third": "begun", "fourth": "not begun"})
}

// Control records that a crash left between the control stream and the lane
// are relayed at the next start, before queries are answered.
func TestControlAfterCrash(t *testing.T) {
	s := newScript(t)
	s.now = proto.MillisOf(time.Now()) - 60_000
	acme := s.client("acme", "")
	s.define(acme, "one", `count(true) >= 1`)
	s.events(s.event(acme, "a", "x"))
	for i := range 200 { // more than one relayed entry takes
		rec := defineRecord(t, acme, fmt.Sprint("late", i), `count(true) >= 1`)
		raw, err := proto.EncodeControl(rec)
		if err != nil {
			t.Fatal(err)
		}
		if s.controls, err = s.inner.Control().Append(t.Context(), raw, s.controls); err != nil {
			t.Fatal(err)
		}
	}
	st := store.NewMemory()
	open := func() *engine.Node {
		n, err := engine.NewOver(s.config(func(c *engine.Config) { c.Now = nil }), s.inner, st)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	defer closeNode(t, n)
	until(t, n, 20*time.Second, "filling the last", func() bool {
		spec, ok := n.Segment(acme, "late199")
		return ok && *spec.Filled && *spec.Size == 1
	})
	if spec, err := n.Define(t.Context(), acme, proto.SegmentSpec{ID: "next", Scope: "identity", When: "true"}); err != nil || spec.Version != proto.SegmentKey(s.controls+1) {
		t.Errorf("the next definition is %+v, %v", spec, err)
	}
	verifyClean(t, n)
}

// Clients do not see one another, nor does one see itself in another space.
func TestClientsApart(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Boot = append(c.Boot, engine.BootKey{Client: "zeta", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("z"))})
	})
	defer closeNode(t, n)
	ctx := t.Context()
	for _, name := range []proto.ClientName{"left", "right"} {
		if _, err := n.CreateKey(ctx, name, proto.RoleClient, "shared"); err != nil {
			t.Fatal(err)
		}
	}
	info := map[string]proto.ClientInfo{}
	for _, name := range []string{"acme", "zeta", "left", "right"} {
		c, ok := n.Client(proto.ClientName(name))
		if !ok {
			t.Fatalf("client %s is missing", name)
		}
		info[name] = c
		spec := proto.SegmentSpec{ID: "seen", Scope: "identity", When: fmt.Sprintf(`count(event.section == %q) >= 1`, name)}
		if _, err := n.Define(ctx, c, spec); err != nil {
			t.Fatal(err)
		}
	}
	if info["left"].Space != info["right"].Space || info["acme"].Space == info["zeta"].Space || info["left"].Space == info["acme"].Space {
		t.Errorf("spaces: %+v", info)
	}
	for name, c := range info {
		submit(t, n, page(c, "same", name, time.Now()), page(c, "only-"+name, name, time.Now()))
	}
	for name, c := range info {
		if got := count(t, n, c, "seen"); got != 2 {
			t.Errorf("%s counts %d, want its own 2", name, got)
		}
		rec, err := n.Record(ctx, c, "browser:same")
		if err != nil || len(rec.Events) != 1 || rec.Events[0].Props["section"] != name {
			t.Errorf("%s sees the events %+v, %v", name, rec.Events, err)
		}
		for other := range info {
			seen, list, err := n.Lookup(c, proto.Identity("browser:only-"+other), proto.MillisOf(time.Now()), nil)
			if err != nil || seen.Known != (other == name) || (len(list) == 1) != (other == name) {
				t.Errorf("%s looks up %s's visitor: %+v %v %v", name, other, seen, list, err)
			}
		}
	}
	if _, err := n.CreateKey(ctx, "acme", proto.RoleClient, "shared"); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("a client was moved into a space: %v", err)
	}
	verifyClean(t, n)
}

// Two nodes over logs of the same entries are replicas: the same chain and
// state. One reads JetStream while it is written, the other a copy at once.
func TestReplica(t *testing.T) {
	mem := log.NewMemory(2, nil)
	config := func(c *engine.Config) { c.Lanes, c.DiskReserve = 2, 1 }
	s := newScript(t)
	c := s.config(config, func(c *engine.Config) { c.Now = nil })
	first := store.NewMemory()
	hushed := &atomic.Bool{}
	n, err := engine.NewOver(c, hushable{unclosed{mem}, hushed}, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CreateKey(t.Context(), "acme", proto.RoleClient, ""); err != nil {
		t.Fatal(err)
	}
	define(t, n, "hot", `count(true, "1s") >= 1`)
	define(t, n, "two", `count(event.section == "s1") >= 2`)
	var wait sync.WaitGroup
	for w := range 4 {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for range 25 {
				var b proto.Batch
				for range 1 + r.IntN(20) {
					b.AddEvent(n.Hasher(), page(acme(t, n), fmt.Sprint("v", r.IntN(100)), fmt.Sprint("s", r.IntN(3)), time.Now()))
				}
				if r := n.Submit(t.Context(), &b); r.Err != nil {
					t.Error(r.Err)
				}
			}
		})
	}
	wait.Wait()
	define(t, n, "late", `days(event.section == "s2") >= 1`)
	until(t, n, 20*time.Second, "filling", func() bool { s, _ := n.Segment(acme(t, n), "late"); return *s.Filled })
	until(t, n, 20*time.Second, "exits", func() bool { return count(t, n, acme(t, n), "hot") == 0 })
	hushed.Store(true) // no beat comes any more that it would not apply before it is closed
	until(t, n, 20*time.Second, "applying all", func() bool {
		return !slices.ContainsFunc(n.Lanes(), func(l proto.LaneStatus) bool {
			info, err := mem.Lane(l.Lane).Info(t.Context())
			return err != nil || l.Applied != info.Last
		})
	})
	closeNode(t, n)

	// The replica: nothing of its own reaches the log that it reads.
	second := store.NewMemory()
	m, err := engine.NewOver(c, mute{mem}, second)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeNode(t, m)
	verify := func(st store.Store) engine.VerifyReport {
		r, err := engine.VerifyStore(t.Context(), c, st)
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("verify: %v, %v", err, r.Problems)
		}
		return r
	}
	a, b := verify(first), verify(second)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("replicas (-first +second):\n%s", diff)
	}
	if len(a.Lanes) != 2 || a.Lanes[0].StateHash == a.Lanes[1].StateHash {
		t.Errorf("lanes are %+v", a.Lanes)
	}
}

// unclosed is a log that outlives its node.
type unclosed struct{ *log.Memory }

func (unclosed) Close() error { return nil }

// hushable is a log that from some time on takes nothing.
type hushable struct {
	log.Logs
	hushed *atomic.Bool
}

func (h hushable) Lane(id proto.LaneID) log.Stream {
	return hushableLane{h.Logs.Lane(id), h.hushed}
}

type hushableLane struct {
	log.Stream
	hushed *atomic.Bool
}

func (l hushableLane) Append(ctx context.Context, e *proto.Entry) (proto.Offset, error) {
	if l.hushed.Load() {
		return 0, errMute
	}
	return l.Stream.Append(ctx, e)
}

func (l hushableLane) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	if l.hushed.Load() {
		return errMute
	}
	return l.Stream.AppendAsync(e, done)
}

// mute is a log to which its node appends nothing.
type mute struct{ *log.Memory }

func (m mute) Lane(id proto.LaneID) log.Stream { return muteLane{m.Memory.Lane(id)} }
func (mute) Close() error                      { return nil }

type muteLane struct{ log.Stream }

func (muteLane) Append(context.Context, *proto.Entry) (proto.Offset, error) { return 0, errMute }

func (muteLane) AppendAsync(*proto.Entry, func(proto.Offset, error)) error { return errMute }

// A backup that is taken while events come in, restored elsewhere, answers as
// the node did at some moment of it, verifies, and goes on.
func TestBackupRestore(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Lanes = 2 })
	defer func() { closeNode(t, n) }()
	define(t, n, "one", `count(true) >= 1`)
	define(t, n, "auto", `count(event.section == "auto", "30d") >= 2`)
	for i := range 20 {
		submit(t, n, page(acme(t, n), fmt.Sprint("v", i), "auto", time.Now()), page(acme(t, n), fmt.Sprint("v", i/2), "auto", time.Now()))
	}
	var stop atomic.Bool
	var during atomic.Int64
	var wait sync.WaitGroup
	wait.Go(func() {
		for !stop.Load() {
			submit(t, n, page(acme(t, n), fmt.Sprint("new", during.Load()), "home", time.Now()))
			during.Add(1)
		}
	})
	var file bytes.Buffer
	err := n.Backup(t.Context(), &file)
	stop.Store(true)
	wait.Wait()
	if err != nil {
		t.Fatal(err)
	}
	c := engine.Config{Dir: t.TempDir(), LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, Lanes: 2, AcceptLostOptOuts: true}
	if err := engine.Restore(t.Context(), c, bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	if r, err := engine.Verify(t.Context(), c); err != nil || len(r.Problems) > 0 {
		t.Fatalf("verify what was restored: %v, %v", err, r.Problems)
	}
	if err := engine.Restore(t.Context(), c, bytes.NewReader(file.Bytes())); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("restored over data: %v", err)
	}
	m := testNode(t, c.Dir, func(c *engine.Config) { c.Lanes = 2 })
	defer func() { closeNode(t, m) }()
	if who, ok := m.Authenticate("key"); !ok || who.Client != "acme" {
		t.Error("the client's key is lost")
	}
	if got, want := count(t, m, acme(t, m), "auto"), count(t, n, acme(t, n), "auto"); got != want {
		t.Errorf("%d members of auto, want %d", got, want)
	}
	if got := count(t, m, acme(t, m), "one"); got < 20 || got > 20+uint64(during.Load()) {
		t.Errorf("%d identities, want 20 and some of %d", got, during.Load())
	}
	for i := range 20 {
		v := fmt.Sprint("v", i)
		if diff := cmp.Diff(segmentsOf(t, n, v), segmentsOf(t, m, v)); diff != "" {
			t.Errorf("segments of %s (-original +restored):\n%s", v, diff)
		}
	}
	before := count(t, m, acme(t, m), "auto")
	submit(t, m, page(acme(t, m), "after", "auto", time.Now()), page(acme(t, m), "after", "auto", time.Now()))
	if got := count(t, m, acme(t, m), "auto"); got != before+1 {
		t.Errorf("%d members after new events, want %d", got, before+1)
	}
	verifyClean(t, m)

	for name, damage := range map[string]func([]byte) []byte{
		"empty": func(b []byte) []byte { return nil },
		"cut":   func(b []byte) []byte { return b[:len(b)/2] },
		"end":   func(b []byte) []byte { return b[:len(b)-1] },
		"bit":   func(b []byte) []byte { b[len(b)*2/3] ^= 4; return b },
		"other": func(b []byte) []byte { return []byte(strings.Repeat("hello", 1000)) },
	} {
		c.Dir = t.TempDir()
		if err := engine.Restore(t.Context(), c, bytes.NewReader(damage(bytes.Clone(file.Bytes())))); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: restored from a damaged backup: %v", name, err)
		}
	}
}

// A ledger that is damaged is what is wrong, and not the backup that it is given with.
func TestDamagedLedger(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	var backup, ledger bytes.Buffer
	if err := n.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	optOut(t, n, "browser:gone", false)
	if err := n.WriteLedger(t.Context(), &ledger); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"head": func(b []byte) []byte { return b[:20] },
		"cut":  func(b []byte) []byte { return b[:len(b)-20] },
		"end":  func(b []byte) []byte { return b[:len(b)-1] },
		"bit":  func(b []byte) []byte { b[len(b)-20] ^= 4; return b },
	} {
		file := filepath.Join(t.TempDir(), "ledger")
		if err := os.WriteFile(file, damage(bytes.Clone(ledger.Bytes())), 0o600); err != nil {
			t.Fatal(err)
		}
		c := engine.Config{Dir: t.TempDir(), LogBytesMax: 64 << 20, SmallStore: true, DiskReserve: 1 << 20, Ledger: file}
		err := engine.Restore(t.Context(), c, bytes.NewReader(backup.Bytes()))
		if proto.CodeOf(err) != proto.CodeCorrupt || !strings.Contains(err.Error(), "the ledger of opt-outs is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A restored node whose store is lost does not take its log for all there was: it
// would not know who opted out before the backup.
func TestRestoredStoreLost(t *testing.T) {
	dir := t.TempDir()
	a := testNode(t, filepath.Join(dir, "a"))
	submit(t, a, page(acme(t, a), "keep", "auto", time.Now()), page(acme(t, a), "gone", "auto", time.Now()))
	optOut(t, a, "browser:gone", false)
	var file bytes.Buffer
	if err := a.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	closeNode(t, a)
	c := engine.Config{Dir: filepath.Join(dir, "b"), LogBytesMax: 64 << 20, SmallStore: true, Ledger: filepath.Join(dir, "a")}
	if err := engine.Restore(t.Context(), c, bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	closeNode(t, testNode(t, c.Dir))
	if err := os.Rename(filepath.Join(c.Dir, "store"), filepath.Join(c.Dir, "store-damaged")); err != nil {
		t.Fatal(err)
	}
	for _, rebase := range []bool{false, true} {
		_, err := openNode(t, c.Dir, func(c *engine.Config) { c.RebaseLog = rebase })
		if proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), "goes on from a backup") {
			t.Fatalf("rebase %v: an empty store behind a restored log: %v", rebase, err)
		}
	}
	c.Dir, c.Ledger = filepath.Join(dir, "c"), c.Dir
	if err := engine.Restore(t.Context(), c, &file); err != nil { // the way out
		t.Fatal(err)
	}
	b := testNode(t, c.Dir)
	defer closeNode(t, b)
	if s, err := b.OptOutState(t.Context(), "browser:gone"); err != nil || !s.OptedOut {
		t.Errorf("restored again: %+v, %v", s, err)
	}
}

// The directory of a cluster's node is no ledger: other nodes may have acknowledged
// opt-outs that are not in it.
func TestLedgerOfOneOfSeveral(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, filepath.Join(dir, "a"))
	submit(t, n, page(acme(t, n), "keep", "auto", time.Now()))
	var file bytes.Buffer
	if err := n.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	if err := os.MkdirAll(filepath.Join(dir, "a/log/jetstream/$SYS/_js_/_meta_"), 0o750); err != nil {
		t.Fatal(err)
	}
	c := engine.Config{Dir: filepath.Join(dir, "b"), LogBytesMax: 64 << 20, SmallStore: true, Ledger: filepath.Join(dir, "a")}
	if err := engine.Restore(t.Context(), c, &file); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "of a cluster") {
		t.Errorf("restored: %v", err)
	}
}

// With less disk left than the reserve, events are refused with a code, and
// what is there is answered.
func TestDiskReserve(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	define(t, n, "one", `count(true) >= 1`)
	submit(t, n, page(acme(t, n), "a", "x", time.Now()))
	closeNode(t, n)
	c := engine.Config{Dir: dir, LogBytesMax: 64 << 20, DiskReserve: 1 << 62}
	for wait := 2 * time.Second; ; wait *= 2 { // a start waits for room as long as it may
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		_, err := engine.Open(ctx, c)
		cancel()
		if proto.CodeOf(err) == proto.CodeDiskFull {
			break
		}
		if wait > 20*time.Second {
			t.Fatalf("start where nothing may be written: %v", err)
		}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, dir, func(c *engine.Config) { c.DiskReserve = 2 * fs.Bavail * uint64(fs.Bsize) })
	defer closeNode(t, n)
	until(t, n, 10*time.Second, "noticing the disk", func() bool { return proto.CodeOf(n.Ready()) == proto.CodeDiskFull })
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(acme(t, n), "b", "x", time.Now()))
	b.AddEvent(n.Hasher(), page(acme(t, n), "c", "x", time.Now()))
	if r := n.Submit(t.Context(), &b); proto.CodeOf(r.Err) != proto.CodeDiskFull || len(r.Failed) != 2 {
		t.Errorf("submit: %+v", r)
	}
	if got := segmentsOf(t, n, "a"); len(got) != 1 {
		t.Errorf("a is in %v", got)
	}
}

// A look-up never goes back: what it saw once, all later ones see, however the
// cache is filled, emptied and published into.
func TestLookupNeverOld(t *testing.T) {
	n := nodeOver(t, func(s *script) {
		acme := s.client("acme", "")
		for i := range 40 {
			s.define(acme, fmt.Sprintf("s%02d", i), fmt.Sprintf(`count(event.section == "x") >= %d`, i+1))
		}
	}, func(c *engine.Config) { c.ViewsMax, c.ActiveMax = 1, 64 })
	defer closeNode(t, n)
	const steps, crowd = 40, 32
	// All in one shard of the cache, which holds a few of them.
	var names []string
	for i := 0; len(names) < crowd; i++ {
		if name := fmt.Sprint("v", i); n.Hasher().Hash(proto.Identity("browser:" + name))[1] == 7 {
			names = append(names, name)
		}
	}
	c := acme(t, n)
	var applied [crowd]atomic.Int64
	var stop atomic.Bool
	var readers, writers sync.WaitGroup
	for r := range 2 {
		readers.Go(func() {
			var seen [crowd]int
			rnd := rand.New(rand.NewPCG(uint64(r), 3))
			for !stop.Load() {
				v := rnd.IntN(crowd)
				least := int(applied[v].Load())
				_, list, err := n.Lookup(c, proto.Identity("browser:"+names[v]), proto.MillisOf(time.Now()), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if len(list) < max(seen[v], least) {
					t.Errorf("visitor %d is in %d segments, a look-up before saw %d, %d were applied", v, len(list), seen[v], least)
					return
				}
				seen[v] = len(list)
				runtime.Gosched()
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			for i := range steps {
				var list []*proto.Event
				for v := w; v < crowd; v += 2 {
					list = append(list, page(c, names[v], "x", time.Now()))
				}
				submit(t, n, list...)
				for v := w; v < crowd; v += 2 {
					applied[v].Store(int64(i + 1))
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	for _, name := range names {
		if got := segmentsOf(t, n, name); len(got) != steps {
			t.Errorf("%s is in %d segments in the end", name, len(got))
		}
	}
}

// A node whose control stream has what it cannot read is not ready, and says so.
func TestControlStops(t *testing.T) {
	var said bytes.Buffer
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	if err := n.Ready(); err != nil || gauges(t, n)["kith_control_stopped"] != 0 {
		t.Fatalf("at the start: %v", err)
	}
	if err := errors.Join(n.Conn().Publish("kith.ctl", []byte{0xff}), n.Conn().Flush()); err != nil {
		t.Fatal(err)
	}
	until(t, n, 20*time.Second, "the node is not ready", func() bool { return n.Ready() != nil })
	if err := n.Ready(); proto.CodeOf(err) != proto.CodeQuarantined || gauges(t, n)["kith_control_stopped"] != 1 {
		t.Errorf("it says %v", err)
	}
	closeNode(t, n)
	if !strings.Contains(said.String(), "the control stream can no longer be followed") {
		t.Errorf("the journal has %s", &said)
	}
}

// A lane says how many identities have a number, over a restart and whatever
// comes and goes while they are counted.
func TestNumberedOverRestart(t *testing.T) {
	dir := t.TempDir()
	two := func(c *engine.Config) { c.Lanes = 2 }
	n := testNode(t, dir, two)
	numbered := func() (sum uint64) {
		for _, l := range n.Lanes() {
			sum += min(l.Identities, 1000) // also if one were below 0
		}
		return sum
	}
	see := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			submit(t, n, page(acme(t, n), fmt.Sprint("v", i), "auto", time.Now()))
		}
	}
	see(0, 20)
	closeNode(t, n)

	n = testNode(t, dir, two)
	defer func() { closeNode(t, n) }()
	for i := range 5 {
		if _, err := n.Erase(t.Context(), nil, proto.Identity(fmt.Sprint("browser:v", i))); err != nil {
			t.Fatal(err)
		}
	}
	see(20, 22)
	until(t, n, 10*time.Second, "17 identities in all lanes", func() bool { return numbered() == 17 })
}
