package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// heapGrowth is GOGC: a node's live heap is mostly active identities and
	// views, which each collection reads in full. At Go's 100 that took a fifth
	// of the processor of making links.
	heapGrowth = 300
	// memoryShare of the machine, or of the cgroup, is where collections become
	// more frequent instead: the rest is the file cache's, which the store lives
	// on.
	memoryShare = 0.5
	// spareProcs is how many goroutines may compute for long beside those that
	// answer: what the store's compaction and the lanes have. Go lets each run for
	// 10 ms before another; the system's scheduler has who slept go first. With as
	// many threads as cores a look-up waited for all of them, up to a second on two
	// cores; with these beside, some milliseconds.
	spareProcs = 8
)

// useProcessors lets more goroutines run than there are cores. GOMAXPROCS in the
// environment wins, and so does a quota of a cgroup: there, threads that run at
// once only use it up sooner.
func useProcessors() {
	if os.Getenv("GOMAXPROCS") == "" && !processorQuota("/proc/self/cgroup", "/sys/fs/cgroup") {
		runtime.GOMAXPROCS(runtime.NumCPU() + spareProcs)
	}
}

// processorQuota reports whether the process's cgroup, or one above it, bounds how
// much of the processors it may use: cpu.max of version 2, cpu.cfs_quota_us of
// version 1. self and root are where Linux tells of cgroups.
func processorQuota(self, root string) bool {
	groups, err := os.ReadFile(self)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(part) < 3 || part[1] != "" && !slices.Contains(strings.Split(part[1], ","), "cpu") {
			continue
		}
		for dir := filepath.Clean("/" + part[2]); ; dir = filepath.Dir(dir) {
			if bounded(filepath.Join(root, dir, "cpu.max")) || bounded(filepath.Join(root, "cpu", dir, "cpu.cfs_quota_us")) || bounded(filepath.Join(root, "cpu,cpuacct", dir, "cpu.cfs_quota_us")) {
				return true
			}
			if dir == "/" {
				break
			}
		}
	}
	return false
}

// bounded reports whether there is a file of a quota, and a quota in it.
func bounded(file string) bool {
	b, err := os.ReadFile(file)
	return err == nil && !strings.HasPrefix(string(b), "max") && !strings.HasPrefix(string(b), "-1")
}

// useMemory lets a node's heap grow further between collections while there is
// memory. GOGC and GOMEMLIMIT in the environment win.
func useMemory(log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	provider := memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)
	if _, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(provider)); err != nil {
		log.Warn("the machine's memory is not known: set GOMEMLIMIT, or the heap has no bound but four times what is live", "error", err)
	}
}
