// Package cluster says which nodes there are and which answers for which lane.
// The placement is pure: everybody who knows the same members comes to the same
// answer, without talking (Holders, Table). Who the members are, which lanes
// they have ready and whether they are leaving is gossiped (Membership).
//
// It guarantees that a member that comes or goes moves only the lanes that it
// gets or had, and that a lane stays with who has it until those that should
// have it say that they do. It does not guarantee that all see the same
// members: two may take themselves for a lane's owner, or none for a while.
package cluster

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"kith/proto"
)

// Member is a node of the cluster as it tells of itself.
type Member struct {
	Name     string       // stable: the same after a restart
	Started  proto.Millis // of its process
	Remote   string       // host:port at which other nodes reach its actors
	Draining bool         // takes no lane, unless all are draining
	Ready    Lanes        // those that it has and answers for
	Of       int          // how many lanes it knows of; 0: it does not say
}

// Holders gives the members that hold a lane: the owner first, then the
// followers, replicas in all or as many as there are. The order of members
// does not matter. Rendezvous hashing: each member has a score for each lane,
// the highest win (Thaler and Ravishankar, 1998).
func Holders(lane proto.LaneID, members []Member, replicas int) []string {
	return place(uint64(lane), members, replicas)
}

// place is Holders for as many lanes as one likes.
func place(lane uint64, members []Member, replicas int) []string {
	type scored struct {
		score    uint64
		name     string
		draining bool
	}
	list := make([]scored, 0, len(members))
	for _, m := range members {
		list = append(list, scored{score(lane, m.Name), m.Name, m.Draining})
	}
	slices.SortFunc(list, func(a, b scored) int {
		if a.draining != b.draining {
			if b.draining {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.name, b.name))
	})
	names := make([]string, 0, replicas)
	for _, s := range list {
		if len(names) < replicas && !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	return names
}

// score mixes a hash of the name with the lane, so that members whose names
// differ by a digit get unrelated scores for neighbouring lanes.
func score(lane uint64, name string) uint64 {
	h := xxhash.Sum64String(name) ^ (lane+1)*0x9e3779b97f4a7c15
	h ^= h >> 32 // the finaliser of SplitMix64
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 29
	h *= 0x94d049bb133111eb
	return h ^ h>>32
}
