package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kith/internal/config"
	"kith/internal/porttest"
	"kith/proto"
)

// trio is a cluster of three nodes, each in a process of its own.
type trio struct {
	args          [3][]string // with which each is started in its data directory, with --dev
	commands      [3][]string // what starts each instead, if there is one
	data          [3]string
	client, admin string // keys
	nodes         [3]*graphNode
}

func startTrio(t *testing.T, lanes int) *trio {
	t.Helper()
	return startTrioAt(t, "127.0.0.1", lanes)
}

// startTrioAt is startTrio by a host of loopback, with further arguments.
func startTrioAt(t *testing.T, host string, lanes int, args ...string) *trio {
	t.Helper()
	x := newTrioAt(t, host, lanes, args...)
	x.start(t)
	return x
}

// newTrio is one that does not run yet.
func newTrio(t *testing.T, lanes int) *trio {
	t.Helper()
	return newTrioAt(t, "127.0.0.1", lanes)
}

func newTrioAt(t *testing.T, host string, lanes int, args ...string) *trio {
	t.Helper()
	x := &trio{client: config.DevKey, admin: config.DevAdminKey}
	var join []string
	for range x.nodes {
		addr := porttest.Free(t)
		join = append(join, strings.Replace(addr, "127.0.0.1", host, 1))
	}
	for i := range x.nodes {
		x.data[i] = t.TempDir() + "/data"
		x.args[i] = append([]string{"--name", nodeName(i), "--cluster", join[i], "--join", strings.Join(join, ","), "--lanes", strconv.Itoa(lanes)}, args...)
	}
	return x
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

func (x *trio) start(t *testing.T) {
	t.Helper()
	var list [3]*process
	for i := range list { // none gets ready alone
		list[i] = x.launch(t, i)
	}
	for i, p := range list {
		p.await(t)
		x.nodes[i] = x.speakTo(t, p)
	}
}

func (x *trio) launch(t *testing.T, i int) *process {
	t.Helper()
	if x.commands[i] != nil {
		return launchCommand(t, x.commands[i])
	}
	return launchProcess(t, x.data[i], x.args[i]...)
}

func (x *trio) speakTo(t *testing.T, p *process) *graphNode {
	n := speakTo(t, p)
	n.client.key, n.admin.key = x.client, x.admin
	return n
}

// defineSeen makes the demo client's segment of whoever has an event.
func (x *trio) defineSeen(t *testing.T) {
	t.Helper()
	rule := map[string]any{"scope": "identity", "when": `count(true, "30d") >= 1`}
	if err := x.nodes[0].call(t.Context(), http.MethodPut, "/v1/segments/seen", "demo-key", rule, nil); err != nil {
		t.Fatal(err)
	}
}

// restart starts a node again that was ended, and waits until it answers.
func (x *trio) restart(t *testing.T, i int) {
	t.Helper()
	p := x.launch(t, i)
	p.await(t)
	x.nodes[i] = x.speakTo(t, p)
}

// agree waits until all nodes have applied as much of all lanes, and compares
// what they came to.
func (x *trio) agree(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var seen []string
		for _, n := range x.nodes {
			var out struct{ Lanes []proto.LaneStatus }
			if err := n.admin.call(t.Context(), http.MethodGet, "/v1/partitions", nil, nil, &out); err != nil {
				t.Fatal(err)
			}
			var s []string
			for _, l := range out.Lanes {
				if l.Quarantined != "" {
					t.Fatal(l.Quarantined)
				}
				s = append(s, fmt.Sprintf("%d:%d:%s", l.Lane, l.Applied, l.Chain))
			}
			seen = append(seen, strings.Join(s, " "))
		}
		if seen[0] == seen[1] && seen[1] == seen[2] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the nodes differ:\n%s", strings.Join(seen, "\n"))
		}
		time.Sleep(50 * time.Millisecond) // lanes go on beating: they are to be met at one moment
	}
}

// TestClusterAnswersAsOne: what one node acknowledged all others show, and what
// is opted out at one none shows any more.
func TestClusterAnswersAsOne(t *testing.T) {
	x := startTrio(t, 2)
	ctx := t.Context()
	rule := map[string]any{"scope": "identity", "when": `count(event.name == "buy", "30d") >= 1`}
	if err := x.nodes[0].call(ctx, http.MethodPut, "/v1/segments/buyers", "demo-key", rule, nil); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 60 {
		ids = append(ids, fmt.Sprintf("browser:c%d", i))
	}
	for i, n := range x.nodes {
		var events []graphEvent
		for _, id := range ids[20*i : 20*i+20] {
			events = append(events, graphEvent{Event: "buy", Identities: []string{id, "account:a" + id[9:]}})
		}
		position, err := n.take(ctx, events)
		if err != nil {
			t.Fatal(err)
		}
		for j, other := range x.nodes {
			if err := other.reach(ctx, position); err != nil {
				t.Fatal(err)
			}
			list, err := other.lookup(ctx, ids[20*i:20*i+20])
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list {
				if !slices.Contains(r.Segments, "buyers") {
					t.Fatalf("node %d does not show at %s what node %d acknowledged: %+v", j+1, position, i+1, r)
				}
			}
		}
	}
	raw, err := x.nodes[2].user(ctx, ids[0])
	if err != nil || !strings.Contains(string(raw), "account:a0") {
		t.Errorf("node 3 shows the user %s, %v", raw, err)
	}
	for i, n := range x.nodes { // each at first waits for leases from before it started
		_, err := n.optOut(ctx, fmt.Sprintf("browser:w%d", i), false)
		for end := time.Now().Add(30 * time.Second); proto.CodeOf(err) == proto.CodeUnavailable && time.Now().Before(end); {
			_, err = n.optOut(ctx, fmt.Sprintf("browser:w%d", i), false) // its audit log may still elect a leader
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.finalOptOut(ctx, fmt.Sprintf("browser:w%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	inParallel(t, 12, ids, func(ctx context.Context, i int, id string) error {
		s, err := x.nodes[i%3].optOut(ctx, id, i%2 == 0)
		if err == nil && !s.Final {
			s, err = x.nodes[i%3].finalOptOut(ctx, id)
		}
		if err != nil {
			return err
		}
		for j, other := range x.nodes {
			list, err := other.lookup(ctx, []string{id})
			if err != nil || !list[0].OptedOut || len(list[0].Segments) > 0 {
				return fmt.Errorf("opted out at node %d and final, node %d shows %+v, %w", i%3+1, j+1, list, err)
			}
		}
		return nil
	})
	x.agree(t)
	var status struct{ Nodes []proto.NodeStatus }
	if err := x.nodes[1].admin.call(ctx, http.MethodGet, "/v1/cluster", nil, nil, &status); err != nil {
		t.Fatal(err)
	}
	owned := 0
	for _, n := range status.Nodes {
		owned += len(n.Owns)
		if !n.Ready || len(n.Lanes) != 2 {
			t.Errorf("node %s is %+v", n.Name, n)
		}
	}
	if len(status.Nodes) != 3 || owned != 2 {
		t.Errorf("%d nodes own %d lanes: %+v", len(status.Nodes), owned, status)
	}
	owners := map[string]int{}
	for i, n := range x.nodes {
		told := metricLines(t, n.service)
		for _, want := range []string{
			"kith_cluster_members 3", "kith_cluster_members_ready 3", "kith_cluster_members_expected 3", "kith_log_healthy 1",
			`kith_lane_lease_held{lane="00"} 1`, `kith_lane_lease_held{lane="01"} 1`,
		} {
			if !slices.Contains(told, want) {
				t.Errorf("node %d does not tell %s", i+1, want)
			}
		}
		for _, lane := range []string{"00", "01"} {
			if slices.Contains(told, fmt.Sprintf("kith_lane_owned{lane=%q} 1", lane)) {
				owners[lane]++
			}
		}
	}
	if owners["00"] != 1 || owners["01"] != 1 {
		t.Errorf("by the metrics lanes have %v owners", owners)
	}
}

// TestClusterNodeStopsWhileItWaits: one that looks for the others in vain goes when
// it is asked to, without being killed.
func TestClusterNodeStopsWhileItWaits(t *testing.T) {
	x := newTrio(t, 1)
	p := launchProcess(t, x.data[0], x.args[0]...)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(p.log.String(), "waiting for the cluster's other NATS servers"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it waits for nobody")
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(20 * time.Second):
		t.Error("it does not stop")
	}
}

// longCluster skips what make test-cluster runs. These tests run beside one another:
// they wait most of the time.
func longCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("KITH_CLUSTER") == "" {
		t.Skip("waits for elections and leases: KITH_CLUSTER=1, as in make test-cluster")
	}
	t.Parallel()
}

// TestClusterOutlivesItsNodes: nodes are killed one after the other and come
// back; nothing that was acknowledged is lost, and whoever asks the others is
// answered all the time.
func TestClusterOutlivesItsNodes(t *testing.T) {
	longCluster(t)
	x := startTrio(t, 2)
	ctx := t.Context()
	x.defineSeen(t)
	var acked []string
	var mu sync.Mutex
	for round := range 3 {
		gone := round
		left := []*graphNode{x.nodes[(gone+1)%3], x.nodes[(gone+2)%3]}
		stop := make(chan struct{})
		var load sync.WaitGroup
		var asked, refused atomic.Int64
		for k, n := range left {
			load.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					id := fmt.Sprintf("browser:r%d-%d-%d", round, k, i)
					err := n.patiently(ctx, func() error {
						_, err := n.take(ctx, []graphEvent{{Event: "visit", ID: id, Identities: []string{id}}})
						return err
					})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acked = append(acked, id)
					mu.Unlock()
				}
			})
			load.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
					}
					asked.Add(1)
					if _, err := n.lookup(ctx, []string{"browser:x"}); err != nil {
						refused.Add(1)
						t.Errorf("round %d: a look-up at a node that runs: %v", round, err)
					}
				}
			})
		}
		time.Sleep(300 * time.Millisecond)
		x.nodes[gone].kill()
		time.Sleep(3 * time.Second)
		x.restart(t, gone)
		close(stop)
		load.Wait()
		t.Logf("round %d: %d look-ups, %d refused; %d events acknowledged so far", round, asked.Load(), refused.Load(), len(acked))
	}
	x.agree(t)
	for i, n := range x.nodes {
		list, err := n.lookup(ctx, acked)
		if err != nil {
			t.Fatal(err)
		}
		lost := 0
		for _, r := range list {
			if !slices.Contains(r.Segments, "seen") {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("node %d lacks %d of %d acknowledged events", i+1, lost, len(acked))
		}
	}
}

// TestClusterReplacesANode: one that lost its disk comes back with an empty one,
// under its name, and holds what the others hold.
func TestClusterReplacesANode(t *testing.T) {
	longCluster(t)
	x := startTrio(t, 2)
	ctx := t.Context()
	x.defineSeen(t)
	var ids []string
	position := ""
	post := func(n *graphNode, from, to int) {
		var events []graphEvent
		for i := from; i < to; i++ {
			ids = append(ids, fmt.Sprintf("browser:d%d", i))
			events = append(events, graphEvent{Event: "visit", ID: ids[i], Identities: []string{ids[i], "account:" + ids[i][8:]}})
		}
		if err := n.patiently(ctx, func() (err error) {
			position, err = n.take(ctx, events)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	post(x.nodes[0], 0, 100)
	x.nodes[2].kill()
	if err := os.RemoveAll(x.data[2]); err != nil {
		t.Fatal(err)
	}
	post(x.nodes[1], 100, 200)
	x.restart(t, 2)
	post(x.nodes[2], 200, 300)
	for _, n := range x.nodes {
		if err := n.reach(ctx, position); err != nil {
			t.Fatal(err)
		}
	}
	x.agree(t)
	for i, n := range x.nodes {
		list, err := n.lookup(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if !slices.Contains(r.Segments, "seen") {
				t.Fatalf("node %d shows %+v", i+1, r)
			}
		}
	}
}

// TestPausedNodeAnswersNothingStale: a node that stood still while an opt-out
// became final shows the identity at no time afterwards.
func TestPausedNodeAnswersNothingStale(t *testing.T) {
	longCluster(t)
	x := startTrio(t, 1)
	ctx := t.Context()
	x.defineSeen(t)
	position, err := x.nodes[0].take(ctx, []graphEvent{{Event: "visit", Identities: []string{"browser:p1", "account:p1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range x.nodes {
		if err := n.reach(ctx, position); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := x.nodes[1].lookup(ctx, []string{"browser:p1"}); err != nil || len(list[0].Segments) == 0 {
		t.Fatalf("%+v, %v", list, err)
	}
	paused := x.nodes[1]
	if err := paused.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := x.nodes[0].patiently(ctx, func() error { // the log may have to elect a leader first
		_, err := x.nodes[0].optOut(ctx, "browser:p1", false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// A question about a person is not answered while the audit log has no leader.
	if err := x.nodes[0].patiently(ctx, func() error {
		_, err := x.nodes[0].finalOptOut(ctx, "browser:p1")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("final after %v", took)
	if took < 12*time.Second { // its last beat was at most two seconds old, and came within one
		t.Error("the opt-out was final while a node with a lease had not heard of it")
	}
	asking, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var answered atomic.Bool
	var ask sync.WaitGroup
	for range 8 { // their questions wait in its socket until it wakes
		ask.Go(func() {
			for asking.Err() == nil && !answered.Load() {
				list, err := paused.lookup(asking, []string{"browser:p1"})
				if err != nil {
					continue // it says that it must catch up first
				}
				if !list[0].OptedOut || len(list[0].Segments) > 0 {
					t.Errorf("the node that stood still shows %+v", list[0])
				}
				answered.Store(true)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	if err := paused.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ask.Wait()
	if !answered.Load() {
		t.Error("the node that stood still did not come back within a minute")
	}
	t.Logf("questions passed on to others, by whether they answered: %v", paused.metrics(t, "kith_gateway_passed_on_total", "answered"))
	x.agree(t)
}
