package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"kith/cluster"
	"kith/internal/porttest"
	"kith/proto"
)

// gossipers are configurations of n nodes that know one another's addresses.
func gossipers(t *testing.T, n int) (list []cluster.Config) {
	t.Helper()
	var addrs []string
	for range n {
		addrs = append(addrs, porttest.Free(t))
	}
	for i := range n {
		list = append(list, cluster.Config{
			Name: fmt.Sprintf("n%d", i+1), Cluster: "test", Listen: addrs[i], Join: addrs, Remote: "remote:" + fmt.Sprint(i+1),
			Keys: [][]byte{bytes.Repeat([]byte{7}, 32)}, Lanes: lanes, Replicas: 2,
		})
	}
	return list
}

func join(t *testing.T, c cluster.Config) *cluster.Membership {
	t.Helper()
	m, err := cluster.Join(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leave(m) })
	return m
}

func leave(m *cluster.Membership) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = m.Leave(ctx)
}

// await waits until m's table is as wanted.
func await(t *testing.T, m *cluster.Membership, what string, ok func(*cluster.Table) bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		changed := m.Changed()
		if ok(m.Table()) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s: not within 30 s, members are %+v", what, m.Table().Members())
		}
	}
}

func hasNames(want string) func(*cluster.Table) bool {
	return func(x *cluster.Table) bool {
		var got []string
		for _, m := range x.Members() {
			got = append(got, m.Name)
		}
		return strings.Join(got, " ") == want
	}
}

// TestMembersFindOneAnother: all get to know all, what each says of itself,
// and who is gone, told or not.
func TestMembersFindOneAnother(t *testing.T) {
	list := gossipers(t, 3)
	var nodes []*cluster.Membership
	for _, c := range list {
		nodes = append(nodes, join(t, c))
	}
	for _, m := range nodes {
		await(t, m, "three members", hasNames("n1 n2 n3"))
	}
	nodes[1].SetReady(cluster.Lanes(0).With(5))
	nodes[2].SetReady(cluster.Lanes(0).With(5))
	for _, m := range nodes {
		await(t, m, "two are ready", func(x *cluster.Table) bool { return len(x.Answering(5)) == 2 })
	}
	owner := nodes[0].Table().Owner(5)
	for i, m := range nodes {
		if list[i].Name == owner {
			m.SetDraining(true)
		}
	}
	for _, m := range nodes {
		await(t, m, "the owner drains", func(x *cluster.Table) bool { return x.Owner(5) != owner && len(x.Answering(5)) == 2 })
	}
	if x, ok := nodes[0].Table().Member("n3"); !ok || x.Remote != "remote:3" || x.Started == 0 {
		t.Errorf("n3 is known as %+v", x)
	}
	leave(nodes[2])
	for _, m := range nodes[:2] {
		await(t, m, "n3 left", hasNames("n1 n2"))
	}
	nodes[1].Kill()
	await(t, nodes[0], "n2 died", hasNames("n1"))
	// It comes back as another process, with an address that is the same.
	back := join(t, list[1])
	await(t, nodes[0], "n2 is back", hasNames("n1 n2"))
	await(t, back, "n2 knows of n1", hasNames("n1 n2"))
}

// TestMembersByName: hosts may be named, a node may listen everywhere if it
// says where it is, and one at localhost listens there only, as whoever leaves
// out the key relies on.
func TestMembersByName(t *testing.T) {
	list := gossipers(t, 2)
	byName := func(addr string) string { return strings.Replace(addr, "127.0.0.1", "localhost", 1) }
	list[0].Listen = byName(list[0].Listen)
	list[1].Listen, list[1].Advertise = strings.Replace(list[1].Listen, "127.0.0.1", "0.0.0.0", 1), byName(list[1].Listen)
	list[1].Join = []string{list[0].Listen}
	list[0].Join = nil // it hears of the other's address from that
	nodes := []*cluster.Membership{join(t, list[0]), join(t, list[1])}
	for _, m := range nodes {
		await(t, m, "both are there", hasNames("n1 n2"))
	}
	nodes[1].SetReady(1)
	await(t, nodes[0], "gossip arrives", func(x *cluster.Table) bool { return x.Owner(0) == "n2" })
	nodes[0].SetReady(1 << 1)
	await(t, nodes[1], "the other way too", func(x *cluster.Table) bool { return x.Owner(1) == "n1" })
	_, port, err := net.SplitHostPort(list[0].Listen)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.2:"+port) // taken by who listens everywhere
	if err != nil {
		t.Fatalf("a node at localhost listens elsewhere too: %v", err)
	}
	l.Close()

	lost := list[0]
	lost.Listen = "no-such-host.invalid:7946"
	if _, err := cluster.Join(lost); proto.CodeOf(err) != proto.CodeUnavailable || !strings.Contains(err.Error(), "no-such-host.invalid") {
		t.Errorf("a host that nobody knows: %v", err)
	}
}

// TestKeysChangeWithoutPause: while keys are exchanged one node after the
// other, all see all.
func TestKeysChangeWithoutPause(t *testing.T) {
	old, fresh := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{9}, 32)
	list := gossipers(t, 2)
	nodes := []*cluster.Membership{join(t, list[0]), join(t, list[1])}
	for _, keys := range [][][]byte{{old, fresh}, {fresh, old}, {fresh}} {
		for i := range nodes {
			leave(nodes[i])
			list[i].Keys = keys
			nodes[i] = join(t, list[i])
			for _, m := range nodes {
				await(t, m, "both are there", hasNames("n1 n2"))
			}
		}
	}
}

// TestStrangersStayOutside: gossip without the key, of another cluster, or
// that is none changes nothing and ends nobody.
func TestStrangersStayOutside(t *testing.T) {
	list := gossipers(t, 3)
	var said said
	list[0].Logger = slog.New(slog.NewTextHandler(&said, nil))
	m := join(t, list[0])
	other := join(t, list[1])
	await(t, m, "two members", hasNames("n1 n2"))
	for name, spoil := range map[string]func(c *cluster.Config){
		"another key":     func(c *cluster.Config) { c.Keys = [][]byte{bytes.Repeat([]byte{8}, 32)} },
		"no key":          func(c *cluster.Config) { c.Keys = nil },
		"another cluster": func(c *cluster.Config) { c.Cluster = "theirs" },
	} {
		c := list[2]
		c.Name = "stranger"
		spoil(&c)
		s, err := cluster.Join(c)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if !hasNames("stranger")(s.Table()) {
			t.Errorf("%s: it sees %+v", name, s.Table().Members())
		}
		leave(s)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for _, network := range []string{"udp", "tcp"} {
		for range 200 {
			c, err := net.Dial(network, list[0].Listen)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1+r.IntN(600))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			b[0] = byte(r.IntN(16)) // a kind of message
			_, _ = c.Write(b)
			c.Close()
		}
	}
	if !hasNames("n1 n2")(m.Table()) {
		t.Errorf("members are %+v", m.Table().Members())
	}
	other.SetReady(1)
	await(t, m, "gossip goes on", func(x *cluster.Table) bool { return x.Owner(0) == "n2" })
	if !strings.Contains(said.String(), "from=memberlist") {
		t.Error("nothing was logged about it")
	}
}

type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestConfigValidate(t *testing.T) {
	good := func() cluster.Config {
		return cluster.Config{Name: "n1", Cluster: "c", Listen: "127.0.0.1:1", Lanes: 1, Replicas: 2}
	}
	c := good()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*cluster.Config){
		"node name":    func(c *cluster.Config) { c.Name = "a/b" },
		"single dots":  func(c *cluster.Config) { c.Name = "a..b" },
		"cluster name": func(c *cluster.Config) { c.Cluster = strings.Repeat("x", 65) },
		"host:port":    func(c *cluster.Config) { c.Listen = "127.0.0.1" },
		"in the clear": func(c *cluster.Config) { c.Listen = "0.0.0.0:1" },
		"cannot reach": func(c *cluster.Config) { c.Listen, c.Keys = "[::]:1", [][]byte{make([]byte, 16)} },
		"lanes":        func(c *cluster.Config) { c.Lanes = proto.LanesMax + 1 },
		"replicas":     func(c *cluster.Config) { c.Replicas = 0 },
		"16, 24 or 32": func(c *cluster.Config) { c.Keys = [][]byte{{1}} },
		`"h" is not`:   func(c *cluster.Config) { c.Join = []string{"h"} },
		`"a" is not`:   func(c *cluster.Config) { c.Advertise = "a" },
		"longer than":  func(c *cluster.Config) { c.Remote = strings.Repeat("r", 256) },
	} {
		c := good()
		spoil(&c)
		if err := c.Validate(); proto.CodeOf(err) != proto.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	c = good()
	c.Name, c.Cluster, c.Remote = strings.Repeat("n", 64), strings.Repeat("c", 64), strings.Repeat("r", 255)
	c.Listen = porttest.Free(t)
	m := join(t, c)
	m.SetReady(^cluster.Lanes(0))
	m.SetDraining(true)
	await(t, m, "the longest state", func(x *cluster.Table) bool { return x.Owner(0) == c.Name })
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"c":"test","n":"n1","s":5,"a":"h:1","r":3}`))
	f.Add([]byte(`{"c":"other","n":"n1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := cluster.DecodeState(b, "test")
		if err != nil && proto.CodeOf(err) != proto.CodeInvalid {
			t.Fatalf("%v", err)
		}
		if err == nil && (m.Name == "" || len(m.Name) > 64) {
			t.Fatalf("%+v", m)
		}
	})
}
