package gateway_test

import (
	"context"
	"time"

	"kith/proto"
)

// The twin is of a cluster of n1 and n2, which drains; n3 is gone.

func (*twin) ClusterStatus(context.Context) proto.ClusterStatus {
	return proto.ClusterStatus{
		Nodes: []proto.NodeStatus{{
			Name: "n1", Ready: true, Started: time.UnixMilli(0).UTC(), Lanes: []int{0}, Owns: []int{0},
			States: []proto.LaneState{{Lane: 0, Applied: 12, LagSeconds: 1.5, LeaseSeconds: 14}},
		}},
		Log:    []proto.StreamStatus{{Stream: "KITH_L00", Leader: "n1", Others: []proto.StreamCopy{{Node: "n2", Current: true}}}},
		Placed: map[proto.LaneID]string{0: "n2"}, Partitions: proto.Partitions,
	}
}

func (*twin) Drain(_ context.Context, node string, drain bool) error {
	switch {
	case node != "n1" && node != "n2":
		return proto.Errorf(proto.CodeNotFound, "there is no node %q", node)
	case node == "n1" && drain:
		return proto.Errorf(proto.CodeConflict, "no other node is ready")
	}
	return nil
}

func (*twin) Place(_ context.Context, lane proto.LaneID, _ string) error {
	if lane > 0 {
		return proto.Errorf(proto.CodeNotFound, "there is no lane %d", lane)
	}
	return nil
}

func (*twin) Forget(_ context.Context, node string) error {
	if node != "n3" {
		return proto.Errorf(proto.CodeConflict, "node %s still runs", node)
	}
	return nil
}
