// Package cores says how much this process may compute at once. It is for those who
// divide work; it decides nothing and starts nothing.
package cores

import "runtime"

// Count is how many goroutines compute at once, at least 1: a process may let more of
// them run than there are cores.
func Count() int { return min(runtime.GOMAXPROCS(0), runtime.NumCPU()) }
