package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// grouped makes a client of the space "group".
func grouped(t *testing.T, n *engine.Node, name proto.ClientName) (proto.ClientInfo, string) {
	t.Helper()
	key, err := n.CreateKey(t.Context(), name, proto.RoleClient, "group")
	if err != nil {
		t.Fatal(err)
	}
	c, ok := n.Client(name)
	if !ok {
		t.Fatalf("client %s is missing", name)
	}
	return c, key
}

func browser(i int) proto.Identity { return proto.Identity(fmt.Sprint("browser:v", i)) }

// furnish gives two clients of a space identities in common and apart, links,
// segments of both scopes, and a long history. Of the five of browser 10's user
// two are joined by the other client's link alone.
func furnish(t *testing.T, n *engine.Node, mine, other proto.ClientInfo, identities int) {
	t.Helper()
	for _, c := range []proto.ClientInfo{mine, other} {
		defineUser(t, n, c, "seen", `count(true) >= 1`)
		if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: "own", Scope: "identity", When: `count(event.section == "auto", "30d") >= 1 && member("seen")`}); err != nil {
			t.Fatal(err)
		}
	}
	var list []*proto.Event
	for i := range identities {
		list = append(list, page(mine, fmt.Sprint("v", i), "auto", time.Now()))
		if i%10 == 0 {
			list = append(list, page(other, fmt.Sprint("v", i), "auto", time.Now()))
		}
	}
	for range 40 { // more than a history's tail has room for
		e := page(mine, "v0", "auto", time.Now())
		e.Props = append(e.Props, proto.Prop{Key: "pad", Value: proto.TextOf(strings.Repeat("x", 200))})
		list = append(list, e)
	}
	submit(t, n, list...)
	for i := 1; i < 40; i += 4 { // users of two, linked by one of them
		link(t, n, mine, browser(i), browser(i+1), yes())
	}
	link(t, n, other, browser(10), browser(20), yes())
	link(t, n, mine, browser(20), browser(30), yes())
	link(t, n, mine, browser(3), "account:named-by-a-link-alone", yes())
}

// erased waits until nothing of the client is left.
func erased(t *testing.T, n *engine.Node, name proto.ClientName) {
	t.Helper()
	until(t, n, 30*time.Second, "erasing", func() bool {
		x, ok := n.ClientErasure(name)
		return ok && x.Erased
	})
}

func traces(t *testing.T, n *engine.Node, c proto.ClientInfo) []string {
	t.Helper()
	list, err := n.Traces(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// After the erasure of a client nothing of it is left, and the others of its
// space have what they would have without it.
func TestEraseClient(t *testing.T) {
	for _, k := range []int{1, 4} {
		t.Run(fmt.Sprint("lanes=", k), func(t *testing.T) {
			dir := t.TempDir()
			n := testNode(t, dir, lanes(k))
			defer func() { closeNode(t, n) }()
			mine, key := grouped(t, n, "alpha")
			other, otherKey := grouped(t, n, "beta")
			furnish(t, n, mine, other, 2500)
			if got := membersOf(t, n, other, browser(10)); len(got) != 5 {
				t.Fatalf("the user is %v", got)
			}
			x, err := n.EraseClient(t.Context(), "alpha")
			if err != nil || x.Client != "alpha" || x.Lanes.Of != k {
				t.Fatalf("%+v, %v", x, err)
			}
			submit(t, n, page(mine, "v1", "auto", time.Now()), page(mine, "quite-new", "auto", time.Now()))
			erased(t, n, "alpha")
			submit(t, n, page(mine, "v2", "auto", time.Now()), page(mine, "even-later", "auto", time.Now()))
			if x, err := n.Link(t.Context(), mine, proto.Link{A: browser(50), B: browser(60), Confidence: 1}); err != nil || x.Linked {
				t.Errorf("a link of an ended client: %+v, %v", x, err)
			}
			settle(t, n)
			if list := traces(t, n, mine); len(list) > 0 {
				t.Errorf("%d traces: %v", len(list), list[:min(len(list), 5)])
			}
			if _, ok := n.Client("alpha"); ok {
				t.Error("the client is there still")
			}
			if _, ok := n.Authenticate(key); ok {
				t.Error("its key opens still")
			}
			if _, ok := n.Authenticate(otherKey); !ok {
				t.Error("another client's key was revoked")
			}
			for _, id := range []proto.Identity{browser(0), browser(1), "browser:quite-new"} {
				if seen, list := lookup(t, n, mine, id); seen.Known || len(list) > 0 {
					t.Errorf("%s is known still: %v", id, list)
				}
			}
			if got := count(t, n, other, "own"); got != 250 {
				t.Errorf("the other client has %d members, want 250", got)
			}
			wantSegments(t, n, other, browser(20), "seen", "own")
			if diff := cmp.Diff([]proto.Identity{browser(10), browser(20)}, membersOf(t, n, other, browser(20))); diff != "" {
				t.Errorf("the user by the other's link alone (-want +got):\n%s", diff)
			}
			again, err := n.EraseClient(t.Context(), "alpha")
			if err != nil || !again.Erased {
				t.Errorf("once more: %+v, %v", again, err)
			}
			if report := settle(t, n); report.Identities != 250 {
				t.Errorf("%d identities have a name, want 250", report.Identities)
			}
			if _, err := n.EraseClient(t.Context(), "nobody"); proto.CodeOf(err) != proto.CodeNotFound {
				t.Errorf("nobody: %v", err)
			}
			fresh, _ := grouped(t, n, "alpha")
			submit(t, n, page(fresh, "v77", "auto", time.Now()))
			if fresh.ID == mine.ID || len(n.Segments(fresh)) != 0 {
				t.Errorf("a new client of the name: %+v", fresh)
			}
			if seen, _ := lookup(t, n, fresh, browser(77)); !seen.Known {
				t.Error("a new client of the name is not heard")
			}
		})
	}
}

// serveErasure is a node of two lanes that begins to erase alpha, says so, and ends by
// being killed.
func serveErasure(dir string, out io.Writer) error {
	c := killConfig(dir)
	c.Lanes = 2
	n, err := engine.Open(context.Background(), c)
	if err != nil {
		return err
	}
	if _, err := n.EraseClient(context.Background(), "alpha"); err != nil {
		return err
	}
	fmt.Fprintln(out, "erasing")
	select {}
}

// eraseAndDie has a node at dir begin to erase alpha, and kills it then.
func eraseAndDie(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "KITH_TEST_ERASE="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if line != "erasing\n" {
		t.Fatalf("the node says %q, %v", line, err)
	}
}

// An erasure that a kill or a stop broke off goes on after it. One that was done before
// the kill came, or while the node opened, shows nothing: then with more to erase.
func TestEraseClientOverRestarts(t *testing.T) {
	identities := 5000
	for eraseOverRestarts(t, identities) == 0 {
		if identities *= 4; identities > 100_000 {
			t.Fatal("nothing was left to be done after the kill")
		}
	}
}

// eraseOverRestarts erases a client of so many identities over a kill and stops, and
// returns after how many starts it was not erased.
func eraseOverRestarts(t *testing.T, identities int) int {
	dir := t.TempDir()
	n := testNode(t, dir, lanes(2))
	mine, _ := grouped(t, n, "alpha")
	other, _ := grouped(t, n, "beta")
	furnish(t, n, mine, other, identities)
	closeNode(t, n)
	eraseAndDie(t, dir)
	steps := 0
	for ; steps < 4; steps++ {
		n = testNode(t, dir, lanes(2))
		if x, _ := n.ClientErasure("alpha"); x.Erased {
			break
		}
		closeNode(t, n)
	}
	t.Logf("%d identities: %d times not erased after a start", identities, steps)
	if steps == 4 {
		n = testNode(t, dir, lanes(2))
	}
	defer func() { closeNode(t, n) }()
	erased(t, n, "alpha")
	settle(t, n)
	if list := traces(t, n, mine); len(list) > 0 {
		t.Errorf("%d traces: %v", len(list), list[:min(len(list), 5)])
	}
	if _, ok := n.Client("alpha"); ok {
		t.Error("the client came back with the restart")
	}
	if got := count(t, n, other, "own"); got != uint64(identities/10) {
		t.Errorf("the other client has %d members, want %d", got, identities/10)
	}
	return steps
}

// Dead letters of an ended client go with it.
func TestEraseClientDeadLetters(t *testing.T) {
	var p poison
	n := nodeOver(t, func(s *script) {
		acme, bad := s.client("acme", ""), s.client("bad", "")
		p.client = bad.ID
		s.judge = p.judge
		s.define(acme, "one", `count(true) >= 1`)
	})
	defer func() { closeNode(t, n) }()
	bad, _ := n.Client("bad")
	p.on.Store(true)
	submit(t, n, page(bad, "a", "lost", time.Now()))
	p.on.Store(false)
	if got := deadLetters(t, n); len(got) != 1 {
		t.Fatalf("%d dead letters", len(got))
	}
	if _, err := n.EraseClient(t.Context(), "bad"); err != nil {
		t.Fatal(err)
	}
	erased(t, n, "bad")
	if got := deadLetters(t, n); len(got) != 0 {
		t.Errorf("%d dead letters are left", len(got))
	}
	if list := traces(t, n, bad); len(list) > 0 {
		t.Error(list)
	}
}

// A step that is not the next one is not taken for it: what lies between would
// be left.
func TestForgetOutOfOrder(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	s.events(s.event(c, "a", "x"), s.event(c, "b", "x"))
	s.control(eraseRecord(c))
	for _, x := range []proto.Forget{
		{First: 50, Last: 60, Done: true}, {Last: 49}, {Last: 49}, {First: 51, Last: 60, Done: true},
	} {
		x.Client, x.Space = c.ID, c.Space
		s.lane(proto.CommandForget, x.Append(nil))
	}
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	if x, ok := n.ClientErasure("acme"); !ok || x.Erased || x.Lanes.Answered != 0 {
		t.Errorf("the erasure is %+v", x)
	}
	closeNode(t, n)
	last := proto.Forget{Client: c.ID, Space: c.Space, First: 50, Last: 1<<32 - 1, Done: true}
	s.lane(proto.CommandForget, last.Append(nil))
	s.beat(time.Second)
	n = s.run(st)
	if x, ok := n.ClientErasure("acme"); !ok || !x.Erased {
		t.Errorf("with the last step the erasure is %+v", x)
	}
	closeNode(t, n)
	if r := s.verify(st); r.Identities != 0 || r.Events != 0 {
		t.Errorf("left are %+v", r)
	}
}

// A backup from after one client's erasure does not have what was erased.
func TestBackupAfterErase(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer func() { closeNode(t, n) }()
	mine, _ := grouped(t, n, "mine")
	other, _ := grouped(t, n, "other")
	submit(t, n, page(mine, "v", "SECRETOFMINE", time.Now()), page(other, "v", "ofother", time.Now()))
	secrets := func() int {
		var file bytes.Buffer
		if err := n.Backup(t.Context(), &file); err != nil {
			t.Fatal(err)
		}
		return bytes.Count(file.Bytes(), []byte("SECRETOFMINE"))
	}
	if secrets() == 0 {
		t.Fatal("the backup of before does not have the property: the test sees nothing")
	}
	if s, err := n.Erase(t.Context(), &mine, "browser:v"); err != nil || !s.Final {
		t.Fatalf("erase: %+v, %v", s, err)
	}
	if got := secrets(); got > 0 {
		t.Errorf("%d erased values are in the backup", got)
	}
}

func eraseRecord(c proto.ClientInfo) *pb.Control {
	return &pb.Control{Body: &pb.Control_EraseClient{EraseClient: &pb.EraseClient{Client: uint32(c.ID), Space: uint32(c.Space)}}}
}

// A step of a client that was never ended is nothing that this build wrote.
func TestForgetOfLivingClient(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	s.events(s.event(c, "a", "x"))
	x := proto.Forget{Client: c.ID, Space: c.Space, Last: 100, Done: true}
	s.lane(proto.CommandForget, x.Append(nil))
	s.beat(time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n, err := engine.NewOver(s.config(), s, store.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Start(ctx); proto.CodeOf(err) != proto.CodeQuarantined && proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("start: %v", err)
	}
}

// The record of an erasure stays what it is on disk.
func TestClientErasureRecord(t *testing.T) {
	const want = "01 01 ac02 f0a204 8080808010"
	got := engine.PackClientErasure(300, 70_000, 1<<32, true)
	if text := fmt.Sprintf("%x", got); text != strings.ReplaceAll(want, " ", "") {
		t.Errorf("bytes on disk would change: %s, want %s", text, want)
	}
	if again, err := engine.RepackClientErasure(got); err != nil || string(again) != string(got) {
		t.Errorf("read again: %x, %v", again, err)
	}
}

func FuzzClientErasureRecord(f *testing.F) {
	f.Add(engine.PackClientErasure(300, 70_000, 1<<32, true))
	f.Add(engine.PackClientErasure(1, 1, 0, false))
	f.Add([]byte{2, 0, 1, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		one, err := engine.RepackClientErasure(b)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		if two, err := engine.RepackClientErasure(one); err != nil || string(two) != string(one) {
			t.Fatalf("%x reads as %x, that as %x (%v)", b, one, two, err)
		}
	})
}

// What one client had erased stays that in its receipt when the client has ended since:
// a receipt that names no client says that all of the identity is gone.
func TestReceiptOfEndedClient(t *testing.T) {
	n := testNode(t, t.TempDir())
	c := acme(t, n)
	submit(t, n, page(c, "v", "auto", time.Now()))
	s, err := n.Erase(t.Context(), &c, "browser:v")
	if err != nil || !s.Final || s.Receipt.Client != "acme" {
		t.Fatalf("%+v %v", s, err)
	}
	if _, err := n.EraseClient(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if s, err = n.OptOutStateFor(t.Context(), c, "browser:v"); err != nil || s.Receipt == nil || s.Receipt.Client != "acme" {
		t.Errorf("%+v %v", s.Receipt, err)
	}
	closeNode(t, n)
}
