package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
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

var heldByTest []byte

// What is allocated after a heap was advised lies where huge pages were asked for,
// and what was mapped for that is not used.
func TestAdviseHeap(t *testing.T) {
	if !canAskForHugePages(hugePagesSetting, overcommitSetting) {
		t.Skipf("%s is not madvise, or address space is bounded", hugePagesSetting)
	}
	const size = 1 << 30
	before := resident(t)
	if err := adviseHeap(size); err != nil {
		t.Fatal(err)
	}
	if grew := resident(t) - before; grew > size/4 {
		t.Errorf("%d MB more are resident", grew>>20)
	}
	heldByTest = make([]byte, 64<<20)
	defer func() { heldByTest = nil }()
	if flags := flagsOf(t, uintptr(unsafe.Pointer(&heldByTest[0]))); !strings.Contains(flags, " hg") {
		t.Errorf("the memory is not advised: %s", flags)
	}
}

// resident is how many bytes the process has in memory.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
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
