package engine_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// TestMain lets the test binary be the nodes that tests kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KITH_TEST_ERASE"); dir != "" {
		if err := serveErasure(dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	if dir := os.Getenv("KITH_TEST_NODE"); dir != "" {
		if err := serve(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killVisitors share the events of TestKill.
const killVisitors = 50

func killConfig(dir string) engine.Config {
	return engine.Config{
		Dir: dir, LogBytesMax: 64 << 20, DiskReserve: 1 << 20, ActiveMax: 64,
		Boot: []engine.BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}},
	}
}

// serve is a node that takes numbers of events, a line each, and answers with
// the number once it is durable. It ends by being killed, or with its input.
func serve(dir string, in io.Reader, out io.Writer) error {
	ctx := context.Background()
	n, err := engine.Open(ctx, killConfig(dir))
	if err != nil {
		return err
	}
	c, _ := n.Client("acme")
	for _, s := range []proto.SegmentSpec{
		{ID: "brief", Scope: "identity", When: `count(true, "1s") >= 1`},
		{ID: "many", Scope: "identity", When: `count(event.section == "x") >= 10`},
	} {
		if _, err := n.Define(ctx, c, s); err != nil {
			return err
		}
	}
	// Each life edits a segment once more, which the one before may not have filled.
	if _, err := n.Define(ctx, c, proto.SegmentSpec{ID: "edited", Scope: "identity", When: fmt.Sprintf(`count(event.section == "x") >= %d`, 1+rand.IntN(40)), Backfill: true}); err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	var mu sync.Mutex
	var wait sync.WaitGroup
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		number := lines.Text()
		wait.Go(func() {
			i, _ := strconv.Atoi(number)
			e := page(c, fmt.Sprint("v", i%killVisitors), "x", time.Now())
			e.ID = number
			e.Props = append(e.Props, proto.Prop{Key: "number", Value: proto.TextOf(number)})
			var b proto.Batch
			b.AddEvent(n.Hasher(), e)
			if r := n.Submit(ctx, &b); r.Err == nil {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintln(out, number)
			}
		})
	}
	wait.Wait()
	return n.Close()
}

// client is what a sender knows: events that were acknowledged, and those that
// were sent and are in doubt.
type client struct {
	next    int
	acked   map[int]bool
	doubted map[int]bool
}

// round sends events to a node until it is killed, those in doubt first.
func (c *client) round(t *testing.T, dir string, life time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "KITH_TEST_NODE="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		cmd.Process.Kill()
		t.Fatalf("the node did not start: %q, %v", lines.Text(), cmd.Wait())
	}
	kill := time.AfterFunc(life, func() { cmd.Process.Kill() })
	defer kill.Stop()
	window := make(chan struct{}, 200) // sent and not answered
	var sender sync.WaitGroup
	var sent []int
	again := make([]int, 0, len(c.doubted))
	for n := range c.doubted {
		again = append(again, n)
	}
	done := make(chan struct{})
	sender.Go(func() {
		for {
			select {
			case window <- struct{}{}:
			case <-done:
				return
			}
			n := c.next
			if len(again) > 0 {
				n, again = again[0], again[1:]
			} else {
				c.next++
			}
			sent = append(sent, n)
			if _, err := fmt.Fprintln(in, n); err != nil {
				return // killed
			}
		}
	})
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			break // cut off by the kill
		}
		c.acked[n] = true
		delete(c.doubted, n)
		<-window
	}
	close(done)
	sender.Wait()
	cmd.Wait()
	for _, n := range sent {
		if !c.acked[n] {
			c.doubted[n] = true
		}
	}
}

// check opens the node and holds what it knows against what the client knows.
func (c *client) check(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	n, err := engine.Open(ctx, killConfig(dir))
	if err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	times := map[int]int{}
	for v := range killVisitors {
		rec, err := n.Record(ctx, acme(t, n), proto.Identity(fmt.Sprint("browser:v", v)))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range rec.Events {
			number, _ := e.Props["number"].(string)
			i, err := strconv.Atoi(number)
			if err != nil || i%killVisitors != v {
				raw, _ := json.Marshal(e)
				t.Errorf("visitor %d has the event %s", v, raw)
			}
			times[i]++
		}
	}
	for i := range c.acked {
		if times[i] != 1 {
			t.Errorf("event %d was acknowledged and is there %d times", i, times[i])
		}
	}
	for i, n := range times {
		if n > 1 || !c.acked[i] && !c.doubted[i] {
			t.Errorf("event %d is there %d times; acknowledged %v, in doubt %v", i, n, c.acked[i], c.doubted[i])
		}
	}
	c.checkEdited(t, n, times)
	verifyClean(t, n)
	closeNode(t, n)
}

// checkEdited waits for the newest version of the edited segment, and sees that
// its members are those of whom it holds.
func (c *client) checkEdited(t *testing.T, n *engine.Node, times map[int]int) {
	t.Helper()
	of := acme(t, n)
	until(t, n, 30*time.Second, "filling the edited segment", func() bool {
		s, _ := n.Segment(of, "edited")
		return *s.Filled && s.Next == nil
	})
	s, _ := n.Segment(of, "edited")
	least, err := strconv.Atoi(s.When[strings.LastIndex(s.When, " ")+1:])
	if err != nil {
		t.Fatal(err)
	}
	events := map[int]int{}
	for i := range times {
		events[i%killVisitors]++
	}
	want := uint64(0)
	for _, n := range events {
		if n >= least {
			want++
		}
	}
	if got := count(t, n, of, "edited"); got != want {
		t.Errorf("%s has %d members, want %d", s.When, got, want)
	}
}

// A node that is killed at random moments under load loses nothing that it
// acknowledged and counts nothing twice, also what is sent again.
func TestKill(t *testing.T) {
	rounds := 10
	if s := os.Getenv("KITH_KILLS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		t.Skip("kills processes")
	}
	dir := t.TempDir()
	c := &client{acked: map[int]bool{}, doubted: map[int]bool{}}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range rounds {
		c.round(t, dir, time.Duration(r.IntN(400))*time.Millisecond)
		if i%5 == 4 || i == rounds-1 || rounds > 10 {
			c.check(t, dir)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d events acknowledged over %d kills, %d in doubt", len(c.acked), rounds, len(c.doubted))
	if len(c.acked) == 0 {
		t.Error("nothing was acknowledged between the kills")
	}
}
