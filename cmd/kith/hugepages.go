package main

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// hugePagesSetting says whether programs get pages of 2 MB unasked ([always]),
	// when they ask ([madvise]) or never: Linux's admin-guide/mm/transhuge.
	hugePagesSetting = "/sys/kernel/mm/transparent_hugepage/enabled"
	// overcommitSetting is 2 where address space is only given out as far as there
	// is memory.
	overcommitSetting = "/proc/sys/vm/overcommit_memory"
)

// useHugePages has Linux keep the heap in pages of 2 MB, where it gives them to
// those who ask, which Go does not. A heap that grows to four times what is live
// touches new memory all the time and reads it at random: where nothing is cached an
// event takes 0.7 of the processor (docs/bench/2026-11-28-hugepages.md).
//
// What is asked for must be mapped, and Go maps as the heap grows. So a heap as
// large as the memory limit is mapped at once, one page of it touched, and given
// back: Go takes the lowest addresses first. Call useMemory before, which sets it.
func useHugePages(log *slog.Logger) {
	var machine unix.Sysinfo_t
	if unix.Sysinfo(&machine) != nil || underRaceDetector() || strings.Contains(os.Getenv("GODEBUG"), "disablethp=1") || !canAskForHugePages(hugePagesSetting, overcommitSetting) {
		return
	}
	// Linux refuses to map more than it has, and then Go ends the process.
	half := float64(machine.Totalram) * float64(machine.Unit) * memoryShare
	if err := adviseHeap(int(min(half, float64(debug.SetMemoryLimit(-1))))); err != nil {
		log.Warn("the heap stays in small pages", "error", err)
	}
}

// underRaceDetector reports whether the race detector watches, which writes to
// memory of its own for all that is mapped: some seconds a GB.
func underRaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// canAskForHugePages reports whether asking changes anything and address space is
// free of cost.
func canAskForHugePages(enabled, overcommit string) bool {
	for _, bound := range []int{unix.RLIMIT_AS, unix.RLIMIT_DATA} {
		var space unix.Rlimit
		if unix.Getrlimit(bound, &space) != nil || space.Cur != unix.RLIM_INFINITY {
			return false
		}
	}
	pages, err := os.ReadFile(enabled)
	commit, err2 := os.ReadFile(overcommit)
	return errors.Join(err, err2) == nil && strings.Contains(string(pages), "[madvise]") && strings.TrimSpace(string(commit)) != "2"
}

// adviseHeap maps a heap of so many bytes and asks for huge pages for it.
func adviseHeap(size int) error {
	// make clears all of what it gives if the first page of it was ever used; Go 1.26
	// does not clear a strings.Builder's.
	var heap strings.Builder
	heap.Grow(size)
	heap.WriteByte(0)
	_, _, no := unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(unsafe.StringData(heap.String()))), uintptr(size), unix.MADV_HUGEPAGE)
	runtime.KeepAlive(&heap)
	heap.Reset()
	debug.FreeOSMemory()
	if no != 0 {
		return no
	}
	return nil
}
