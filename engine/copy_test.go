package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"kith/engine"
	"kith/proto"
)

// startNATS is a NATS server that nodes share.
func startNATS(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: t.TempDir(), MaxPayload: 2 * proto.EntryBytesMax, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS does not start")
	}
	return s.ClientURL()
}

// A node whose store the log does not reach back to takes another's: a new one,
// one that was away for too long, and one that was killed while it did so.
func TestCopyOfAnotherNode(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	member := func(name string) func(*engine.Config) {
		return func(c *engine.Config) {
			c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
			c.Node, c.Lanes, c.NATSURL, c.Peers, c.HashSecret, c.LogRetention = name, 2, url, o, bytes.Repeat([]byte{7}, 16), time.Second
		}
	}
	a := testNode(t, t.TempDir(), member("a"))
	defer closeNode(t, a)
	define(t, a, "seen", `count(true, "30d") >= 1`)
	sent := 0
	send := func() {
		t.Helper()
		var list []*proto.Event
		for range 300 {
			list = append(list, page(acme(t, a), fmt.Sprint("v", sent), "auto", time.Now()))
			sent++
		}
		submit(t, a, list...)
		before := a.Lanes()
		until(t, a, 30*time.Second, "the log is purged", func() bool {
			for i, l := range a.Lanes() {
				if l.First <= before[i].Applied {
					return false
				}
			}
			return true
		})
	}
	dir := t.TempDir()
	check := func(what string) *engine.Node {
		t.Helper()
		b := testNode(t, dir, member("b"))
		if got := count(t, b, acme(t, b), "seen"); got != uint64(sent) {
			t.Errorf("%s: %d identities, want %d", what, got, sent)
		}
		chains := func(n *engine.Node) (list []string) {
			for _, l := range n.Lanes() {
				list = append(list, fmt.Sprint(l.Applied, l.Chain))
			}
			return list
		}
		for deadline := time.Now().Add(30 * time.Second); !cmp.Equal(chains(a), chains(b)); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the nodes differ: %s and %s", what, chains(a), chains(b))
			}
		}
		verifyClean(t, b)
		return b
	}
	send()
	closeNode(t, check("a new node"))
	send()
	closeNode(t, check("a node that was away"))

	// As much of the old store was removed as a kill left time for.
	tables, err := filepath.Glob(filepath.Join(dir, "store", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables of the store: %v, %v", tables, err)
	}
	if err := os.Remove(tables[0]); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(dir, "RESTORING")
	if err := os.WriteFile(marker, []byte("copy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	alone := engine.Config{Dir: dir, Lanes: 2, NATSURL: url, HashSecret: bytes.Repeat([]byte{7}, 16)}
	if _, err := engine.Open(t.Context(), alone); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("half a copy is served: %v", err)
	}
	closeNode(t, check("a node that was killed meanwhile"))
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the marker is left: %v", err)
	}
}

// A node that needs a copy and gets none says so and serves nothing.
func TestNoCopyOfAnotherNode(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	c := engine.Config{Dir: t.TempDir(), Node: "b", LogBytesMax: 64 << 20, NATSURL: url, Peers: o, HashSecret: bytes.Repeat([]byte{7}, 16)}
	if err := os.WriteFile(filepath.Join(c.Dir, "RESTORING"), []byte("copy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := engine.Open(ctx, c); proto.CodeOf(err) != proto.CodeTimeout {
		t.Errorf("it opens without a copy: %v", err)
	}
}

// A running node that the log's retention overtakes asks for a restart, by which it takes
// a copy: it is not alive by /healthz. A node alone would find nobody to copy from.
func TestOvertakenNode(t *testing.T) {
	for name, alone := range map[string]bool{"in a cluster": false, "alone": true} {
		t.Run(name, func(t *testing.T) {
			url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
			n := testNode(t, t.TempDir(), func(c *engine.Config) {
				c.Node, c.NATSURL, c.HashSecret = "a", url, bytes.Repeat([]byte{7}, 16)
				if !alone {
					c.Peers = o
				}
			})
			defer n.Close()
			if err := n.Live(); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := n.PurgeBeyond(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(20 * time.Second); n.Lanes()[0].Quarantined == ""; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it goes on")
				}
			}
			why, live := n.Lanes()[0].Quarantined, n.Live()
			if alone && (strings.Contains(why, "overtaken") || live != nil) {
				t.Errorf("%v; alive: %v", why, live)
			}
			if !alone && (!strings.Contains(why, "Restart it: it takes a copy") || proto.CodeOf(live) != proto.CodeQuarantined) {
				t.Errorf("%v; alive: %v", why, live)
			}
		})
	}
}

// A copy is given for as long as it is wanted, however long the other's store takes for
// what has come.
func TestStalledCopy(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	a := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Node, c.NATSURL, c.Peers, c.HashSecret = "a", url, o, bytes.Repeat([]byte{7}, 16)
	})
	defer closeNode(t, a)
	const idle = 500 * time.Millisecond
	a.CopyIdle(idle)
	if err := engine.StalledCopy(t.Context(), a, 3*idle, idle/10); err != nil {
		t.Errorf("wanted all the time: %v", err)
	}
	if err := engine.StalledCopy(t.Context(), a, 3*idle, time.Hour); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("not wanted for longer than it is given: %v", err)
	}
}

// A node whose disk has no room for a copy says so, and what it had of it is gone, also
// before its log is opened. With room it takes one.
func TestCopyOnFullDisk(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	member := func(name string, reserve uint64) func(*engine.Config) {
		return func(c *engine.Config) {
			c.Node, c.NATSURL, c.Peers, c.HashSecret, c.DiskReserve = name, url, o, bytes.Repeat([]byte{7}, 16), reserve
		}
	}
	a := testNode(t, t.TempDir(), member("a", 1<<20))
	defer closeNode(t, a)
	define(t, a, "seen", `count(true, "30d") >= 1`)
	submit(t, a, page(acme(t, a), "v", "auto", time.Now()))
	dir := t.TempDir()
	half := filepath.Join(dir, "store", "000001.sst")
	if err := os.MkdirAll(filepath.Dir(half), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{half: "half", filepath.Join(dir, "RESTORING"): "copy\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := openNode(t, dir, member("b", 1<<62)); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("without room it opens: %v", err)
		if err == nil {
			closeNode(t, b)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(half)); err != nil || len(left) > 0 {
		t.Errorf("of the copy there is left: %v, %v", left, err)
	}
	b := testNode(t, dir, member("b", 1<<20))
	defer closeNode(t, b)
	if got := count(t, b, acme(t, b), "seen"); got != 1 {
		t.Errorf("%d identities, want 1", got)
	}
}

// A node that comes to another state than the two others stops; they go on.
func TestDifferingNodeStops(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	member := func(name string) func(*engine.Config) {
		return func(c *engine.Config) {
			c.Node, c.NATSURL, c.Peers, c.HashSecret = name, url, o, bytes.Repeat([]byte{7}, 16)
		}
	}
	a, c := testNode(t, t.TempDir(), member("a")), testNode(t, t.TempDir(), member("c"))
	defer closeNode(t, a)
	defer closeNode(t, c)
	submit(t, a, page(acme(t, a), "v", "auto", time.Now()))
	dir := t.TempDir()
	closeNode(t, testNode(t, dir, member("b")))
	engine.SpoilChain(t, dir)
	b, err := openNode(t, dir, member("b"))
	if err == nil {
		defer b.Close()
		for deadline := time.Now().Add(20 * time.Second); b.Lanes()[0].Quarantined == ""; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a node with another chain goes on")
			}
		}
		t.Log(b.Lanes()[0].Quarantined)
	} else if proto.CodeOf(err) != proto.CodeQuarantined { // on a busy machine it is found out before the node is open
		t.Fatalf("open node: %v", err)
	}
	time.Sleep(2 * time.Second) // a beat of each
	for _, n := range []*engine.Node{a, c} {
		if why := n.Lanes()[0].Quarantined; why != "" {
			t.Errorf("one that agrees with the third stopped: %s", why)
		}
	}
}

// Chunks may be asked for twice, and what is not whole is found out.
func TestCopyChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{0, 1, engine.CopyChunkMax, 3*engine.CopyChunkMax + 5} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		for _, spoiled := range []bool{false, true} {
			give := engine.NewCopyChunks(bytes.NewReader(data))
			got, err := engine.TakeCopy(func(number uint64) []byte {
				chunk := give(number)
				if again := give(number); !bytes.Equal(chunk, again) {
					t.Errorf("chunk %d is another when it is asked for again", number)
				}
				if give(number+2) != nil || number > 1 && give(number-1) != nil {
					t.Errorf("chunks beside %d are given", number)
				}
				if spoiled && number == 1 {
					chunk = bytes.Clone(chunk)
					chunk[len(chunk)-1] ^= 1
				}
				return chunk
			})
			switch {
			case spoiled && proto.CodeOf(err) != proto.CodeCorrupt:
				t.Errorf("%d bytes, one of them another, were taken: %v", size, err)
			case !spoiled && (err != nil || !bytes.Equal(got, data)):
				t.Errorf("%d bytes: %d came, %v", size, len(got), err)
			}
		}
	}
	give := engine.NewCopyChunks(io.MultiReader(bytes.NewReader(make([]byte, 10)), failing{}))
	if _, err := engine.TakeCopy(give); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("a copy that broke off was taken: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken") }

// A node with another number of lanes or hash secret than the log's is refused, though
// its own store is empty: what it appended would stop all others.
func TestOtherThanTheLog(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	member := func(name string, lanes int, secret byte) func(*engine.Config) {
		return func(c *engine.Config) {
			c.Node, c.Lanes, c.NATSURL, c.Peers, c.HashSecret = name, lanes, url, o, bytes.Repeat([]byte{secret}, 16)
		}
	}
	a := testNode(t, t.TempDir(), member("a", 2, 7))
	defer closeNode(t, a)
	for _, x := range []struct {
		lanes  int
		secret byte
	}{{1, 7}, {4, 7}, {2, 8}} {
		b, err := openNode(t, t.TempDir(), member("b", x.lanes, x.secret))
		if proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("%d lanes, secret %d: %v", x.lanes, x.secret, err)
		}
		if err == nil {
			closeNode(t, b)
		}
	}
	closeNode(t, testNode(t, t.TempDir(), member("b", 2, 7)))
}

// A node alone that lost its store rebuilds it with the lanes that the log has, and no
// others.
func TestRebuiltWithOtherLanes(t *testing.T) {
	dir := t.TempDir()
	lanes := func(n int) func(*engine.Config) { return func(c *engine.Config) { c.Lanes = n } }
	a := testNode(t, dir, lanes(2))
	for i := range 20 {
		submit(t, a, page(acme(t, a), fmt.Sprint("v", i), "auto", time.Now()))
	}
	optOut(t, a, "browser:v3", false)
	closeNode(t, a)
	if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	for _, other := range []int{1, 4} {
		b, err := openNode(t, dir, lanes(other))
		if proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("rebuilt with %d lanes: %v", other, err)
		}
		if err == nil {
			closeNode(t, b)
		}
	}
	b := testNode(t, dir, lanes(2))
	defer closeNode(t, b)
	if s, err := b.OptOutState(t.Context(), "browser:v3"); err != nil || !s.OptedOut {
		t.Errorf("rebuilt: %+v, %v", s, err)
	}
}
