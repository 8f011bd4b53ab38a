package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kith/proto"
)

// Faults of one node or link at a time, under load: what was answered must be
// explained by what is promised, nothing acknowledged may be lost, and once the
// fault has ended all nodes are ready again and have come to the same. What is not
// done to links is done in both settings.

// fault is something that goes wrong for a while.
type fault struct {
	what  string
	begin func(t *testing.T)
	lasts time.Duration
	end   func(t *testing.T)
}

// calm is for how long clients ask before and after a fault.
const calm = time.Second

// faultRounds is rounds for tests that make test-cluster runs.
func faultRounds(t *testing.T, short int) int {
	t.Helper()
	longCluster(t)
	return rounds(t, short)
}

// setting is where the three nodes of a cluster are.
type setting struct {
	places [3]place
	lanes  int
	longer bool // has more rounds in the short set
}

// inEachSetting runs a test of faults over processes on loopback, with two lanes, and over
// network namespaces, where nodes speak by mutual TLS between addresses of their own: with
// one lane, since only there can links be asked for by position.
func inEachSetting(t *testing.T, suffers func(t *testing.T, s setting)) {
	t.Helper()
	longCluster(t)
	t.Run("processes", func(t *testing.T) {
		t.Parallel()
		suffers(t, setting{places: loopbackPlaces(t), lanes: 2, longer: true})
	})
	t.Run("namespaces", func(t *testing.T) {
		t.Parallel()
		suffers(t, setting{places: newNetTrio(t).places(t), lanes: 1})
	})
}

// rounds is how often a fault is tried, in the short set at least once.
func (s setting) rounds(t *testing.T, short int) int {
	t.Helper()
	if !s.longer {
		short = (short + 1) / 2
	}
	return rounds(t, short)
}

// rounds is how often a fault is tried: KITH_ROUNDS, or short.
func rounds(t *testing.T, short int) int {
	t.Helper()
	s := os.Getenv("KITH_ROUNDS")
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("KITH_ROUNDS is %q, not a number", s)
	}
	return n
}

// suffer has faults come over a cluster under load, one after the other.
func (x *faultTrio) suffer(t *testing.T, rounds int, next func(round int, chance *rand.Rand) fault) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d, %d rounds", seed, rounds)
	chance := rand.New(rand.NewPCG(seed, 0))
	x.outliveStart(t)
	load := newFaultLoad(x, seed)
	for round := range rounds {
		f := next(round, chance)
		load.start()
		hold(t.Context(), calm)
		began := time.Now()
		f.begin(t)
		hold(t.Context(), f.lasts)
		f.end(t)
		t.Logf("round %d: %s, for %v", round, f.what, time.Since(began).Round(100*time.Millisecond))
		x.awaitReady(t)
		hold(t.Context(), calm)
		load.end()
		x.agree(t)
		if t.Failed() {
			break
		}
	}
	load.check(t)
	x.stopAndVerify(t)
}

// outliveStart waits until opt-outs are final as soon as they are later: at
// first nodes wait for leases from before they started.
func (x *faultTrio) outliveStart(t *testing.T) {
	t.Helper()
	for i, n := range x.nodes {
		id := fmt.Sprintf("browser:first-%d", i)
		if err := n.patiently(t.Context(), func() error { _, err := n.optOut(t.Context(), id, false); return err }); err != nil {
			t.Fatal(err)
		}
		if _, err := n.finalOptOut(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// Each node is killed in turn, so that those that lead the log are among them.
func TestClusterKilledNodes(t *testing.T) {
	inEachSetting(t, func(t *testing.T, s setting) {
		x := startFaultTrio(t, s)
		x.suffer(t, s.rounds(t, 3), func(round int, _ *rand.Rand) fault {
			i := round % 3
			return fault{
				what:  fmt.Sprintf("node %d was killed and started again", i+1),
				begin: func(*testing.T) { x.nodes[i].kill() },
				lasts: 2 * time.Second,
				end:   func(t *testing.T) { x.restart(t, i) },
			}
		})
	})
}

// A node that stands still for less than a lease, and for longer.
func TestClusterPausedNodes(t *testing.T) {
	inEachSetting(t, func(t *testing.T, s setting) {
		x := startFaultTrio(t, s)
		x.suffer(t, s.rounds(t, 2), func(round int, chance *rand.Rand) fault {
			i := chance.IntN(3)
			lasts := 20 * time.Second
			if round%2 == 1 {
				lasts = time.Duration(2+chance.IntN(8)) * time.Second
			}
			return fault{
				what:  fmt.Sprintf("node %d stood still", i+1),
				begin: func(t *testing.T) { x.signal(t, i, syscall.SIGSTOP) },
				lasts: lasts,
				end:   func(t *testing.T) { x.signal(t, i, syscall.SIGCONT) },
			}
		})
	})
}

// smallDiskSize is of the disk that is filled up.
const smallDiskSize = "320m"

// smallDiskFloor is less than what a node leaves free of it.
const smallDiskFloor = 8 << 20

// A node whose disk is full says so and takes no events, and goes on once there
// is space. The others do as if nothing was. What they write goes to the full
// disk too, until its JetStream shuts itself down: then the node asks to be
// started again.
func TestClusterFullDisk(t *testing.T) {
	inEachSetting(t, func(t *testing.T, s setting) {
		const full = 2
		disk := t.TempDir()
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size="+smallDiskSize); err != nil {
			t.Skipf("a small file system cannot be mounted here: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil { // a node that failed to stop may have it still
				t.Errorf("unmount: %v", err)
			}
		})
		s.places[full].data = filepath.Join(disk, "data")
		x := startFaultTrio(t, s)
		x.suffer(t, s.rounds(t, 1), func(int, *rand.Rand) fault { return x.fullDisk(full, disk) })
	})
}

// fullDisk fills the file system that a node's data is on.
func (x *faultTrio) fullDisk(full int, disk string) fault {
	return fault{
		what: fmt.Sprintf("the disk of node %d was full", full+1),
		begin: func(t *testing.T) {
			fillDisk(t, disk)
			x.refusesForDisk(t, full)
		},
		lasts: 5 * time.Second,
		end: func(t *testing.T) {
			if err := x.visitOnce(t.Context(), full); err == nil {
				t.Error("an event was accepted on a full disk")
			}
			if err := x.nodes[0].patiently(t.Context(), func() error { return x.visitOnce(t.Context(), 0) }); err != nil {
				t.Errorf("an event at another node: %v", err)
			}
			if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
				t.Fatal(err)
			}
			x.restartIfAsked(t, full)
		},
	}
}

func (x *faultTrio) visitOnce(ctx context.Context, i int) error {
	_, err := x.nodes[i].take(ctx, []graphEvent{{Event: "visit", Identities: []string{"browser:disk"}}})
	return err
}

// refusesForDisk waits until a node says that its disk is full.
func (x *faultTrio) refusesForDisk(t *testing.T, i int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		err, ready := x.visitOnce(t.Context(), i), x.ready(t.Context(), i)
		if proto.CodeOf(err) == proto.CodeDiskFull && ready != nil {
			return
		}
		if time.Now().After(deadline) || !hold(t.Context(), 100*time.Millisecond) {
			t.Fatalf("on a full disk an event is answered with %v, and whether it is ready with %v", err, ready)
		}
	}
}

// restartIfAsked starts a node again if it says that this is needed.
func (x *faultTrio) restartIfAsked(t *testing.T, i int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := x.ready(t.Context(), i)
		if err == nil {
			return
		}
		if strings.Contains(err.Error(), "then restart") {
			t.Logf("node %d says: %v", i+1, err)
			x.stop(t, i)
			x.restart(t, i)
			return
		}
		if time.Now().After(deadline) || !hold(t.Context(), 100*time.Millisecond) {
			t.Fatalf("with space again node %d is not ready: %v", i+1, err)
		}
	}
}

// fillDisk writes until no byte is left. On the way the node sees that little is
// left: it watches that, and one that is in the midst of a commit when all goes
// at once ends, for the store writes through mapped memory.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zeros := make([]byte, 1<<16)
	for noticed := false; ; {
		var s syscall.Statfs_t
		if err := syscall.Statfs(dir, &s); err != nil {
			t.Fatal(err)
		}
		if left := s.Bavail * uint64(s.Bsize); left < smallDiskFloor && !noticed {
			noticed = true
			hold(t.Context(), time.Second)
		}
		if _, err := f.Write(zeros); err != nil {
			return
		}
	}
}
