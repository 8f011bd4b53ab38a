package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"kith/internal/config"
	"kith/proto"
)

// ingestConns is how many posts of 200 events are under way at once.
const ingestConns = 16

// posted is a worker that posts events.
type posted interface {
	worker
	position() proto.Position // of all that it posted
}

// poster posts events of visits.
type poster struct {
	acknowledged
	body body
	from source
}

func (p *poster) next() []byte {
	p.body.fill(p.from)
	return p.body.bytes
}

// acknowledged takes the answers to posts of so many events and remembers
// where they lie in the log.
type acknowledged struct {
	events int
	last   proto.Position
}

func (p *acknowledged) position() proto.Position { return p.last }

var (
	acceptedName = []byte(`"accepted":`)
	positionName = []byte(`"position":"`)
)

func (p *acknowledged) done(answer []byte) (int, error) {
	n, ok := 0, false
	if _, rest, found := bytes.Cut(answer, acceptedName); found {
		for len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
			n, rest, ok = n*10+int(rest[0]-'0'), rest[1:], true
		}
	}
	_, rest, found := bytes.Cut(answer, positionName)
	text, _, closed := bytes.Cut(rest, []byte{'"'})
	if !ok || !found || !closed || n != p.events {
		return 0, proto.Errorf(proto.CodeInvalid, "of %d events %d were accepted: %s", p.events, n, answer[:min(len(answer), 300)])
	}
	pos, err := proto.ParsePosition(string(text))
	if err != nil {
		return 0, err
	}
	p.last = later(p.last, pos)
	return n, nil
}

// later is the least position that includes a and b. It may change a.
func later(a, b proto.Position) proto.Position {
	if a == nil {
		return b
	}
	for lane, off := range b {
		a[lane] = max(a[lane], off)
	}
	return a
}

// posters make a load of posts of events each. from gives each its visits.
func posters(conns, events int, path string, from func(i int) source) []worker {
	workers := make([]worker, conns)
	for i := range workers {
		b := newBody(events)
		if path != "" {
			b = b.request(path)
		}
		workers[i] = &poster{acknowledged{events: events}, b, from(i)}
	}
	return workers
}

// end is the position of all that workers posted.
func end(workers []worker) (pos proto.Position) {
	for _, w := range workers {
		pos = later(pos, w.(posted).position())
	}
	return pos
}

const eventsPath = "/v1/events"

func fromTape(tape []uint32) func(int) source {
	return func(i int) source { return &warm{tape: tape, at: i * len(tape) / ingestConns} }
}

// queryable runs a load of posters and waits until the last event can be
// queried; its time and the node's processor time count up to there.
func (n *node) queryable(ctx context.Context, l load, d time.Duration) (sample, error) {
	return n.applied(ctx, l.workers, func(ctx context.Context) (sample, error) { return l.run(ctx, d) })
}

// applied is queryable for any way to run posters.
func (n *node) applied(ctx context.Context, workers []worker, run sampler) (x sample, err error) {
	var cpu sample
	err = n.profiled(&cpu, func() error {
		start := time.Now()
		if x, err = run(ctx); err != nil {
			return err
		}
		acknowledged := time.Since(start)
		if err = n.wait(ctx, end(workers)); err != nil {
			return err
		}
		x.seconds = time.Since(start).Seconds()
		x.also = map[string]float64{"behind_ms": float64(time.Since(start)-acknowledged) / float64(time.Millisecond)}
		return nil
	})
	x.cpu = cpu.cpu
	return x, err
}

// posts sends one event of each of the first count identities and waits until
// they can be queried.
func (n *node) load(ctx context.Context, count int) error {
	_, err := n.loaded(ctx, count)
	return err
}

// loaded is load that gives the position of all that was sent.
func (n *node) loaded(ctx context.Context, count int) (proto.Position, error) {
	n.s.say("loading %d identities", count)
	workers := posters(ingestConns, postEvents, eventsPath, func(i int) source {
		return &once{at: uint32(i), step: ingestConns, end: uint32(count)}
	})
	for i, w := range workers {
		// Each connection takes every 16th identity, and stops after its last.
		of := (count - i + ingestConns - 1) / ingestConns
		workers[i] = &counted{w.(posted), (of + postEvents - 1) / postEvents}
	}
	err := n.finish(ctx, workers)
	return end(workers), err
}

// counted posts so many bodies.
type counted struct {
	posted
	left int
}

func (c *counted) more() bool {
	c.left--
	return c.left >= 0
}

// finish posts all that the workers, which are finite, have, and waits until
// it can be queried.
func (n *node) finish(ctx context.Context, workers []worker) error {
	if _, err := httpLoad(n.service, workers).drain(ctx); err != nil {
		return err
	}
	return n.wait(ctx, end(workers))
}

// warmNode is a node with the hundred segments and all visitors known and
// active.
func (s *session) warmNode(ctx context.Context, tape []uint32, more ...string) (*node, error) {
	n, err := s.node(ctx, 0, hundred(), more...)
	if err != nil {
		return nil, err
	}
	if err = n.load(ctx, visitors); err == nil {
		_, err = n.queryable(ctx, httpLoad(n.service, posters(ingestConns, postEvents, eventsPath, fromTape(tape))), s.Time)
	}
	if err != nil {
		_ = n.close()
		return nil, err
	}
	return n, nil
}

// ingest is durable ingest over HTTP to queryable, beside the bare pipeline
// and Redis.
func (s *session) ingest(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	bare, err := s.startPipeline(ctx)
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	samplers := []sampler{
		func(ctx context.Context) (sample, error) {
			return n.queryable(ctx, httpLoad(n.service, posters(ingestConns, postEvents, eventsPath, fromTape(tape))), s.Time)
		},
		func(context.Context) (sample, error) { return bare.run(s.Time) },
	}
	redis, err := s.startRedis(ctx, false)
	if err != nil {
		return nil, err
	}
	if redis != nil {
		defer closing(redis, &err)
		samplers = append(samplers, func(ctx context.Context) (sample, error) { return redis.sadd(ctx, fromTape(tape), s.Time) })
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	r := ingestResult("ingest, 200-event posts, durable to queryable", x[0])
	r.against("bare pipeline", x[1].rate())
	r.atLeast("events/s", r.Ours, 150_000)
	r.atLeast("ratio", r.Ratio, 0.4)
	r.note("bare pipeline: %s events/s, %.2f us of its processor an event (its generator included)", x[1].spread(), x[1].cost())
	if redis != nil {
		r.set("redis_sadd", x[2].rate())
		r.note("beside: Redis SADD, pipelined by 200 on %d connections, neither durable nor with rules: %s/s", ingestConns, figure(x[2].rate()))
	}
	return []Result{r}, nil
}

func ingestResult(work string, l samples) Result {
	r := Result{Work: work, Unit: "events/s", Ours: l.rate()}
	r.set("cpu_us_per_event", l.cost())
	r.set("ack_p50_ms", l.quantile(0.5))
	r.set("ack_p99_ms", l.quantile(0.99))
	r.note("%s events/s; %.2f us of the node's processor an event; acknowledged after p50 %.3g ms, p99 %.3g ms; queryable %.3g ms after the last acknowledgement",
		l.spread(), l.cost(), l.quantile(0.5), l.quantile(0.99), l.median(func(x sample) float64 { return x.also["behind_ms"] }))
	r.refusals(l)
	return r
}

// closer is what a measurement starts and must stop.
type closer interface{ close() error }

// closing stops c and keeps the first error.
func closing(c closer, err *error) {
	if e := c.close(); *err == nil {
		*err = e
	}
}

// natsWire publishes and waits for the reply, as wire does over HTTP.
type natsWire struct {
	conn    *nats.Conn
	subject string
}

func (w *natsWire) close() {}

// statusOfReply gives a reply over NATS the status it would have over HTTP.
func statusOfReply(answer []byte) int {
	switch {
	case bytes.Contains(answer, acceptedName):
		return 200
	case bytes.Contains(answer, []byte(`"overloaded"`)), bytes.Contains(answer, []byte(`"unavailable"`)):
		return 503
	}
	return 400
}

func (w *natsWire) do(request []byte) (int, []byte, error) {
	m, err := w.conn.Request(w.subject, request, exchangeMax)
	if err != nil {
		return 0, nil, proto.Errorf(proto.CodeUnavailable, "no answer over NATS: %w", err)
	}
	return statusOfReply(m.Data), m.Data, nil
}

// ingestNATS is the same over NATS.
func (s *session) ingestNATS(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	nc, err := nats.Connect("nats://"+n.nats, nats.Token(config.DevKey), nats.CustomInboxPrefix("_INBOX_"+config.DevClient), nats.Timeout(exchangeMax))
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "connect to the node's NATS: %w", err)
	}
	defer nc.Close()
	x, err := s.rounds(ctx, func(ctx context.Context) (sample, error) {
		l := load{
			workers: posters(ingestConns, postEvents, "", fromTape(tape)),
			connect: func(context.Context) (exchange, error) {
				return &natsWire{nc, "kith.in." + config.DevClient}, nil
			},
		}
		return n.queryable(ctx, l, s.Time)
	})
	if err != nil {
		return nil, err
	}
	r := ingestResult("ingest, 200-event messages over NATS", x[0])
	r.atLeast("events/s", r.Ours, 150_000)
	return []Result{r}, nil
}

// segments is what an event costs with many segments against few, up to as
// many as a client may have.
func (s *session) segments(ctx context.Context) (_ []Result, err error) {
	sizes := []int{10, 5_000, 10_000, 20_000}
	if s.Time < time.Second {
		sizes = []int{10, 100, 200, 400}
	}
	samplers := make([]sampler, len(sizes))
	nodes := make([]*node, len(sizes))
	defined := make([]time.Duration, len(sizes))
	for i, size := range sizes {
		n, err := s.node(ctx, 0, nil)
		if err != nil {
			return nil, err
		}
		defer closing(n, &err)
		nodes[i] = n
		start := time.Now()
		if err := n.define(ctx, crowd(size)); err != nil {
			return nil, err
		}
		defined[i] = time.Since(start)
		tape := newTape()
		if err := n.load(ctx, visitors); err != nil {
			return nil, err
		}
		samplers[i] = func(ctx context.Context) (sample, error) {
			return n.queryable(ctx, httpLoad(n.service, posters(ingestConns, postEvents, eventsPath, fromTape(tape))), s.Time)
		}
	}
	if _, err := s.rounds(ctx, samplers...); err != nil { // warms up
		return nil, err
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	var results []Result
	for i, size := range sizes[1:] {
		r := Result{Work: fmt.Sprintf("event with %d segments, same matches", size), Unit: "us", Ours: x[i+1].cost()}
		r.against("10 segments", x[0].cost())
		r.atMost("ratio", r.Ratio, 1.2)
		r.note("microseconds of the node's processor an event; %s events/s, with 10 segments %s", figure(x[i+1].rate()), figure(x[0].rate()))
		r.note("defined in %s, %d at a time", defined[i+1].Round(time.Millisecond), defineConns)
		results = append(results, r)
	}
	most, err := s.manySegments(ctx, nodes[0], nodes[len(nodes)-1], sizes[len(sizes)-1])
	return append(results, most), err
}

// manySegments is what a node with few and one with many segments, which have
// taken in the same, have in memory, and how long the second takes to start.
func (s *session) manySegments(ctx context.Context, few, many *node, size int) (Result, error) {
	r := Result{Work: fmt.Sprintf("%d segments of one client: heap that is alive", size), Unit: "MB"}
	var heaps [2]float64
	for i, n := range []*node{few, many} {
		alive, err := n.ask("alive")
		if err != nil {
			return r, err
		}
		bytes, err := strconv.ParseFloat(alive, 64)
		if err != nil {
			return r, err
		}
		heaps[i] = bytes / 1e6
	}
	r.Ours = heaps[1]
	r.against("10 segments", heaps[0])
	r.set("rss_mb", float64(many.usage().rss)/1e6)
	r.note("after a collection, with %d identities active; RSS %.0f MB, with 10 segments %.0f MB", visitors, float64(many.usage().rss)/1e6, float64(few.usage().rss)/1e6)
	dir := many.dir
	if err := many.kill(); err != nil {
		return r, err
	}
	start := time.Now()
	n, err := s.nodeIn(ctx, dir, 0)
	if err != nil {
		return r, err
	}
	r.set("start_ms", float64(time.Since(start))/float64(time.Millisecond))
	r.note("killed, and ready again after %s", time.Since(start).Round(10*time.Millisecond))
	status, answer, err := n.call(ctx, "GET", lookupPath(1), nil)
	if err == nil && (status != 200 || !bytes.Contains(answer, []byte(`"m0"`))) {
		err = proto.Errorf(proto.CodeInvalid, "a look-up after that was answered with status %d: %s", status, answer)
	}
	return r, errors.Join(err, n.close())
}

// population is how many identities the big measurements load.
func (s *session) population(n int) int {
	if s.Quick {
		n /= 4
	}
	// A sample under a second is a test of the benchmark, not a measurement.
	if s.Time < time.Second {
		n /= 100
	}
	return n
}

// memory is what idle identities cost.
func (s *session) memory(ctx context.Context) (_ []Result, err error) {
	count := s.population(1_000_000)
	n, err := s.node(ctx, 0, hundred())
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	empty := n.usage().rss
	start := time.Now()
	if err := n.profiled(&sample{}, func() error { return n.load(ctx, count) }); err != nil {
		return nil, err
	}
	took := time.Since(start)
	s.say("waiting until the memory no longer shrinks")
	return n.idle(ctx, count, took, empty)
}

func (n *node) idle(ctx context.Context, count int, took time.Duration, empty int64) ([]Result, error) {
	used := n.settle(ctx)
	if n.s.Profile != "" {
		if _, err := n.ask("heap %s.%s.heap", n.s.Profile, n.s.name); err != nil {
			return nil, err
		}
	}
	store, err := diskUsed(filepath.Join(n.dir, "store"))
	if err != nil {
		return nil, err
	}
	log, err := diskUsed(filepath.Join(n.dir, "log"))
	if err != nil {
		return nil, err
	}
	disk := Result{Work: fmt.Sprintf("%d identities of one event: store on disk", count), Unit: "bytes each", Ours: float64(store) / float64(count)}
	history := float64(historyBytes())
	disk.atMost("bytes each", disk.Ours, 250+history)
	disk.note("the goal is 250 bytes and the history, which is an event of %.0f bytes", history)
	disk.note("loaded in %s (%s/s); the log takes %s bytes each until its retention passes", took.Round(time.Second), figure(float64(count)/took.Seconds()), figure(float64(log)/float64(count)))
	memory := Result{Work: fmt.Sprintf("%d identities loaded and idle: RSS", count), Unit: "MB", Ours: float64(used.rss) / 1e6}
	memory.set("file_pages_mb", float64(used.mapped)/1e6)
	memory.note("%.0f MB of it are pages of files, which the system may drop; %.0f MB with no identities; the bound of active ones is the default, 200,000", float64(used.mapped)/1e6, float64(empty)/1e6)
	return []Result{disk, memory}, nil
}

// cold is ingest uniform over many more identities than may be active.
func (s *session) cold(ctx context.Context) (_ []Result, err error) {
	count := s.population(2_000_000)
	n, err := s.node(ctx, max(count*8/100, 1000), hundred())
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	if err := n.load(ctx, count); err != nil {
		return nil, err
	}
	x, err := s.rounds(ctx, func(ctx context.Context) (sample, error) {
		seed := rand.Uint64()
		l := httpLoad(n.service, posters(ingestConns, postEvents, eventsPath, func(i int) source { return newUniform(seed+uint64(i), count) }))
		return n.queryable(ctx, l, s.Time)
	})
	if err != nil {
		return nil, err
	}
	r := ingestResult(fmt.Sprintf("ingest, uniform over %d identities, 92 %% cold", count), x[0])
	r.atLeast("events/s", r.Ours, 40_000)
	return []Result{r}, nil
}
