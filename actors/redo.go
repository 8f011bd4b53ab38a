package actors

import (
	"slices"

	"kith/actors/identity"
	"kith/proto"
)

// This file is how an identity is put back to where it was before a step that
// panicked.

// redo is an input that an identity took in, with the one before it.
type redo struct {
	prev  int  // index in host.done plus 1; 0: the first of the batch
	purge bool // no input: a cut forgot everything
	kind  proto.CommandKind
	body  []byte
	in    identity.Input // of a timer, a fill or what is to be forgotten
	now   proto.Millis
}

// redo notes what an identity took in, in case that it must be done again.
func (h *host) redo(r *resident, x redo) {
	if r.doneIn != h.batch {
		r.doneIn, r.done = h.batch, 0
	}
	x.prev = r.done
	h.done = append(h.done, x)
	r.done = len(h.done)
}

// bury sets a command aside whose step panicked, and puts its identity back
// to where it was before.
func (h *host) bury(t *task) {
	reason := t.r.panic
	h.out.Dead = append(h.out.Dead, Dead{Entry: t.entry, Index: t.index, Kind: t.kind, Body: t.body, Reason: reason})
	if t.kind != proto.CommandEvent && t.kind != proto.CommandTraits {
		h.fault = proto.Errorf(proto.CodeCorrupt, "an identity's step failed on a timer or fill, which must never be skipped: %s", reason)
		return
	}
	if err := h.rebuild(t.r); err != nil {
		h.fault = err
	}
}

// rebuild makes an identity's facts anew: as they were before the batch, then
// the batch's inputs again. Rules do not change within a batch, and a step on
// facts leaves links alone; all else is as it was before the step.
func (h *host) rebuild(r *resident) error {
	before, now := h.before, &r.state
	var was identity.State
	again, purged := h.inputs(r)
	if !purged {
		if err := h.stateBefore(r, &was); err != nil {
			return err
		}
	}
	was.Facts = slices.DeleteFunc(was.Facts, func(f identity.Facts) bool {
		return slices.ContainsFunc(again, func(d redo) bool { return d.in.Kind == identity.InputForget && d.in.Client == f.Client })
	})
	now.Facts, now.Follows, now.User = was.Facts, false, nil
	for _, d := range slices.Backward(again) {
		if err := h.again(r, d); err != nil {
			return err
		}
	}
	now.Named, now.Device, now.End, now.Ordinal, now.Exit = before.Named, before.Device, before.End, before.Ordinal, before.Exit
	now.Follows, now.User = before.Follows, before.User
	return nil
}

// inputs lists, newest first, what an identity took in since the batch began,
// or since a cut forgot everything, without what was forgotten later on: its
// history may be gone.
func (h *host) inputs(r *resident) (list []redo, purged bool) {
	if r.doneIn != h.batch {
		return nil, false
	}
	for i := r.done; i > 0; i = h.done[i-1].prev {
		d := h.done[i-1]
		if d.purge {
			return list, true
		}
		if !slices.ContainsFunc(list, func(x redo) bool { return x.in.Kind == identity.InputForget && x.in.Client == d.in.Client }) {
			list = append(list, d)
		}
	}
	return list, false
}

// stateBefore reads the state as of the last batch.
func (h *host) stateBefore(r *resident, s *identity.State) error {
	switch {
	case len(r.value) > 0:
		_, err := s.Decode(r.value)
		return err
	case r.value == nil && r.stored != 0:
		_, err := h.source.Node(r.node, r.stored, func(v []byte) error { _, err := s.Decode(v); return err })
		return err
	}
	return nil
}

// again takes one input in once more.
func (h *host) again(r *resident, d redo) error {
	in := d.in
	if d.kind == proto.CommandEvent {
		in.Event = &proto.Event{}
		if err := proto.DecodeEvent(d.body, in.Event); err != nil {
			return err
		}
	}
	if in.Kind == identity.InputTimer {
		r.state.Exit = in.At
	}
	h.take(r, &in, d.now)
	if r.panic != "" {
		return proto.Errorf(proto.CodeCorrupt, "an identity's step failed on an input that it took in before: %s", r.panic)
	}
	return nil
}
