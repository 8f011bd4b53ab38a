package main

import (
	"testing"

	"kith/proto"
)

// Numbers that are not told may be of any size.
func TestPreviewText(t *testing.T) {
	all, before := uint64(900), uint64(100)
	for want, p := range map[string]proto.SegmentPreview{
		"a: 100 in, 900 after; 900 would enter, 100 leave":                                                                           {ID: "a", Identities: &all, Before: &before, After: &all, Entering: &all, Leaving: &before, Exact: true},
		"a: 100 in, not told after; not told would enter, not told leave (numbers under 50 are not told, nor what they follow from)": {ID: "a", Identities: &all, Before: &before, Below: 50, Exact: true},
	} {
		if got := previewText(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Who was defined without backfill is not waited for.
func TestUnfilledText(t *testing.T) {
	none, half := 0.0, 0.5
	for want, s := range map[string]proto.SegmentSpec{
		"no: it was defined without backfill and has those seen since: kith segments backfill a": {ID: "a", Progress: &none},
		"not yet: history is being gone through, 50%":                                            {ID: "a", Progress: &half},
		"not yet: history is being gone through, 0%":                                             {ID: "a", Progress: &none, Backfill: true},
	} {
		if got := unfilledText(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A backfill that does not start is not said to.
func TestBackfillText(t *testing.T) {
	size, filled, half := uint64(7), true, 0.5
	not := !filled
	for _, x := range []struct {
		s     proto.SegmentSpec
		under bool
		want  string
	}{
		{proto.SegmentSpec{ID: "a", Size: &size, Filled: &filled}, false, "a is filled; size 7"},
		{proto.SegmentSpec{ID: "a", Size: &size, Filled: &not}, false, "backfill of a started"},
		{proto.SegmentSpec{ID: "a", Filled: &not, Progress: &half}, true, "backfill of a is under way, 50%"},
		{proto.SegmentSpec{ID: "a", Filled: &filled, Next: &proto.SegmentNext{Progress: half}}, true, "backfill of a is under way, 50%"},
	} {
		if got := backfillText(x.s, x.under); got != x.want {
			t.Errorf("%q, want %q", got, x.want)
		}
	}
}
