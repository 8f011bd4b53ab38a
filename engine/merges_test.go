package engine

import (
	"os"
	"path/filepath"
	"testing"

	"kith/proto"
)

// What merges may take is not for events, and only on the store's disk; it stops
// nothing else.
func TestRoomForMerges(t *testing.T) {
	const gb = 1 << 30
	for _, x := range []struct {
		free   uint64
		merges uint64
	}{{0, 0}, {8 * gb, 0}, {8*gb + 1, 5 * gb / 2}, {1 << 50, 5 * gb / 2}} {
		if got := mergesOf(x.free); got != x.merges {
			t.Errorf("with %d free merges may take %d, not %d", x.free, got, x.merges)
		}
	}
	dir := t.TempDir()
	if d := newDisk(0, 0, dir, dir); d.low() || d.stopped() {
		t.Skip("the disk is nearly full")
	}
	if d := newDisk(0, 1<<60, dir, dir); !d.low() || d.stopped() {
		t.Error("with less free than merges may take events are taken in, or everything is stopped")
	}
	if made := filepath.Join(dir, "not", "yet"); diskSize(made) != diskSize(dir) {
		t.Error("the disk of a directory that is to be made is not known")
	}
	if d := newDisk(1, 1<<60, dir); d.low() {
		t.Error("a reserve that was configured is not what counts")
	}
}

// The log of a full disk is not purged.
func TestNoPurgeOnFullDisk(t *testing.T) {
	l := &lane{node: &Node{disk: newDisk(1<<63, 0, t.TempDir())}}
	if err := l.purge(t.Context(), 1); proto.CodeOf(err) != proto.CodeDiskFull {
		t.Errorf("a purge on a full disk: %v", err)
	}
}

// Opening a store takes room for what a crash left in memory tables, without their
// holes.
func TestRoomToOpen(t *testing.T) {
	dir := t.TempDir()
	none := opening(dir)
	for _, name := range []string{"00001.mem", "00002.mem"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.Write(make([]byte, 1<<20)); err == nil {
			err = f.Truncate(1 << 30)
		}
		if err != nil || f.Sync() != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	if more := opening(dir) - none; more < 2<<20 || more > 1<<29 {
		t.Errorf("two tables with a MiB each take %d bytes more", more)
	}
}
