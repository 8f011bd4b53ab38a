package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kith/engine"
	"kith/proto"
)

// testNode opens a node over dir with a client "acme".
func testNode(t *testing.T, dir string, change ...func(*engine.Config)) *engine.Node {
	t.Helper()
	n, err := openNode(t, dir, change...)
	if err != nil {
		t.Fatalf("open node: %v", err)
	}
	return n
}

func openNode(t *testing.T, dir string, change ...func(*engine.Config)) (*engine.Node, error) {
	t.Helper()
	c := engine.Config{
		Dir: dir, LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true,
		Boot: []engine.BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}},
	}
	for _, f := range change {
		f(&c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return engine.Open(ctx, c)
}

func acme(t *testing.T, n *engine.Node) proto.ClientInfo {
	t.Helper()
	c, ok := n.Client("acme")
	if !ok {
		t.Fatal("client acme is missing")
	}
	return c
}

func define(t *testing.T, n *engine.Node, id, when string) {
	t.Helper()
	spec := proto.SegmentSpec{ID: proto.SegmentID(id), Scope: "identity", When: when, Backfill: true}
	if _, err := n.Define(t.Context(), acme(t, n), spec); err != nil {
		t.Fatalf("define %s: %v", id, err)
	}
}

func page(c proto.ClientInfo, visitor, section string, at time.Time) *proto.Event {
	return &proto.Event{
		Client: c.ID, Space: c.Space, Time: proto.MillisOf(at), Received: proto.MillisOf(time.Now()),
		Identities: []proto.Identity{proto.Identity("browser:" + visitor)},
		EventBody:  proto.EventBody{Name: "page", Props: []proto.Prop{{Key: "section", Value: proto.TextOf(section)}}},
	}
}

// submit logs the events and waits until they are applied.
func submit(t *testing.T, n *engine.Node, events ...*proto.Event) proto.Position {
	t.Helper()
	var b proto.Batch
	for _, e := range events {
		b.AddEvent(n.Hasher(), e)
	}
	r := n.Submit(t.Context(), &b)
	if r.Err != nil {
		t.Fatalf("submit: %v", r.Err)
	}
	if err := n.Wait(t.Context(), r.Position); err != nil {
		t.Fatalf("wait: %v", err)
	}
	return r.Position
}

func segmentsOf(t *testing.T, n *engine.Node, visitor string) []proto.SegmentID {
	t.Helper()
	_, list, err := n.Lookup(acme(t, n), proto.Identity("browser:"+visitor), proto.MillisOf(time.Now()), nil)
	if err != nil {
		t.Fatalf("look-up: %v", err)
	}
	return list
}

func closeNode(t *testing.T, n *engine.Node) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func verifyClean(t *testing.T, n *engine.Node) engine.VerifyReport {
	t.Helper()
	r, err := n.Verify(t.Context())
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	if len(r.Problems) > 0 {
		t.Fatalf("verify found %d differences: %v", len(r.Problems), r.Problems)
	}
	return r
}

func TestEventToSegment(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprintf("lanes=%d", lanes), func(t *testing.T) {
			dir := t.TempDir()
			n := testNode(t, dir, func(c *engine.Config) { c.Lanes = lanes })
			define(t, n, "auto", `count(event.section == "auto", "30d") >= 2`)
			now := time.Now()
			submit(t, n, page(acme(t, n), "a", "auto", now), page(acme(t, n), "b", "auto", now), page(acme(t, n), "a", "auto", now))
			if diff := cmp.Diff([]proto.SegmentID{"auto"}, segmentsOf(t, n, "a")); diff != "" {
				t.Errorf("segments of a (-want +got):\n%s", diff)
			}
			if got := segmentsOf(t, n, "b"); len(got) != 0 {
				t.Errorf("b is in %v after one view", got)
			}
			before := verifyClean(t, n)
			if before.Identities != 2 || before.Events != 3 {
				t.Errorf("verify saw %d identities and %d events, want 2 and 3", before.Identities, before.Events)
			}
			closeNode(t, n)

			n = testNode(t, dir, func(c *engine.Config) { c.Lanes = lanes })
			defer closeNode(t, n)
			if diff := cmp.Diff([]proto.SegmentID{"auto"}, segmentsOf(t, n, "a")); diff != "" {
				t.Errorf("segments of a after a restart (-want +got):\n%s", diff)
			}
			submit(t, n, page(acme(t, n), "b", "auto", now))
			count, err := n.Count(t.Context(), acme(t, n), "auto", "")
			if err != nil || *count.Count != 2 {
				t.Errorf("count of auto after a restart = %v, %v, want 2", count.Count, err)
			}
			verifyClean(t, n)
		})
	}
}

// A membership ends when its window does, with no event arriving.
func TestExitByTime(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	define(t, n, "hot", `count(true, "2s") >= 1`)
	start := time.Now()
	submit(t, n, page(acme(t, n), "a", "x", start))
	size := func() uint64 {
		c, err := n.Count(t.Context(), acme(t, n), "hot", "")
		if err != nil {
			t.Fatal(err)
		}
		return *c.Count
	}
	if size() != 1 {
		t.Fatal("a is not in the segment at once")
	}
	for size() != 0 {
		if time.Since(start) > 20*time.Second {
			t.Fatal("a never left")
		}
		if err := n.AwaitChange(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 1900*time.Millisecond {
		t.Errorf("a left after %v, want not before 2s", took)
	}
	verifyClean(t, n)
}

// A segment that is defined late is filled from history, and a segment that
// is replaced has a new membership.
func TestFillFromHistory(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	now := time.Now()
	var events []*proto.Event
	for i := range 3000 {
		events = append(events, page(acme(t, n), fmt.Sprint("v", i%1500), []string{"auto", "home", "sport"}[i%3], now))
	}
	submit(t, n, events...)
	define(t, n, "auto", `count(event.section == "auto", "30d") >= 2`)
	for {
		s, _ := n.Segment(acme(t, n), "auto")
		if *s.Filled {
			if *s.Size != 500 {
				t.Errorf("auto has %d members after the fill, want 500", *s.Size)
			}
			break
		}
		if err := n.AwaitChange(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	verifyClean(t, n)
}

// What a node writes down in small files outlives a power cut with its name: the
// directory is synced after each change of it.
func TestDirectoriesAreSynced(t *testing.T) {
	for name, write := range map[string]func(dir string) error{
		"hash secret": func(dir string) error { _, err := engine.HashSecret(dir); return err },
		"receipts":    func(dir string) error { _, err := engine.ReceiptKey(dir); return err },
	} {
		dir := t.TempDir()
		if list := changesIn(t, dir, func() error { return write(dir) }); !slices.Equal(list, []string{"secrets", "sync"}) {
			t.Errorf("%s, the first start: %v", name, list)
		}
		secrets := filepath.Join(dir, "secrets")
		if err := os.RemoveAll(secrets); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(secrets, 0o700); err != nil {
			t.Fatal(err)
		}
		if list := changesIn(t, secrets, func() error { return write(dir) }); len(list) == 0 || list[len(list)-1] != "sync" {
			t.Errorf("%s, its file: %v", name, list)
		}
	}
	dir := t.TempDir()
	for _, drain := range []bool{true, false} {
		if list := changesIn(t, dir, func() error { return engine.NoteDraining(dir, drain) }); len(list) == 0 || list[len(list)-1] != "sync" {
			t.Errorf("that a node drains, %v: %v", drain, list)
		}
	}
}

// changesIn are the names that come to a directory or go while fn runs, and "sync"
// where the directory is opened itself, as nothing but a sync does here.
func changesIn(t *testing.T, dir string, fn func() error) (list []string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Skipf("directories cannot be watched here: %v", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVE|unix.IN_DELETE|unix.IN_OPEN); err != nil {
		t.Skipf("directories cannot be watched here: %v", err)
	}
	if err := fn(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16<<10)
	n, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	for buf = buf[:n]; len(buf) > 0; { // watch(4), mask(4), cookie(4), length(4), name
		mask, size := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint32(buf[12:])
		name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:][:size], "\x00"))
		buf = buf[unix.SizeofInotifyEvent+size:]
		switch {
		case mask&unix.IN_OPEN == 0:
			list = append(list, name)
		case name == "":
			list = append(list, "sync")
		}
	}
	return list
}
