package actors_test

import (
	"slices"
	"sync"
	"testing"

	"kith/actors"
)

// TestHelpers: each turn is done once, whoever does it, and a helper that is
// held up keeps nobody from doing the rest.
func TestHelpers(t *testing.T) {
	list := []int{3, 1, 4, 15, 9, 2, 6}
	if actors.NewHelpers(0).Share(1000, list, func(int) { t.Error("done without helpers") }) {
		t.Error("no helpers helped")
	}
	h := actors.NewHelpers(2)
	if h.Share(1, list, func(int) { t.Error("done for one piece of work") }) {
		t.Error("one piece of work was shared")
	}
	for range 200 {
		var mu sync.Mutex
		var done []int
		var wait sync.WaitGroup
		wait.Add(len(list))
		shared := h.Share(1000, list, func(i int) {
			defer wait.Done()
			mu.Lock()
			defer mu.Unlock()
			done = append(done, i)
		})
		if !shared {
			continue // the helpers of the last round are still on their way
		}
		wait.Wait()
		if slices.Sort(done); !slices.Equal(done, []int{1, 2, 3, 4, 6, 9, 15}) {
			t.Fatalf("done: %v", done)
		}
	}
	// One turn needs another to be begun: it waits for two goroutines.
	h = actors.NewHelpers(2)
	var both, all sync.WaitGroup
	both.Add(2)
	all.Add(2)
	if !h.Share(1000, []int{1, 2}, func(int) {
		defer all.Done()
		both.Done()
		both.Wait()
	}) {
		t.Error("two free helpers did not help")
	}
	all.Wait()
}
