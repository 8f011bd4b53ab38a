package bench

import (
	"bytes"
	"context"
	"strings"
	"time"

	"kith/proto"
)

// What the tests see of the generator.

type Visit = visit

func VisitOf(visitor, turn uint32) Visit                  { return visitOf(visitor, turn) }
func (v visit) Fields() (visitor, section, author uint32) { return v.visitor, v.section, v.author }

type visits []visit

func (v *visits) next() visit {
	x := (*v)[0]
	*v = (*v)[1:]
	return x
}

// Filled is a body, and the request around it, with visits put in.
func Filled(v ...Visit) (body, request []byte) {
	b := newBody(len(v))
	r := b.request("/v1/events")
	first, second := visits(v), visits(v)
	b.fill(&first)
	r.fill(&second)
	return b.bytes, r.bytes
}

// Loaded are the visitors that load would send, connection by connection.
func Loaded(count, conns int) (all []uint32) {
	for i := range conns {
		o := &once{at: uint32(i), step: uint32(conns), end: uint32(count)}
		for range count/conns + 2 {
			all = append(all, o.next().visitor)
		}
	}
	return all
}

var (
	PackedEvent = packedEvent
	Figure      = figure
	Hundred     = func() (when []string) {
		for _, r := range hundred() {
			when = append(when, r.when)
		}
		return when
	}
	Crowd = func(n int) (when []string) {
		for _, r := range crowd(n) {
			when = append(when, r.when)
		}
		return when
	}
	SegmentsIn = segmentsIn
	Reply      = reply
)

func Quantile(v []float64, q float64) float64 { return latencies(v).quantile(q) }

// ReadHead is readHead, flat.
func ReadHead(b []byte) (status, size, body int, ok bool, err error) {
	h, ok, err := readHead(b)
	return h.status, h.size, h.body, ok, err
}

// Accepted reads an answer as a poster of n events does.
func Accepted(n int, answer []byte) (string, error) {
	p := acknowledged{events: n}
	if _, err := p.done(answer); err != nil {
		return "", err
	}
	return p.last.String(), nil
}

// Exchanges sends requests over one connection to addr.
func Exchanges(ctx context.Context, addr string, requests ...[]byte) (statuses []int, bodies []string, err error) {
	w, err := dial(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	defer w.close()
	for _, r := range requests {
		status, body, err := w.do(r)
		if err != nil {
			return statuses, bodies, err
		}
		statuses, bodies = append(statuses, status), append(bodies, string(body))
	}
	return statuses, bodies, nil
}

type anyWorker struct{}

func (anyWorker) next() []byte             { return nil }
func (anyWorker) done([]byte) (int, error) { return 2, nil }

type anyExchange func() int

func (e anyExchange) do([]byte) (int, []byte, error) { return e(), nil, nil }
func (anyExchange) close()                           {}

// RunLoad runs a load of conns connections on which answer gives the status.
func RunLoad(ctx context.Context, conns int, every, d time.Duration, answer func() int) (units, refused int, seconds float64, err error) {
	l := load{workers: make([]worker, conns), every: every, connect: func(context.Context) (exchange, error) { return anyExchange(answer), nil }}
	for i := range l.workers {
		l.workers[i] = anyWorker{}
	}
	x, err := l.run(ctx, d)
	return x.units, x.refused, x.seconds, err
}

// RunBehind runs such a load in the background of foreground.
func RunBehind(ctx context.Context, conns int, every time.Duration, answer func() int, foreground func()) (units int, err error) {
	l := load{workers: make([]worker, conns), every: every, connect: func(context.Context) (exchange, error) { return anyExchange(answer), nil }}
	for i := range l.workers {
		l.workers[i] = anyWorker{}
	}
	stop := l.behind(ctx)
	foreground()
	x, err := stop()
	return x.units, err
}

// People are the links of count people on each of conns connections, as events
// and as requests for links name them, and who met.
func People(conns, count int) (pairs [][2]proto.Identity, users [][]proto.Identity) {
	list := (&census{}).meetings(conns, conns*count)
	for _, m := range list {
		for !m.over() {
			var a, b [identityLength]byte
			m.next().put(a[:], b[:])
			pairs = append(pairs, [2]proto.Identity{proto.Identity(a[:]), proto.Identity(b[:])})
		}
	}
	for _, p := range met(list) {
		users = append(users, p.identities())
	}
	return pairs, users
}

// LinkRequests are a post of n events that link and a request for a link.
func LinkRequests(n int) (events, link []byte) {
	c := &census{}
	return newPairPoster(n, c.newMeetings(1, n)).next(), newLinkAsker(c.newMeetings(2, n)).next()
}

// Departures opts members of count people out, list of them a request, with
// more requests than there are people. over tells whether the load was ended.
func Departures(count, list, more int) (requests []string, over bool) {
	m := (&census{}).newMeetings(3, count)
	for !m.over() {
		m.next()
	}
	from := newLeaving(m.met)
	x := newOptOutAsker(from, list)
	for range count/list + more {
		requests = append(requests, string(x.next()))
	}
	select {
	case <-from.finish:
		over = true
	default:
	}
	return requests, over
}

func LinkAnswered(answer string) (int, error) { return (&linkAsker{}).done([]byte(answer)) }
func OptOutAnswered(list int, answer string) (int, error) {
	return newOptOutAsker(nil, list).done([]byte(answer))
}

// RunDrain drains conns connections of left requests each.
func RunDrain(ctx context.Context, conns, left int, answer func() int) (units int, err error) {
	l := load{workers: make([]worker, conns), connect: func(context.Context) (exchange, error) { return anyExchange(answer), nil }}
	for i := range l.workers {
		l.workers[i] = &countedAny{left: left}
	}
	x, err := l.drain(ctx)
	return x.units, err
}

type countedAny struct {
	anyWorker
	left int
}

func (c *countedAny) more() bool {
	c.left--
	return c.left >= 0
}

func scoped(rules []rule) (list [][2]string) {
	for _, r := range rules {
		list = append(list, [2]string{r.when, r.scope})
	}
	return list
}

// Social and Household are rules, each with its scope.
func Social() [][2]string    { return scoped(social()) }
func Household() [][2]string { return scoped(household()) }

// TownMembers are the segments of each of a small town's people.
func TownMembers(people int) map[uint32]map[int]bool {
	in := map[uint32]map[int]bool{}
	for i, b := range newTown(people).bits {
		for _, o := range b.ToArray() {
			if in[o] == nil {
				in[o] = map[int]bool{}
			}
			in[o][i] = true
		}
	}
	return in
}

// TownSix counts (a|b|c|d)&e&!f.
func TownSix(people int, at []int) uint64 { return newTown(people).six(at) }

// TownAll counts one segment against all.
func TownAll(people, at int) uint64 { return newTown(people).all([]int{at}) }

// Told is an event of an archive.
type Told struct {
	At            proto.Millis
	Name, Section string
	Price         float64
}

// ArchivePosts are the bodies that load an archive.
func ArchivePosts(browsers, each int, present time.Time) (bodies [][]byte) {
	a := &archive{browsers: uint32(browsers), each: uint32(each), present: present}
	var tales []*tale
	for i := range uint32(ingestConns) {
		tales = append(tales, newTale(postEvents, &logins{a, i, ingestConns}))
	}
	for i := range uint32(ingestConns) {
		tales = append(tales, newTale(postEvents, &told{a: a, first: i, step: ingestConns}))
	}
	for _, x := range tales {
		for x.more() {
			_, body, _ := bytes.Cut(x.next(), headEnd)
			bodies = append(bodies, bytes.Clone(body))
			x.open = false
		}
	}
	return bodies
}

// ArchiveHistories are what the oracle reads of an archive's browsers.
func ArchiveHistories(browsers, each int, present time.Time) map[string][]Told {
	a := &archive{browsers: uint32(browsers), each: uint32(each), present: present}
	all := map[string][]Told{}
	for v := range a.browsers {
		for _, x := range a.history(v, nil) {
			e := Told{At: x.at, Name: x.body.Name}
			if len(x.body.Props) > 0 {
				e.Section, e.Price = x.body.Props[0].Value.Text, x.body.Props[2].Value.Number
			}
			id := string(personIdentity('b', v))
			all[id] = append(all[id], e)
		}
	}
	return all
}

// ArchiveIdentities are an archive's browsers.
func ArchiveIdentities(browsers int) (all []string) {
	for v := range browsers {
		all = append(all, string(personIdentity('b', uint32(v))))
	}
	return all
}

// Oracle is who must be in a segment over an archive.
func Oracle(browsers, each int, present time.Time, when, scope string) (members []string, err error) {
	a := &archive{browsers: uint32(browsers), each: uint32(each), present: present}
	in, _, err := a.oracle([]rule{{when: when, scope: scope}}, nil)
	if err != nil {
		return nil, err
	}
	for i, is := range in[0] {
		id := string(personIdentity('b', uint32(i)))
		if i >= browsers {
			id = string(personIdentity('a', uint32(i-browsers)))
		}
		if at, ok := a.index(id); !ok || at != i {
			return nil, proto.Errorf(proto.CodeInternal, "%s is number %d, not %d", id, at, i)
		}
		if is {
			members = append(members, id)
		}
	}
	return members, nil
}

// Unanswered is a post of what happens at present, what comes when it was not
// answered, and what comes once it was.
func Unanswered() (first, again, other []byte) {
	a := &archive{browsers: 100, each: 1, present: time.Now()}
	x := newTale(3, newPresent(a, 0, 1))
	first = bytes.Clone(x.next())
	again = bytes.Clone(unanswered{x}.next())
	if _, err := x.done([]byte(`{"accepted":3,"refused":[],"position":"0:1"}`)); err != nil || (unanswered{x}).more() {
		return first, nil, nil
	}
	return first, again, x.next()
}

func IdentitiesOf(table string) (all []string, err error) {
	err = identitiesOf(strings.NewReader(table), func(id string) { all = append(all, id) })
	return all, err
}
