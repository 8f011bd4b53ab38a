package actors

import (
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
		e := h.evidence(t)
		e.Client = t.event.Client
		h.proposeLink(t.r, id, e, 0)
	}
}

// proposeLink asks the graph to link the resident with the identity named.
func (h *host) proposeLink(r *resident, id proto.Identity, e graph.Evidence, command uint64) {
	h.tell(r.node, graph.Message{Kind: graph.Link, About: h.hasher.Hash(id), Evidence: e, Command: command, Body: []byte(id)})
}

func (h *host) link(t *task) {
	e := h.evidence(t)
	e.Client, e.Confidence = t.link.Client, t.link.Confidence
	if t.link.Inferred {
		e.Method = graph.Inferred
	}
	h.proposeLink(t.r, t.link.B, e, t.link.Command)
}

func (h *host) unlink(t *task) {
	m := graph.Message{Kind: graph.Remove, About: t.unlink.B, Evidence: h.evidence(t)}
	if t.unlink.B == (graph.Hash{}) {
		m.Kind, m.Client = graph.Withdraw, t.unlink.Client
	}
	if t.r.state.Graph != nil {
		h.tell(t.r.node, m)
	}
}

// refresh tells the graph that what a node gives to its user, or what time
// makes of it, changed. Whoever is alone has nobody to tell.
func (h *host) refresh(r *resident) {
	x := r.state.Graph
	if x == nil || !h.fx.Shared && !h.fx.Due || x.Root == (graph.Hash{}) && !x.Leads() {
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
		h.resident(g.To)
	}
	if h.fault = h.warm(); h.fault != nil {
		return 0
	}
	for _, g := range groups {
		if digest = h.stepGraph(h.active[g.To], g, digest); h.fault != nil {
			break
		}
	}
	return digest
}

func (h *host) stepGraph(r *resident, g *graph.Group, digest uint64) uint64 {
	h.offerNumber(r)
	named, gen := r.state.Named, r.state.Gen()
	h.fx.Reset()
	r.group, r.now, r.panic = g, h.entry.Now, ""
	h.courier.deliver(r)
	r.group = nil
	if r.panic != "" {
		h.fault = proto.Errorf(proto.CodeCorrupt, "an identity's step failed on a message of the graph, which must never be skipped: %s", r.panic)
		return digest
	}
	fx := &g.Effects
	h.nameLinked(r, g)
	r.copies = append(r.copies, fx.Copies...)
	h.bytes += copyBytes * len(fx.Copies)
	if h.fx.Purged {
		h.redo(r, redo{what: redoPurge})
	}
	if fx.Shown {
		h.redo(r, redo{what: redoExit, now: r.state.UserChange()})
	}
	h.keep(r, gen)
	if h.fx.Purged {
		h.purged(r, named)
	}
	h.settleCuts(r, fx)
	digest = h.digest(digest, r)
	return mix(digest, uint64(r.state.Gen())<<32|uint64(len(fx.Out)), g.To.Hash.Prefix())
}

// copyBytes is what a copy's write costs, about.
const copyBytes = 200

// nameLinked gives a number to a node that is linked now. Its name came with a
// command, or with the proposal of the other end.
func (h *host) nameLinked(r *resident, g *graph.Group) {
	s := &r.state
	if s.Named || s.Graph == nil || s.Graph.Dark || len(s.Graph.Edges()) == 0 {
		return
	}
	if r.identity == "" {
		for i := range g.In {
			if m := &g.In[i]; m.Kind == graph.Half && len(m.Body) > 0 {
				r.identity = proto.Identity(m.Body)
			}
		}
	}
	if r.identity != "" && h.hasher.Hash(r.identity) == r.node.Hash {
		s.Name(isDevice(r.identity), &h.fx)
	}
}

// purged takes the number of a node that was cut away.
func (h *host) purged(r *resident, named bool) {
	if named {
		h.out.Unnamed = append(h.out.Unnamed, r.state.Ordinal)
	}
	r.state.Ordinal, r.ordinal, r.identity = 0, 0, ""
	r.sealed = nil
}
