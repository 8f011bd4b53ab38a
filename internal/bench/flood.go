package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"kith/internal/config"
	"kith/proto"
)

// A flood is a million opt-outs a minute.
const (
	floodPerSecond = 1_000_000 / 60
	floodConns     = 256 // of a client's servers
	floodBrowsers  = 4096
	floodList      = 100

	floodLead    = 2 * time.Second
	floodLookups = 2000 // look-ups a second beside it, and without it
	floodAskers  = 16   // their connections
	floodKept    = 200  // opt-outs of a connection of which one is looked up afterwards

	addressHeader = "X-Bench-Address"
	strangerMark  = "f00000000"
)

// shrugging is a wire whose caller does not mind that it is refused, or that an
// opt-out holds already and its receipt comes later.
type shrugging struct{ *wire }

func (w shrugging) do(request []byte) (int, []byte, error) {
	status, body, err := w.wire.do(request)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable || status == http.StatusAccepted {
		status = http.StatusOK
	}
	return status, body, err
}

// lateComer connects when it first asks, as browsers do.
type lateComer struct {
	ctx  context.Context
	addr string
	shrugging
}

func (l *lateComer) do(request []byte) (int, []byte, error) {
	if l.wire == nil {
		var err error
		if l.wire, err = dial(l.ctx, l.addr); err != nil {
			return 0, nil, err
		}
	}
	return l.shrugging.do(request)
}

func (l *lateComer) close() {
	if l.wire != nil {
		l.wire.close()
	}
}

// deluge is one kind of flood.
type deluge struct {
	name  string
	make  func(*torrent) *flooder
	list  int // opt-outs a request
	conns int
}

// torrent is one sample's flood; its connections share it.
type torrent struct {
	public, service string
	number          atomic.Uint32 // of identities and networks
	accepted        atomic.Int64
	limited         atomic.Int64
}

// flooder is a connection of a flood.
type flooder struct {
	t       *torrent
	request []byte
	ids     [][]byte // digits of identities
	network []byte   // digits of the visitor's network, nil: always the same
	numbers []uint32 // of the ids that are under way
	list    int
	done1   []uint32 // some that were accepted
	not     []uint32 // some that were limited
}

func (f *flooder) next() []byte {
	first := f.t.number.Add(uint32(f.list)) - uint32(f.list)
	f.numbers = f.numbers[:0]
	for i, id := range f.ids {
		putDigits(id, first+uint32(i))
		f.numbers = append(f.numbers, first+uint32(i))
	}
	if f.network != nil {
		copy(f.network, fmt.Sprintf("%03d.%03d", 100+first/100%100, 100+first%100))
	}
	return f.request
}

var (
	rateLimited = []byte(`"code":"rate_limited"`)
	overloaded  = []byte(`"code":"overloaded"`)
)

// done counts what was done, and what was limited; anything else is an error.
func (f *flooder) done(answer []byte) (int, error) {
	if bytes.Contains(answer, rateLimited) || bytes.Contains(answer, overloaded) {
		f.t.limited.Add(int64(f.list))
		if f.not = append(f.not, f.numbers[0]); len(f.not) > floodKept {
			f.not = f.not[1:]
		}
		return 0, nil
	}
	if n := bytes.Count(answer, []byte(`"opted_out":true`)); n != f.list {
		return 0, proto.Errorf(proto.CodeInvalid, "an opt-out of %d is answered with: %s", f.list, answer[:min(len(answer), 300)])
	}
	f.t.accepted.Add(int64(f.list))
	if f.done1 = append(f.done1, f.numbers[0]); len(f.done1) > floodKept {
		f.done1 = f.done1[1:]
	}
	return f.list, nil
}

// byKey opts out with a client's key.
func byKey(list int) func(*torrent) *flooder {
	return func(t *torrent) *flooder {
		f := &flooder{t: t, list: list}
		body := `{"identity":"browser:` + strangerMark + `"}`
		if list > 1 {
			body = `{"identities":["browser:` + strangerMark + `"`
			for range list - 1 {
				body += `,"browser:` + strangerMark + `"`
			}
			body += `]}`
		}
		f.request = postRequest(optOutsPath, []byte(body))
		f.find()
		return f
	}
}

// byBrowser opts out as browsers do, of one network or of ten thousand, by cookies
// that are made up.
func byBrowser(networks bool) func(*torrent) *flooder {
	return func(t *torrent) *flooder {
		const address = "203.100.100.7"
		f := &flooder{t: t, list: 1}
		f.request = []byte("POST /v1/optout HTTP/1.1\r\nHost: bench\r\n" + addressHeader + ": " + address + "\r\nCookie: kith_id=" + strangerMark + "\r\nContent-Length: 0\r\n\r\n")
		f.find()
		if networks {
			at := bytes.Index(f.request, []byte(address)) + len("203.")
			f.network = f.request[at : at+len("100.100")]
		}
		return f
	}
}

// find notes where the identities lie in the request.
func (f *flooder) find() {
	for at := 0; len(f.ids) < f.list; at += len(strangerMark) {
		at += bytes.Index(f.request[at:], []byte(strangerMark))
		f.ids = append(f.ids, f.request[at+1:at+len(strangerMark)])
	}
}

func (d *deluge) load(t *torrent) (load, []*flooder) {
	addr := t.service
	workers, list := make([]worker, d.conns), make([]*flooder, d.conns)
	for i := range workers {
		f := d.make(t)
		if bytes.HasPrefix(f.request, []byte("POST /v1/optout ")) {
			addr = t.public
		}
		workers[i], list[i] = f, f
	}
	return load{
		workers: workers, every: time.Second * time.Duration(d.list) / floodPerSecond,
		connect: func(ctx context.Context) (exchange, error) {
			return &lateComer{ctx: ctx, addr: addr}, nil
		},
	}, list
}

// steady is look-ups at a rate, whose latencies count from when each was due.
func (n *node) steady(ctx context.Context) (sample, error) {
	workers := make([]worker, floodAskers)
	for i := range workers {
		workers[i] = newAsker(rand.Uint64())
	}
	l := httpLoad(n.service, workers)
	l.every = time.Second / floodLookups
	return l.run(ctx, n.s.Time)
}

// drown takes look-ups beside a flood, then looks whether what was accepted is out
// and what was limited is not.
func (n *node) drown(ctx context.Context, d *deluge, from uint32) (x sample, err error) {
	t := &torrent{public: n.public, service: n.service}
	t.number.Store(from)
	l, list := d.load(t)
	var cpu sample
	began := time.Now()
	err = n.profiled(&cpu, func() error {
		stop := l.behind(ctx)
		pause(ctx, floodLead) // until all have connected
		var e error
		x, e = n.steady(ctx)
		_, e2 := stop()
		if e == nil {
			e = e2
		}
		return e
	})
	if err != nil {
		return x, err
	}
	took := time.Since(began).Seconds()
	x.cpu = cpu.cpu
	x.also = map[string]float64{
		"accepted": float64(t.accepted.Load()) / took, "limited": float64(t.limited.Load()) / took, "cpu": cpu.cpu / took,
	}
	for _, f := range list {
		if err := n.checkFlood(ctx, f.done1, true); err != nil {
			return x, err
		}
		if err := n.checkFlood(ctx, f.not, false); err != nil {
			return x, err
		}
	}
	n.rest(ctx)
	return x, nil
}

// checkFlood looks one of the numbers' identities up, if there are any.
func (n *node) checkFlood(ctx context.Context, numbers []uint32, out bool) error {
	if len(numbers) == 0 {
		return nil
	}
	id := fmt.Sprintf("browser:f%08d", numbers[rand.IntN(len(numbers))])
	status, answer, err := n.call(ctx, http.MethodGet, "/v1/identities/"+id+"/segments", nil)
	if err != nil {
		return err
	}
	if want := []byte(`"opted_out":` + strconv.FormatBool(out)); status != http.StatusOK || !bytes.Contains(answer, want) {
		return proto.Errorf(proto.CodeInvalid, "%s in a flood of opt-outs should be %s, a look-up is answered with status %d: %s", id, want, status, answer)
	}
	return nil
}

// deluges are the floods: a client's stream, one a request and in lists, and
// browsers with made-up cookies.
func deluges() []*deluge {
	browsers := fmt.Sprintf(" on %d connections", floodBrowsers)
	return []*deluge{
		{"a key, one a request", byKey(1), 1, floodConns},
		{fmt.Sprintf("a key, lists of %d", floodList), byKey(floodList), floodList, floodConns},
		{"made-up cookies from one network" + browsers, byBrowser(false), 1, floodBrowsers},
		{"made-up cookies from 10,000 networks" + browsers, byBrowser(true), 1, floodBrowsers},
	}
}

// flood is look-ups at a steady rate beside a million opt-outs a minute, and
// without, in turn. The node has the limits that it has by default.
func (s *session) flood(ctx context.Context) (_ []Result, err error) {
	n, err := s.warmNode(ctx, newTape(), "--rate-optouts-max", strconv.Itoa(config.Default().Limits.RateOptOutsMax), "--address-header", addressHeader)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	kinds := deluges()
	samplers := []sampler{}
	var turn uint32
	for _, d := range kinds {
		samplers = append(samplers, n.steady, func(ctx context.Context) (sample, error) {
			turn++
			return n.drown(ctx, d, turn*5_000_000)
		})
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	var results []Result
	for i, d := range kinds {
		results = append(results, floodResult(d, x[2*i], x[2*i+1]))
	}
	return results, nil
}

func floodResult(d *deluge, without, with samples) Result {
	r := Result{Work: "look-ups' p99 beside a million opt-outs a minute: " + d.name, Unit: "ms", Ours: with.quantile(0.99)}
	r.against("without", without.quantile(0.99))
	r.atMost("ratio", r.Ratio, 2)
	also := func(name string) float64 { return with.median(func(x sample) float64 { return x.also[name] }) }
	r.set("accepted_per_s", also("accepted"))
	r.set("limited_per_s", also("limited"))
	r.note("%s look-ups/s with it, %s without; p50 %.3g ms and %.3g ms; p90 %.3g ms and %.3g ms", figure(with.rate()), figure(without.rate()), with.quantile(0.5), without.quantile(0.5), with.quantile(0.9), without.quantile(0.9))
	r.note("opt-outs: %s/s done, %s/s limited (%d/s are a million a minute); the node took %.2f of a core", figure(also("accepted")), figure(also("limited")), floodPerSecond, also("cpu"))
	r.note("of those done and of those limited some were looked up afterwards: the first are out, the others not")
	r.refusals(with)
	return r
}
