package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"kith/actors"
	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// This file is the ledger of opt-outs: every opt-out, opt-in and erasure, by
// keyed hash, on a stream of its own of which nothing is deleted. A restore of
// an older backup needs it. Nothing is acknowledged to whoever opts out before
// it is there. Final opt-outs go to the feed as well, for downstream systems;
// they may come twice there.
//
// A ledger record is: version 1 or 2 | lanes, each the offset up to which all of
// the lane's opt-outs were told before this record | opt-outs, each: hash (16) |
// gen | time (varint, ms). Gen is identity.OptOut.Gen: odd is out. In version 2,
// which the nodes of a cluster write, the offsets are those with this record. A
// message of the feed is lines of JSON.
//
// In a cluster a lane's owner tells what the lane has to tell. The others keep
// theirs until they read in the ledger that it was told: whoever owns the lane
// next goes on from there.

const (
	ledgerVersion = 1
	ledgerShared  = 2
)

const (
	// noticesPerRecord bounds a record, and is from how many notices no further entry of
	// a lane is told with those before: of one that has more there are several records;
	// linesPerMessage bounds a message of the feed.
	noticesPerRecord = 2048
	linesPerMessage  = 2048
	// ledgerPoll is after how long what waits for another lane is looked at again.
	ledgerPoll = 50 * time.Millisecond
	// ledgerTries is how often other nodes may write first, with a pause each.
	ledgerTries = 500
	ledgerPause = 10 * time.Millisecond
)

// notice is one thing to tell the ledger or, if final, the feed. In the store
// it is: version 1 | flags (1 final) | hash (16) | gen | time | the cut.
type notice struct {
	at     proto.Offset // the entry that it is of
	number uint32       // in the batch
	final  bool
	hash   proto.IdentityHash
	gen    uint32
	time   proto.Millis
	cut    identity.Cut // if final
}

func appendNotices(list []notice, o *actors.Outcome) []notice {
	for _, t := range o.Turned {
		list = append(list, notice{at: t.Offset, hash: t.Hash, gen: t.Gen, time: t.Time})
	}
	for _, f := range o.Finals {
		list = append(list, notice{at: f.Offset, final: true, hash: f.Hash, gen: f.Cut.Gen - 1, time: f.Cut.Time, cut: f.Cut})
	}
	return list
}

func (x *notice) append(b []byte) []byte {
	b = append(b, ledgerVersion, byte(flag(x.final)))
	b = append(b, x.hash[:]...)
	b = binary.AppendUvarint(b, uint64(x.gen))
	b = proto.AppendVarint(b, int64(x.time))
	if x.final {
		b = x.cut.Append(b)
	}
	return b
}

func decodeNotice(b []byte) (x notice, err error) {
	r := proto.NewReader(append([]byte(nil), b...))
	version, flags := r.Byte(), r.Byte()
	x = notice{final: flags == 1, hash: r.Hash(), gen: uint32(r.Uvarint()), time: proto.Millis(r.Varint())}
	if x.final {
		x.cut = identity.ReadCut(&r)
	}
	if version != ledgerVersion || flags > 1 || r.Bad() || r.Len() != 0 {
		return x, proto.Errorf(proto.CodeCorrupt, "an opt-out that is to be told to the ledger is malformed")
	}
	return x, nil
}

// noticeRef is a stored notice.
type noticeRef struct {
	at     proto.Offset
	number uint32
}

// ledgerEntry is one opt-out, opt-in or erasure.
type ledgerEntry struct {
	hash proto.IdentityHash
	gen  uint32
	time proto.Millis
}

// ledgerRecord is one record of the ledger.
type ledgerRecord struct {
	shared  bool           // the marks hold with this record
	marks   []proto.Offset // by lane
	entries []ledgerEntry
}

func (x *ledgerRecord) append(b []byte) []byte {
	version := byte(ledgerVersion)
	if x.shared {
		version = ledgerShared
	}
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(x.marks)))
	for _, m := range x.marks {
		b = binary.AppendUvarint(b, uint64(m))
	}
	b = binary.AppendUvarint(b, uint64(len(x.entries)))
	for _, e := range x.entries {
		b = append(b, e.hash[:]...)
		b = binary.AppendUvarint(b, uint64(e.gen))
		b = proto.AppendVarint(b, int64(e.time))
	}
	return b
}

// ofRestore reports whether it is what markRestored writes.
func (x *ledgerRecord) ofRestore() bool {
	return !x.shared && len(x.entries) == 0 && len(x.marks) > 0 && !slices.ContainsFunc(x.marks, func(m proto.Offset) bool { return m > 0 })
}

func decodeLedger(b []byte) (x ledgerRecord, err error) {
	r := proto.NewReader(b)
	version := r.Byte()
	for range r.Count(1) {
		x.marks = append(x.marks, proto.Offset(r.Uvarint()))
	}
	for range r.Count(18) {
		x.entries = append(x.entries, ledgerEntry{r.Hash(), uint32(r.Uvarint()), proto.Millis(r.Varint())})
	}
	x.shared = version == ledgerShared
	if version != ledgerVersion && !x.shared || r.Bad() || r.Len() != 0 {
		return x, proto.Errorf(proto.CodeCorrupt, "a record of the opt-out ledger has version %d or is malformed: this build reads versions %d and %d", version, ledgerVersion, ledgerShared)
	}
	return x, nil
}

// told is an entry's notices.
type told struct {
	lane proto.LaneID
	list []notice
}

func (t *told) at() proto.Offset { return t.list[0].at }

// ledger writes notices of all lanes, in the order in which they were committed:
// what is final comes after all that it waited for, of whatever lane.
type ledger struct {
	node   *Node
	stream log.ControlStream
	feed   log.ControlStream

	mu      sync.Mutex
	waiting []told // in the order of the commits
	pending map[proto.IdentityHash]int
	marks   []proto.Offset               // by lane: told up to here
	ends    map[log.ControlStream]uint64 // last sequence, where it is known; the writer's
	wake    chan struct{}                // one slot
	told    chan struct{}                // closed and replaced after each record
	written uint64                       // opt-outs in the ledger since the start
	read    uint64                       // of a cluster's: the newest record whose marks are among ours
}

func newLedger(n *Node, stream, feed log.ControlStream) *ledger {
	return &ledger{
		node: n, stream: stream, feed: feed, marks: make([]proto.Offset, n.config.Lanes),
		pending: map[proto.IdentityHash]int{}, ends: map[log.ControlStream]uint64{}, wake: make(chan struct{}, 1), told: make(chan struct{}),
	}
}

// open reads how far the ledger is. In a cluster whoever leads the stream may go
// meanwhile: then it is read again for a while.
func (x *ledger) open(ctx context.Context) error {
	return x.node.config.patiently(ctx, func() error { return x.readMarks(ctx) })
}

// begin is open where the marks that were read before mean nothing any more.
func (x *ledger) begin(ctx context.Context) error {
	clear(x.marks)
	return x.open(ctx)
}

func (x *ledger) readMarks(ctx context.Context) error {
	last, err := x.stream.Last(ctx)
	x.read = last
	if err != nil || last == 0 {
		return err
	}
	return readStream(ctx, x.stream, last, last, func(raw []byte) error {
		r, err := decodeLedger(raw)
		x.marks = latest(x.marks, r.marks)
		return err
	})
}

// refill writes the ledger of a node alone anew if it is empty but the store knows of
// cuts: its stream was lost, and without them a restore would bring back who opted out.
// All records but the last have no marks, so that one that was broken off is known.
func (x *ledger) refill(ctx context.Context) error {
	last, err := x.stream.Last(ctx)
	if err != nil || x.node.config.Peers != nil {
		return err
	}
	broken := false
	err = readStream(ctx, x.stream, max(last, 1), last, func(raw []byte) error {
		r, err := decodeLedger(raw)
		broken = len(r.marks) == 0
		return err
	})
	if err != nil || last > 0 && !broken {
		return err
	}
	entries, err := x.stored()
	if err != nil || len(entries) == 0 && !broken {
		return err
	}
	x.node.logger.Warn("the ledger of opt-outs is lost: it is written anew from the store. Keep a new copy of it (kith optouts export) and a new backup: it does not go on from that of older ones", "identities", len(entries))
	for ; len(entries) > noticesPerRecord; entries = entries[noticesPerRecord:] {
		part := ledgerRecord{entries: entries[:noticesPerRecord]}
		if last, err = x.stream.Append(ctx, part.append(nil), last); err != nil {
			return err
		}
	}
	rest := ledgerRecord{marks: make([]proto.Offset, x.node.config.Lanes), entries: entries}
	_, err = x.stream.Append(ctx, rest.append(nil), last)
	return err
}

// stored is what the store knows of cuts, without those that are told anyway.
func (x *ledger) stored() (list []ledgerEntry, err error) {
	untold := x.untold()
	snap := x.node.store.Snapshot()
	defer snap.Release()
	err = snap.Scan([]byte{'T'}, []byte{'T'}, func(k, v []byte) (bool, error) {
		var o identity.OptOut
		if err := o.Decode(v); err != nil {
			return false, err
		}
		if h := proto.IdentityHash(k[2:]); o.Gen > untold[h] {
			list = append(list, ledgerEntry{h, o.Gen, o.Since})
		}
		return true, nil
	})
	return list, err
}

// untold is what waits to be written to the ledger: the newest generation of each.
func (x *ledger) untold() map[proto.IdentityHash]uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	newest := map[proto.IdentityHash]uint32{}
	for _, t := range x.waiting {
		for i := range t.list {
			if n := &t.list[i]; !n.final {
				newest[n.hash] = max(newest[n.hash], n.gen)
			}
		}
	}
	return newest
}

// readStream gives the records from first to last.
func readStream(ctx context.Context, s log.ControlStream, first, last uint64, fn func([]byte) error) error {
	if first > last {
		return nil
	}
	err := s.Read(ctx, first, func(r log.Record) error {
		if err := fn(r.Data); err != nil {
			return err
		}
		if uint64(r.Offset) >= last {
			return errStop
		}
		return nil
	})
	if err == errStop {
		return nil
	}
	return err
}

// expect notes notices that are about to be seen by readers: from then on they
// are waited for.
func (x *ledger) expect(list []notice) {
	if len(list) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range list {
		x.pending[list[i].hash]++
	}
}

// add takes a batch's notices, which were expected, in the order of entries.
func (x *ledger) add(lane proto.LaneID, list []notice) {
	if len(list) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].at == list[0].at {
			n++
		}
		x.waiting = append(x.waiting, told{lane, list[:n:n]})
		list = list[n:]
	}
	x.rouse()
}

// rouse has the writer look again.
func (x *ledger) rouse() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// mark is up to where all of a lane is told.
func (x *ledger) mark(lane proto.LaneID) proto.Offset {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.marks[lane]
}

// await returns when nothing of an identity is still to be told.
func (x *ledger) await(ctx context.Context, h proto.IdentityHash) error {
	return await(ctx, "the ledger was not written in time", func() (bool, <-chan struct{}, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.pending[h] == 0, x.told, nil
	})
}

// counts gives what was written since the start, and what waits.
func (x *ledger) counts() (written uint64, waiting int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.waiting {
		waiting += len(x.waiting[i].list)
	}
	return x.written, waiting
}

// write tells what waits, until ctx ends.
func (x *ledger) write(ctx context.Context) {
	for {
		changed := x.node.ownersChanged()
		if !x.tell(ctx) {
			var later <-chan time.Time
			if _, waiting := x.counts(); waiting > 0 { // for another lane to be applied
				later = time.After(ledgerPoll)
			}
			select {
			case <-x.wake:
			case <-changed:
			case <-later:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// follow reads what other nodes tell, until ctx ends.
func (x *ledger) follow(ctx context.Context) {
	next := x.readUpTo() + 1
	for {
		err := x.stream.Read(ctx, next, func(raw log.Record) error {
			r, err := decodeLedger(raw.Data)
			if err != nil {
				return err
			}
			next = uint64(raw.Offset) + 1
			x.heard(&r, uint64(raw.Offset))
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		x.node.logger.Warn("the opt-out ledger cannot be read, trying again", "error", err)
		if !pause(ctx, relayRetry) {
			return
		}
	}
}

func (x *ledger) readUpTo() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.read
}

// heard takes up to where lanes are told.
func (x *ledger) heard(r *ledgerRecord, at uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.shared {
		x.marks = latest(x.marks, r.marks)
	}
	x.read = max(x.read, at)
	x.rouse()
}

// latest gives the greater of each; it changes neither.
func latest(a, b []proto.Offset) []proto.Offset {
	list := slices.Clone(a)
	for i := range min(len(a), len(b)) {
		list[i] = max(a[i], b[i])
	}
	return list
}

// tell writes one record, if there is anything to write.
func (x *ledger) tell(ctx context.Context) bool {
	taken, mine := x.gather()
	if len(taken) == 0 {
		return false
	}
	type step struct {
		what string
		do   func() error
	}
	// The others are asked for what this node says it has applied, which it does a moment
	// after it gave what there is to tell.
	steps := []step{{"opt-outs are not told: what they are of is not applied", func() error { return x.node.shows(ctx, taken) }}}
	if forgotten(taken) { // nothing of the graph waits for what was made of a client's events
		steps = append(steps, step{"erasures by a client are not told: what is under way between lanes is not applied", func() error { return x.node.allHandedOver(ctx) }})
	}
	if x.node.config.Peers != nil && len(mine) > 0 { // whoever reads what is told may answer by it
		steps = append(steps, step{"opt-outs are not final: other nodes do not say that they have applied them", func() error { return x.node.othersSettled(ctx) }})
	}
	steps = append(steps,
		step{"opt-outs cannot be written to the ledger", func() error { return x.append(ctx, mine) }},
		step{"opt-outs are not answered: what is under way between lanes is not applied, or cannot be deleted", func() error { return x.node.cleanOutboxes(ctx) }})
	for _, step := range steps {
		for tries := 0; ; tries++ {
			err := step.do()
			if err == nil {
				break
			}
			if tries == 0 && ctx.Err() == nil {
				x.node.logger.Warn(step.what+", trying again", "error", err)
			}
			if !pause(ctx, relayRetry) {
				return false
			}
		}
	}
	x.done(taken)
	return true
}

// forgotten reports whether a client's erasure is among what is to be told.
func forgotten(list []told) bool {
	return slices.ContainsFunc(list, func(t told) bool {
		return slices.ContainsFunc(t.list, func(n notice) bool { return n.final && n.cut.Kind == proto.CutForget })
	})
}

// shows returns when all that is to be told is among what this node has applied.
func (n *Node) shows(ctx context.Context, list []told) error {
	for _, t := range list {
		if err := n.lanes[t.lane].progress.wait(ctx, func(p *progress) bool { return p.applied >= t.at() }); err != nil {
			return err
		}
	}
	return nil
}

// gather gives what comes next, without taking it away: what one record holds,
// and of that what is for this node to tell. What another node's lanes have to
// tell is among it once that is told. Each lane's is in order; one lane waits for
// another only if a cut was in both.
func (x *ledger) gather() (taken, mine []told) {
	x.mu.Lock()
	defer x.mu.Unlock()
	shared := x.node.config.Peers != nil
	var first, after []proto.Offset
	if shared {
		first, after = x.untaken()
	}
	stuck := map[proto.LaneID]bool{} // lanes of which something was not taken
	size := 0
	for i, t := range x.waiting {
		if size >= noticesPerRecord {
			break
		}
		if stuck[t.lane] {
			continue
		}
		heard := shared && t.at() <= x.marks[t.lane]
		if shared && !heard && !(x.node.lanes[t.lane].owns() && x.inOrder(t, first)) {
			stuck[t.lane] = true
			continue
		}
		if !heard {
			mine = append(mine, t)
			if shared {
				first[t.lane] = after[i]
			}
		}
		taken = append(taken, t)
		size += len(t.list)
	}
	return taken, mine
}

// untaken gives by lane the first entry with something that nobody told, 0 if there is
// none, and of each that waits the next such entry of its lane. It is called with x.mu held.
func (x *ledger) untaken() (first, after []proto.Offset) {
	first, after = make([]proto.Offset, len(x.marks)), make([]proto.Offset, len(x.waiting))
	for i, t := range slices.Backward(x.waiting) {
		if t.at() > x.marks[t.lane] {
			after[i], first[t.lane] = first[t.lane], t.at()
		}
	}
	return first, after
}

// inOrder reports whether all that final cuts waited for in other lanes is told
// or among what is taken, where first is what is not, by lane. It is called with x.mu held.
func (x *ledger) inOrder(t told, first []proto.Offset) bool {
	for i := range t.list {
		for lane, at := range t.list[i].cut.Vector {
			id := proto.LaneID(lane)
			if id == t.lane || at == 0 || !t.list[i].final {
				continue
			}
			applied, _, _, _ := x.node.lanes[id].progress.get()
			if applied < at || first[id] > 0 && first[id] <= at {
				return false
			}
		}
	}
	return true
}

// append writes notices to the ledger and the feed. Of a node that is alone
// both at once: the record's marks are those of before, so that after a crash
// both are told again. In a cluster others go by the marks, which hold with the
// record; so the feed is written first.
func (x *ledger) append(ctx context.Context, batches []told) error {
	if len(batches) == 0 {
		return nil
	}
	shared := x.node.config.Peers != nil
	x.mu.Lock()
	r := ledgerRecord{marks: slices.Clone(x.marks)}
	x.mu.Unlock()
	upTo := make([]proto.Offset, len(r.marks)) // told with this record
	var finals [][]byte
	for _, t := range batches {
		upTo[t.lane] = t.at()
		for i := range t.list {
			n := &t.list[i]
			if !n.final {
				r.entries = append(r.entries, ledgerEntry{n.hash, n.gen, n.time})
				continue
			}
			line, err := x.feedLine(n)
			if err != nil {
				return err
			}
			if line != nil {
				finals = append(finals, line)
			}
		}
	}
	if shared {
		if err := x.appendFeed(ctx, finals); err != nil {
			return err
		}
		for len(r.entries) > noticesPerRecord { // the marks hold with the last record
			if err := x.appendShared(ctx, r.entries[:noticesPerRecord], nil); err != nil {
				return err
			}
			r.entries = r.entries[noticesPerRecord:]
		}
		return x.appendShared(ctx, r.entries, upTo)
	}
	var feed, ledger error
	var wait sync.WaitGroup
	ends := [2]uint64{x.ends[x.feed], x.ends[x.stream]}
	wait.Go(func() {
		for lines := range slices.Chunk(finals, linesPerMessage) {
			if ends[0], feed = appendLast(ctx, x.feed, bytes.Join(lines, nil), ends[0]); feed != nil {
				return
			}
		}
	})
	for entries := range slices.Chunk(r.entries, noticesPerRecord) {
		part := ledgerRecord{marks: r.marks, entries: entries}
		if ends[1], ledger = appendLast(ctx, x.stream, part.append(nil), ends[1]); ledger != nil {
			break
		}
	}
	wait.Wait()
	x.ends[x.feed], x.ends[x.stream] = ends[0], ends[1]
	return errors.Join(feed, ledger)
}

// appendFeed puts lines at the end of the feed, to which other nodes write too.
// What is not known to have come is written again: it may be there twice.
func (x *ledger) appendFeed(ctx context.Context, list [][]byte) error {
	for lines := range slices.Chunk(list, linesPerMessage) {
		body := bytes.Join(lines, nil)
		for {
			last, err := x.feed.Last(ctx)
			if err != nil {
				return err
			}
			if _, err = x.feed.Append(ctx, body, last); err == nil {
				break
			}
			if proto.CodeOf(err) != proto.CodeConflict {
				return err
			}
		}
	}
	return nil
}

// appendShared puts a record at the end of a cluster's ledger. It follows what
// was read, so that the marks of one record are never behind those before.
func (x *ledger) appendShared(ctx context.Context, entries []ledgerEntry, upTo []proto.Offset) error {
	for tries := 0; ; tries++ {
		x.mu.Lock()
		r := ledgerRecord{shared: true, marks: latest(x.marks, upTo), entries: entries}
		last := x.read
		x.mu.Unlock()
		at, err := x.stream.Append(ctx, r.append(nil), last)
		if err == nil {
			x.heard(&r, at)
			return nil
		}
		if proto.CodeOf(err) != proto.CodeConflict || tries == ledgerTries || !pause(ctx, ledgerPause) {
			return err
		}
	}
}

// appendLast puts a record at the end of a stream that nobody else writes. last
// is the stream's last sequence, 0 if it must be asked for; it gives the new one.
func appendLast(ctx context.Context, s log.ControlStream, raw []byte, last uint64) (uint64, error) {
	if last == 0 {
		var err error
		if last, err = s.Last(ctx); err != nil {
			return 0, err
		}
	}
	seq, err := s.Append(ctx, raw, last)
	if err != nil && log.Ambiguous(err) {
		if now, err2 := s.Last(ctx); err2 == nil && now > last {
			return now, nil
		}
	}
	if err != nil {
		return 0, err
	}
	return seq, nil
}

// feedRecord is one line of the feed.
type feedRecord struct {
	IdentityHMAC string    `json:"identity_hmac"`
	IdentityHash string    `json:"identity_hash"`
	Action       string    `json:"action"`
	Generation   uint32    `json:"generation"`
	Time         time.Time `json:"time"`
}

// feedLine is a line of the feed, nil for what one client forgot: that is its own
// affair.
func (x *ledger) feedLine(n *notice) ([]byte, error) {
	if n.cut.Kind == proto.CutForget {
		return nil, nil
	}
	raw, err := json.Marshal(feedRecord{
		IdentityHMAC: x.node.signer.mac(n.hash), IdentityHash: hex.EncodeToString(n.hash[:]), Action: actionOf(n.cut.Kind),
		Generation: n.cut.Gen, Time: n.cut.Time.Time(),
	})
	if err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "encode a line of the feed: %w", err)
	}
	return append(raw, '\n'), nil
}

// done takes what was told away and tells whoever waits for it. Of a lane it is
// what waits first.
func (x *ledger) done(taken []told) {
	x.mu.Lock()
	defer x.mu.Unlock()
	marks := slices.Clone(x.marks)
	upTo := map[proto.LaneID]proto.Offset{}
	for _, t := range taken {
		marks[t.lane] = max(marks[t.lane], t.at())
		upTo[t.lane] = t.at()
		x.finish(t.list)
	}
	x.waiting = slices.DeleteFunc(x.waiting, func(t told) bool { return t.at() <= upTo[t.lane] })
	x.marks = marks
	close(x.told)
	x.told = make(chan struct{})
}

func (x *ledger) finish(list []notice) {
	for i := range list {
		h := list[i].hash
		if x.pending[h]--; x.pending[h] == 0 {
			delete(x.pending, h)
		}
		if list[i].final {
			x.node.answers.finish(list[i].hash, list[i].cut)
		} else {
			x.written++
		}
	}
}

// loadNotices reads what is still to be told.
func (l *lane) loadNotices(snap store.Snapshot) error {
	var list []notice
	mark := l.node.ledger.mark(l.id)
	prefix := laneKey(l.id, 'u')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		n, err := decodeNotice(v)
		if err != nil || len(k) != 15 {
			return false, proto.Errorf(proto.CodeCorrupt, "an opt-out that is to be told to the ledger is malformed: %w", err)
		}
		n.at, n.number = proto.Offset(binary.BigEndian.Uint64(k[3:])), binary.BigEndian.Uint32(k[11:])
		l.noticed = append(l.noticed, noticeRef{n.at, n.number})
		if n.at > mark {
			list = append(list, n)
		}
		return true, nil
	})
	l.node.ledger.expect(list)
	l.node.ledger.add(l.id, list)
	return err
}

// dropNotices deletes the rows of what was told, and notes those of a batch.
func (l *lane) dropNotices(w *writer, b *batch) {
	if len(l.noticed) > 0 {
		mark, n := l.node.ledger.mark(l.id), 0
		for n < len(l.noticed) && n < deletesPerCommit && l.noticed[n].at <= mark {
			w.delete(noticeKey(l.id, l.noticed[n].at, l.noticed[n].number))
			n++
		}
		l.noticed = l.noticed[n:]
	}
	for i := range b.notices {
		l.noticed = append(l.noticed, noticeRef{b.notices[i].at, b.notices[i].number})
	}
}
