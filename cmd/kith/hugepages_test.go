package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func TestCanAskForHugePages(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	absent := filepath.Join(dir, "absent")
	asked, always, never := file("asked", "always [madvise] never\n"), file("always", "[always] madvise never\n"), file("never", "always madvise [never]\n")
	free, strict := file("free", "0\n"), file("strict", "2\n")
	for _, c := range []struct {
		enabled, overcommit string
		want                bool
	}{
		{asked, free, true}, {always, free, false}, {never, free, false}, {asked, strict, false}, {absent, free, false}, {asked, absent, false},
	} {
		if got := canAskForHugePages(c.enabled, c.overcommit); got != c.want {
			t.Errorf("%s, %s: %v, not %v", filepath.Base(c.enabled), filepath.Base(c.overcommit), got, c.want)
		}
	}
}

var heldByTest strings.Builder

// What is allocated after a heap was advised lies where huge pages were asked for,
// and what was mapped for that is not used.
func TestAdviseHeap(t *testing.T) {
	if !canAskForHugePages(hugePagesSetting, overcommitSetting) {
		t.Skipf("%s is not madvise, or address space is bounded", hugePagesSetting)
	}
	if underRaceDetector() {
		t.Skip("the race detector writes to memory of its own for all that is mapped")
	}
	const size = 1 << 30
	// The heap was used before and is free again, as after other tests.
	used := make([][]byte, 512)
	for i := range used {
		used[i] = make([]byte, 1<<20)
		used[i][0] = 1
	}
	runtime.KeepAlive(used)
	used = nil
	runtime.GC()
	before := peakFromNow(t)
	if err := adviseHeap(size); err != nil {
		t.Fatal(err)
	}
	if grew := peak(t) - before; grew > size/4 {
		t.Errorf("%d MB more were resident", grew>>20)
	}
	heldByTest.Grow(size - size/4) // and lies in no hole that was left before
	heldByTest.WriteByte(0)
	defer heldByTest.Reset()
	if flags := flagsOf(t, uintptr(unsafe.Pointer(unsafe.StringData(heldByTest.String())))); !strings.Contains(flags, " hg") {
		t.Errorf("the memory is not advised: %s", flags)
	}
}

// peakFromNow has Linux forget the most that the process had in memory until now, and
// gives what it has, in bytes.
func peakFromNow(t *testing.T) int {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skipf("the most that was in memory cannot be asked for: %v", err)
	}
	return peak(t)
}

// peak is the most that the process had in memory, in bytes.
func peak(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// flagsOf gives the VmFlags of the mapping in which an address lies.
func flagsOf(t *testing.T, at uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var start, end uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &start, &end); n == 2 {
			inside = start <= at && at < end
		}
		if inside && strings.HasPrefix(lines.Text(), "VmFlags:") {
			return lines.Text()
		}
	}
	t.Fatalf("%x is in no mapping", at)
	return ""
}
