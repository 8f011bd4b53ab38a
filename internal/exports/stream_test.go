package exports_test

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"kith/internal/exports"
	"kith/proto"
)

// Whatever changed: the earlier set without those who left and with those who
// entered is the new one, and whoever is recalled has left and is not known.
func TestDeltaAddsUp(t *testing.T) {
	dir := t.TempDir()
	sets := rapid.Custom(func(t *rapid.T) *roaring.Bitmap {
		set := roaring.BitmapOf(rapid.SliceOfN(rapid.Uint32Range(0, 200), 0, 60).Draw(t, "few")...)
		from := rapid.Uint64Range(0, 1<<17).Draw(t, "from")
		set.AddRange(from, from+rapid.Uint64Range(0, 1<<17).Draw(t, "long"))
		return set
	})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		before, now, known := sets.Draw(rt, "before"), sets.Draw(rt, "now"), sets.Draw(rt, "known")
		earlier, err := exports.AppendSet(nil, before.Clone())
		if err != nil {
			rt.Fatal(err)
		}
		a := audience(proto.FormatRoaring, known, now)
		a.Manifest.Dictionary = proto.FormatNone
		since := &proto.ExportSince{Client: "acme", Expr: "auto", Time: a.Manifest.Time, Lanes: []proto.SinceLane{{Log: "log", Offset: 3, Set: earlier}}}
		to := filepath.Join(dir, proto.Position{0: proto.Offset(n)}.String())
		m := received(t, to, written(t, a, nil, since), false)
		entered, left, recall := setIn(t, to, "entered-0.roaring"), setIn(t, to, "left-0.roaring"), setIn(t, to, "recall-0.roaring")
		sum := roaring.Or(roaring.AndNot(before, left), entered)
		if !sum.Equals(now) || !setIn(t, to, "lane-0.roaring").Equals(now) {
			rt.Errorf("earlier, less %v, with %v is not the new set", left, entered)
		}
		if want := roaring.AndNot(left, known); !recall.Equals(want) {
			rt.Errorf("recalled are %v, want %v", recall, want)
		}
		if m.Since.Position != "0:3" || m.Since.Recalled != recall.GetCardinality() {
			rt.Errorf("%+v", m.Since)
		}
	})
}

// A stream holds one file of a table, not the members.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("names two million members")
	}
	const parts = 32
	set := roaring.New()
	set.AddRange(0, parts*proto.ExportPartRows)
	for _, f := range []proto.ExportFormat{proto.FormatParquet, proto.FormatArrow, proto.FormatNDJSON} {
		a := audience(f, nil, set)
		var bytes, most uint64
		checked := 0
		err := exports.Write(context.Background(), writerFunc(func(p []byte) (int, error) {
			bytes += uint64(len(p))
			if part := int(a.Names.(*names).read.Load()) / proto.ExportPartRows; part >= checked+8 {
				checked = part
				most = max(most, heap())
			}
			return len(p), nil
		}), a, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if checked == 0 || most > 48<<20 {
			t.Errorf("%s: %d MB are in memory while %d MB are written", f, most>>20, bytes>>20)
		}
		t.Logf("%s: %d MB in memory, %d MB written", f, most>>20, bytes>>20)
	}
}

// heap is what is live.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
