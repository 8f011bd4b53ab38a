package identity

import (
	"testing"

	"kith/graph"
	"kith/proto"
)

// A node is idle by what happened to it last, be it an event, a link or the
// removal of one; one of which nothing is known is not, because something may
// be under way that is about it.
func TestIdle(t *testing.T) {
	link := func(at, removed proto.Millis) *graph.State {
		l := graph.Neighbour{MarkTime: removed}
		l.Time = at
		return &graph.State{Links: []graph.Neighbour{l}}
	}
	for _, c := range []struct {
		what string
		s    State
		last proto.Millis
	}{
		{"events of two clients", State{Facts: []Facts{{Client: 1, Last: 70}, {Client: 2, Last: 50}}}, 70},
		{"a link after the events", State{Facts: []Facts{{Client: 1, Last: 70}}, Graph: link(90, 0)}, 90},
		{"a link before the events", State{Facts: []Facts{{Client: 1, Last: 70}}, Graph: link(20, 0)}, 70},
		{"a removal", State{Graph: link(20, 95)}, 95},
		{"nothing but a name", State{Named: true, Bare: 80}, 80},
	} {
		if got := c.s.LastSeen(); got != c.last {
			t.Errorf("%s: last seen at %d, want %d", c.what, got, c.last)
		}
		if c.s.Idle(c.last) || !c.s.Idle(c.last+1) {
			t.Errorf("%s: idle since %d is %v, since %d %v", c.what, c.last, c.s.Idle(c.last), c.last+1, c.s.Idle(c.last+1))
		}
	}
	for _, s := range []State{{}, {Graph: &graph.State{}}, {Named: true}} {
		if s.Idle(1 << 40) {
			t.Errorf("%+v, of which nothing is known, is idle", s)
		}
	}
}
