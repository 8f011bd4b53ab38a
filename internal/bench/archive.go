package bench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"kith/proto"
	"kith/segments"
)

// An archive is a population of browsers with a history of four weeks, of which
// every tenth triple is a user by an account that each of the three logged in
// with. What is in it follows from numbers alone, so that what rules must say of
// it is computed apart from the node, by the plain reading of the events.
//
// All events lie from 2 to 22 hours, and whole days, before the archive's
// present: windows of whole days may end anywhere within 2 hours of that, which a
// measurement does not exceed, without an event leaving or entering them.
type archive struct {
	browsers uint32
	each     uint32 // events of a browser
	present  time.Time
}

const (
	archiveDays = 26 // how many days, and up to 22 hours, the oldest events lie back
	triple      = 10 // of so many browsers, in their order, the first userSize are a user
	userSize    = 3
)

// linked reports whether the browser is of a user of several, and its account.
func (a *archive) linked(v uint32) (account uint32, ok bool) {
	first := v - v%triple
	return v / triple, v%triple < userSize && first+userSize <= a.browsers
}

// accounts are how many there are.
func (a *archive) accounts() uint32 {
	n := a.browsers / triple
	if a.browsers%triple >= userSize {
		n++
	}
	return n
}

// happened is one event of the archive or of the present, as far as rules that
// are measured see it.
type happened struct {
	at      proto.Millis
	kind    uint8  // in kinds
	section uint8  // below sections
	price   uint16 // in halves
}

var kinds = []string{"page_view", "cart", "order", "search", "login"}

const (
	kindOrder = 2
	kindLogin = 4
)

// stored is the archive's event number turn of a browser.
func (a *archive) stored(v, turn uint32) happened {
	h := scatter(uint64(v)<<32 | uint64(turn))
	day := archiveDays - turn*(archiveDays+1)/a.each
	back := time.Duration(day)*24*time.Hour + 2*time.Hour + time.Duration(h>>40%(20*3600*1000))*time.Millisecond
	x := happened{at: proto.MillisOf(a.present.Add(-back)), section: favourite(v, h>>8), price: uint16(h >> 16 % 200)}
	switch k := h % 10; {
	case k >= 9:
		x.kind = 3
	case k >= 8:
		x.kind = kindOrder
	case k >= 6:
		x.kind = 1
	}
	return x
}

// favourite is a section that a browser reads: of four events three are of its
// favourite one.
func favourite(v uint32, chance uint64) uint8 {
	section := scatter(uint64(v)|1<<62) % sections
	if chance%4 == 0 {
		section = (section + 7) % sections
	}
	return uint8(section)
}

// login is the event that links a browser with its account: before all others.
func (a *archive) login(v uint32) happened {
	h := scatter(uint64(v) | 1<<63)
	back := (archiveDays+1)*24*time.Hour + 2*time.Hour + time.Duration(h%(20*3600*1000))*time.Millisecond
	return happened{at: proto.MillisOf(a.present.Add(-back)), kind: kindLogin}
}

// scatter is the finaliser of SplitMix64.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// body is the event as a rule sees it, as far as the rules ask.
func (x happened) body() proto.EventBody {
	e := proto.EventBody{Name: kinds[x.kind]}
	if x.kind == kindLogin {
		return e
	}
	e.Props = []proto.Prop{
		{Key: "section", Value: proto.TextOf(fmt.Sprintf("s%02d", x.section))},
		{Key: "country", Value: proto.TextOf("DE")},
		{Key: "price", Value: proto.NumberOf(float64(x.price) / 2)},
	}
	return e
}

const momentForm = "2006-01-02T15:04:05.000Z"

// append writes the event of a browser as JSON. id may be empty.
func (x happened) append(b []byte, v uint32, id string) []byte {
	b = append(b, `{"event":"`...)
	b = append(b, kinds[x.kind]...)
	b = append(b, `","time":"`...)
	b = x.at.Time().UTC().AppendFormat(b, momentForm)
	if id != "" {
		b = append(append(b, `","id":"`...), id...)
	}
	b = append(b, `","identities":["`...)
	b = appendIdentity(b, 'b', v)
	if x.kind == kindLogin {
		b = append(b, `","`...)
		b = appendIdentity(b, 'a', v/triple)
		return append(b, `"]}`...)
	}
	b = fmt.Appendf(b, `"],"props":{"section":"s%02d","author":"a%02d","country":"DE","price":%d.%d},"url":"`, x.section, x.section, x.price/2, x.price%2*5)
	b = append(b, eventURL...)
	b = append(b, `","ref":"`...)
	b = append(b, eventRef...)
	return append(b, `"}`...)
}

func appendIdentity(b []byte, kind byte, number uint32) []byte {
	at := len(b)
	b = append(b, browserModel...)
	putIdentity(b[at:], kind, number)
	return b
}

// teller gives events of browsers. It belongs to one goroutine.
type teller interface {
	next() (v uint32, x happened, id string)
	over() bool // asked before each
}

// tale posts a teller's events. A post that was not answered, because the node
// was killed, is the next again: the ids of its events make them count once.
type tale struct {
	acknowledged
	from    teller
	size    int // events of a request, the last one's fewer
	request []byte
	open    bool // request was not answered
}

func newTale(size int, from teller) *tale { return &tale{from: from, size: size} }

func (t *tale) more() bool { return t.open || !t.from.over() }

func (t *tale) next() []byte {
	if t.open {
		return t.request
	}
	body := append(t.request[:0], `{"events":[`...)
	for t.events = 0; t.events < t.size && !t.from.over(); t.events++ {
		if t.events > 0 {
			body = append(body, ',')
		}
		v, x, id := t.from.next()
		body = x.append(body, v, id)
	}
	t.open, t.request = true, postRequest(eventsPath, append(body, "]}"...))
	return t.request
}

func (t *tale) done(answer []byte) (int, error) {
	t.open = false
	return t.acknowledged.done(answer)
}

// unanswered posts what a tale's connection left open, and nothing else.
type unanswered struct{ *tale }

func (u unanswered) more() bool { return u.open }

// told is the archive, block by block of browsers, each browser's events in the
// order of their times: few identities are active at a time, as if the four
// weeks' visitors had come one after another.
type told struct {
	a           *archive
	first, step uint32 // browsers first, first+step and so on are this one's
	block, at   uint32 // this one's browsers before the block; those of it before the next event's
	turn        uint32
}

const toldBlock = 2000

func (t *told) mine() uint32 { return (t.a.browsers - t.first + t.step - 1) / t.step }
func (t *told) over() bool   { return t.block >= t.mine() }

func (t *told) next() (uint32, happened, string) {
	v, turn := t.first+(t.block+t.at)*t.step, t.turn
	if t.at++; t.at == min(toldBlock, t.mine()-t.block) {
		t.at, t.turn = 0, t.turn+1
	}
	if t.turn == t.a.each {
		t.block, t.turn = t.block+toldBlock, 0
	}
	return v, t.a.stored(v, turn), ""
}

// logins are those of the users' browsers, from at on.
type logins struct {
	a        *archive
	at, step uint32
}

func (l *logins) over() bool {
	for ; l.at < l.a.browsers; l.at += l.step {
		if _, ok := l.a.linked(l.at); ok {
			return false
		}
	}
	return true
}

func (l *logins) next() (uint32, happened, string) {
	v := l.at
	l.at += l.step
	return v, l.a.login(v), ""
}

// audience is the browsers that are about at present: as many as the warm
// set's visitors, spread over the archive.
func (a *archive) audience() (count, apart uint32) {
	count = min(visitors, a.browsers)
	return count, a.browsers / count
}

// present gives events of the audience as they happen, in bursts, and keeps
// them. Each connection has its own part of the audience.
type present struct {
	a      *archive
	r      *rand.Rand
	number int
	first  uint32
	step   uint32
	burst  int
	who    uint32
	orders map[uint32]int
	sent   [][]sent // in pieces: one list would be copied when it grows, while look-ups wait for the generator
}

const sentPiece = 8192

// sent is an event that was sent.
type sent struct {
	v uint32
	x happened
}

// liveOrders bounds the orders of one browser: a sequence keeps 256 events that
// wait for a pair.
const liveOrders = 20

func newPresent(a *archive, first, step int) *present {
	return &present{a: a, r: rand.New(rand.NewPCG(uint64(first), 17)), first: uint32(first), step: uint32(step), orders: map[uint32]int{}}
}

func (p *present) over() bool { return false }

func (p *present) next() (uint32, happened, string) {
	count, apart := p.a.audience()
	if p.burst == 0 {
		p.burst = 1 + p.r.IntN(burstMax)
		mine := (count - p.first + p.step - 1) / p.step
		p.who = (p.first + p.r.Uint32N(mine)*p.step) * apart
	}
	p.burst--
	x := happened{at: proto.MillisOf(time.Now()), section: favourite(p.who, p.r.Uint64()), price: uint16(p.r.IntN(200))}
	if p.r.IntN(10) == 0 && p.orders[p.who] < liveOrders {
		p.orders[p.who]++
		x.kind = kindOrder
	}
	if n := len(p.sent); n == 0 || len(p.sent[n-1]) == sentPiece {
		p.sent = append(p.sent, make([]sent, 0, sentPiece))
	}
	last := &p.sent[len(p.sent)-1]
	*last = append(*last, sent{p.who, x})
	p.number++
	return p.who, x, fmt.Sprintf("%d-%d", p.first, p.number)
}

// oracle says who must be in each of the rules' segments, by the plain reading
// of all that happened: browsers by number, accounts behind them.
func (a *archive) oracle(rules []rule, live []sent) (in [][]bool, unsure int, err error) {
	compiled := make([]*segments.Rule, len(rules))
	in = make([][]bool, len(rules))
	for i, r := range rules {
		if compiled[i], err = segments.Compile(r.when); err != nil {
			return nil, 0, err
		}
		in[i] = make([]bool, a.browsers+a.accounts())
	}
	slices.SortStableFunc(live, func(x, y sent) int { return int(x.v) - int(y.v) })
	now := proto.MillisOf(time.Now())
	parts := uint32(runtime.GOMAXPROCS(0))
	unsures := make([]int, parts)
	var busy sync.WaitGroup
	for part := range parts {
		busy.Go(func() {
			tens := (a.browsers + triple - 1) / triple
			for ten := tens * part / parts; ten < tens*(part+1)/parts; ten++ {
				unsures[part] += a.judge(rules, compiled, in, live, ten, now)
			}
		})
	}
	busy.Wait()
	for _, n := range unsures {
		unsure += n
	}
	return in, unsure, nil
}

// read is an event with its time.
type read struct {
	at   proto.Millis
	body proto.EventBody
}

// judge does the browsers of one ten, and the account of its user.
func (a *archive) judge(rules []rule, compiled []*segments.Rule, in [][]bool, live []sent, ten uint32, now proto.Millis) (unsure int) {
	var user []read
	first := ten * triple
	account, linked := a.linked(first)
	for v := first; v < min(first+triple, a.browsers); v++ {
		own := a.history(v, live)
		of := v < first+userSize && linked
		if of {
			user = append(user, own...)
		}
		for i := range rules {
			if rules[i].scope == "user" && of {
				continue
			}
			x := plainOf(own, 1)
			in[i][v] = x.Holds(compiled[i], now)
			unsure += notSure(x, compiled[i])
		}
	}
	if !linked {
		return unsure
	}
	for i := range rules {
		if rules[i].scope != "user" {
			continue // an account has no events of its own
		}
		x := plainOf(user, userSize)
		holds := x.Holds(compiled[i], now)
		unsure += notSure(x, compiled[i])
		for v := first; v < first+userSize; v++ {
			in[i][v] = holds
		}
		in[i][a.browsers+account] = holds
	}
	return unsure
}

func notSure(x segments.Plain, r *segments.Rule) int {
	if x.Sure(r) {
		return 0
	}
	return 1
}

func plainOf(list []read, devices int) segments.Plain {
	return segments.Plain{
		Devices: devices,
		Member:  func(proto.SegmentID) bool { return false },
		History: func(yield func(proto.Millis, *proto.EventBody) bool) {
			for i := range list {
				if !yield(list[i].at, &list[i].body) {
					return
				}
			}
		},
	}
}

// history is all that happened of a browser.
func (a *archive) history(v uint32, live []sent) (list []read) {
	if _, ok := a.linked(v); ok {
		x := a.login(v)
		list = append(list, read{x.at, x.body()})
	}
	for turn := range a.each {
		x := a.stored(v, turn)
		list = append(list, read{x.at, x.body()})
	}
	i, _ := slices.BinarySearchFunc(live, v, func(k sent, v uint32) int { return int(k.v) - int(v) })
	for ; i < len(live) && live[i].v == v; i++ {
		list = append(list, read{live[i].x.at, live[i].x.body()})
	}
	return list
}
