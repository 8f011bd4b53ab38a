package actors_test

import (
	"testing"

	"kith/actors"
	"kith/graph"
	"kith/proto"
)

// lanes are two lanes, and how many batches of each the other has taken in.
type lanes struct {
	rigs  [2]*rig
	taken [2]int
}

// newLanes are two lanes of which the second has the homes of visitors.
func newLanes(t *testing.T, r *rules, visitors ...string) *lanes {
	var laneOf [proto.Partitions]proto.LaneID
	for _, v := range visitors {
		laneOf[homeOf(v)] = 1
	}
	p := &lanes{}
	for i := range p.rigs {
		p.rigs[i] = newRig(t, actors.NewDirect(config(r, 1<<20)))
		p.rigs[i].lane = graph.NewLane(proto.LaneID(i), 2, &laneOf)
	}
	return p
}

// pass has each lane take in what the other has for it, until there is nothing.
func (p *lanes) pass() {
	for moved := true; moved; {
		moved = false
		for i, from := range p.rigs {
			to := p.rigs[1-i]
			for _, b := range from.lane.Outbox[1-i].Batches[p.taken[i]:] {
				to.now = max(to.now, from.now) + 1
				to.take([]entry{{now: to.now, received: b.Messages}})
				to.settle()
				p.taken[i]++
				moved = true
			}
		}
	}
}
