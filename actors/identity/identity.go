// Package identity decides what one node of the graph, an identity within a
// space, remembers and what follows from an input: Step takes a state, an
// input and the lane's time, changes the state and returns effects. It is
// pure: the same inputs in the same order give the same state, byte for byte,
// whatever the batches, the machine and the clock.
//
// StepGraph is the same for the graph's messages: it runs graph.Step on the
// node's links with the node's facts, and turns what that shows, the user's
// memberships, into the node's own. What a client's look-ups see of a node are
// its own memberships, those of scope user replaced by its user's while it is
// of a user of several (user.go). OptOut is an identity's opt-out over all
// spaces (optout.go).
//
// It does not read or write storage, send messages, or know of other nodes.
//
// # Layout of a node's value
//
// One value holds a node with the facts of all clients of its space, its links
// and what its user comes to (version 3; codec.go says what 1 and 2, which are
// still read, had otherwise):
//
//	version byte | flags (1 named, 2 device, 4 graph, 8 follows, 16 networks,
//	32 ends, 64 bare) | ordinal | exit (varint, ms; 0 none) | clients, each:
//	  client | last (varint, ms) | first (delta to last) | oldest (delta to first)
//	  recent event ids: count, each: 6 bytes of hash, age against last
//	  history: flags (1 truncated) | first block | next block | tail events |
//	           if there are some: base (delta to last) | time of the last
//	           (delta to last) | tail bytes with length
//	  memory (segments.Memory, base last)
//	if it follows, clients, each:
//	  client | memberships, each: key (delta)<<3 | next is as in the user's
//	    value<<2 | has next<<1 | in | if in: since (varint, ms) | if has next:
//	    next (varint, ms) (followed.go)
//	if it was seen on networks, for each client: count, each: key (8 bytes),
//	  last day, days (bits)
//	if it ends: end (varint, ms)
//	if it is bare: since when (varint, ms)
//	if it has links: graph.State, to the end
//
// A history record, in the tail and in blocks, is: time (varint delta to the
// record before, the first to the base), body with its length; the body of the
// first in full, of the others as they differ from it (history.go). A block is:
// version byte | records | base (varint) | records' bytes. Blocks are written
// once and never changed.
package identity

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/cespare/xxhash/v2"

	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// Bounds of one client's facts.
const (
	TailBytesMax     = 512  // a longer tail is sealed into a block
	HistoryBlocksMax = 2048 // then the oldest block is dropped and Truncated set
	RecentMax        = 32   // event ids remembered for deduplication
	RecentAgeMax     = proto.Millis(10 * 60 * 1000)
)

// State is all that is known of one node. The zero State is a node that
// nothing is known of.
type State struct {
	Named   bool // it has a number, by which its identity's string is kept
	Device  bool // the identity is a browser or device
	Ordinal proto.Ordinal
	Exit    proto.Millis // the pending record in the exit index; 0: none
	Facts   []Facts      // by client
	Graph   *graph.State // nil: never linked, never cut
	Follows bool         // it is of a user of several: User is what counts for scope user
	User    []ClientView // its user's memberships, by client
	End     proto.Millis // when the identity itself is over; 0: never
	Bare    proto.Millis // since when nothing is known of it but its name; 0: something is
}

// Facts is what one client knows of a node.
type Facts struct {
	Client      proto.ClientID
	First, Last proto.Millis // first and last seen, lane time
	oldest      proto.Millis // no event of before is kept; before First where events came late
	Memory      segments.Memory
	History     History
	Networks    []Network // by key
	recent      []recentID
}

type recentID struct {
	hash uint64 // 48 bits
	at   proto.Millis
}

// History says where the client's events lie: blocks [First, Next), then Tail.
type History struct {
	First, Next uint32
	Truncated   bool // older events were dropped at the bound
	TailEvents  int
	base, last  proto.Millis // times of the tail's first and last record
	Tail        []byte
}

// Known reports whether a client holds facts of it.
func (s *State) Known() bool { return len(s.Facts) > 0 }

// Gen is the node's generation: each opt-out and opt-in begins the next.
func (s *State) Gen() uint32 {
	if s.Graph == nil {
		return 1
	}
	return s.Graph.Gen
}

// Dark reports whether the identity is opted out.
func (s *State) Dark() bool { return s.Graph != nil && s.Graph.Dark }

// Admits reports whether something with evidence of time t may be taken in.
func (s *State) Admits(t proto.Millis) bool { return s.Graph == nil || s.Graph.Admits(t) }

// Client is the facts of one client, nil if there are none.
func (s *State) Client(id proto.ClientID) *Facts {
	for i := range s.Facts {
		if s.Facts[i].Client == id {
			return &s.Facts[i]
		}
	}
	return nil
}

// InputKind is what an Input asks for.
type InputKind uint8

// The kinds of inputs.
const (
	InputEvent  InputKind = iota + 1 // one event happened
	InputTraits                      // traits were set
	InputTimer                       // the exit record At came due
	InputFill                        // bring Client's memory up to its rules
	InputForget                      // forget what Client knows
	InputPurge                       // forget everything of a node that has no links' state
	InputTrim                        // forget Client's events from before At
)

// Input is one thing for a node to take in.
type Input struct {
	Kind   InputKind
	Client proto.ClientID
	Event  *proto.Event
	Traits []proto.Prop
	At     proto.Millis // InputTimer, InputTrim
	Device bool         // InputEvent, InputTraits: the identity is a browser or device
	End    proto.Millis // likewise: when it is over; 0: never
	// History gives a client's sealed blocks, oldest first. It is called only
	// where NeedsHistory reported true.
	History func(client proto.ClientID) iter.Seq[[]byte]
}

// Bit says that the node entered or left a segment; Key 0 is the client's
// universe.
type Bit struct {
	Client proto.ClientID
	Key    proto.SegmentKey
	Set    bool
}

// Block is a sealed piece of history.
type Block struct {
	Client proto.ClientID
	Number uint32
	Data   []byte // nil: delete
}

// Effects is what follows from a Step. It is reused: Reset empties it.
type Effects struct {
	Created   bool // it was not named before
	Changed   bool // the state differs from before
	Published bool // what look-ups see differs from before
	Duplicate bool // the event's id was known: nothing was done
	Shared    bool // what it gives to its user differs from before
	Due       bool // time changed what its user comes to: the root must look again
	Purged    bool // everything was forgotten
	Exit      proto.Millis
	Bits      []Bit
	Blocks    []Block
}

// Reset empties fx and keeps its memory.
func (fx *Effects) Reset() {
	*fx = Effects{Bits: fx.Bits[:0], Blocks: fx.Blocks[:0]}
}

// Rules gives the segments of a client, or nil.
type Rules interface {
	Program(client proto.ClientID) *segments.Program
}

// Stepper steps identities; it owns scratch memory and is for one goroutine.
type Stepper struct {
	rules Rules
	eval  *segments.Evaluator
	delta segments.Delta
	body  proto.EventBody
	first proto.EventBody
	buf   []byte
	none  *segments.Program

	// of users
	ofUser  userFacts
	env     graph.Env
	shared  []byte
	parts   []part
	blobs   []string
	members []segments.Membership
	bits    []Bit
	behind  bool // the rules are, of what a member remembers
}

// NewStepper judges by rules, which must not change during a Step.
func NewStepper(rules Rules) *Stepper {
	return &Stepper{rules: rules, eval: segments.NewEvaluator(), none: segments.NewProgram()}
}

func (p *Stepper) program(client proto.ClientID) *segments.Program {
	if g := p.rules.Program(client); g != nil {
		return g
	}
	return p.none
}

// NeedsHistory reports whether a Step with in would read sealed blocks.
func (p *Stepper) NeedsHistory(s *State, in *Input) bool {
	for i := range s.Facts {
		f := &s.Facts[i]
		if f.History.First == f.History.Next || in.Kind != InputTimer && f.Client != in.Client {
			continue
		}
		if in.Kind == InputTrim {
			return true
		}
		if g := p.program(f.Client); f.Memory.Version() != g.Version() && g.NeedsHistory(&f.Memory) {
			return true
		}
	}
	return false
}

// Step takes one input in at lane time now, which never runs backwards, and
// puts what follows into fx, which the caller has Reset. The caller has asked
// Admits before. A node that is not named must have the Ordinal that it gets
// if it becomes so.
func (p *Stepper) Step(s *State, in *Input, now proto.Millis, fx *Effects) {
	if in.Kind == InputEvent || in.Kind == InputTraits {
		fx.Changed = fx.Changed || s.End != in.End
		s.Device, s.End = in.Device, in.End
	}
	p.eval.SetDevices(devices(s))
	switch in.Kind {
	case InputEvent:
		p.event(s, in, now, fx)
	case InputTraits:
		f := p.facts(s, in, now, fx)
		if named(in.Traits) {
			f.Last = now
		}
		p.delta.Reset()
		p.eval.SetTraits(p.program(in.Client), &f.Memory, in.Traits, now, &p.delta)
		p.collect(s, in.Client, fx)
		fx.Changed = true
	case InputTimer:
		p.timer(s, in, now, fx)
	case InputFill:
		if s.Client(in.Client) != nil {
			p.facts(s, in, now, fx)
		}
		fx.Due = true // a root judges by the rules as they are now
	case InputForget:
		p.forget(s, in.Client, fx)
	case InputTrim:
		p.trim(s, in, now, fx)
	case InputPurge:
		p.ofUser = userFacts{p: p, s: s, now: now, fx: fx}
		p.ofUser.Purge()
	}
	p.bare(s, now, fx)
	p.schedule(s, fx)
}

// named reports whether the client names the identity in an import: like an event
// it says that it is not idle.
func named(set []proto.Prop) bool {
	return slices.ContainsFunc(set, func(t proto.Prop) bool {
		return proto.ReservedTrait(t.Key) && t.Value != proto.TextOf("")
	})
}

// HasTrait reports whether a client knows a trait of the node.
func (s *State) HasTrait(client proto.ClientID, key string) bool {
	f := s.Client(client)
	return f != nil && f.Memory.HasTrait(key)
}

// Hollow reports whether nothing is left that the facts say.
func (f *Facts) Hollow() bool {
	return !f.Eventful() && len(f.Memory.Traits()) == 0
}

// Eventful reports whether events are kept, or were until they grew too old; of the
// latter it knows only if they had filled a block.
func (f *Facts) Eventful() bool {
	h := &f.History
	return h.TailEvents > 0 || h.Next > 0 || h.Truncated
}

// KnownOtherwise reports whether the facts say more than what imports said.
func (f *Facts) KnownOtherwise() bool {
	return f.Eventful() || slices.ContainsFunc(f.Memory.Traits(), func(t proto.Prop) bool { return !proto.ReservedTrait(t.Key) })
}

// devices is how many browsers or devices the identity is.
func devices(s *State) int {
	if s.Device {
		return 1
	}
	return 0
}

// event folds one event into its client's facts.
func (p *Stepper) event(s *State, in *Input, now proto.Millis, fx *Effects) {
	e := in.Event
	if f := s.Client(in.Client); f != nil && e.ID != "" && f.seen(e.ID, now) {
		fx.Duplicate = true
		return
	}
	f := p.facts(s, in, now, fx)
	t := min(e.Time, now)
	p.delta.Reset()
	p.eval.Observe(p.program(in.Client), &f.Memory, &e.EventBody, t, now, &p.delta)
	p.collect(s, in.Client, fx)
	f.remember(e.ID, now)
	f.Last, f.oldest = now, min(f.oldest, t)
	if e.Network != 0 {
		f.seenOn(e.Network, now)
	}
	p.record(f, t, &e.EventBody, fx)
	fx.Changed = true
}

// facts finds or makes the client's facts, with its memory up to date.
func (p *Stepper) facts(s *State, in *Input, now proto.Millis, fx *Effects) *Facts {
	p.name(s, fx)
	f := s.Client(in.Client)
	if f == nil {
		i, _ := slices.BinarySearchFunc(s.Facts, in.Client, func(f Facts, c proto.ClientID) int { return int(f.Client) - int(c) })
		if !s.present(in.Client) {
			fx.Bits = append(fx.Bits, Bit{Client: in.Client, Set: true})
		}
		s.Facts = slices.Insert(s.Facts, i, Facts{Client: in.Client, First: now, Last: now, oldest: now})
		f = &s.Facts[i]
		fx.Changed, fx.Published, fx.Shared = true, true, true
	}
	p.update(s, f, in, now, fx)
	return f
}

// name gives the node its number. One that was cut while it was linked anew may
// be of a user before its name comes again; of what that came to some may be gone.
func (p *Stepper) name(s *State, fx *Effects) {
	if s.Named {
		return
	}
	s.Named, fx.Created, fx.Changed = true, true, true
	for i := range s.User {
		fx.Bits = appendBits(fx.Bits, s.User[i].Client, s.User[i].Members, p.counts(s.User[i].Client))
	}
}

// present reports whether the node is in the client's universe: the client
// holds facts of it or of its user.
func (s *State) present(c proto.ClientID) bool {
	return s.Client(c) != nil || s.Follows && clientView(s.User, c) != nil
}

// update brings the memory up to the client's present rules.
func (p *Stepper) update(s *State, f *Facts, in *Input, now proto.Millis, fx *Effects) {
	g := p.program(f.Client)
	if f.Memory.Version() == g.Version() {
		return
	}
	p.delta.Reset()
	update := p.eval.Update
	if f.History.Truncated {
		update = p.eval.UpdateTruncated
	}
	update(g, &f.Memory, p.history(f, in), now, &p.delta)
	p.collect(s, f.Client, fx)
	fx.Changed = true
	if s.Follows {
		p.show(s, now, fx) // some of what its user was in may be no more
	}
}

// timer applies what came due. A record that the state no longer points at is
// stale and changes nothing.
func (p *Stepper) timer(s *State, in *Input, now proto.Millis, fx *Effects) {
	if s.Exit != in.At {
		return
	}
	s.Exit = 0
	fx.Changed = true
	for i := range s.Facts {
		f := &s.Facts[i]
		f.forgetNetworks(now)
		if next := f.Memory.NextChange(); next == 0 || next > now {
			continue
		}
		p.update(s, f, in, now, fx)
		p.delta.Reset()
		p.eval.Advance(p.program(f.Client), &f.Memory, now, &p.delta)
		p.collect(s, f.Client, fx)
	}
	p.flip(s, now, fx)
	fx.Due = true
}

// collect turns the evaluator's delta into effects. While the node follows,
// its own memberships of scope user are kept but do not count.
func (p *Stepper) collect(s *State, client proto.ClientID, fx *Effects) {
	g := p.program(client)
	bit := func(k proto.SegmentKey, set bool) {
		if !s.Follows || !g.UserScope(k) {
			fx.Bits = append(fx.Bits, Bit{Client: client, Key: k, Set: set})
		}
	}
	for _, k := range p.delta.Left {
		bit(k, false)
	}
	for _, k := range p.delta.Entered {
		bit(k, true)
	}
	fx.Published = fx.Published || p.delta.Touched
	fx.Shared = fx.Shared || p.delta.Shared
	if p.delta.Dropped {
		s.Client(client).History.Truncated = true
	}
}

// forget drops what one client knows.
func (p *Stepper) forget(s *State, client proto.ClientID, fx *Effects) {
	i := slices.IndexFunc(s.Facts, func(f Facts) bool { return f.Client == client })
	if i < 0 {
		return
	}
	f := &s.Facts[i]
	g := p.program(client)
	for _, m := range f.Memory.Memberships() {
		if m.In && !(s.Follows && g.UserScope(m.Key)) {
			fx.Bits = append(fx.Bits, Bit{Client: client, Key: m.Key})
		}
	}
	f.dropBlocks(fx)
	s.Facts = slices.Delete(s.Facts, i, i+1)
	if !s.present(client) {
		fx.Bits = append(fx.Bits, Bit{Client: client})
	}
	fx.Changed, fx.Published, fx.Shared = true, true, true
}

// dropBlocks deletes the sealed history.
func (f *Facts) dropBlocks(fx *Effects) {
	for n := f.History.First; n < f.History.Next; n++ {
		fx.Blocks = append(fx.Blocks, Block{Client: f.Client, Number: n})
	}
}

// schedule keeps one record in the exit index, moved only to earlier times:
// firing it re-checks, so a later need costs nothing until then.
func (p *Stepper) schedule(s *State, fx *Effects) {
	var next proto.Millis
	for i := range s.Facts {
		next = sooner(next, s.Facts[i].Memory.NextChange())
	}
	next = sooner(next, nextOf(s.User))
	next = sooner(next, s.Ends())
	if next != 0 && (s.Exit == 0 || next < s.Exit) {
		s.Exit, fx.Exit, fx.Changed = next, next, true
	}
}

// sooner is the earlier of two times of which 0 is never.
func sooner(a, b proto.Millis) proto.Millis {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// seen reports whether the id was remembered at most RecentAgeMax ago.
func (f *Facts) seen(id string, now proto.Millis) bool {
	h := recentHash(id)
	for _, r := range f.recent {
		if r.hash == h && now-r.at <= RecentAgeMax {
			return true
		}
	}
	return false
}

func (f *Facts) remember(id string, now proto.Millis) {
	f.recent = slices.DeleteFunc(f.recent, func(r recentID) bool { return now-r.at > RecentAgeMax })
	if id == "" {
		return
	}
	if len(f.recent) >= RecentMax {
		f.recent = slices.Delete(f.recent, 0, len(f.recent)-RecentMax+1)
	}
	f.recent = append(f.recent, recentID{recentHash(id), now})
}

func recentHash(id string) uint64 { return xxhash.Sum64String(id) & (1<<48 - 1) }

// firstOf is the body of the tail's first record, nil if the tail is empty.
func (p *Stepper) firstOf(h *History) *proto.EventBody {
	if h.TailEvents == 0 {
		return nil
	}
	r := proto.NewReader(h.Tail)
	r.Varint()
	rec := proto.NewReader(r.Bytes())
	p.first.Read(&rec)
	return &p.first
}

// record appends the event to the history's tail and seals a full tail.
func (p *Stepper) record(f *Facts, t proto.Millis, e *proto.EventBody, fx *Effects) {
	h := &f.History
	if h.TailEvents == 0 {
		h.base, h.last = t, t
	}
	h.Tail = proto.AppendVarint(h.Tail, int64(t-h.last))
	p.buf = appendBody(p.buf[:0], p.firstOf(h), e)
	h.Tail = binary.AppendUvarint(h.Tail, uint64(len(p.buf)))
	h.Tail = append(h.Tail, p.buf...)
	h.last = t
	h.TailEvents++
	if len(h.Tail) < TailBytesMax {
		return
	}
	fx.Blocks = append(fx.Blocks, Block{Client: f.Client, Number: h.Next, Data: h.seal()})
	h.Next++
	h.Tail, h.TailEvents = h.Tail[:0], 0
	if h.Next-h.First > HistoryBlocksMax {
		fx.Blocks = append(fx.Blocks, Block{Client: f.Client, Number: h.First})
		h.First++
		h.Truncated = true
	}
}
