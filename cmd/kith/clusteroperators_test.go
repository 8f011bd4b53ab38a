package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kith/internal/porttest"
	"kith/proto"
)

// status is what `kith cluster status` asks a node for.
func (n *graphNode) status(t *testing.T) proto.ClusterStatus {
	t.Helper()
	var s proto.ClusterStatus
	if err := n.admin.call(t.Context(), http.MethodGet, "/v1/cluster", nil, nil, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitStatus waits until a node sees the cluster in some state.
func (n *graphNode) awaitStatus(t *testing.T, within time.Duration, what string, is func(proto.ClusterStatus) bool) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		s := n.status(t)
		if is(s) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %+v", what, within, s)
		}
	}
}

// allReady waits until each node sees all three answer.
func (x *trio) allReady(t *testing.T) {
	t.Helper()
	for _, n := range x.nodes {
		n.awaitStatus(t, 20*time.Second, "all are ready", func(s proto.ClusterStatus) bool {
			return len(s.Nodes) == 3 && !slices.ContainsFunc(s.Nodes, func(n proto.NodeStatus) bool { return !n.Ready })
		})
	}
}

// owners gives the node that owns each lane.
func owners(s proto.ClusterStatus) map[int]string {
	of := map[int]string{}
	for _, n := range s.Nodes {
		for _, l := range n.Owns {
			of[l] = n.Name
		}
	}
	return of
}

// operate runs a command of kith cluster at a node.
func (n *graphNode) operate(t *testing.T, args ...string) error {
	t.Helper()
	return runKith(t, append([]string{"cluster"}, append(args, "--service", n.service, "--key", "dev-admin-key")...)...)
}

// runKith runs a command of kith.
func runKith(t *testing.T, args ...string) error {
	t.Helper()
	var out strings.Builder
	if code := run(t.Context(), args, nil, &out, &out, func(string) string { return "" }); code != 0 {
		return fmt.Errorf("%s: exit code %d: %s", strings.Join(args, " "), code, out.String())
	}
	t.Logf("%s: %s", strings.Join(args, " "), out.String())
	return nil
}

func (n *graphNode) ready(t *testing.T) bool {
	t.Helper()
	resp, err := http.Get("http://" + strings.TrimPrefix(n.service, "http://") + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop ends a node as an operator does, and waits for that.
func (n *graphNode) stop(t *testing.T) {
	t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-n.exited
}

// TestClusterOperators: nodes are drained, lanes moved by hand, a node that is gone is
// forgotten and a new one takes its place; queries are answered all the time.
func TestClusterOperators(t *testing.T) {
	longCluster(t)
	x := startTrio(t, operatorLanes)
	x.defineSeen(t)
	var ids []string
	for i := range 50 {
		ids = append(ids, fmt.Sprintf("browser:o%d", i))
		if _, err := x.nodes[i%3].take(t.Context(), []graphEvent{{Event: "page", Identities: ids[i:]}}); err != nil {
			t.Fatal(err)
		}
	}
	x.allReady(t)
	if err := x.nodes[0].operate(t, "status"); err != nil {
		t.Error(err)
	}
	x.moves(t)
	x.drains(t, ids)
	x.replaces(t, ids)
}

const operatorLanes = 4

// ownsNone tells whether a node owns no lane, and others all.
func ownsNone(name string) func(proto.ClusterStatus) bool {
	return func(s proto.ClusterStatus) bool {
		of := owners(s)
		for _, owner := range of {
			if owner == name {
				return false
			}
		}
		return len(of) == operatorLanes
	}
}

// moves has each node in turn own a lane.
func (x *trio) moves(t *testing.T) {
	t.Helper()
	before := owners(x.nodes[0].status(t))
	for i := range x.nodes {
		if err := x.nodes[i].operate(t, "move", "2", fmt.Sprintf("n%d", i+1)); err != nil {
			t.Fatal(err)
		}
		for _, n := range x.nodes {
			n.awaitStatus(t, 10*time.Second, "lane 2 is moved", func(s proto.ClusterStatus) bool {
				return owners(s)[2] == fmt.Sprintf("n%d", i+1) && s.Placed[2] == fmt.Sprintf("n%d", i+1)
			})
		}
	}
	if err := x.nodes[0].operate(t, "move", "2", "--back"); err != nil {
		t.Fatal(err)
	}
	x.nodes[1].awaitStatus(t, 10*time.Second, "lane 2 is back", func(s proto.ClusterStatus) bool { return owners(s)[2] == before[2] })
	for _, wrong := range [][]string{{"move", "4", "n1"}, {"move", "0", "n9"}, {"move", "x", "n1"}, {"drain", "n9"}, {"forget", "n1"}, {"forget", "../x"}} {
		if err := x.nodes[0].operate(t, wrong...); err == nil {
			t.Errorf("%v is taken", wrong)
		}
	}
}

// drains drains nodes, one of which is restarted meanwhile, but not the last.
func (x *trio) drains(t *testing.T, ids []string) {
	t.Helper()
	ctx := t.Context()
	if err := x.nodes[0].operate(t, "drain", "n2"); err != nil {
		t.Fatal(err)
	}
	for _, n := range x.nodes {
		n.awaitStatus(t, 10*time.Second, "n2 owns nothing", ownsNone("n2"))
	}
	if x.nodes[1].ready(t) || !x.nodes[0].ready(t) {
		t.Error("the node that drains is ready, or another is not")
	}
	if seen, err := x.nodes[1].lookup(ctx, ids); err != nil || !slices.Equal(seen[7].Segments, []string{"seen"}) {
		t.Errorf("a node that drains answers %+v, %v", seen, err)
	}
	x.nodes[1].stop(t)
	x.restart(t, 1)
	x.nodes[1].awaitStatus(t, 20*time.Second, "n2 drains after a restart too", func(s proto.ClusterStatus) bool {
		return len(s.Nodes) == 3 && s.Nodes[1].Draining && len(s.Nodes[1].Lanes) == operatorLanes && ownsNone("n2")(s)
	})
	if err := x.nodes[2].operate(t, "drain", "n1"); err != nil {
		t.Error(err)
	}
	if err := x.nodes[2].operate(t, "drain", "n3"); err == nil {
		t.Error("the last node drains")
	}
	for _, node := range []string{"n1", "n2"} {
		if err := x.nodes[1].operate(t, "drain", node, "--undo"); err != nil {
			t.Error(err)
		}
	}
	x.nodes[2].awaitStatus(t, 10*time.Second, "nobody drains", func(s proto.ClusterStatus) bool {
		return !slices.ContainsFunc(s.Nodes, func(n proto.NodeStatus) bool { return n.Draining || !n.Ready })
	})
}

// awaitLacking waits until a node tells that each stream of the log lacks so many
// copies.
func (n *graphNode) awaitLacking(t *testing.T, each int) {
	t.Helper()
	var told []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		told = slices.DeleteFunc(metricLines(t, n.service), func(line string) bool { return !strings.HasPrefix(line, "kith_log_copies_missing{") })
		other := func(line string) bool { return !strings.HasSuffix(line, fmt.Sprintf(" %d", each)) }
		if len(told) > operatorLanes && !slices.ContainsFunc(told, other) {
			return
		}
	}
	t.Fatalf("not each stream lacks %d copies: %v", each, told)
}

// replaces has a new node take the place of one that is gone for good.
func (x *trio) replaces(t *testing.T, ids []string) {
	t.Helper()
	x.nodes[2].stop(t)
	x.nodes[0].awaitStatus(t, 20*time.Second, "n3 is gone", func(s proto.ClusterStatus) bool { return len(s.Nodes) == 2 })
	if err := x.nodes[0].operate(t, "forget", "n3"); err != nil {
		t.Fatal(err)
	}
	x.nodes[0].awaitLacking(t, 1) // KithLogCopiesMissing
	x.data[2] = t.TempDir() + "/data"
	join := x.args[0][3] // n1's address
	addr := porttest.Free(t)
	x.args[2] = []string{"--name", "n4", "--cluster", addr, "--join", join, "--lanes", fmt.Sprint(operatorLanes)}
	x.restart(t, 2)
	x.nodes[0].awaitStatus(t, time.Minute, "n4 keeps what n3 kept", func(s proto.ClusterStatus) bool {
		kept := 0
		for _, l := range s.Log {
			if l.Leader == "n4" || slices.ContainsFunc(l.Others, func(c proto.StreamCopy) bool { return c.Node == "n4" && c.Current }) {
				kept++
			}
			if slices.ContainsFunc(l.Others, func(c proto.StreamCopy) bool { return c.Node == "n3" }) {
				return false
			}
		}
		return len(s.Nodes) == 3 && kept == len(s.Log)
	})
	x.nodes[0].awaitLacking(t, 0)
	x.agree(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if seen, err := x.nodes[2].lookup(ctx, ids); err != nil || slices.ContainsFunc(seen, func(r lookupResult) bool { return !slices.Equal(r.Segments, []string{"seen"}) }) {
		t.Errorf("the new node answers %+v, %v", seen, err)
	}
	// The log is kept by three again: one may go.
	x.nodes[1].kill()
	err := x.nodes[2].patiently(ctx, func() error {
		_, err := x.nodes[2].take(ctx, []graphEvent{{Event: "page", Identities: []string{"browser:late"}}})
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// configure gives the nodes configurations with a secret and keys of files, and
// returns these. While keys are being changed, nodes use different ones.
func (x *trio) configure(t *testing.T) (files [3]string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	secret, a, b := write("secret", strings.Repeat("5a", 16)), write("a", strings.Repeat("aa", 32)), write("b", strings.Repeat("bb", 32))
	for i := range x.nodes {
		keys := []string{a, b}
		if i == 1 {
			keys = []string{b, a}
		}
		text := fmt.Sprintf("stop_wait: 2s\nsecret_file: %q\nlanes: %s\nnode: %s\ncluster:\n  listen: %q\n  join: [%s]\n  key_files: [%q, %q]\n",
			secret, x.args[i][7], x.args[i][1], x.args[i][3], x.args[i][5], keys[0], keys[1])
		files[i] = write(fmt.Sprintf("kith%d.yaml", i), text)
		x.args[i] = []string{"--config", files[i]}
	}
	return files
}

// TestClusterFromBackup: a backup of one node, with a newer ledger, makes a new
// cluster, in which whoever opted out later is not known, and which goes on.
func TestClusterFromBackup(t *testing.T) {
	longCluster(t)
	ctx := t.Context()
	old := newTrio(t, 2)
	old.configure(t)
	old.start(t)
	rule := map[string]any{"scope": "user", "when": `count(event.name == "buy", "30d") >= 1`}
	if err := old.nodes[0].call(ctx, http.MethodPut, "/v1/segments/buyers", "demo-key", rule, nil); err != nil {
		t.Fatal(err)
	}
	const count = 80
	var ids []string
	for i := range count {
		ids = append(ids, fmt.Sprintf("browser:b%d", i))
		pair := []string{ids[i], fmt.Sprintf("account:b%d", i/2)}
		position, err := old.nodes[i%3].take(ctx, []graphEvent{{Event: "buy", Identities: pair}})
		if err == nil {
			err = old.nodes[1].reach(ctx, position) // whose backup it is
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	backups, ledger := t.TempDir(), filepath.Join(t.TempDir(), "ledger")
	at := []string{"--service", old.nodes[1].service, "--key", "dev-admin-key"}
	if err := runKith(t, append([]string{"backup", backups}, at...)...); err != nil {
		t.Fatal(err)
	}
	if _, err := old.nodes[2].optOut(ctx, ids[7], false); err != nil {
		t.Fatal(err)
	}
	if _, err := old.nodes[0].finalOptOut(ctx, ids[7]); err != nil {
		t.Fatal(err)
	}
	if err := runKith(t, append([]string{"optouts", "export", ledger}, at...)...); err != nil {
		t.Fatal(err)
	}
	for _, n := range old.nodes {
		n.stop(t)
	}

	// No node alone has all that was acknowledged.
	if err := runKith(t, "restore", backups, "--ledger", old.data[1], "--data", t.TempDir()+"/data"); err == nil || !strings.Contains(err.Error(), "of a cluster") {
		t.Errorf("restored by the ledger of one node of a cluster: %v", err)
	}

	// With as many lanes, and with more.
	for _, lanes := range []int{2, 3} {
		t.Run(fmt.Sprintf("lanes=%d", lanes), func(t *testing.T) {
			clusterFromBackup(t, lanes, backups, ledger, ids)
		})
	}
	t.Run("a node alone", func(t *testing.T) { nodeFromBackup(t, backups, ledger, ids) })
}

// buyersOf sees that a node shows ids as buyers, in pairs, but for the eighth, which is out.
func (n *graphNode) buyersOf(t *testing.T, what string, ids []string) {
	t.Helper()
	seen, err := n.lookup(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for k, r := range seen {
		if k == 7 && (r.Known || !r.OptedOut || len(r.Segments) > 0) || k != 7 && !slices.Equal(r.Segments, []string{"buyers"}) {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if users, err := n.count(t.Context(), "buyers", "users"); err != nil || users != uint64(len(ids)/2) {
		t.Errorf("%s: %d users, want %d, %v", what, users, len(ids)/2, err)
	}
}

// nodeFromBackup makes a node alone, of one lane, of a cluster's backup.
func nodeFromBackup(t *testing.T, backups, ledger string, ids []string) {
	x := newTrio(t, 1)
	file := x.configure(t)[0]
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	alone, _, _ := strings.Cut(string(text), "cluster:")
	writeFile(t, file, alone)
	if err := runKith(t, "restore", backups, "--lanes", "1", "--ledger", ledger, "--data", x.data[0], "--config", file); err != nil {
		t.Fatal(err)
	}
	p := x.launch(t, 0)
	p.await(t)
	n := x.speakTo(t, p)
	n.buyersOf(t, "restored to a node alone", ids)
	position, err := n.take(t.Context(), []graphEvent{{Event: "buy", Identities: []string{"browser:after", "account:b0"}}})
	if err == nil {
		err = n.reach(t.Context(), position)
	}
	if err != nil {
		t.Error(err)
	}
	n.stop(t)
	if err := runKith(t, "verify", "--data", x.data[0], "--config", file); err != nil {
		t.Error(err)
	}
}

// clusterFromBackup makes a cluster of a backup in which ids are buyers, in pairs,
// but for the eighth, which is out.
func clusterFromBackup(t *testing.T, lanes int, backups, ledger string, ids []string) {
	ctx := t.Context()
	x := newTrio(t, lanes)
	files := x.configure(t)
	for i := range x.nodes {
		if err := runKith(t, "restore", backups, "--lanes", fmt.Sprint(lanes), "--ledger", ledger, "--data", x.data[i], "--config", files[i]); err != nil {
			t.Fatal(err)
		}
	}
	x.start(t)
	check := func(what string) {
		t.Helper()
		for i, n := range x.nodes {
			n.buyersOf(t, fmt.Sprintf("%s, node %d", what, i+1), ids)
		}
	}
	check("restored")
	x.agree(t)
	id := "browser:after"
	position, err := x.nodes[0].take(ctx, []graphEvent{{Event: "buy", Identities: []string{id, "account:b0"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range x.nodes {
		if err := n.reach(ctx, position); err != nil {
			t.Error(err)
		}
	}
	// A node without a backup takes its store from another, since the log does not
	// begin at the beginning.
	x.nodes[2].stop(t)
	x.data[2] = t.TempDir() + "/data"
	x.restart(t, 2)
	check("with a new disk")
	x.agree(t)
}

// TestKeepers: whoever keeps a stream, is behind with it, is away, or is not there.
func TestKeepers(t *testing.T) {
	x := proto.StreamStatus{Leader: "n1", Others: []proto.StreamCopy{{Node: "n2", Current: true}, {Node: "n3", Lag: 7}, {Node: "n4"}}, Missing: 1}
	if got, want := keepers(x), "n2, n3 (behind by 7), n4 (behind or away), 1 missing"; got != want {
		t.Errorf("they are %q, not %q", got, want)
	}
	if got := x.Lacks(); got != 3 {
		t.Errorf("it lacks %d copies: one that is not there, two that are behind or away", got)
	}
	if got := keepers(proto.StreamStatus{Leader: "n1"}); got != "-" {
		t.Errorf("of a node alone they are %q", got)
	}
}
