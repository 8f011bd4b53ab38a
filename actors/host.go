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
	"kith/graph"
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
	limits    graph.Config
	activeMax int
	idleAfter time.Duration
	courier   courier

	active  map[proto.Node]*resident
	cold    []*resident // in active, not yet read
	idle    []*resident // passivated, for use again
	lru     resident    // ring; lru.newer is the least recently used
	next    uint32      // local part of the next ordinal
	spaces  []proto.SpaceID
	tombs   map[graph.Hash]*tomb // opt-outs that were looked at or changed; see tomb
	everCut *CutFilter

	// of the batch under way
	batch     uint64
	began     time.Time
	committed uint64 // batches up to here are in source
	source    Source
	tasks     []task
	ran       int // tasks[:ran] were run
	entry     Entry
	messages  []graph.Message // for the graph, of the entry under way
	dirty     []*resident
	done      []redo         // inputs taken in by this batch, to be taken in again after a panic
	encoded   []byte         // scratch
	bytes     int            // estimate of what the batch writes
	taken     int            // of out.Exits
	before    identity.State // of the last take, as it was before it
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
	prev  int  // index in host.done plus 1; 0: the first of the batch
	purge bool // no input: a cut forgot everything
	kind  proto.CommandKind
	body  []byte
	in    identity.Input // of a timer, a fill or what is to be forgotten
	now   proto.Millis
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
	state    identity.State
	host     *host
	mailbox  any // the courier's

	stored     uint32     // the generation under which the store has, or will have, it; 0: none
	storedDark bool       // the store has what is left of it
	transient  bool       // its state follows from its identity's opt-out alone
	root       graph.Hash // of its user, as last told; zero: its own
	copies     []graph.Hash

	batch     uint64 // the last that changed it
	value     []byte // as of that batch, until it is committed; empty: gone
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
	group *graph.Group
	now   proto.Millis
	panic string
}

type sealedBlock struct {
	batch uint64
	identity.Block
}

func newHost(p proto.PartitionID, c Config, next uint32, courier courier) *host {
	h := &host{
		partition: p, hasher: c.Hasher, stepper: identity.NewStepper(c.Rules),
		activeMax: max(c.ActiveMax/proto.Partitions, 1), courier: courier, idleAfter: c.ActiveIdle,
		active: map[proto.Node]*resident{}, next: next, limits: c.Limits, tombs: map[graph.Hash]*tomb{},
		spaces: slices.Clone(c.Spaces),
	}
	if c.Cut != nil {
		h.everCut = c.Cut(p)
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
	h.forgetTombs()
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
	*r = resident{host: h, mailbox: r.mailbox, state: r.state, copies: r.copies[:0]}
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
		if err := h.load(r); err != nil {
			return err
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
func (h *host) run() (digest uint64) {
	for h.ran < len(h.tasks) && h.tasks[h.ran].entry == h.entry.Index && h.fault == nil {
		t := &h.tasks[h.ran]
		h.ran++
		digest = h.perform(t, digest)
	}
	return digest
}

// step lets an identity take a task's input in.
func (h *host) step(t *task, digest uint64) uint64 {
	r := t.r
	if t.kind == proto.CommandEvent {
		t.in.Event = &t.event
	}
	h.take(r, &t.in, h.entry.Now)
	if r.panic != "" {
		h.bury(t)
		return mix(digest, 1, uint64(t.index))
	}
	h.redo(r, redo{kind: t.kind, body: t.body, in: t.in, now: h.entry.Now})
	if t.kind == proto.CommandEvent {
		h.out.Events++
		h.linkOthers(t)
	}
	h.keep(r, r.state.Gen())
	h.refresh(r)
	return h.digest(digest, r)
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

// take lets the identity take one input in.
func (h *host) take(r *resident, in *identity.Input, now proto.Millis) {
	if h.stepper.NeedsHistory(&r.state, in) {
		in.History = h.history(r)
	}
	h.before = r.state
	h.offerNumber(r)
	h.fx.Reset()
	r.in, r.now, r.panic = in, now, ""
	h.courier.deliver(r)
	r.in = nil
	r.unoffer()
}

// offerNumber gives a node that is not named the number that it gets if it
// becomes so.
func (h *host) offerNumber(r *resident) {
	if !r.state.Named {
		r.state.Ordinal = proto.MakeOrdinal(h.next, h.partition)
	}
}

// unoffer takes the number back that a node was offered and did not take, so
// that it is not stored.
func (r *resident) unoffer() {
	if !r.state.Named {
		r.state.Ordinal = 0
	}
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
	now.Named, now.Device, now.Ordinal, now.Exit = before.Named, before.Device, before.Ordinal, before.Exit
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

// keep moves the effects of a step into the batch's outcome. gen is the
// generation that the node had before.
func (h *host) keep(r *resident, gen uint32) {
	fx := &h.fx
	if fx.Duplicate {
		h.out.Repeated++
	}
	if fx.Created {
		h.out.Named = append(h.out.Named, Named{r.state.Ordinal, r.node, r.identity})
		h.next++
		r.identity = ""
	}
	if fx.Exit != 0 {
		h.out.Exits = append(h.out.Exits, Exit{fx.Exit, r.node})
	}
	h.bytes += bitBytes * len(fx.Bits)
	for _, b := range fx.Bits {
		h.out.Bits = append(h.out.Bits, segments.BitDelta{Key: b.Key, Client: b.Client, Ordinal: r.state.Ordinal, Set: b.Set})
	}
	h.keepBlocks(r, gen, fx.Blocks)
	h.tellUser(r)
	r.transient = r.transient && !fx.Changed
	if fx.Changed && !r.dirty {
		r.dirty = true
		h.bytes += stateBytes + r.size
		h.dirty = append(h.dirty, r)
	}
	r.published = r.published || fx.Published
}

func (h *host) keepBlocks(r *resident, gen uint32, blocks []identity.Block) {
	for _, b := range blocks {
		h.bytes += len(b.Data)
		h.out.Blocks = append(h.out.Blocks, NodeBlock{r.node, gen, b})
		// One that is deleted, and later sealed anew, must not be read.
		r.sealed = slices.DeleteFunc(r.sealed, func(s sealedBlock) bool {
			return s.batch <= h.committed || s.Client == b.Client && s.Number == b.Number
		})
		if b.Data != nil {
			r.sealed = append(r.sealed, sealedBlock{h.batch, b})
		}
	}
}

// tellUser notes whose user the node is of, where that changed.
func (h *host) tellUser(r *resident) {
	root := userOf(r)
	if root != r.root {
		r.root = root
		h.out.Users = append(h.out.Users, UserChange{r.state.Ordinal, root})
	}
}

func userOf(r *resident) graph.Hash {
	if s := &r.state; s.Named && s.Follows {
		return s.Graph.RootOf(r.node.Hash)
	}
	return graph.Hash{}
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
			for data, err := range h.source.Blocks(r.node, r.state.Gen(), client, first, stored) {
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
		h.store(r)
		if r.published {
			out.Views = append(out.Views, NodeView{r.node, r.state.View()})
		}
		r.dirty, r.published, r.batch = false, false, h.batch
	}
	if len(h.dirty) > 0 {
		h.unsettled = append(h.unsettled, settling{h.batch, h.dirty})
		h.dirty = nil
	}
	h.storeTombs()
	out.Next = h.next
	h.passivate()
	return out
}

// store adds what is to be stored of a resident to the outcome.
func (h *host) store(r *resident) {
	s, out := &r.state, h.out
	gen, dark := s.Gen(), s.Dark()
	if gen != 1 && r.exists() {
		h.noteGeneration(r, gen, dark)
	}
	h.storeCopies(r)
	was := r.stored
	switch {
	case !r.exists():
		r.value, r.stored = []byte{}, 0
	case dark:
		r.value, r.stored, r.storedDark = []byte{}, 0, true
		out.Darks = append(out.Darks, DarkPut{r.node, s.Graph.Append(nil)})
	default:
		h.encoded = s.Append(h.encoded[:0])
		r.value, r.stored = append(make([]byte, 0, len(h.encoded)), h.encoded...), gen
		out.Puts = append(out.Puts, Put{r.node, gen, r.value})
	}
	r.size = len(r.value)
	if was != 0 && was != r.stored {
		out.Puts = append(out.Puts, Put{Node: r.node, Gen: was})
	}
	if r.storedDark && !dark {
		r.storedDark = false
		out.Darks = append(out.Darks, DarkPut{Node: r.node})
	}
}

// storeCopies adds the copies of members that changed.
func (h *host) storeCopies(r *resident) {
	slices.SortFunc(r.copies, func(a, b graph.Hash) int { return slices.Compare(a[:], b[:]) })
	for _, peer := range slices.Compact(r.copies) {
		x := CopyPut{Node: r.node, Member: peer}
		if s := &r.state; s.Graph != nil {
			if c := s.Graph.Copy(peer); c != nil {
				x.Value = c.Append(nil)
			}
		}
		h.out.Copies = append(h.out.Copies, x)
	}
	r.copies = r.copies[:0]
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

// load reads a node: as it was never cut, or as its identity's opt-out says.
func (h *host) load(r *resident) error {
	var members []graph.Hash
	decode := func(v []byte) (err error) {
		r.size = len(v)
		members, err = r.state.Decode(v)
		return err
	}
	found, err := h.source.Node(r.node, 1, decode)
	if err == nil && found {
		r.stored = 1
	} else if err == nil {
		err = h.loadLater(r, decode)
	}
	for i := 0; i < len(members) && err == nil; i++ {
		err = h.loadCopy(r, members[i])
	}
	r.root = userOf(r)
	return err
}

// loadLater reads a node that has no first generation.
func (h *host) loadLater(r *resident, decode func([]byte) error) error {
	r.state = identity.State{}
	o, err := h.readOptOut(r.node.Hash)
	if o == nil || err != nil {
		return err
	}
	n := o.Node(r.node.Space)
	if n == nil {
		r.meet(o)
		return nil
	}
	found := false
	if n.Dark {
		r.state.Graph, r.storedDark = &graph.State{}, true
		found, err = h.source.Dark(r.node, func(v []byte) error { _, err := r.state.Graph.Decode(v); return err })
	} else {
		r.stored = n.Gen
		found, err = h.source.Node(r.node, n.Gen, decode)
	}
	if err == nil && !found {
		err = proto.Errorf(proto.CodeCorrupt, "generation %d of a node is missing: restore a backup", n.Gen)
	}
	return err
}

func (h *host) loadCopy(r *resident, member graph.Hash) error {
	found, err := h.source.Copy(r.node, member, func(v []byte) error { return r.state.Graph.AddCopy(member, v) })
	if err == nil && !found {
		err = proto.Errorf(proto.CodeCorrupt, "a root's copy of a member is missing: restore a backup")
	}
	return err
}

// step runs the identity's pure step; a panic is caught into the slot.
func (r *resident) step() {
	defer func() {
		if p := recover(); p != nil {
			r.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	h := r.host
	if g := r.group; g != nil {
		h.stepper.StepGraph(h.limits, r.node, &r.state, g.In, r.now, &g.Effects, &h.fx)
		return
	}
	h.stepper.Step(&r.state, r.in, r.now, &h.fx)
}
