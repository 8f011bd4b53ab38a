package main

import (
	"log/slog"
	"os"
	"runtime/debug"

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
)

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
