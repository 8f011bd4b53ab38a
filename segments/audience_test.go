package segments_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

func mustAudience(t testing.TB, text string) *segments.Audience {
	t.Helper()
	a, err := segments.ParseAudience(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return a
}

func TestAudienceCanonicalForm(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{"auto", "auto"},
		{" auto&!( owners|lapsed )", "auto & !(owners | lapsed)"},
		{"a|b&c", "a | b & c"},
		{"(a|b)&c", "(a | b) & c"},
		{"((a))|(b|(c|d))", "a | b | c | d"},
		{"!!a & !!!b", "a & !b"},
		{"!(!a)", "a"},
		{"!(a&b)", "!(a & b)"},
		{`"auto"&"x-1.y"`, "auto & x-1.y"},
		{"a-b & 1st_2", "a-b & 1st_2"},
		{"a\n|\tb", "a | b"},
	} {
		a := mustAudience(t, x.in)
		if got := a.String(); got != x.want {
			t.Errorf("%q gives %q, want %q", x.in, got, x.want)
		}
	}
}

func TestAudienceSegmentsAreUnique(t *testing.T) {
	got := mustAudience(t, "b & (a | b) & !(c | a)").Segments()
	if diff := cmp.Diff([]proto.SegmentID{"b", "a", "c"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAudienceErrorsHavePositions(t *testing.T) {
	for _, x := range []struct {
		in        string
		line, col int
		says      string
	}{
		{"", 1, 1, "ends"},
		{"a &", 1, 4, "ends"},
		{"a b", 1, 3, "operator"},
		{"a && b", 1, 4, "single &"},
		{"a || b", 1, 4, "single |"},
		{"a\n & (b\n | c", 3, 5, "operator or )"},
		{"a)", 1, 2, "operator"},
		{"é", 1, 1, "segment"},
		{`"é" & a`, 1, 1, "does not name"},
		{`a & "b`, 1, 5, "not closed"},
		{"a + b", 1, 3, "difference"},
		{".a", 1, 1, "does not name"},
		{"a & " + strings.Repeat("x", 65), 1, 5, "does not name"},
		{"a & \x00", 1, 5, "segment"},
		{"a\x00", 1, 2, "operator"},
		{"a \x00& !b", 1, 3, "operator"},
		{"(a\x00)", 1, 3, "operator or )"},
		{strings.Repeat("(", 300) + "a" + strings.Repeat(")", 300), 1, 201, "nested"},
		{strings.Repeat("a|", 1000) + "a", 1, 2001, "more than 1000"},
	} {
		_, err := segments.ParseAudience(x.in)
		var e *proto.Error
		if !errors.As(err, &e) || e.Code != proto.CodeExpr || e.Line != x.line || e.Column != x.col || !strings.Contains(e.Message, x.says) {
			t.Errorf("%.40q: %v, want line %d, column %d, %q", x.in, err, x.line, x.col, x.says)
		}
	}
	for _, in := range []string{strings.Repeat(" ", 64<<10) + "a", "a\xff"} {
		if _, err := segments.ParseAudience(in); proto.CodeOf(err) != proto.CodeExpr {
			t.Errorf("%.10q: %v", in, err)
		}
	}
}

func TestAudienceTakesLongChainsAndDeepNegation(t *testing.T) {
	mustAudience(t, strings.Repeat("a|", 999)+"a")
	mustAudience(t, strings.Repeat("!", 60_000)+"a")
	mustAudience(t, strings.Repeat("!(", 200)+"a"+strings.Repeat(")", 200))
}

// drawExpr draws an expression and the plain meaning of it.
func drawExpr(t *rapid.T, depth int) (string, func(has func(string) bool) bool) {
	kind := rapid.IntRange(0, 3).Draw(t, "kind")
	if depth == 0 || kind == 0 {
		name := string(rune('a' + rapid.IntRange(0, 5).Draw(t, "name")))
		return name, func(has func(string) bool) bool { return has(name) }
	}
	if kind == 1 {
		s, f := drawExpr(t, depth-1)
		return "!(" + s + ")", func(has func(string) bool) bool { return !f(has) }
	}
	sign := map[int]string{2: "&", 3: "|"}[kind]
	s, f := drawExpr(t, depth-1)
	for range rapid.IntRange(1, 3).Draw(t, "more") {
		s2, f2 := drawExpr(t, depth-1)
		f1 := f
		s = s + " " + sign + " (" + s2 + ")"
		if kind == 2 {
			f = func(has func(string) bool) bool { return f1(has) && f2(has) }
		} else {
			f = func(has func(string) bool) bool { return f1(has) || f2(has) }
		}
	}
	return "(" + s + ")", f
}

// sparse and dense parts, so that all kinds of containers meet.
func drawOrdinals(t *rapid.T) *roaring.Bitmap {
	b := roaring.New()
	for range rapid.IntRange(0, 4).Draw(t, "runs") {
		first := rapid.Uint64Range(0, 3<<16).Draw(t, "first")
		switch n := rapid.Uint64Range(1, 40_000).Draw(t, "n"); rapid.IntRange(0, 2).Draw(t, "form") {
		case 0:
			b.AddRange(first, first+n)
		case 1:
			for i := range min(n, 6000) {
				b.Add(uint32(first + 3*i))
			}
		default:
			b.Add(uint32(first))
		}
	}
	if rapid.Bool().Draw(t, "optimize") {
		b.RunOptimize()
	}
	return b
}

func TestAudienceMeansWhatItSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, means := drawExpr(t, 3)
		a, err := segments.ParseAudience(text)
		if err != nil {
			t.Fatal(err)
		}
		again, err := segments.ParseAudience(a.String())
		if err != nil || again.String() != a.String() {
			t.Fatalf("%q is not canonical: %v, %v", a, again, err)
		}
		sets, copies := map[proto.SegmentID]*roaring.Bitmap{}, map[proto.SegmentID]*roaring.Bitmap{}
		universe := drawOrdinals(t)
		within := rapid.Bool().Draw(t, "within the universe")           // as members are
		for _, id := range []proto.SegmentID{"a", "b", "c", "d", "e"} { // f stays unknown
			sets[id] = drawOrdinals(t)
			if within {
				universe.Or(sets[id])
			}
			copies[id] = sets[id].Clone()
		}
		before := universe.Clone()
		get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }

		want := roaring.New()
		for _, o := range universe.ToArray() {
			if means(func(name string) bool { s := sets[proto.SegmentID(name)]; return s != nil && s.Contains(o) }) {
				want.Add(o)
			}
		}
		for _, a := range []*segments.Audience{a, again} {
			got := a.Eval(get, universe)
			if within && !got.Equals(want) {
				t.Fatalf("%s: %d ordinals, want %d", a, got.GetCardinality(), want.GetCardinality())
			}
			if n := a.Count(get, universe); n != got.GetCardinality() {
				t.Fatalf("%s: counts %d, want %d", a, n, got.GetCardinality())
			}
			got.AddRange(0, 1<<20) // it is ours to change
			got.Clear()
		}
		for id := range sets {
			if !sets[id].Equals(copies[id]) {
				t.Fatalf("%s changed segment %s", a, id)
			}
		}
		if !universe.Equals(before) {
			t.Fatalf("%s changed the universe", a)
		}
	})
}

// Chunks that only one of two lists has, and long ones.
func TestAudienceCountsTwoSparseLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) *roaring.Bitmap {
			b := roaring.BitmapOf(uint32(1<<24 + rapid.IntRange(0, 1).Draw(t, name+" last"))) // far off: the lists are sparse
			for range rapid.IntRange(0, 6).Draw(t, name+" parts") {
				at := rapid.Uint32Range(0, 8).Draw(t, name+" chunk")<<16 + rapid.Uint32Range(0, 9000).Draw(t, name+" first")
				n, step := rapid.Uint32Range(1, 5000).Draw(t, name+" n"), rapid.Uint32Range(1, 11).Draw(t, name+" step")
				for i := range n {
					b.Add(at + step*i)
				}
			}
			if rapid.Bool().Draw(t, name+" runs") {
				b.RunOptimize()
			}
			return b
		}
		sets := map[proto.SegmentID]*roaring.Bitmap{"a": draw("a"), "b": draw("b")}
		get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
		for _, text := range []string{"a & b", "b & a", "a & a"} {
			a, err := segments.ParseAudience(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := a.Count(get, nil), a.Eval(get, nil).GetCardinality(); got != want {
				t.Fatalf("%s: counts %d, want %d", text, got, want)
			}
		}
	})
}

// A saved audience may be one and the same wherever it is named.
func TestAudienceCountsASharedPart(t *testing.T) {
	sets := map[proto.SegmentID]*roaring.Bitmap{"x": roaring.New(), "s": roaring.New()}
	for o := uint32(0); o < 60_000; o += 47 {
		sets["x"].Add(o)
		sets["s"].Add(o + o/3)
	}
	shared := mustAudience(t, "s")
	a, err := mustAudience(t, "(x|@s)&@s").Expand(func(proto.AudienceID) (*segments.Audience, error) { return shared, nil })
	if err != nil {
		t.Fatal(err)
	}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	if got, want := a.Count(get, nil), a.Eval(get, nil).GetCardinality(); got != want || want == 0 {
		t.Errorf("%s counts %d, evaluates to %d", a, got, want)
	}
}

// Marks are few: after some dozens of chunks they begin anew.
func TestAudienceCountsInManyChunks(t *testing.T) {
	sets := map[proto.SegmentID]*roaring.Bitmap{}
	for j, id := range []proto.SegmentID{"a", "b", "c", "d"} {
		sets[id] = roaring.New()
		for i := range uint32(200) {
			for o := i * uint32(j) % 7; o < 2000; o += 3 + (i+uint32(j))%5 {
				sets[id].Add(i<<16 + o)
			}
		}
	}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	for _, text := range []string{"a & b", "a & b & !c", "(a | b) & (b | c)", "(a | b) & (b | c) & (c | d)", "a | b | c", "(a | b) & !c", "(a | b) & c & d"} {
		a := mustAudience(t, text)
		if got, want := a.Count(get, nil), a.Eval(get, nil).GetCardinality(); got != want || want == 0 {
			t.Errorf("%s counts %d, evaluates to %d", a, got, want)
		}
	}
}

// Few in a list are looked up in runs, of which the first and the last are in.
func TestAudienceCountsFewInRuns(t *testing.T) {
	sets := map[proto.SegmentID]*roaring.Bitmap{"few": roaring.BitmapOf(9, 10, 19, 20, 1<<16-1), "runs": roaring.New(), "all": roaring.New()}
	sets["runs"].AddRange(10, 20)
	sets["runs"].AddRange(1<<16-5, 1<<16)
	sets["all"].AddRange(0, 1<<16)
	for _, b := range sets {
		b.RunOptimize()
	}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	for text, want := range map[string]uint64{"few & runs & all": 3, "few & all & !runs": 2, "few & (runs | gone) & all": 3} {
		if got := mustAudience(t, text).Count(get, nil); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

// What has many parts is evaluated.
func TestAudienceCountsLongChains(t *testing.T) {
	sets := map[proto.SegmentID]*roaring.Bitmap{"a": roaring.BitmapOf(1, 2, 3), "b": roaring.BitmapOf(2, 3, 4), "c": roaring.BitmapOf(3, 4)}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	universe := roaring.BitmapOf(1, 2, 3, 4, 5)
	for _, parts := range []int{11, 12, 13, 63, 64, 65, 999} {
		for _, x := range []struct {
			text string
			want uint64
		}{
			{strings.Repeat("a & ", parts-1) + "b", 2},
			{"!(" + strings.Repeat("a & ", parts-1) + "b)", 3},
			{strings.Repeat("!a & ", parts-1) + "!c", 1},
			{"(" + strings.Repeat("a | ", parts-2) + "b) & c", 2},
			{"(" + strings.Repeat("a | ", parts-1) + "!b) & c", 1},
		} {
			if got := mustAudience(t, x.text).Count(get, universe); got != x.want {
				t.Errorf("%d parts, %.20s: %d, want %d", parts, x.text, got, x.want)
			}
		}
	}
}

// Lists, bits, and what is in none.
func TestAudienceCountsListsInUnions(t *testing.T) {
	sets := map[proto.SegmentID]*roaring.Bitmap{}
	for i, id := range []proto.SegmentID{"a", "b", "c", "d", "e"} {
		sets[id] = roaring.New()
		for o := uint32(0); o < 60_000; o += uint32(37 + 10*i) {
			sets[id].Add(o)
		}
	}
	sets["full"], sets["rare"] = roaring.New(), roaring.New()
	for o := uint32(0); o < 60_000; o += 3 { // as bits
		sets["full"].Add(o + o/30_000)
		if o%150 == 0 {
			sets["rare"].Add(o)
		}
	}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	for _, text := range []string{"(a|full)&b", "(full|a)&b", "(a|b|full|c)&d", "(a|b)&c&!rare", "(a|b)&!rare&!full", "(a|rare)&full&!b", "(a|b)&c&!d", "(a|b)&(c|d)&e", "a&(b|c&(d|e))&!c", "a&!(b|c)&(d|e)", "(a|b)&gone", "(gone|none)&a", "a&b", "a&b&e", "a&gone", "a&!b", "!a&b", "a|b", "a|gone", "a&!gone", "gone&!a", "full&!a", "full|a", "a&a", "a&!a", "!(!a&!b)", "!(a&!b)", "!!a", "a&!b&!c", "(a|b)&!c", "!(!a&!b&!(c|full))"} {
		a, err := segments.ParseAudience(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := a.Count(get, nil), a.Eval(get, nil).GetCardinality(); got != want {
			t.Errorf("%s counts %d, evaluates to %d", text, got, want)
		}
	}
}

func TestAudienceWithoutUniverse(t *testing.T) {
	some := roaring.BitmapOf(1, 2)
	for _, x := range []struct {
		text string
		want uint64
	}{{"!a", 0}, {"!(a & b)", 0}, {"!a & !b", 0}, {"a | !b", 0}, {"!(a | b)", 0}, {"!(a & !b)", 0}, {"!(!a & !b)", 2}, {"!(!a | !b)", 2}, {"a & !(b & !a)", 2}} {
		a := mustAudience(t, x.text)
		for _, bits := range []*roaring.Bitmap{nil, some} {
			want := x.want
			if bits == nil {
				want = 0
			}
			get := func(proto.SegmentID) *roaring.Bitmap { return bits }
			if n, e := a.Count(get, nil), a.Eval(get, nil); n != want || e.GetCardinality() != want {
				t.Errorf("%s of %v: counts %d, %v", a, bits, n, e)
			}
		}
	}
}

func FuzzParseAudience(f *testing.F) {
	for _, s := range []string{"a & !(b | c)", `"a.b" | !!c`, "((a", "a && b", "é", strings.Repeat("!(", 20), "@a & (b | @c) & !@d", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := segments.ParseAudience(s)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeExpr {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		again, err := segments.ParseAudience(a.String())
		if err != nil || again.String() != a.String() {
			t.Fatalf("%q: canonical form %q is read as %v, %v", s, a, again, err)
		}
		get := func(proto.SegmentID) *roaring.Bitmap { return nil }
		if n := a.Count(get, nil); n != 0 {
			t.Fatalf("%q counts %d of nothing", s, n)
		}
	})
}

// BenchmarkAudienceCount counts over a million nodes; each segment holds every
// fifth or so of them, at random.
func BenchmarkAudienceCount(b *testing.B) {
	const nodes = 1_000_000
	sets := map[proto.SegmentID]*roaring.Bitmap{}
	universe := roaring.New()
	universe.AddRange(0, nodes)
	state := uint64(1)
	for i, id := range []proto.SegmentID{"a", "b", "c", "d", "e", "f"} {
		sets[id] = roaring.New()
		for o := range uint32(nodes) {
			state = state*6364136223846793005 + 1442695040888963407
			if (state>>33)%uint64(4+i) == 0 {
				sets[id].Add(o)
			}
		}
	}
	get := func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }
	for _, text := range []string{"a", "!a", "a & b", "a & !b", "a | b", "a & e & !f", "(a | b | c | d) & e & !f", "!(a | b)", "a | b | !c"} {
		a, err := segments.ParseAudience(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(strings.ReplaceAll(text, " ", ""), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Count(get, universe)
			}
		})
	}
}

// The canonical form of whatever can be read can be read again: it is what exports,
// reports and saved audiences have.
func TestCanonicalFormIsBounded(t *testing.T) {
	text := func(last int) string {
		return strings.Repeat(strings.Repeat("x", 64)+"|", 978) + strings.Repeat("x", last)
	}
	room := segments.AudienceBytesMax - 978*(64+len(" | "))
	for last := range 64 {
		a, err := segments.ParseAudience(text(last + 1))
		switch {
		case last+1 > room:
			if proto.CodeOf(err) != proto.CodeExpr || !strings.Contains(err.Error(), "spaces around its operators") {
				t.Fatalf("%d bytes: %v", len(text(last+1)), err)
			}
		case err != nil:
			t.Fatal(err)
		default:
			if _, err := segments.ParseAudience(a.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
