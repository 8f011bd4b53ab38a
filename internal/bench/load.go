package bench

import (
	"context"
	"net/http"
	"sync"
	"time"

	"kith/proto"
)

// refusedPause is how long a connection waits after it was refused.
const refusedPause = 5 * time.Millisecond

// worker is one connection's part of a load. It belongs to one goroutine.
type worker interface {
	// next is the request to send; it may change the one before.
	next() []byte
	// done takes the answer of status 200 and gives how many units it did.
	done(body []byte) (units int, err error)
}

// finite is a worker that comes to an end.
type finite interface {
	worker
	more() bool // asked before each request
}

// exchange sends a request and gives the answer; the kind of connection is
// the load's.
type exchange interface {
	do(request []byte) (status int, body []byte, err error)
	close()
}

// load is what several connections do at once.
type load struct {
	connect func(context.Context) (exchange, error)
	workers []worker
	// every, if set, is the time between two requests of all together; a
	// request that is due is not left out if the one before was slow.
	every time.Duration
	// finish, if set, ends the load when it is closed.
	finish <-chan struct{}
	// pulse, if set, is told of each request as well.
	pulse *pulse
}

// pulse is what a load did since it was last asked.
type pulse struct {
	mu    sync.Mutex
	since sample
}

func (p *pulse) add(units int, latency float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.since.units += units
	p.since.latencies = append(p.since.latencies, latency)
	p.mu.Unlock()
}

func (p *pulse) take() sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.since
	p.since = sample{}
	return x
}

// httpLoad is a load over HTTP connections to addr.
func httpLoad(addr string, workers []worker) load {
	return load{workers: workers, connect: func(ctx context.Context) (exchange, error) { return dial(ctx, addr) }}
}

// run does the load for a time, and gives what was done in it.
func (l load) run(ctx context.Context, d time.Duration) (sample, error) {
	return l.all(ctx, d, (*part).run)
}

// drain does all that the workers, which are finite, have.
func (l load) drain(ctx context.Context) (sample, error) {
	return l.all(ctx, workMax, (*part).drain)
}

// all does every connection's part.
func (l load) all(ctx context.Context, d time.Duration, do func(*part, context.Context, *sample) error) (sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns, err := l.open(ctx)
	if err != nil {
		return sample{}, err
	}
	parts := make([]sample, len(l.workers))
	start := time.Now()
	end := start.Add(d)
	var busy sync.WaitGroup
	for i, w := range l.workers {
		busy.Go(func() {
			defer conns[i].close()
			p := part{l: l, w: w, conn: conns[i], number: i, start: start, end: end}
			if err := do(&p, ctx, &parts[i]); err != nil {
				cancel(err)
			}
		})
	}
	busy.Wait()
	if err := context.Cause(ctx); err != nil {
		return sample{}, err
	}
	sum := sample{seconds: time.Since(start).Seconds()}
	for _, p := range parts {
		sum.units += p.units
		sum.refused += p.refused
		sum.latencies = append(sum.latencies, p.latencies...)
	}
	return sum, nil
}

func (l load) open(ctx context.Context) ([]exchange, error) {
	conns := make([]exchange, 0, len(l.workers))
	for range l.workers {
		c, err := l.connect(ctx)
		if err != nil {
			for _, c := range conns {
				c.close()
			}
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// part is one connection's loop.
type part struct {
	l          load
	w          worker
	conn       exchange
	number     int
	start, end time.Time
}

func (p *part) run(ctx context.Context, out *sample) error {
	for turn := 0; ctx.Err() == nil; turn++ {
		due := time.Now()
		if p.l.every > 0 {
			due = p.start.Add(time.Duration(turn*len(p.l.workers)+p.number) * p.l.every)
			pause(ctx, time.Until(due))
		}
		if due.After(p.end) || p.finished() {
			return nil
		}
		if err := p.exchange(ctx, due, out); err != nil {
			return err
		}
	}
	return nil
}

func (p *part) drain(ctx context.Context, out *sample) error {
	for p.w.(finite).more() && ctx.Err() == nil {
		if err := p.exchange(ctx, time.Now(), out); err != nil {
			return err
		}
	}
	return nil
}

func (p *part) finished() bool {
	select {
	case <-p.l.finish:
		return true
	default:
		return false
	}
}

// exchange does one request; its latency counts from when it was due.
func (p *part) exchange(ctx context.Context, due time.Time, out *sample) error {
	request := p.w.next()
	for {
		status, body, err := p.conn.do(request)
		switch {
		case err != nil:
			return err
		case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
			out.refused++
			if pause(ctx, refusedPause); ctx.Err() != nil || time.Now().After(p.end) {
				return nil
			}
			continue
		case status != http.StatusOK:
			return proto.Errorf(proto.CodeInvalid, "a request was answered with status %d: %s", status, body[:min(len(body), 300)])
		}
		n, err := p.w.done(body)
		out.units += n
		latency := float64(time.Since(due)) / float64(time.Millisecond)
		out.latencies = append(out.latencies, latency)
		p.l.pulse.add(n, latency)
		return err
	}
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// behind runs a load in the background until stop is called, which gives what
// the background did.
func (l load) behind(ctx context.Context) (stop func() (sample, error)) {
	type result struct {
		x   sample
		err error
	}
	done := make(chan result, 1)
	finish := make(chan struct{})
	l.finish = finish
	go func() {
		x, err := l.run(ctx, workMax)
		done <- result{x, err}
	}()
	return func() (sample, error) {
		close(finish)
		r := <-done
		return r.x, r.err
	}
}
