package bench

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync/atomic"

	"kith/proto"
)

// People are users of 2 to 5 identities: an account, and one to four browsers
// of which each is linked to it by an event that names both.

const (
	browsersMax = 4
	// openPeople is how many users a connection has begun at any time: so far
	// apart, at most, are the links of one.
	openPeople = 256
)

// person is a user: its browsers have consecutive numbers.
type person struct{ account, first, browsers uint32 }

// identity is one of its members; the account is number 0.
func (p person) identity(member uint32) proto.Identity {
	if member == 0 {
		return personIdentity('a', p.account)
	}
	return personIdentity('b', p.first+member-1)
}

// identities are all its members.
func (p person) identities() (all []proto.Identity) {
	for i := range p.browsers + 1 {
		all = append(all, p.identity(i))
	}
	return all
}

const (
	browserModel   = "browser:" + visitorMark // the warm set's visitors are people's browsers, if they met
	accountModel   = "account:u00000000"
	identityLength = len(browserModel)
)

func personIdentity(kind byte, number uint32) proto.Identity {
	b := make([]byte, identityLength)
	putIdentity(b, kind, number)
	return proto.Identity(b)
}

// putIdentity writes the browser or account of a number over b.
func putIdentity(b []byte, kind byte, number uint32) {
	model := browserModel
	if kind == 'a' {
		model = accountModel
	}
	copy(b, model)
	putDigits(b[identityLength-8:identityLength], number)
}

// census numbers people, for several connections at once.
type census struct{ people, browsers atomic.Uint32 }

// pair is a link to make.
type pair struct {
	browser, account uint32
	turned           bool // the account is named first
}

// put writes both identities over a and b.
func (p pair) put(a, b []byte) {
	if p.turned {
		a, b = b, a
	}
	putIdentity(a, 'b', p.browser)
	putIdentity(b, 'a', p.account)
}

// meetings are the links of new people, each link at a random time among
// those of openPeople others. They belong to one goroutine.
type meetings struct {
	r      *rand.Rand
	census *census
	left   int // people still to begin
	open   []meeting
	met    []person // complete
	last   pair
}

type meeting struct {
	person
	linked uint32 // browsers that are
}

// newMeetings gives the links of count people; what comes after is the last
// link again: a body is always full.
func (c *census) newMeetings(seed uint64, count int) *meetings {
	return &meetings{r: rand.New(rand.NewPCG(seed, 11)), census: c, left: count}
}

// endless is more people than any sample links.
const endless = 1 << 40

func (m *meetings) next() pair {
	for m.left > 0 && len(m.open) < openPeople {
		m.begin()
	}
	if len(m.open) == 0 {
		return m.last
	}
	i := m.r.IntN(len(m.open))
	x := &m.open[i]
	m.last = pair{x.first + x.linked, x.account, m.r.IntN(2) == 0}
	if x.linked++; x.linked == x.browsers {
		m.met = append(m.met, x.person)
		m.open[i] = m.open[len(m.open)-1]
		m.open = m.open[:len(m.open)-1]
	}
	return m.last
}

func (m *meetings) begin() {
	m.left--
	n := 1 + m.r.Uint32N(browsersMax)
	m.open = append(m.open, meeting{person: person{m.census.people.Add(1), m.census.browsers.Add(n) - n, n}})
}

// over reports whether all links were given.
func (m *meetings) over() bool { return m.left == 0 && len(m.open) == 0 }

// met are the people who met, of several connections.
func met(list []*meetings) (all []person) {
	for _, m := range list {
		all = append(all, m.met...)
	}
	return all
}

// early are those of them who met first: the last request of a load may have
// been refused, and then it was not sent again.
func early(list []*meetings) (all []person) {
	for _, m := range list {
		all = append(all, m.met[:len(m.met)/2]...)
	}
	return all
}

// meetings are those of count people, or of endless ones, over conns connections.
func (c *census) meetings(conns, count int) []*meetings {
	list := make([]*meetings, conns)
	for i := range list {
		list[i] = c.newMeetings(rand.Uint64(), (count+conns-1)/conns)
	}
	return list
}

// loginText is the event that links.
const loginText = `{"event":"login","identities":["` + browserModel + `","` + accountModel + `"],"props":{"country":"DE"}}`

// secondIdentity is how far the second identity of a text is from the first.
const secondIdentity = identityLength + len(`","`)

// pairPoster posts events that link.
type pairPoster struct {
	acknowledged
	request []byte
	at      []int // where the first identities lie
	from    *meetings
}

func newPairPoster(events int, from *meetings) *pairPoster {
	text := bytes.Repeat([]byte(loginText+","), events)
	p := &pairPoster{from: from, request: postRequest(eventsPath, append(append([]byte(`{"events":[`), text[:len(text)-1]...), "]}"...))}
	p.events = events
	for at := 0; len(p.at) < events; at += identityLength {
		at += bytes.Index(p.request[at:], []byte(browserModel))
		p.at = append(p.at, at)
	}
	return p
}

func (p *pairPoster) more() bool { return !p.from.over() }

func (p *pairPoster) next() []byte {
	for _, at := range p.at {
		p.from.next().put(p.request[at:at+identityLength], p.request[at+secondIdentity:at+secondIdentity+identityLength])
	}
	return p.request
}

// pairPosters post the links of each of list, on a connection each.
func pairPosters(list []*meetings) []worker {
	workers := make([]worker, len(list))
	for i, m := range list {
		workers[i] = newPairPoster(postEvents, m)
	}
	return workers
}

// meet links count new people and waits until that is applied.
func (n *node) meet(ctx context.Context, c *census, count int) ([]person, error) {
	list := c.meetings(linkConns, count)
	if err := n.finish(ctx, pairPosters(list)); err != nil {
		return nil, err
	}
	return met(list), nil
}

// social are segments of which people's events match two, one of them of
// scope user.
func social() []rule {
	rules := []rule{
		{id: "returned", when: `count(event.name == "login", "30d") >= 1`},
		{id: "germans", when: `last(event.country == "DE") > now - "7d"`, scope: "user"},
	}
	for _, section := range []string{"s0", "s1", "s2", "s3"} {
		rules = append(rules,
			rule{id: "fan-" + section, when: `count(event.section == "` + section + `", "30d") >= 3`},
			rule{id: "fans-" + section, when: `count(event.section == "` + section + `", "30d") >= 3`, scope: "user"})
	}
	return rules
}
