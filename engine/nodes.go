package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"kith/proto"
	"kith/proto/pb"
)

// This file is what operators see of the nodes of a cluster and do with them:
// drain one, name the owner of a lane, and give a node up that is gone. Whatever
// node is asked passes it on to the one that is meant, over the log's NATS.

const (
	stateSubject = "_KITH.state" // out of network clients' reach
	drainSubject = "_KITH.drain"
	stateWait    = time.Second      // for the others' answers
	drainWait    = 10 * time.Second // for others to take over
	streamsEvery = 15 * time.Second // how often it is looked who keeps the log
	// drainingName is a file in the directory of a node that drains: it does so
	// after a restart too.
	drainingName = "DRAINING"
)

// ClusterStatus is how the nodes and the log are, as far as this node knows and
// the others answer: nodes within a second, the log's streams within six.
func (n *Node) ClusterStatus(ctx context.Context) proto.ClusterStatus {
	s := proto.ClusterStatus{Nodes: n.nodes(), Log: []proto.StreamStatus{}, Placed: n.registry.placed(), Partitions: proto.Partitions}
	if n.streams != nil {
		s.Log = n.streams(ctx)
	}
	states := n.nodeStates(ctx, len(s.Nodes))
	for i := range s.Nodes {
		x := &s.Nodes[i]
		said, ok := states[x.Name]
		x.Why, x.States = said.Why, said.Lanes
		if !ok {
			x.Ready, x.Why, x.States = false, "it does not say how it is", []proto.LaneState{}
		}
	}
	return s
}

// nodes are all that are known, without what they say of themselves.
func (n *Node) nodes() []proto.NodeStatus {
	if n.config.Peers != nil {
		return n.config.Peers.Nodes()
	}
	x := proto.NodeStatus{Name: n.config.Node, Ready: n.Ready() == nil, Started: n.started, Lanes: []int{}}
	for _, l := range n.lanes {
		x.Lanes = append(x.Lanes, int(l.id))
	}
	x.Owns = slices.Clone(x.Lanes)
	return []proto.NodeStatus{x}
}

// nodeState is what this node says of itself.
func (n *Node) nodeState() proto.NodeState {
	s := proto.NodeState{Node: n.config.Node, Lanes: []proto.LaneState{}}
	if err := n.Ready(); err != nil {
		s.Why = err.Error()
	}
	for _, l := range n.lanes {
		applied, _, laneTime, fault := l.progress.get()
		x := proto.LaneState{Lane: l.id, Applied: applied, LeaseSeconds: -1}
		if laneTime > 0 {
			x.LagSeconds = max(0, n.config.Now().Sub(laneTime.Time()).Seconds())
		}
		if n.config.Peers != nil {
			x.LeaseSeconds = l.leases.left().Seconds()
		}
		if fault != nil {
			x.Quarantined = fault.Error()
		}
		s.Lanes = append(s.Lanes, x)
	}
	return s
}

// nodeStates asks all nodes how they are, and waits for so many, for a second at most.
func (n *Node) nodeStates(ctx context.Context, count int) map[string]proto.NodeState {
	states := map[string]proto.NodeState{n.config.Node: n.nodeState()}
	if n.config.Peers == nil {
		return states
	}
	ctx, cancel := context.WithTimeout(ctx, stateWait)
	defer cancel()
	answers := make(chan *nats.Msg, 256)
	inbox := n.conn().NewRespInbox()
	sub, err := n.conn().ChanSubscribe(inbox, answers)
	if err != nil {
		return states
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := n.conn().PublishRequest(stateSubject, inbox, nil); err != nil {
		return states
	}
	for len(states) < count {
		select {
		case m := <-answers:
			var s proto.NodeState
			if json.Unmarshal(m.Data, &s) == nil && s.Node != "" {
				states[s.Node] = s
			}
		case <-ctx.Done():
			return states
		}
	}
	return states
}

// watchStreams notes how many nodes each stream of the log lacks, until ctx ends.
// One without a leader does not tell: it lacks no fewer than when it was last known,
// and one at least, so that nobody takes it for whole.
func (n *Node) watchStreams(ctx context.Context) {
	for {
		lack, last := map[string]int{}, map[string]int{}
		if p := n.lacking.Load(); p != nil {
			last = *p
		}
		for _, x := range n.streams(ctx) {
			if lack[x.Stream] = x.Lacks(); x.Leader == "" {
				lack[x.Stream] = max(1, lack[x.Stream], last[x.Stream])
			}
		}
		n.lacking.Store(&lack)
		if !pause(ctx, streamsEvery) {
			return
		}
	}
}

// answerOperators answers what other nodes pass on, until ctx ends.
func (n *Node) answerOperators(ctx context.Context) error {
	states, err1 := n.conn().Subscribe(stateSubject, func(m *nats.Msg) {
		if b, err := json.Marshal(n.nodeState()); err == nil && m.Reply != "" {
			_ = n.conn().Publish(m.Reply, b)
		}
	})
	drains, err2 := n.conn().Subscribe(drainSubject+"."+n.config.Node, func(m *nats.Msg) {
		answer := []byte{}
		if err := n.setDraining(string(m.Data) == "true"); err != nil {
			answer = []byte(err.Error())
		}
		if m.Reply != "" {
			_ = n.conn().Publish(m.Reply, answer)
		}
	})
	if err := errors.Join(err1, err2); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "other nodes' questions cannot be taken: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = errors.Join(states.Unsubscribe(), drains.Unsubscribe()) })
	return nil
}

// Drain has the other nodes take over what a node owns, and the node say that it
// is not ready, so that nobody sends it more; it answers whoever asks it still.
// That stays so over restarts, until drain is false. It returns when others have
// taken over. CodeNotFound if there is no such node, CodeConflict if no other one
// is ready, CodeTimeout if it took longer than ten seconds: it goes on then.
func (n *Node) Drain(ctx context.Context, node string, drain bool) error {
	nodes := n.nodes()
	i := slices.IndexFunc(nodes, func(x proto.NodeStatus) bool { return x.Name == node })
	switch {
	case n.config.Peers == nil:
		return proto.Errorf(proto.CodeConflict, "this node is alone: nobody can take over from it")
	case i < 0:
		return proto.Errorf(proto.CodeNotFound, "there is no node %q: `kith cluster status` lists them", node)
	case drain && !slices.ContainsFunc(nodes, func(x proto.NodeStatus) bool { return x.Name != node && x.Ready && !x.Draining }):
		return proto.Errorf(proto.CodeConflict, "no other node is ready to take over from %s: start one, or stop this one without a drain", node)
	}
	if err := n.tellDrain(ctx, node, drain); err != nil || !drain {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	for _, l := range n.lanes {
		for {
			owner, changed := n.config.Peers.Owner(l.id)
			if owner != node {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return proto.Errorf(proto.CodeTimeout, "node %s drains, but still owns lane %s: wait until `kith cluster status` shows that it owns none", node, l.id)
			}
		}
	}
	return nil
}

// tellDrain has the node begin or end to drain.
func (n *Node) tellDrain(ctx context.Context, node string, drain bool) error {
	if node == n.config.Node {
		return n.setDraining(drain)
	}
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	m, err := n.conn().RequestWithContext(ctx, drainSubject+"."+node, []byte(strconv.FormatBool(drain)))
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "node %s does not answer: if it is gone, others have taken over already: %w", node, err)
	}
	if len(m.Data) > 0 {
		return proto.Errorf(proto.CodeUnavailable, "node %s: %s", node, m.Data)
	}
	return nil
}

// setDraining notes it for the next start, then tells the others.
func (n *Node) setDraining(drain bool) error {
	n.drains.Lock()
	defer n.drains.Unlock()
	file := filepath.Join(n.config.markerDir(), drainingName)
	err := os.Remove(file)
	switch {
	case drain:
		err = writeSynced(file, nil)
	case err == nil:
		err = syncDirs(filepath.Dir(file))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return proto.Errorf(proto.CodeUnavailable, "note that the node drains: %w", err)
	}
	n.showDraining(drain)
	return nil
}

func (n *Node) showDraining(drain bool) {
	n.draining.Store(drain)
	if n.config.Peers != nil {
		n.config.Peers.SetDraining(drain)
	}
}

// goOnDraining is setDraining after a restart.
func (n *Node) goOnDraining() error {
	_, err := os.Stat(filepath.Join(n.config.markerDir(), drainingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "see whether the node drains: %w", err)
	}
	n.showDraining(true)
	return nil
}

// Leave has the node say that it is not ready, and the others take over, until it
// is closed.
func (n *Node) Leave() { n.showDraining(true) }

// Place names the node that owns a lane while it answers and does not drain;
// none: the one that the order of placement gives.
func (n *Node) Place(ctx context.Context, lane proto.LaneID, node string) error {
	switch {
	case int(lane) >= n.config.Lanes:
		return proto.Errorf(proto.CodeNotFound, "there is no lane %d: they are 0 to %d", lane, n.config.Lanes-1)
	case node != "" && !slices.ContainsFunc(n.nodes(), func(x proto.NodeStatus) bool { return x.Name == node }):
		return proto.Errorf(proto.CodeNotFound, "there is no node %q: `kith cluster status` lists them", node)
	}
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if n.registry.owners[lane] == node {
			return nil, nil
		}
		return &pb.Control{Body: &pb.Control_Place{Place: &pb.Place{Lane: uint32(lane), Node: node}}}, nil
	})
	return err
}

// placed are the lanes whose owners were named.
func (r *registry) placed() map[proto.LaneID]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.owners)
}

func (r *registry) obeyPlace(p *pb.Place) {
	if p.Node == "" {
		delete(r.owners, proto.LaneID(p.Lane))
		return
	}
	r.owners[proto.LaneID(p.Lane)] = p.Node
}

// tellPlaced passes on which owners were named, until ctx ends.
func (n *Node) tellPlaced(ctx context.Context) {
	for seq := uint64(0); ; seq++ {
		if n.registry.wait(ctx, seq) != nil {
			return
		}
		seq = n.registry.last()
		n.config.Peers.SetPlaced(n.registry.placed())
	}
}

// Forget gives a node up that is gone for good: the log does without it, and what
// it kept of the log another node keeps. CodeConflict while it runs.
func (n *Node) Forget(ctx context.Context, node string) error {
	switch {
	case !proto.ValidName(node):
		return proto.Errorf(proto.CodeInvalid, "%q is not a node's name", node)
	case n.config.Peers == nil || n.removeServer == nil:
		return proto.Errorf(proto.CodeConflict, "this node is alone: there is none to forget")
	case slices.ContainsFunc(n.nodes(), func(x proto.NodeStatus) bool { return x.Name == node }):
		return proto.Errorf(proto.CodeConflict, "node %s still runs: drain it, stop it, then it can be forgotten", node)
	}
	// Gossip may not reach one that keeps the log all the same.
	if _, runs := n.nodeStates(ctx, math.MaxInt)[node]; runs {
		return proto.Errorf(proto.CodeConflict, "node %s does not gossip but answers over the log: stop it, then it can be forgotten", node)
	}
	return n.removeServer(ctx, node)
}
