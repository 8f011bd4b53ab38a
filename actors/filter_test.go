package actors_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"kith/actors"
	"kith/graph"
)

// A filter never forgets, and errs about one in ten thousand while it is as
// full as it was made for.
func TestCutFilter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	hash := func() (h graph.Hash) {
		binary.LittleEndian.PutUint64(h[:8], r.Uint64())
		binary.LittleEndian.PutUint64(h[8:], r.Uint64())
		h[0] = h[0]&^63 | 7 // all of one partition
		return h
	}
	f := actors.NewCutFilter(10_000)
	var held []graph.Hash
	for range 20_000 {
		h := hash()
		f.Add(h)
		held = append(held, h)
	}
	for _, h := range held {
		if !f.MayHold(h) {
			t.Fatalf("%v was forgotten", h)
		}
	}
	wrong := 0
	for range 100_000 {
		if f.MayHold(hash()) {
			wrong++
		}
	}
	if wrong > 400 {
		t.Errorf("%d of 100000 others are taken for cut", wrong)
	}
}
