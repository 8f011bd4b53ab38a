package actors

import (
	"slices"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// This file is the host's side of the graph: what commands mean for it, and
// its supersteps.

// tell leaves a message from outside for the entry's first superstep.
func (h *host) tell(to proto.Node, m graph.Message) {
	m.To = to
	h.messages = append(h.messages, m)
}

// evidence is that of a task, by the time at which the gateway took it; a time
// of the future would beat every removal.
func (h *host) evidence(t *task) graph.Evidence {
	return graph.Evidence{Time: max(min(t.at, h.entry.Now), 1), Confidence: 1000}
}

// linkOthers links an event's other identities to its first.
func (h *host) linkOthers(t *task) {
	for _, id := range t.event.Identities[1:] {
		if proto.Made(id) || proto.Made(t.called) {
			continue // of chance, and shared: it is nobody's
		}
		e := h.evidence(t)
		e.Client = t.event.Client
		h.proposeLink(t, id, e, 0)
	}
}

// proposeLink asks the graph to link the task's node with the identity named.
// The node's own name is for the superstep: a cut of the same entry may come
// before the link and take its number.
func (h *host) proposeLink(t *task, id proto.Identity, e graph.Evidence, command uint64) {
	t.name()
	h.tell(t.r.node, graph.Message{Kind: graph.Link, About: h.hasher.Hash(id), Evidence: e, Command: command, Body: []byte(id)})
}

func (h *host) link(t *task) {
	if proto.Made(t.link.A) || proto.Made(t.link.B) {
		h.out.Decisions = append(h.out.Decisions, graph.Decision{Command: t.link.Command, Reason: graph.ReasonStale})
		return
	}
	e := h.evidence(t)
	e.Client, e.Confidence = t.link.Client, t.link.Confidence
	if t.link.Inferred {
		e.Method = graph.Inferred
	}
	if t.r.state.Admits(e.Time) {
		h.spare(t.r, e.Client)
	}
	h.proposeLink(t, t.link.B, e, t.link.Command)
}

// unlink removes an edge, or a client's. Its time is the lane's, as a cut's is: by a
// clock that was set back, or is behind others', the gateway's time of it is before
// evidence that the lane took, and the removal would be answered and not done. The other
// end may have newer of the same by a clock that is ahead, of which this one was not told:
// it would make the edge anew.
func (h *host) unlink(t *task) {
	at := max(h.entry.Now, min(t.unlink.AsOf, h.entry.Now+2*h.limits.SkewMillis))
	m := graph.Message{Kind: graph.Remove, About: t.unlink.B, Evidence: graph.Evidence{Time: at}}
	if t.unlink.B == (graph.Hash{}) {
		m.Kind, m.Client = graph.Withdraw, t.unlink.Client
	}
	if t.r.state.Graph != nil || m.Kind == graph.Remove { // a link from the other end may be under way
		h.tell(t.r.node, m)
	}
}

// refresh tells the graph that what a node gives to its user, or what time
// makes of it, changed. Whoever is alone has nobody to tell.
func (h *host) refresh(r *resident) {
	x := r.state.Graph
	if x == nil || x.Root == (graph.Hash{}) && !x.Leads() || !h.fx.Shared && !(h.fx.Due && x.Leads()) {
		return
	}
	m := graph.Message{Kind: graph.Refresh}
	if h.fx.Shared {
		m.Body = identity.FactsChanged
	}
	h.tell(r.node, m)
}

// superstep lets each node take in what one superstep has for it.
func (h *host) superstep(groups []*graph.Group) (digest uint64) {
	for _, g := range groups {
		h.meet(g.To.Space)
		h.stepping = append(h.stepping, h.resident(g.To))
	}
	defer func() { clear(h.stepping); h.stepping = h.stepping[:0] }()
	if h.fault = h.warm(); h.fault != nil {
		return 0
	}
	for i, g := range groups {
		if digest = h.stepGraph(h.stepping[i], g, digest); h.fault != nil {
			break
		}
	}
	return digest
}

func (h *host) stepGraph(r *resident, g *graph.Group, digest uint64) uint64 {
	h.offerNumber(r)
	named, gen := r.state.Named, r.state.Gen()
	h.fx.Reset()
	if h.fence(r, g.In); h.fault != nil {
		return digest
	}
	r.group, r.now, r.panic = g, h.entry.Now, ""
	h.courier.deliver(r)
	r.group = nil
	if r.panic != "" {
		h.fault = proto.Errorf(proto.CodeCorrupt, "an identity's step failed on a message of the graph, which must never be skipped: %s", r.panic)
		return digest
	}
	fx := &g.Effects
	r.copies = append(r.copies, fx.Copies...)
	h.bytes += copyBytes * len(fx.Copies)
	purged := h.fx.Purged
	if purged { // what it was is told under its old number
		h.redo(r, redo{purge: true})
		h.keep(r, gen)
		digest = h.digest(digest, r)
		h.purged(r, named)
		h.fx.Reset()
	}
	h.nameLinked(r, g)
	h.keep(r, gen)
	h.settleCuts(r, g, purged)
	digest = h.digest(digest, r)
	r.unoffer()
	r.identity = ""
	return mix(digest, uint64(r.state.Gen())<<32|uint64(len(fx.Out)), g.To.Hash.Prefix())
}

// fence finds which clients had a node forgotten, for messages that bring evidence.
func (h *host) fence(r *resident, in []graph.Message) {
	h.fences = h.fences[:0]
	brings := func(m graph.Message) bool {
		return m.Kind == graph.Link || m.Kind == graph.Half || m.Kind == graph.HalfOK
	}
	if !slices.ContainsFunc(in, brings) {
		return
	}
	if o, err := h.readOptOut(r.node.Hash); err != nil {
		h.fail(err)
	} else if o != nil {
		h.fences = o.Fences(h.fences, r.node.Space, 2*h.limits.SkewMillis)
	}
}

// copyBytes is what a copy's write costs, about.
const copyBytes = 200

// nameLinked gives a number to a node that is linked now, or may be soon. Its
// name came with a command of this entry, or with the proposal of the other end,
// and is not kept for later.
func (h *host) nameLinked(r *resident, g *graph.Group) {
	s := &r.state
	if s.Named || s.Graph == nil || !slices.ContainsFunc(s.Graph.Links, func(l graph.Neighbour) bool { return l.Stage != graph.Absent }) {
		return
	}
	for i := range g.In {
		if m := &g.In[i]; m.Kind == graph.Half && len(m.Body) > 0 {
			r.identity = proto.Identity(m.Body)
		}
	}
	if r.identity != "" && h.hasher.Hash(r.identity) == r.node.Hash {
		h.offerNumber(r)
		h.stepper.Name(s, isDevice(r.identity), &h.fx)
	}
}

// purged takes the number of a node that was cut away.
func (h *host) purged(r *resident, named bool) {
	if named {
		h.out.Unnamed = append(h.out.Unnamed, r.state.Ordinal)
	}
	r.state.Ordinal = 0
}
