package log

import (
	"context"
	"slices"
	"sync"
	"time"

	"kith/proto"
)

// Memory is a log in memory with the same behaviour as *Log, for tests and
// simulations. Nothing outlives it.
type Memory struct {
	lanes   []*memoryLane
	control *memoryControl
	ledger  *memoryControl
	feed    *memoryControl
	now     func() time.Time

	mu      sync.Mutex
	outlets map[proto.ClientID]*memoryStream
}

// NewMemory makes a log with that many lanes. now stamps records; nil: the
// wall clock.
func NewMemory(lanes int, now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	m := &Memory{
		now: now, outlets: map[proto.ClientID]*memoryStream{},
		control: &memoryControl{newMemoryStream("KITH_CTL", now)}, ledger: &memoryControl{newMemoryStream("KITH_OPTOUT", now)},
		feed: &memoryControl{newMemoryStream("KITH_OUT_OPTOUTS", now)},
	}
	for i := range lanes {
		id := proto.LaneID(i)
		m.lanes = append(m.lanes, &memoryLane{memoryStream: newMemoryStream(laneStreamName(id), now), id: id, seen: map[string]proto.Offset{}})
	}
	return m
}

// Lane is one lane's stream.
func (m *Memory) Lane(id proto.LaneID) Stream { return m.lanes[id] }

// Follow implements Logs.
func (m *Memory) Follow(_ context.Context, id proto.LaneID, at proto.Offset, known bool) error {
	s := m.lanes[id]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case at == 0 || s.follows == at:
		return nil
	case s.follows != 0 || s.last() > 0 && !known:
		return errFollowsOther(s.name)
	}
	s.follows = at
	return nil
}

// Control is the control stream.
func (m *Memory) Control() ControlStream { return m.control }

// Ledger is the stream of opt-outs.
func (m *Memory) Ledger() ControlStream { return m.ledger }

// Feed is the stream of final opt-outs for others.
func (m *Memory) Feed() ControlStream { return m.feed }

// Healthy is nil: nothing can fail.
func (m *Memory) Healthy() error { return nil }

// Close ends all reads.
func (m *Memory) Close() error {
	for _, l := range m.lanes {
		l.close()
	}
	m.control.close()
	m.ledger.close()
	m.feed.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.outlets {
		s.close()
	}
	return nil
}

type memoryStream struct {
	name    string
	now     func() time.Time
	created time.Time

	mu      sync.Mutex
	records []Record // records[i] has offset first+i
	first   proto.Offset
	bytes   uint64
	follows proto.Offset
	grown   chan struct{} // closed and replaced at each append
	closed  bool
}

func newMemoryStream(name string, now func() time.Time) *memoryStream {
	return &memoryStream{name: name, now: now, created: now(), first: 1, grown: make(chan struct{})}
}

func (s *memoryStream) last() proto.Offset { return s.first + proto.Offset(len(s.records)) - 1 }

// add stores data; mu is held.
func (s *memoryStream) add(data []byte) proto.Offset {
	s.records = append(s.records, Record{Offset: s.last() + 1, Stored: s.now(), Data: data})
	s.bytes += uint64(len(data))
	close(s.grown)
	s.grown = make(chan struct{})
	return s.last()
}

func (s *memoryStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.grown)
	}
}

func (s *memoryStream) closedError() error {
	return proto.Errorf(proto.CodeUnavailable, "the log is closed")
}

// Info implements Source.
func (s *memoryStream) Info(context.Context) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info(), nil
}

func (s *memoryStream) info() Info {
	return Info{First: s.first, Last: s.last(), Created: s.created, Follows: s.follows, Bytes: s.bytes, BytesMax: 1 << 62}
}

// Get implements Source.
func (s *memoryStream) Get(_ context.Context, at proto.Offset) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at < s.first || at > s.last() {
		return Record{}, proto.Errorf(proto.CodeNotFound, "%s holds no record %d: it was purged, or never written", s.name, at)
	}
	r := s.records[at-s.first]
	r.Data = slices.Clone(r.Data)
	return r, nil
}

// Read implements Source.
func (s *memoryStream) Read(ctx context.Context, from proto.Offset, fn func(Record) error) error {
	s.mu.Lock()
	err := checkStart(s.name, s.info(), from)
	s.mu.Unlock()
	for next := from; err == nil; next++ {
		var r Record
		if r, err = s.wait(ctx, next); err == nil {
			err = fn(r)
		}
	}
	return err
}

// wait waits for the record at.
func (s *memoryStream) wait(ctx context.Context, at proto.Offset) (Record, error) {
	for {
		s.mu.Lock()
		grown, closed, first, last := s.grown, s.closed, s.first, s.last()
		s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return Record{}, ctx.Err()
		case closed:
			return Record{}, s.closedError()
		case at < first:
			return Record{}, gap(s.name, at, first)
		case at <= last:
			if r, err := s.Get(ctx, at); err == nil {
				return r, nil
			}
			continue // purged in between
		}
		select {
		case <-grown:
		case <-ctx.Done():
		}
	}
}

type memoryLane struct {
	*memoryStream
	id   proto.LaneID
	seen map[string]proto.Offset // guarded by mu
}

// AppendAsync implements Appender.
func (l *memoryLane) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	at, err := l.put(e)
	if err != nil {
		return err
	}
	go done(at, nil)
	return nil
}

func (l *memoryLane) put(e *proto.Entry) (proto.Offset, error) {
	b, err := sealEntry(l.id, e)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, l.closedError()
	}
	id := entryID(e)
	if at, ok := l.seen[id]; ok {
		return at, nil
	}
	l.seen[id] = l.add(b)
	return l.last(), nil
}

// Append implements Stream.
func (l *memoryLane) Append(_ context.Context, e *proto.Entry) (proto.Offset, error) { return l.put(e) }

// Settle implements Appender.
func (l *memoryLane) Settle(_ context.Context, e *proto.Entry, _ proto.Offset) (proto.Offset, error) {
	l.mu.Lock()
	_, stored := l.seen[entryID(e)]
	overtaken := false
	for id := range l.seen {
		producer, seq, _ := parseEntryID(id)
		overtaken = overtaken || producer == e.Producer && seq > e.Seq
	}
	l.mu.Unlock()
	if !stored && overtaken {
		return 0, overtakenError(l.name, e)
	}
	return l.put(e)
}

// Purge implements Stream.
func (l *memoryLane) Purge(_ context.Context, upTo proto.Offset) error {
	l.purge(upTo)
	return nil
}

func (s *memoryStream) purge(upTo proto.Offset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.records) > 0 && s.first <= upTo {
		s.bytes -= uint64(len(s.records[0].Data))
		s.records = s.records[1:]
		s.first++
	}
}

type memoryControl struct{ *memoryStream }

// Append implements ControlStream.
func (c *memoryControl) Append(_ context.Context, record []byte, last uint64) (uint64, error) {
	return c.append(record, last, "")
}

// duplicatesWithin is for how long a stream knows a record's id.
const duplicatesWithin = 2 * time.Minute

// append is Append of a record that has an id, or none.
func (c *memoryControl) append(record []byte, last uint64, id string) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, c.closedError()
	}
	if uint64(c.last()) != last {
		return 0, proto.Errorf(proto.CodeConflict, "%s has moved on: its last record is %d, not %d", c.name, c.last(), last)
	}
	if id != "" {
		for _, r := range c.records {
			if r.ID == id && c.now().Sub(r.Stored) < duplicatesWithin {
				return uint64(r.Offset), nil
			}
		}
	}
	at := c.add(slices.Clone(record))
	c.records[len(c.records)-1].ID = id
	return uint64(at), nil
}

// Read implements ControlStream.
func (c *memoryControl) Read(ctx context.Context, from uint64, fn func(Record) error) error {
	return c.memoryStream.Read(ctx, proto.Offset(from), fn)
}

// Last implements ControlStream.
func (c *memoryControl) Last(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint64(c.last()), nil
}
