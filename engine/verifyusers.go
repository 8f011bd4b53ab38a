package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"kith/actors/identity"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// userVerifier recomputes users from edges and memberships of scope user from
// histories, over all lanes.
type userVerifier struct {
	node  *Node
	snaps []store.Snapshot // by lane
	out   *VerifyReport
	lanes []*verifier
	nodes map[proto.Node]*linkedNode
	darks map[proto.Node]bool
	clear bool // no graph messages are under way
}

// linkedNode is a node that has edges, copies or a root.
type linkedNode struct {
	gen     uint32
	root    graph.Hash
	follows bool
	user    []identity.ClientView
	edges   []graph.Edge
	data    graph.Data
	current bool // its memories are up to date with the rules, as data must be
	lane    *verifier
	now     proto.Millis
}

func newUserVerifier(n *Node, snaps []store.Snapshot, out *VerifyReport) *userVerifier {
	return &userVerifier{node: n, snaps: snaps, out: out, nodes: map[proto.Node]*linkedNode{}, darks: map[proto.Node]bool{}, clear: true}
}

func (u *userVerifier) problem(format string, args ...any) {
	if len(u.out.Problems) < problemsMax {
		u.out.Problems = append(u.out.Problems, fmt.Sprintf(format, args...))
	}
}

// add takes a node in.
func (u *userVerifier) add(v *verifier, n proto.Node, s *identity.State) {
	x := s.Graph
	if x == nil {
		return
	}
	u.clear = u.clear && x.Settled()
	edges := x.Edges()
	if len(edges) == 0 && x.Root == (graph.Hash{}) && !s.Follows {
		return
	}
	stepper, current := identity.NewStepper(v.rules), true
	for i := range s.Facts {
		g := v.rules.Program(s.Facts[i].Client)
		current = current && (g == nil || g.Version() == s.Facts[i].Memory.Version())
	}
	u.nodes[n] = &linkedNode{
		gen: x.Gen, root: x.RootOf(n.Hash), follows: s.Follows, user: slices.Clone(s.User), edges: edges,
		data: stepper.Data(s), current: current, lane: v, now: proto.Millis(v.record.NowMs),
	}
}

// open notes a lane, and whether it has messages under way.
func (u *userVerifier) open(v *verifier) {
	if !slices.Contains(u.lanes, v) {
		u.lanes = append(u.lanes, v)
		u.clear = u.clear && len(v.graph.Carry) == 0
	}
}

// dark takes what is left of a node in that is opted out.
func (u *userVerifier) dark(n proto.Node, value []byte) error {
	var x graph.State
	if _, err := x.Decode(value); err != nil {
		return err
	}
	u.out.OptedOut++
	if !x.Dark || len(x.Links) > 0 {
		u.problem("a node that is opted out has links")
	}
	u.clear = u.clear && x.Settled()
	u.darks[n] = true
	return nil
}

// optOut checks that an identity's opt-out and its nodes agree.
func (u *userVerifier) optOut(_, value []byte) error {
	var o identity.OptOut
	if err := o.Decode(value); err != nil {
		return err
	}
	for _, n := range o.Nodes {
		if o.Dark() && !n.Dark {
			u.clear = false // its cut is under way
		}
	}
	return nil
}

// verify compares, once all lanes were read.
func (u *userVerifier) verify(ctx context.Context) error {
	for _, v := range u.lanes {
		for to := range v.graph.Outbox {
			if to != int(v.id) && to < len(u.lanes) && u.appliedBy(to, v.id) < v.graph.Outbox[to].Last() {
				u.clear = false
			}
		}
	}
	if !u.clear {
		u.out.Unsettled = true
		return nil
	}
	u.checkEdges()
	users := u.checkRoots()
	for root, list := range users {
		if err := ctx.Err(); err != nil {
			return err
		}
		u.checkUser(root, list)
	}
	u.out.Users = uint64(len(users))
	return nil
}

// appliedBy is the newest batch that a lane has applied from another.
func (u *userVerifier) appliedBy(to int, from proto.LaneID) uint64 {
	for _, v := range u.lanes {
		if int(v.id) == to {
			return v.graph.Applied[from]
		}
	}
	return 0
}

// checkEdges sees that both homes name an edge, each by the other's generation.
func (u *userVerifier) checkEdges() {
	for n, x := range u.nodes {
		for _, e := range x.edges {
			peer := u.nodes[proto.Node{Hash: e.Peer, Space: n.Space}]
			switch {
			case peer == nil || u.darks[proto.Node{Hash: e.Peer, Space: n.Space}]:
				u.problem("an edge of %v leads to an identity that is not there", n.Hash)
			case peer.gen != e.Gen:
				u.problem("an edge of %v is to generation %d of %v, which is at %d", n.Hash, e.Gen, e.Peer, peer.gen)
			case !slices.ContainsFunc(peer.edges, func(f graph.Edge) bool { return f.Peer == n.Hash && f.Gen == x.gen }):
				u.problem("the edge of %v to %v is not known there", n.Hash, e.Peer)
			}
		}
	}
}

// checkRoots compares users with the components of the edges.
func (u *userVerifier) checkRoots() map[proto.Node][]graph.Hash {
	unions := map[proto.SpaceID]*graph.Union{}
	for n, x := range u.nodes {
		if unions[n.Space] == nil {
			unions[n.Space] = graph.NewUnion()
		}
		for _, e := range x.edges {
			unions[n.Space].Join(n.Hash, e.Peer)
		}
	}
	users := map[proto.Node][]graph.Hash{}
	for n, x := range u.nodes {
		root := unions[n.Space].Root(n.Hash)
		if root != x.root {
			u.problem("%v follows %v, its edges say %v", n.Hash, x.root, root)
		}
		if len(x.edges) > 0 {
			k := proto.Node{Hash: root, Space: n.Space}
			users[k] = append(users[k], n.Hash)
		}
	}
	return users
}

// checkUser compares a root's copies with its members' facts, and what each
// member shows with the plain reading of all their histories.
func (u *userVerifier) checkUser(root proto.Node, list []graph.Hash) {
	slices.SortFunc(list, func(a, b graph.Hash) int { return slices.Compare(a[:], b[:]) })
	r := u.nodes[root]
	if r == nil {
		return // told already
	}
	want := slices.DeleteFunc(slices.Clone(list), func(h graph.Hash) bool { return h == root.Hash })
	have, err := u.copies(r.lane, root)
	if err != nil {
		u.problem("root %v: %v", root.Hash, err)
		return
	}
	for _, h := range want {
		m, c := u.nodes[proto.Node{Hash: h, Space: root.Space}], have[h]
		switch {
		case c == nil:
			u.problem("root %v has no copy of %v", root.Hash, h)
		case c.Gen != m.gen || m.current && c.Data != m.data || !sameEdges(c.Edges, m.edges):
			u.problem("root %v has a copy of %v that is not as its facts are", root.Hash, h)
		}
	}
	if len(have) != len(want) {
		u.problem("root %v has %d copies, its user has %d other identities", root.Hash, len(have), len(want))
	}
	u.checkMemberships(root, list)
}

// copies reads what the store has of a root's copies.
func (u *userVerifier) copies(v *verifier, root proto.Node) (map[graph.Hash]*graph.Contribution, error) {
	list := map[graph.Hash]*graph.Contribution{}
	prefix := append(nodeKey(root, noGeneration), 'c')
	err := v.snap.Scan(prefix, prefix, func(k, value []byte) (bool, error) {
		c, err := graph.DecodeContribution(value)
		list[graph.Hash(k[len(prefix):])] = c
		return true, err
	})
	return list, err
}

// sameEdges compares what a copy says of edges with the facts; the time of
// the evidence may be newer there.
func sameEdges(a, b []graph.Edge) bool {
	return slices.EqualFunc(a, b, func(x, y graph.Edge) bool { return x.Peer == y.Peer && x.Gen == y.Gen })
}

// checkMemberships reads the rules of scope user over a user's histories.
func (u *userVerifier) checkMemberships(root proto.Node, list []graph.Hash) {
	facts := map[proto.ClientID][]*history{}
	devices, truncated, behind := 0, false, false
	var now proto.Millis
	for _, h := range list {
		n := proto.Node{Hash: h, Space: root.Space}
		v := u.nodes[n].lane
		now = max(now, u.nodes[n].now)
		s, _, err := readNode(v.snap, n)
		if err != nil {
			u.problem("%v cannot be read: %v", h, err)
			return
		}
		devices += int(flag(s.Device))
		for i := range s.Facts {
			f := &s.Facts[i]
			g := v.rules.Program(f.Client)
			truncated = truncated || f.History.Truncated
			behind = behind || g != nil && g.Version() != f.Memory.Version()
			facts[f.Client] = append(facts[f.Client], &history{snap: v.snap, node: n, gen: s.Gen(), facts: f})
		}
	}
	switch {
	case truncated:
		u.out.Skipped++
		return
	case behind:
		u.out.Behind++
		return
	}
	for client, parts := range facts {
		u.checkClient(root, list, client, parts, devices, now)
	}
}

// checkClient compares at the time of the lane that is furthest: a member's newest
// event may be later than the root's lane is.
func (u *userVerifier) checkClient(root proto.Node, list []graph.Hash, client proto.ClientID, parts []*history, devices int, now proto.Millis) {
	g := u.nodes[root].lane.rules.Program(client)
	if g == nil {
		return
	}
	x := segments.Plain{Devices: devices, History: func(yield func(proto.Millis, *proto.EventBody) bool) {
		for _, h := range parts {
			more := true
			h.walk(func(t proto.Millis, e *proto.EventBody) bool { more = yield(t, e); return more })
			if !more {
				return
			}
		}
	}}
	for _, h := range parts {
		x.Traits = append(x.Traits, h.facts.Memory.Traits()...)
	}
	x.Member = func(id proto.SegmentID) bool {
		d, ok := g.Get(id)
		return ok && x.Holds(d.Rule, now)
	}
	for _, d := range g.All() {
		if d.Scope != segments.ScopeUser {
			continue
		}
		want := x.Holds(d.Rule, now)
		for _, h := range list {
			u.out.Memberships++
			if got, due := u.shows(proto.Node{Hash: h, Space: root.Space}, client, d.Key, now); got != want && !due && x.Sure(d.Rule) {
				u.problem("%v: segment %q of client %d holds %v over its user's %d histories but is shown as %v", h, d.ID, client, want, len(parts), got)
			}
		}
	}
}

// shows is whether a node is in a segment of its user, and whether a change by time is
// due that no beat has applied: a second one after it is not known.
func (u *userVerifier) shows(n proto.Node, client proto.ClientID, key proto.SegmentKey, now proto.Millis) (in, due bool) {
	for i := range u.nodes[n].user {
		if v := &u.nodes[n].user[i]; v.Client == client {
			k, ok := slices.BinarySearchFunc(v.Members, key, func(m segments.Membership, k proto.SegmentKey) int { return cmp.Compare(m.Key, k) })
			if !ok {
				return false, false
			}
			next := v.Members[k].Next
			return identity.In(v.Members[k], now), next != 0 && next <= now
		}
	}
	return false, false
}
