package engine

import (
	"context"
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
// is refused, or for which others have to be written out, as that many. Each node counts what comes to itself.
// What is over their share of the stream is left to the operator, to Swaps, reports and
// erasures.
const (
	definitionsBurst      = 25_000
	definitionsPerSecond  = 1
	controlShareOf4       = 3
	controlShareRetry     = time.Minute
	definitionsRetryAfter = time.Second / definitionsPerSecond
	definitionBytes       = 4 << 10 // of a record that counts as one
)

// controlSize is what the control stream takes of its bound.
type controlSize struct{ bytes, most uint64 }

func (s *controlSize) add(record []byte) { s.bytes += uint64(len(record)) + log.ControlRecordBytes }

// full reports whether clients' share is used up.
func (s *controlSize) full() bool { return s.bytes >= s.most/4*controlShareOf4 }

// proposeFor is propose of a record that is written for a client: if a key of its own
// asks for it, from what that may write. A decision to write nothing costs nothing.
func (r *registry) proposeFor(ctx context.Context, client proto.ClientID, decide func() (*pb.Control, error)) (uint64, error) {
	paid := !proto.AsksForItself(ctx)
	return r.propose(ctx, func() (*pb.Control, error) {
		c, err := decide()
		if err != nil || c == nil || paid {
			return c, err
		}
		if err := r.pay(client, 1+gproto.Size(c)/definitionBytes); err != nil {
			return nil, err
		}
		paid = true
		return c, nil
	})
}

// pay takes a record, which counts as so many, from what the client may write. The
// registry's lock is held.
func (r *registry) pay(client proto.ClientID, count int) error {
	if r.size.full() {
		e := proto.Errorf(proto.CodeOverloaded, "nothing was changed: the control stream is over three quarters full, and clients' keys define, save and import nothing until the operator has seen to it")
		e.RetryAfter = controlShareRetry
		return e
	}
	return r.spend(client, count)
}

// spend is pay of what was worked out for the client and writes nothing. The registry's
// lock is held.
func (r *registry) spend(client proto.ClientID, count int) error {
	l := r.limits[client]
	if l == nil {
		l = rate.NewLimiter(definitionsPerSecond, definitionsBurst)
		r.limits[client] = l
	}
	if !l.AllowN(r.now(), count) {
		e := proto.Errorf(proto.CodeRateLimited, "nothing was changed: this client has changed %d definitions, saved audiences and imports, and may change %d/s from now on: slow down and send it again", definitionsBurst, definitionsPerSecond)
		e.RetryAfter = definitionsRetryAfter
		return e
	}
	return nil
}

// sized is what the control stream takes.
func (r *registry) sized() controlSize {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}
