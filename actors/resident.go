package actors

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// resident is an active identity. It is the slot too: the message that its
// actor receives and, afterwards, the reply.
type resident struct {
	node     proto.Node
	identity proto.Identity // of a node that has no ordinal yet
	state    identity.State
	host     *host
	address  *actor.PID    // the courier's, of the identity's actor
	process  actor.Process // what that address is found to be

	stored     uint32     // the generation under which the store has, or will have, it; 0: none
	storedDark bool       // the store has what is left of it
	transient  bool       // its state follows from its identity's opt-out alone
	root       graph.Hash // of its user, as last told; zero: its own
	copies     []graph.Hash
	networks   []networkRow // that the store has, or will have; sorted

	batch     uint64 // the last that changed it
	value     []byte // as of that batch, until it is committed; empty: gone
	size      int    // of the last value
	done      int    // its last input of batch doneIn: index in host.done plus 1
	doneIn    uint64
	dirty     bool
	published bool
	sealed    []sealedBlock // of batches that may not be committed yet

	alike        *resident // in the directory
	older, newer *resident
	touched      uint64    // the last batch that had to do with it
	used         time.Time // when that began

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

// resident finds the active identity, or makes one that warm activates.
func (h *host) resident(node proto.Node) *resident {
	r := h.active.get(&node)
	switch {
	case r == nil:
		r = h.vacant()
		r.node = node
		h.active.add(r)
		h.cold = append(h.cold, r)
	case r.touched == h.batch: // in a merge a node takes part in many supersteps
		return r
	default:
		r.unlink()
	}
	r.linkBefore(&h.lru) // newest
	r.touched, r.used = h.batch, h.began
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
	*r = resident{host: h, address: r.address, process: r.process, state: r.state, copies: r.copies[:0]}
	return r
}

// warm reads and activates the residents that are cold. Reading is most of the
// work of a batch that few were active for, and is shared by two.
func (h *host) warm() error {
	err := h.read()
	for _, r := range h.cold {
		if err == nil && r.address == nil {
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

func (h *host) readEach(list []*resident) (err error) {
	defer caught(&err) // here, so that a half waits for the other in any case
	for _, r := range list {
		if err := h.load(r); err != nil {
			return err
		}
	}
	return nil
}

// load reads a node: as it was never cut, or as its identity's opt-out says.
func (h *host) load(r *resident) error {
	var members []graph.Hash
	decode := func(v []byte) (err error) {
		r.size = len(v)
		members, err = r.state.Decode(v)
		return err
	}
	found, err := false, error(nil)
	if h.stored.MayHold(r.node.Hash) || h.earlier.Load().MayHold(r.node.Hash) {
		found, err = h.source.Node(r.node, 1, decode)
	}
	if err == nil && found {
		r.stored = r.state.Gen() // numbers of generations come round in keys
	} else if err == nil {
		err = h.loadLater(r, decode)
	}
	for i := 0; i < len(members) && err == nil; i++ {
		err = h.loadCopy(r, members[i])
	}
	r.root = userOf(r)
	r.networks = r.seenOn(nil)
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

// store adds what is to be stored of a resident to the outcome.
func (h *host) store(r *resident) {
	s, out := &r.state, h.out
	gen, dark := s.Gen(), s.Dark()
	if gen != 1 && r.exists() {
		h.noteGeneration(r, gen, dark)
	}
	h.storeCopies(r)
	h.storeNetworks(r)
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
		h.stored.Add(r.node.Hash)
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

func (r *resident) unlink() {
	r.older.newer, r.newer.older = r.newer, r.older
}

func (r *resident) linkBefore(x *resident) {
	r.older, r.newer = x.older, x
	r.older.newer, x.older = r, r
}

// passivate stops the least recently used above the bound, except those whose
// last change is not yet committed.
func (h *host) passivate() {
	for h.active.count > h.activeMax && h.passivateOldest() {
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
	h.active.remove(r)
	if len(h.idle) < idleMax {
		h.idle = append(h.idle, r)
	} else {
		h.courier.passivate(r)
	}
	return true
}

// sweepMax bounds one sweep of a host.
const sweepMax = 1024

// idleMax bounds the residents kept for use again.
const idleMax = 128

// sweep passivates what was not used for long. It runs before the batch's
// commands are prepared or after they were run, never between.
func (h *host) sweep() {
	if h.idleAfter == 0 || h.ran < len(h.tasks) {
		return
	}
	cutoff := h.began.Add(-h.idleAfter)
	for n := 0; n < sweepMax && h.active.count > 0 && h.lru.newer.used.Before(cutoff); n++ {
		if !h.passivateOldest() {
			return
		}
	}
}

// step runs the identity's pure step, with history where it needs that; a panic of
// either is caught into the slot.
func (r *resident) step() {
	defer func() {
		if p := recover(); p != nil {
			r.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	h := r.host
	if g := r.group; g != nil {
		h.stepper.StepGraph(h.limits, h.fences, r.node, &r.state, g.In, r.now, &g.Effects, &h.fx)
		return
	}
	if h.stepper.NeedsHistory(&r.state, r.in) {
		r.in.History = h.history(r)
	}
	h.stepper.Step(&r.state, r.in, r.now, &h.fx)
}
