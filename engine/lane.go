package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gproto "google.golang.org/protobuf/proto"

	"kith/actors"
	"kith/engine/log"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// Bounds of one batch.
const (
	batchCommandsMax = 4096
	batchBytesMax    = store.BatchBytesMax
	entriesAheadMax  = 256 // read and not yet stepped
	producersMax     = 64
	exitsPerBeat     = 4096
	paceFrom         = 8    // after a batch of so many commands the next waits for more
	paceCommands     = 1024 // but not once it has so many
	// From the end of a batch the next waits for as long as that had commands, within
	// two bounds. So where more than 62,000 a second come, batches grow.
	batchPace    = 3 * time.Millisecond
	batchPaceMax = 10 * time.Millisecond
	commandPace  = 16 * time.Microsecond
)

// clampMs is how far an entry's time may lie beyond lane time: as far as
// gateways' clocks may be wrong (graph.Config.SkewMillis), and further than a
// lane is without a beat while its log elects a leader. Nearer, and what came
// later through a lane that lags would have the older evidence.
const clampMs = 15 * 1000

// lane is one log stream with the partitions it carries.
type lane struct {
	id         proto.LaneID
	node       *Node
	logger     *slog.Logger
	stream     log.Stream
	store      store.Store
	partitions []proto.PartitionID

	// The stepper's.
	shell     *actors.Shell
	rules     *laneRules
	fills     map[proto.SegmentKey]fillProgress // as of the entry under way
	exits     exitIndex
	record    *pb.LaneRecord
	batches   uint64
	pending   []*laneEntry // read, not yet stepped
	flight    []flight     // stepped, and not in the snapshot of the batch under way
	paced     time.Time    // when the last batch was gathered
	gathered  int          // commands that it had
	leases    leases
	agreement agreement
	letters   letters
	totals    aggregates
	spaces    []proto.SpaceID // in which there may be nodes; sorted

	graph    *graph.Lane
	outcome  graph.Outcome
	messages []graph.Message // scratch: of the entry under way
	received []graph.Message // from other lanes, of the entry under way
	changed  bool            // the graph's record must be written

	carryRows int // rows that the store has of what is carried over, beside the record

	reading context.Context              // ends when the lane is to stop
	fail    func(what string, err error) // quarantines the lane, unless err is nil or a cancellation

	// The committer's.
	journal journalState
	dropped uint32      // hours of exit records up to here are deleted
	noticed []noticeRef // notices in the store, oldest first
	tied    bool        // a batch of this start is durable
	given   bool        // the store was given a batch that is not published; to be read once ended is closed

	// Shared.
	// visible is held for writing while a commit is made visible, for reading by
	// who wants snapshot, bitmaps and progress of one commit. Look-ups and counts
	// do without.
	visible  sync.RWMutex
	bitmaps  *segments.Bitmaps
	users    userIndex
	outbox   outbox
	untold   feedRows
	held     heldHistories
	snapshot atomic.Pointer[laneSnapshot]
	entries  chan *laneEntry
	built    chan *batch
	commits  chan *batch
	inflight sync.WaitGroup // batches stepped and not yet published
	ended    chan struct{}  // closed once nothing is committed any more

	looked laneLook // expireOld's

	// Its own entries.
	producer uint64
	own      chan struct{} // one slot: held by who appends one
	ownSeq   uint64        // of who holds it
	nearer   chan struct{} // one slot: there is a reason for a beat sooner than was thought

	rebased      bool   // at this start
	base         uint64 // Base of the record
	logName      string // of the log that the numbers given are of
	from         proto.Offset
	progress     progress
	nextExit     atomic.Int64 // earliest due record in memory, 0 none
	active       atomic.Int64
	events       atomic.Uint64
	acknowledged atomic.Uint64 // the newest entry of intake that is durable
	filling      atomic.Int64  // how long the lane took for the last step of a fill
	fillBegan    time.Time     // the step under way; of the stepper alone
	since        atomic.Int64  // not after the oldest entry that is durable and not applied, if there is one; ms
	repeated     atomic.Uint64
	dead         atomic.Uint64
	unkept       atomic.Uint64 // of dead
	lettersKept  atomic.Int64  // how many letters there are, for others than the lane
	named        atomic.Int64  // nodes numbered; since the start, until surveyBeside has counted the others

	told atomic.Pointer[proto.Position] // what callers of intake were last given: one map for all that an entry carries

	journalBytes atomic.Int64
	graphed      graphMetrics
}

// laneEntry is a checked entry with its place in the log.
type laneEntry struct {
	*proto.Entry
	offset proto.Offset
	skip   bool // applied before: a retry
	replay bool // takes dead letters in again: must begin a batch, when all letters before are known
}

func newLaneEntry(e *proto.Entry, offset proto.Offset) *laneEntry {
	x := &laneEntry{Entry: e, offset: offset}
	for rest := e.Commands; len(rest) > 0 && !x.replay; {
		var c proto.Command
		c, rest, _ = proto.NextCommand(rest) // DecodeEntry has checked them
		x.replay = c.Kind == proto.CommandReplay
	}
	return x
}

// laneSnapshot is the store as of a batch, counted by its users.
type laneSnapshot struct {
	store.Snapshot
	batch uint64
	users atomic.Int64 // 1 for being the newest
}

// acquire gives the newest snapshot; release it.
func (l *lane) acquire() *laneSnapshot {
	for {
		s := l.snapshot.Load()
		if n := s.users.Load(); n > 0 && s.users.CompareAndSwap(n, n+1) {
			return s
		}
	}
}

func (s *laneSnapshot) release() {
	if s.users.Add(-1) == 0 {
		s.Release()
	}
}

func (l *lane) renewSnapshot(batch uint64) {
	s := &laneSnapshot{Snapshot: l.store.Snapshot(), batch: batch}
	s.users.Store(1)
	if old := l.snapshot.Swap(s); old != nil {
		old.release()
	}
}

// renewStopped lets go of the snapshots of lanes that commit nothing more, for newer
// ones: while a lane has one, the store keeps all that others replaced or deleted
// since. Of the lane itself the newer one has the same, for nobody else writes that,
// but for what was told to others and deleted. Not so after a commit that failed once
// the store was given it: it must not be seen before all else of it is, so that lane
// keeps the snapshot from before it.
func (n *Node) renewStopped() {
	for _, l := range n.lanes {
		select {
		case <-l.ended:
			if !l.given {
				l.renewSnapshot(l.snapshot.Load().batch)
			}
		default:
		}
	}
}

// read feeds checked entries to the stepper until ctx ends. An error means
// quarantine, except ctx's own.
func (l *lane) read(ctx context.Context) error {
	defer close(l.entries)
	for {
		err := l.stream.Read(ctx, l.from, func(r log.Record) error {
			e, err := proto.DecodeEntry(r.Data, l.id)
			if err != nil {
				return err
			}
			l.from = r.Offset + 1
			select {
			case l.entries <- newLaneEntry(e, r.Offset+proto.Offset(l.base)):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if ctx.Err() != nil || proto.CodeOf(err) != proto.CodeUnavailable {
			return l.overtaken(ctx, err)
		}
		l.logger.Warn("log cannot be read, trying again", "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errOvertaken is of a running node that a restart mends: it finds the log out of reach
// then, and takes a copy.
var errOvertaken = proto.Errorf(proto.CodeUnavailable, "this node was overtaken by the log's retention: it was so slow that the owner of the lane purged what it had yet to read. Restart it: it takes a copy of another node's store")

// overtaken says of an error of reading whether it is that of a node of a cluster which
// the log does not lead on from any more; of a node alone nothing else has what is gone.
func (l *lane) overtaken(ctx context.Context, err error) error {
	if l.node.config.Peers == nil || proto.CodeOf(err) != proto.CodeCorrupt {
		return err
	}
	info, unknown := l.stream.Info(ctx)
	if unknown != nil || l.from >= info.First || logNameOf(info.Created.UnixNano()) != l.logName {
		return err
	}
	l.logger.Error("the log was purged before it was read", "read_up_to", l.from-1, "log_begins_at", info.First, "error", err)
	return errOvertaken
}

// step applies entries in batches until the entries end or one cannot be
// applied.
func (l *lane) step(ctx context.Context) error {
	defer close(l.built)
	for {
		l.gather()
		if len(l.pending) == 0 {
			return nil
		}
		b, err := l.stepBatch()
		if err != nil {
			return err
		}
		l.inflight.Add(1)
		select {
		case l.built <- b:
		case <-ctx.Done():
			l.inflight.Done()
			return ctx.Err()
		}
	}
}

// gather waits for an entry, then takes what else is there, up to a batch.
// Where batches follow one another closely it waits a little for more: a
// commit costs two syncs, which intake waits for too, however small it is.
func (l *lane) gather() {
	if len(l.pending) == 0 {
		e, ok := <-l.entries
		if !ok {
			return
		}
		l.pending = append(l.pending, e)
	}
	commands := 0
	for _, e := range l.pending {
		commands += e.Count
	}
	pace := time.NewTimer(max(batchPace, min(batchPaceMax, time.Duration(l.gathered)*commandPace)) - time.Since(l.paced))
	defer pace.Stop()
	for more := true; more && commands < batchCommandsMax; {
		var n int
		n, more = l.next(l.gathered >= paceFrom && commands < paceCommands, pace.C)
		commands += n
	}
	l.paced, l.gathered = time.Now(), commands
}

// next takes another entry to the pending ones, if there is one or, where it
// may wait, one comes before pace does.
func (l *lane) next(wait bool, pace <-chan time.Time) (commands int, ok bool) {
	var e *laneEntry
	select {
	case e, ok = <-l.entries:
	default:
		if !wait {
			return 0, false
		}
		select {
		case e, ok = <-l.entries:
		case <-pace:
		}
	}
	if !ok {
		return 0, false
	}
	l.pending = append(l.pending, e)
	return e.Count, true
}

// stepBatch applies pending entries, whole, and leaves those that would make
// the batch too large.
func (l *lane) stepBatch() (*batch, error) {
	l.batches++
	snap := l.acquire()
	l.flight = slices.DeleteFunc(l.flight, func(f flight) bool { return f.number <= snap.batch })
	b := &batch{number: l.batches, lane: l}
	b.source = snap
	defer func() { b.source.release(); b.source = nil }()
	l.shell.Begin(b.number, snap.batch, source{snap})
	for len(l.pending) > 0 && !b.full {
		n, err := l.stretch(b)
		if err != nil {
			return nil, err
		}
		b.full = b.full || l.shell.Bytes() > batchBytesMax
		l.pending = l.pending[n:]
	}
	outs, err := l.shell.Collect()
	if err != nil {
		return nil, err
	}
	b.outcomes = outs
	l.flight = append(l.flight, flight{b.number, outs})
	return b, l.finish(b)
}

// stretch applies the entries up to and with the next one for the lane itself.
func (l *lane) stretch(b *batch) (int, error) {
	b.commands.Reset()
	n, base := 0, len(b.offsets)
	for n < len(l.pending) {
		if l.pending[n].replay && base+n > 0 {
			if b.full = true; n == 0 {
				return 0, nil
			}
			break
		}
		if isLane, err := l.split(b, l.pending[n], base+n); err != nil {
			return 0, err
		} else if isLane {
			break
		}
		n++
	}
	if n == 0 {
		return l.laneEntry(b, l.pending[0])
	}
	if err := l.shell.Prepare(&b.commands); err != nil {
		return 0, err
	}
	for i, e := range l.pending[:n] {
		if err := l.runEntry(b, e); err != nil {
			return 0, err
		}
		if l.shell.Bytes() > batchBytesMax {
			return i + 1, nil
		}
	}
	return n, nil
}

// drained makes the store and the bitmaps be as the log has them up to here:
// at the beginning of a batch it waits until all before is published. Later in
// a batch it is false.
func (l *lane) drained(b *batch) bool {
	if len(b.offsets) > 0 {
		return false
	}
	l.inflight.Wait()
	b.source.release()
	b.source = l.acquire()
	l.shell.Begin(b.number, b.source.batch, source{b.source})
	return true
}

// tellNextExit lets the timekeeper know of the earliest exit record.
func (l *lane) tellNextExit() {
	next := int64(l.exits.next())
	if old := l.nextExit.Swap(next); next != 0 && (old == 0 || next < old) {
		l.beatSooner()
	}
}

// beatSooner has the timekeeper look again.
func (l *lane) beatSooner() {
	select {
	case l.nearer <- struct{}{}:
	default:
	}
}

// numbersSpare is more than the nodes that one batch numbers: a lane stops before a
// number is given twice, which would be another identity's memberships.
const numbersSpare = 1 << 20

// finish seals the batch's lane record.
func (l *lane) finish(b *batch) error {
	for i, o := range b.outcomes {
		if o.Next > proto.LocalMax-numbersSpare {
			return proto.Errorf(proto.CodeTooLarge, "partition %d has numbered %d identities, and numbers are not used again: this lane takes nothing more in", o.Partition, o.Next)
		}
		l.record.NextOrdinal[o.Partition] = b.outcomes[i].Next
		b.exits = append(b.exits, o.Exits...)
	}
	if err := l.changeLetters(b); err != nil {
		return err
	}
	l.finishGraph(b)
	l.keepMoves(b)
	if list := l.shell.TakeExits(); len(list) > 0 {
		l.exits.add(list)
	}
	l.tellNextExit()
	l.active.Store(int64(l.shell.Active()))
	l.record.Journal++
	b.journal = l.record.Journal
	if err := l.addTallies(b); err != nil {
		return err
	}
	rec, err := gproto.MarshalOptions{Deterministic: true}.Marshal(l.record)
	if err != nil {
		panic(fmt.Sprintf("lane record: %v", err)) // cannot fail: no required fields, no invalid UTF-8
	}
	b.record = rec
	b.control = l.record.Control
	b.laneTime, b.now = proto.Millis(l.record.LaneTimeMs), proto.Millis(l.record.NowMs)
	b.chain = l.record.Chain
	if l.exits.loaded == 0 {
		b.fired = 0 // not known before the first beat: some may be overdue
	} else if b.fired = b.laneTime; l.exits.next() != 0 {
		b.fired = min(b.fired, l.exits.next())
	}
	return nil
}
