package engine_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

// A disk that fills up under a node: events are refused with a clear error,
// look-ups go on, the process lives, and once there is space all goes on and
// nothing acknowledged is lost.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system: not in short runs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=320m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	n := testNode(t, filepath.Join(dir, "data"), func(c *engine.Config) { c.DiskReserve = 0; c.LogBytesMax = 0 })
	define(t, n, "all", "count(true) >= 1")
	submit(t, n, page(acme(t, n), "a", "x", time.Now()))

	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(acme(t, n), "b", "x", time.Now()))
	for deadline := time.Now().Add(5 * time.Second); ; {
		r := n.Submit(t.Context(), &b)
		if proto.CodeOf(r.Err) == proto.CodeDiskFull {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("submit on a full disk: %v, want %s", r.Err, proto.CodeDiskFull)
		}
	}
	if err := n.Ready(); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("ready on a full disk: %v", err)
	}
	if got := segmentsOf(t, n, "a"); len(got) != 1 {
		t.Errorf("look-up on a full disk gives %v", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); n.Ready() != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("not ready with space again: %v", n.Ready())
		}
		if err := n.AwaitChange(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	submit(t, n, page(acme(t, n), "b", "x", time.Now()))
	if r := verifyClean(t, n); r.Identities != 2 {
		t.Errorf("%d identities, want a and b", r.Identities)
	}
	closeNode(t, n)
	fill(t, filler)
	if n, err := openNode(t, filepath.Join(dir, "data"), func(c *engine.Config) { c.DiskReserve = 0; c.LogBytesMax = 0 }); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("a start on a full disk: %v", err)
		if err == nil {
			closeNode(t, n)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, filepath.Join(dir, "data"), func(c *engine.Config) { c.DiskReserve = 0; c.LogBytesMax = 0 })
	defer closeNode(t, n)
	if len(segmentsOf(t, n, "a")) != 1 || len(segmentsOf(t, n, "b")) != 1 {
		t.Error("a or b was lost")
	}
}

// A node that is stopped on a full disk writes nothing more, says so, and starts again
// with all of it once there is space.
func TestCloseOnFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system: not in short runs")
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=320m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { // the store that was left holds its files until the process ends
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	roomy := func(c *engine.Config) { c.DiskReserve = 0; c.LogBytesMax = 0 }
	dir, filler := filepath.Join(small, "data"), filepath.Join(small, "filler")
	n := testNode(t, dir, roomy)
	define(t, n, "all", "count(true) >= 1")
	submit(t, n, page(acme(t, n), "a", "x", time.Now()))
	tables := func() []string {
		list, err := filepath.Glob(filepath.Join(dir, "store", "*.sst"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	before := len(tables())
	fill(t, filler)
	if err := n.Close(); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("closed on a full disk: %v, want %s", err, proto.CodeDiskFull)
	}
	if after := len(tables()); after != before {
		t.Errorf("on a full disk the store wrote %d tables", after-before)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "data") // this process has the other one locked
	if err := os.CopyFS(again, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, again, roomy)
	defer closeNode(t, n)
	if len(segmentsOf(t, n, "a")) != 1 {
		t.Error("a was lost")
	}
}

// What is loaded into a store ends before it fills the disk, by which the process would.
func TestLoadOnFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system: not in short runs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=192m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	from, err := store.Open(store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 256 {
		b := from.NewBatch()
		for k := range 8 {
			value := make([]byte, 0, 128<<10)
			for len(value) < cap(value) {
				value = binary.LittleEndian.AppendUint64(value, random.Uint64())
			}
			if err := b.Set(fmt.Appendf(nil, "%06d", 8*i+k), value); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Apply(); err != nil {
			t.Fatal(err)
		}
	}
	out, in := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { in.CloseWithError(from.Backup(in, func(store.Snapshot) error { return nil })) })
	defer writing.Wait()
	defer out.Close()
	if err := engine.LoadStore(engine.Config{Dir: dir}, out); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("256 MB were loaded on a disk of 192: %v", err)
	} else {
		t.Log(err)
	}
}

// fill writes until no byte is left.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zeros := make([]byte, 1<<16)
	for {
		if _, err := f.Write(zeros); err != nil {
			return
		}
	}
}
