package actors

import (
	"iter"
	"slices"
	"sync/atomic"
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
	gone      func(proto.ClientID) bool
	kept      func(proto.ClientID) proto.Retention
	told      func(proto.ClientID, proto.SegmentKey) (proto.SegmentID, bool)

	active  directory
	cold    []*resident // in active, not yet read
	idle    []*resident // passivated, for use again
	lru     resident    // ring; lru.newer is the least recently used
	next    uint32      // local part of the next ordinal
	spaces  []proto.SpaceID
	tombs   map[graph.Hash]*tomb // opt-outs that were looked at or changed; see tomb
	everCut *Filter
	stored  Filter                 // the identities of nodes that it had stored
	earlier atomic.Pointer[Filter] // and of those stored before; nil while it is not known of whom

	// of the batch under way
	batch     uint64
	began     time.Time
	committed uint64 // batches up to here are in source
	source    Source
	tasks     []task
	ran       int // tasks[:ran] were run
	entry     Entry
	messages  []graph.Message // for the graph, of the entry under way
	erasing   []erasing       // of the entry under way
	dirty     []*resident
	stepping  []*resident      // by group of the superstep under way
	fences    []graph.Fence    // of the node that takes its group in
	done      []redo           // inputs taken in by this batch, to be taken in again after a panic
	encoded   []byte           // scratch
	bytes     int              // estimate of what the batch writes
	taken     int              // of out.Exits
	tallied   map[TallyKey]int // in out.Tallies
	lastTally int
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

// courier takes an input to an identity and returns when it was taken in: as
// a message to its actor, or by a direct call.
type courier interface {
	activate(r *resident)
	deliver(r *resident)
	passivate(r *resident)
}

func newHost(p proto.PartitionID, c Config, next uint32, courier courier) *host {
	h := &host{
		partition: p, hasher: c.Hasher, stepper: identity.NewStepper(c.Rules),
		activeMax: max(c.ActiveMax/proto.Partitions, 1), courier: courier, idleAfter: c.ActiveIdle,
		active: newDirectory(), next: next, limits: c.Limits, tombs: map[graph.Hash]*tomb{},
		spaces: slices.Clone(c.Spaces), gone: c.Gone, kept: c.Kept, told: c.Told, tallied: map[TallyKey]int{},
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

// bitBytes is what a bit costs in the journal, moveBytes what a move does in the
// store.
const (
	bitBytes  = 8
	moveBytes = 64
)

// fail is a fault of the host, which keeps its first.
func (h *host) fail(err error) {
	if h.fault == nil {
		h.fault = err
	}
}

// begin starts a batch.
func (h *host) begin(batch, committed uint64, source Source, began time.Time) {
	h.batch, h.committed, h.source, h.began = batch, committed, source, began
	h.out = &Outcome{Partition: h.partition}
	h.bytes, h.taken, h.done = 0, 0, h.done[:0]
	clear(h.tallied)
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

// waiting is how many tasks of an entry are to be run next.
func (h *host) waiting(entry int) int {
	n := h.ran
	for n < len(h.tasks) && h.tasks[n].entry == entry {
		n++
	}
	return n - h.ran
}

// run takes in the tasks of one entry and gives the digest of their effects.
func (h *host) run() (digest uint64) {
	for h.ran < len(h.tasks) && h.tasks[h.ran].entry == h.entry.Index && h.fault == nil {
		t := &h.tasks[h.ran]
		h.ran++
		digest = h.perform(t, digest)
	}
	clear(h.erasing)
	h.erasing = h.erasing[:0]
	return digest
}

// step lets an identity take a task's input in.
func (h *host) step(t *task, digest uint64) uint64 {
	r := t.r
	stranger := false
	if t.kind == proto.CommandEvent {
		t.in.Event, stranger = &t.event, r.state.Client(t.in.Client) == nil
	}
	h.take(r, &t.in, h.entry.Now)
	if r.panic != "" {
		h.bury(t)
		return mix(digest, 1, uint64(t.index))
	}
	h.redo(r, redo{kind: t.kind, body: t.body, in: t.in, now: h.entry.Now})
	if t.kind == proto.CommandEvent {
		h.out.Events++
		h.tally(t, stranger)
		if !h.fx.Duplicate { // it linked when it came first, and may have been parted since
			h.linkOthers(t)
		}
	}
	if h.fx.Created {
		t.name()
	}
	h.keep(r, r.state.Gen())
	h.refresh(r)
	digest = h.digest(digest, r)
	if t.kind == proto.CommandEvent || t.kind == proto.CommandTraits {
		h.spare(r, t.in.Client)
	}
	return digest
}

// take lets the identity take one input in.
func (h *host) take(r *resident, in *identity.Input, now proto.Millis) {
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
	if h.told != nil && len(fx.Bits) > 0 {
		h.keepMoves(r)
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

// keepMoves notes which of a step's bits a client asked to be told of.
func (h *host) keepMoves(r *resident) {
	for _, b := range h.fx.Bits {
		if id, ok := h.told(b.Client, b.Key); ok {
			h.out.Moves = append(h.out.Moves, Move{h.entry.Offset, h.entry.Now, b.Client, id, r.node.Hash, b.Set})
			h.bytes += moveBytes
		}
	}
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
		h.out.Users = append(h.out.Users, UserChange{r.state.Ordinal, root, root == r.node.Hash})
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
