package engine_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"kith/actors/identity"
	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

// What a look-up read before a publication is not stored after it.
func TestViewsFill(t *testing.T) {
	v := engine.NewViews(1)
	node := func(i byte) proto.Node { return proto.Node{Hash: proto.IdentityHash{i, 7}, Space: 1} }
	older, newer := &identity.View{Ordinal: 1}, &identity.View{Ordinal: 2}
	_, _, version := v.Get(node(1))
	v.Publish(node(1), newer)
	for i := byte(10); i < 30; i++ { // push it out again
		v.Publish(node(i), newer)
	}
	if _, ok, _ := v.Get(node(1)); ok {
		t.Fatal("the cache is not bounded")
	}
	v.Fill(node(1), older, version)
	if got, ok, _ := v.Get(node(1)); ok {
		t.Errorf("an old view was stored: %+v", got)
	}
	_, _, version = v.Get(node(1))
	v.Fill(node(1), newer, version)
	if got, ok, _ := v.Get(node(1)); !ok || got != newer {
		t.Errorf("a view of now was not stored: %+v, %v", got, ok)
	}
	v.Publish(node(1), nil) // nothing is known any more
	if got, ok, _ := v.Get(node(1)); !ok || got != nil {
		t.Errorf("what is not known is %+v, %v", got, ok)
	}
	if n := v.Len(); n > 4 {
		t.Errorf("%d views are cached, the bound of a shard is 4", n)
	}
}

// What a look-up read before an opt-out is not stored after it, in any space.
func TestViewsForget(t *testing.T) {
	v := engine.NewViews(1)
	h := proto.IdentityHash{1, 7}
	view := &identity.View{Ordinal: 1}
	for s := proto.SpaceID(1); s < 3; s++ {
		_, _, version := v.Get(proto.Node{Hash: h, Space: s})
		v.Fill(proto.Node{Hash: h, Space: s}, view, version)
	}
	_, _, version := v.Get(proto.Node{Hash: h, Space: 3})
	v.Forget(h)
	v.Fill(proto.Node{Hash: h, Space: 3}, view, version)
	for s := proto.SpaceID(1); s < 4; s++ {
		if got, ok, _ := v.Get(proto.Node{Hash: h, Space: s}); ok {
			t.Errorf("in space %d it is still %+v", s, got)
		}
	}
	for i := byte(2); i < 20; i++ { // what comes next takes the free places, then others'
		n := proto.Node{Hash: proto.IdentityHash{i, 7}, Space: 1}
		v.Publish(n, view)
		if got, ok, _ := v.Get(n); !ok || got != view || v.Len() > 4 {
			t.Fatalf("after %d others: %+v, %v, and %d views are cached", i-2, got, ok, v.Len())
		}
	}
}

// Bitmaps read anew are the same before, within and after a checkpoint, which
// four thousand commits bring about.
func TestCheckpoint(t *testing.T) {
	s := newScript(t)
	s.lump = func() int { return 1 }
	acme := s.client("acme", "")
	s.define(acme, "odd", `count(event.section == "in", "2s") >= 1`)
	s.beat(0)
	r := rand.New(rand.NewPCG(1, 1))
	for _, commits := range []int{4090, 30, 900} {
		for range commits {
			s.now += 20
			s.events(s.event(acme, fmt.Sprint("v", s.seq), []string{"in", "out"}[r.IntN(2)]))
			if r.IntN(20) == 0 {
				s.beat(0)
			}
		}
		s.beat(0)
		st := store.NewMemory()
		n := s.run(st)
		s.verify(st) // as a crash here would leave it
		closeNode(t, n)
		s.verify(st)
	}
}

// BenchmarkViews looks nodes up in a random order, as visitors come, and publishes
// each after four look-ups.
func BenchmarkViews(b *testing.B) {
	const nodes = 200_000
	r := rand.New(rand.NewPCG(1, 4))
	v := engine.NewViews(2 * nodes)
	list := make([]proto.Node, nodes)
	for i := range list {
		h := proto.IdentityHash{}
		for k := range h {
			h[k] = byte(r.Uint32())
		}
		list[i] = proto.Node{Hash: h, Space: 1}
		v.Publish(list[i], &identity.View{Ordinal: proto.Ordinal(i)})
	}
	r.Shuffle(nodes, func(i, j int) { list[i], list[j] = list[j], list[i] })
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		n := list[i%nodes]
		view, ok, _ := v.Get(n)
		if !ok {
			b.Fatal("a view is gone")
		}
		if i%4 == 3 {
			v.Publish(n, view)
		}
	}
}
