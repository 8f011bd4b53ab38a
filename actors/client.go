package actors

import (
	"slices"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// This file is what becomes of a client's knowledge when the client itself ends.

// ended reports whether a task is of a client that was ended: nothing of it is
// taken in any more, however long the command was under way.
func (h *host) ended(t *task) bool {
	if h.gone == nil {
		return false
	}
	switch t.kind {
	case proto.CommandEvent, proto.CommandTraits:
		if !h.gone(t.in.Client) {
			return false
		}
	case proto.CommandLink:
		if !h.gone(t.link.Client) {
			return false
		}
		h.out.Decisions = append(h.out.Decisions, graph.Decision{Command: t.link.Command, Reason: graph.ReasonStale})
	default:
		return false
	}
	h.out.Ignored++
	return true
}

// release takes away what an ended client knows of a node: all of the node, if
// nobody else knows anything. It says what it did, for the digest.
func (h *host) release(r *resident, client proto.ClientID) uint64 {
	switch {
	case !r.exists():
		return 0
	case r.solelyOf(client):
		h.erase(r)
		return 2
	case !r.knownBy(client):
		return 3
	}
	h.forgetClient(r, client)
	return 4
}

// dropHollow lets go of a client's facts of a node of which nothing is left: of
// somebody who was known by a list only, and is not on it any more.
func (h *host) dropHollow(t *task, digest uint64) uint64 {
	r, client := t.r, t.in.Client
	f := r.state.Client(client)
	if f == nil || !f.Hollow() {
		return digest
	}
	if r.state.Graph == nil && r.solelyOf(client) {
		h.purge(r)
		return mix(digest, 11, uint64(t.index))
	}
	if h.forgetFacts(r, client); h.fault != nil {
		return digest
	}
	return h.digest(mix(digest, 12, uint64(t.index)), r)
}

// knownBy reports whether the client holds facts of the node or vouches for a
// link of it.
func (r *resident) knownBy(c proto.ClientID) bool {
	if r.state.Client(c) != nil {
		return true
	}
	x := r.state.Graph
	return x != nil && slices.ContainsFunc(x.Links, func(l graph.Neighbour) bool { return l.Stage != graph.Absent && l.Client == c })
}

// erase takes a node out, which may come back as a stranger. The identity's
// opt-out knows of no command that this is for.
func (h *host) erase(r *resident) {
	if r.state.Graph == nil {
		h.purge(r)
		return
	}
	h.tell(r.node, graph.Message{Kind: graph.Erase, Again: true, Evidence: graph.Evidence{Time: h.entry.Now}})
}

// purge forgets everything of a node without links. Nobody else has anything of
// it that a generation would have to tell apart, so that nothing need be kept.
func (h *host) purge(r *resident) {
	named, number, gen := r.state.Named, r.state.Ordinal, r.state.Gen()
	in := identity.Input{Kind: identity.InputPurge}
	if h.take(r, &in, h.entry.Now); h.mustNot(r) {
		return
	}
	h.redo(r, redo{purge: true})
	r.state.Ordinal = number // of the bits that go with it
	h.keep(r, gen)
	h.purged(r, named)
}

// forgetClient takes what one client knows out of a node that others know too.
func (h *host) forgetClient(r *resident, client proto.ClientID) {
	if h.forgetFacts(r, client); h.fault != nil {
		return
	}
	if r.state.Graph != nil || h.linkedIn(r, func(c proto.ClientID) bool { return c == client }) {
		h.tell(r.node, graph.Message{Kind: graph.Withdraw, Evidence: graph.Evidence{Time: h.entry.Now, Client: client}})
	}
}

// forgetFacts takes a client's facts out of a node, and leaves links alone.
func (h *host) forgetFacts(r *resident, client proto.ClientID) {
	in := identity.Input{Kind: identity.InputForget, Client: client}
	if h.take(r, &in, h.entry.Now); h.mustNot(r) {
		return
	}
	h.redo(r, redo{in: in, now: h.entry.Now})
	h.keep(r, r.state.Gen())
	if h.fx.Changed {
		h.out.Dropped = append(h.out.Dropped, DroppedFacts{r.state.Ordinal, client})
	}
	h.refresh(r)
}

// mustNot is a fault if the step of an erasure failed.
func (h *host) mustNot(r *resident) bool {
	if r.panic != "" {
		h.fault = proto.Errorf(proto.CodeCorrupt, "an identity's step failed on an erasure, which must never be skipped: %s", r.panic)
	}
	return r.panic != ""
}
