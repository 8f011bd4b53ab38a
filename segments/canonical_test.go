package segments_test

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

func keyOf(t interface{ Fatalf(string, ...any) }, text string) string {
	a, err := segments.ParseAudience(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return a.Key()
}

func TestRewrittenAudiencesHaveOneKey(t *testing.T) {
	for _, same := range [][]string{
		{"a", "a & a", "!!a", "a | a & b", "a & (b | !b)", "(a & b) | (a & !b)", "a & (a | c | d)"},
		{"a & b", "b & a", "!(!a | !b)", "a & b & (x | !x) & (y | !y) & (z | !z)"},
		{"a & !a", "b & !b", "!(c | !c)"},
		{"a | !a", "x | !x"},
		{"!a", "!a & !a", "!(a | a & b)"},
		{"b & (c | d)", "b & c | d & b"},
		{"(a|b|c|d)&e&!f", "e & !(f | !a & !b & !c & !d)"},
		{"a|b|c|d|e|f|g", "g|f|e|d|c|b|a|a|(b)"}, // over six: order and repetition
		{"a&b&c&d&e&f&(g|h)", "(h|g|h)&f&e&d&c&b&a"},
		{"a&b&c&d&e&f&g", "(a&b|b&a)&c&d&e&f&g", "((a|a)&b|b&a&a)&(c&d|d&c)&e&f&g", "!!(a&b|b&a)&c&d&e&f&g"}, // and what they leave
		{"a|b|c|d|e|f|g", "(a|b)&(b|a)|c|d|e|f|g"},
		{"!(a|b|c|d|e|f|g)", "!((a|b)&(b|a)|c|d|e|f|g)"},
	} {
		for _, text := range same {
			if got, want := keyOf(t, text), keyOf(t, same[0]); got != want {
				t.Errorf("%s has key %q, %s has %q", text, got, same[0], want)
			}
		}
	}
	seen := map[string]string{}
	for _, text := range []string{"a", "b", "!a", "a & b", "a | b", "a & !b", "a & !a", "a | !a", "a & b & c", "a|b|c|d|e|f|g", "a|b|c|d|e|f|h"} {
		if other, ok := seen[keyOf(t, text)]; ok {
			t.Errorf("%s and %s have the same key", text, other)
		}
		seen[keyOf(t, text)] = text
	}
}

// Equal keys are equal sets, and of six names or fewer unequal keys are sets
// that can differ.
func TestKeysAreSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, first := drawExpr(t, 3)
		two, second := drawExpr(t, 3)
		equal := true
		for row := range 64 {
			has := func(name string) bool { return row>>(name[0]-'a')&1 == 1 }
			equal = equal && first(has) == second(has)
		}
		if keys := keyOf(t, one) == keyOf(t, two); keys != equal {
			t.Fatalf("%s and %s: keys equal %v, sets equal %v", one, two, keys, equal)
		}
	})
}

func TestApart(t *testing.T) {
	sets := map[proto.SegmentID]*roaring.Bitmap{"a": roaring.BitmapOf(1, 2, 3), "b": roaring.BitmapOf(2, 3, 4)}
	universe := roaring.BitmapOf(1, 2, 3, 4, 5, 6)
	for pair, want := range map[[2]string]uint64{
		{"a", "b"}: 2, {"a", "a"}: 0, {"a", "!a"}: 6, {"!a", "!b"}: 2, {"a & b", "a"}: 1, {"a | !a", "!b"}: 3,
	} {
		one, _ := segments.ParseAudience(pair[0])
		two, _ := segments.ParseAudience(pair[1])
		got := segments.Apart(one, two, func(id proto.SegmentID) *roaring.Bitmap { return sets[id] }, universe)
		if got.GetCardinality() != want {
			t.Errorf("%v are %d apart, want %d", pair, got.GetCardinality(), want)
		}
	}
	if sets["a"].GetCardinality() != 3 || universe.GetCardinality() != 6 {
		t.Error("the inputs were changed")
	}
}
