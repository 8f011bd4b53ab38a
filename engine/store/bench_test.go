package store_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"kith/engine/store"
)

// BenchmarkApply is a small batch that is applied and seen by a new snapshot, over a
// layer of many keys: what a lane does with events that come one by one.
func BenchmarkApply(b *testing.B) {
	s, err := store.Open(store.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const keys, batch = 50_000, 40
	value := make([]byte, 300)
	r := rand.New(rand.NewPCG(1, 2))
	apply := func(from int) {
		x := s.NewBatch()
		for i := range batch {
			key := make([]byte, 25)
			binary.BigEndian.PutUint64(key[1:], uint64(from+i)*0x9e3779b97f4a7c15)
			if err := x.Set(key, value); err != nil {
				b.Fatal(err)
			}
		}
		if err := x.Apply(); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; i < keys; i += batch {
		apply(i)
	}
	last := s.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		apply(r.IntN(keys))
		next := s.Snapshot()
		last.Release()
		last = next
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/key")
	last.Release()
}
