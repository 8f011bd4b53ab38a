package engine

import (
	"context"
	"time"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// Explain says why id is in a segment at a time, or not. For a past time it
// judges the history of then by the rule of now, for scope user over the
// identities that are of the user now.
func (n *Node) Explain(ctx context.Context, client proto.ClientInfo, id proto.Identity, segment proto.SegmentID, at time.Time) (proto.Explanation, error) {
	spec, ok := n.registry.spec(client.ID, segment)
	if !ok {
		return proto.Explanation{}, proto.Errorf(proto.CodeNotFound, "segment %q is not defined: see the list of segments", segment)
	}
	now := n.now()
	when := now
	if !at.IsZero() {
		when = proto.MillisOf(at)
	}
	if when > now.Add(time.Minute) {
		return proto.Explanation{}, proto.Errorf(proto.CodeInvalid, "at lies in the future: memberships are explained for now and the past")
	}
	x := proto.Explanation{Identity: id, Segment: segment, When: spec.When, At: when.Time(), Facts: []proto.ExplanationFact{}}
	e := explained{ctx: ctx, node: n, client: client, spec: spec}
	if err := e.read(proto.Node{Hash: n.hasher.Hash(id), Space: client.Space}); err != nil || e.state.Dark() {
		return x, err
	}
	if !at.IsZero() && when < now.Add(-2*time.Second) {
		return x, e.past(&x, when)
	}
	return x, e.present(&x, now)
}

// explained is a node, or the nodes of its user, with which a membership is
// explained.
type explained struct {
	ctx    context.Context // ends the reading of histories
	node   *Node
	client proto.ClientInfo
	spec   proto.SegmentSpec
	state  identity.State   // of the node asked for
	shares bool             // its user's memberships count
	all    []identity.State // that are judged together
	at     []proto.Node     // whose
}

func (e *explained) read(node proto.Node) error {
	var err error
	if e.state, err = e.node.state(node); err != nil {
		return err
	}
	e.all, e.at = []identity.State{e.state}, []proto.Node{node}
	if e.shares = e.spec.Scope == "user" && e.state.Follows; !e.shares {
		return nil
	}
	root := proto.Node{Hash: e.state.Graph.RootOf(node.Hash), Space: node.Space}
	v, err := e.node.userView(root)
	if err != nil || v == nil {
		return err
	}
	for h := range v.members {
		if h == node.Hash {
			continue
		}
		n := proto.Node{Hash: h, Space: node.Space}
		s, err := e.node.state(n)
		if err != nil {
			return err
		}
		e.all, e.at = append(e.all, s), append(e.at, n)
	}
	return nil
}

// past tells what the rule says of the histories of then.
func (e *explained) past(x *proto.Explanation, when proto.Millis) (err error) {
	rule, err := segments.Compile(e.spec.When)
	if err != nil {
		return err
	}
	x.In, err = e.holds(rule, when)
	return err
}

// holds reads a rule plainly over the histories as of when. Of an identity of
// which the client holds no facts none does.
func (e *explained) holds(rule *segments.Rule, when proto.Millis) (in bool, err error) {
	var histories []*history
	plain := segments.Plain{}
	for i := range e.all {
		s := &e.all[i]
		plain.Devices += int(flag(s.Device))
		f := s.Client(e.client.ID)
		if f == nil {
			continue
		}
		snap := e.node.laneFor(e.at[i].Hash).acquire()
		defer snap.release()
		histories = append(histories, &history{snap: snap, node: e.at[i], gen: s.Gen(), facts: f})
		plain.Traits = append(plain.Traits, f.Memory.Traits()...)
	}
	if len(histories) == 0 {
		return false, nil
	}
	plain.History = func(yield func(proto.Millis, *proto.EventBody) bool) {
		for _, h := range histories {
			more := true
			h.walk(func(t proto.Millis, b *proto.EventBody) bool {
				more = e.ctx.Err() == nil && (t > when || yield(t, b))
				return more
			})
			if !more {
				return
			}
		}
	}
	plain.Member = func(id proto.SegmentID) bool {
		spec, ok := e.node.registry.spec(e.client.ID, id)
		if !ok {
			return false
		}
		rule, err := segments.Compile(spec.When)
		return err == nil && plain.Holds(rule, when)
	}
	in = plain.Holds(rule, when)
	if err := e.ctx.Err(); err != nil {
		return false, proto.Errorf(proto.CodeTimeout, "the histories were not read in time: %w", err)
	}
	for _, h := range histories {
		if h.err != nil {
			return false, h.err
		}
	}
	return in, nil
}

// present tells the state of the membership and the facts that decide.
func (e *explained) present(x *proto.Explanation, now proto.Millis) error {
	if m := e.state.Effective(e.client.ID, e.spec.Version, e.shares); m != nil {
		x.In = identity.In(*m, now)
		if m.In {
			t := m.Since.Time()
			x.Entered = &t
		}
		if m.Next > now {
			t := m.Next.Time()
			x.Changes = &t
		}
	}
	return e.node.registry.withRules(e.client.ID, func(g *segments.Program) (err error) {
		if g == nil {
			return nil
		}
		if e.shares {
			x.Facts, err = e.overUser(g, now)
			return err
		}
		f := e.state.Client(e.client.ID)
		if f == nil || g.Version() != f.Memory.Version() {
			return nil // not brought up to the rules yet
		}
		ev := segments.NewEvaluator()
		ev.SetDevices(int(flag(e.state.Device)))
		x.Facts, err = ev.Explain(g, e.spec.ID, &f.Memory, now)
		return err
	})
}

// overUser explains over all identities of the user.
func (e *explained) overUser(g *segments.Program, now proto.Millis) ([]proto.ExplanationFact, error) {
	var shared []string
	devices := 0
	for i := range e.all {
		devices += int(flag(e.all[i].Device))
		if f := e.all[i].Client(e.client.ID); f != nil {
			shared = append(shared, string(g.AppendShared(nil, &f.Memory)))
		}
	}
	return segments.NewEvaluator().ExplainUnion(g, e.spec.ID, shared, devices, now)
}
