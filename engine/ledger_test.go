package engine_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// TestFinalIsToldLast: the end of a cut is told after all that it waited for in other
// lanes, in whatever order lanes gave what there is to tell.
func TestFinalIsToldLast(t *testing.T) {
	type list = []engine.Untold
	one := func(lane proto.LaneID, at proto.Offset) engine.Untold { return engine.Untold{Lane: lane, At: at} }
	final := func(lane proto.LaneID, at proto.Offset, after ...proto.Offset) engine.Untold {
		return engine.Untold{Lane: lane, At: at, After: after}
	}
	for _, c := range []struct {
		what        string
		told        []proto.Offset
		waits, want list
	}{
		{"in order", []proto.Offset{0, 0}, list{one(1, 5), final(0, 9, 9, 5)}, list{one(1, 5), final(0, 9, 9, 5)}},
		{"the other lane gave it later", []proto.Offset{0, 0}, list{final(0, 9, 9, 5), one(1, 5)}, list{one(1, 5)}},
		{"what is behind it too", []proto.Offset{0, 0}, list{final(0, 9, 9, 5), one(0, 10), one(1, 5), one(1, 6)}, list{one(1, 5), one(1, 6)}},
		{"it did not wait for that", []proto.Offset{0, 0}, list{final(0, 9, 9, 5), one(1, 6)}, list{final(0, 9, 9, 5), one(1, 6)}},
		{"another node told it", []proto.Offset{0, 5}, list{final(0, 9, 9, 5), one(1, 5)}, list{final(0, 9, 9, 5), one(1, 5)}},
		{"two ends, of which one waits", []proto.Offset{0, 0}, list{one(1, 4), final(0, 8, 8, 4), final(0, 9, 9, 5), one(1, 5)}, list{one(1, 4), final(0, 8, 8, 4), one(1, 5)}},
	} {
		got := engine.Gathered(&owners{changed: make(chan struct{})}, c.told, c.waits)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: a record takes (-want +got):\n%s", c.what, diff)
		}
	}
}
