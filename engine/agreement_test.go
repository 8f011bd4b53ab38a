package engine

import (
	"slices"
	"testing"
	"time"

	"kith/proto"
)

// Who differs from more nodes than it agrees with is alone; what is not known any
// more, or not yet, says nothing.
func TestAgreement(t *testing.T) {
	var x agreement
	for at := range proto.Offset(2 * chainsKept) {
		x.note(at+1, uint64(at)*3)
	}
	beat := func(node string, at proto.Offset, same bool) proto.Beat {
		b := proto.Beat{Node: node, Incarnation: 2, At: at, Chain: uint64(at-1) * 3}
		if !same {
			b.Chain++
		}
		return b
	}
	const at = chainsKept + 7
	for _, step := range []struct {
		when   time.Duration
		beats  []proto.Beat
		differ []string
		alone  bool
	}{
		{0, []proto.Beat{{Node: "b", Incarnation: 2}}, nil, false},
		{0, []proto.Beat{beat("b", 5, false), beat("b", 3*chainsKept, false)}, nil, false},
		{0, []proto.Beat{{Node: "a", Incarnation: 1, At: at, Chain: 1}}, nil, false}, // its own
		{0, []proto.Beat{beat("b", at, true)}, nil, false},
		{1, []proto.Beat{beat("b", at+1, false)}, []string{"b"}, false}, // one against one
		{2, []proto.Beat{beat("c", at+1, true)}, []string{"b"}, false},
		{3, []proto.Beat{beat("c", at+2, false)}, []string{"b", "c"}, true},
		{4, []proto.Beat{beat("d", at+2, true), beat("e", at+2, true)}, []string{"b", "c"}, false},
		{agreedFor + 4, []proto.Beat{beat("e", at+9, true)}, nil, false}, // b and c said nothing for long
	} {
		differ, alone := x.compare(step.beats, 1, step.when)
		if !slices.Equal(differ, step.differ) || alone != step.alone {
			t.Errorf("after %v %+v: others are %v, alone: %t", step.when, step.beats, differ, alone)
		}
	}
	if n := x.differing(agreedFor + 5); n != 0 {
		t.Errorf("%d differ in the end", n)
	}
}
