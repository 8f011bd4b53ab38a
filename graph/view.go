package graph

import (
	"cmp"
	"slices"

	"kith/proto"
)

// This file is R3, the sending side of R6 and the second half of R10: what a
// root makes of its members' copies.

// scratch is memory that a Step uses again.
type scratch struct {
	data     []Data
	points   []point
	ways     []way
	frontier []frontier
	own      Contribution
	step     step
}

// point is an identity as the closure sees it.
type point struct {
	peer Hash
	copy *Contribution // nil: beyond the view, named by a member only
	up   int           // union-find parent
	size int
	gone bool // not reachable from the root
}

// way is an edge between two points; b may lie beyond the view.
type way struct {
	time    proto.Millis
	a, b    int
	settled bool
	over    bool // would make the user too large
}

// publish gives own facts that changed to the root.
func (s *step) publish() {
	x := s.x
	leads := x.leads()
	if !s.edges && !s.resend && (leads || !s.data) {
		return
	}
	x.Ver++
	s.changed()
	if leads {
		return
	}
	c := &Contribution{Gen: x.Gen, Ver: x.Ver, Edges: x.Edges(), Data: s.env.Facts.Data()}
	add(&x.Holders, x.Root).Ver = x.Ver // before it is sent: a cut must find every copy
	s.emit(x.Root, Message{Kind: Contrib, Copy: c})
}

// lead does what a root does after its members' facts changed.
func (s *step) lead() {
	x := s.x
	if s.edges || s.view {
		if s.edges {
			for _, e := range x.Edges() {
				s.uninvite(e.Peer)
			}
		}
		s.closure()
		s.value = true
	}
	if s.value || s.data {
		s.verdicts()
	}
	s.answer()
}

// closure drops who is not reachable and invites who is.
func (s *step) closure() {
	p, members, beyond := s.points()
	ways := s.ways(p, members, beyond)
	s.join(p, members, ways)
	s.refuseOver(p, ways)
	for i := range p[:members] {
		if p[i].gone {
			s.drop(p[i].peer, p[i].copy)
			addHash(&s.x.Invited, p[i].peer)
		}
	}
	s.inviteFrontier()
	clear(p) // lets go of copies
	s.fx.scratch.points, s.fx.scratch.ways = p, ways
}

// points lists the root and its members, sorted by name, and then, if the
// user is as large as it may be, those beyond that members name: what they
// would add decides which edge is too much.
func (s *step) points() (p []point, members int, beyond []frontier) {
	x := s.x
	p = s.fx.scratch.points[:0]
	own := &s.fx.scratch.own
	*own = Contribution{Gen: x.Gen, Ver: x.Ver, Edges: x.Edges()}
	at, _ := find(x.Members, &s.self.Hash)
	for i := range x.Members {
		if i == at {
			p = append(p, point{peer: s.self.Hash, copy: own})
		}
		p = append(p, point{peer: x.Members[i].Peer, copy: x.Members[i].Copy})
	}
	if at == len(x.Members) {
		p = append(p, point{peer: s.self.Hash, copy: own})
	}
	members = len(p)
	if members >= s.env.Config.MembersMax {
		beyond = s.frontier(nil)
	}
	for i := range beyond {
		if i == 0 || beyond[i].peer != beyond[i-1].peer {
			p = append(p, point{peer: beyond[i].peer})
		}
	}
	for i := range p {
		p[i].up, p[i].size = i, 1
	}
	return p, members, beyond
}

// findPoint is the place of h among sorted points.
func findPoint(p []point, h *Hash) (int, bool) {
	return slices.BinarySearchFunc(p, h, func(q point, h *Hash) int { return compareHash(q.peer, *h) })
}

// ways lists the edges between members that both ends report, and those that
// lead beyond.
func (s *step) ways(p []point, members int, beyond []frontier) []way {
	ways := s.fx.scratch.ways[:0]
	for a := range members {
		from := p[a].copy
		for i := range from.Edges {
			e := &from.Edges[i]
			if !less(p[a].peer, e.Peer) {
				continue
			}
			b, ok := findPoint(p[:members], &e.Peer)
			if !ok || p[b].copy.Gen != e.Gen {
				continue
			}
			if f := get(p[b].copy.Edges, &p[a].peer); f != nil && f.Gen == from.Gen {
				ways = append(ways, way{time: max(e.Time, f.Time), a: a, b: b, settled: e.Settled || f.Settled})
			}
		}
	}
	for b, i := members-1, 0; i < len(beyond); i++ {
		if i == 0 || beyond[i].peer != beyond[i-1].peer {
			b++
		}
		a, _ := findPoint(p[:members], &beyond[i].in.Peer)
		ways = append(ways, way{time: beyond[i].time, a: a, b: b, settled: beyond[i].settled})
	}
	return ways
}

// root is the union-find root of point i.
func root(p []point, i int) int {
	for p[i].up != i {
		p[i].up = p[p[i].up].up
		i = p[i].up
	}
	return i
}

// join unites points over ways, those that were promised first, then by the
// oldest evidence: the newest edge of a user too large is the one refused.
func (s *step) join(p []point, members int, ways []way) {
	if len(p) > s.env.Config.MembersMax {
		s.markPromised(p[:members], ways)
		slices.SortFunc(ways, func(v, w way) int {
			if v.settled != w.settled {
				return int(flag(w.settled)) - int(flag(v.settled))
			}
			return cmp.Or(cmp.Compare(v.time, w.time), cmp.Compare(v.a, w.a), cmp.Compare(v.b, w.b))
		})
	}
	for i := range ways {
		w := &ways[i]
		a, b := root(p, w.a), root(p, w.b)
		if a == b {
			continue
		}
		if p[a].size+p[b].size > s.env.Config.MembersMax {
			w.over = true
			continue
		}
		p[b].up = a
		p[a].size += p[b].size
	}
	i, _ := findPoint(p[:members], &s.self.Hash)
	top := root(p, i)
	for k := range p {
		p[k].gone = root(p, k) != top
	}
}

// markPromised sets the edges apart that were promised a moment ago.
func (s *step) markPromised(p []point, ways []way) {
	for _, q := range s.x.Promises {
		a, _ := findPoint(p, &q.Peer)
		b, ok := findPoint(p, &q.About)
		for i := range ways {
			if w := &ways[i]; ok && w.a == min(a, b) && w.b == max(a, b) {
				w.settled = true
			}
		}
	}
}

// refuseOver refuses the edges between the user and others that would make it
// too large. The inner end is told.
func (s *step) refuseOver(p []point, ways []way) {
	for _, w := range ways {
		if !w.over || p[w.a].gone == p[w.b].gone {
			continue
		}
		in, out := &p[w.a], &p[w.b]
		if in.gone {
			in, out = out, in
		}
		if in.copy == nil || out.copy == nil && hasHash(s.x.Invited, out.peer) {
			continue // beyond: not known well enough, or refused before
		}
		e := get(in.copy.Edges, &out.peer)
		s.emit(in.peer, Message{Kind: Refuse, About: out.peer, ToGen: in.copy.Gen, AboutGen: e.Gen, Evidence: Evidence{Time: w.time}})
	}
	for _, w := range ways {
		if w.over && p[w.b].copy == nil && !p[w.a].gone && p[w.b].gone {
			addHash(&s.x.Invited, p[w.b].peer)
			s.changed()
		}
	}
}

// drop lets go of a member, who is told at once; the Release waits.
func (s *step) drop(peer Hash, c *Contribution) {
	x := s.x
	s.unmember(peer)
	x.Number++
	r := add(&x.Receivers, peer)
	r.Sent, r.Out = x.Number, true
	s.emit(peer, Message{Kind: Verdict, Out: true, Number: x.Number, Ver: c.Ver, ToGen: c.Gen})
	s.owed = append(s.owed, Owed{Peer: peer, Gen: c.Gen, Ver: c.Ver})
	s.changed()
}

// dissolve lets go of all members.
func (s *step) dissolve() {
	for len(s.x.Members) > 0 {
		k := s.x.Members[0]
		s.drop(k.Peer, k.Copy)
	}
	if len(s.x.Invited) > 0 {
		s.x.Invited = s.x.Invited[:0]
	}
	s.x.Questions, s.x.Promises = nil, nil
	s.x.Given = ""
	s.changed()
}

// frontier is one way that leads out of the view.
type frontier struct {
	peer Hash
	gen  uint32
	in   Ref
	time proto.Millis

	settled bool
}

// inviteFrontier asks those whom members name to join, with all ways to them.
// If the user is full their edges were refused.
func (s *step) inviteFrontier() {
	x := s.x
	out := s.frontier(s.fx.scratch.frontier[:0])
	s.fx.scratch.frontier = out
	before := len(x.Invited)
	x.Invited = slices.DeleteFunc(x.Invited, func(h Hash) bool {
		_, ok := slices.BinarySearchFunc(out, h, func(f frontier, h Hash) int { return compareHash(f.peer, h) })
		return !ok
	})
	if len(x.Invited) != before {
		s.changed()
	}
	for i := 0; i < len(out); {
		j := i
		for j < len(out) && out[j].peer == out[i].peer {
			j++
		}
		if !hasHash(x.Invited, out[i].peer) {
			s.inviteOne(out[i:j])
		}
		i = j
	}
}

// frontier lists the edges out of the view, sorted by where they lead.
func (s *step) frontier(out []frontier) []frontier {
	x := s.x
	collect := func(in Ref, edges []Edge) {
		for i := range edges {
			e := &edges[i]
			if e.Peer != s.self.Hash && get(x.Members, &e.Peer) == nil {
				out = append(out, frontier{e.Peer, e.Gen, in, e.Time, e.Settled})
			}
		}
	}
	collect(Ref{s.self.Hash, x.Gen}, x.Edges())
	for i := range x.Members {
		collect(Ref{x.Members[i].Peer, x.Members[i].Copy.Gen}, x.Members[i].Copy.Edges)
	}
	slices.SortFunc(out, func(a, b frontier) int {
		return cmp.Or(compareHash(a.peer, b.peer), compareHash(a.in.Peer, b.in.Peer))
	})
	return out
}

// inviteOne invites one identity over the ways to it.
func (s *step) inviteOne(ways []frontier) {
	addHash(&s.x.Invited, ways[0].peer)
	s.changed()
	m := Message{Kind: Invite, List: make([]Ref, len(ways))}
	for i, w := range ways {
		m.List[i] = w.in
		m.ToGen = max(m.ToGen, w.gen)
	}
	s.emit(ways[0].peer, m)
}

// verdicts gives the members the user's value where it is not what they have.
func (s *step) verdicts() {
	x := s.x
	if len(x.Members) == 0 {
		x.Given = ""
		s.show(Shown{})
		return
	}
	data := append(s.fx.scratch.data[:0], s.env.Facts.Data())
	for i := range x.Members {
		data = append(data, x.Members[i].Copy.Data)
	}
	value := s.env.Facts.Aggregate(data)
	clear(data)
	s.fx.scratch.data = data
	same := value == x.Given
	x.Given = value
	s.show(Shown{Root: s.self.Hash, Value: value})
	for i := range x.Members {
		k := &x.Members[i]
		r := get(x.Receivers, &k.Peer)
		if same && r != nil && !r.Out {
			continue
		}
		if r == nil {
			r = add(&x.Receivers, k.Peer)
		}
		x.Number++
		r.Sent, r.Out = x.Number, false
		s.changed()
		s.emit(k.Peer, Message{Kind: Verdict, Number: x.Number, Ver: k.Copy.Ver, ToGen: k.Copy.Gen, Value: value})
	}
}

// answer says which of the edges that were asked about are within the user.
// While someone is invited the user may still prove too large.
func (s *step) answer() {
	x := s.x
	if len(x.Questions) == 0 && len(x.Asks) == 0 || len(x.Invited) > 0 {
		return
	}
	s.changed()
	for _, q := range x.Questions {
		if k := get(x.Members, &q.Peer); k != nil && get(k.Copy.Edges, &q.About) != nil {
			s.promise(q.Peer, q.About, true)
			s.promise(q.About, q.Peer, false)
		}
	}
	x.Questions = nil
	for i := 0; i < len(x.Asks); {
		if l := x.edge(x.Asks[i].Peer); l != nil && x.Asks[i].Since == 0 {
			s.promise(l.Peer, s.self.Hash, false)
			s.settle(l)
		} else {
			i++
		}
	}
}

// promise tells one end that the edge to the other is within the user, if it
// asked or does not know. Both ends must know: whoever has a copy of one of
// them may have none of the other.
func (s *step) promise(end, other Hash, asked bool) {
	if end == s.self.Hash {
		if l := s.x.edge(other); l != nil {
			s.settle(l)
		}
		return
	}
	k := get(s.x.Members, &end)
	if k == nil {
		return
	}
	e := get(k.Copy.Edges, &other)
	if e == nil || e.Settled && !asked {
		return
	}
	s.emit(end, Message{Kind: Joined, About: other})
	if !e.Settled && !slices.Contains(s.x.Promises, Question{end, other}) {
		s.x.Promises = append(s.x.Promises, Question{end, other})
	}
}
