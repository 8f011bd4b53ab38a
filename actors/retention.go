package actors

import (
	"kith/actors/identity"
)

// retain lets go of what is too old of a node: all of it, if it was idle for too
// long, else events. It says what it did, for the digest.
func (h *host) retain(r *resident) (did uint64) {
	if !r.exists() || h.kept == nil {
		return 0
	}
	now := h.entry.Now
	if idle := h.kept(0).Idle; idle > 0 && r.state.Idle(now-idle) {
		h.erase(r)
		return 1
	}
	if r.state.Undated() {
		h.trim(r, identity.Input{Kind: identity.InputTrim})
		return 4
	}
	for i := range r.state.Facts {
		f := &r.state.Facts[i]
		if keep := h.kept(f.Client).Sessions; keep > 0 && f.Older(now-keep) && h.fault == nil {
			h.trim(r, identity.Input{Kind: identity.InputTrim, Client: f.Client, At: now - keep})
			did += 2
		}
	}
	return did
}

// trim forgets a client's events of a node from before a time.
func (h *host) trim(r *resident, in identity.Input) {
	again := in
	if h.take(r, &in, h.entry.Now); h.mustNot(r) {
		return
	}
	h.redo(r, redo{in: again, now: h.entry.Now})
	h.keep(r, r.state.Gen())
	h.refresh(r)
}
