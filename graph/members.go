package graph

import "slices"

// This file is R2, R5 and the receiving side of R6: how a node follows a root.

// takeMember does what a message between a root and others asks.
func (s *step) takeMember(m *Message) {
	switch m.Kind {
	case Invite:
		s.invited(m)
	case Nudge:
		if s.x.leads() && get(s.x.Members, &m.From) != nil && get(s.x.Members, &m.About) == nil {
			s.uninvite(m.About)
			s.view = true
		}
	case Contrib:
		s.contributed(m)
	case ContribAck:
		if h := get(s.x.Holders, &m.From); h != nil && m.Ver > h.Acked {
			h.Acked = m.Ver
			s.changed()
		}
	case Leave, Retract:
		s.left(m)
	case Release:
		s.released(m)
	case Verdict:
		s.judged(m)
	case VerdictAck:
		s.confirmed(m)
	case Ask:
		if s.x.leads() && get(s.x.Members, &m.From) != nil {
			s.question(Question{m.From, m.About})
		}
	case Joined:
		if l := s.x.edge(m.About); l != nil && s.x.Root == m.From {
			s.settle(l)
		}
	}
}

// invited heeds a lesser root that knows a way here which is an own edge.
func (s *step) invited(m *Message) {
	x := s.x
	if x.Dark || m.ToGen != x.Gen || m.From == x.RootOf(s.self.Hash) || m.From == s.self.Hash {
		return
	}
	via := slices.IndexFunc(m.List, func(r Ref) bool {
		l := x.edge(r.Peer)
		return l != nil && l.Gen == r.Gen
	})
	switch {
	case via < 0:
	case less(m.From, x.RootOf(s.self.Hash)):
		s.adopt(m.From)
	case x.leads():
		s.uninvite(m.List[via].Peer)
		s.view = true
	default:
		s.emit(x.Root, Message{Kind: Nudge, About: m.List[via].Peer})
	}
}

// adopt follows root from now on.
func (s *step) adopt(root Hash) {
	x := s.x
	if x.leads() {
		s.dissolve()
	} else if h := get(x.Holders, &x.Root); h != nil {
		s.emit(x.Root, Message{Kind: Leave, Ver: h.Ver, Gen: x.Gen})
	}
	x.Root, x.Joined = root, x.Ver+1
	s.resend = true
	s.askAgain()
	s.show(Shown{})
}

// lead makes the node its own root again.
func (s *step) becomeRoot() {
	s.x.Root = Hash{}
	s.view = true
	s.askAgain()
	s.show(Shown{})
	s.changed()
}

// show sets what the user's value at this node comes from.
func (s *step) show(v Shown) {
	if s.x.Shown == v {
		return
	}
	if s.x.Shown.Value != v.Value || (s.x.Shown.Root == Hash{}) != (v.Root == Hash{}) {
		s.fx.Shown = true
	}
	s.x.Shown = v
	s.changed()
}

func (s *step) uninvite(h Hash) {
	if dropHash(&s.x.Invited, h) {
		s.changed()
	}
}

// contributed takes in a member's copy, or says that this is no root.
func (s *step) contributed(m *Message) {
	c := m.Copy
	if !s.x.leads() {
		s.emit(m.From, Message{Kind: Verdict, Out: true, Number: s.x.Number, Ver: c.Ver, ToGen: c.Gen})
		s.owed = append(s.owed, Owed{Peer: m.From, Gen: c.Gen, Ver: c.Ver})
		return
	}
	k := add(&s.x.Members, m.From)
	if k.Copy == nil || k.Copy.Gen != c.Gen || !slices.Equal(k.Copy.Edges, c.Edges) {
		s.view = true
		for i := range c.Edges {
			s.uninvite(c.Edges[i].Peer)
		}
	}
	k.Copy = c
	s.keepPromises(m.From, c)
	s.value = true
	s.fx.copied(m.From)
	s.emit(m.From, Message{Kind: ContribAck, Ver: c.Ver})
}

// left forgets a copy that its home takes back.
func (s *step) left(m *Message) {
	if s.x.leads() {
		if k := get(s.x.Members, &m.From); k != nil && k.Copy.Ver <= m.Ver {
			s.unmember(m.From)
			s.uninvite(m.From)
			s.view = true
		}
	}
	if drop(&s.x.Receivers, &m.From) {
		s.changed()
	}
	s.owed = append(s.owed, Owed{Peer: m.From, Gen: m.Gen, Ver: m.Ver})
}

// unmember drops a copy.
func (s *step) unmember(h Hash) {
	drop(&s.x.Members, &h)
	s.fx.copied(h)
	s.unask(&s.x.Questions, func(q Question) bool { return q.Peer == h })
	s.unask(&s.x.Promises, func(q Question) bool { return q.Peer == h })
}

// unask drops questions or promises.
func (s *step) unask(list *[]Question, gone func(Question) bool) {
	n := len(*list)
	if *list = slices.DeleteFunc(*list, gone); len(*list) != n {
		s.changed()
	}
}

// keepPromises drops the promises to a member that its copy now speaks of.
func (s *step) keepPromises(peer Hash, c *Contribution) {
	s.unask(&s.x.Promises, func(q Question) bool {
		if q.Peer != peer {
			return false
		}
		e := get(c.Edges, &q.About)
		return e == nil || e.Settled
	})
}

// released takes in that a root has no copy any more.
func (s *step) released(m *Message) {
	x := s.x
	for i := range x.Cuts {
		c := &x.Cuts[i]
		if r := get(c.Retract, &m.From); r != nil && m.Ver >= r.Ver {
			drop(&c.Retract, &m.From)
			c.Replaced += m.Number
			s.changed()
		}
	}
	h := get(x.Holders, &m.From)
	if x.Dark || h == nil || m.Ver < h.Ver {
		return
	}
	drop(&x.Holders, &m.From)
	s.changed()
	if x.Root == m.From {
		s.becomeRoot()
	}
}

// judged takes in the root's verdict.
func (s *step) judged(m *Message) {
	x := s.x
	var sent uint64
	if h := get(x.Holders, &m.From); h != nil {
		sent = h.Ver
	}
	switch {
	case x.Dark || x.Root != m.From:
	case m.Out && m.Ver >= sent:
		s.becomeRoot()
	case m.Out: // a newer copy is on its way there: only stop showing
		s.show(Shown{})
		s.askAgain()
	case m.Ver >= x.Joined:
		s.show(Shown{Root: m.From, Number: m.Number, Value: m.Value})
	}
	s.emit(m.From, Message{Kind: VerdictAck, Number: m.Number})
}

// confirmed takes in that a verdict was applied.
func (s *step) confirmed(m *Message) {
	r := get(s.x.Receivers, &m.From)
	if r == nil {
		return
	}
	r.Acked = max(r.Acked, m.Number)
	if r.Out && r.Acked >= r.Sent {
		drop(&s.x.Receivers, &m.From)
	}
	s.changed()
}

// question notes what a member wants to know.
func (s *step) question(q Question) {
	if !slices.Contains(s.x.Questions, q) {
		s.x.Questions = append(s.x.Questions, q)
		s.changed()
	}
}

// askAgain makes what is not answered be asked of the next root.
func (s *step) askAgain() {
	for i := range s.x.Asks {
		s.x.Asks[i].Sent = false
		s.changed()
	}
}

// ask has the root tell which of the asked edges are within the user; the
// first Contrib with the edge goes before.
func (s *step) ask() {
	x := s.x
	for i := range x.Asks {
		if a := &x.Asks[i]; !a.Sent && a.Since == 0 && x.edge(a.Peer) != nil {
			a.Sent = true
			s.emit(x.Root, Message{Kind: Ask, About: a.Peer})
			s.changed()
		}
	}
}
