package graph_test

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"kith/graph"
	"kith/proto"
)

// The simulated world is hostile: nodes stop, pause, forget and come back with
// an older state, relays repeat and lose, channels crawl, clocks differ and
// jump, answers are given under leases. All of it comes from one seed.

const (
	simSkew  = 15  // gateways' clocks differ by at most this from true time; operations are 10 apart
	simLease = 300 // by the holder's clock
	simDrift = 100 // clocks run at 1000 +- this per mille
)

type entryKind int

const (
	outsideEntry entryKind = iota
	channelEntry
	beatEntry
	tickEntry
)

// entry is one record of a lane's log.
type entry struct {
	kind     entryKind
	messages []graph.Message // outside
	from     int             // channel
	lo       uint64
	packed   [][]byte
	decoded  []graph.Batch
	node     int // beat
	inc      int
	number   int
	trim     []uint64
}

// batches decodes what another lane sent, once.
func (e *entry) batches(w *world) []graph.Batch {
	for i := len(e.decoded); i < len(e.packed); i++ {
		b, err := graph.DecodeBatch(e.packed[i], w.lanes)
		if err != nil {
			w.fail("WIRE: %v", err)
		}
		e.decoded = append(e.decoded, b)
	}
	return e.decoded
}

// laneLog is a lane's log with its two newest snapshots; what lies before the
// older one is purged.
type laneLog struct {
	entries   []*entry
	base      int
	snapshots []*image
	retired   []*image
}

// machine is a node with its own clock.
type machine struct {
	id                  int
	cut, paused         bool
	rate, offset, slept int
	inc                 int
	served              []*served
}

// served is a machine's replica of a lane and what it may answer.
type served struct {
	*replica
	leaseTo int         // local clock; 0: none
	sent    map[int]int // number of an own beat -> when it was sent
	seen    map[int]int // machine -> when its newest beat was applied
	cursor  []uint64    // by destination: relayed up to here
}

type flight struct {
	lane int
	e    *entry
}

// bar is the wait of an acknowledgement for one lane's lease holders.
type bar struct {
	server, inc int
	deadline    map[int]int
	done        bool
}

// pendingAck is a receipt on its way to the client.
type pendingAck struct {
	i      id
	gen    uint32
	vector []proto.Offset
	bars   []bar
}

type world struct {
	seed, lanes, supersteps int
	batchBytes              int
	config                  graph.Config
	laneOf                  [proto.Partitions]proto.LaneID
	rng                     *rand.Rand
	logs                    []*laneLog
	heads                   []*replica
	machines                []*machine
	now                     int
	air                     []flight
	beats                   int
	slow                    [2]int // this channel crawls
	crawl                   int
	ops                     []op
	n                       int // identities
	vouchers                int // clients that link; 0: each operation has one of its own
	ledger
	models  map[id]*model
	pending []*pendingAck
	client  map[id]uint32 // newest cut generation whose receipt the client has
	err     error
	stats   *simStats
}

type simStats struct {
	entries, messages, sent, ops, cuts, acks, optIns, erases, everywhere, refused, restores, stale, flaps, gaps, carries, leaseWaits, linked, unlinked, revoked int
}

func (a *simStats) add(b *simStats) {
	a.entries += b.entries
	a.messages += b.messages
	a.sent += b.sent
	a.ops += b.ops
	a.cuts += b.cuts
	a.acks += b.acks
	a.optIns += b.optIns
	a.erases += b.erases
	a.everywhere += b.everywhere
	a.refused += b.refused
	a.restores += b.restores
	a.stale += b.stale
	a.flaps += b.flaps
	a.gaps += b.gaps
	a.carries += b.carries
	a.leaseWaits += b.leaseWaits
	a.linked += b.linked
	a.unlinked += b.unlinked
	a.revoked += b.revoked
}

func (w *world) lane(i id) int          { return int(w.laneOf[i.hash().Partition()]) }
func (w *world) local(m *machine) int   { return m.offset + (w.now-m.slept)*m.rate/1000 }
func (w *world) append(l int, e *entry) { w.logs[l].entries = append(w.logs[l].entries, e) }
func (w *world) headNode(i id) *simNode { return w.heads[w.lane(i)].load(i) }
func (w *world) fail(f string, a ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("seed %d lanes %d: %s", w.seed, w.lanes, fmt.Sprintf(f, a...))
	}
}

// headTo has the lane's head apply the log up to pos, and checks each entry.
func (w *world) headTo(l, pos int) {
	h := w.heads[l]
	for h.pos < pos && w.err == nil {
		acks := len(w.pending)
		h.apply(w.logs[l].entries[h.pos])
		w.stats.entries++
		w.stats.messages += h.out.Messages
		w.stats.sent += h.out.Sent
		if len(h.lane.Carry) > 0 {
			w.stats.carries++
		}
		for _, p := range w.pending[acks:] {
			p.vector = slices.Clone(h.lane.Vector)
			p.bars = make([]bar, w.lanes)
		}
		w.check(h)
	}
}

// stepApply has a machine apply some entries.
func (w *world) stepApply(m *machine, l int) {
	if m.cut || m.paused {
		return
	}
	r, log := m.served[l], w.logs[l]
	if r.pos < log.base {
		w.restore(m, l)
	}
	if r.pos >= len(log.entries) {
		if len(r.lane.Carry) > 0 && !w.tickUnderWay(l) {
			w.append(l, &entry{kind: tickEntry})
		}
		return
	}
	for k := 1 + w.rng.IntN(4); k > 0 && r.pos < len(log.entries) && w.err == nil; k-- {
		w.headTo(l, r.pos+1)
		e := log.entries[r.pos]
		r.apply(e)
		if e.kind == beatEntry {
			w.beatApplied(m, r, e)
		}
	}
}

func (w *world) tickUnderWay(l int) bool {
	e := w.logs[l].entries
	return len(e) > 0 && e[len(e)-1].kind == tickEntry && w.heads[l].pos < len(e)
}

// beatApplied renews the lease if the beat is this incarnation's own.
func (w *world) beatApplied(m *machine, r *served, e *entry) {
	r.seen[e.node] = w.local(m)
	if e.node != m.id {
		return
	}
	if at, ok := r.sent[e.number]; ok && e.inc == m.inc {
		r.leaseTo = max(r.leaseTo, at+simLease)
	}
}

// forget takes away what a process knows in memory only.
func (w *world) forget(m *machine, r *served) {
	r.leaseTo = 0
	r.sent = map[int]int{}
	r.seen = map[int]int{}
	for h := range r.beats {
		r.seen[h] = w.local(m)
	}
}

// restore brings a machine's replica back from a snapshot, or from nothing.
func (w *world) restore(m *machine, l int) {
	log, r := w.logs[l], m.served[l]
	if len(log.snapshots) > 0 {
		r.replica.restore(log.snapshots[w.rng.IntN(len(log.snapshots))])
	} else {
		r.replica = newReplica(w, l, false, r.rng)
	}
	w.forget(m, r)
	w.stats.restores++
}

// snapshot keeps an image and purges the log behind the older of two.
func (w *world) snapshot(m *machine, l int) {
	r, log := m.served[l], w.logs[l]
	if n := len(log.snapshots); n > 0 && r.pos <= log.snapshots[n-1].pos || r.pos < log.base || r.pos == 0 {
		return
	}
	log.snapshots = append(log.snapshots, r.image())
	if len(log.snapshots) > 2 {
		log.retired = append(log.retired, log.snapshots[0])
		log.snapshots = log.snapshots[1:]
	}
	if len(log.snapshots) == 2 {
		log.base = log.snapshots[0].pos
	}
}

// relay appends some of a machine's outbox to the other lane's log. All
// machines do, so that entries repeat; a cursor may be lost or run ahead.
func (w *world) relay(m *machine, from, to int, faulty bool) {
	crawls := from == w.slow[0] && to == w.slow[1]
	if m.cut || m.paused || from == to || faulty && crawls && w.rng.IntN(w.crawl) > 0 {
		return
	}
	r := m.served[from]
	c, out := &r.cursor[to], &r.lane.Outbox[to]
	known := m.served[to].lane.Applied[from]
	if *c > known && w.rng.IntN(3) == 0 {
		*c = known
	}
	*c = max(*c, out.Base)
	if *c >= out.Last() {
		if known < out.Last() {
			*c = max(known, out.Base)
		}
		return
	}
	if faulty {
		switch w.rng.IntN(12) {
		case 0: // a crash: rewind
			*c = out.Base + w.rng.Uint64N(*c-out.Base+1)
			return
		case 1: // a publish is lost, the pipeline goes on
			*c++
			w.stats.gaps++
			return
		}
	}
	lo, pack := out.Pack(*c+1, 1+w.rng.IntN(4))
	e := &entry{kind: channelEntry, from: from, lo: lo}
	for i := range pack {
		e.packed = append(e.packed, pack[i].Append(nil))
	}
	*c = lo + uint64(len(pack)) - 1
	w.append(to, e)
}

// beat sends a beat, which arrives later or never.
func (w *world) beat(m *machine, l int) {
	if m.paused || m.cut {
		return
	}
	w.beats++
	r := m.served[l]
	trim := make([]uint64, w.lanes)
	for d := range trim {
		if d != l {
			trim[d] = m.served[d].lane.Applied[l]
		}
	}
	r.sent[w.beats] = w.local(m)
	w.air = append(w.air, flight{l, &entry{kind: beatEntry, node: m.id, inc: m.inc, number: w.beats, trim: trim}})
}

// barriers is the lease rule: a receipt goes out when every lane that took
// part is past it on every machine that may answer.
func (w *world) barriers() {
	w.pending = slices.DeleteFunc(w.pending, func(p *pendingAck) bool {
		ok := true
		for l := range p.bars {
			ok = w.barrier(p, l) && ok
		}
		if ok {
			w.client[p.i] = max(w.client[p.i], p.gen)
			w.serving()
		}
		return ok
	})
}

// barrier reports whether lane l has passed the receipt for all.
func (w *world) barrier(p *pendingAck, l int) bool {
	b := &p.bars[l]
	if b.done || p.vector[l] == 0 {
		return true
	}
	s := w.machines[b.server]
	if b.deadline == nil || b.inc != s.inc || s.cut || s.paused {
		if !w.newServer(p, l) {
			return false
		}
		s = w.machines[b.server]
	}
	for h, t := range b.deadline {
		o := w.machines[h]
		if !o.cut && !o.paused && o.served[l].pos >= int(p.vector[l]) {
			delete(b.deadline, h)
		} else if w.local(s) > t {
			delete(b.deadline, h)
			w.stats.leaseWaits++
		}
	}
	b.done = len(b.deadline) == 0
	return b.done
}

// newServer has some machine that applied the position count the leases down.
func (w *world) newServer(p *pendingAck, l int) bool {
	b := &p.bars[l]
	b.deadline = nil
	b.server = w.rng.IntN(len(w.machines))
	s := w.machines[b.server]
	if s.cut || s.paused || s.served[l].pos < int(p.vector[l]) {
		return false
	}
	w.countDown(b, s, l)
	return true
}

// countDown gives each machine that may have a lease until it has surely run
// out, by s's clock.
func (w *world) countDown(b *bar, s *machine, l int) {
	b.server, b.inc, b.deadline = s.id, s.inc, map[int]int{}
	wait := simLease*(1000+simDrift)/(1000-simDrift) + 2
	for h := range s.served[l].beats {
		b.deadline[h] = s.served[l].seen[h] + wait
	}
}

// step lets one thing happen.
func (w *world) step(faulty bool) {
	w.now++
	if w.rng.IntN(60) == 0 {
		w.now += w.rng.IntN(150)
	}
	m := w.machines[w.rng.IntN(len(w.machines))]
	l := w.rng.IntN(w.lanes)
	switch k := w.rng.IntN(100); {
	case k < 50:
		w.stepApply(m, l)
	case k < 80:
		w.relay(m, l, w.rng.IntN(w.lanes), faulty)
	case k < 84:
		if faulty || w.rng.IntN(4) == 0 {
			w.beat(m, l)
		}
	case k < 90:
		w.land(faulty)
	case k < 92:
		w.snapshot(m, l)
	case k == 92 && faulty && w.rng.IntN(3) == 0:
		w.crash(m)
	case k < 95 && faulty:
		m.cut = !m.cut
	case k < 97 && faulty:
		m.paused = !m.paused
	default:
		w.barriers()
		w.serving()
	}
}

// land appends a beat that was in the air, or loses it.
func (w *world) land(faulty bool) {
	if len(w.air) == 0 {
		return
	}
	i := w.rng.IntN(len(w.air))
	if !faulty || w.rng.IntN(8) > 0 {
		w.append(w.air[i].lane, w.air[i].e)
	}
	w.air = slices.Delete(w.air, i, i+1)
}

// crash starts a machine's process anew, on its own disk or a snapshot.
func (w *world) crash(m *machine) {
	m.inc++
	for l, r := range m.served {
		if w.rng.IntN(2) == 0 {
			w.restore(m, l)
		} else {
			r.replica.restore(r.image())
		}
		w.forget(m, r)
		clear(r.cursor)
	}
}

// quiet reports whether nothing is under way any more.
func (w *world) quiet() bool {
	if len(w.pending) > 0 {
		return false
	}
	for l, log := range w.logs {
		h := w.heads[l]
		if h.pos < len(log.entries) || len(h.lane.Carry) > 0 {
			return false
		}
		for _, m := range w.machines {
			if m.served[l].pos < len(log.entries) {
				return false
			}
		}
		for d := range w.logs {
			if d != l && w.heads[d].lane.Applied[l] < h.lane.Outbox[d].Last() {
				return false
			}
		}
	}
	return true
}
