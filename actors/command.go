package actors

import (
	"slices"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// task is one thing for one identity.
type task struct {
	entry, index int
	kind         proto.CommandKind
	body         []byte
	r            *resident      // nil of a cut or opt-in, which are for all nodes of an identity
	called       proto.Identity // aliases the entry
	in           identity.Input
	needs        string // of traits: one without which nothing is done
	event        proto.Event
	at           proto.Millis // evidence: when the gateway took the command
	link         proto.LinkCommand
	unlink       proto.UnlinkCommand
	cut          proto.CutCommand
	optIn        proto.OptInCommand
}

// prepare decodes commands and activates what they touch.
func (h *host) prepare(commands []Command) {
	h.tasks, h.ran = h.tasks[:0], 0
	for i := range commands {
		if h.fault = h.addCommand(&commands[i]); h.fault != nil {
			return
		}
	}
	h.fault = h.warm()
}

// name has the task's node know its name, for when it gets a number.
func (t *task) name() {
	t.r.identity = proto.Identity(append([]byte(nil), t.called...)) // not an alias of the entry
}

func (h *host) addTask() *task {
	if len(h.tasks) < cap(h.tasks) {
		h.tasks = h.tasks[:len(h.tasks)+1] // keeps the slices of an earlier event
	} else {
		h.tasks = append(h.tasks, task{})
	}
	return &h.tasks[len(h.tasks)-1]
}

func (h *host) addCommand(c *Command) (err error) {
	t := h.addTask()
	t.entry, t.index, t.kind, t.body, t.r, t.called, t.needs = c.Entry, c.Index, c.Kind, c.Body, nil, "", ""
	switch c.Kind {
	case proto.CommandEvent:
		if err := proto.DecodeEvent(c.Body, &t.event); err != nil {
			return err
		}
		t.at = t.event.Received
		t.in = identity.Input{Kind: identity.InputEvent, Client: t.event.Client}
		return h.resolve(t, t.event.Identities[0], t.event.Space)
	case proto.CommandTraits:
		x, err := proto.DecodeTraits(c.Body)
		if err != nil {
			return err
		}
		t.at = x.Received
		t.in, t.needs = identity.Input{Kind: identity.InputTraits, Client: x.Client, Traits: x.Set}, x.Needs
		return h.resolve(t, x.Identity, x.Space)
	case proto.CommandLink:
		if t.link, err = proto.DecodeLink(c.Body); err != nil {
			return err
		}
		t.at = t.link.Received
		return h.resolve(t, t.link.A, t.link.Space)
	case proto.CommandUnlink:
		if t.unlink, err = proto.DecodeUnlink(c.Body); err != nil {
			return err
		}
		t.at = t.unlink.Received
		return h.resolveNode(t, proto.Node{Hash: t.unlink.A, Space: t.unlink.Space})
	case proto.CommandCut:
		if t.cut, err = proto.DecodeCut(c.Body); err != nil {
			return err
		}
		t.at = t.cut.Received
		return h.resolveAll(t.cut.Hash)
	case proto.CommandOptIn:
		if t.optIn, err = proto.DecodeOptIn(c.Body); err != nil {
			return err
		}
		t.at = t.optIn.Received
		return h.resolveAll(t.optIn.Hash)
	}
	return proto.Errorf(proto.CodeCorrupt, "command kind %d is not for a home", c.Kind)
}

func (h *host) resolve(t *task, id proto.Identity, space proto.SpaceID) error {
	t.called, t.in.Device = id, isDevice(id)
	t.in.End, _ = proto.Rotates(id)
	return h.resolveNode(t, proto.Node{Hash: h.hasher.Hash(id), Space: space})
}

// isDevice reports whether an identity is a browser or device, which rules count.
func isDevice(id proto.Identity) bool {
	switch id.Kind() {
	case "browser", "aaid", "idfa":
		return true
	}
	return false
}

func (h *host) resolveNode(t *task, node proto.Node) error {
	if err := h.checkHome(node.Hash); err != nil {
		return err
	}
	h.meet(node.Space)
	t.r = h.resident(node)
	return nil
}

// resolveAll activates the nodes of an identity in all spaces.
func (h *host) resolveAll(hash graph.Hash) error {
	if err := h.checkHome(hash); err != nil {
		return err
	}
	for _, s := range h.spaces {
		h.resident(proto.Node{Hash: hash, Space: s})
	}
	return nil
}

func (h *host) checkHome(hash graph.Hash) error {
	if hash.Partition() != h.partition {
		return proto.Errorf(proto.CodeCorrupt, "command names partition %d but its identity's home is %d: was the hash secret of this data directory changed?", h.partition, hash.Partition())
	}
	return nil
}

// meet notes a space, so that a cut finds the identity's nodes in it.
func (h *host) meet(s proto.SpaceID) {
	if i, known := slices.BinarySearch(h.spaces, s); !known {
		h.spaces = slices.Insert(h.spaces, i, s)
		h.out.Spaces = append(h.out.Spaces, s)
	}
}

// due adds timers, fills and erasures; timers whose record is stale are marked.
func (h *host) due(list []*Due) {
	h.tasks, h.ran = h.tasks[:0], 0
	residents := make([]*resident, len(list))
	for i, d := range list {
		residents[i] = h.resident(d.Node)
	}
	if h.fault = h.warm(); h.fault != nil {
		return
	}
	for i, d := range list {
		r := residents[i]
		in := d.input()
		if in.Kind == identity.InputTimer && r.state.Exit != d.At {
			d.Ignore = true
			continue
		}
		t := h.addTask()
		t.entry, t.index, t.kind, t.body, t.r, t.called, t.needs, t.in = d.Entry, -1, 0, nil, r, "", "", in
	}
}

func (d *Due) input() identity.Input {
	switch {
	case d.Forget != 0:
		return identity.Input{Kind: identity.InputForget, Client: d.Forget}
	case d.Retain:
		return identity.Input{Kind: identity.InputTrim}
	case d.Fill != 0:
		return identity.Input{Kind: identity.InputFill, Client: d.Fill}
	}
	return identity.Input{Kind: identity.InputTimer, At: d.At}
}

// over reports whether a command is of an identity whose time is over.
func (h *host) over(t *task) bool {
	switch t.kind {
	case proto.CommandEvent, proto.CommandTraits:
		return t.in.End != 0 && t.in.End <= h.entry.Now
	}
	return false
}

// admits reports whether what an event or traits say counts for their node. What is from
// before it began anew does not, if the person asked for that or the same client did: who
// returns at once where others had it erased, or it was idle, loses nothing but links.
func (h *host) admits(t *task) bool {
	if t.r.state.Dark() {
		return false
	}
	o, err := h.readOptOut(t.r.node.Hash)
	if err != nil {
		h.fail(err)
		return false
	}
	return o == nil || o.Admits(t.in.Client, t.r.node.Space, min(t.at, h.entry.Now), 2*h.limits.SkewMillis)
}

// vain reports whether traits find nothing to do: they need one that the client
// does not know of the node, or only take some away of somebody whom it does not
// know, who would be known by that.
func (t *task) vain() bool {
	switch {
	case t.kind != proto.CommandTraits:
		return false
	case t.needs != "":
		return !t.r.state.HasTrait(t.in.Client, t.needs)
	case t.r.state.Client(t.in.Client) != nil:
		return false
	}
	return !slices.ContainsFunc(t.in.Traits, func(x proto.Prop) bool { return x.Value != proto.TextOf("") })
}

// perform does what a task asks.
func (h *host) perform(t *task, digest uint64) uint64 {
	if h.ended(t) {
		return mix(digest, 8, uint64(t.index))
	}
	if h.over(t) {
		h.out.Ignored++
		return mix(digest, 14, uint64(t.index))
	}
	switch t.kind {
	case proto.CommandCut:
		return mix(digest, 2, h.cut(t))
	case proto.CommandOptIn:
		return mix(digest, 3, h.liftCut(t))
	case proto.CommandLink:
		h.link(t)
		return mix(digest, 4, uint64(t.index))
	case proto.CommandUnlink:
		h.unlink(t)
		return mix(digest, 5, uint64(t.index))
	case proto.CommandEvent, proto.CommandTraits:
		if !h.admits(t) || t.vain() {
			h.out.Ignored++
			return mix(digest, 6, uint64(t.index))
		}
	}
	if t.r.state.Dark() { // a timer or fill that came too late
		return digest
	}
	switch t.in.Kind {
	case identity.InputForget:
		return mix(digest, 9, h.release(t.r, t.in.Client))
	case identity.InputTrim:
		return mix(digest, 10, h.retain(t.r))
	case identity.InputTimer:
		if end := t.r.state.End; end != 0 && end <= h.entry.Now && t.r.exists() {
			h.erase(t.r)
			return mix(digest, 13, uint64(end))
		}
	}
	digest = h.step(t, digest)
	if t.needs != "" && h.fault == nil {
		digest = h.dropHollow(t, digest)
	}
	return digest
}
