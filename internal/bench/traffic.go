package bench

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"kith/internal/config"
	"kith/proto"
)

// The warm working set.
const (
	visitors   = 20_000
	zipfS      = 1.05
	burstMax   = 5
	sections   = 20
	postEvents = 200
	tapeLen    = 1 << 20 // visits made beforehand
)

// trafficText says what is sent, for whoever reads the table.
func trafficText() string {
	return fmt.Sprintf("traffic: events of %d bytes of JSON (%d packed); warm: %d visitors, zipf s=%g, bursts of 1 to %d events; 100 segments, of which an event matches 5; people: users of 2 to %d identities, each link in an event of %d bytes",
		len(eventText), len(packedEvent(0, visit{})), visitors, zipfS, burstMax, 1+browsersMax, len(loginText))
}

// visit is one event, as far as events differ.
type visit struct{ visitor, section, author, article uint32 }

// visitOf gives a visitor's turn-th event: each visitor has a favourite
// section and another, and an author.
func visitOf(visitor, turn uint32) visit {
	section := visitor % sections
	if turn%5 == 0 {
		section = (visitor + 7) % sections
	}
	return visit{visitor, section, visitor / sections % sections, (visitor*7919 + turn*31) % 1_000_000}
}

// source gives visits. It belongs to one goroutine.
type source interface{ next() visit }

// tape is the warm working set's visits, made once and read by many.
func newTape() []uint32 {
	r := rand.New(rand.NewPCG(1, 2))
	z := rand.NewZipf(r, zipfS, 1, visitors-1)
	tape := make([]uint32, 0, tapeLen+burstMax)
	for len(tape) < tapeLen {
		visitor := uint32(z.Uint64())
		for range 1 + r.IntN(burstMax) {
			tape = append(tape, visitor)
		}
	}
	return tape
}

type warm struct {
	tape []uint32
	at   int
}

func (w *warm) next() visit {
	if w.at >= len(w.tape) {
		w.at = 0
	}
	w.at++
	return visitOf(w.tape[w.at-1], uint32(w.at))
}

// uniform gives any of the first n identities, each as likely.
type uniform struct {
	r *rand.Rand
	n uint32
}

func newUniform(seed uint64, n int) *uniform {
	return &uniform{rand.New(rand.NewPCG(seed, 3)), uint32(n)}
}

func (u *uniform) next() visit { return visitOf(u.r.Uint32N(u.n), 1) }

// once gives visitors first, first+step and so on below end, and then the
// last one again: a body is always full.
type once struct{ at, step, end uint32 }

func (o *once) next() visit {
	v := visitOf(min(o.at, o.end-1), 1)
	o.at = min(o.at+o.step, o.end)
	return v
}

const (
	visitorMark = "v00000000"
	sectionMark = "s00"
	authorMark  = "a00"
	articleMark = "x000000"
	eventURL    = "https://news.example.com/cars/2026/a-long-enough-name-of-an-article-" + articleMark + ".html"
	eventRef    = "https://search.example/?q=used+cars"
	eventText   = `{"event":"page_view","identities":["browser:` + visitorMark + `"],"props":{"section":"` + sectionMark +
		`","author":"` + authorMark + `","country":"DE","price":12.5},"url":"` + eventURL + `","ref":"` + eventRef + `"}`
)

// slot is where an event's digits lie in a request.
type slot struct{ visitor, section, author, article int }

func slotOf(b []byte, from int) slot {
	at := func(mark string) int { return from + bytes.Index(b[from:], []byte(mark)) + 1 }
	return slot{at(visitorMark), at(sectionMark), at(authorMark), at(articleMark)}
}

func (s slot) put(b []byte, v visit) {
	putDigits(b[s.visitor:s.visitor+8], v.visitor)
	putDigits(b[s.section:s.section+2], v.section)
	putDigits(b[s.author:s.author+2], v.author)
	putDigits(b[s.article:s.article+6], v.article)
}

func putDigits(b []byte, v uint32) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
}

// body is a body of events whose digits can be changed.
type body struct {
	bytes []byte
	slots []slot
}

// newBody makes n events behind a prefix, such as a request's header.
func newBody(n int) body {
	text := `{"events":[` + strings.TrimSuffix(strings.Repeat(eventText+",", n), ",") + `]}`
	b := body{bytes: []byte(text)}
	b.find(0, n)
	return b
}

// find notes where the digits of n events from start on lie.
func (b *body) find(start, n int) {
	b.slots = b.slots[:0]
	for range n {
		start += bytes.Index(b.bytes[start:], []byte(`{"event":`))
		b.slots = append(b.slots, slotOf(b.bytes, start))
		start += len(eventText)
	}
}

// fill puts the next visits into the body.
func (b *body) fill(s source) {
	for _, at := range b.slots {
		at.put(b.bytes, s.next())
	}
}

// request is body behind the header of a post.
func (b body) request(path string) body {
	n := len(b.slots)
	out := body{bytes: postRequest(path, b.bytes)}
	out.find(len(out.bytes)-len(b.bytes), n)
	return out
}

func postRequest(path string, body []byte) []byte {
	head := "POST " + path + " HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer " + config.DevKey +
		"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return append([]byte(head), body...)
}

func getRequest(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer " + config.DevKey + "\r\n\r\n")
}

// packedEvent is the same event as the log holds it.
func packedEvent(now proto.Millis, v visit) []byte {
	e := proto.Event{Client: 1, Space: 1, Time: now, Received: now, Identities: []proto.Identity{identityOf(0)}, EventBody: eventBody()}
	b := e.Append(nil)
	slotOf(b, 0).put(b, v)
	return b
}

func eventBody() proto.EventBody {
	return proto.EventBody{
		Name: "page_view", URL: eventURL, Ref: eventRef,
		Props: []proto.Prop{
			{Key: "section", Value: proto.TextOf(sectionMark)},
			{Key: "author", Value: proto.TextOf(authorMark)},
			{Key: "country", Value: proto.TextOf("DE")},
			{Key: "price", Value: proto.NumberOf(12.5)},
		},
	}
}

// historyBytes is what history must keep of an event.
func historyBytes() int {
	e := eventBody()
	return len(e.Append(nil))
}

func identityOf(visitor uint32) proto.Identity {
	return proto.Identity(fmt.Sprintf("browser:v%08d", visitor))
}

// rule is a segment to define; without a scope it is of identities.
type rule struct {
	id, when, scope string
	backfill        bool
}

// hundred are the warm set's segments: an event matches five of them.
func hundred() (rules []rule) {
	for i := range sections {
		s, a := fmt.Sprintf("s%02d", i), fmt.Sprintf("a%02d", i)
		rules = append(rules,
			rule{id: "fan-" + s, when: fmt.Sprintf(`count(event.section == %q, "30d") >= 3`, s)},
			rule{id: "regular-" + s, when: fmt.Sprintf(`days(event.name == "page_view" && event.section == %q, "14d") >= 2`, s)},
			rule{id: "keen-" + s, when: fmt.Sprintf(`count(event.section == %q && event.country == "DE", "1h") >= 10`, s)},
			rule{id: "recent-" + s, when: fmt.Sprintf(`last(event.section == %q) > now - "7d"`, s)},
			rule{id: "reader-" + a, when: fmt.Sprintf(`count(event.author == %q, "30d") >= 5`, a)},
		)
	}
	return rules
}

// crowd are n segments of which every event matches the same five.
func crowd(n int) []rule {
	rules := []rule{
		{id: "m0", when: `count(event.name == "page_view", "30d") >= 3`},
		{id: "m1", when: `days(event.country == "DE", "14d") >= 2`},
		{id: "m2", when: `count(event.name == "page_view" && event.country == "DE", "1h") >= 10`},
		{id: "m3", when: `last(event.country == "DE" && event.price > 10) > now - "7d"`},
		{id: "m4", when: `count(event.price == 12.5) >= 5`},
	}
	for i := len(rules); i < n; i++ {
		when := fmt.Sprintf(`count(event.section == "x%d", "30d") >= 3`, i)
		if i%2 == 0 {
			when = fmt.Sprintf(`days(event.author == "x%d" && event.name == "page_view", "30d") >= 3 || count(event.section == "y%d") > 1`, i, i)
		}
		rules = append(rules, rule{id: fmt.Sprintf("x%d", i), when: when})
	}
	return rules
}
