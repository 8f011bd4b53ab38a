package identity_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/actors/identity"
	"kith/proto"
)

const dayMillis = proto.Millis(24 * 60 * 60 * 1000)

// seen has a fresh state take in an event on a network on each of some days, and gives
// the state.
func seen(t *testing.T, days ...[2]int) *identity.State {
	t.Helper()
	s := &identity.State{}
	p := identity.NewStepper(rules{})
	var fx identity.Effects
	for _, d := range days {
		now := proto.Millis(1_767_225_600_000) + proto.Millis(d[0])*dayMillis
		e := proto.Event{Client: 1, Time: now, Received: now, Identities: []proto.Identity{"browser:a"}, EventBody: proto.EventBody{Name: "page"}, Network: proto.NetworkKey(d[1])}
		fx.Reset()
		p.Step(s, &identity.Input{Kind: identity.InputEvent, Client: 1, Event: &e, Device: true}, now, &fx)
	}
	return s
}

// networks lists what the client knows: key, then days back from the newest.
func networks(s *identity.State) (list [][]int) {
	f := s.Client(1)
	if f == nil {
		return nil
	}
	for i := range f.Networks {
		n := &f.Networks[i]
		row := []int{int(n.Key)}
		for _, d := range n.List() {
			row = append(row, int(n.Last-d))
		}
		list = append(list, row)
	}
	return list
}

func TestNetworks(t *testing.T) {
	for _, tt := range []struct {
		name string
		days [][2]int
		want [][]int
	}{
		{"none", [][2]int{{0, 0}}, nil},
		{"a day counts once", [][2]int{{0, 5}, {0, 5}, {2, 5}, {3, 5}, {3, 5}}, [][]int{{5, 0, 1, 3}}},
		{"by key", [][2]int{{0, 9}, {0, 3}, {1, 3}}, [][]int{{3, 0, 1}, {9, 0}}},
		{"days beyond the window are let go of", [][2]int{{0, 5}, {1, 5}, {29, 5}, {30, 5}}, [][]int{{5, 0, 1, 29}}},
		{"all of them", [][2]int{{0, 5}, {45, 5}}, [][]int{{5, 0}}},
		{"a network that ended goes with the next", [][2]int{{0, 5}, {30, 6}}, [][]int{{6, 0}}},
		{"a network that has not", [][2]int{{0, 5}, {29, 6}}, [][]int{{5, 0}, {6, 0}}},
		{
			"the least goes: fewest days, then longest ago",
			[][2]int{{0, 1}, {1, 1}, {1, 2}, {2, 3}, {3, 4}, {3, 5}, {3, 6}, {3, 7}, {3, 8}, {4, 9}},
			[][]int{{1, 0, 1}, {3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {8, 0}, {9, 0}},
		},
	} {
		s := seen(t, tt.days...)
		if d := cmp.Diff(tt.want, networks(s)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
		b := s.Append(nil)
		var again identity.State
		if _, err := again.Decode(b); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !slices.Equal(again.Append(nil), b) || cmp.Diff(networks(s), networks(&again)) != "" {
			t.Errorf("%s: not the same when it is read again", tt.name)
		}
	}
}

// A network ends by time alone, at the beginning of a day, and the node has an exit
// record for that.
func TestNetworkEnds(t *testing.T) {
	s := seen(t, [2]int{0, 5}, [2]int{1, 6}, [2]int{2, 5})
	start := proto.Millis(1_767_225_600_000)
	if want := start + 30*dayMillis; s.Exit != want || s.Ends() != start+31*dayMillis {
		t.Fatalf("the exit record is at %v and the first end at %v, want %v (of what was known first) and a day later", s.Exit, s.Ends(), want)
	}
	p := identity.NewStepper(rules{})
	var fx identity.Effects
	for _, at := range []proto.Millis{start + 30*dayMillis, start + 31*dayMillis} {
		fx.Reset()
		p.Step(s, &identity.Input{Kind: identity.InputTimer, At: s.Exit}, at, &fx)
	}
	if d := cmp.Diff([][]int{{5, 0, 2}}, networks(s)); d != "" {
		t.Errorf("after the end of one (-want +got):\n%s", d)
	}
	fx.Reset()
	p.Step(s, &identity.Input{Kind: identity.InputTimer, At: s.Exit}, start+32*dayMillis, &fx)
	if got := networks(s); got != nil || s.Exit != 0 || !fx.Changed {
		t.Errorf("after the end of all: %v, exit %v", got, s.Exit)
	}
}

// Retention takes days on networks as it takes events.
func TestNetworksTrimmed(t *testing.T) {
	start := proto.Millis(1_767_225_600_000)
	for at, want := range map[int][][]int{0: {{5, 0, 2}, {6, 0}}, 1: {{5, 0}, {6, 0}}, 2: {{5, 0}}, 3: nil} {
		s := seen(t, [2]int{0, 5}, [2]int{1, 6}, [2]int{2, 5})
		p := identity.NewStepper(rules{})
		var fx identity.Effects
		day := start + proto.Millis(at)*dayMillis
		p.Step(s, &identity.Input{Kind: identity.InputTrim, Client: 1, At: day}, start+3*dayMillis, &fx)
		if d := cmp.Diff(want, networks(s)); d != "" {
			t.Errorf("from day %d on (-want +got):\n%s", at, d)
		}
		if f := s.Client(1); f != nil && f.Older(day) {
			t.Errorf("something is older than day %d still", at)
		}
	}
}

// What a client knows of networks goes with what else it knows.
func TestNetworksForgotten(t *testing.T) {
	s := seen(t, [2]int{0, 5})
	p := identity.NewStepper(rules{})
	var fx identity.Effects
	p.Step(s, &identity.Input{Kind: identity.InputForget, Client: 1}, 1_767_225_600_000, &fx)
	if got := networks(s); got != nil || s.Ends() != 0 {
		t.Errorf("left: %v", got)
	}
	s = seen(t, [2]int{0, 5})
	p.Step(s, &identity.Input{Kind: identity.InputPurge}, 1_767_225_600_000, &fx)
	if got := networks(s); got != nil || s.Ends() != 0 {
		t.Errorf("left after a purge: %v", got)
	}
}

func TestNetworksMalformed(t *testing.T) {
	good := seen(t, [2]int{0, 5}, [2]int{0, 6}).Append(nil)
	refused := 0
	for i := range good {
		for _, x := range []byte{0, 1, 0x7f, 0xff} {
			b := slices.Clone(good)
			b[i] ^= x
			var s identity.State
			if _, err := s.Decode(b); err != nil {
				refused++
				continue
			}
			if _, err := s.Decode(s.Append(nil)); err != nil {
				t.Fatalf("byte %d changed by %x is read, and not what is written of it: %v", i, x, err)
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// An id that rotates is over at its time.
func TestEnd(t *testing.T) {
	s := &identity.State{}
	p := identity.NewStepper(rules{})
	var fx identity.Effects
	now := proto.Millis(1_767_225_600_000)
	e := proto.Event{Client: 1, Time: now, Received: now, Identities: []proto.Identity{"stat:r1.x"}, EventBody: proto.EventBody{Name: "page"}}
	p.Step(s, &identity.Input{Kind: identity.InputEvent, Client: 1, Event: &e, End: now + dayMillis}, now, &fx)
	if s.Exit != now+dayMillis || s.End != now+dayMillis {
		t.Errorf("exit at %v, end at %v", s.Exit, s.End)
	}
	var again identity.State
	if _, err := again.Decode(s.Append(nil)); err != nil || again.End != s.End {
		t.Errorf("read again: %v %v", again.End, err)
	}
}
