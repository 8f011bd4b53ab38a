package actors_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"kith/actors"
	"kith/graph"
)

// A filter never forgets, and errs some two in a hundred times however many it
// holds.
func TestFilter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	hash := func() (h graph.Hash) {
		binary.LittleEndian.PutUint64(h[:8], r.Uint64())
		binary.LittleEndian.PutUint64(h[8:], r.Uint64())
		h[0] = h[0]&^63 | 7 // all of one partition
		return h
	}
	var f actors.Filter
	if f.MayHold(hash()) {
		t.Error("an empty filter holds something")
	}
	var held []graph.Hash
	for _, count := range []int{100, 1_000, 20_000, 300_000} {
		for len(held) < count {
			h := hash()
			f.Add(h)
			held = append(held, h)
		}
		for _, h := range held {
			if !f.MayHold(h) {
				t.Fatalf("of %d, %v was forgotten", count, h)
			}
		}
		wrong := 0
		for range 100_000 {
			if f.MayHold(hash()) {
				wrong++
			}
		}
		if wrong > 3_000 {
			t.Errorf("of %d, %d of 100000 others are taken for its own", count, wrong)
		}
	}
}
