package engine

import (
	"cmp"
	"context"
	"slices"
	"time"

	"kith/graph"
	"kith/proto"
)

// Link asks the graph to link two identities and returns with its decision.
func (n *Node) Link(ctx context.Context, client proto.ClientInfo, x proto.Link) (proto.Linked, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.Linked{}, err
	}
	defer done()
	command, ch := n.answers.expect()
	var b proto.Batch
	b.AddLink(n.hasher, &proto.LinkCommand{
		Client: client.ID, Space: client.Space, A: x.A, B: x.B, Received: n.now(),
		Confidence: uint16(x.Confidence*1000 + 0.5), Inferred: x.Inferred, Command: command,
	})
	a, err := n.ask(ctx, n.laneFor(n.hasher.Hash(x.A)), command, ch, &b)
	if err != nil {
		return proto.Linked{}, err
	}
	if a.decision.Linked {
		return proto.Linked{Linked: true}, nil
	}
	return proto.Linked{Reason: reasonText(a.decision.Reason)}, nil
}

// reasonText is a refusal in the words of the API.
func reasonText(r graph.Reason) string {
	switch {
	case r.Capped():
		return "cap"
	case r == graph.ReasonNone || r == graph.ReasonRepeated || r == graph.ReasonOtherGen:
		return "busy" // not what links are refused for
	}
	return r.String()
}

// arriveMax is how long a removal waits for links that were acknowledged before it.
const arriveMax = 5 * time.Second

// Unlink removes the edge between a and b, or with an empty b the edges of a
// that the client vouches for: those too that were acknowledged before, and come from
// other lanes. Of the latter CodeTimeout if these have not come within five seconds,
// CodeQuarantined if they may be in a lane that is stopped: nothing is removed.
// A link that is asked for after the answer counts.
func (n *Node) Unlink(ctx context.Context, client proto.ClientInfo, a, b proto.Identity) (proto.Position, error) {
	x := proto.UnlinkCommand{Client: client.ID, Space: client.Space, A: n.hasher.Hash(a), Received: n.now()}
	others := n.lanes
	ahead := 2 * graphLimits().SkewMillis // by which another node's clock may be
	if b != "" {
		x.B = n.hasher.Hash(b)
		others = []*lane{n.laneFor(x.B)}
		if n.config.Peers != nil {
			wait, cancel := context.WithTimeout(ctx, arriveMax)
			if others[0].reachEnd(wait) != nil { // what the other end has is not known
				x.AsOf = x.Received + ahead
			}
			cancel()
		}
	} else if err := n.arrived(ctx); err != nil {
		return proto.Position{}, err
	}
	// An end does not tell the other of evidence that says the same as what stands, and has
	// it with the time of its own lane, which may be ahead of the other's.
	for _, l := range others {
		if t := l.progress.newest(); t > x.Received {
			x.AsOf = max(x.AsOf, t)
		}
	}
	var batch proto.Batch
	batch.AddUnlink(&x)
	r := n.Submit(ctx, &batch)
	// Its time is the lane's, or that of a link which went, and of equal times the removal
	// wins: a link that is asked for after this answer must have a later one. By one clock
	// neither is after now. In a cluster what another node took may be ahead of this one's
	// by the skew, and the next link come to one that is as far behind.
	if b != "" {
		ahead = min(ahead, x.AsOf-n.now())
	}
	if n.config.Peers != nil && r.Err == nil && ahead > 0 {
		pause(ctx, time.Duration(ahead)*time.Millisecond)
	}
	now := n.now()
	for tries := 0; n.now() == now && tries < 20 && pause(ctx, 100*time.Microsecond); tries++ {
	}
	return r.Position, r.Err
}

// arrived returns when what the logs hold now has come to all lanes that it is for.
func (n *Node) arrived(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, arriveMax)
	defer cancel()
	for _, l := range n.lanes {
		if err := l.reachEnd(ctx); err != nil {
			return notArrived(ctx, err)
		}
	}
	_, err := n.handedOver(ctx)
	return notArrived(ctx, err)
}

// notArrived says of an error of arrived that nothing was removed. A lane that stopped
// here goes on at other nodes, or after a restart: links that it has yet to hand over
// would be made after all.
func notArrived(ctx context.Context, err error) error {
	switch {
	case proto.CodeOf(err) == proto.CodeQuarantined:
		return proto.Errorf(proto.CodeQuarantined, "links that were made before may still come from a lane that is stopped on this node, nothing was removed: ask another node if there is one, or name the other end too to remove one link (%w)", err)
	case err == nil || ctx.Err() == nil:
		return err
	}
	return proto.Errorf(proto.CodeTimeout, "links that were made before have not arrived from all lanes yet, nothing was removed: try again (%w)", err)
}

// User is who id is one person with, as published.
func (n *Node) User(_ context.Context, client proto.ClientInfo, id proto.Identity) (proto.User, error) {
	node := proto.Node{Hash: n.hasher.Hash(id), Space: client.Space}
	alone := proto.User{Root: id, Members: []proto.Identity{id}, Edges: []proto.UserEdge{}}
	s, err := n.state(node)
	if err != nil || s.Graph == nil || s.Graph.Dark {
		return alone, err
	}
	root := node
	root.Hash = s.Graph.RootOf(node.Hash)
	v, err := n.userView(root)
	if err != nil || v == nil || !v.has(node.Hash) {
		return alone, cmp.Or(err, n.mayAnswerAll()) // the root may be of any lane too
	}
	u, err := v.user(n, client.Space)
	if err != nil {
		return u, err
	}
	return u, n.mayAnswerAll() // members may be of any lane
}

// userView is a root's view of its user, with only those whose own homes say
// that they are of it still.
type userView struct {
	root    graph.Hash
	members map[graph.Hash]proto.Identity
	gens    map[graph.Hash]uint32
	edges   map[graph.Hash][]graph.Edge
}

func (v *userView) has(h graph.Hash) bool { _, ok := v.members[h]; return ok }

// userView reads the view of a root, nil if it is none any more.
func (n *Node) userView(root proto.Node) (*userView, error) {
	snap := n.laneFor(root.Hash).acquire()
	defer snap.release()
	s, members, err := readNode(snap, root)
	if err != nil || s.Dark() || s.Graph == nil || s.Graph.RootOf(root.Hash) != root.Hash {
		return nil, err
	}
	v := &userView{
		root: root.Hash, members: map[graph.Hash]proto.Identity{}, gens: map[graph.Hash]uint32{root.Hash: s.Gen()},
		edges: map[graph.Hash][]graph.Edge{root.Hash: s.Graph.Edges()},
	}
	for _, m := range members {
		_, err := source{snap}.Copy(root, m, func(row []byte) error {
			c, err := graph.DecodeContribution(row)
			if err == nil {
				v.edges[m], v.gens[m] = c.Edges, c.Gen
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for h := range v.edges {
		id, err := n.nameOf(proto.Node{Hash: h, Space: root.Space}, root.Hash, v.gens[h])
		if err != nil {
			return nil, err
		}
		if id != "" {
			v.members[h] = id
		}
	}
	return v, nil
}

// nameOf is the identity of a node that is of a root's user, in the generation
// that the root knows; "" of others.
func (n *Node) nameOf(node proto.Node, root graph.Hash, gen uint32) (proto.Identity, error) {
	l := n.laneFor(node.Hash)
	snap := l.acquire()
	defer snap.release()
	s, _, err := readNode(snap, node)
	if err != nil || !s.Named || s.Dark() || s.Graph == nil || s.Gen() != gen || s.Graph.RootOf(node.Hash) != root {
		return "", err
	}
	return l.nameOf(snap, s.Ordinal)
}

// user puts the view into the API's form.
func (v *userView) user(n *Node, space proto.SpaceID) (proto.User, error) {
	u := proto.User{Root: v.members[v.root], Edges: []proto.UserEdge{}}
	names := n.registry.clientNames()
	for h, id := range v.members {
		u.Members = append(u.Members, id)
		for _, e := range v.edges[h] {
			if other, ok := v.members[e.Peer]; ok && e.Gen == v.gens[e.Peer] && slices.Compare(h[:], e.Peer[:]) < 0 {
				u.Edges = append(u.Edges, proto.UserEdge{
					A: id, B: other, Method: e.Method.String(), Confidence: float64(e.Confidence) / 1000,
					Client: names[e.Client], Time: e.Time.Time(),
				})
			}
		}
	}
	slices.Sort(u.Members)
	slices.SortFunc(u.Edges, func(a, b proto.UserEdge) int { return cmp.Or(cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B)) })
	return u, nil
}

// clientNames are all clients' names by number.
func (r *registry) clientNames() map[proto.ClientID]proto.ClientName {
	names := map[proto.ClientID]proto.ClientName{}
	for name, c := range r.current().clients {
		names[c.ID] = name
	}
	return names
}

// nameEver is the name of a client, also of one that was ended.
func (r *registry) nameEver(c proto.ClientID) proto.ClientName {
	for _, raw := range r.from(uint64(c), 1) { // its number is its record's
		if x, err := proto.DecodeControl(raw); err == nil { // take has decoded it before
			return proto.ClientName(x.GetClient().GetName())
		}
	}
	return ""
}
