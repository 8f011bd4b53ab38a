package identity

import (
	"cmp"
	"encoding/binary"
	"slices"

	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// This file is what an identity and its user give to each other. Both layouts
// below outlive the process, in copies and verdicts.
//
// Data, what a node gives: version byte 1 | flags (1 device) | clients, each:
// client | shared bytes (segments) with their length.
//
// Value, what a user comes to: version byte 1 | clients, each: client |
// memberships, each: key (delta)<<2 | has next<<1 | in | if has next: next
// (varint, ms). A client that knows of some member is there, with or without
// memberships.

const (
	dataVersion  = 1
	valueVersion = 1
)

// Limits of a graph node; see graph.Config.
type Limits = graph.Config

// StepGraph takes in what one superstep of the graph has for the node, at lane
// time now; fences are of clients that had it forgotten. It fills gfx and fx, which the
// caller has Reset.
func (p *Stepper) StepGraph(limits Limits, fences []graph.Fence, node proto.Node, s *State, in []graph.Message, now proto.Millis, gfx *graph.Effects, fx *Effects) {
	if s.Graph == nil {
		s.Graph = &graph.State{}
	}
	p.ofUser = userFacts{p: p, s: s, now: now, fx: fx}
	p.env = graph.Env{Config: limits, Facts: &p.ofUser, Fences: fences}
	p.behind = false
	graph.Step(&p.env, node, s.Graph, in, gfx)
	if gfx.Shown {
		p.show(s, now, fx)
	}
	if gfx.Node || len(gfx.Links) > 0 || len(gfx.Copies) > 0 || gfx.Purged || gfx.Reborn {
		fx.Changed = true
	}
	if gfx.Reborn {
		fx.Published = true
	}
	if s.Graph.Unlinked() {
		s.Graph = nil
	}
	p.bare(s, now, fx)
	p.schedule(s, fx)
	if p.behind && (s.Exit == 0 || s.Exit > now+behindWait) {
		s.Exit, fx.Exit, fx.Changed = now+behindWait, now+behindWait, true
	}
}

// Name gives the node its number, because it is linked now.
func (p *Stepper) Name(s *State, device bool, fx *Effects) {
	s.Device = device
	p.name(s, fx)
	fx.Published = true
}

// userFacts is a node's facts as the graph sees them. An Event or Refresh is
// told after the facts took it in; its body says whether they changed.
type userFacts struct {
	p   *Stepper
	s   *State
	now proto.Millis
	fx  *Effects
}

// FactsChanged is the body of a Refresh that says so.
var FactsChanged = []byte{1}

// Observe implements graph.Facts.
func (u *userFacts) Observe(m *graph.Message) bool { return len(m.Body) > 0 }

// Data implements graph.Facts.
func (u *userFacts) Data() graph.Data { return u.p.Data(u.s) }

// Data is what the node gives to its user.
func (p *Stepper) Data(s *State) graph.Data {
	b := append(p.buf[:0], dataVersion, 0)
	if s.Device {
		b[1] = 1
	}
	b = binary.AppendUvarint(b, uint64(len(s.Facts)))
	for i := range s.Facts {
		f := &s.Facts[i]
		b = binary.AppendUvarint(b, uint64(f.Client))
		p.shared = p.program(f.Client).AppendShared(p.shared[:0], &f.Memory)
		b = proto.AppendString(b, string(p.shared))
	}
	p.buf = b
	return graph.Data(b)
}

// part is one client's share of one member's data.
type part struct {
	client proto.ClientID
	shared string
}

// Aggregate implements graph.Facts. It must not fail: data that cannot be read
// were not made by this room, and the lane that carries them is stopped.
func (u *userFacts) Aggregate(members []graph.Data) graph.Value {
	parts, devices, err := readData(u.p.parts[:0], members)
	if err != nil {
		panic(err)
	}
	u.p.parts = parts
	b := append(u.p.buf[:0], valueVersion)
	at := len(b)
	clients := 0
	for len(parts) > 0 {
		n := 1
		for n < len(parts) && parts[n].client == parts[0].client {
			n++
		}
		list, err := u.p.union(parts[:n], devices, u.now)
		if err != nil {
			panic(err)
		}
		b = binary.AppendUvarint(b, uint64(parts[0].client))
		b = appendMemberships(b, list)
		clients++
		parts = parts[n:]
	}
	b = binary.AppendUvarint(b, uint64(clients))
	b = rotate(b, at)
	u.p.buf = b
	return graph.Value(b)
}

// rotate puts the count that was written last before what follows at.
func rotate(b []byte, at int) []byte {
	n := len(b) - 1
	for n > at && b[n-1]&0x80 != 0 {
		n--
	}
	count := string(b[n:])
	copy(b[at+len(count):], b[at:n])
	copy(b[at:], count)
	return b
}

// behindWait is after what time a root looks again whose lane has not obeyed
// the rules yet by which a member remembered.
const behindWait = proto.Millis(500)

// union is a client's memberships of scope user over all its parts.
func (p *Stepper) union(parts []part, devices int, now proto.Millis) ([]segments.Membership, error) {
	p.blobs = p.blobs[:0]
	for i := range parts {
		p.blobs = append(p.blobs, parts[i].shared)
		p.behind = p.behind || segments.SharedVersion(parts[i].shared) > p.program(parts[i].client).Version()
	}
	var err error
	p.members, err = p.eval.Union(p.program(parts[0].client), p.blobs, devices, now, p.members[:0])
	return p.members, err
}

// readData splits members' data into parts by client.
func readData(parts []part, members []graph.Data) (_ []part, devices int, err error) {
	for _, d := range members {
		r := proto.NewTextReader(string(d))
		version, flags := r.Byte(), r.Byte()
		if version != dataVersion || flags > 1 {
			r.Fail()
		}
		devices += int(flags)
		for range r.Count(2) {
			parts = append(parts, part{proto.ClientID(r.Uvarint()), r.String()})
		}
		if r.Bad() || r.Len() != 0 {
			return parts, 0, proto.Errorf(proto.CodeCorrupt, "what an identity gives to its user is malformed or of another version than %d: use the kith that wrote it, or a newer one", dataVersion)
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(a.client, b.client) })
	return parts, devices, nil
}

// Effective is the membership of a segment that counts for the node, nil if
// there is none: for scope user, which user says, its user's.
func (s *State) Effective(client proto.ClientID, key proto.SegmentKey, user bool) *segments.Membership {
	if user {
		return s.effective(client, key)
	}
	own := State{Facts: s.Facts}
	return own.effective(client, key)
}

// appendMemberships packs a list by key.
func appendMemberships(b []byte, list []segments.Membership) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	var key proto.SegmentKey
	for i := range list {
		m := &list[i]
		head := uint64(m.Key-key) << 2
		key = m.Key
		if m.Next != 0 {
			head |= 2
		}
		if m.In {
			head |= 1
		}
		b = binary.AppendUvarint(b, head)
		if m.Next != 0 {
			b = proto.AppendVarint(b, int64(m.Next))
		}
	}
	return b
}

func readMemberships(r *proto.Reader) []segments.Membership { return readList(r, false) }

// readSince is readMemberships of a list that says since when.
func readSince(r *proto.Reader) []segments.Membership { return readList(r, true) }

func readList(r *proto.Reader, since bool) (list []segments.Membership) {
	var key uint64
	for range r.Count(1) {
		head := r.Uvarint()
		key += head >> 2
		m := segments.Membership{Key: proto.SegmentKey(key), In: head&1 != 0}
		if since && m.In {
			m.Since = proto.Millis(r.Varint())
		}
		if head&2 != 0 {
			m.Next = proto.Millis(r.Varint())
		}
		if head>>2 == 0 || head&2 != 0 && m.Next == 0 || uint64(m.Key) != key {
			r.Fail()
		}
		if r.Bad() {
			return nil
		}
		list = append(list, m)
	}
	return list
}

// DecodeValue reads what Aggregate made, by client.
func DecodeValue(v graph.Value) ([]ClientView, error) {
	r := proto.NewTextReader(string(v))
	if version := r.Byte(); version != valueVersion {
		return nil, proto.Errorf(proto.CodeCorrupt, "what a user comes to has version %d, this build reads %d: use the kith that wrote it, or a newer one", version, valueVersion)
	}
	list := readViews(&r, readMemberships)
	if r.Bad() || r.Len() != 0 {
		return nil, proto.Errorf(proto.CodeCorrupt, "what a user comes to is malformed")
	}
	return list, nil
}

func readViews(r *proto.Reader, read func(*proto.Reader) []segments.Membership) []ClientView {
	n := r.Count(2)
	if n > clientsMax {
		r.Fail()
		return nil
	}
	var list []ClientView
	for range n {
		v := ClientView{Client: proto.ClientID(r.Uvarint()), Members: read(r)}
		if k := len(list); k > 0 && list[k-1].Client >= v.Client {
			r.Fail()
		}
		if r.Bad() {
			return nil
		}
		list = append(list, v)
	}
	return list
}

// show makes the node's memberships of scope user those of its user, or its
// own again, as the graph says.
func (p *Stepper) show(s *State, now proto.Millis, fx *Effects) {
	var next []ClientView
	follows := s.Graph != nil && s.Graph.Shown.Root != graph.Hash{}
	if follows && s.Graph.Shown.Value != "" {
		var err error
		if next, err = DecodeValue(s.Graph.Shown.Value); err != nil {
			panic(err) // as in Aggregate
		}
		for i := range next {
			next[i].Members = p.known(next[i].Client, next[i].Members)
		}
	}
	before := p.userBits(s, p.bits[:0])
	p.since(s, next, now)
	s.Follows, s.User = follows, next
	n := len(before)
	p.bits = p.userBits(s, before)
	turn(p.bits[:n], p.bits[n:], fx)
	fx.Changed, fx.Published = true, true
}

// known leaves of a list the segments that the client has.
func (p *Stepper) known(client proto.ClientID, list []segments.Membership) []segments.Membership {
	counts := p.counts(client)
	return slices.DeleteFunc(list, func(m segments.Membership) bool { return !counts(m.Key) })
}

// counts tells which segments a user's value may speak of: those of scope user
// that the client has, and those that it will have here soon, because the root's
// lane has obeyed their definition already. Keys are numbers of control records.
func (p *Stepper) counts(client proto.ClientID) func(proto.SegmentKey) bool {
	g := p.program(client)
	return func(k proto.SegmentKey) bool { return k > g.Version() || g.UserScope(k) }
}

// since sets when memberships began: whoever was in stays in, and whom time has let in
// meanwhile is in since then.
func (p *Stepper) since(s *State, next []ClientView, now proto.Millis) {
	for i := range next {
		own := next[i].Client
		for k := range next[i].Members {
			m := &next[i].Members[k]
			if !m.In {
				continue
			}
			m.Since = now
			switch old := s.effective(own, m.Key); {
			case old == nil:
			case old.In:
				m.Since = old.Since
			case old.Next != 0 && old.Next <= now:
				m.Since = old.Next
			}
		}
	}
}

// effective is the membership of a segment of scope user that counts, nil if
// there is none.
func (s *State) effective(client proto.ClientID, key proto.SegmentKey) *segments.Membership {
	var list []segments.Membership
	if s.Follows {
		if v := clientView(s.User, client); v != nil {
			list = v.Members
		}
	} else if f := s.Client(client); f != nil {
		list = f.Memory.Memberships()
	}
	i, ok := slices.BinarySearchFunc(list, key, func(m segments.Membership, k proto.SegmentKey) int { return cmp.Compare(m.Key, k) })
	if !ok {
		return nil
	}
	return &list[i]
}

// userBits appends the bits that the node has because of its user, or in its
// place, by client and key: its universes' among them.
func (p *Stepper) userBits(s *State, bits []Bit) []Bit {
	if !s.Named { // a bit needs a number: name sets them
		return bits
	}
	from := len(bits)
	for i := range s.Facts {
		bits = append(bits, Bit{Client: s.Facts[i].Client, Set: true})
	}
	if s.Follows {
		for i := range s.User {
			bits = appendBits(bits, s.User[i].Client, s.User[i].Members, p.counts(s.User[i].Client))
		}
	} else {
		for i := range s.Facts {
			bits = appendBits(bits, s.Facts[i].Client, s.Facts[i].Memory.Memberships(), p.program(s.Facts[i].Client).UserScope)
		}
	}
	own := bits[from:]
	slices.SortFunc(own, compareBits)
	return bits[:from+len(slices.Compact(own))]
}

func appendBits(bits []Bit, c proto.ClientID, list []segments.Membership, counts func(proto.SegmentKey) bool) []Bit {
	bits = append(bits, Bit{Client: c, Set: true})
	for _, m := range list {
		if m.In && counts(m.Key) {
			bits = append(bits, Bit{Client: c, Key: m.Key, Set: true})
		}
	}
	return bits
}

func compareBits(a, b Bit) int {
	return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Key, b.Key))
}

// turn makes the difference of two sorted lists effects.
func turn(before, after []Bit, fx *Effects) {
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && compareBits(before[0], after[0]) < 0:
			fx.Bits = append(fx.Bits, Bit{Client: before[0].Client, Key: before[0].Key})
			before = before[1:]
		case len(before) == 0 || compareBits(before[0], after[0]) > 0:
			fx.Bits = append(fx.Bits, after[0])
			after = after[1:]
		default:
			before, after = before[1:], after[1:]
		}
	}
}

// UserChange is when time alone first changes a membership of its user, 0 for
// never.
func (s *State) UserChange() proto.Millis { return nextOf(s.User) }

// nextOf is when time alone first changes one of the lists.
func nextOf(list []ClientView) (next proto.Millis) {
	for i := range list {
		for k := range list[i].Members {
			next = sooner(next, list[i].Members[k].Next)
		}
	}
	return next
}

// flip applies what time alone changed in the user's memberships by now, each as of
// its own instant, and has the root look what will change next.
func (p *Stepper) flip(s *State, now proto.Millis, fx *Effects) {
	for i := range s.User {
		u := &s.User[i]
		u.Members = p.known(u.Client, u.Members) // some may be undefined since
		for k := range u.Members {
			m := &u.Members[k]
			if m.Next == 0 || m.Next > now {
				continue
			}
			at := m.Next
			m.In = !m.In
			m.Since, m.Next = 0, 0
			if m.In {
				m.Since = at
			}
			if s.Named {
				fx.Bits = append(fx.Bits, Bit{Client: u.Client, Key: m.Key, Set: m.In})
			}
			fx.Published = true
		}
		u.Members = slices.DeleteFunc(u.Members, func(m segments.Membership) bool { return !m.In && m.Next == 0 })
	}
}

// Purge implements graph.Facts: nothing is left but that the identity was cut.
func (u *userFacts) Purge() {
	s, fx := u.s, u.fx
	bits := u.p.userBits(s, u.p.bits[:0])
	for i := range s.Facts {
		f := &s.Facts[i]
		for _, m := range f.Memory.Memberships() {
			if m.In && !u.p.program(f.Client).UserScope(m.Key) {
				bits = append(bits, Bit{Client: f.Client, Key: m.Key, Set: true})
			}
		}
		f.dropBlocks(fx)
	}
	turn(bits, nil, fx)
	u.p.bits = bits
	*s = State{Graph: s.Graph, Ordinal: s.Ordinal}
	fx.Purged, fx.Changed, fx.Published = true, true, true
}
