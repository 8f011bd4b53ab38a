package actors

import (
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// host is one partition's keeper: it owns the active identities of its
// partition and the count of ordinals. One goroutine at a time is in it: the
// one that runs the host actor's message.
type host struct {
	partition proto.PartitionID
	hasher    proto.Hasher
	stepper   *identity.Stepper
	activeMax int
	idleAfter time.Duration
	courier   courier

	active map[proto.Node]*resident
	cold   []*resident // in active, not yet read
	idle   []*resident // passivated, for use again
	lru    resident    // ring; lru.newer is the least recently used
	next   uint32      // local part of the next ordinal

	// of the batch under way
	batch     uint64
	began     time.Time
	committed uint64 // batches up to here are in source
	source    Source
	tasks     []task
	ran       int // tasks[:ran] were run
	dirty     []*resident
	done      []redo // inputs taken in by this batch, to be taken in again after a panic
	encoded   []byte // scratch
	bytes     int    // estimate of what the batch writes
	taken     int    // of out.Exits
	fx        identity.Effects
	out       *Outcome
	fault     error

	unsettled []settling // batches whose values may not be in source yet
}

// settling is a batch's residents, whose values are kept until it is committed.
type settling struct {
	batch     uint64
	residents []*resident
}

// redo is an input that an identity took in, with the one before it.
type redo struct {
	prev int // index in host.done plus 1; 0: the first of the batch
	kind proto.CommandKind
	body []byte
	in   identity.Input // of a timer or fill
	now  proto.Millis
}

// courier takes an input to an identity and returns when it was taken in: as
// a message to its actor, or by a direct call.
type courier interface {
	activate(r *resident)
	deliver(r *resident)
	passivate(r *resident)
}

// resident is an active identity. It is the slot too: the message that its
// actor receives and, afterwards, the reply.
type resident struct {
	node     proto.Node
	identity proto.Identity // of a node that has no ordinal yet
	ordinal  proto.Ordinal  // of a node that got it while active
	state    identity.State
	host     *host
	mailbox  any // the courier's

	batch     uint64 // the last that changed it
	value     []byte // as of that batch, until it is committed
	size      int    // of the last value
	done      int    // its last input of batch doneIn: index in host.done plus 1
	doneIn    uint64
	dirty     bool
	published bool
	sealed    []sealedBlock // of batches that may not be committed yet

	older, newer *resident
	used         time.Time // when its last batch began

	// the slot
	in    *identity.Input
	now   proto.Millis
	panic string
}

type sealedBlock struct {
	batch uint64
	identity.Block
}

// task is one input for one identity.
type task struct {
	entry, index int
	kind         proto.CommandKind
	body         []byte
	r            *resident
	name         proto.Identity // aliases the entry
	in           identity.Input
	event        proto.Event
}

func newHost(p proto.PartitionID, c Config, next uint32, courier courier) *host {
	h := &host{
		partition: p, hasher: c.Hasher, stepper: identity.NewStepper(c.Rules),
		activeMax: max(c.ActiveMax/proto.Partitions, 1), courier: courier, idleAfter: c.ActiveIdle,
		active: map[proto.Node]*resident{}, next: next,
	}
	h.lru.older, h.lru.newer = &h.lru, &h.lru
	h.out = &Outcome{Partition: p}
	return h
}

// stateBytes is what a node's write costs beside its state as it was: its key,
// its growth, the ordinal's key.
const stateBytes = 300

// bitBytes is what a bit costs in the journal.
const bitBytes = 8

// begin starts a batch.
func (h *host) begin(batch, committed uint64, source Source, began time.Time) {
	h.batch, h.committed, h.source, h.began = batch, committed, source, began
	h.out = &Outcome{Partition: h.partition}
	h.bytes, h.taken, h.done = 0, 0, h.done[:0]
	for len(h.unsettled) > 0 && h.unsettled[0].batch <= committed {
		for _, r := range h.unsettled[0].residents {
			if r.batch <= committed {
				r.value = nil
			}
		}
		h.unsettled = h.unsettled[1:]
	}
}

// prepare decodes commands and activates what they touch.
func (h *host) prepare(commands []Command) {
	h.tasks, h.ran = h.tasks[:0], 0
	for i := range commands {
		if h.fault = h.addCommand(&commands[i]); h.fault != nil {
			return
		}
	}
	if h.fault = h.warm(); h.fault != nil {
		return
	}
	for i := range h.tasks {
		if t := &h.tasks[i]; !t.r.state.Known() && t.r.identity == "" {
			t.r.identity = proto.Identity(append([]byte(nil), t.name...)) // not an alias of the entry
		}
	}
}

func (h *host) addTask() *task {
	if len(h.tasks) < cap(h.tasks) {
		h.tasks = h.tasks[:len(h.tasks)+1] // keeps the slices of an earlier event
	} else {
		h.tasks = append(h.tasks, task{})
	}
	return &h.tasks[len(h.tasks)-1]
}

func (h *host) addCommand(c *Command) error {
	t := h.addTask()
	t.entry, t.index, t.kind, t.body = c.Entry, c.Index, c.Kind, c.Body
	switch c.Kind {
	case proto.CommandEvent:
		if err := proto.DecodeEvent(c.Body, &t.event); err != nil {
			return err
		}
		t.in = identity.Input{Kind: identity.InputEvent, Client: t.event.Client}
		return h.resolve(t, t.event.Identities[0], t.event.Space)
	case proto.CommandTraits:
		x, err := proto.DecodeTraits(c.Body)
		if err != nil {
			return err
		}
		t.in = identity.Input{Kind: identity.InputTraits, Client: x.Client, Traits: x.Set}
		return h.resolve(t, x.Identity, x.Space)
	}
	return proto.Errorf(proto.CodeCorrupt, "command kind %d is not for a home", c.Kind)
}

func (h *host) resolve(t *task, id proto.Identity, space proto.SpaceID) error {
	node := proto.Node{Hash: h.hasher.Hash(id), Space: space}
	if node.Hash.Partition() != h.partition {
		return proto.Errorf(proto.CodeCorrupt, "command names partition %d but its identity's home is %d: was the hash secret of this data directory changed?", h.partition, node.Hash.Partition())
	}
	t.r, t.name = h.resident(node), id
	return nil
}

// due adds timers and fills; those whose record is stale are marked.
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
		if d.Fill == 0 && r.state.Exit != d.At {
			d.Ignore = true
			continue
		}
		t := h.addTask()
		t.entry, t.index, t.kind, t.body, t.r = d.Entry, -1, 0, nil, r
		t.in = identity.Input{Kind: identity.InputTimer, At: d.At}
		if d.Fill != 0 {
			t.in = identity.Input{Kind: identity.InputFill, Client: d.Fill}
		}
	}
}

// resident finds the active identity, or makes one that warm activates.
func (h *host) resident(node proto.Node) *resident {
	r := h.active[node]
	if r != nil {
		r.unlink()
	} else {
		r = h.vacant()
		r.node = node
		h.active[node] = r
		h.cold = append(h.cold, r)
	}
	r.linkBefore(&h.lru) // newest
	r.used = h.began
	return r
}

// vacant gives a resident without a node: one that was passivated, with its
// actor and the memory of its state, or a new one.
func (h *host) vacant() *resident {
	n := len(h.idle)
	if n == 0 {
		return &resident{host: h}
	}
	r := h.idle[n-1]
	h.idle = h.idle[:n-1]
	*r = resident{host: h, mailbox: r.mailbox, state: r.state}
	return r
}

// warm reads and activates the residents that are cold. Reading is most of the
// work of a batch that few were active for, and is shared by two.
func (h *host) warm() error {
	err := h.read()
	for _, r := range h.cold {
		if err == nil && r.mailbox == nil {
			h.courier.activate(r)
		}
	}
	clear(h.cold)
	h.cold = h.cold[:0]
	return err
}

// coldShared is from how many reads on a second goroutine is worth it.
const coldShared = 8

func (h *host) read() error {
	if len(h.cold) < coldShared {
		return h.readEach(h.cold)
	}
	half := len(h.cold) / 2
	var other error
	var wait sync.WaitGroup
	wait.Go(func() { other = h.readEach(h.cold[half:]) })
	err := h.readEach(h.cold[:half])
	wait.Wait()
	return errors.Join(err, other)
}

func (h *host) readEach(list []*resident) error {
	for _, r := range list {
		found, err := h.source.Facts(r.node, r.load)
		if err != nil {
			return err
		}
		if !found {
			r.state = identity.State{}
		}
	}
	return nil
}

func (r *resident) unlink() {
	r.older.newer, r.newer.older = r.newer, r.older
}

func (r *resident) linkBefore(x *resident) {
	r.older, r.newer = x.older, x
	r.older.newer, x.older = r, r
}

// run takes in the tasks of one entry and gives the digest of their effects.
func (h *host) run(entry int, now proto.Millis) (digest uint64) {
	for h.ran < len(h.tasks) && h.tasks[h.ran].entry == entry && h.fault == nil {
		t := &h.tasks[h.ran]
		h.ran++
		digest = h.step(t, now, digest)
	}
	return digest
}

func (h *host) step(t *task, now proto.Millis, digest uint64) uint64 {
	r := t.r
	if r.doneIn != h.batch {
		r.doneIn, r.done = h.batch, 0
	}
	if !r.state.Known() {
		r.state.Ordinal = proto.MakeOrdinal(h.next, h.partition)
	}
	if t.kind == proto.CommandEvent {
		t.in.Event = &t.event
	}
	h.take(r, &t.in, now)
	if r.panic != "" {
		h.bury(t)
		return mix(digest, 1, uint64(t.index))
	}
	h.done = append(h.done, redo{prev: r.done, kind: t.kind, body: t.body, in: t.in, now: now})
	r.done = len(h.done)
	h.keep(t, r)
	return h.digest(digest, r)
}

// take lets the identity take one input in.
func (h *host) take(r *resident, in *identity.Input, now proto.Millis) {
	if h.stepper.NeedsHistory(&r.state, in) {
		in.History = h.history(r)
	}
	h.fx.Reset()
	r.in, r.now, r.panic = in, now, ""
	h.courier.deliver(r)
	r.in = nil
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

// rebuild makes an identity's state anew: as it was before the batch, then the
// batch's inputs again. Rules do not change within a batch.
func (h *host) rebuild(r *resident) error {
	r.state = identity.State{}
	if r.value != nil {
		if err := r.state.Decode(r.value); err != nil {
			return err
		}
	} else if _, err := h.source.Facts(r.node, r.state.Decode); err != nil {
		return err
	}
	var again []redo
	for i := r.done; i > 0; i = h.done[i-1].prev {
		again = append(again, h.done[i-1])
	}
	for _, d := range slices.Backward(again) {
		in := d.in
		if d.kind == proto.CommandEvent {
			in.Event = &proto.Event{}
			if err := proto.DecodeEvent(d.body, in.Event); err != nil {
				return err
			}
		}
		if !r.state.Known() {
			r.state.Ordinal = r.ordinal
		}
		if h.take(r, &in, d.now); r.panic != "" {
			return proto.Errorf(proto.CodeCorrupt, "an identity's step failed on an input that it took in before: %s", r.panic)
		}
	}
	return nil
}

// keep moves the effects of a step into the batch's outcome.
func (h *host) keep(t *task, r *resident) {
	fx := &h.fx
	if t.kind == proto.CommandEvent {
		h.out.Events++
	}
	if fx.Duplicate {
		h.out.Repeated++
	}
	if fx.Created {
		h.out.Named = append(h.out.Named, Named{r.state.Ordinal, r.node, r.identity})
		h.next++
		r.ordinal = r.state.Ordinal
		r.identity = ""
	}
	if fx.Exit != 0 {
		h.out.Exits = append(h.out.Exits, Exit{fx.Exit, r.node})
	}
	h.bytes += bitBytes * len(fx.Bits)
	for _, b := range fx.Bits {
		h.out.Bits = append(h.out.Bits, segments.BitDelta{Key: b.Key, Client: b.Client, Ordinal: r.state.Ordinal, Set: b.Set})
	}
	for _, b := range fx.Blocks {
		h.bytes += len(b.Data)
		h.out.Blocks = append(h.out.Blocks, NodeBlock{r.node, b})
		if b.Data != nil {
			r.sealed = slices.DeleteFunc(r.sealed, func(s sealedBlock) bool { return s.batch <= h.committed })
			r.sealed = append(r.sealed, sealedBlock{h.batch, b})
		}
	}
	if fx.Changed && !r.dirty {
		r.dirty = true
		h.bytes += stateBytes + r.size
		h.dirty = append(h.dirty, r)
	}
	r.published = r.published || fx.Published
}

// digest folds a step's effects into the entry's digest.
func (h *host) digest(d uint64, r *resident) uint64 {
	fx := &h.fx
	for _, b := range fx.Bits {
		x := uint64(b.Key)<<1 ^ uint64(b.Client)<<33
		if b.Set {
			x ^= 1
		}
		d = mix(d, x, uint64(r.state.Ordinal))
	}
	if fx.Exit != 0 {
		d = mix(d, uint64(fx.Exit), uint64(r.state.Ordinal)|1<<63)
	}
	return d
}

// mix is a step of a 64-bit multiply-and-shift hash (the finaliser of
// MurmurHash3), enough to tell replicas apart that went different ways.
func mix(d, a, b uint64) uint64 {
	d ^= a*0x9e3779b97f4a7c15 + b
	d ^= d >> 33
	d *= 0xff51afd7ed558ccd
	d ^= d >> 33
	d *= 0xc4ceb9fe1a85ec53
	return d ^ d>>33
}

// history gives a client's blocks: those committed from the source, those of
// batches under way from the resident.
func (h *host) history(r *resident) func(proto.ClientID) iter.Seq[[]byte] {
	return func(client proto.ClientID) iter.Seq[[]byte] {
		return func(yield func([]byte) bool) {
			f := r.state.Client(client)
			first, next := f.History.First, f.History.Next
			pending := r.sealed
			i := slices.IndexFunc(pending, func(b sealedBlock) bool { return b.batch > h.committed && b.Client == client })
			stored := next
			if i >= 0 {
				stored = min(stored, pending[i].Number)
			}
			for data, err := range h.source.Blocks(r.node, client, first, stored) {
				if err == nil {
					err = identity.CheckBlock(data)
				}
				if err != nil {
					h.fault = err
					return
				}
				if !yield(data) {
					return
				}
			}
			for _, b := range pending { // one that is being rebuilt has not sealed all of them yet
				if b.Client == client && b.Number >= stored && b.Number >= first && b.Number < next && !yield(b.Data) {
					return
				}
			}
		}
	}
}

// collect encodes what changed and ends the batch.
func (h *host) collect() *Outcome {
	out := h.out
	for _, r := range h.dirty {
		h.encoded = r.state.Append(h.encoded[:0])
		r.value, r.size = append(make([]byte, 0, len(h.encoded)), h.encoded...), len(h.encoded)
		out.Puts = append(out.Puts, Put{r.node, r.value})
		if r.published {
			out.Views = append(out.Views, NodeView{r.node, r.state.View()})
		}
		r.dirty, r.published, r.batch = false, false, h.batch
	}
	if len(h.dirty) > 0 {
		h.unsettled = append(h.unsettled, settling{h.batch, h.dirty})
		h.dirty = nil
	}
	out.Next = h.next
	h.passivate()
	return out
}

// passivate stops the least recently used above the bound, except those whose
// last change is not yet committed.
func (h *host) passivate() {
	for len(h.active) > h.activeMax && h.passivateOldest() {
	}
}

// passivateOldest stops the least recently used, unless its last change is not
// yet committed.
func (h *host) passivateOldest() bool {
	r := h.lru.newer
	if r.batch > h.committed {
		return false
	}
	r.unlink()
	delete(h.active, r.node)
	if len(h.idle) < idleMax {
		h.idle = append(h.idle, r)
	} else {
		h.courier.passivate(r)
	}
	return true
}

// sweepMax bounds one sweep of a host.
const sweepMax = 1024

// sweep passivates what was not used for long. It runs before the batch's
// commands are prepared or after they were run, never between.
func (h *host) sweep() {
	if h.idleAfter == 0 || h.ran < len(h.tasks) {
		return
	}
	cutoff := h.began.Add(-h.idleAfter)
	for n := 0; n < sweepMax && len(h.active) > 0 && h.lru.newer.used.Before(cutoff); n++ {
		if !h.passivateOldest() {
			return
		}
	}
}

// idleMax bounds the residents kept for use again.
const idleMax = 128

// load takes in a stored facts value.
func (r *resident) load(value []byte) error {
	r.size = len(value)
	return r.state.Decode(value)
}

// step runs the identity's pure step; a panic is caught into the slot.
func (r *resident) step() {
	defer func() {
		if p := recover(); p != nil {
			r.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	r.host.stepper.Step(&r.state, r.in, r.now, &r.host.fx)
}
