package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"

	"kith/proto"
)

const optOutsPath = "/v1/optouts"

// cutsPerSecond is how many opt-outs a second there are people for: a sample
// ends when all of them lost somebody.
const (
	cutsPerSecond     = 12_000
	cutsPerSecondOnce = 1_000 // one at a time
)

// leaving are people of whom one member each is to opt out. It is shared by
// connections.
type leaving struct {
	finish chan struct{} // closed when all were given

	mu     sync.Mutex // for what follows
	people []person
	at     int
	given  []departure
}

// departure is a member, drawn at random, that opts out.
type departure struct {
	person
	member uint32
}

func newLeaving(people []person) *leaving {
	return &leaving{finish: make(chan struct{}), people: people}
}

// next gives the next one; after the last it is the last again, for
// connections that ask once more before they finish.
func (l *leaving) next() departure {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == len(l.people) {
		return l.given[len(l.given)-1]
	}
	p := l.people[l.at]
	d := departure{p, rand.Uint32N(p.browsers + 1)}
	l.given = append(l.given, d)
	if l.at++; l.at == len(l.people) {
		close(l.finish)
	}
	return d
}

// optOutAsker opts one identity out a request, or as many as it has ids.
type optOutAsker struct {
	request []byte
	ids     [][]byte // of request
	from    *leaving
}

func newOptOutAsker(from *leaving, list int) *optOutAsker {
	body := `{"identity":"` + browserModel + `"}`
	if list > 1 {
		body = `{"identities":["` + strings.Repeat(browserModel+`","`, list-1) + browserModel + `"]}`
	}
	x := &optOutAsker{from: from, request: postRequest(optOutsPath, []byte(body))}
	for at := 0; len(x.ids) < list; at += identityLength {
		at += bytes.Index(x.request[at:], []byte(browserModel))
		x.ids = append(x.ids, x.request[at:at+identityLength])
	}
	return x
}

func (x *optOutAsker) next() []byte {
	for _, id := range x.ids {
		d := x.from.next()
		copy(id, d.identity(d.member))
	}
	return x.request
}

func (x *optOutAsker) done(answer []byte) (int, error) {
	final, signed := bytes.Count(answer, []byte(`"final":true`)), bytes.Count(answer, []byte(`"signature":"`))
	if n := len(x.ids); final != n || signed != n {
		return 0, proto.Errorf(proto.CodeInvalid, "the opt-out of %d identities from %s on is answered with %d that are final and %d that are signed: %.500s", n, x.ids[0], final, signed, answer)
	}
	return len(x.ids), nil
}

// callers are connections that opt out, each request a list of so many.
type callers struct{ conns, list int }

func (c callers) String() string {
	if c.list == 1 {
		return fmt.Sprintf("%d connections", c.conns)
	}
	return fmt.Sprintf("lists of %d", c.list)
}

// load is those connections' load.
func (c callers) load(addr string, from *leaving) load {
	workers := make([]worker, c.conns)
	for i := range workers {
		workers[i] = newOptOutAsker(from, c.list)
	}
	l := httpLoad(addr, workers)
	l.finish = from.finish
	return l
}

// optOut opts a member each of new people out and looks whether they are.
func (n *node) optOut(ctx context.Context, c *census, by callers, people int) (x sample, err error) {
	n.s.say("linking %d users of 2 to 5 identities", people)
	all, err := n.meet(ctx, c, people)
	if err != nil {
		return x, err
	}
	n.rest(ctx)
	from := newLeaving(all)
	var cpu sample
	err = n.profiled(&cpu, func() error {
		x, err = by.load(n.service, from).run(ctx, n.s.Time)
		return err
	})
	x.cpu = cpu.cpu
	if err != nil {
		return x, err
	}
	return x, n.checkGone(ctx, from.given[:len(from.given)/2]) // the last ones may have been refused at the end
}

// checkGone looks whether some of those who opted out are gone, and from
// their users.
func (n *node) checkGone(ctx context.Context, given []departure) error {
	for range min(usersCheck, len(given)) {
		d := given[rand.IntN(len(given))]
		id, sibling := d.identity(d.member), d.identity((d.member+1)%(d.browsers+1))
		status, answer, err := n.call(ctx, http.MethodGet, "/v1/identities/"+string(id)+"/segments", nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK || !bytes.Contains(answer, []byte(`"opted_out":true`)) {
			return proto.Errorf(proto.CodeInvalid, "%s opted out, a look-up is answered with status %d: %s", id, status, answer)
		}
		members, err := n.members(ctx, sibling)
		if err != nil {
			return err
		}
		if slices.Contains(members, id) {
			return proto.Errorf(proto.CodeInvalid, "%s opted out and is of the user %q", id, members)
		}
	}
	return nil
}

// optOutsAtOnce are who opts many out; the goal is the last one's.
var optOutsAtOnce = []callers{{64, 1}, {256, 1}, {8, 100}}

// optOuts is opt-outs with full purge, beside PostgreSQL.
func (s *session) optOuts(ctx context.Context) (_ []Result, err error) {
	n, err := s.node(ctx, 0, social())
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	all := &census{}
	one, many := s.perSample(cutsPerSecondOnce), s.perSample(cutsPerSecond)
	samplers := []sampler{func(ctx context.Context) (sample, error) { return n.optOut(ctx, all, callers{1, 1}, one) }}
	for _, by := range optOutsAtOnce {
		samplers = append(samplers, func(ctx context.Context) (sample, error) { return n.optOut(ctx, all, by, many) })
	}
	pg, err := s.startPostgres(ctx)
	if err != nil {
		return nil, err
	}
	if pg != nil {
		defer closing(pg, &err)
		samplers = append(samplers,
			func(ctx context.Context) (sample, error) { return pg.optOut(ctx, all, 1, one, s.Time) },
			func(ctx context.Context) (sample, error) { return pg.optOut(ctx, all, postgresConns, many/2, s.Time) })
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	return optOutResults(x, pg), nil
}

// perSample is how many people a sample needs.
func (s *session) perSample(perSecond int) int {
	return max(int(s.Time.Seconds()*float64(perSecond)), 64)
}

// optOutResults are the rows; x is in the order of the samplers.
func optOutResults(x []samples, pg *postgres) []Result {
	once := optOutResult("opt-out until the receipt, one at a time, p99", x[0])
	once.Unit, once.Ours = "ms", x[0].quantile(0.99)
	once.atMost("p99 ms", once.Ours, 50)
	results := []Result{once}
	for i, by := range optOutsAtOnce {
		r := optOutResult(fmt.Sprintf("opt-outs with full purge, %s", by), x[1+i])
		if i == len(optOutsAtOnce)-1 {
			r.atLeast("opt-outs/s", r.Ours, 10_000)
		}
		results = append(results, r)
	}
	if pg == nil {
		return results
	}
	pgOnce, pgMany := x[len(x)-2], x[len(x)-1]
	results[0].against("PostgreSQL", pgOnce.quantile(0.99))
	results[0].note("PostgreSQL: the row, its edges and its cluster computed anew in one synced transaction: p50 %.3g ms, p99 %.3g ms", pgOnce.quantile(0.5), pgOnce.quantile(0.99))
	for i := range optOutsAtOnce {
		results[1+i].against("PostgreSQL", pgMany.rate())
		results[1+i].note("PostgreSQL, %d connections: %s opt-outs/s, p99 %.3g ms", postgresConns, pgMany.spread(), pgMany.quantile(0.99))
	}
	return results
}

func optOutResult(work string, l samples) Result {
	r := Result{Work: work, Unit: "opt-outs/s", Ours: l.rate()}
	r.set("cpu_us", l.cost())
	r.set("p50_ms", l.quantile(0.5))
	r.set("p99_ms", l.quantile(0.99))
	r.note("%s opt-outs/s; %.3g us of the node's processor each; receipt after p50 %.3g ms, p99 %.3g ms", l.spread(), l.cost(), l.quantile(0.5), l.quantile(0.99))
	r.refusals(l)
	return r
}
