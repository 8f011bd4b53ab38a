package cluster_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/cluster"
	"kith/proto"
)

func names(n int) (list []cluster.Member) {
	for i := range n {
		list = append(list, cluster.Member{Name: fmt.Sprintf("n%d", i+1)})
	}
	return list
}

// Everybody comes to the same answer, whatever the order of what they know.
func TestHoldersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := names(rapid.IntRange(1, 9).Draw(t, "members"))
		lane := proto.LaneID(rapid.IntRange(0, proto.LanesMax-1).Draw(t, "lane"))
		replicas := rapid.IntRange(1, 4).Draw(t, "replicas")
		want := cluster.Holders(lane, members, replicas)
		if len(want) != min(replicas, len(members)) {
			t.Fatalf("%d holders of %d members for %d replicas", len(want), len(members), replicas)
		}
		rand.Shuffle(len(members), func(a, b int) { members[a], members[b] = members[b], members[a] })
		twice := append(slices.Clone(members), members...)
		for _, m := range [][]cluster.Member{members, twice} {
			if diff := cmp.Diff(want, cluster.Holders(lane, m, replicas)); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// A member that goes moves only what it held; the follower becomes the owner.
func TestHoldersMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := names(rapid.IntRange(3, 9).Draw(t, "members"))
		gone := rapid.IntRange(0, len(members)-1).Draw(t, "gone")
		drains := rapid.Bool().Draw(t, "drains")
		left := slices.Clone(members)
		if drains {
			left[gone].Draining = true
		} else {
			left = slices.Delete(left, gone, gone+1)
		}
		for lane := range proto.LaneID(proto.LanesMax) {
			before := cluster.Holders(lane, members, 2)
			after := cluster.Holders(lane, left, 2)
			kept := slices.DeleteFunc(slices.Clone(before), func(n string) bool { return n == members[gone].Name })
			if diff := cmp.Diff(kept, after[:len(kept)]); diff != "" {
				t.Fatalf("lane %d: %s", lane, diff)
			}
		}
	})
}

// All draining: somebody must answer.
func TestAllDraining(t *testing.T) {
	members := names(2)
	members[0].Draining, members[1].Draining = true, true
	if got := cluster.Holders(0, members, 2); len(got) != 2 {
		t.Errorf("holders are %v", got)
	}
}

// Lanes spread: of 64 over three nodes each owns some 21, over many names of
// nodes on average within a few.
func TestHoldersSpread(t *testing.T) {
	var owned, rounds float64
	worst := 0
	for seed := range 200 {
		count := map[string]int{}
		var members []cluster.Member
		for i := range 3 {
			members = append(members, cluster.Member{Name: fmt.Sprintf("host-%d-%d", seed, i)})
		}
		for lane := range proto.LaneID(proto.LanesMax) {
			count[cluster.Holders(lane, members, 1)[0]]++
		}
		for _, m := range members {
			owned += float64(count[m.Name])
			rounds++
			worst = max(worst, count[m.Name])
		}
	}
	if mean := owned / rounds; mean < 21 || mean > 22 {
		t.Errorf("%f lanes a node, want 21.3", mean)
	}
	if worst > 40 {
		t.Errorf("a node owns %d of 64 lanes", worst)
	}
}
