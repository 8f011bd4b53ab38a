// Package sim runs whole histories of a node, each from one seed, in one
// thread: the engine's own apply loop (engine.Simulate) over a log and stores in
// memory. Nodes apply the same log at their own pace and in batches of any size,
// crash between a step and its commit or after it, come back from older
// snapshots, relay the graph's messages twice, late, crosswise or not at all;
// clients' events, links, opt-outs and definitions come late and repeatedly.
//
// It guarantees, for the seeds that it ran, what the engine's package comment
// promises: the state is a function of the log; who opted out, and is told so,
// shows nowhere until it opts in again, on no node that may answer and after no
// restore; what was erased, and that is told, shows nowhere either; without faults everything that was asked comes to an end; and then
// the state is what a plain reading of all commands says (model_test.go) and what
// the engine's own verification recomputes.
//
// It does not simulate the goroutines of a node, the bytes on disk or the
// network of clients: the tests of engine and cmd/kith do. Leases (lease_test.go)
// are simulated around the nodes by the rule that several nodes will follow.
package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
)

var (
	seedsFlag = flag.Int("seeds", 120, "how many seeds TestSimulation runs; with -short a tenth")
	seedFlag  = flag.Int("seed", 1, "the first of them")
	stopFlag  = flag.Int("failures", 3, "stop after so many seeds that fail")
	lanesFlag = flag.Int("lanes", 0, "1 to 3; 0: all three")
	tellFlag  = flag.Bool("tell", false, "tell each step")
)

// run is one run: steps under faults, then without until nothing is under way,
// then the checks. It gives the hash of the final state.
func run(seed, lanes int, stats *stats) (hash string, err error) {
	w := newWorld(seed, lanes, stats)
	defer func() {
		if p := recover(); p != nil {
			b := make([]byte, 16<<10)
			w.fail("PANIC: %v\n%s", p, b[:runtime.Stack(b, false)])
		}
		w.close()
		err = w.err
	}()
	w.begin()
	for w.steps = 0; w.steps < w.length && w.err == nil; w.steps++ {
		w.step()
	}
	w.rest()
	if w.err == nil && w.rng.IntN(3) == 0 {
		w.restoreAnew(w.chance(40))
	}
	return w.hash, w.err
}

// total adds up what runs did, over goroutines.
type total struct {
	mu           sync.Mutex
	next, failed int
	stats        stats
}

func (x *total) take() (seed int, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.next++
	seed = *seedFlag + x.next - 1
	return seed, x.next <= *seedsFlag && x.failed < *stopFlag
}

// runSeed runs a seed with the number of lanes, or with each.
func (x *total) runSeed(t *testing.T, seed int) {
	for lanes := 1; lanes <= 3; lanes++ {
		if *lanesFlag > 0 && lanes != *lanesFlag {
			continue
		}
		var s stats
		hash, err := run(seed, lanes, &s)
		if err == nil && seed%25 == 0 {
			var again stats
			if twice, _ := run(seed, lanes, &again); twice != hash {
				err = fmt.Errorf("seed %d lanes %d: AGAIN: the same seed ends with state %s, then with %s", seed, lanes, hash, twice)
			}
		}
		x.mu.Lock()
		x.stats.add(&s)
		if err != nil {
			x.failed++
			t.Errorf("%v\nreplay: go test ./engine/sim -run TestSimulation -seed %d -seeds 1 -lanes %d -v -tell", err, seed, lanes)
		}
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// TestSimulation runs whole histories, each from a seed.
func TestSimulation(t *testing.T) {
	if *lanesFlag < 0 || *lanesFlag > 3 {
		t.Fatalf("-lanes is %d: use 0 to 3", *lanesFlag)
	}
	if testing.Short() { // for the race detector: each run is of one goroutine
		*seedsFlag = max(1, *seedsFlag/10)
	}
	start := time.Now()
	var x total
	var done sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			for seed, ok := x.take(); ok; seed, ok = x.take() {
				x.runSeed(t, seed)
			}
		})
	}
	done.Wait()
	t.Logf("%d seeds in %v: %s", *seedsFlag, time.Since(start).Round(time.Millisecond), x.stats.String())
	if missing := x.stats.missing(); *seedsFlag >= 100 && missing != "" {
		t.Errorf("the runs did not do what they are for: no %s", missing)
	}
}

// random is a source of chance for a part of a run.
func random(seed, part int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), uint64(part))) }
