package engine

import (
	"path/filepath"
	"testing"
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
