package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kith/internal/porttest"
	"kith/proto"
)

// clockOff is by how much a lane's time may be from true time while nodes beat
// every two seconds and the log may elect a leader.
const clockOff = 12 * time.Second

// TestClusterWallClocks: the wall clock of one node is stepped for longer than a
// lease, under load. Nobody notices, but for who looks after the nodes.
func TestClusterWallClocks(t *testing.T) {
	steps := []time.Duration{time.Hour, -time.Hour, 5 * time.Second, -5 * time.Second}
	inEachSetting(t, func(t *testing.T, s setting) {
		x := startFaultTrio(t, s)
		var clocks [3]*wallClock
		for i, n := range x.nodes {
			clocks[i] = takeWallClock(t, n.cmd.Process.Pid)
		}
		first := rand.IntN(3)
		x.suffer(t, s.rounds(t, len(steps)), func(round int, _ *rand.Rand) fault {
			i, by := (first+round)%3, steps[round%len(steps)]
			return fault{
				what: fmt.Sprintf("the wall clock of node %d was stepped by %v", i+1, by),
				begin: func(t *testing.T) {
					clocks[i].set(t, by)
					x.awaitMetric(t, i, "kith_clock_stepped 1")
				},
				lasts: 20 * time.Second,
				end: func(t *testing.T) {
					if err := x.ready(t.Context(), i); err != nil {
						t.Errorf("node %d is not ready: %v", i+1, err)
					}
					x.keepTrueTime(t)
					clocks[i].set(t, 0)
					x.awaitMetric(t, i, "kith_clock_stepped 0")
				},
			}
		})
	})
}

// awaitMetric waits until a node tells a line.
func (x *trio) awaitMetric(t *testing.T, i int, line string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !slices.Contains(metricLines(t, x.nodes[i].service), line); {
		if time.Now().After(deadline) || !hold(t.Context(), 100*time.Millisecond) {
			t.Fatalf("node %d does not tell %s", i+1, line)
		}
	}
}

// keepTrueTime sees that lanes' time is true at all nodes that answer.
func (x *trio) keepTrueTime(t *testing.T) {
	t.Helper()
	for i := range x.nodes {
		list, err := x.laneTimes(t.Context(), i)
		if err != nil {
			t.Errorf("node %d: %v", i+1, err)
		}
		for lane, at := range list {
			if off := time.Since(at); off.Abs() > clockOff {
				t.Errorf("at node %d the time of lane %d is %v behind", i+1, lane, off)
			}
		}
	}
}

func (x *trio) laneTimes(ctx context.Context, i int) (list []time.Time, err error) {
	var out struct{ Lanes []proto.LaneStatus }
	if err := x.nodes[i].admin.call(ctx, http.MethodGet, "/v1/partitions", nil, nil, &out); err != nil {
		return nil, err
	}
	for _, l := range out.Lanes {
		at, err := time.Parse(time.RFC3339, l.LaneTime)
		if err != nil {
			return nil, err
		}
		list = append(list, at)
	}
	return list, nil
}

// TestClusterClocksTogether: where the wall clocks of all nodes are stepped, as
// after the machine that has them all stood still, time goes on from there.
func TestClusterClocksTogether(t *testing.T) {
	longCluster(t)
	x := startTrio(t, 1)
	x.defineSeen(t)
	if _, err := x.nodes[0].take(t.Context(), []graphEvent{{Event: "visit", Identities: []string{"browser:slept"}}}); err != nil {
		t.Fatal(err)
	}
	var clocks [3]*wallClock
	for i, n := range x.nodes {
		clocks[i] = takeWallClock(t, n.cmd.Process.Pid)
	}
	const slept = 31 * 24 * time.Hour // longer than the segment's window
	for _, c := range clocks {
		c.set(t, slept)
	}
	for i, n := range x.nodes {
		for deadline := time.Now().Add(time.Minute); ; {
			list, err := n.lookup(t.Context(), []string{"browser:slept"})
			if err == nil && len(list[0].Segments) == 0 {
				break
			}
			if time.Now().After(deadline) || !hold(t.Context(), 200*time.Millisecond) {
				t.Fatalf("31 days later node %d shows %+v, %v", i+1, list, err)
			}
		}
		x.awaitMetric(t, i, "kith_clock_stepped 0")
		if err := n.admin.call(t.Context(), http.MethodGet, "/readyz", nil, nil, nil); err != nil {
			t.Errorf("node %d is not ready: %v", i+1, err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; {
		list, err := x.laneTimes(t.Context(), 0)
		if err == nil && time.Until(list[0]) > slept-clockOff {
			break
		}
		if time.Now().After(deadline) || !hold(t.Context(), 200*time.Millisecond) {
			t.Fatalf("the lane's time is %v, %v", list, err)
		}
	}
	x.agree(t)
}

// TestClusterWrongClockAtStart: a node that is started with a wrong clock answers
// nothing and says why, until it is set right. The lanes' time is nothing to it.
func TestClusterWrongClockAtStart(t *testing.T) {
	longCluster(t)
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			x := startTrio(t, 2)
			x.defineSeen(t)
			takeWallClock(t, x.nodes[2].cmd.Process.Pid) // skips here, while all is well
			x.nodes[2].kill()
			p := x.launch(t, 2)
			clock := takeWallClock(t, p.cmd.Process.Pid)
			clock.set(t, by)
			for deadline := time.Now().Add(time.Minute); !strings.Contains(p.log.String(), "that of most nodes: set it right"); {
				if time.Now().After(deadline) || !hold(t.Context(), 50*time.Millisecond) {
					t.Fatalf("it does not say that its clock is wrong:\n%s", tail(p.log.String(), 4<<10))
				}
			}
			hold(t.Context(), 5*time.Second) // for beats that it might send
			select {
			case <-p.answers:
				t.Error("it answers")
			default:
			}
			for i := range 2 {
				if list, err := x.laneTimes(t.Context(), i); err != nil || slices.ContainsFunc(list, func(at time.Time) bool { return time.Since(at).Abs() > clockOff }) {
					t.Errorf("at node %d lanes' time is %v, %v", i+1, list, err)
				}
			}
			clock.set(t, 0)
			p.await(t)
			x.nodes[2] = x.speakTo(t, p)
			x.keepTrueTime(t)
			x.agree(t)
		})
	}
}

// TestClusterTwins: a second process of a node's name does not start and says why;
// one that stood still while another was started in its place ends when it goes on.
func TestClusterTwins(t *testing.T) {
	longCluster(t)
	x := startTrio(t, 1)
	x.defineSeen(t)
	twin := func() *process {
		addr := porttest.Free(t)
		members := x.args[0][5] // after --name, --cluster and --join
		return launchProcess(t, t.TempDir()+"/data", "--name", "n2", "--cluster", addr, "--join", members, "--lanes", "1")
	}
	ends := func(p *process, why string) {
		t.Helper()
		select {
		case <-p.exited:
		case <-time.After(90 * time.Second):
			t.Fatalf("it does not end:\n%s", tail(p.log.String(), 4<<10))
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.log.String(), why) {
			t.Errorf("it ends with %d and says:\n%s", code, tail(p.log.String(), 4<<10))
		}
	}
	ends(twin(), `another process runs already as node "n2"`)
	for i, n := range x.nodes {
		if err := n.admin.call(t.Context(), http.MethodGet, "/readyz", nil, nil, nil); err != nil {
			t.Errorf("node %d is not ready afterwards: %v", i+1, err)
		}
	}

	old := x.nodes[1]
	if err := old.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Until it is known to be gone the other one is told that it may be there.
	x.awaitMetric(t, 0, "kith_cluster_members 2")
	fresh := twin()
	fresh.await(t)
	x.nodes[1] = x.speakTo(t, fresh)
	var position string
	if err := x.nodes[0].patiently(t.Context(), func() (err error) {
		position, err = x.nodes[0].take(t.Context(), []graphEvent{{Event: "visit", Identities: []string{"browser:later"}}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := x.nodes[1].reach(t.Context(), position); err != nil {
		t.Fatal(err)
	}
	if err := old.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ends(old.process, `was started`)
	if list, err := x.nodes[1].lookup(t.Context(), []string{"browser:later"}); err != nil || !slices.Contains(list[0].Segments, "seen") {
		t.Errorf("the one in its place shows %+v, %v", list, err)
	}
	x.agree(t)
}
