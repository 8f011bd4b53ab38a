package ingest

import (
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"kith/proto"
)

// Intake posts bodies as POST /v1/events takes them. Post may be called
// concurrently. An error means that nothing of the body is known to be
// durable; the same body may be posted again, as every event has an id. The node
// knows the last 32 ids of an identity: of one with more rows in the body, of which some
// were durable after all, some may be taken twice. Its RetryAfter is heeded.
type Intake interface {
	Post(ctx context.Context, body []byte) (Answer, error)
}

// Answer is the node's answer to one post.
type Answer struct {
	Accepted int       `json:"accepted"`
	Refused  []Refusal `json:"refused"`
	Position string    `json:"position"`
}

// Refusal is one event that the node did not take.
type Refusal struct {
	Index   int        `json:"index"`
	Code    proto.Code `json:"code"`
	Message string     `json:"message"`
}

// Retryable reports whether a code says "again, later".
func Retryable(code proto.Code) bool {
	switch code {
	case proto.CodeUnavailable, proto.CodeOverloaded, proto.CodeRateLimited, proto.CodeTimeout:
		return true
	}
	return false
}

// batch is events of one post, end to end.
type batch struct {
	events []byte  // objects, each followed by a comma
	ends   []int   // of each object, its comma excluded
	lines  []int64 // number of each object's line
}

func (b *batch) reset() { b.events, b.ends, b.lines = b.events[:0], b.ends[:0], b.lines[:0] }

func (b *batch) event(i int) []byte {
	start := 0
	if i > 0 {
		start = b.ends[i-1] + 1
	}
	return b.events[start:b.ends[i]]
}

func (b *batch) add(line int64, event []byte) {
	b.events = append(b.events, event...)
	b.ends = append(b.ends, len(b.events))
	b.events = append(b.events, ',')
	b.lines = append(b.lines, line)
}

// sender collects rows into batches and posts them from PostsMax goroutines.
type sender struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	node   Intake
	o      Options
	queue  chan *batch
	free   sync.Pool
	done   sync.WaitGroup

	// Owned by the goroutine that feeds.
	open    *batch
	scratch []byte

	limited sync.Mutex // held by the poster that the node has wait for its rate; before mu

	mu       sync.Mutex // guards what follows
	report   *Report
	position proto.Position
}

func newSender(ctx context.Context, node Intake, o Options, report *Report) *sender {
	s := &sender{node: node, o: o, report: report, queue: make(chan *batch, o.PostsMax), position: proto.Position{}}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.free.New = func() any { return new(batch) }
	s.open = s.free.Get().(*batch)
	for range o.PostsMax {
		s.done.Go(s.post)
	}
	return s
}

// close waits for the posts under way and gives the first failure.
func (s *sender) close() error {
	close(s.queue)
	s.done.Wait()
	err := context.Cause(s.ctx)
	s.cancel(nil)
	s.report.Position = s.position.String()
	return err
}

// add appends a row to the open batch and hands the batch on when it is full.
func (s *sender) add(line int64, text []byte, row *Row) error {
	switch s.o.Format {
	case Identities:
		s.scratch = appendString(s.scratch[:0], row.Identities[0])
	case Traits:
		s.scratch = row.appendTraits(s.scratch[:0])
	default:
		if row.ID == "" {
			row.ID = lineID(line, text)
		}
		s.scratch = row.appendJSON(s.scratch[:0])
	}
	s.open.add(line, s.scratch)
	s.mu.Lock()
	s.report.Lines++
	s.mu.Unlock()
	if len(s.open.ends) < s.o.BatchEventsMax && len(s.open.events) < s.o.BatchBytesMax {
		return nil
	}
	return s.flush()
}

// lineID is the same whenever the same line of the same input is sent, so
// that the node drops a repeated post.
func lineID(line int64, text []byte) string {
	var d xxhash.Digest
	d.Reset()
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(line))
	_, _ = d.Write(n[:])
	_, _ = d.Write(text)
	return strconv.FormatUint(d.Sum64(), 36)
}

func (s *sender) refused(line int64, e *proto.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Lines++
	s.report.refuse(line, e.Code, e.Message)
}

// flush hands the open batch to a poster.
func (s *sender) flush() error {
	if len(s.open.ends) == 0 {
		return nil
	}
	select {
	case s.queue <- s.open:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	s.open = s.free.Get().(*batch)
	s.open.reset()
	return nil
}

// post sends batches until the queue is closed or a batch cannot be sent.
func (s *sender) post() {
	var body []byte
	for b := range s.queue {
		if s.ctx.Err() != nil {
			continue // drain, so that nobody waits
		}
		if err := s.send(b, &body); err != nil {
			s.cancel(err)
		}
		s.free.Put(b)
	}
}

// limitedMax is the longest wait for the node's rate: what asks for more is a limit by
// the day, and no load waits for that.
const limitedMax = 5 * time.Minute

// send posts b, and again what came back to be retried, until everything is
// accepted or refused, or AttemptsMax is reached. Where the node limits the rate
// posters take turns, each for as long as the node says: that uses no attempts up.
func (s *sender) send(b *batch, body *[]byte) error {
	pause, turn := 50*time.Millisecond, false
	defer func() {
		if turn {
			s.limited.Unlock()
		}
	}()
	for attempt := 1; ; attempt++ {
		*body = s.wrap((*body)[:0], b)
		answer, err := s.node.Post(s.ctx, *body)
		switch wait := proto.RetryAfterOf(err); {
		case proto.CodeOf(err) == proto.CodeTooLarge:
			if turn {
				turn = false
				s.limited.Unlock()
			}
			return s.divide(b, body)
		case proto.CodeOf(err) != proto.CodeRateLimited || wait == 0:
		case wait > limitedMax:
			return proto.Errorf(proto.CodeRateLimited, "the node takes no more for %v: start the same load again then, with what is left of it: %w", wait, err)
		default:
			if !turn { // and asks again: others may have waited meanwhile
				s.limited.Lock()
				turn = true
			} else if err := s.o.Wait(s.ctx, wait); err != nil {
				return err
			}
			attempt--
			continue
		}
		if err != nil && !Retryable(proto.CodeOf(err)) {
			return err
		}
		again := b.ends
		if err == nil {
			if again, err = s.settle(b, answer); err != nil {
				return err
			}
		}
		if len(again) == 0 {
			return nil
		}
		if attempt == s.o.AttemptsMax {
			return giveUp(err, attempt, len(again), s.o.Format)
		}
		if err := s.o.Wait(s.ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// divide sends b, which is larger than the node takes, in two halves. A row that
// cannot be divided is refused.
func (s *sender) divide(b *batch, body *[]byte) error {
	if len(b.ends) == 1 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.report.refuse(b.lines[0], proto.CodeTooLarge, "the node takes no body as large as this row: shorten it, or raise limits.body_bytes_max of the node")
		return nil
	}
	var halves [2]batch
	for i, line := range b.lines {
		halves[2*i/len(b.lines)].add(line, b.event(i))
	}
	for i := range halves {
		if err := s.send(&halves[i], body); err != nil {
			return err
		}
	}
	return nil
}

func giveUp(err error, attempts, rows int, f Format) error {
	if err == nil {
		err = errors.New("the node could not make them durable")
	}
	return proto.Errorf(proto.CodeUnavailable, "gave up on %d %s after %d tries; start the same load again when the node is well (what is sent twice within ten minutes is taken once, but of an identity only its last 32 rows): %w", rows, f.field(), attempts, err)
}

func (s *sender) wrap(body []byte, b *batch) []byte {
	body = append(body, '{')
	if s.o.Client != "" {
		body = append(appendString(append(body, `"client":`...), s.o.Client), ',')
	}
	body = append(appendString(body, s.o.Format.field()), ":["...)
	body = append(body, b.events[:len(b.events)-1]...)
	return append(body, `]}`...)
}

// settle counts an answer and leaves in b only the events to send again, whose
// ends it gives.
func (s *sender) settle(b *batch, answer Answer) ([]int, error) {
	sent := len(b.ends)
	if answer.Accepted+len(answer.Refused) != sent || answer.Accepted < 0 {
		return nil, proto.Errorf(proto.CodeInternal, "the node answered for %d rows where %d were sent: is --service the address of a kith node?", answer.Accepted+len(answer.Refused), sent)
	}
	var again batch
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Accepted += int64(answer.Accepted)
	for _, r := range answer.Refused {
		if r.Index < 0 || r.Index >= sent {
			return nil, proto.Errorf(proto.CodeInternal, "the node refused row %d of %d: is --service the address of a kith node?", r.Index, sent)
		}
		if Retryable(r.Code) {
			again.add(b.lines[r.Index], b.event(r.Index))
			s.report.Retried++
			continue
		}
		s.report.refuse(b.lines[r.Index], r.Code, r.Message)
	}
	if p, err := proto.ParsePosition(answer.Position); err == nil {
		for lane, offset := range p {
			s.position[lane] = max(s.position[lane], offset)
		}
	}
	*b = again
	return again.ends, nil
}
