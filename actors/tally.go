package actors

import (
	"math/bits"

	"kith/proto"
)

// This file counts what is taken in, by day, so that totals are known without
// going through histories, and after they are gone.

// TallyKind is what is counted. The numbers are part of what is stored.
type TallyKind uint8

// The kinds. Of those with a name the empty one is all that has no name of its
// own.
const (
	TallyNew        TallyKind = 0 // identities of which the client knew nothing before
	TallyEvent      TallyKind = 1 // events, by their name
	TallyImpression TallyKind = 2 // events named impression, by the property campaign
	TallyClick      TallyKind = 3 // click, likewise
	TallyConversion TallyKind = 4 // conversion, likewise
	TallyKinds      TallyKind = 5
)

// Names are counted apart as long as a day is young: afterwards only clients that
// take very late events can have new ones.
const (
	TallyNameBytesMax = 128
	TallyYoungDays    = 31
)

// TallyKey is what is counted together.
type TallyKey struct {
	Client proto.ClientID
	Day    proto.Day // of the events' own time
	Kind   TallyKind
	Name   string // aliases the log's bytes
}

// Tally is a count of one batch.
type Tally struct {
	TallyKey
	Entry  int // of the batch: the first that it was met in
	Count  uint64
	People People
}

// tally counts an event that was taken in.
func (h *host) tally(t *task, stranger bool) {
	if h.fx.Duplicate {
		return
	}
	e := &t.event
	key := TallyKey{Client: e.Client, Day: min(e.Time, h.entry.Now).Day(), Kind: TallyEvent}
	young := key.Day+TallyYoungDays >= h.entry.Now.Day()
	if young {
		key.Name = e.Name
	}
	person := personOf(t.r.state.Ordinal)
	h.count(key, person)
	if stranger {
		h.count(TallyKey{Client: key.Client, Day: key.Day}, person)
	}
	if kind := campaignKind(e.Name); kind != 0 {
		key.Kind, key.Name = kind, ""
		if v, _ := e.Prop("campaign"); young {
			key.Name = campaignName(v)
		}
		h.count(key, person)
	}
}

func campaignKind(event string) TallyKind {
	switch event {
	case "impression":
		return TallyImpression
	case "click":
		return TallyClick
	case "conversion":
		return TallyConversion
	}
	return 0
}

func campaignName(v proto.Value) string {
	if s := v.String(); len(s) <= TallyNameBytesMax {
		return s
	}
	return ""
}

func (h *host) count(key TallyKey, person uint) {
	i := h.lastTally // many events are like the one before
	if i >= len(h.out.Tallies) || h.out.Tallies[i].TallyKey != key {
		var ok bool
		if i, ok = h.tallied[key]; !ok {
			i = len(h.out.Tallies)
			h.tallied[key] = i
			h.out.Tallies = append(h.out.Tallies, Tally{TallyKey: key, Entry: h.entry.Index})
		}
		h.lastTally = i
	}
	x := &h.out.Tallies[i]
	x.Count++
	x.People.add(person)
}

// People tells how many identities there are at least, up to PeopleMax. It holds
// bits of their numbers, which name nobody once an identity is gone: a number is
// never given again. The zero People is nobody.
type People [peopleBits / 64]uint64

const (
	peopleBits = 512
	// PeopleMax is what is told at most; then no single bit means anything.
	PeopleMax = peopleBits / 2
)

// personOf is the bit of a number (the finaliser of splitmix64).
func personOf(o proto.Ordinal) uint {
	x := uint64(o) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return uint(x>>33) % peopleBits
}

func (p *People) add(person uint) { p[person/64] |= 1 << (person % 64) }

// Join adds the people of q. The order of joins does not matter.
func (p *People) Join(q *People) {
	n := 0
	for i := range p {
		p[i] |= q[i]
		n += bits.OnesCount64(p[i])
	}
	if n >= PeopleMax {
		for i := range p {
			p[i] = ^uint64(0)
		}
	}
}

// AtLeast is a number of identities that there surely are.
func (p *People) AtLeast() int {
	n := 0
	for _, x := range p {
		n += bits.OnesCount64(x)
	}
	return min(n, PeopleMax)
}

// Bits lists the bits, ascending; all is as good as many.
func (p *People) Bits(list []uint16) []uint16 {
	for i, x := range p {
		for ; x != 0; x &= x - 1 {
			list = append(list, uint16(i*64+bits.TrailingZeros64(x)))
		}
	}
	return list
}

// Set adds a bit that Bits gave.
func (p *People) Set(bit uint16) { p.add(uint(bit) % peopleBits) }
