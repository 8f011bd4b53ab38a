package cluster_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/cluster"
	"kith/proto"
)

// A cluster as large as there is none yet: a lane is named by a byte, and there
// are 64. Its placement is Holders' own, by numbers of lanes beyond that.
const (
	manyLanes    = 1000
	manyNodes    = 100
	manyReplicas = 2
)

// styles are how operators name nodes; the numbers are the only difference
// between neighbours.
var styles = []string{
	"kith-%d", "n%d", "node%03d", "ip-10-0-%d-7", "10.0.0.%d", "kith-%d.eu-west-1a", "%d", "a%dz", "rack7-host%02d", "prod_kith_%d",
}

func named(style string, n int) (list []cluster.Member) {
	for i := range n {
		list = append(list, cluster.Member{Name: fmt.Sprintf(style, i)})
	}
	return list
}

// placed are the holders of all lanes.
func placed(members []cluster.Member, lanes, replicas int) [][]string {
	list := make([][]string, lanes)
	for i := range list {
		list[i] = cluster.Place(uint64(i), members, replicas)
	}
	return list
}

// load is how many lanes each member owns and holds, those with none included.
func load(members []cluster.Member, placed [][]string) (owned, held []int) {
	at := map[string]int{}
	for i, m := range members {
		at[m.Name] = i
	}
	owned, held = make([]int, len(members)), make([]int, len(members))
	for _, holders := range placed {
		owned[at[holders[0]]]++
		for _, h := range holders {
			held[at[h]]++
		}
	}
	return owned, held
}

// beyond is the least count that a member of a fair placement exceeds with a
// chance of at most 1 in a million over all cases: a fair one gives each lane to a
// member with chance p, so its count is binomial.
func beyond(lanes int, p float64, cases int) int {
	left := 1.0 // chance of more than k
	for k := range lanes + 1 {
		a, _ := math.Lgamma(float64(lanes + 1))
		b, _ := math.Lgamma(float64(k + 1))
		c, _ := math.Lgamma(float64(lanes - k + 1))
		left -= math.Exp(a - b - c + float64(k)*math.Log(p) + float64(lanes-k)*math.Log(1-p))
		if left*float64(cases) <= 1e-6 {
			return k
		}
	}
	return lanes
}

// uneven is how far counts are from even, by chi squared: that of a fair placement
// is on average spread, one less than there are members.
func uneven(counts []int, mean float64) (sum float64) {
	for _, k := range counts {
		sum += (float64(k) - mean) * (float64(k) - mean) / mean
	}
	return sum
}

// TestPlacementIsEven: over many lanes and nodes the counts of what members own and
// hold are as even as chance makes them, and no more uneven. Rendezvous hashing
// promises no better.
func TestPlacementIsEven(t *testing.T) {
	const (
		meanOwned = float64(manyLanes) / manyNodes
		meanHeld  = meanOwned * manyReplicas
	)
	cases := manyNodes * len(styles)
	ownedMax, heldMax := beyond(manyLanes, 1.0/manyNodes, cases), beyond(manyLanes, float64(manyReplicas)/manyNodes, cases)
	var worstOwned, worstHeld []int
	var chiOwned, chiHeld float64
	for _, style := range styles {
		members := named(style, manyNodes)
		owned, held := load(members, placed(members, manyLanes, manyReplicas))
		worstOwned, worstHeld = append(worstOwned, slices.Max(owned)), append(worstHeld, slices.Max(held))
		chiOwned += uneven(owned, meanOwned)
		chiHeld += uneven(held, meanHeld)
		if slices.Max(owned) > ownedMax || slices.Max(held) > heldMax {
			t.Errorf("%s: a node owns %d lanes and one holds %d; chance gives at most %d and %d", style, slices.Max(owned), slices.Max(held), ownedMax, heldMax)
		}
	}
	slices.Sort(worstOwned)
	slices.Sort(worstHeld)
	t.Logf("%d lanes on %d nodes, %d replicas, %d ways to name nodes: the largest of what nodes own is %d to %d, mean %.0f (%.2f to %.2f of it); of what they hold %d to %d, mean %.0f (%.2f to %.2f)",
		manyLanes, manyNodes, manyReplicas, len(styles),
		worstOwned[0], worstOwned[len(styles)-1], meanOwned, float64(worstOwned[0])/meanOwned, float64(worstOwned[len(styles)-1])/meanOwned,
		worstHeld[0], worstHeld[len(styles)-1], meanHeld, float64(worstHeld[0])/meanHeld, float64(worstHeld[len(styles)-1])/meanHeld)
	// The sum over the styles is chi squared with so many degrees of freedom: five
	// of its standard deviations are met by chance once in a million.
	freedom := float64((manyNodes - 1) * len(styles))
	for what, chi := range map[string]float64{"owned": chiOwned, "held": chiHeld} {
		t.Logf("%s: chi squared %.0f, fair %.0f", what, chi, freedom)
		if math.Abs(chi-freedom) > 5*math.Sqrt(2*freedom) {
			t.Errorf("what is %s is spread by chi squared %.0f, chance gives %.0f give or take %.0f", what, chi, freedom, 5*math.Sqrt(2*freedom))
		}
	}
}

// TestPlacementMoves: one node that comes, goes or drains moves no replica but
// those that it gets or had, and what it had goes to many.
func TestPlacementMoves(t *testing.T) {
	cases := len(styles)
	comesMax := beyond(manyLanes, float64(manyReplicas)/(manyNodes+1), cases)
	heirMax := beyond(beyond(manyLanes, float64(manyReplicas)/manyNodes, cases), 1.0/(manyNodes-1), cases*manyNodes)
	var gets, had, heirs []int
	for _, style := range styles {
		all := named(style, manyNodes+1)
		with, without := placed(all, manyLanes, manyReplicas), placed(all[:manyNodes], manyLanes, manyReplicas)
		comes := all[manyNodes].Name
		n := moved(t, comes, without, with)
		if n > comesMax {
			t.Errorf("%s: one that comes gets %d lanes, chance gives at most %d", style, n, comesMax)
		}
		gets = append(gets, n)

		drains := slices.Clone(all[:manyNodes])
		gone := drains[0].Name
		drains[0].Draining = true
		drained, left := placed(drains, manyLanes, manyReplicas), placed(drains[1:], manyLanes, manyReplicas)
		if diff := cmp.Diff(left, drained); diff != "" {
			t.Errorf("%s: one that drains moves otherwise than one that goes: %s", style, diff)
		}
		had = append(had, moved(t, gone, left, without))
		extra := map[string]int{}
		for i := range left {
			for _, h := range left[i] {
				if !slices.Contains(without[i], h) {
					extra[h]++
				}
			}
		}
		most := 0
		for _, k := range extra {
			most = max(most, k)
		}
		if most > heirMax {
			t.Errorf("%s: of the lanes of one that goes another gets %d, chance gives at most %d", style, most, heirMax)
		}
		heirs = append(heirs, most)
	}
	share := func(list []int) string {
		return fmt.Sprintf("%d to %d of %d replicas (%.2f to %.2f %%)", slices.Min(list), slices.Max(list), manyLanes*manyReplicas,
			float64(slices.Min(list))/manyLanes/manyReplicas*100, float64(slices.Max(list))/manyLanes/manyReplicas*100)
	}
	t.Logf("one that comes moves %s, even would be %.2f %%; one that goes or drains %s, all of which it had; of these another gets %d at most",
		share(gets), 100.0/(manyNodes+1), share(had), slices.Max(heirs))
}

// moved is how many lanes a member holds by with, which differs from without by it
// alone: it takes the place of one holder, the others stay in their order.
func moved(t *testing.T, name string, without, with [][]string) (n int) {
	t.Helper()
	for i := range with {
		kept := slices.DeleteFunc(slices.Clone(with[i]), func(h string) bool { return h == name })
		if len(kept) < len(with[i]) {
			n++
		}
		if diff := cmp.Diff(without[i][:len(kept)], kept); diff != "" {
			t.Errorf("lane %d: %s", i, diff)
		}
	}
	return n
}

// TestPlacementOfLanes: a Table's lanes are placed as the many are, and 64 are too
// few for a hundred nodes.
func TestPlacementOfLanes(t *testing.T) {
	members := named(styles[0], manyNodes)
	table := cluster.NewTable(members, proto.LanesMax, manyReplicas, nil)
	for id := range proto.LaneID(proto.LanesMax) {
		if diff := cmp.Diff(cluster.Place(uint64(id), members, manyReplicas), table.Holders(id)); diff != "" {
			t.Errorf("lane %d: %s", id, diff)
		}
	}
	for _, nodes := range []int{3, 5, 10, 30, manyNodes} {
		most, none := 0, 0
		for _, style := range styles {
			members := named(style, nodes)
			_, held := load(members, placed(members, proto.LanesMax, manyReplicas))
			most = max(most, slices.Max(held))
			for _, k := range held {
				if k == 0 {
					none++
				}
			}
		}
		mean := float64(proto.LanesMax) * manyReplicas / float64(nodes)
		t.Logf("%d lanes on %d nodes, %d replicas: a node holds %.1f on average, at most %d (%.2f), %.0f %% hold none",
			proto.LanesMax, nodes, manyReplicas, mean, most, float64(most)/mean, float64(none)/float64(nodes*len(styles))*100)
	}
}
