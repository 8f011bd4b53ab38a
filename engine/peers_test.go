package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"kith/engine"
	"kith/engine/log"
	"kith/proto"
)

// TestLeases: a node answers for 15 seconds from when it sent the newest own
// beat that it has applied, and knows until when others may.
func TestLeases(t *testing.T) {
	now := time.Duration(0)
	x := engine.NewLeases("a", func() time.Duration { return now })
	own := func(at proto.Millis) proto.Beat { return proto.Beat{Node: "a", Incarnation: 1, Time: at} }
	type ends = map[uint64]time.Duration // by incarnation; 0: whoever beat before the start
	at := func(d time.Duration, held bool, others ends) {
		t.Helper()
		now = d
		if x.Held() != held {
			t.Errorf("after %v the lease is held: %t", d, !held)
		}
		if diff := cmp.Diff(others, x.Holders()); diff != "" {
			t.Errorf("after %v others hold leases (-want +got):\n%s", d, diff)
		}
	}
	published := func(want bool, list ...proto.Beat) {
		t.Helper()
		if got := x.Published(1, list...); got != want {
			t.Errorf("after %v another process takes this node's name: %t", now, got)
		}
	}
	none := ends{}
	before := ends{0: 16 * time.Second} // by beats from before the start
	at(0, false, before)
	sending := func(beat proto.Millis, releases, ok bool) {
		t.Helper()
		if r, o := x.Sending(beat); r != releases || o != ok {
			t.Errorf("after %v a beat may be sent: %t, and releases the lease: %t", now, o, r)
		}
	}
	sending(100, false, true)
	at(4*time.Second, false, before) // sent, and not applied
	// A beat of the process before, under the same name, gives nothing.
	published(false, proto.Beat{Node: "a", Incarnation: 9, Time: 80})
	published(false, own(100), proto.Beat{Node: "b", Incarnation: 2, Time: 90})
	at(14*time.Second, true, ends{0: 16 * time.Second, 2: 20 * time.Second, 9: 20 * time.Second})
	at(15*time.Second, false, ends{0: 16 * time.Second, 2: 20 * time.Second, 9: 20 * time.Second}) // by the time it was sent
	at(16*time.Second, false, ends{2: 20 * time.Second, 9: 20 * time.Second})
	at(20*time.Second, false, none) // by the time it was applied here, and a little longer
	// It beats still: it is the one that must stop.
	published(false, proto.Beat{Node: "a", Incarnation: 9, Time: 100})
	at(20*time.Second, false, ends{9: 36 * time.Second})
	// Beats that were sent before the one applied last are not waited for.
	now = 40 * time.Second
	sending(200, false, true)
	now = 42 * time.Second
	sending(300, false, true)
	now = 43 * time.Second
	published(false, own(300))
	published(false, own(200))
	at(56*time.Second, true, none)
	at(57*time.Second, false, none)
	// The last beat of another ends its lease; the own end is for good.
	published(false, proto.Beat{Node: "b", Incarnation: 2, Time: 400, Follows: true})
	at(58*time.Second, false, ends{2: 73 * time.Second})
	// One that was started in its place has a lease of its own.
	published(false, proto.Beat{Node: "b", Incarnation: 3, Time: 400, Follows: true})
	at(58*time.Second, false, ends{2: 73 * time.Second, 3: 74 * time.Second})
	published(false, proto.Beat{Node: "b", Incarnation: 2, Time: 401, Follows: true, Releases: true})
	at(59*time.Second, false, ends{3: 74 * time.Second})
	published(true, proto.Beat{Node: "a", Incarnation: 10, Time: 402, Follows: true})
	at(74*time.Second, false, ends{10: 75 * time.Second})
	sending(500, false, true)
	x.End()
	published(false, own(500))
	at(76*time.Second, false, none)
	sending(600, false, false)
}

// TestLeaseOfWhoIsLate: a node that applies its beats later than a lease lasts releases
// it, and has one again when it applies what it has sent since it was in time.
func TestLeaseOfWhoIsLate(t *testing.T) {
	now := time.Duration(0)
	x := engine.NewLeases("a", func() time.Duration { return now })
	second := func(s int, held bool, applied ...proto.Millis) {
		t.Helper()
		now = time.Duration(s) * time.Second
		for _, at := range applied {
			x.Published(1, proto.Beat{Node: "a", Incarnation: 1, Time: at})
		}
		for i := range proto.Millis(8) { // of an owner, with something due
			if i%2 == 0 {
				now += 250 * time.Millisecond
			}
			beat := proto.Millis(100*s) + i
			releases, ok := x.Sending(beat)
			// The first that is not applied was sent at 12.5.
			if late := now > 28500*time.Millisecond && now <= 40*time.Second; !ok || releases != late {
				t.Fatalf("%v: a beat may be sent %t and releases the lease %t", now, ok, releases)
			}
			x.Logged(beat)
		}
		if x.Held() != held {
			t.Errorf("second %d: the lease is held: %t", s, !held)
		}
	}
	for s := range 14 {
		second(s, s > 0, proto.Millis(100*(s-1)))
	}
	for s := 14; s < 40; s++ { // nothing is applied
		second(s, s < 27)
	}
	// Beats from before it released the lease give none, nor do those that released it.
	second(40, false, 2600, 2700, 2800, 3900)
	second(41, true, 4000)
}

// owners says who owns all lanes.
type owners struct {
	mu      sync.Mutex
	owner   string
	changed chan struct{}
}

func (o *owners) Owner(proto.LaneID) (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.owner, o.changed
}

func (*owners) SetReady(bool)                     {}
func (*owners) SetDraining(bool)                  {}
func (*owners) SetPlaced(map[proto.LaneID]string) {}
func (*owners) Nodes() []proto.NodeStatus         { return nil }

func (o *owners) set(owner string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owner = owner
	close(o.changed)
	o.changed = make(chan struct{})
}

// TestUpkeepIsTheOwners: it runs while the node owns the lane or nobody does,
// ends when another takes over, and begins again.
func TestUpkeepIsTheOwners(t *testing.T) {
	o := &owners{changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began, ended, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		engine.AsOwner(ctx, "a", o, func(ctx context.Context) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
		})
	}()
	<-began // nobody owns it
	o.set("a")
	o.set("b")
	<-ended
	o.set("c")
	o.set("a")
	<-began
	o.set("")
	cancel()
	<-ended
	<-over

	// What ends by itself does not begin again.
	times := 0
	engine.AsOwner(t.Context(), "a", &owners{owner: "a", changed: make(chan struct{})}, func(context.Context) { times++ })
	if times != 1 {
		t.Errorf("it ran %d times", times)
	}
}

// TestClusterMetrics: a node of a cluster tells which lanes are its to keep up
// and for which it may answer. One alone has no such question.
func TestClusterMetrics(t *testing.T) {
	alone := testNode(t, t.TempDir())
	told := gauges(t, alone)
	for _, name := range []string{"kith_lane_owned", "kith_lane_lease_held"} {
		if v, ok := told[name]; ok {
			t.Errorf("a node alone tells %s %v", name, v)
		}
	}
	if told["kith_log_healthy"] != 1 || told["kith_disk_reserve_bytes"] != 1<<20 || told["kith_disk_free_bytes"] < 1<<20 {
		t.Errorf("log and disk: %v", told)
	}
	if v, ok := told["kith_nats_connections_refused_total"]; !ok || v != 0 {
		t.Errorf("connections to NATS that were refused: %v", v)
	}
	if err := alone.Close(); err != nil {
		t.Error(err)
	}
	if told := gauges(t, alone); told["kith_log_healthy"] != 0 {
		t.Error("a log that is closed takes entries")
	}

	o := &owners{owner: "a", changed: make(chan struct{})}
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Node, c.Peers, c.Lanes, c.HashSecret = "a", o, 2, make([]byte, 16)
		c.Cluster = &log.Cluster{Name: "test", Listen: "127.0.0.1:0", Secret: "s"}
	})
	if told := gauges(t, n); told["kith_lane_owned"] != 2 || told["kith_lane_lease_held"] != 2 {
		t.Errorf("an owner of two lanes tells %v", told)
	}
	for _, owner := range []string{"b", ""} { // while none is known it does the upkeep, and says that it is not the owner
		o.set(owner)
		if told := gauges(t, n); told["kith_lane_owned"] != 0 || told["kith_lane_lease_held"] != 2 {
			t.Errorf("with the owner %q it tells %v", owner, told)
		}
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if told := gauges(t, n); told["kith_lane_lease_held"] != 0 {
		t.Errorf("one that has stopped tells %v", told)
	}
}

// losing is a context of which the first question has a node lose its leases: the
// answer is begun by then, and not yet made.
type losing struct {
	context.Context
	lose func()
}

func (x losing) Done() <-chan struct{} { x.lose(); return x.Context.Done() }

func (x losing) Err() error { x.lose(); return x.Context.Err() }

// TestLeaseEndsMeanwhile: what takes long to answer is not told where the node may not
// answer any more once the answer is made.
func TestLeaseEndsMeanwhile(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Node, c.Peers, c.Lanes, c.HashSecret = "a", &owners{owner: "a", changed: make(chan struct{})}, 2, make([]byte, 16)
		c.Cluster = &log.Cluster{Name: "test", Listen: "127.0.0.1:0", Secret: "s"}
	})
	defer closeNode(t, n)
	c := acme(t, n)
	nobody, _ := grouped(t, n, "nobody")
	spec := proto.SegmentSpec{ID: "all", Scope: "identity", When: "count(true) >= 1"}
	define(t, n, "all", spec.When)
	submitAll(t, n, c, crowdOf(60, "v", "impression", "a", ago(1, 1)))
	until(t, n, 20*time.Second, "filling", func() bool { s, _ := n.Segment(c, "all"); return *s.Filled })
	told := &bytes.Buffer{}
	asks := map[string]func(ctx context.Context) error{
		"client export": func(ctx context.Context) error { told.Reset(); return n.ExportClient(ctx, c, told) },
		"campaign report": func(ctx context.Context) error {
			_, err := n.CampaignReport(ctx, c, span(proto.CampaignRequest{}), 50)
			return err
		},
		"aggregates": func(ctx context.Context) error {
			_ = ctx.Err()
			today := proto.DayOf(time.Now())
			_, err := n.Aggregates(ctx, c, "event", today, today, 0)
			return err
		},
		"sizes": func(ctx context.Context) error {
			_ = ctx.Err()
			today := proto.DayOf(time.Now())
			_, err := n.Sizes(c, "all", today, today)
			return err
		},
		"explanation of the past": func(ctx context.Context) error {
			_ = ctx.Err()
			_, err := n.Explain(ctx, c, "browser:v1", "all", time.Now().Add(-time.Hour))
			return err
		},
		"leakage": func(ctx context.Context) error { _, err := n.Leakage(ctx, c, 9, 1); return err },
		"preview": func(ctx context.Context) error { _, err := n.Preview(ctx, nobody, spec); return err }, // each identity that it reads is checked anyway
		"report":  func(ctx context.Context) error { _, err := n.Report(ctx, c, "all", "", 50); return err },
		"audience": func(ctx context.Context) error {
			a, err := n.OpenAudience(ctx, c, &proto.ExportRequest{Expr: "all"})
			if err == nil {
				a.Names.Close()
			}
			return err
		},
	}
	for name, ask := range asks {
		var back func()
		lose := sync.OnceFunc(func() { back = n.LoseLeases() })
		err := ask(losing{t.Context(), lose})
		if proto.CodeOf(err) != proto.CodeUnavailable || strings.Contains(told.String(), "browser:") {
			t.Errorf("%s: %v, told %.200s", name, err, told)
		}
		if back == nil {
			t.Fatalf("%s: the leases were not lost", name)
		}
		back()
		if err := ask(t.Context()); err != nil {
			t.Errorf("%s, with leases again: %v", name, err)
		}
		told.Reset()
	}
}

// TestUserOfARootThatMayNotAnswer: who is of nobody's user any more, by what is read of
// a lane that the node may not answer for, is not told to be alone.
func TestUserOfARootThatMayNotAnswer(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Node, c.Peers, c.Lanes, c.HashSecret = "a", &owners{owner: "a", changed: make(chan struct{})}, 2, make([]byte, 16)
		c.Cluster = &log.Cluster{Name: "test", Listen: "127.0.0.1:0", Secret: "s"}
	})
	defer closeNode(t, n)
	c := acme(t, n)
	root, member := proto.Identity("browser:v0"), proto.Identity("")
	for i := 1; member == "" || n.LaneOf(member) == n.LaneOf(root); i++ {
		member = proto.Identity(fmt.Sprint("browser:v", i))
	}
	link(t, n, c, root, member, yes())
	settle(t, n)
	u, err := n.User(t.Context(), c, member)
	if err != nil || len(u.Members) != 2 {
		t.Fatalf("%+v, %v", u, err)
	}
	if u.Root == member {
		root, member = member, root
	}
	release := n.HoldBack(n.LaneOf(member)) // it does not hear that its root is gone
	defer release()
	n.SubmitOptOut(t, root)
	until(t, n, 20*time.Second, "the opt-out of the root", func() bool {
		u, err = n.User(t.Context(), c, member)
		return err == nil && len(u.Members) == 1
	})
	defer n.LoseLeases(n.LaneOf(root))()
	if u, err := n.User(t.Context(), c, member); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("%+v, %v", u, err)
	}
}

// notedIn are the numbers in a file of incarnations.
func notedIn(t *testing.T, file string) []uint64 {
	t.Helper()
	var x struct{ Beats []uint64 }
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &x)
	}
	if err != nil {
		t.Fatal(err)
	}
	return x.Beats
}

// TestIncarnations: a process of a cluster's node knows by which numbers those
// before it in its directory beat, and does without where that cannot be read.
func TestIncarnations(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "INCARNATIONS")
	noted := func() (list []uint64) {
		t.Helper()
		n := testNode(t, dir, func(c *engine.Config) {
			c.Node, c.Peers, c.Lanes, c.HashSecret = "a", &owners{owner: "a", changed: make(chan struct{})}, 2, make([]byte, 16)
			c.Cluster = &log.Cluster{Name: "test", Listen: "127.0.0.1:0", Secret: "s"}
		})
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		return notedIn(t, file)
	}
	first := noted()
	second := noted()
	if len(first) != 2 || len(second) != 4 || !slices.Equal(second[:2], first) {
		t.Errorf("first %v is noted, then %v", first, second)
	}
	// A copy of another node's directory, or of one on another machine, says nothing
	// of whether those live.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for field, other := range map[string]string{`"node":"a"`: `"node":"b"`, `"boot":"`: `"boot":"x`, `"store":`: `"store":1`} {
		if err := os.WriteFile(file, bytes.Replace(text, []byte(field), []byte(other), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if list := noted(); len(list) != 2 {
			t.Errorf("with %s %v is noted", other, list)
		}
	}
	for _, spoil := range []string{"[1,", ""} {
		if err := os.WriteFile(file, []byte(spoil), 0o600); err != nil {
			t.Fatal(err)
		}
		if list := noted(); len(list) != 2 {
			t.Errorf("after %q in its place %v is noted", spoil, list)
		}
	}
}

// gauges are a node's gauges and counters, those of lanes summed.
func gauges(t *testing.T, n *engine.Node) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if g := m.GetGauge(); g != nil {
				sums[f.GetName()] += g.GetValue()
			}
			if c := m.GetCounter(); c != nil {
				sums[f.GetName()] += c.GetValue()
			}
		}
	}
	return sums
}

// A stream that does not say how it is kept is not left out of the gauge by which the
// next node may be stopped, and does not look whole there.
func TestStreamsWithoutALeaderLackCopies(t *testing.T) {
	whole := []proto.StreamCopy{{Node: "b", Current: true}, {Node: "c", Current: true}}
	silent := []proto.StreamStatus{{Stream: "KITH_L00"}, {Stream: "KITH_OUT_SEGMENTS_7"}, {Stream: "KITH_AUDIT"}}
	got := engine.WatchStreams(
		[]proto.StreamStatus{{Stream: "KITH_L00", Leader: "a", Others: whole}, {Stream: "KITH_OUT_SEGMENTS_7", Leader: "a", Missing: 2}, {Stream: "KITH_AUDIT"}},
		silent, silent,
		[]proto.StreamStatus{{Stream: "KITH_L00", Leader: "a", Others: whole}},
	)
	unknown := map[string]int{"KITH_L00": 1, "KITH_OUT_SEGMENTS_7": 2, "KITH_AUDIT": 1}
	want := []map[string]int{{"KITH_L00": 0, "KITH_OUT_SEGMENTS_7": 2, "KITH_AUDIT": 1}, unknown, unknown, {"KITH_L00": 0}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Stores of a cluster's nodes would go on with a log from different places.
func TestNoRebaseInCluster(t *testing.T) {
	c := engine.Config{Dir: t.TempDir(), Peers: &owners{}, Cluster: &log.Cluster{Name: "x"}, HashSecret: make([]byte, 16)}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	c.RebaseLog = true
	if err := c.Validate(); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), "store directory") {
		t.Errorf("a cluster's node may rebase its log: %v", err)
	}
}

// TestOneNodeALog: a node without a cluster has the log that nats.url names for itself.
// Another one does not start; if it did while this one stood still, this one gives way.
func TestOneNodeALog(t *testing.T) {
	url := startNATS(t)
	config := func(name string) engine.Config {
		return engine.Config{
			Dir: t.TempDir(), Node: name, LogBytesMax: 64 << 20, NATSURL: url, HashSecret: bytes.Repeat([]byte{7}, 16),
			Boot: []engine.BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}}, Logger: slog.New(slog.DiscardHandler),
		}
	}
	n, err := engine.Open(t.Context(), config("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeNode(t, n)
	submit(t, n, page(acme(t, n), "v", "news", time.Now()))
	if _, err := engine.Open(t.Context(), config("b")); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("another node on the same log: %v", err)
	}
	if segmentsOf(t, n, "v"); n.Ready() != nil {
		t.Errorf("the first one is not ready: %v", n.Ready())
	}

	beat := proto.Beat{Node: "c", Incarnation: 12345, Time: proto.MillisOf(time.Now())}
	e := &proto.Entry{Producer: beat.Incarnation, Seq: 1, Time: beat.Time, Count: 1}
	e.Commands = proto.AppendCommand(nil, proto.CommandBeat, proto.LanePartition, beat.Append(nil))
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if m, err := nc.Request("kith.log.00", raw, 5*time.Second); err != nil || bytes.Contains(m.Data, []byte("error")) {
		t.Fatalf("the other's beat: %s, %v", m.Data, err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, _, err := n.Lookup(acme(t, n), "browser:v", proto.MillisOf(time.Now()), nil)
		if proto.CodeOf(err) == proto.CodeUnavailable && n.Ready() != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it answers (%v) and is ready (%v) beside another one", err, n.Ready())
		}
	}
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(acme(t, n), "w", "news", time.Now()))
	if r := n.Submit(t.Context(), &b); proto.CodeOf(r.Err) != proto.CodeUnavailable {
		t.Errorf("it takes events: %+v", r)
	}
}

// While the log elects a leader a node of a cluster is ready: it answers queries, and no
// other would do better. It is not shortly before its lease ends, nor where no election helps.
func TestReadyDuringElections(t *testing.T) {
	fails, full := proto.Errorf(proto.CodeUnavailable, "the newest append failed"), proto.Errorf(proto.CodeDiskFull, "full")
	for name, x := range map[string]struct {
		peers engine.Peers
		left  []time.Duration
		err   error
		want  bool
	}{
		"electing":          {&owners{}, []time.Duration{14 * time.Second, 5 * time.Second}, fails, true},
		"one lane parted":   {&owners{}, []time.Duration{14 * time.Second, 3 * time.Second}, fails, false},
		"without a lease":   {&owners{}, []time.Duration{-time.Second}, fails, false},
		"with a full disk":  {&owners{}, []time.Duration{14 * time.Second}, full, false},
		"without a cluster": {nil, []time.Duration{14 * time.Second}, fails, false},
	} {
		if got := engine.Outlasts(x.peers, x.left, x.err); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
