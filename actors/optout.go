package actors

import (
	"maps"
	"slices"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// tomb is an identity's opt-out in memory, from its first change until that is
// committed.
type tomb struct {
	identity.OptOut
	batch uint64 // the last that changed it
	dirty bool
}

// readOptOut is an identity's opt-out for reading, nil if there is none. It may
// be called on two goroutines at once.
func (h *host) readOptOut(hash graph.Hash) (*identity.OptOut, error) {
	if t := h.tombs[hash]; t != nil {
		return &t.OptOut, nil
	}
	if !h.everCut.MayHold(hash) {
		return nil, nil
	}
	var o identity.OptOut
	found, err := h.source.OptOut(hash, o.Decode)
	if err != nil || !found {
		return nil, err
	}
	return &o, nil
}

// tomb is an identity's opt-out for changing, made if there is none. One that
// cannot be read is a fault, and what it gives is not kept: it would be written over
// what is stored.
func (h *host) tomb(hash graph.Hash) *tomb {
	t := h.tombs[hash]
	if t == nil {
		t = &tomb{}
		o, err := h.readOptOut(hash)
		if err != nil {
			h.fail(err)
			return t
		}
		if o != nil {
			t.OptOut = *o
		}
		h.tombs[hash] = t
		h.everCut.Add(hash)
	}
	t.dirty = true
	return t
}

// forgetTombs drops those whose last change is in source.
func (h *host) forgetTombs() {
	maps.DeleteFunc(h.tombs, func(_ graph.Hash, t *tomb) bool { return !t.dirty && t.batch <= h.committed })
}

func (h *host) storeTombs() {
	var list []graph.Hash
	for hash, t := range h.tombs {
		if t.dirty {
			list = append(list, hash)
		}
	}
	slices.SortFunc(list, func(a, b graph.Hash) int { return slices.Compare(a[:], b[:]) })
	for _, hash := range list {
		t := h.tombs[hash]
		t.dirty, t.batch = false, h.batch
		if t.Gen == 0 && len(t.Nodes)+len(t.Cuts)+len(t.Held) == 0 {
			continue // looked at, and never cut
		}
		h.out.OptOuts = append(h.out.OptOuts, OptOutPut{hash, t.Append(nil)})
	}
}

// noteGeneration keeps the generation of a node that is not its first: it is
// part of the node's key.
func (h *host) noteGeneration(r *resident, gen uint32, dark bool) {
	if o, err := h.readOptOut(r.node.Hash); err != nil {
		h.fail(err)
	} else if o != nil {
		if n := o.Node(r.node.Space); n != nil && n.Gen == gen && n.Dark == dark {
			return
		}
	}
	h.tomb(r.node.Hash).Note(r.node.Space, gen, dark)
}

// nodesOf gives the nodes that there are of an identity, by space: none of a host
// that has a fault.
func (h *host) nodesOf(hash graph.Hash) (list []*resident) {
	if h.fault != nil {
		return nil
	}
	for _, s := range h.spaces {
		n := proto.Node{Hash: hash, Space: s}
		r := h.active.get(&n)
		if r == nil { // a space that was met since the entry was prepared
			r = h.resident(n)
			if h.fault = h.warm(); h.fault != nil {
				return nil
			}
		}
		if r.exists() {
			list = append(list, r)
		}
	}
	return list
}

// exists reports whether anything is kept of the node itself.
func (r *resident) exists() bool {
	return r.state.Named || r.state.Graph != nil && !r.transient
}

// cut takes an identity out, or what one client knows of it.
func (h *host) cut(t *task) uint64 {
	x := &t.cut
	o := h.tomb(x.Hash)
	switch {
	case h.fault != nil:
		return 0
	case o.Repeated(x.Command):
		return 1
	case o.Open() >= identity.OpenCutsMax && (x.Kind != proto.CutOptOut || o.Dark()): // who is not out is taken out
		return h.refuseCut(x, graph.ReasonBusy)
	case x.Kind != proto.CutOptOut && o.Dark():
		return h.refuseCut(x, graph.ReasonOptedOut)
	}
	c := identity.Cut{Command: x.Command, Kind: x.Kind, Everywhere: x.Everywhere, Time: h.entry.Now, Offset: h.entry.Offset}
	if x.Kind == proto.CutForget {
		c.Client, c.Space = x.Client, x.Space
		h.forget(o, x, c)
	} else {
		h.cutNodes(o, x.Hash, c)
	}
	return 2
}

func (h *host) refuseCut(x *proto.CutCommand, r graph.Reason) uint64 {
	h.out.Decisions = append(h.out.Decisions, graph.Decision{Command: x.Command, Reason: r})
	return 3
}

// cutNodes begins a cut of all nodes of an identity. Its time is the lane's,
// which is never before evidence that the lane took: the gateway's time of the
// command may be, and would let such a link live.
func (h *host) cutNodes(o *tomb, hash graph.Hash, c identity.Cut) {
	m := graph.Message{Kind: graph.Cut, Evidence: graph.Evidence{Time: c.Time}, All: c.Everywhere}
	if c.Kind == proto.CutErase {
		m.Kind = graph.Erase
		o.Fence = c.Time + 2*h.limits.SkewMillis
	}
	var spaces []proto.SpaceID
	for _, r := range h.nodesOf(hash) {
		spaces = append(spaces, r.node.Space)
		h.tell(r.node, m)
	}
	h.cutLater(o, hash) // after m, which may take others along: each of the two has its receipt
	o.Begin(c, spaces)
	h.turned(o, hash)
	h.settle(o, hash)
}

// cutAlong notes that an identity was cut with another, in r's space. Its other
// nodes wait until the other's cut is done in all spaces of that other: it may
// still be on its way to them, and whom only they join to it would be missed.
func (h *host) cutAlong(o *tomb, r *resident) {
	c := identity.Cut{Kind: proto.CutOptOut, Time: h.entry.Now, Offset: h.entry.Offset}
	var spaces []proto.SpaceID
	for _, x := range h.nodesOf(r.node.Hash) {
		spaces = append(spaces, x.node.Space)
		if x != r {
			c.Later = append(c.Later, x.node.Space)
		}
	}
	o.Begin(c, spaces)
	h.turned(o, r.node.Hash)
}

// cutLater has the nodes cut that waited.
func (h *host) cutLater(o *tomb, hash graph.Hash) {
	for _, s := range o.TakeLater() {
		h.tell(proto.Node{Hash: hash, Space: s}, graph.Message{Kind: graph.Cut, Evidence: graph.Evidence{Time: h.entry.Now}})
	}
}

// turned tells that an identity is opted out, or no longer.
func (h *host) turned(o *tomb, hash graph.Hash) {
	h.out.Turned = append(h.out.Turned, Turned{Hash: hash, Gen: o.Gen, Time: h.entry.Now, Offset: h.entry.Offset})
	for _, s := range h.spaces {
		if r := h.active.get(&proto.Node{Hash: hash, Space: s}); r != nil && !r.exists() {
			r.meet(&o.OptOut)
		}
	}
}

// meet makes a node that nothing is kept of as its identity's opt-out says.
func (r *resident) meet(o *identity.OptOut) {
	r.state.Graph = o.Fresh()
	r.transient = r.state.Graph != nil
}

// erasing is a node that is taken away whole for a client, at the end of its entry: what
// others bring until then has it spared.
type erasing struct {
	r       *resident
	client  proto.ClientID
	command uint64
	message int // in host.messages
}

// forget takes away what a client knows of an identity in its space: all of
// the node, if nobody else knows anything.
func (h *host) forget(o *tomb, x *proto.CutCommand, c identity.Cut) {
	h.out.Forgotten = append(h.out.Forgotten, Forgotten{Hash: x.Hash, Client: x.Client, Offset: h.entry.Offset})
	n := proto.Node{Hash: x.Hash, Space: x.Space}
	r := h.active.get(&n)
	if r == nil || !r.exists() {
		o.Begin(c, nil)
		h.settle(o, x.Hash)
		return
	}
	if r.solelyOf(x.Client) && !h.linkedIn(r, func(c proto.ClientID) bool { return c != x.Client }) {
		h.erasing = append(h.erasing, erasing{r, x.Client, x.Command, len(h.messages)})
		h.tell(n, graph.Message{Kind: graph.Erase, Evidence: graph.Evidence{Time: c.Time}})
		o.Begin(c, []proto.SpaceID{x.Space})
		return
	}
	if h.forgetClient(r, x.Client); h.fault != nil {
		return
	}
	o.Begin(c, nil)
	h.settle(o, x.Hash)
}

// linkedIn reports whether the entry has links for a node of a client that is so.
func (h *host) linkedIn(r *resident, so func(proto.ClientID) bool) bool {
	return slices.ContainsFunc(h.messages, func(m graph.Message) bool {
		return m.Kind == graph.Link && m.To == r.node && so(m.Client)
	})
}

// spare has a node which another client's command of this entry takes away whole stay,
// as client knows it now: only what the other knew of it goes.
func (h *host) spare(r *resident, client proto.ClientID) {
	for i := 0; i < len(h.erasing); {
		x := h.erasing[i]
		if x.r != r || x.client == client {
			i++
			continue
		}
		h.erasing = slices.Delete(h.erasing, i, i+1)
		h.messages[x.message] = graph.Message{Kind: graph.Withdraw, To: r.node, Evidence: graph.Evidence{Time: h.entry.Now, Client: x.client}}
		o := h.tomb(r.node.Hash)
		if h.fault != nil {
			return
		}
		if h.forgetFacts(r, x.client); h.fault != nil {
			return
		}
		o.Spare(x.command, x.client)
		h.settle(o, r.node.Hash)
	}
}

// solelyOf reports whether all that is known of a node is one client's.
func (r *resident) solelyOf(c proto.ClientID) bool {
	for i := range r.state.Facts {
		if r.state.Facts[i].Client != c {
			return false
		}
	}
	if x := r.state.Graph; x != nil {
		for i := range x.Links {
			if l := &x.Links[i]; l.Stage != graph.Absent && l.Client != c {
				return false
			}
		}
	}
	return true
}

// liftCut lets an opted-out identity be known again.
func (h *host) liftCut(t *task) uint64 {
	x := &t.optIn
	o := h.tomb(x.Hash)
	if h.fault != nil || !o.Dark() || o.Gen != x.Gen {
		h.out.Decisions = append(h.out.Decisions, graph.Decision{Command: x.Command, Reason: graph.ReasonOtherGen})
		return 0
	}
	nodes := h.nodesOf(x.Hash)
	if o.Open() > identity.OpenCutsMax || slices.ContainsFunc(nodes, func(r *resident) bool { return !r.state.Dark() }) || o.CutAt(h.entry.Offset) {
		// Or an opt-out is of this very entry: its tombstones are not there yet.
		h.out.Decisions = append(h.out.Decisions, graph.Decision{Command: x.Command, Reason: graph.ReasonBusy})
		return 0
	}
	// By the lane's time, as the cut was: evidence must not be older than the one
	// and newer than the other.
	for _, r := range nodes {
		h.tell(r.node, graph.Message{Kind: graph.OptIn, ToGen: r.state.Gen(), Evidence: graph.Evidence{Time: h.entry.Now}})
	}
	o.Lift(h.entry.Now, h.entry.Now+2*h.limits.SkewMillis)
	h.turned(o, x.Hash)
	h.out.Decisions = append(h.out.Decisions, graph.Decision{Command: x.Command, Linked: true})
	return 1
}

// settle tells which cuts are final.
func (h *host) settle(o *tomb, hash graph.Hash) {
	held := o.Settle(h.entry.Vector, func(c *identity.Cut) {
		final := *c
		h.out.Finals = append(h.out.Finals, Final{hash, final, h.entry.Offset})
	})
	if held != nil {
		o.Held = held // settleCuts sends them
	}
}

// settleCuts takes in what a superstep did for cuts of a node. A node that was
// cut with another, everywhere, has its identity cut in the other spaces too:
// when the other has CutRest sent, which waits in no circle, since CutDone does
// not wait for it. Neither is answered before nothing is left of what was cut so
// far. For whom it itself had cut, everywhere, that does not wait: two may have
// had one another cut.
func (h *host) settleCuts(r *resident, g *graph.Group, purged bool) {
	fx := &g.Effects
	if purged && r.state.Dark() {
		if o := h.tomb(r.node.Hash); h.fault != nil {
			return
		} else if !o.Dark() {
			h.cutAlong(o, r)
		} else {
			o.Reached(r.node.Space)
		}
	}
	told := len(fx.Receipts) > 0 || slices.ContainsFunc(fx.Out, isDone) || slices.ContainsFunc(g.In, isRest)
	if x := r.state.Graph; !told && (x == nil || !x.Dark && x.Gen == 1 || !h.holds(r.node.Hash)) {
		return
	}
	o := h.tomb(r.node.Hash)
	if h.fault != nil {
		return
	}
	before := len(h.messages)
	h.takeRest(o, r, g.In)
	fx.Out = append(fx.Out, h.messages[before:]...)
	h.messages = h.messages[:before]
	for i := range fx.Receipts {
		for _, t := range o.Released(r.node.Space, &fx.Receipts[i]) {
			fx.Out = append(fx.Out, graph.Message{Kind: graph.CutRest, To: proto.Node{Hash: t.Peer, Space: t.Space}, From: r.node.Hash, ToGen: t.Gen})
		}
	}
	h.settle(o, r.node.Hash)
	fx.Out = slices.DeleteFunc(fx.Out, func(m graph.Message) bool {
		if isDone(m) {
			o.Held = append(o.Held, m)
		}
		return isDone(m)
	})
	if len(o.Held) > 0 && !h.underWay(o, r.node.Hash) {
		fx.Out, o.Held = append(fx.Out, o.answers()...), nil
	}
}

// takeRest takes in that others are done in their spaces: with whom this node was
// cut, or whom it told.
func (h *host) takeRest(o *tomb, r *resident, in []graph.Message) {
	for i := range in {
		switch m := &in[i]; m.Kind {
		case graph.CutRest:
			if r.state.Dark() && r.state.Gen() == m.ToGen+1 { // else it came back since
				h.cutLater(o, r.node.Hash)
			}
			o.Held = append(o.Held, graph.Message{Kind: graph.RestDone, To: proto.Node{Hash: m.From, Space: r.node.Space}, From: r.node.Hash, Gen: m.ToGen})
		case graph.RestDone:
			o.Answered(identity.Taken{Ref: graph.Ref{Peer: m.From, Gen: m.Gen}, Space: r.node.Space})
		}
	}
}

// answers gives what was held. If nodes are still to be cut later, who had the
// identity cut is to tell when.
func (o *tomb) answers() []graph.Message {
	if o.Waiting() {
		for i := range o.Held {
			if m := &o.Held[i]; m.Kind == graph.CutDone && m.AboutGen > 0 {
				m.List = append(slices.Clone(m.List), graph.Ref{Peer: m.From, Gen: m.AboutGen})
			}
		}
	}
	return o.Held
}

// holds reports whether messages wait for cuts of an identity.
func (h *host) holds(hash graph.Hash) bool {
	o, err := h.readOptOut(hash)
	if err != nil {
		h.fail(err)
	}
	return o != nil && len(o.Held) > 0
}

// underWay reports whether a node of an identity is still to be cut, other than
// later, or something of what it was is left.
func (h *host) underWay(o *tomb, hash graph.Hash) bool {
	for _, r := range h.nodesOf(hash) {
		x := r.state.Graph
		if o.Dark() && !r.state.Dark() && !o.Later(r.node.Space) || x != nil && slices.ContainsFunc(x.Cuts, func(c graph.CutRecord) bool { return !c.Done }) {
			return true
		}
	}
	return false
}

func isDone(m graph.Message) bool { return m.Kind == graph.CutDone }

func isRest(m graph.Message) bool { return m.Kind == graph.CutRest || m.Kind == graph.RestDone }
