package bench

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"kith/internal/config"
)

// bodyEvents is how many events a tag, or a server that waits for some, sends at once.
const bodyEvents = 20

// publicEventsRequest is a body of n events of one browser, by its cookie.
func publicEventsRequest(n int) (request []byte, visitor int) {
	body := newBody(n).bytes
	body = append([]byte(`{"client":"`+config.DevClient+`",`), body[1:]...)
	head := "POST " + eventsPath + " HTTP/1.1\r\nHost: bench\r\nCookie: kith_id=" + visitorMark + "\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return append([]byte(head), body...), len("POST "+eventsPath+" HTTP/1.1\r\nHost: bench\r\nCookie: kith_id=") + 1
}

// browserPoster posts events of a browser at a time over the public plane.
type browserPoster struct {
	acknowledged
	body    body
	visitor int // where the cookie's digits lie
	from    source
}

func newBrowserPoster(events int, from source) *browserPoster {
	p := &browserPoster{from: from}
	p.events = events
	p.body.bytes, p.visitor = publicEventsRequest(events)
	p.body.find(0, events)
	return p
}

func (p *browserPoster) next() []byte {
	v := p.from.next()
	for _, at := range p.body.slots {
		at.put(p.body.bytes, v)
	}
	putDigits(p.body.bytes[p.visitor:p.visitor+8], v.visitor)
	return p.body.bytes
}

// unread counts what a yardstick answered to a poster's requests.
type unread struct {
	worker
	units int
}

func (u unread) done([]byte) (int, error) { return u.units, nil }

// unreadAll has a yardstick be sent the same.
func unreadAll(workers []worker, units int) []worker {
	for i, w := range workers {
		workers[i] = unread{w, units}
	}
	return workers
}

// bodies is twenty events a request, beside a bare handler that reads the same
// bodies: from servers, and from browsers.
func (s *session) bodies(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	bare, err := s.startYardstick(ctx, "discard")
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	from := func(i int) source { return &warm{tape: tape, at: i * len(tape) / postConns} }
	servers := func() []worker { return posters(postConns, bodyEvents, eventsPath, from) }
	browsers := func() []worker {
		workers := make([]worker, postConns)
		for i := range workers {
			workers[i] = newBrowserPoster(bodyEvents, from(i))
		}
		return workers
	}
	ours := func(addr string, workers func() []worker) sampler {
		return func(ctx context.Context) (sample, error) {
			return n.queryable(ctx, httpLoad(addr, workers()), s.Time)
		}
	}
	beside := func(workers func() []worker) sampler {
		return func(ctx context.Context) (sample, error) {
			return bare.measured(ctx, httpLoad(bare.addr, unreadAll(workers(), bodyEvents)), s.Time)
		}
	}
	x, err := s.rounds(ctx, ours(n.service, servers), beside(servers), ours(n.public, browsers), beside(browsers))
	if err != nil {
		return nil, err
	}
	var results []Result
	for i, who := range []string{"servers", "browsers"} {
		mine, its := x[2*i], x[2*i+1]
		r := ingestResult(fmt.Sprintf("events of %s, %d a body, acknowledged after fsync", who, bodyEvents), mine)
		r.against("bare net/http", its.rate())
		r.atLeast("events/s", r.Ours, 100_000)
		r.set("events_per_core", 1e6/mine.cost())
		r.note("%s events a second of one core's time; bare net/http: %s events/s, %.2f us of its processor an event", figure(1e6/mine.cost()), its.spread(), its.cost())
		results = append(results, r)
	}
	return results, nil
}

// answered keeps the header that a wire's answer had.
type answered struct{ *wire }

func (w answered) do(request []byte) (int, []byte, error) {
	status, _, err := w.wire.do(request)
	return status, w.all, err
}

// headersToo is a load whose workers are given the answers with their headers.
func headersToo(l load) load {
	connect := l.connect
	l.connect = func(ctx context.Context) (exchange, error) {
		c, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		return answered{c.(*wire)}, nil
	}
	return l
}

// line is what stands behind name in an answer's header, empty if it is not there.
func line(answer []byte, name string) []byte {
	_, rest, _ := bytes.Cut(answer, []byte("\r\n"+name+": "))
	v, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return v
}
