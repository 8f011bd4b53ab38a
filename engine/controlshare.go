package engine

import (
	"context"
	"math"
	"time"

	"golang.org/x/time/rate"
	gproto "google.golang.org/protobuf/proto"

	"kith/engine/log"
	"kith/proto"
	"kith/proto/pb"
)

// What clients' own keys may write to the control stream, which is bounded, never
// purged and in the memory of every node: definitions, saved audiences and imports,
// so many at once, which a first apply of all segments needs, and so many a second
// from then on; a large record counts as several, and an edit of a saved audience that
// is refused, or for which others have to be written out, as that many. One that counts
// as more than is left is done, and the next ones wait for that. Each node counts what
// comes to itself. What is over their share of the stream is left to the operator, to
// Swaps, reports and erasures.
const (
	definitionsBurst     = 25_000
	definitionsPerSecond = 1
	controlShareOf4      = 3
	controlShareRetry    = time.Minute
	definitionBytes      = 4 << 10 // of a record that counts as one
)

// controlSize is what the control stream takes of its bound.
type controlSize struct{ bytes, most uint64 }

func (s *controlSize) add(record []byte) { s.bytes += uint64(len(record)) + log.ControlRecordBytes }

// full reports whether clients' share is used up.
func (s *controlSize) full() bool { return s.bytes >= s.most/4*controlShareOf4 }

// proposeFor is propose of a record that is written for a client: if a key of its own
// asks for it, from what that may write. A decision to write nothing costs nothing.
func (r *registry) proposeFor(ctx context.Context, client proto.ClientID, decide func() (*pb.Control, error)) (uint64, error) {
	s := r.share(ctx, client)
	return r.propose(ctx, func() (*pb.Control, error) {
		c, err := decide()
		if err != nil || c == nil {
			return c, err
		}
		if err := s.open(); err != nil {
			return nil, err
		}
		s.take(countOf(c))
		return c, nil
	})
}

// countOf is as how many a record counts.
func countOf(c *pb.Control) int { return 1 + gproto.Size(c)/definitionBytes }

// share is what one proposal takes of what its client may write, if a key of its own
// asks: once, though it may be decided on again. The registry's lock is held for all of
// its functions.
type share struct {
	r      *registry
	client proto.ClientID
	paid   bool // or an operator asks
}

func (r *registry) share(ctx context.Context, client proto.ClientID) *share {
	return &share{r: r, client: client, paid: !proto.AsksForItself(ctx)}
}

// open refuses what nothing may be written for now. It is asked before the work.
func (s *share) open() error {
	if !s.paid && s.r.size.full() {
		e := proto.Errorf(proto.CodeOverloaded, "nothing was changed: the control stream is over three quarters full, and clients' keys define, save and import nothing until the operator has seen to it")
		e.RetryAfter = controlShareRetry
		return e
	}
	return s.left()
}

// left refuses while the client may change nothing more.
func (s *share) left() error {
	if s.paid {
		return nil
	}
	missing := 1 - s.limit().TokensAt(s.r.now())
	if missing <= 0 {
		return nil
	}
	e := proto.Errorf(proto.CodeRateLimited, "nothing was changed: this client has changed %d definitions, saved audiences and imports, and may change %d/s from now on: slow down and send it again", definitionsBurst, definitionsPerSecond)
	e.RetryAfter = time.Duration(math.Ceil(missing/definitionsPerSecond)) * time.Second
	return e
}

// take charges a record, or work, that counts as so many: what that is more than is
// left keeps the next one waiting.
func (s *share) take(count int) {
	if !s.paid {
		s.limit().ReserveN(s.r.now(), min(count, definitionsBurst))
		s.paid = true
	}
}

func (s *share) limit() *rate.Limiter {
	l := s.r.limits[s.client]
	if l == nil {
		l = rate.NewLimiter(definitionsPerSecond, definitionsBurst)
		s.r.limits[s.client] = l
	}
	return l
}

// sized is what the control stream takes.
func (r *registry) sized() controlSize {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}
