package bench

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"

	"kith/proto"
)

const (
	batchIdentities = 100
	batchConns      = 8
)

func lookupPath(visitor uint32) string {
	return "/v1/identities/" + string(identityOf(visitor)) + "/segments"
}

// asker looks single identities up.
type asker struct {
	r       *rand.Rand
	request []byte
	digits  []byte // of request
	n       int
}

func newAsker(seed uint64) *asker {
	a := &asker{r: rand.New(rand.NewPCG(seed, 5)), request: getRequest(lookupPath(0))}
	at := bytes.Index(a.request, []byte(visitorMark)) + 1
	a.digits = a.request[at : at+8]
	return a
}

func (a *asker) next() []byte {
	putDigits(a.digits, a.r.Uint32N(visitors))
	return a.request
}

// checkEvery is how often an answer is read: its reading costs.
const checkEvery = 64

func (a *asker) done(answer []byte) (int, error) {
	if a.n++; a.n%checkEvery == 0 && (!bytes.Contains(answer, a.digits) || !bytes.Contains(answer, []byte(`"recent-s`))) {
		return 0, proto.Errorf(proto.CodeInvalid, "a look-up of visitor %s was answered with %s", a.digits, answer)
	}
	return 1, nil
}

func askers() []worker {
	workers := make([]worker, postConns)
	for i := range workers {
		workers[i] = newAsker(uint64(i))
	}
	return workers
}

// batchAsker looks a hundred identities up at once.
type batchAsker struct {
	r       *rand.Rand
	request []byte
	digits  [][]byte
	n       int
}

func newBatchAsker(seed uint64) *batchAsker {
	text := `{"identities":["` + strings.Repeat(string(identityOf(0))+`","`, batchIdentities)
	a := &batchAsker{r: rand.New(rand.NewPCG(seed, 7)), request: postRequest("/v1/lookup", []byte(strings.TrimSuffix(text, `,"`)+"]}"))}
	for at := 0; len(a.digits) < batchIdentities; at += 8 {
		at += bytes.Index(a.request[at:], []byte(visitorMark)) + 1
		a.digits = append(a.digits, a.request[at:at+8])
	}
	return a
}

func (a *batchAsker) next() []byte {
	for _, d := range a.digits {
		putDigits(d, a.r.Uint32N(visitors))
	}
	return a.request
}

func (a *batchAsker) done(answer []byte) (int, error) {
	if a.n++; a.n%checkEvery == 0 && (!bytes.Contains(answer, a.digits[batchIdentities-1]) || bytes.Count(answer, []byte(`"known":true`)) != batchIdentities) {
		return 0, proto.Errorf(proto.CodeInvalid, "a look-up of %d visitors was answered with %s", batchIdentities, answer[:min(len(answer), 300)])
	}
	return batchIdentities, nil
}

func batchAskers() []worker {
	workers := make([]worker, batchConns)
	for i := range workers {
		workers[i] = newBatchAsker(uint64(i))
	}
	return workers
}

// ask measures look-ups.
func (n *node) look(ctx context.Context, workers []worker) (x sample, err error) {
	var cpu sample
	err = n.profiled(&cpu, func() error {
		x, err = httpLoad(n.service, workers).run(ctx, n.s.Time)
		return err
	})
	x.cpu = cpu.cpu
	return x, err
}

// answers are the node's, for the yardsticks to give the same.
func (n *node) answers(ctx context.Context) (answers, error) {
	c, err := dial(ctx, n.service)
	if err != nil {
		return nil, err
	}
	defer c.close()
	all := answers{}
	for v := range uint32(visitors) {
		status, answer, err := c.do(getRequest(lookupPath(v)))
		if err == nil && status != http.StatusOK {
			err = proto.Errorf(proto.CodeInvalid, "a look-up was answered with status %d: %s", status, answer)
		}
		if err != nil {
			return nil, err
		}
		all[lookupPath(v)] = bytes.Clone(answer)
	}
	return all, ctx.Err()
}

// lookup is one identity a request, beside a bare handler over a map that
// answers the same bytes.
func (s *session) lookup(ctx context.Context) (_ []Result, err error) {
	n, err := s.warmNode(ctx, newTape())
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	all, err := n.answers(ctx)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(n.dir, "answers")
	if err := all.write(file); err != nil {
		return nil, err
	}
	bare, err := s.startYardstick(ctx, "answers", "--file", file)
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	x, err := s.rounds(ctx,
		func(ctx context.Context) (sample, error) { return n.look(ctx, askers()) },
		func(ctx context.Context) (sample, error) {
			return bare.measured(ctx, httpLoad(bare.addr, askers()), s.Time)
		})
	if err != nil {
		return nil, err
	}
	r := lookupResult("look-up, one identity a request, 64 connections", "look-ups/s", x[0])
	r.against("bare net/http", x[1].rate())
	r.atLeast("ratio", r.Ratio, 0.8)
	r.note("bare net/http over a map, same bytes: %s/s, %.2f us of its processor a request, p99 %.3g ms", x[1].spread(), x[1].cost(), x[1].quantile(0.99))
	return []Result{r}, nil
}

func lookupResult(work, unit string, l samples) Result {
	r := Result{Work: work, Unit: unit, Ours: l.rate()}
	r.set("cpu_us", l.cost())
	r.set("p50_ms", l.quantile(0.5))
	r.set("p99_ms", l.quantile(0.99))
	r.note("%s %s; %.3g us of the node's processor each; requests p50 %.3g ms, p99 %.3g ms", l.spread(), unit, l.cost(), l.quantile(0.5), l.quantile(0.99))
	r.refusals(l)
	return r
}

// batch is a hundred identities a request, idle and while ingesting, beside
// Redis.
func (s *session) batch(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	ask := func(ctx context.Context) (sample, error) { return n.look(ctx, batchAskers()) }
	samplers := []sampler{ask}
	redis, err := s.startRedis(ctx, false)
	if err != nil {
		return nil, err
	}
	if redis != nil {
		defer closing(redis, &err)
		all, err := n.answers(ctx)
		if err != nil {
			return nil, err
		}
		if err := redis.fill(ctx, all); err != nil {
			return nil, err
		}
		samplers = append(samplers, func(ctx context.Context) (sample, error) { return redis.smembers(ctx, s.Time) })
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	idle := lookupResult("look-up, 100 identities a request, idle", "identities/s", x[0])
	if redis != nil {
		idle.against("Redis SMEMBERS x 100", x[1].rate())
	}
	idle.atLeast("identities/s", idle.Ours, 1_300_000)
	if x, err = s.rounds(ctx, func(ctx context.Context) (sample, error) { return n.beside(ctx, tape, backgroundRate, ask) }); err != nil {
		return []Result{idle}, err
	}
	busy := lookupResult("the same while ingesting 50k events/s", "identities/s", x[0])
	busy.atLeast("identities/s", busy.Ours, 300_000)
	busy.background(x[0], backgroundRate)
	return []Result{idle, busy}, nil
}

// busy is one identity a request while ingesting.
func (s *session) busy(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	x, err := s.rounds(ctx, func(ctx context.Context) (sample, error) {
		return n.beside(ctx, tape, backgroundRate, func(ctx context.Context) (sample, error) { return n.look(ctx, askers()) })
	})
	if err != nil {
		return nil, err
	}
	r := lookupResult("look-ups while ingesting 50k events/s, 64 connections", "look-ups/s", x[0])
	r.atLeast("look-ups/s", r.Ours, 30_000)
	r.atMost("p99 ms", x[0].quantile(0.99), 15)
	r.background(x[0], backgroundRate)
	return []Result{r}, nil
}
