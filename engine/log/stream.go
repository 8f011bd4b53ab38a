package log

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

const (
	// readAheadBytes is what a reader asks the server for ahead of time.
	readAheadBytes = 8 << 20
	// readCheckEvery is how often an idle reader looks whether its stream is
	// still the one that it reads, and whether its next record is lost.
	readCheckEvery = 2 * time.Second
	// clusterCheckEvery is the same in a cluster, where a server that delivers may
	// go: a node that hears nothing for long must stop to answer.
	clusterCheckEvery = 700 * time.Millisecond
	// readWaitsMax is how often in a row a record may be there that is not
	// delivered.
	readWaitsMax = 1
	// settleRounds bounds how often Settle is overtaken by others.
	settleRounds = 100
	// settlePauseMax is the longest pause between attempts of Append.
	settlePauseMax = time.Second
)

// stream is what lanes and the control stream share.
type stream struct {
	log     *Log
	name    string
	subject string
	js      jetstream.Stream

	doubted atomic.Int64 // since when the stream seems to have lost something, in nanoseconds since began; 0: it does not
}

// Questions to JetStream: who would answer may have gone, in a cluster until
// another leads the stream.
const (
	askTry    = time.Second
	createTry = 3 * time.Second // for what the servers agree on: a consumer's place, a stream's configuration
	askMany   = 30              // tries of who has no deadline
)

// ask asks until there is an answer or ctx ends: a question that nobody was
// there for is never answered.
func (s *stream) ask(ctx context.Context, each time.Duration, question func(context.Context) error) error {
	for n := 1; ; n++ {
		try, cancel := context.WithTimeout(ctx, each)
		err := question(try)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) || ctx.Err() != nil || n == askMany {
			return err
		}
	}
}

// Info describes the stream now.
func (s *stream) Info(ctx context.Context) (Info, error) {
	var i *jetstream.StreamInfo
	err := s.ask(ctx, askTry, func(ctx context.Context) (err error) {
		i, err = s.js.Info(ctx)
		return err
	})
	if err != nil {
		return Info{}, proto.Errorf(proto.CodeUnavailable, "%s gives no information: %w", s.name, err)
	}
	x := Info{
		First: proto.Offset(i.State.FirstSeq), Last: proto.Offset(i.State.LastSeq),
		Created: i.Created.UTC(), Follows: followed(i), Bytes: i.State.Bytes, BytesMax: uint64(max(i.Config.MaxBytes, 0)),
	}
	if i.State.Msgs == 0 {
		x.First = x.Last + 1
	}
	return x, nil
}

// followsKey is where a stream's metadata say which offset it goes on from.
const followsKey = "kith.follows"

func followed(i *jetstream.StreamInfo) proto.Offset {
	n, err := strconv.ParseUint(i.Config.Metadata[followsKey], 10, 64)
	if err != nil {
		return 0
	}
	return proto.Offset(n)
}

// Follow implements Logs.
func (l *Log) Follow(ctx context.Context, id proto.LaneID, at proto.Offset, known bool) error {
	s := l.lanes[id]
	for {
		var info *jetstream.StreamInfo
		err := s.ask(ctx, askTry, func(ctx context.Context) (err error) {
			info, err = s.js.Info(ctx)
			return err
		})
		if err != nil {
			return proto.Errorf(proto.CodeUnavailable, "%s gives no information: %w", s.name, err)
		}
		has := followed(info)
		switch {
		case at == 0 || has == at:
			return nil
		case has != 0 || info.State.LastSeq > 0 && !known:
			return errFollowsOther(s.name)
		}
		c := info.Config
		c.Metadata = maps.Clone(c.Metadata)
		c.Metadata[followsKey] = strconv.FormatUint(uint64(at), 10)
		err = s.ask(ctx, createTry, func(ctx context.Context) error {
			_, err := l.js.UpdateStream(ctx, c)
			return err
		})
		if err != nil {
			return proto.Errorf(proto.CodeUnavailable, "stream %s cannot be marked: %w", s.name, err)
		}
	}
}

func errFollowsOther(name string) error {
	return proto.Errorf(proto.CodeConflict, "stream %s is not new, or goes on from another backup: restore the same backup for all nodes, and start them with empty log directories", name)
}

// Get reads one record.
func (s *stream) Get(ctx context.Context, at proto.Offset) (Record, error) {
	m, err := s.raw(ctx, at)
	if err != nil {
		return Record{}, err
	}
	return Record{Offset: proto.Offset(m.Sequence), Stored: m.Time, ID: m.Header.Get(jetstream.MsgIDHeader), Data: m.Data}, nil
}

func (s *stream) raw(ctx context.Context, at proto.Offset) (*jetstream.RawStreamMsg, error) {
	var m *jetstream.RawStreamMsg
	err := s.ask(ctx, askTry, func(ctx context.Context) (err error) {
		m, err = s.js.GetMsg(ctx, uint64(at))
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, proto.Errorf(proto.CodeNotFound, "%s holds no record %d: it was purged, or never written", s.name, at)
	}
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "record %d of %s cannot be read: %w", at, s.name, err)
	}
	return m, nil
}

// check says whether a reader that wants next can be served by the stream
// without a gap. An idle one also looks whether next is there at all: the
// server waits silently behind records that it cannot read.
// waits tells that it is there, and should have been delivered.
func (s *stream) check(ctx context.Context, next proto.Offset, idle bool) (waits bool, err error) {
	i, err := s.Info(ctx)
	if err != nil {
		return false, s.believe(err)
	}
	if next < i.First {
		return false, checkStart(s.name, i, next) // which no server is too early to know
	}
	if err = checkStart(s.name, i, next); err == nil && idle && next <= i.Last {
		if _, e := s.raw(ctx, next); proto.CodeOf(e) == proto.CodeNotFound {
			err = proto.Errorf(proto.CodeCorrupt, "record %d of %s is lost or damaged, the stream ends at %d: restore the log from a backup", next, s.name, i.Last)
		}
	}
	return err == nil && next <= i.Last, s.believe(err)
}

// began is what doubts are counted from, by the monotonic clock.
var began = time.Now()

// doubtMax is for how long a cluster's stream must seem to have lost records
// before it has.
const doubtMax = 30 * time.Second

// believe makes of an error that a stream lost something one to try again by,
// at first and in a cluster: a leader that was just elected may not yet have
// taken in all that was committed before.
func (s *stream) believe(err error) error {
	if s.log.config.Cluster == nil || proto.CodeOf(err) != proto.CodeCorrupt {
		s.doubted.Store(0)
		return err
	}
	now := int64(time.Since(began))
	s.doubted.CompareAndSwap(0, now)
	if now-s.doubted.Load() < int64(s.log.doubt) {
		return proto.Errorf(proto.CodeUnavailable, "%s is perhaps being led by another server, trying again: %w", s.name, err)
	}
	return err
}

func checkStart(name string, i Info, next proto.Offset) error {
	switch {
	case next == 0:
		return proto.Errorf(proto.CodeInvalid, "records of %s start at 1", name)
	case next < i.First:
		return proto.Errorf(proto.CodeCorrupt, "%s starts at %d, record %d was purged: start from a snapshot or backup at %d or later", name, i.First, next, i.First-1)
	case next > i.Last+1:
		return proto.Errorf(proto.CodeCorrupt, "%s ends at %d but %d records were read or applied: the log lost its tail or is another one; restore it, or start a new stream at %d", name, i.Last, next-1, next)
	}
	return nil
}

// Read delivers records in order from from on.
func (s *stream) Read(ctx context.Context, from proto.Offset, fn func(Record) error) error {
	if _, err := s.check(ctx, from, false); err != nil {
		return err
	}
	var c jetstream.Consumer
	err := s.ask(ctx, createTry, func(ctx context.Context) (err error) {
		c, err = s.js.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(from),
		})
		return err
	})
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "%s cannot be read: %w", s.name, err)
	}
	it, err := c.Messages(jetstream.PullMaxBytes(readAheadBytes))
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "%s cannot be read: %w", s.name, err)
	}
	defer it.Stop()
	for next := from; ; next++ {
		r, err := s.next(ctx, it, next)
		if err != nil {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}

// next waits for record want. While none comes it looks now and then whether
// the stream was replaced by another: the ordered consumer would then wait
// for ever beyond its end. It may also wait for ever for a server that is gone:
// if a record is there and does not come the reading breaks off.
func (s *stream) next(ctx context.Context, it jetstream.MessagesContext, want proto.Offset) (Record, error) {
	every := readCheckEvery
	if s.log.config.Cluster != nil {
		every = clusterCheckEvery
	}
	for waited := 0; ; {
		wait, cancel := context.WithTimeout(ctx, every)
		m, err := it.Next(jetstream.NextContext(wait))
		cancel()
		switch {
		case err == nil:
			return s.record(m, want)
		case ctx.Err() != nil:
			return Record{}, ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return Record{}, proto.Errorf(proto.CodeUnavailable, "reading %s at %d broke off: %w", s.name, want, err)
		}
		waits, err := s.check(ctx, want, true)
		if err != nil {
			return Record{}, err
		}
		if !waits {
			waited = 0
		} else if waited++; waited > readWaitsMax {
			return Record{}, proto.Errorf(proto.CodeUnavailable, "reading %s: record %d is there and is not delivered", s.name, want)
		}
	}
}

func (s *stream) record(m jetstream.Msg, want proto.Offset) (Record, error) {
	md, err := m.Metadata()
	if err != nil {
		return Record{}, proto.Errorf(proto.CodeCorrupt, "a message of %s has no sequence: %w", s.name, err)
	}
	if got := proto.Offset(md.Sequence.Stream); got != want {
		return Record{}, gap(s.name, want, got)
	}
	return Record{Offset: want, Stored: md.Timestamp, Data: m.Data()}, nil
}

func gap(name string, want, got proto.Offset) error {
	return proto.Errorf(proto.CodeCorrupt, "%s has no record %d, the next is %d: a part of the log is lost; restore it or start from a newer snapshot", name, want, got)
}

// lane is one lane's stream.
type lane struct {
	stream
	id    proto.LaneID
	base  proto.Offset  // last record when the log was opened: none of ours is before it
	acked atomic.Uint64 // a record that is known to be stored
}

// AppendAsync implements Appender.
func (l *lane) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	return l.publish(e, -1, done)
}

// publish sends e, on condition that the last record is last unless that is
// negative.
func (l *lane) publish(e *proto.Entry, last int64, done func(proto.Offset, error)) error {
	b, err := sealEntry(l.id, e)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: l.subject, Data: b, Header: nats.Header{jetstream.MsgIDHeader: {entryID(e)}}}
	if last >= 0 {
		m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatInt(last, 10)}
	}
	return l.log.acks.publish(l.name, m, func(seq uint64, err error) {
		if err == nil {
			l.acked.Store(seq)
		}
		done(proto.Offset(seq), err)
	})
}

func sealEntry(id proto.LaneID, e *proto.Entry) ([]byte, error) {
	if len(e.Commands) > proto.EntryBytesMax || e.Count > proto.EntryCommandsMax {
		return nil, proto.Errorf(proto.CodeTooLarge, "an entry of %d commands and %d bytes is too large: at most %d and %d", e.Count, len(e.Commands), proto.EntryCommandsMax, proto.EntryBytesMax)
	}
	if e.Lane != id || e.Seq == 0 {
		return nil, proto.Errorf(proto.CodeInternal, "entry %d of lane %s was given to lane %s", e.Seq, e.Lane, id)
	}
	return e.Encode()
}

func entryID(e *proto.Entry) string {
	b := strconv.AppendUint(make([]byte, 0, 40), e.Producer, 10)
	return string(strconv.AppendUint(append(b, '-'), e.Seq, 10))
}

// parseEntryID reads what entryID wrote.
func parseEntryID(s string) (producer, seq uint64, ok bool) {
	p, q, _ := strings.Cut(s, "-")
	producer, err1 := strconv.ParseUint(p, 10, 64)
	seq, err2 := strconv.ParseUint(q, 10, 64)
	return producer, seq, err1 == nil && err2 == nil
}

// Settle implements Appender.
func (l *lane) Settle(ctx context.Context, e *proto.Entry, after proto.Offset) (proto.Offset, error) {
	after = max(after, l.base)
	for range settleRounds {
		i, err := l.Info(ctx)
		if err != nil {
			return 0, ambiguous(err.Error())
		}
		if at, err := l.find(ctx, e, max(after+1, i.First), i.Last); err != nil || at > 0 {
			return at, err
		}
		at, err := l.await(ctx, e, int64(i.Last))
		if proto.CodeOf(err) != proto.CodeConflict {
			return at, err
		}
		after = i.Last // something came in between: it, or others
	}
	return 0, ambiguous("other appends came first again and again")
}

// find looks for e among the records first to last. CodeConflict if it finds
// a later one of the same producer: appends of one producer keep their order,
// so e will not come.
func (l *lane) find(ctx context.Context, e *proto.Entry, first, last proto.Offset) (proto.Offset, error) {
	overtaken := false
	for at := first; at <= last; at++ {
		m, err := l.raw(ctx, at)
		if proto.CodeOf(err) == proto.CodeNotFound {
			continue // purged meanwhile
		}
		if err != nil {
			return 0, ambiguous(err.Error())
		}
		producer, seq, ok := parseEntryID(m.Header.Get(jetstream.MsgIDHeader))
		if ok && producer == e.Producer && seq == e.Seq {
			return at, nil
		}
		overtaken = overtaken || ok && producer == e.Producer && seq > e.Seq
	}
	if overtaken {
		return 0, overtakenError(l.name, e)
	}
	return 0, nil
}

func overtakenError(name string, e *proto.Entry) error {
	return proto.Errorf(proto.CodeConflict, "entry %d of producer %d is not in %s and later ones are: send its commands again in a new entry", e.Seq, e.Producer, name)
}

// await publishes e and waits for the answer.
func (l *lane) await(ctx context.Context, e *proto.Entry, last int64) (proto.Offset, error) {
	type answer struct {
		at  proto.Offset
		err error
	}
	ch := make(chan answer, 1)
	if err := l.publish(e, last, func(at proto.Offset, err error) { ch <- answer{at, err} }); err != nil {
		return 0, err
	}
	select {
	case a := <-ch:
		return a.at, a.err
	case <-ctx.Done():
		return 0, ambiguous(ctx.Err().Error())
	}
}

// Append implements Stream.
func (l *lane) Append(ctx context.Context, e *proto.Entry) (proto.Offset, error) {
	after := proto.Offset(l.acked.Load())
	at, err := l.await(ctx, e, -1)
	for pause := 20 * time.Millisecond; Ambiguous(err) && ctx.Err() == nil; pause = min(2*pause, settlePauseMax) {
		select {
		case <-time.After(pause):
			at, err = l.Settle(ctx, e, after)
		case <-ctx.Done():
		}
	}
	return at, err
}

// Purge implements Stream.
func (l *lane) Purge(ctx context.Context, upTo proto.Offset) error { return l.purge(ctx, upTo) }

func (s *stream) purge(ctx context.Context, upTo proto.Offset) error {
	if err := s.js.Purge(ctx, jetstream.WithPurgeSequence(uint64(upTo)+1)); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "%s cannot be purged up to %d: %w", s.name, upTo, err)
	}
	return nil
}

// control is the control stream.
type control struct{ stream }

// Append implements ControlStream.
func (c *control) Append(ctx context.Context, record []byte, last uint64) (uint64, error) {
	return c.append(ctx, record, last, "")
}

// append is Append of a record that the server knows by its id, if it has one.
func (c *control) append(ctx context.Context, record []byte, last uint64, id string) (uint64, error) {
	if len(record) > proto.EntryBytesMax {
		return 0, proto.Errorf(proto.CodeTooLarge, "a control record of %d bytes is too large: at most %d", len(record), proto.EntryBytesMax)
	}
	type answer struct {
		seq uint64
		err error
	}
	ch := make(chan answer, 1)
	m := &nats.Msg{Subject: c.subject, Data: record, Header: nats.Header{jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(last, 10)}}}
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	if err := c.log.acks.publish(c.name, m, func(seq uint64, err error) { ch <- answer{seq, err} }); err != nil {
		return 0, err
	}
	select {
	case a := <-ch:
		return a.seq, a.err
	case <-ctx.Done():
		return 0, ambiguous(ctx.Err().Error())
	}
}

// Read implements ControlStream.
func (c *control) Read(ctx context.Context, from uint64, fn func(Record) error) error {
	return c.stream.Read(ctx, proto.Offset(from), fn)
}

// Last implements ControlStream.
func (c *control) Last(ctx context.Context) (uint64, error) {
	i, err := c.Info(ctx)
	return uint64(i.Last), err
}
