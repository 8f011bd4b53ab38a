package cluster_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/cluster"
	"kith/proto"
)

const lanes = 16

// drawMembers gives some members, each with some lanes ready.
func drawMembers(t *rapid.T) []cluster.Member {
	list := names(rapid.IntRange(1, 7).Draw(t, "members"))
	for i := range list {
		list[i].Ready = cluster.Lanes(rapid.Uint64Range(0, 1<<lanes-1).Draw(t, "ready"))
		list[i].Draining = rapid.Bool().Draw(t, "draining")
		list[i].Started = 1000
	}
	return list
}

// Who answers has the lane; the owner is among those that stay if one of them
// has it, and who should hold the lane comes first.
func TestTableAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawMembers(t)
		table := cluster.NewTable(list, lanes, 2, nil)
		for id := range proto.LaneID(lanes) {
			stays := false
			for _, m := range list {
				got := slices.Contains(table.Answering(id), m.Name)
				if got != m.Ready.Has(id) {
					t.Fatalf("lane %d: %s answers: %t, it is ready: %t", id, m.Name, got, m.Ready.Has(id))
				}
				stays = stays || got && !m.Draining
			}
			owner, ok := table.Member(table.Owner(id))
			if ok != (len(table.Answering(id)) > 0) {
				t.Fatalf("lane %d has the owner %q, answering are %v", id, table.Owner(id), table.Answering(id))
			}
			if ok && owner.Draining && stays {
				t.Fatalf("lane %d: %s owns it and drains", id, owner.Name)
			}
			for _, h := range table.Holders(id) {
				if x, _ := table.Member(h); x.Ready.Has(id) {
					if owner.Name != h {
						t.Fatalf("lane %d: %s owns it, the first holder that is ready is %s", id, owner.Name, h)
					}
					break
				}
			}
		}
		rand.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
		if diff := cmp.Diff(table, cluster.NewTable(list, lanes, 2, nil), cmp.AllowUnexported(cluster.Table{})); diff != "" {
			t.Fatalf("the order matters: %s", diff)
		}
	})
}

// A member that comes changes nothing before it says that it is ready, and
// nobody lets go of a lane before all that should hold it have it.
func TestTableHandsOver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := names(rapid.IntRange(2, 7).Draw(t, "members"))
		before := cluster.NewTable(list, lanes, 2, nil)
		for i := range list {
			for id := range proto.LaneID(lanes) {
				if slices.Contains(before.Holders(id), list[i].Name) {
					list[i].Ready = list[i].Ready.With(id)
				}
			}
		}
		before = cluster.NewTable(list, lanes, 2, nil)
		comes := cluster.Member{Name: "new"}
		after := cluster.NewTable(append(list, comes), lanes, 2, nil)
		comes.Ready = 1<<lanes - 1
		ready := cluster.NewTable(append(list, comes), lanes, 2, nil)
		for id := range proto.LaneID(lanes) {
			if before.Owner(id) != after.Owner(id) {
				t.Fatalf("lane %d went from %s to %s when a member came that has nothing", id, before.Owner(id), after.Owner(id))
			}
			for _, m := range list {
				should := slices.Contains(after.Holders(id), m.Name)
				if table := after; table.MayLetGo(m.Name, id) && slices.Contains(table.Holders(id), "new") {
					t.Fatalf("lane %d: %s may let go before the new member is ready", id, m.Name)
				}
				if want := !should; ready.MayLetGo(m.Name, id) != want {
					t.Fatalf("lane %d: %s may let go: %t, want %t", id, m.Name, !want, want)
				}
			}
		}
	})
}

// An owner that was named by hand owns the lane while it answers and does not
// drain; nothing else changes.
func TestTableKeepsToWhoWasNamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawMembers(t)
		named := list[rapid.IntRange(0, len(list)-1).Draw(t, "named")]
		id := proto.LaneID(rapid.IntRange(0, lanes-1).Draw(t, "lane"))
		before := cluster.NewTable(list, lanes, 2, nil)
		after := cluster.NewTable(list, lanes, 2, cluster.Placed{id: named.Name, (id + 1) % lanes: "nobody"})
		for x := range proto.LaneID(lanes) {
			want := before.Owner(x)
			if x == id && named.Ready.Has(id) && !named.Draining {
				want = named.Name
			}
			if after.Owner(x) != want {
				t.Fatalf("lane %d is owned by %s, want %s", x, after.Owner(x), want)
			}
			if x != id && !slices.Equal(before.Holders(x), after.Holders(x)) || len(before.Holders(x)) != len(after.Holders(x)) {
				t.Fatalf("lane %d is held by %v, was by %v", x, after.Holders(x), before.Holders(x))
			}
		}
		if !named.Draining && after.Holders(id)[0] != named.Name {
			t.Fatalf("lane %d is to be held by %v, not first by %s", id, after.Holders(id), named.Name)
		}
	})
}

// TestTableTakesTheNewestProcess: a restarted node is one member, with what
// its newest process says.
func TestTableTakesTheNewestProcess(t *testing.T) {
	table := cluster.NewTable([]cluster.Member{
		{Name: "a", Started: 2, Remote: "new"}, {Name: "a", Started: 1, Remote: "old", Ready: 1}, {Name: "b", Started: 1, Ready: 1},
	}, 1, 2, nil)
	if got := table.Members(); len(got) != 2 || got[0].Remote != "new" {
		t.Errorf("members: %+v", got)
	}
	if got := table.Answering(0); !slices.Equal(got, []string{"b"}) {
		t.Errorf("answering: %v", got)
	}
	if table.MayLetGo("a", 5) {
		t.Error("a lane that nobody should hold may be let go of")
	}
	if _, ok := table.Member("c"); ok {
		t.Error("c is a member")
	}
}

func TestLanes(t *testing.T) {
	s := cluster.Lanes(0).With(3).With(63)
	if !s.Has(3) || !s.Has(63) || s.Has(0) || s.Without(63).Has(63) || !s.Without(63).Has(3) {
		t.Errorf("%b", s)
	}
}
