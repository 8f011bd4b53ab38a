package engine

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// Simulated is a node whose goroutines are its caller: it applies, commits,
// relays and tells the ledger when it is told to, in one thread, by the same
// code as a Node. It is for engine/sim. To crash it, let go of it and open
// another one over the same log and store.
//
// It appends nothing to lanes by itself: what it would is given, so that the
// simulation can lose, repeat and reorder it.
type Simulated struct {
	*Node
	tell    func() (struct{}, bool) // goes on with what Tell began, nil if that is at its end
	endTell func()
}

// Simulate opens a simulated node over a log and a store in memory. judge is
// what identities are judged by, nil for the lanes' rules; tests break it.
func Simulate(c Config, lg log.Logs, st store.Store, secret [16]byte, judge func(identity.Rules) identity.Rules) (*Simulated, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := newNode(c, lg, st, secret)
	s := &Simulated{Node: n}
	ctx := context.Background()
	n.life, n.judge = ctx, judge
	if err := s.ReadControl(); err != nil {
		return nil, err
	}
	if err := n.checkGlobal(); err != nil {
		return nil, err
	}
	if err := n.ledger.open(ctx); err != nil {
		return nil, err
	}
	for id := range c.Lanes {
		l, err := n.openLane(ctx, proto.LaneID(id), nil)
		if err != nil {
			return nil, err
		}
		l.reading = ctx
		l.fail = func(what string, err error) { l.quarantine(what, err) }
		n.lanes = append(n.lanes, l)
		if err := l.survey(ctx, l.snapshot.Load()); err != nil {
			return nil, err
		}
	}
	n.ready.Store(true)
	return s, nil
}

// ReadControl takes in what the control stream has.
func (s *Simulated) ReadControl() error {
	ctx := context.Background()
	last, err := s.log.Control().Last(ctx)
	if err != nil {
		return err
	}
	for seq := s.registry.last() + 1; seq <= last; seq++ {
		err := readStream(ctx, s.log.Control(), seq, seq, func(raw []byte) error {
			c, err := proto.DecodeControl(raw)
			if err != nil {
				return err
			}
			return s.registry.take(seq, raw, c)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// CrashPoint is where an Apply stops as a crash would.
type CrashPoint int

// The crash points. After CrashStepped or CrashCommitted the node must be let
// go of.
const (
	NoCrash        CrashPoint = iota
	CrashStepped              // before the first commit
	CrashCommitted            // after the first commit, before anything of it is published
)

// Apply applies up to entriesMax entries that the lane's log has, in batches as
// a node makes them.
func (s *Simulated) Apply(id proto.LaneID, entriesMax int, crash CrashPoint) error {
	l := s.lanes[id]
	if _, _, _, fault := l.progress.get(); fault != nil {
		return fault
	}
	if err := l.fetch(context.Background(), entriesMax); err != nil {
		return err
	}
	for len(l.pending) > 0 {
		b, err := l.stepBatch()
		if err != nil {
			l.quarantine("applying the log", err)
			return err
		}
		b.writes = l.store.NewBatch()
		if err := b.fillWrites(); err != nil {
			return err
		}
		switch crash {
		case CrashStepped:
			b.writes.Discard()
			return nil
		case CrashCommitted:
			if err := l.upkeep(b); err != nil {
				return err
			}
			return l.keep(b)
		}
		if err := l.commitBatch(b); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads entries until so many are pending or the log ends.
func (l *lane) fetch(ctx context.Context, entriesMax int) error {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return err
	}
	for ; l.from <= info.Last && len(l.pending) < entriesMax; l.from++ {
		r, err := l.stream.Get(ctx, l.from)
		if err != nil {
			return err
		}
		e, err := proto.DecodeEntry(r.Data, l.id)
		if err != nil {
			return err
		}
		l.pending = append(l.pending, newLaneEntry(e, l.from+proto.Offset(l.base)))
	}
	return nil
}

// Applied is up to where a lane is applied.
func (s *Simulated) Applied(id proto.LaneID) proto.Offset {
	at, _, _, _ := s.lanes[id].progress.get()
	return at
}

// NextExit is when a lane next has something to do by time, 0 if never.
func (s *Simulated) NextExit(id proto.LaneID) proto.Millis {
	return proto.Millis(s.lanes[id].nextExit.Load())
}

// Obeyed is up to where a lane obeys the control stream.
func (s *Simulated) Obeyed(id proto.LaneID) uint64 {
	_, control, _, _ := s.lanes[id].progress.get()
	return control
}

// Chain is a lane's history up to where it is applied: equal logs give equal ones.
func (s *Simulated) Chain(id proto.LaneID) uint64 {
	p := &s.lanes[id].progress
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chain
}

// Fill is the next step through history that a lane wants, nil if there is none.
func (s *Simulated) Fill(id proto.LaneID) *proto.Fill {
	l := s.lanes[id]
	l.progress.mu.Lock()
	f, found := l.progress.openFill()
	l.progress.mu.Unlock()
	if !found {
		return nil
	}
	x := l.nextFill(f, fillStep)
	return &x
}

// Swap is the record that a node would propose next, nil if there is none: by
// what it has applied, all lanes have gone through history for a version that
// waits, and nothing is under way between them.
func (s *Simulated) Swap() *pb.Control {
	for _, l := range s.lanes {
		if !l.outbox.empty() || l.progress.carries() {
			return nil
		}
	}
	list, _ := s.registry.waiting()
	slices.SortFunc(list, func(a, b waiting) int { return cmp.Compare(a.key, b.key) })
	for _, w := range list {
		s.registry.mu.Lock()
		c := s.registry.swapOf(w, s.filledSince)
		s.registry.mu.Unlock()
		if c != nil {
			return c
		}
	}
	return nil
}

// Forget is the next step of a client's erasure that a lane wants, nil if there
// is none or it is too early for it.
func (s *Simulated) Forget(id proto.LaneID) *proto.Forget {
	l := s.lanes[id]
	l.progress.mu.Lock()
	x, ok := l.progress.openErasure()
	l.progress.mu.Unlock()
	if !ok {
		return nil
	}
	past, stop := context.WithCancel(context.Background()) // what is not so now is not waited for
	stop()
	if x.next == 0 && s.endedEverywhere(past, x.seq) != nil {
		return nil
	}
	step, err := l.nextForget(context.Background(), x)
	if err != nil {
		return nil
	}
	return &step
}

// Expire is a step that lets go of what is too old in a lane, nil if nothing is.
func (s *Simulated) Expire(id proto.LaneID) *proto.Expire {
	l := s.lanes[id]
	_, _, now, _ := l.progress.get()
	step, _, _, err := l.nextExpire(context.Background(), s.registry.retentions(), 0, now)
	if err != nil || len(step.Ordinals) == 0 {
		return nil
	}
	return &step
}

// Answer is what a node told of a command.
type Answer struct {
	Linked bool   // of a link or opt-in
	Reason string // why not
	Final  bool   // of a cut: its receipt may be given, with Vector
	Gen    uint32 // identity.Cut.Gen
	Vector []proto.Offset
}

// Expect has the node keep the answer to a command for whoever calls the result.
func (s *Simulated) Expect(command uint64) (answered func() (Answer, bool)) {
	ch := make(chan answer, 1)
	s.answers.mu.Lock()
	s.answers.waiting[command] = ch
	s.answers.mu.Unlock()
	return func() (Answer, bool) {
		select {
		case x := <-ch:
			a := Answer{Linked: x.decision.Linked, Final: x.final, Gen: x.cut.Gen, Vector: x.cut.Vector}
			if !x.final && !x.decision.Linked {
				a.Reason = x.decision.Reason.String()
			}
			return a, true
		default:
			return Answer{}, false
		}
	}
}

// BoundSupersteps makes messages of the graph be carried over to the next entry
// often. All nodes over a log need the same bound, from the start.
func (s *Simulated) BoundSupersteps(n int) {
	for _, l := range s.lanes {
		l.graph.BoundSupersteps(n)
	}
}

// Carries reports whether a lane wants a beat at once.
func (s *Simulated) Carries(id proto.LaneID) bool { return s.lanes[id].progress.carries() }

// Pack gives what the lane's relay sends to another one from batch lo on (0:
// from where the other lane is, by this node's knowledge), nil if there is
// nothing.
func (s *Simulated) Pack(from, to proto.LaneID, lo uint64) *proto.GraphPack {
	l := s.lanes[from]
	applied := s.lanes[to].progress.takenFrom(from)
	l.outbox.trim(to, applied)
	first, list, _ := l.outbox.pack(to, max(lo, applied+1))
	if len(list) == 0 {
		return nil
	}
	return &proto.GraphPack{From: from, First: first, Batches: slices.Clone(list)}
}

// Controls gives the control records that a lane does not obey yet.
func (s *Simulated) Controls(id proto.LaneID) [][]byte {
	_, obeyed, _, _ := s.lanes[id].progress.get()
	return s.registry.relayed(obeyed)
}

// Whole reports whether a copy of the store can be restored without the log: no
// lane has applied messages that another lane of this node has not sent yet,
// which a faster node did. Of one node alone that is always so.
func (s *Simulated) Whole() bool {
	for _, l := range s.lanes {
		for to, last := range l.outbox.last() {
			if s.lanes[to].progress.takenFrom(l.id) > last {
				return false
			}
		}
	}
	return true
}

// Tell goes on writing what waits to the ledger and the feed, as a node does: what that
// waits for, as lanes that are to apply what is on its way to them, is given the turn. It
// reports whether nothing waits any more. After one that is not at its end, End is
// called before the node is let go of.
func (s *Simulated) Tell() bool {
	if s.tell == nil {
		ctx, stop := context.WithCancel(context.Background())
		s.tell, s.endTell = iter.Pull(func(yield func(struct{}) bool) {
			defer stop()
			for s.ledger.tell(yielding{ctx, stop, yield}) {
			}
		})
	}
	for _, l := range s.lanes { // whoever waits looks again
		l.progress.set(func(*progress) {})
	}
	if _, waits := s.tell(); waits {
		return false
	}
	s.tell = nil
	return true
}

// End ends what Tell has begun, as a crash does.
func (s *Simulated) End() {
	if s.tell != nil {
		s.endTell()
	}
}

// yielding is a context with which a wait gives the turn back to who called Tell, who calls
// it again after a change that has all waits look again.
type yielding struct {
	context.Context
	stop  context.CancelFunc
	yield func(struct{}) bool // false: End
}

// Done is asked for by whoever is about to wait.
func (t yielding) Done() <-chan struct{} {
	if t.Err() == nil && !t.yield(struct{}{}) {
		t.stop()
	}
	return t.Context.Done()
}

// Trim lets go of graph messages that the other lanes have applied, and deletes
// their rows.
func (s *Simulated) Trim() error {
	for _, l := range s.lanes {
		for _, to := range s.lanes {
			l.outbox.trim(to.id, to.progress.takenFrom(l.id))
		}
	}
	return s.deleteGone()
}

// Seal folds journals into chunks, as a clean stop does.
func (s *Simulated) Seal() error {
	for _, l := range s.lanes {
		if err := l.seal(); err != nil {
			return err
		}
	}
	return nil
}

// BeginRestored makes a store that was copied earlier, and a new log with the
// control records of the old one, go on together as a restored backup does. It
// gives for each lane the commands that its log has to begin with, in rounds of
// which each needs entries of its own.
func BeginRestored(c Config, lg log.Logs, st store.Store, ledger [][]byte) ([][]proto.Batch, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return beginRestored(context.Background(), c, lg, st, ledger)
}
