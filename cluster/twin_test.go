package cluster_test

import (
	"strings"
	"testing"
	"time"

	"kith/cluster"
	"kith/proto"
)

// TestTwins: of two processes of one name the one that is not ready goes, and says
// why; one that comes after another died does not.
func TestTwins(t *testing.T) {
	list := gossipers(t, 3)
	n1 := join(t, list[0])
	first := list[1]
	n2 := join(t, first)
	for _, m := range []*cluster.Membership{n1, n2} {
		if err := m.Meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.SetReady(1)
	}
	second := list[2]
	second.Name = first.Name
	twin := join(t, second)
	err := twin.Meet(t.Context())
	if begins := twin.Begin(); proto.CodeOf(begins) != proto.CodeConflict {
		t.Errorf("it may begin: %v", begins)
	}
	if proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), `"n2"`) || !strings.Contains(err.Error(), first.Listen) {
		t.Fatalf("a second n2 is told %v", err)
	}
	select {
	case <-twin.Gone():
	default:
		t.Error("it is not told to end")
	}
	leave(twin)
	if err := n2.Displaced(); err != nil {
		t.Errorf("the first n2 is told %v", err)
	}
	n2.Kill()
	back := join(t, first) // the others list the one before still
	if err := back.Meet(t.Context()); err != nil {
		t.Errorf("after a crash n2 is told %v", err)
	}
	back.Kill()
	moved := join(t, second)
	if err := moved.Meet(t.Context()); err != nil {
		t.Errorf("elsewhere n2 is told %v", err)
	}
}

// TestOtherLanes: a node with another number of lanes than those that answer is
// refused before it begins.
func TestOtherLanes(t *testing.T) {
	list := gossipers(t, 3)
	n1 := join(t, list[0])
	list[1].Lanes, list[2].Lanes = lanes+1, lanes+1
	if err := join(t, list[1]).Meet(t.Context()); err != nil {
		t.Fatalf("while none answers a node is told %v", err)
	}
	n1.SetReady(1)
	n3 := join(t, list[2])
	await(t, n3, "the first answers", func(x *cluster.Table) bool { m, _ := x.Member("n1"); return m.Ready != 0 })
	err := n3.Meet(t.Context())
	if proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "node n1 has 16 lanes, the configuration says 17") {
		t.Errorf("a node with another lane is told %v", err)
	}
}

// TestReplacedTwin: a process that was cut off while another was started in its
// place gives way to that.
func TestReplacedTwin(t *testing.T) {
	list := gossipers(t, 3)
	old, place := list[1], list[2]
	place.Name = old.Name
	old.Join, place.Join = nil, nil
	old.Now = func() proto.Millis { return 1000 }
	place.Now = func() proto.Millis { return 2000 }
	was, is := join(t, old), join(t, place)
	was.SetReady(1)
	if err := is.Begin(); err != nil {
		t.Fatal(err)
	}
	n1 := join(t, list[0]) // and they are together
	await(t, n1, "the one in its place is known", func(x *cluster.Table) bool { m, ok := x.Member("n2"); return ok && m.Started == 2000 })
	is.SetReady(1)
	select {
	case <-was.Gone():
	case <-time.After(30 * time.Second):
		t.Fatal("the one that was replaced stays")
	}
	if err := was.Displaced(); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "in place of this one") {
		t.Errorf("it is told %v", err)
	}
	if err := is.Displaced(); err != nil {
		t.Errorf("the one in its place is told %v", err)
	}
}

// TestWhoGivesWay: never both of two, as each of them sees it.
func TestWhoGivesWay(t *testing.T) {
	for _, c := range []struct {
		what          string
		older, newer  cluster.Lanes // that it says it has
		wasOld, wasIn bool          // that it has begun
		old, fresh    bool          // that it gives way
	}{
		{"started twice", 0, 0, false, false, false, true},
		{"started while one runs", 1, 0, true, false, false, true},
		{"started while one runs and is behind", 0, 0, true, false, false, true},
		{"replaced while it was cut off", 1, 1, true, true, true, false},
		{"replaced, and has come back behind", 0, 1, true, true, true, false},
		{"started, and has found one in its place", 0, 1, false, true, true, false},
		{"replaced, and the other is behind", 1, 0, true, true, false, false}, // until it is not
		{"replaced, and the other has just begun", 0, 0, true, true, false, false},
	} {
		older, newer := cluster.Member{Name: "n", Started: 1, Ready: c.older}, cluster.Member{Name: "n", Started: 2, Ready: c.newer}
		if old, fresh := cluster.Gives(older, c.wasOld, newer), cluster.Gives(newer, c.wasIn, older); old != c.old || fresh != c.fresh {
			t.Errorf("%s: the older gives way: %t, the newer: %t", c.what, old, fresh)
		}
	}
}
