package bench

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"kith/proto"
)

// The background of look-ups.
const (
	backgroundRate  = 50_000 // events a second
	backgroundConns = 8
	probeEvery      = 20 * time.Millisecond
	pollEvery       = 200 * time.Microsecond
	probeMax        = 10 * time.Second
)

// background posts events at a steady rate until stop is called.
func (n *node) background(ctx context.Context, tape []uint32) (stop func() (sample, error)) {
	l := httpLoad(n.service, posters(backgroundConns, postEvents, eventsPath, fromTape(tape)))
	l.every = time.Second * postEvents / backgroundRate
	return l.behind(ctx)
}

// beside runs take over a background of events, and notes its true rate.
func (n *node) beside(ctx context.Context, tape []uint32, take sampler) (sample, error) {
	stop := n.background(ctx, tape)
	pause(ctx, min(n.s.Time, time.Second)) // until it runs evenly
	x, err := take(ctx)
	ran, e := stop()
	if err == nil {
		err = e
	}
	if x.also == nil {
		x.also = map[string]float64{}
	}
	x.also["background"] = ran.rate()
	return x, err
}

func (r *Result) background(l samples) {
	rate := l.median(func(x sample) float64 { return x.also["background"] })
	r.set("background_events_per_second", rate)
	r.note("beside %s events/s", figure(rate))
	r.Goals = append(r.Goals, Goal{"background >= 47.5k/s", rate >= 0.95*backgroundRate})
}

// visible is the time from an event's post to its membership in look-ups.
func (s *session) visible(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	fresh := uint32(10_000_000)
	x, err := s.rounds(ctx, func(ctx context.Context) (sample, error) {
		return n.beside(ctx, tape, func(ctx context.Context) (sample, error) { return n.probe(ctx, &fresh) })
	})
	if err != nil {
		return nil, err
	}
	r := Result{Work: "event to membership, p99 (p50 in the notes)", Unit: "ms", Ours: x[0].quantile(0.99)}
	p50 := x[0].quantile(0.5)
	r.set("p50_ms", p50)
	r.set("p99_ms", r.Ours)
	r.note("p50 %.3g ms, p90 %.3g ms, p99 %.3g ms from the post to the first look-up that shows it; %d probes a sample", p50, x[0].quantile(0.9), r.Ours, len(x[0][0].latencies))
	r.atMost("p50 ms", p50, 10)
	r.atMost("p99 ms", r.Ours, 75)
	r.background(x[0])
	return []Result{r}, nil
}

// probe posts events of fresh visitors and looks each up until a segment
// shows.
func (n *node) probe(ctx context.Context, fresh *uint32) (x sample, err error) {
	post, err := dial(ctx, n.service)
	if err != nil {
		return x, err
	}
	defer post.close()
	poll, err := dial(ctx, n.service)
	if err != nil {
		return x, err
	}
	defer poll.close()
	event := newBody(1).request(eventsPath)
	begin := time.Now()
	for time.Since(begin) < n.s.Time && ctx.Err() == nil {
		*fresh++
		start := time.Now()
		event.slots[0].put(event.bytes, visitOf(*fresh, 1))
		status, answer, err := post.do(event.bytes)
		if err == nil && status != http.StatusOK {
			err = proto.Errorf(proto.CodeInvalid, "a probe was answered with status %d: %s", status, answer)
		}
		if err == nil {
			err = awaitMember(ctx, poll, *fresh, start)
		}
		if err != nil {
			return x, err
		}
		x.latencies = append(x.latencies, float64(time.Since(start))/float64(time.Millisecond))
		x.units++
		pause(ctx, probeEvery-time.Since(start))
	}
	x.seconds = time.Since(begin).Seconds()
	return x, ctx.Err()
}

// awaitMember polls until the visitor is in the segment that one event makes.
func awaitMember(ctx context.Context, c *wire, visitor uint32, start time.Time) error {
	request := getRequest(lookupPath(visitor))
	for {
		status, answer, err := c.do(request)
		switch {
		case err != nil:
			return err
		case status != http.StatusOK:
			return proto.Errorf(proto.CodeInvalid, "a look-up was answered with status %d: %s", status, answer)
		case bytes.Contains(answer, []byte(`"recent-s`)):
			return nil
		case time.Since(start) > probeMax:
			return proto.Errorf(proto.CodeTimeout, "an event was not seen within %s: %s", probeMax, answer)
		}
		if pause(ctx, pollEvery); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
