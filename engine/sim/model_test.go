package sim

import (
	"maps"
	"slices"

	"kith/proto"
)

// The model is a plain reading of the logs, command by command: who is opted
// out, which events and traits each client has of whom, and which links there
// may and must be. It knows the order of commands within each lane and nothing
// of messages. Where that does not decide, as which links a client vouched for,
// it says "maybe".

const (
	evidenceSkew = proto.Millis(500) // twice the engine's skew: evidence must be so much newer than an opt-in
	clampMs      = proto.Millis(15_000)
	recentAge    = proto.Millis(600_000)
	recentMax    = 32
)

type model struct {
	w        *world
	laneTime []proto.Millis
	laneNow  []proto.Millis
	people   []person
	pairs    map[pair]*links
	gone     []map[proto.ClientID]bool // by lane: clients that were erased
}

// person is an identity.
type person struct {
	gen   uint32 // as identity.OptOut.Gen
	dark  bool
	since uint32 // gen of the first cut since it was last not opted out
	fence proto.Millis
	cuts  []uint64 // commands
	facts map[factsKey]*facts
	hazy  map[proto.SpaceID]proto.Millis // evidence up to here may have been forgotten
	gone  map[factsKey]proto.Millis      // evidence of that client up to here makes no link
	taken map[factsKey]int               // events and traits that were taken in, or may have been
}

type factsKey struct {
	client proto.ClientID
	space  proto.SpaceID
}

type facts struct {
	events []event
	recent []recent
	traits map[string]string
	hazy   bool // traits are
}

type event struct {
	number int
	at     proto.Millis
	maybe  bool
}

type recent struct {
	id    string
	at    proto.Millis
	maybe bool
}

type pair struct {
	space proto.SpaceID
	a, b  int
}

// links is the evidence for and against an edge.
type links struct {
	times   []proto.Millis // of links
	maybe   []proto.Millis // of links that may not have been taken in
	removed proto.Millis
	hazy    proto.Millis // links up to here may have been removed
}

func newModel(w *world) *model {
	m := &model{w: w, laneTime: make([]proto.Millis, w.lanes), laneNow: make([]proto.Millis, w.lanes), pairs: map[pair]*links{}}
	for range w.lanes {
		m.gone = append(m.gone, map[proto.ClientID]bool{})
	}
	for range w.ids {
		m.people = append(m.people, person{facts: map[factsKey]*facts{}, hazy: map[proto.SpaceID]proto.Millis{}, gone: map[factsKey]proto.Millis{}, taken: map[factsKey]int{}})
	}
	return m
}

func (m *model) pair(s proto.SpaceID, a, b int) *links {
	k := pair{s, min(a, b), max(a, b)}
	if m.pairs[k] == nil {
		m.pairs[k] = &links{}
	}
	return m.pairs[k]
}

// entry takes in what was appended to a lane.
func (m *model) entry(l proto.LaneID, e *proto.Entry) {
	for rest := e.Commands; len(rest) > 0; {
		c, more, err := proto.NextCommand(rest)
		m.w.must(err)
		if rest = more; c.Partition != proto.LanePartition {
			m.laneNow[l] = max(m.laneNow[l], min(max(e.Time, m.laneTime[l]), m.laneTime[l]+clampMs))
		}
		m.command(l, c)
	}
}

func (m *model) command(l proto.LaneID, c proto.Command) {
	evidence := func(t proto.Millis) proto.Millis { return max(min(t, m.laneNow[l]), 1) }
	switch c.Kind {
	case proto.CommandBeat:
		b, err := proto.DecodeBeat(c.Body)
		m.w.must(err)
		m.laneTime[l] = max(m.laneTime[l], b.Time)
		m.laneNow[l] = max(m.laneNow[l], b.Time)
	case proto.CommandEvent:
		var e proto.Event
		m.w.must(proto.DecodeEvent(c.Body, &e))
		if m.gone[l][e.Client] {
			return
		}
		m.event(&e, evidence(e.Received), m.laneNow[l])
	case proto.CommandTraits:
		x, err := proto.DecodeTraits(c.Body)
		if m.w.must(err); m.gone[l][x.Client] {
			return
		}
		m.traits(&x, evidence(x.Received))
	case proto.CommandLink:
		x, err := proto.DecodeLink(c.Body)
		if m.w.must(err); m.gone[l][x.Client] {
			return
		}
		k := m.pair(x.Space, m.w.by[m.w.hasher.Hash(x.A)], m.w.by[m.w.hasher.Hash(x.B)])
		k.times = append(k.times, evidence(x.Received))
	case proto.CommandUnlink:
		x, err := proto.DecodeUnlink(c.Body)
		m.w.must(err)
		m.unlink(&x, m.laneNow[l]) // not the gateway's time: as a cut
	case proto.CommandCut:
		x, err := proto.DecodeCut(c.Body)
		m.w.must(err)
		m.cut(&x, m.laneNow[l]) // not the gateway's time: no link that the lane took is newer
	case proto.CommandOptIn:
		x, err := proto.DecodeOptIn(c.Body)
		m.w.must(err)
		m.optIn(&x, m.laneNow[l])
	case proto.CommandControl:
		x, err := proto.DecodeRelayed(c.Body)
		m.w.must(err)
		r, err := proto.DecodeControl(x.Record)
		m.w.must(err)
		if e := r.GetEraseClient(); e != nil {
			m.gone[l][proto.ClientID(e.Client)] = true
		}
	case proto.CommandForget:
		x, err := proto.DecodeForget(c.Body)
		m.w.must(err)
		m.forget(l, &x, m.laneNow[l])
	case proto.CommandExpire:
		m.expire(l, m.laneNow[l])
	}
}

// forget has what an ended client knows go; what others say at that time may go
// with it, where nobody else had said anything before.
func (m *model) forget(l proto.LaneID, x *proto.Forget, t proto.Millis) {
	for i := range m.people {
		if m.w.home(i) != l {
			continue
		}
		p := &m.people[i]
		delete(p.facts, factsKey{x.Client, x.Space})
		p.hazy[x.Space] = max(p.hazy[x.Space], t+evidenceSkew)
		m.blur(x.Space, i, t)
	}
}

// expire has what is too old go, perhaps.
func (m *model) expire(l proto.LaneID, now proto.Millis) {
	keep := m.w.keep
	for i := range m.people {
		if m.w.home(i) != l {
			continue
		}
		p := &m.people[i]
		seen := map[proto.SpaceID]proto.Millis{}
		for k, f := range p.facts {
			for e := range f.events {
				f.events[e].maybe = f.events[e].maybe || f.events[e].at < now-keep.Sessions
				seen[k.space] = max(seen[k.space], f.events[e].at)
			}
		}
		for _, c := range m.w.clients {
			if keep.Idle > 0 && seen[c.Space] < now-keep.Idle {
				m.idle(p, i, c.Space, now)
			}
		}
	}
}

// idle has all of a person go in a space, perhaps: it may have links that are
// newer than its events.
func (m *model) idle(p *person, i int, s proto.SpaceID, now proto.Millis) {
	for k, f := range p.facts {
		if k.space != s {
			continue
		}
		f.hazy = true
		for r := range f.recent {
			f.recent[r].maybe = true
		}
		for e := range f.events {
			f.events[e].maybe = true
		}
	}
	p.hazy[s] = max(p.hazy[s], now+evidenceSkew)
	m.blur(s, i, now)
}

// admits says whether something with evidence t is taken in, or may be.
func (p *person) admits(s proto.SpaceID, t proto.Millis) (yes, maybe bool) {
	if p.dark || t <= p.fence {
		return false, false
	}
	return true, t <= p.hazy[s]
}

func (p *person) of(c proto.ClientID, s proto.SpaceID) *facts {
	k := factsKey{c, s}
	if p.facts[k] == nil {
		p.facts[k] = &facts{traits: map[string]string{}}
	}
	return p.facts[k]
}

func (m *model) event(e *proto.Event, t, now proto.Millis) {
	first := m.w.by[m.w.hasher.Hash(e.Identities[0])]
	p := &m.people[first]
	yes, maybe := p.admits(e.Space, t)
	if !yes {
		return
	}
	p.taken[factsKey{e.Client, e.Space}]++
	f := p.of(e.Client, e.Space)
	known := slices.IndexFunc(f.recent, func(r recent) bool { return r.id == e.ID && now-r.at <= recentAge })
	if known < 0 || f.recent[known].maybe {
		f.recent = slices.DeleteFunc(f.recent, func(r recent) bool { return now-r.at > recentAge })
		if len(f.recent) >= recentMax {
			f.recent = slices.Delete(f.recent, 0, len(f.recent)-recentMax+1)
		}
		f.recent = append(f.recent, recent{e.ID, now, maybe})
		v, _ := e.Prop("n")
		f.events = append(f.events, event{int(v.Number), min(e.Time, now), maybe || known >= 0})
	}
	for _, id := range e.Identities[1:] {
		k := m.pair(e.Space, first, m.w.by[m.w.hasher.Hash(id)])
		if maybe || known >= 0 { // one that came before links nobody again
			k.maybe = append(k.maybe, t)
		} else {
			k.times = append(k.times, t)
		}
	}
}

func (m *model) traits(x *proto.Traits, t proto.Millis) {
	p := &m.people[m.w.by[m.w.hasher.Hash(x.Identity)]]
	yes, maybe := p.admits(x.Space, t)
	if !yes {
		return
	}
	p.taken[factsKey{x.Client, x.Space}]++
	f := p.of(x.Client, x.Space)
	f.hazy = f.hazy || maybe
	for _, s := range x.Set {
		if s.Value.Text == "" {
			delete(f.traits, s.Key)
		} else {
			f.traits[s.Key] = s.Value.Text
		}
	}
}

func (m *model) unlink(x *proto.UnlinkCommand, t proto.Millis) {
	a := m.w.by[x.A]
	if x.B != (proto.IdentityHash{}) {
		k := m.pair(x.Space, a, m.w.by[x.B])
		k.removed = max(k.removed, t)
		return
	}
	m.blur(x.Space, a, t)
}

// blur says that links of a may have been removed.
func (m *model) blur(s proto.SpaceID, a int, t proto.Millis) {
	for k, x := range m.pairs {
		if k.space == s && (k.a == a || k.b == a) {
			x.hazy = max(x.hazy, t+evidenceSkew)
		}
	}
}

func (m *model) cut(x *proto.CutCommand, t proto.Millis) {
	i := m.w.by[x.Hash]
	p := &m.people[i]
	if slices.Contains(p.cuts, x.Command) {
		return
	}
	switch {
	case x.Kind != proto.CutOptOut && p.dark:
		return
	case x.Kind == proto.CutForget:
		k := factsKey{x.Client, x.Space}
		delete(p.facts, k)
		p.gone[k] = max(p.gone[k], t+evidenceSkew)
		p.hazy[x.Space] = max(p.hazy[x.Space], t+evidenceSkew)
		m.blur(x.Space, i, t)
	default:
		p.gen += 2
		if x.Kind == proto.CutErase {
			p.fence = t + evidenceSkew
		} else if !p.dark {
			p.gen--
		}
		if x.Kind == proto.CutOptOut && !p.dark {
			p.since = p.gen
		}
		p.dark = x.Kind == proto.CutOptOut
		clear(p.facts)
	}
	p.cuts = append(p.cuts, x.Command)
	if c := m.w.cuts[x.Command]; c != nil {
		c.gen, c.taken = p.gen, maps.Clone(p.taken)
		c.until = p.gone[factsKey{x.Client, x.Space}]
	}
	m.w.every = m.w.every || x.Everywhere
}

func (m *model) optIn(x *proto.OptInCommand, t proto.Millis) {
	i := m.w.by[x.Hash]
	p := &m.people[i]
	if m.w.every { // its generation may be another: this may have lifted what the model keeps
		p.since = p.gen + 1
		delete(m.w.acked, i)
	}
	if !p.dark || p.gen != x.Gen {
		return
	}
	p.gen++
	p.dark = false
	p.fence = t + evidenceSkew
	delete(m.w.acked, i)
}

// edge says whether there may and must be an edge at rest.
func (m *model) edge(k pair) (may, must bool) {
	x, a, b := m.pairs[k], &m.people[k.a], &m.people[k.b]
	if x == nil || a.dark || b.dark {
		return false, false
	}
	from := max(x.removed, a.fence, b.fence)
	sure := max(from, x.hazy, a.hazy[k.space], b.hazy[k.space])
	for _, t := range x.times {
		may, must = may || t > from, must || t > sure
	}
	for _, t := range x.maybe {
		may = may || t > from
	}
	return may, must
}
