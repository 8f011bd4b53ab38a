package engine

import (
	"context"
	"sync"
	"sync/atomic"

	"kith/proto"
)

// Bounds of the upkeep that rides on commits.
const (
	checkpointBytes  = 8 << 20 // of journal, then bitmap chunks are written
	checkpointCount  = 4096    // journal keys, then likewise
	chunksPerCommit  = 64
	deletesPerCommit = 1024
	sealChunks       = 256
)

// progress tells readers how far a lane is published.
type progress struct {
	mu       sync.Mutex
	applied  proto.Offset
	control  uint64
	laneTime proto.Millis
	now      proto.Millis // of the last entry: no evidence that the lane took is newer
	chain    uint64
	fault    error
	beats    int // applied since the start
	fills    map[proto.SegmentKey]fillProgress
	erasures map[proto.ClientID]clientErasure
	received []uint64      // by lane: newest graph batch applied from there
	carry    bool          // graph messages are left for the next entry
	changed  chan struct{} // closed and replaced at every change
	faulted  chan struct{} // closed once there is a fault
	reached  atomic.Uint64 // applied, without the lock: intake reads it for each event
	obeyed   atomic.Uint64 // control, without the lock: look-ups read it
}

func (p *progress) set(fn func(p *progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(p)
	p.reached.Store(uint64(p.applied))
	p.obeyed.Store(p.control)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *progress) get() (applied proto.Offset, control uint64, laneTime proto.Millis, fault error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied, p.control, p.laneTime, p.fault
}

func (p *progress) newest() proto.Millis {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// wait returns once done holds, or ctx ends, or the lane is quarantined.
func (p *progress) wait(ctx context.Context, done func(p *progress) bool) error {
	return await(ctx, "the log was not applied that far in time", func() (bool, <-chan struct{}, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return done(p), p.changed, p.fault
	})
}

// await looks again at each change until what it waits for is there, a fault
// makes it impossible, or ctx ends: then late says what was not in time.
func await(ctx context.Context, late string, look func() (done bool, changed <-chan struct{}, fault error)) error {
	for {
		done, changed, fault := look()
		if done {
			return nil
		}
		if fault != nil {
			return fault
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return proto.Errorf(proto.CodeTimeout, "%s: try again: %w", late, ctx.Err())
		}
	}
}

// commit gives built batches to the store and then makes them visible, until there are
// none. The store makes them durable some time later (see keep).
// After a failure nothing is committed any more: what the log holds stays
// there.
func (l *lane) commit() {
	failed := false
	for b := range l.commits {
		if failed {
			b.writes.Discard()
		} else if err := recovered(func() error { return l.commitBatch(b) }); err != nil {
			failed = true
			l.fail("committing", err)
		}
		l.inflight.Done()
	}
}

func (l *lane) commitBatch(b *batch) error {
	if err := l.node.disk.await(l.reading); err != nil {
		b.writes.Discard()
		return err
	}
	if err := l.upkeep(b); err != nil {
		b.writes.Discard()
		return err
	}
	l.given = true
	if err := l.keep(b); err != nil {
		return err
	}
	l.node.ledger.expect(b.notices)
	l.visible.Lock()
	defer l.visible.Unlock()
	l.renewSnapshot(b.number)
	l.bitmaps.Apply(b.bits)
	l.held.dropped(b.outcomes)
	l.dropVersions(b.dropped) // of which the batch may have set bits, before that
	l.publish(b)
	l.given = false
	return nil
}

// keep gives the store a batch. What it loses of them in a crash is read from the
// log again, so that none needs to be durable but the first: only with that the store
// knows where in the log it was when it was opened, if it was restored. And while the
// disk is nearly full nothing is left to be written later, when it may be full.
func (l *lane) keep(b *batch) error {
	if l.tied && !l.node.disk.low() {
		return b.writes.Apply()
	}
	if err := b.writes.Commit(); err != nil {
		return err
	}
	l.tied = true
	return nil
}

// dropVersions forgets the members of definitions that went: first that they
// were counted exactly, so that whoever counts them meanwhile notices.
func (l *lane) dropVersions(keys []proto.SegmentKey) {
	if len(keys) == 0 {
		return
	}
	l.progress.set(func(p *progress) {
		for _, k := range keys {
			delete(p.fills, k)
		}
	})
	for _, k := range keys {
		l.bitmaps.Drop(k)
	}
}

// publish lets readers see a committed batch.
func (l *lane) publish(b *batch) {
	for _, o := range b.outcomes {
		for i := range o.Turned {
			l.node.views.forget(o.Turned[i].Hash)
		}
		for i := range o.Views {
			l.node.views.publish(o.Views[i].Node, o.Views[i].View)
		}
		l.events.Add(uint64(o.Events))
		l.repeated.Add(uint64(o.Repeated))
		l.dead.Add(uint64(len(o.Dead)))
		l.named.Add(int64(len(o.Named) - len(o.Unnamed)))
		l.users.apply(o.Users)
	}
	l.unkept.Add(b.unkept)
	l.node.ledger.add(l.id, b.notices)
	l.outbox.add(b.sent)
	if b.moved {
		l.node.feeds.bell.ring()
	}
	l.graphed.add(&b.graph)
	l.node.answers.decide(b.decisions)
	l.since.Store(int64(b.newest))
	replaced := false
	l.progress.set(func(p *progress) {
		if n := len(b.offsets); n > 0 {
			p.applied = b.offsets[n-1]
		}
		p.control, p.laneTime, p.now, p.chain = b.control, b.laneTime, b.now, b.chain
		p.received, p.carry = b.taken, b.carry
		p.beats += b.beats
		replaced = l.leases.published(b.proofs, l.producer)
		for _, f := range b.fills {
			if _, ok := p.fills[f.key]; ok || f.next == 0 {
				p.fills[f.key] = f
			}
		}
		for _, x := range b.erasures {
			p.erasures[x.client] = x
		}
		for _, k := range b.dropped { // maybe of a definition in this very batch
			delete(p.fills, k)
		}
	})
	if replaced {
		l.giveWay()
	}
	l.agree(b.proofs)
	if len(b.fills) > 0 {
		l.node.fillEnded()
	}
	if b.carry {
		l.beatSooner()
	}
}

// upkeep adds a share of the checkpoint to a batch: dirty bitmap chunks, and
// once none is left, the deletion of the journal that they replace; and of
// exit records whose hour has passed.
func (l *lane) upkeep(b *batch) error {
	w := &writer{batch: b.writes}
	if b.logged > 0 {
		l.journal.bytes += b.logged
		l.journal.keys = append(l.journal.keys, journalEntry{b.journal, b.parts})
	}
	l.checkpoint(w, b.journal, chunksPerCommit)
	l.journalBytes.Store(int64(l.journal.bytes))
	l.dropExits(w, b.fired)
	l.dropNotices(w, b)
	return w.err
}

// journalEntry is one commit's part of the journal.
type journalEntry struct {
	number uint64
	parts  uint32
}

// journalState is the committer's knowledge of the journal.
type journalState struct {
	keys    []journalEntry // in the store, ascending
	bytes   int
	chunks  int    // dirty chunks still to be written for the checkpoint under way
	upTo    uint64 // the records that it replaces
	running bool
}

// checkpoint goes on with, or when it is time begins, folding the journal
// into bitmap chunks. now is the journal number of the batch that w belongs
// to, whose own bits are not in the bitmaps yet.
func (l *lane) checkpoint(w *writer, now uint64, chunksMax int) {
	j := &l.journal
	if !j.running {
		if j.bytes < checkpointBytes && len(j.keys) < checkpointCount {
			return
		}
		j.running, j.upTo, j.chunks = true, now-1, l.bitmaps.Dirty()
	}
	if j.chunks > 0 {
		taken := l.bitmaps.TakeDirty(min(chunksMax, j.chunks))
		for _, c := range taken {
			key := chunkKey(l.id, c.Client, c.Key, c.High)
			if len(c.Data) == 0 {
				w.delete(key)
			} else {
				w.set(key, c.Data)
			}
		}
		if j.chunks -= len(taken); j.chunks > 0 && len(taken) > 0 {
			return
		}
		j.chunks = 0
	}
	// The chunks in w and before hold everything up to upTo.
	n := 0
	for n < len(j.keys) && n < deletesPerCommit && j.keys[n].number <= j.upTo {
		for part := range j.keys[n].parts {
			w.delete(journalKey(l.id, j.keys[n].number, part))
		}
		n++
	}
	if j.keys = j.keys[n:]; len(j.keys) == 0 || j.keys[0].number > j.upTo {
		j.running, j.bytes = false, 0
	}
}

// dropExits deletes exit records of hours in which all have fired; each hour's
// are looked for once, an hour after.
func (l *lane) dropExits(w *writer, fired proto.Millis) {
	hour := hourOf(fired)
	if hour < 2 || l.dropped >= hour-2 {
		return
	}
	l.dropped = hour - 2
	snap := l.acquire()
	defer snap.release()
	n := 0
	err := snap.Scan(laneKey(l.id, 'x'), laneKey(l.id, 'x'), func(k, _ []byte) (bool, error) {
		if exitHour(k) > l.dropped {
			return false, nil
		}
		if n++; n > deletesPerCommit {
			l.dropped-- // the rest with the next commit
			return false, nil
		}
		w.delete(append([]byte(nil), k...))
		return true, nil
	})
	if w.err == nil {
		w.err = err
	}
}

// seal folds the whole journal into chunks, so that the next start is quick.
// Nothing else of the lane runs any more.
func (l *lane) seal() error {
	if l.stopped() || l.node.disk.stopped() {
		return nil // what is on disk is left as it is
	}
	j := &l.journal
	for len(j.keys) > 0 || l.bitmaps.Dirty() > 0 {
		j.running, j.upTo, j.chunks = true, ^uint64(0), l.bitmaps.Dirty()
		b := l.store.NewBatch()
		w := &writer{batch: b}
		l.checkpoint(w, 0, sealChunks)
		if w.err != nil {
			b.Discard()
			return w.err
		}
		if err := b.Apply(); err != nil { // it is closed next
			return err
		}
	}
	return nil
}
