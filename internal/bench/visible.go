package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"kith/proto"
)

// The background of look-ups.
const (
	backgroundRate  = 50_000 // events a second
	backgroundConns = 8
	backgroundPosts = 250 // a second
	probeEvery      = 20 * time.Millisecond
	pollEvery       = 200 * time.Microsecond
	probeMax        = 10 * time.Second
)

// background posts rate events a second, steadily, until stop is called.
func (n *node) background(ctx context.Context, tape []uint32, rate int) (stop func() (sample, error)) {
	l := httpLoad(n.service, posters(backgroundConns, rate/backgroundPosts, eventsPath, fromTape(tape)))
	l.every = time.Second / backgroundPosts
	return l.behind(ctx)
}

// beside runs take over a background of rate events a second, and notes its
// true rate.
func (n *node) beside(ctx context.Context, tape []uint32, rate int, take sampler) (sample, error) {
	stop := n.background(ctx, tape, rate)
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

func (r *Result) background(l samples, want int) {
	least := 0.95 * float64(want)
	rate := l.median(func(x sample) float64 { return x.also["background"] })
	r.set("background_events_per_second", rate)
	r.note("beside %s events/s", figure(rate))
	r.Goals = append(r.Goals, Goal{fmt.Sprintf("background >= %.3gk/s", least/1000), rate >= least})
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
	body := newBody(1).request(eventsPath)
	next := func() (event, look []byte) {
		fresh++
		body.slots[0].put(body.bytes, visitOf(fresh, 1))
		return body.bytes, getRequest(lookupPath(fresh))
	}
	x, err := s.rounds(ctx, func(ctx context.Context) (sample, error) {
		return n.beside(ctx, tape, backgroundRate, func(ctx context.Context) (sample, error) { return n.probe(ctx, `"recent-s`, next) })
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
	r.background(x[0], backgroundRate)
	return []Result{r}, nil
}

// probe posts events and looks each up until a segment shows. next gives an
// event's post and the look-up, or nil when there are no more.
func (n *node) probe(ctx context.Context, segment string, next func() (event, look []byte)) (x sample, err error) {
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
	begin := time.Now()
	for time.Since(begin) < n.s.Time && ctx.Err() == nil {
		event, look := next()
		if event == nil {
			break
		}
		start := time.Now()
		status, answer, err := post.do(event)
		if err == nil && status != http.StatusOK {
			err = proto.Errorf(proto.CodeInvalid, "a probe was answered with status %d: %s", status, answer)
		}
		if err == nil {
			err = awaitMember(ctx, poll, look, segment, start)
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

// awaitMember polls until the look-up's answer shows the segment that an event
// makes.
func awaitMember(ctx context.Context, c *wire, request []byte, segment string, start time.Time) error {
	for {
		status, answer, err := c.do(request)
		switch {
		case err != nil:
			return err
		case status != http.StatusOK:
			return proto.Errorf(proto.CodeInvalid, "a look-up was answered with status %d: %s", status, answer)
		case bytes.Contains(answer, []byte(segment)):
			return nil
		case time.Since(start) > probeMax:
			return proto.Errorf(proto.CodeTimeout, "an event was not seen within %s: %s", probeMax, answer)
		}
		if pause(ctx, pollEvery); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
