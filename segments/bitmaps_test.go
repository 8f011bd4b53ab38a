package segments_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

// bitsOf lists a segment, or with key 0 a client's universe.
func bitsOf(x *segments.Bitmaps, key proto.SegmentKey, client proto.ClientID) (out []uint32) {
	x.View(func(get func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
		bits := get(key)
		if key == 0 {
			bits = universe(client)
		}
		if bits != nil {
			out = bits.ToArray()
		}
	})
	return out
}

func TestBitmapsApply(t *testing.T) {
	x := segments.NewBitmaps()
	x.Apply([]segments.BitDelta{
		{Key: 0, Client: 1, Ordinal: 5, Set: true}, {Key: 9, Client: 1, Ordinal: 5, Set: true},
		{Key: 9, Client: 1, Ordinal: 70_000, Set: true}, {Key: 0, Client: 2, Ordinal: 6, Set: true},
		{Key: 9, Client: 1, Ordinal: 5, Set: false},
	})
	if diff := cmp.Diff([]uint32{70_000}, bitsOf(x, 9, 1)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint32{5}, bitsOf(x, 0, 1)); diff != "" {
		t.Error(diff)
	}
	if n := x.Cardinality(9); n != 1 {
		t.Errorf("cardinality %d", n)
	}
	if n := x.Cardinality(8); n != 0 || bitsOf(x, 8, 1) != nil || bitsOf(x, 0, 3) != nil {
		t.Error("unknown keys have members")
	}
}

// What is held stays as it was, and what is not is changed in place.
// The node's own bits of a segment that was dropped are cleared later, one by one.
func TestClearingMakesNoBitmap(t *testing.T) {
	x := segments.NewBitmaps()
	x.Apply([]segments.BitDelta{{Key: 8, Client: 3, Ordinal: 1, Set: true}})
	x.Drop(8)
	x.TakeDirty(9)
	x.Apply([]segments.BitDelta{{Key: 8, Client: 3, Ordinal: 1}, {Key: 8, Client: 3, Ordinal: 2}, {Client: 3, Ordinal: 1}})
	if keys, clients, dirty := x.Keys(), x.Clients(), x.Dirty(); len(keys)+len(clients)+dirty > 0 {
		t.Errorf("bitmaps of segments %v and clients %v, %d chunks changed", keys, clients, dirty)
	}
	x.Apply([]segments.BitDelta{{Key: 9, Client: 3, Ordinal: 1}, {Key: 9, Client: 3, Ordinal: 1, Set: true}, {Key: 9, Client: 3, Ordinal: 2}})
	if n := x.Cardinality(9); n != 1 {
		t.Errorf("%d are in after one was cleared, set, and another cleared", n)
	}
}

func TestBitmapsHold(t *testing.T) {
	x := segments.NewBitmaps()
	set := func(key proto.SegmentKey, o proto.Ordinal, yes bool) segments.BitDelta {
		return segments.BitDelta{Key: key, Client: 1, Ordinal: o, Set: yes}
	}
	x.Apply([]segments.BitDelta{set(0, 1, true), set(0, 2, true), set(9, 1, true), set(9, 2, true), set(8, 1, true)})
	h := x.Hold(1, []proto.SegmentKey{9, 9, 8, 7})
	within(t, func() {
		x.Apply([]segments.BitDelta{set(0, 3, true), set(9, 1, false), set(9, 3, true), set(7, 1, true)})
	})
	x.Drop(8)
	if d := cmp.Diff([][]uint32{{1, 2}, {1, 2}, {1}}, [][]uint32{h.Universe(1).ToArray(), h.Segment(9).ToArray(), h.Segment(8).ToArray()}); d != "" {
		t.Error("what is held changed:", d)
	}
	if h.Segment(7) != nil || h.Segment(6) != nil {
		t.Error("what was not there is held")
	}
	for key, want := range map[proto.SegmentKey][]uint32{0: {1, 2, 3}, 9: {2, 3}, 8: nil, 7: {1}} {
		if d := cmp.Diff(want, bitsOf(x, key, 1)); d != "" {
			t.Errorf("segment %d beside what is held: %s", key, d)
		}
	}
	h.Release()
	h = x.Hold(1, []proto.SegmentKey{9})
	bits := h.Segment(9)
	h.Release()
	x.Apply([]segments.BitDelta{set(9, 4, true)})
	if !bits.Contains(4) {
		t.Error("what is held no more was copied")
	}
	if h := x.Hold(2, nil); h.Universe(2) != nil {
		t.Error("a client without anything has a universe")
	}
}

// within fails if do takes long.
func within(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { do(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("what is held keeps others waiting")
	}
}

func TestTakeDirtyGivesChunksLongestDirtyFirst(t *testing.T) {
	x := segments.NewBitmaps()
	x.Apply([]segments.BitDelta{{Key: 9, Client: 1, Ordinal: 200_000, Set: true}})
	x.Apply([]segments.BitDelta{{Key: 9, Client: 1, Ordinal: 1, Set: true}, {Key: 9, Client: 1, Ordinal: 200_001, Set: true}})
	x.Apply([]segments.BitDelta{{Key: 9, Client: 1, Ordinal: 1, Set: true}}) // changes nothing
	if n := x.Dirty(); n != 2 {
		t.Fatalf("%d dirty chunks", n)
	}
	first := x.TakeDirty(1)
	if len(first) != 1 || first[0].High != 3 || first[0].Key != 9 || first[0].Client != 1 {
		t.Fatalf("first %+v", first)
	}
	second := x.TakeDirty(10)
	if len(second) != 1 || second[0].High != 0 {
		t.Fatalf("second %+v", second)
	}
	if got := x.TakeDirty(10); len(got) != 0 || x.Dirty() != 0 {
		t.Fatalf("still dirty: %+v", got)
	}
	x.Redirty(second)
	if got := x.TakeDirty(10); len(got) != 1 || got[0].High != 0 {
		t.Fatalf("dirty again: %+v", got)
	}
	x.Apply([]segments.BitDelta{{Key: 9, Client: 1, Ordinal: 1, Set: false}})
	if got := x.TakeDirty(10); len(got) != 1 || len(got[0].Data) != 0 {
		t.Fatalf("an emptied chunk is %+v", got)
	}
}

func TestDropDeletesStoredChunks(t *testing.T) {
	x := segments.NewBitmaps()
	x.Apply([]segments.BitDelta{
		{Key: 9, Client: 1, Ordinal: 1, Set: true}, {Key: 9, Client: 1, Ordinal: 2, Set: true},
		{Key: 9, Client: 1, Ordinal: 300_000, Set: true}, {Key: 9, Client: 1, Ordinal: 1<<32 - 1, Set: true},
	})
	stored := x.TakeDirty(10)
	x.Drop(9)
	x.Drop(10)
	if bitsOf(x, 9, 1) != nil {
		t.Error("the segment is still there")
	}
	gone := x.TakeDirty(10)
	if len(gone) != len(stored) || len(gone) != 3 {
		t.Fatalf("%d chunks were stored, %d are deleted", len(stored), len(gone))
	}
	for i := range gone {
		if len(gone[i].Data) != 0 || gone[i].High != stored[i].High || gone[i].Client != 1 {
			t.Errorf("deletion %+v", gone[i])
		}
	}
}

// A store that takes chunks at any later time, is then reopened, and replays
// the journal from the position before which nothing was dirty, ends in the
// same bits.
func TestChunksAndReplayConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := segments.NewBitmaps()
		type slot struct {
			key    proto.SegmentKey
			client proto.ClientID
			high   uint16
		}
		stored := map[slot]segments.Chunk{}
		var journal [][]byte
		position, owed := 0, 0 // replay starts at position; owed chunks must be stored before the mark counts
		mark := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			var deltas []segments.BitDelta
			for range rapid.IntRange(0, 6).Draw(t, "deltas") {
				deltas = append(deltas, segments.BitDelta{
					Key: proto.SegmentKey(rapid.IntRange(0, 2).Draw(t, "key")), Client: 1,
					Ordinal: proto.Ordinal(rapid.SampledFrom([]int{0, 1, 2, 65_535, 65_536, 65_537, 1 << 20}).Draw(t, "ordinal")),
					Set:     rapid.Bool().Draw(t, "set"),
				})
			}
			journal = append(journal, segments.AppendDeltas(nil, deltas))
			live.Apply(deltas)
			if owed == 0 && rapid.Bool().Draw(t, "checkpoint") {
				mark, owed = len(journal), live.Dirty()
			}
			chunks := live.TakeDirty(rapid.IntRange(0, 3).Draw(t, "take"))
			for _, c := range chunks {
				if len(c.Data) == 0 {
					delete(stored, slot{c.Key, c.Client, c.High})
				} else {
					stored[slot{c.Key, c.Client, c.High}] = c
				}
			}
			if owed > 0 {
				if owed = max(owed-len(chunks), 0); owed == 0 {
					position = mark
				}
			}
		}
		again := segments.NewBitmaps()
		for _, c := range stored {
			if err := again.Load(c); err != nil {
				t.Fatal(err)
			}
		}
		for _, b := range journal[position:] {
			d, err := segments.ReadDeltas(b)
			if err != nil {
				t.Fatal(err)
			}
			again.Apply(d)
		}
		for key := range proto.SegmentKey(3) {
			if want, got := bitsOf(live, key, 1), bitsOf(again, key, 1); !slices.Equal(want, got) {
				t.Fatalf("key %d: %v, want %v (replay from %d of %d)", key, got, want, position, len(journal))
			}
		}
	})
}

func TestLoadRefusesDamage(t *testing.T) {
	x := segments.NewBitmaps()
	x.Apply([]segments.BitDelta{{Key: 9, Client: 1, Ordinal: 70_000, Set: true}, {Key: 9, Client: 1, Ordinal: 70_007, Set: true}})
	good := x.TakeDirty(1)[0]
	two, _ := roaring.BitmapOf(70_000, 200_000).ToBytes()
	empty, _ := roaring.New().ToBytes()
	for name, c := range map[string]segments.Chunk{
		"another chunk": {Key: 9, Client: 1, High: 2, Data: good.Data},
		"two chunks":    {Key: 9, Client: 1, High: 1, Data: two},
		"empty bitmap":  {Key: 9, Client: 1, High: 1, Data: empty},
		"cut off":       {Key: 9, Client: 1, High: 1, Data: good.Data[:len(good.Data)-1]},
		"bytes behind":  {Key: 9, Client: 1, High: 1, Data: append(slices.Clone(good.Data), 0)},
		"too long":      {Key: 9, Client: 1, High: 1, Data: make([]byte, segments.ChunkBytesMax+1)},
		"no bitmap":     {Key: 9, Client: 1, High: 1, Data: []byte("hello, world")},
	} {
		if err := segments.NewBitmaps().Load(c); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	y := segments.NewBitmaps()
	if err := y.Load(good); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint32{70_000, 70_007}, bitsOf(y, 9, 1)); diff != "" || y.Dirty() != 0 {
		t.Errorf("%s, %d dirty", diff, y.Dirty())
	}
}

func TestDeltasRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SliceOf(rapid.Custom(func(t *rapid.T) segments.BitDelta {
			return segments.BitDelta{
				Key:     proto.SegmentKey(rapid.SampledFrom([]uint32{0, 1, 2, 1<<32 - 1}).Draw(t, "key")),
				Client:  proto.ClientID(rapid.SampledFrom([]uint32{0, 1, 1<<32 - 1}).Draw(t, "client")),
				Ordinal: proto.Ordinal(rapid.SampledFrom([]uint32{0, 1, 2, 3, 70_000, 1<<32 - 2, 1<<32 - 1}).Draw(t, "ordinal")),
				Set:     rapid.Bool().Draw(t, "set"),
			}
		})).Draw(t, "deltas")
		before := slices.Clone(d)
		got, err := segments.ReadDeltas(segments.AppendDeltas(nil, d))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(before, d) {
			t.Fatal("the deltas were changed")
		}
		type bit struct {
			key     proto.SegmentKey
			client  proto.ClientID
			ordinal proto.Ordinal
		}
		want := map[bit]bool{}
		for _, x := range d {
			want[bit{x.Key, x.Client, x.Ordinal}] = x.Set
		}
		if len(got) != len(want) {
			t.Fatalf("%d deltas of %d bits", len(got), len(want))
		}
		for _, x := range got {
			if set, ok := want[bit{x.Key, x.Client, x.Ordinal}]; !ok || set != x.Set {
				t.Fatalf("delta %+v is wrong", x)
			}
		}
	})
}

func goldenDeltas() []segments.BitDelta {
	return []segments.BitDelta{
		{Key: 0, Client: 3, Ordinal: 64, Set: true}, {Key: 0, Client: 3, Ordinal: 65, Set: true},
		{Key: 12, Client: 3, Ordinal: 1 << 20, Set: true}, {Key: 12, Client: 3, Ordinal: 7, Set: false},
		{Key: 300, Client: 4, Ordinal: 1<<32 - 1, Set: false},
	}
}

func goldenChunk() segments.Chunk {
	x := segments.NewBitmaps()
	x.Apply([]segments.BitDelta{{Key: 12, Client: 3, Ordinal: 65_536, Set: true}, {Key: 12, Client: 3, Ordinal: 65_540, Set: true}})
	for o := range proto.Ordinal(1000) {
		x.Apply([]segments.BitDelta{{Key: 12, Client: 3, Ordinal: 70_000 + o, Set: true}})
	}
	return x.TakeDirty(1)[0]
}

func TestBitmapGolden(t *testing.T) {
	for name, got := range map[string][]byte{
		"deltas.hex": segments.AppendDeltas(nil, goldenDeltas()),
		"chunk.hex":  goldenChunk().Data,
	} {
		file := filepath.Join("testdata", "bitmaps", name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("%s: the stored form changed:\n%x\nwant\n%x", name, got, want)
		}
	}
}

func FuzzReadDeltas(f *testing.F) {
	f.Add(segments.AppendDeltas(nil, goldenDeltas()))
	f.Add([]byte{1, 0, 0, 1, 1, 5, 5})
	f.Add([]byte{2, 1, 1, 1, 0, 5, 1, 1, 1, 0, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := segments.ReadDeltas(b)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatal(err)
			}
			return
		}
		again, err := segments.ReadDeltas(segments.AppendDeltas(nil, d))
		if err != nil || !slices.Equal(d, again) {
			t.Fatalf("%x: %v, %v", b, d, err)
		}
	})
}

func FuzzLoadChunk(f *testing.F) {
	f.Add(uint16(1), goldenChunk().Data)
	sparse, _ := roaring.BitmapOf(1, 2, 9).ToBytes()
	f.Add(uint16(0), sparse)
	dense := roaring.New()
	for i := range uint32(30_000) {
		dense.Add(2 * i)
	}
	b, _ := dense.ToBytes()
	f.Add(uint16(0), b)
	f.Fuzz(func(t *testing.T, high uint16, b []byte) {
		x := segments.NewBitmaps()
		if err := x.Load(segments.Chunk{Key: 1, Client: 1, High: high, Data: b}); err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatal(err)
			}
			return
		}
		bits := bitsOf(x, 1, 1)
		for _, o := range bits {
			if o>>16 != uint32(high) {
				t.Fatalf("ordinal %d in chunk %d", o, high)
			}
		}
		x.Redirty([]segments.Chunk{{Key: 1, Client: 1, High: high}})
		y := segments.NewBitmaps()
		if err := y.Load(x.TakeDirty(1)[0]); err != nil || !slices.Equal(bits, bitsOf(y, 1, 1)) {
			t.Fatalf("%d bits do not survive: %v", len(bits), err)
		}
	})
}

// With -race this finds a reader that meets a writer; without it, a view that
// is not consistent: both bits of a pair are always set together.
func TestViewsAreConsistentUnderLoad(t *testing.T) {
	x := segments.NewBitmaps()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	a := mustAudience(t, "one & !two")
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				x.View(func(get func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
					byName := func(id proto.SegmentID) *roaring.Bitmap {
						return get(map[proto.SegmentID]proto.SegmentKey{"one": 1, "two": 2}[id])
					}
					if n := a.Count(byName, universe(1)); n != 0 {
						t.Errorf("%d bits are in one but not in two", n)
					}
					if e := a.Eval(byName, universe(1)); !e.IsEmpty() {
						t.Errorf("%d bits are in one but not in two", e.GetCardinality())
					}
				})
				x.TakeDirty(2)
				x.Cardinality(1)
			}
		})
	}
	for i := range proto.Ordinal(3000) {
		o := i * 37 % 200_000
		x.Apply([]segments.BitDelta{
			{Key: 0, Client: 1, Ordinal: o, Set: true},
			{Key: 1, Client: 1, Ordinal: o, Set: i%3 != 0},
			{Key: 2, Client: 1, Ordinal: o, Set: i%3 != 0},
		})
	}
	close(stop)
	wg.Wait()
}

func BenchmarkBitmapsApply(b *testing.B) {
	x := segments.NewBitmaps()
	d := make([]segments.BitDelta, 1000)
	state := uint64(1)
	for i := range d {
		state = state*6364136223846793005 + 1442695040888963407
		d[i] = segments.BitDelta{Key: proto.SegmentKey(1 + i%10), Client: 1, Ordinal: proto.Ordinal(state >> 44), Set: true}
	}
	for n := 0; b.Loop(); n++ {
		for i := range d {
			d[i].Set = n%2 == 0
		}
		x.Apply(d)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(d)), "ns/delta")
}

func BenchmarkAppendDeltas(b *testing.B) {
	d := make([]segments.BitDelta, 1000)
	state := uint64(1)
	for i := range d {
		state = state*6364136223846793005 + 1442695040888963407
		d[i] = segments.BitDelta{Key: proto.SegmentKey(1 + i%10), Client: 1, Ordinal: proto.Ordinal(state >> 44), Set: i%4 != 0}
	}
	var buf []byte
	for b.Loop() {
		buf = segments.AppendDeltas(buf[:0], d)
	}
	b.ReportMetric(float64(len(buf))/float64(len(d)), "B/delta")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(d)), "ns/delta")
}

// Chunks of several lanes are dealt out by number, whole and to the right ones.
func TestDealChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := rapid.IntRange(1, 5).Draw(t, "from"), rapid.IntRange(1, 70).Draw(t, "to")
		high := uint16(rapid.SampledFrom([]int{0, 1, 65535}).Draw(t, "high"))
		all := rapid.SliceOfNDistinct(rapid.Uint16(), 1, 300, rapid.ID).Draw(t, "bits")
		in := make([]segments.Chunk, from)
		for n := range in {
			x := segments.NewBitmaps()
			for _, low := range all {
				if o := proto.Ordinal(uint32(high)<<16 | uint32(low)); int(o.Partition())%from == n {
					x.Apply([]segments.BitDelta{{Key: 9, Client: 4, Ordinal: o, Set: true}})
				}
			}
			in[n] = segments.Chunk{Key: 9, Client: 4, High: high}
			for _, c := range x.TakeDirty(1) {
				in[n] = c
			}
		}
		out, err := segments.DealChunks(in, to, func(o proto.Ordinal) int { return int(o.Partition()) % to })
		if err != nil || len(out) != to {
			t.Fatalf("%d chunks, %v", len(out), err)
		}
		seen := 0
		for m, c := range out {
			if c.Key != 9 || c.Client != 4 || c.High != high {
				t.Fatalf("chunk %d is %+v", m, c)
			}
			if len(c.Data) == 0 {
				continue
			}
			x := segments.NewBitmaps()
			if err := x.Load(c); err != nil {
				t.Fatal(err)
			}
			for _, o := range bitsOf(x, 9, 4) {
				seen++
				if int(proto.Ordinal(o).Partition())%to != m || !slices.Contains(all, uint16(o)) {
					t.Fatalf("lane %d of %d has %d", m, to, o)
				}
			}
		}
		if seen != len(all) {
			t.Fatalf("%d of %d bits", seen, len(all))
		}
	})
	bad := []segments.Chunk{{Key: 9, Client: 4}, {Key: 9, Client: 4, Data: []byte("no bitmap")}}
	if _, err := segments.DealChunks(bad, 1, func(proto.Ordinal) int { return 0 }); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("a chunk that is none: %v", err)
	}
}
