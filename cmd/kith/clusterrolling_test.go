package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/internal/porttest"
)

// balancer sends look-ups to nodes in turn, to those whose /readyz was 200 when it
// was asked last, as a proxy in front of a cluster does. It asks a node that fails
// no more until it is ready again, and repeats nothing.
type balancer struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	asked atomic.Int64

	mu       sync.Mutex          // guards the rest
	nodes    map[*graphNode]bool // which are ready
	failed   []failure
	answered time.Time     // the newest answer
	silent   time.Duration // the longest time between two answers since hush
}

// balanced is who is looked up.
const balanced = "browser:r"

// begin makes a segment of whoever has an event, and gives the position at which
// the one that is looked up is in it.
func (x *trio) begin(t *testing.T) (position string) {
	t.Helper()
	x.defineSeen(t)
	position, err := x.nodes[0].take(t.Context(), []graphEvent{{Event: "page", Identities: []string{balanced}}})
	if err != nil {
		t.Fatal(err)
	}
	return position
}

type failure struct {
	at  time.Time
	err error
}

const (
	readyEvery = 100 * time.Millisecond
	lookEvery  = 2 * time.Millisecond
)

func startBalancer(t *testing.T, id string, nodes ...*graphNode) *balancer {
	b := &balancer{nodes: map[*graphNode]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	for _, n := range nodes {
		b.add(ctx, n)
	}
	for range 4 {
		b.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if n := b.next(i); n != nil {
					b.look(ctx, n, id)
				}
				time.Sleep(lookEvery)
			}
		})
	}
	t.Cleanup(func() {
		stop()
		b.done.Wait()
	})
	return b
}

func (b *balancer) look(ctx context.Context, n *graphNode, id string) {
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b.asked.Add(1)
	seen, err := n.lookup(try, []string{id})
	if err == nil && !slices.Equal(seen[0].Segments, []string{"seen"}) {
		err = fmt.Errorf("it is in %v", seen[0].Segments)
	}
	if ctx.Err() != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.silent = max(b.silent, time.Since(b.answered))
		b.answered = time.Now()
		return
	}
	b.nodes[n] = false
	b.failed = append(b.failed, failure{time.Now(), fmt.Errorf("node at %s: %w", n.service, err)})
}

// add begins to ask a node whether it is ready.
func (b *balancer) add(ctx context.Context, n *graphNode) {
	client := http.Client{Timeout: time.Second}
	b.done.Go(func() {
		for ctx.Err() == nil {
			resp, err := client.Get("http://" + strings.TrimPrefix(n.service, "http://") + "/readyz")
			ready := err == nil && resp.StatusCode == http.StatusOK
			if err == nil {
				resp.Body.Close()
			}
			b.mu.Lock()
			b.nodes[n] = ready
			b.mu.Unlock()
			select {
			case <-n.exited:
				b.mu.Lock()
				delete(b.nodes, n)
				b.mu.Unlock()
				return
			case <-time.After(readyEvery):
			}
		}
	})
}

func (b *balancer) next(i int) *graphNode {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ready []*graphNode
	for n, ok := range b.nodes {
		if ok {
			ready = append(ready, n)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	slices.SortFunc(ready, func(a, b *graphNode) int { return strings.Compare(a.service, b.service) })
	return ready[i%len(ready)]
}

// hush begins to measure for how long no look-up is answered.
func (b *balancer) hush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent, b.answered = 0, time.Now()
}

// silence is the longest time since hush, up to now, in which none was answered.
func (b *balancer) silence() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.silent, time.Since(b.answered))
}

// failures gives those since a time.
func (b *balancer) failures(since time.Time) (list []failure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.failed {
		if !f.at.Before(since) {
			list = append(list, f)
		}
	}
	return list
}

// postEvents posts events through nodes in turn, each acknowledged, until it is
// stopped, and gives their identities, and how often a node that runs refused one.
func postEvents(t *testing.T, nodes func() []*graphNode) (stop func() (ids []string, refused int)) {
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	var ids []string
	refused := 0
	wait.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			id := fmt.Sprintf("browser:p%d", i)
			list := nodes()
			for k := 0; ctx.Err() == nil; k++ { // at another node, if one does not take it
				try, end := context.WithTimeout(context.Background(), 10*time.Second)
				_, err := list[(i+k)%len(list)].take(try, []graphEvent{{Event: "visit", ID: id, Identities: []string{id}}})
				end()
				if err == nil {
					ids = append(ids, id)
					break
				}
				if op := new(net.OpError); excused(err) && !errors.As(err, &op) {
					refused++
				}
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return func() ([]string, int) {
		cancel()
		wait.Wait()
		return ids, refused
	}
}

// TestClusterRollingRestart: all nodes are restarted one after the other, drained before
// or with a stop_wait, then two more join, and no look-up fails and nothing acknowledged is lost.
func TestClusterRollingRestart(t *testing.T) {
	longCluster(t)
	x := newTrio(t, 4)
	join := x.args[0][3]
	files := x.configure(t)
	x.start(t)
	x.allReady(t)
	ctx := t.Context()
	position := x.begin(t)
	for _, n := range x.nodes {
		if err := n.reach(ctx, position); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	nodes := slices.Clone(x.nodes[:])
	stop := postEvents(t, func() []*graphNode {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(nodes)
	})
	b := startBalancer(t, balanced, x.nodes[:]...)
	began := time.Now()
	for i := range x.nodes {
		other, drains := x.nodes[(i+1)%3], i < 2 // the last has only stop_wait
		name := fmt.Sprintf("n%d", i+1)
		if drains {
			if err := other.operate(t, "drain", name); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("stopping n%d after %v", i+1, time.Since(began))
		x.nodes[i].stop(t)
		t.Logf("stopped n%d after %v", i+1, time.Since(began))
		x.restart(t, i)
		if drains {
			if err := other.operate(t, "drain", name, "--undo"); err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		nodes[i] = x.nodes[i]
		mu.Unlock()
		b.add(ctx, x.nodes[i])
		for !x.nodes[i].ready(t) {
			time.Sleep(readyEvery)
		}
	}
	t.Logf("restarted all within %v", time.Since(began))
	for i := range 2 {
		addr := porttest.Free(t)
		p := launchProcess(t, t.TempDir()+"/data", "--config", files[i], "--name", fmt.Sprintf("n%d", i+4), "--cluster", addr, "--join", join)
		p.await(t)
		n := speakTo(t, p)
		mu.Lock()
		nodes = append(nodes, n)
		mu.Unlock()
		b.add(ctx, n)
	}
	time.Sleep(time.Second)
	ids, refused := stop()
	for i, f := range b.failures(began) {
		if i == 10 {
			break
		}
		t.Errorf("a look-up failed after %v: %v", f.at.Sub(began), f.err)
	}
	t.Logf("%d look-ups, %d failed; %d events acknowledged, %d times one was refused", b.asked.Load(), len(b.failures(began)), len(ids), refused)
	if b.asked.Load() < 1000 || len(ids) < 100 {
		t.Error("too little was asked or sent to show anything")
	}
	for i, n := range nodes {
		if lost := n.missing(t, ids); len(lost) > 0 {
			t.Errorf("node %d does not show %d of %d acknowledged events, such as %s", i+1, len(lost), len(ids), lost[0])
		}
	}
}

// missing gives the identities that a node does not show within a while.
func (n *graphNode) missing(t *testing.T, ids []string) (lost []string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		lost = nil
		for chunk := range slices.Chunk(ids, 500) {
			seen, err := n.lookup(t.Context(), chunk)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range seen {
				if !slices.Equal(r.Segments, []string{"seen"}) {
					lost = append(lost, chunk[i])
				}
			}
		}
		if len(lost) == 0 || time.Now().After(deadline) {
			return lost
		}
	}
}

// withoutMax is how long look-ups may go unanswered, or some of them fail, after a
// kill: what is promised, in the long run, and many times what they do; in the short one
// still less than the log takes to elect a leader.
func withoutMax() time.Duration {
	if os.Getenv("KITH_ROUNDS") != "" {
		return time.Second
	}
	return 3 * time.Second
}

// TestClusterKillOfAnOwner measures for how long look-ups fail when a node that owns
// lanes is killed: those that were on their way to it, until the balancer asks
// others. Events wait for the log's election, and none that was acknowledged is
// lost.
func TestClusterKillOfAnOwner(t *testing.T) {
	longCluster(t)
	x := startTrio(t, 4)
	ctx := t.Context()
	position := x.begin(t)
	var without []time.Duration
	for round := range rounds(t, 2) {
		x.allReady(t)
		for _, n := range x.nodes {
			if err := n.reach(ctx, position); err != nil {
				t.Fatal(err)
			}
		}
		of := owners(x.nodes[0].status(t))
		owner := slices.IndexFunc([]string{"n1", "n2", "n3"}, func(name string) bool { return name == of[round%4] })
		if owner < 0 {
			t.Fatalf("nobody owns lane %d: %v", round%4, of)
		}
		list := x.nodes[:]
		stop := postEvents(t, func() []*graphNode { return list })
		b := startBalancer(t, balanced, x.nodes[:]...)
		time.Sleep(time.Second)
		b.hush()
		killed := time.Now()
		x.nodes[owner].kill()
		time.Sleep(12 * time.Second) // an election, and more
		ids, refused := stop()
		silence := b.silence()
		b.stop()
		last, why := time.Duration(0), error(nil)
		for _, f := range b.failures(killed) {
			if after := f.at.Sub(killed); after > last {
				last, why = after, f.err
			}
		}
		without = append(without, last)
		if last > withoutMax() || silence > withoutMax() {
			t.Errorf("round %d: look-ups failed for %v after the kill (%v), none was answered for %v", round, last, why, silence)
		}
		if b.asked.Load() < 1000 || len(ids) < 30 {
			t.Errorf("round %d: %d look-ups and %d events are too few to show anything", round, b.asked.Load(), len(ids))
		}
		if early := len(b.failures(time.Time{})) - len(b.failures(killed)); early > 0 {
			t.Errorf("round %d: %d look-ups failed before the kill", round, early)
		}
		x.restart(t, owner)
		for i, n := range x.nodes {
			if lost := n.missing(t, ids); len(lost) > 0 {
				t.Errorf("round %d: node %d does not show %d of %d acknowledged events, such as %s", round, i+1, len(lost), len(ids), lost[0])
			}
		}
		t.Logf("round %d: look-ups failed for %v, none was answered for %v (%d of %d failed); %d events acknowledged, %d times one was refused", round, last, silence, len(b.failures(killed)), b.asked.Load(), len(ids), refused)
	}
	slices.Sort(without)
	t.Logf("of %d kills the longest time in which some look-up failed was %v, the median %v", len(without), without[len(without)-1], without[len(without)/2])
}
