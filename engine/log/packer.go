package log

import (
	"context"
	"slices"
	"sync"
	"time"

	"kith/proto"
)

// PackerConfig bounds a Packer. A zero field takes the value named.
type PackerConfig struct {
	Lane             proto.LaneID
	Producer         uint64        // chain number space: new at each start of the process
	EventsMax        int           // commands per entry: 512
	BytesMax         int           // bytes per entry: 256 KiB
	Linger           time.Duration // how long a started entry waits to fill: 2 ms
	InFlightMax      int           // entries that wait for their acknowledgement: 2
	Grow             int           // how many times larger an entry may be that cannot be sent yet: 4
	Gather           time.Duration // how long callers just answered are waited for: 1 ms, a fifth without a new one
	BufferedBytesMax int           // commands held in all: 64 MiB
	RetryMax         time.Duration // how long an entry of unknown outcome is settled, and an overtaken one sent again: 10 s
	Now              func() proto.Millis
}

func (c *PackerConfig) setDefaults() {
	orDefault(&c.EventsMax, 512)
	orDefault(&c.BytesMax, 256<<10)
	orDefault(&c.Linger, 2*time.Millisecond)
	orDefault(&c.InFlightMax, 2)
	orDefault(&c.Grow, 4)
	orDefault(&c.Gather, time.Millisecond)
	orDefault(&c.BufferedBytesMax, 64<<20)
	orDefault(&c.RetryMax, 10*time.Second)
	if c.Now == nil {
		c.Now = func() proto.Millis { return proto.MillisOf(time.Now()) }
	}
	c.EventsMax = min(c.EventsMax, proto.EntryCommandsMax)
	c.BytesMax = min(c.BytesMax, proto.EntryBytesMax)
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// PackerStats counts what a packer did since its start.
type PackerStats struct {
	Entries, Commands, Bytes uint64 // acknowledged
	Refused                  uint64 // submissions refused because the buffer was full
	Settled                  uint64 // entries whose append ended ambiguously
	Failed                   uint64 // entries that failed for good
	BufferedBytes, InFlight  int    // now
}

// Packer collects commands into entries and appends them to one lane: at once
// while the log is idle (but for Gather, when many callers were just answered
// and are about to come back: a synced entry costs the same for one as for
// all), else when an entry is full, has waited long enough,
// or an acknowledgement returns. Entries carry the chain numbers 1, 2, 3 … in
// the order of the log; a number whose entry failed, or was overtaken by a
// later one and so is sent again, is left out.
//
// An append of unknown outcome stops the packer until it is settled, so that
// no entry is stored twice or behind a later one.
type Packer struct {
	to     Appender
	c      PackerConfig
	wake   chan struct{} // one slot: something changed for the sender
	ended  chan struct{} // closed when the sender has returned
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	open     *pack   // being filled, nil if empty
	full     []*pack // waiting for a slot, oldest first
	flying   []*pack // appended, without an answer
	lost     []*pack // answered ambiguously, by chain number
	free     []*pack
	buffered int
	seq      uint64
	last     proto.Offset // newest acknowledged
	due      bool         // an acknowledgement returned: send what is there
	waiting  int          // submissions without an answer
	crowd    int          // how many of them there were lately, at most
	answered time.Time    // when an acknowledgement last returned
	arrived  time.Time    // when a submission last came
	closed   bool
	cutOff   bool // Close gave up waiting
	stats    PackerStats
}

// pack is an entry with the submissions that it carries.
type pack struct {
	commands []byte
	count    int
	subs     []share
	started  time.Time

	seq   uint64 // 0 until it is appended for the first time
	time  proto.Millis
	after proto.Offset // newest acknowledged offset when it was appended
	dead  bool         // given up by Close: a late answer is ignored
}

// submission is one call of Submit; mu of the packer guards it.
type submission struct {
	parts  int // not yet decided
	at     proto.Offset
	err    error
	failed []int // indexes of commands, by part and in no order of these
	done   func(proto.Offset, error)
}

// share is what a pack carries of a submission: count commands from first on.
type share struct {
	*submission
	first, count int
}

// PartialError is of a submission that took several entries of which some are
// durable.
type PartialError struct {
	Err    error        // why the others are not
	At     proto.Offset // the highest of those that are
	Failed []int        // indexes of the commands that are not, ascending
}

func (e *PartialError) Error() string { return e.Err.Error() }

// Unwrap gives why.
func (e *PartialError) Unwrap() error { return e.Err }

// NewPacker starts a packer in front of to. Close it.
func NewPacker(to Appender, c PackerConfig) *Packer {
	c.setDefaults()
	p := &Packer{to: to, c: c, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go p.send()
	return p
}

// Submit takes count commands that lie packed end to end, as by
// proto.AppendCommand, and copies them. done is called exactly once, with the
// highest offset, when all are durable, or with an error when some are not, a
// PartialError if others are; it must not block. If Submit itself returns an error (CodeOverloaded: the
// buffer is full), nothing was taken and done is never called.
//
// The commands of one submission stay together in one entry, unless they alone
// exceed the bounds of one.
func (p *Packer) Submit(commands []byte, count int, done func(proto.Offset, error)) error {
	var one [1]part // mostly it is one
	parts, err := p.split(one[:0], commands, count)
	if err != nil {
		return err
	}
	s := &submission{parts: len(parts), done: done}
	p.mu.Lock()
	defer p.mu.Unlock()
	begins := p.open == nil
	if p.closed {
		return proto.Errorf(proto.CodeUnavailable, "lane %s takes no more events: the node is stopping", p.c.Lane)
	}
	if p.buffered+len(commands) > p.c.BufferedBytesMax {
		p.stats.Refused++
		return proto.Errorf(proto.CodeOverloaded, "lane %s has %d bytes of events waiting for the disk: try again later", p.c.Lane, p.buffered)
	}
	first := 0
	for _, part := range parts {
		p.add(part, share{s, first, part.count})
		first += part.count
	}
	p.waiting++
	p.arrived = time.Now()
	// The sender looks when there is something new to decide, not at each of
	// a crowd.
	if p.full != nil || begins || p.waiting >= p.crowd {
		p.signal()
	}
	return nil
}

// part is a run of whole commands that fits into one entry.
type part struct {
	commands []byte
	count    int
}

// split checks the commands (a malformed one would quarantine the lane when
// it is read), cuts them at their borders into parts and appends these to parts.
func (p *Packer) split(parts []part, commands []byte, count int) ([]part, error) {
	if len(commands) > p.c.BufferedBytesMax {
		return nil, proto.Errorf(proto.CodeTooLarge, "%d bytes of events at once are too many: at most %d", len(commands), p.c.BufferedBytesMax)
	}
	cur, total := part{commands: commands}, 0
	taken := 0
	for rest := commands; len(rest) > 0; total++ {
		_, next, err := proto.NextCommand(rest)
		if err != nil {
			return nil, proto.Errorf(proto.CodeInternal, "a command to be logged is not valid: %w", err)
		}
		size := len(rest) - len(next)
		if size > proto.EntryBytesMax {
			return nil, proto.Errorf(proto.CodeTooLarge, "an event of %d bytes is too large: at most %d", size, proto.EntryBytesMax)
		}
		if cur.count == p.c.EventsMax || cur.count > 0 && taken+size > p.c.BytesMax {
			parts = append(parts, part{cur.commands[:taken], cur.count})
			cur, taken = part{commands: rest}, 0
		}
		cur.count++
		taken += size
		rest = next
	}
	if total != count || count == 0 {
		return nil, proto.Errorf(proto.CodeInternal, "%d commands were submitted as %d", total, count)
	}
	return append(parts, part{cur.commands[:taken], cur.count}), nil
}

// add puts one part into the open pack, or a new one; mu is held.
func (p *Packer) add(x part, s share) {
	events, bytes := p.limits()
	if o := p.open; o != nil && (o.count+x.count > events || len(o.commands)+len(x.commands) > bytes) {
		p.shut()
	}
	if p.open == nil {
		p.open = p.newPack()
	}
	o := p.open
	o.commands = append(o.commands, x.commands...)
	o.count += x.count
	o.subs = append(o.subs, s)
	p.buffered += len(x.commands)
	if o.count >= events || len(o.commands) >= bytes {
		p.shut()
	}
}

// limits bounds the open pack. While all slots are taken it cannot be sent,
// and each sync that it saves by growing is worth more than an early end: a
// disk under load takes several times as long to sync as an idle one.
func (p *Packer) limits() (events, bytes int) {
	events, bytes = p.c.EventsMax, p.c.BytesMax
	if len(p.flying) >= p.c.InFlightMax {
		events = min(events*p.c.Grow, proto.EntryCommandsMax)
		bytes = max(bytes, min(bytes*p.c.Grow, proto.EntryBytesMax*3/4))
	}
	return events, bytes
}

// shut moves the open pack behind the full ones.
func (p *Packer) shut() {
	p.full = append(p.full, p.open)
	p.open = nil
}

func (p *Packer) newPack() *pack {
	var k *pack
	if n := len(p.free); n > 0 {
		k, p.free = p.free[n-1], p.free[:n-1]
	} else {
		k = &pack{commands: make([]byte, 0, p.c.BytesMax/2)}
	}
	k.started = time.Now()
	return k
}

// recycle keeps a few packs for reuse; mu is held.
func (p *Packer) recycle(k *pack) {
	if len(p.free) > 2*p.c.InFlightMax || cap(k.commands) > 2*p.c.BytesMax*p.c.Grow {
		return
	}
	clear(k.subs)
	*k = pack{commands: k.commands[:0], subs: k.subs[:0]}
	p.free = append(p.free, k)
}

func (p *Packer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// send is the sender's goroutine: the only one that appends and settles.
func (p *Packer) send() {
	defer close(p.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		k, lost, wait, over := p.next()
		switch {
		case over:
			return
		case lost != nil:
			p.settle(lost)
			continue
		case k != nil:
			p.append(k)
			continue
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-p.wake:
		case <-timer.C:
		case <-p.ctx.Done():
			p.abandon()
			return
		}
	}
}

// next decides what the sender does: append a pack, settle a lost one, wait
// (at most wait, if that is set), or end.
func (p *Packer) next() (k, lost *pack, wait time.Duration, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lost) > 0 {
		if len(p.flying) > 0 {
			return nil, nil, 0, false // first know what became of the others
		}
		return nil, p.lost[0], 0, false
	}
	switch {
	case p.open == nil && len(p.full) == 0:
		return nil, nil, 0, p.closed && len(p.flying) == 0
	case len(p.flying) >= p.c.InFlightMax:
		return nil, nil, 0, false
	case len(p.full) > 0:
	case p.closed:
	case len(p.flying) > 0:
		if wait := p.c.Linger - time.Since(p.open.started); wait > 0 && !p.due {
			return nil, nil, wait, false
		}
	case p.waiting < p.crowd:
		now := time.Now()
		wait := p.c.Gather - min(now.Sub(p.open.started), now.Sub(p.answered))
		if wait = min(wait, p.c.Gather/5-min(now.Sub(p.arrived), now.Sub(p.answered))); wait > 0 {
			return nil, nil, wait, false
		}
	}
	return p.launch(), nil, 0, false
}

// launch gives the oldest pack its chain number; mu is held.
func (p *Packer) launch() *pack {
	if len(p.full) == 0 {
		p.shut()
	}
	k := p.full[0]
	p.full[0] = nil
	if p.full = p.full[1:]; len(p.full) == 0 {
		p.full = nil
	}
	p.seq++
	k.seq, k.time, k.after = p.seq, p.c.Now(), p.last
	p.flying = append(p.flying, k)
	p.due = false
	p.crowd = max(p.waiting, p.crowd-1-p.crowd/8)
	return k
}

func (p *Packer) entry(k *pack) *proto.Entry {
	return &proto.Entry{Lane: p.c.Lane, Producer: p.c.Producer, Seq: k.seq, Time: k.time, Count: k.count, Commands: k.commands}
}

func (p *Packer) append(k *pack) {
	err := p.to.AppendAsync(p.entry(k), func(at proto.Offset, err error) { p.answer(k, at, err) })
	if err != nil {
		p.answer(k, 0, err)
	}
}

// undecided reports whether an entry that met err is worth settling.
func undecided(err error) bool {
	return Ambiguous(err) || proto.CodeOf(err) == proto.CodeUnavailable
}

// answer takes the outcome of an append.
func (p *Packer) answer(k *pack, at proto.Offset, err error) {
	p.mu.Lock()
	if k.dead {
		p.mu.Unlock()
		return
	}
	p.flying = without(p.flying, k)
	if undecided(err) {
		p.stats.Settled++
		p.lost = insertBySeq(p.lost, k)
		p.mu.Unlock()
		p.signal()
		return
	}
	ready := p.decide(k, at, err)
	p.mu.Unlock()
	p.signal()
	tell(ready)
}

func without(ks []*pack, k *pack) []*pack {
	for i := range ks {
		if ks[i] == k {
			copy(ks[i:], ks[i+1:])
			ks[len(ks)-1] = nil
			return ks[:len(ks)-1]
		}
	}
	return ks
}

func insertBySeq(ks []*pack, k *pack) []*pack {
	ks = append(ks, k)
	for i := len(ks) - 1; i > 0 && ks[i].seq < ks[i-1].seq; i-- {
		ks[i], ks[i-1] = ks[i-1], ks[i]
	}
	return ks
}

// decide books the outcome of k and gives the submissions that are complete
// with it; mu is held.
func (p *Packer) decide(k *pack, at proto.Offset, err error) (ready []*submission) {
	p.buffered -= len(k.commands)
	p.due = p.open != nil
	p.answered = time.Now()
	p.crowd = max(p.crowd, p.waiting)
	if err != nil {
		p.stats.Failed++
	} else {
		p.last = max(p.last, at)
		p.stats.Entries++
		p.stats.Commands += uint64(k.count)
		p.stats.Bytes += uint64(len(k.commands))
	}
	for _, s := range k.subs {
		s.at = max(s.at, at)
		if s.err == nil {
			s.err = err
		}
		for i := 0; err != nil && i < s.count; i++ {
			s.failed = append(s.failed, s.first+i)
		}
		if s.parts--; s.parts == 0 {
			p.waiting--
			ready = append(ready, s.submission)
		}
	}
	if !k.dead {
		p.recycle(k)
	}
	return ready
}

// tell calls the submissions' callbacks, without the lock.
func tell(ready []*submission) {
	for _, s := range ready {
		at, err := s.at, s.err
		if err != nil && at > 0 {
			slices.Sort(s.failed)
			err = &PartialError{err, at, s.failed}
		}
		if err != nil {
			at = 0
		}
		s.done(at, err)
	}
}

// settle finds out about the oldest lost pack, with pauses, for RetryMax.
func (p *Packer) settle(k *pack) {
	ctx, cancel := context.WithTimeout(p.ctx, p.c.RetryMax)
	defer cancel()
	at, err := p.to.Settle(ctx, p.entry(k), k.after)
	for pause := 20 * time.Millisecond; undecided(err) && ctx.Err() == nil; pause = min(2*pause, settlePauseMax) {
		select {
		case <-time.After(pause):
			at, err = p.to.Settle(ctx, p.entry(k), k.after)
		case <-ctx.Done():
		}
	}
	overtaken := proto.CodeOf(err) == proto.CodeConflict
	if overtaken {
		err = proto.Errorf(proto.CodeUnavailable, "the events did not reach the log: send them again: %w", err)
	}
	p.mu.Lock()
	p.lost = without(p.lost, k)
	if overtaken && time.Since(k.started) < p.c.RetryMax {
		p.relaunch(k)
		p.mu.Unlock()
		return
	}
	ready := p.decide(k, at, err)
	p.mu.Unlock()
	tell(ready)
}

// relaunch has k sent again, as an entry of its own and before those that were
// never sent: a later entry is in the log, so k, as it was, never will be. Two
// entries are in flight when a cluster's stream changes its leader, and the
// first is lost with the old one while the second reaches the new one. mu is
// held.
func (p *Packer) relaunch(k *pack) {
	first := 0
	for first < len(p.full) && p.full[first].seq > 0 {
		first++
	}
	p.full = slices.Insert(p.full, first, k)
}

// Close takes no more submissions, appends what is there and waits for the
// answers. If ctx ends first, what is left fails with CodeUnavailable.
func (p *Packer) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.signal()
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.cancel()
		<-p.ended
	}
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cutOff {
		return proto.Errorf(proto.CodeTimeout, "lane %s was closed with events that were not acknowledged: %w", p.c.Lane, ctx.Err())
	}
	return nil
}

// abandon fails everything that is left.
func (p *Packer) abandon() {
	err := proto.Errorf(proto.CodeUnavailable, "the node stopped before the events were durable: %w", errAmbiguous)
	p.mu.Lock()
	p.closed, p.cutOff = true, true
	left := append(append(p.flying, p.lost...), p.full...)
	if p.open != nil {
		left = append(left, p.open)
	}
	p.flying, p.lost, p.full, p.open = nil, nil, nil, nil
	var ready []*submission
	for _, k := range left {
		k.dead = true
		ready = append(ready, p.decide(k, 0, err)...)
	}
	p.mu.Unlock()
	tell(ready)
}

// Stats is what the packer did so far.
func (p *Packer) Stats() PackerStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.BufferedBytes, s.InFlight = p.buffered, len(p.flying)
	return s
}
