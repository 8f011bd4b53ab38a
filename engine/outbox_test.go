package engine_test

import (
	"testing"
	"testing/synctest"

	"kith/engine"
	"kith/engine/store"
)

// Before an opt-out is answered what lanes had for one another is applied, and so is
// what it was answered, whichever lane comes first; not what comes after that.
func TestOutboxesAreEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, done := engine.NewTwoLanes(store.NewMemory()), false
		x.Put(0)
		go func() {
			if err := x.Clean(t.Context()); err != nil {
				t.Error(err)
			}
			done = true
		}()
		wants := func(what string, want bool) {
			t.Helper()
			if synctest.Wait(); done != want {
				t.Errorf("%s: done is %v", what, done)
			}
		}
		wants("before anything is applied", false)
		x.Put(1) // the answer to it
		x.Take(0, 1)
		wants("before the answer is applied", false)
		x.Put(0)
		x.Take(1, 1)
		wants("after that", true)
	})
}
