package engine

import (
	"context"
	"slices"

	"kith/actors/identity"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// Lookup appends the ids of the client's segments that id is in at now to dst.
// It reads views only, and on a miss the store; it never waits for the log.
func (n *Node) Lookup(client proto.ClientInfo, id proto.Identity, now proto.Millis, dst []proto.SegmentID) (proto.Seen, []proto.SegmentID, error) {
	n.pace.ask()
	node := proto.Node{Hash: n.hasher.Hash(id), Space: client.Space}
	names := n.registry.current()
	var view *identity.View
	var at uint64
	for again := true; again; { // the view and what its versions mean are of one moment
		at = n.obeyedBy(node) // before the view: what it may lack by then, it has of the newer version
		var err error
		if view, err = n.view(node); err != nil {
			return proto.Seen{}, dst, err
		}
		now := n.registry.current()
		again, names = now != names, now
	}
	if view != nil && view.OptedOut {
		return proto.Seen{OptedOut: true}, dst, n.mayAnswer(n.laneFor(node.Hash))
	}
	seen, dst := names.segments(view, client.ID, at, now, dst)
	return seen, dst, n.mayAnswer(n.laneFor(node.Hash))
}

// Seen is Lookup without the segments: for whoever only needs to know whether
// anything is kept of id, or whether it is opted out, as each event of a browser does.
func (n *Node) Seen(client proto.ClientInfo, id proto.Identity) (seen proto.Seen, err error) {
	n.pace.ask()
	node := proto.Node{Hash: n.hasher.Hash(id), Space: client.Space}
	view, err := n.view(node)
	switch {
	case err != nil:
		return seen, err
	case view == nil:
	case view.OptedOut:
		seen.OptedOut = true
	default:
		seen.Known = view.Client(client.ID) != nil || view.OfUser(client.ID) != nil
	}
	return seen, n.mayAnswer(n.laneFor(node.Hash))
}

// obeyedBy is the newest control record that the node's lane is seen to have obeyed.
func (n *Node) obeyedBy(node proto.Node) uint64 { return n.laneFor(node.Hash).progress.obeyed.Load() }

// segments appends the ids of the client's segments in which a view is at now,
// in a lane that has obeyed the control record at.
func (r *registryView) segments(view *identity.View, client proto.ClientID, at uint64, now proto.Millis, dst []proto.SegmentID) (proto.Seen, []proto.SegmentID) {
	own, user := view.Client(client), view.OfUser(client)
	if own == nil && user == nil {
		return proto.Seen{}, dst
	}
	from := len(dst)
	take := func(list []segments.Membership, ofUser bool) {
		for _, m := range list {
			if !identity.In(m, now) {
				continue
			}
			id, shared := r.name(m.Key, at)
			// Only where a Swap is not obeyed yet does a name have several versions.
			if id == "" || shared && !ofUser && view.Follows || at < r.swapped && slices.Contains(dst[from:], id) {
				continue
			}
			dst = append(dst, id)
		}
	}
	if own != nil {
		take(own.Members, false)
	}
	if user != nil {
		take(user.Members, true)
	}
	return proto.Seen{Known: true}, dst
}

// view is the node's published view, nil if nothing is known of it.
func (n *Node) view(node proto.Node) (*identity.View, error) {
	v, ok, version := n.views.get(node)
	if ok {
		return v, nil
	}
	state, err := n.state(node)
	if err != nil {
		return nil, err
	}
	v = state.View()
	n.views.fill(node, v, version)
	return v, nil
}

// state reads what is published of a node.
func (n *Node) state(node proto.Node) (identity.State, error) {
	snap := n.laneOf[node.Hash.Partition()].acquire()
	defer snap.release()
	s, _, err := readNode(snap, node)
	if err != nil {
		return s, err
	}
	return s, n.mayAnswer(n.laneFor(node.Hash))
}

// readNode reads a node as its identity's opt-out says, without its copies of
// members; those that it has are given.
func readNode(snap store.Snapshot, node proto.Node) (s identity.State, members []graph.Hash, err error) {
	decode := func(v []byte) (err error) {
		members, err = s.Decode(v)
		return err
	}
	from := source{snap}
	if found, err := from.Node(node, 1, decode); found || err != nil {
		return s, members, err
	}
	var o identity.OptOut
	if found, err := from.OptOut(node.Hash, o.Decode); !found || err != nil {
		return s, nil, err
	}
	switch k := o.Node(node.Space); {
	case k == nil:
		s.Graph = o.Fresh()
	case k.Dark:
		s.Graph = &graph.State{Gen: k.Gen, Dark: true}
	default:
		_, err = from.Node(node, k.Gen, decode)
	}
	return s, members, err
}

// hopsMax is how often lanes hand one another over what an entry led to: a home tells
// the root, the root its members; a link takes some ways more.
const hopsMax = 12

// Wait returns once all of p is applied and published, with what it led to in other
// lanes: their users' values and segments too.
func (n *Node) Wait(ctx context.Context, p proto.Position) error {
	if err := n.reach(ctx, p); err != nil {
		return err
	}
	return n.allHandedOver(ctx)
}

// allHandedOver returns when what lanes have for one another now has arrived, or a lane,
// be it alone, has left for its next entry, and what that leads to. What comes meanwhile
// cannot be told from it. So they need not come to rest.
func (n *Node) allHandedOver(ctx context.Context) error {
	for range hopsMax {
		if moved, err := n.handedOver(ctx); !moved || err != nil {
			return err
		}
	}
	return nil
}

// reach returns once the entries of p themselves are applied and published.
func (n *Node) reach(ctx context.Context, p proto.Position) error {
	for id, off := range p {
		if int(id) >= len(n.lanes) {
			return proto.Errorf(proto.CodeInvalid, "position names lane %d of %d", id, len(n.lanes))
		}
		if err := n.lanes[id].progress.wait(ctx, func(p *progress) bool { return p.applied >= off }); err != nil {
			return err
		}
	}
	return nil
}

func clone(s string) string { return string(append([]byte(nil), s...)) }

func valuesOf(props []proto.Prop) map[string]any {
	if len(props) == 0 {
		return nil
	}
	m := make(map[string]any, len(props))
	for _, p := range props {
		m[clone(p.Key)] = valueOf(p.Value)
	}
	return m
}

func valueOf(v proto.Value) any {
	switch v.Kind {
	case proto.NumberValue:
		return v.Number
	case proto.TrueValue, proto.FalseValue:
		return v.Kind == proto.TrueValue
	}
	return clone(v.Text)
}
