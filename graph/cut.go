package graph

import (
	"slices"
)

// This file is R7 and R9: how an identity is taken out of the graph, alone or
// with its whole user, and how it comes back empty.

// commandsMax is how many opt-out commands of an identity are remembered, so
// that a repeated one is known.
const commandsMax = 32

// takeCut does what a message about opt-outs asks.
func (s *step) takeCut(m *Message) {
	switch m.Kind {
	case Cut:
		if s.fresh(m) {
			s.cut(m)
		}
	case Erase:
		if fresh := s.fresh(m); fresh && s.x.Dark {
			s.fx.ignored(m, ReasonOptedOut)
		} else if fresh {
			s.cut(m)
			s.optIn(m)
		}
	case OptIn:
		if !s.x.Dark || m.ToGen != s.x.Gen {
			s.fx.ignored(m, ReasonOtherGen)
			return
		}
		s.optIn(m)
	case Unlink:
		s.unlinked(m)
	case UnlinkAck:
		for i := range s.x.Cuts {
			if c := &s.x.Cuts[i]; c.Gen == m.Gen && dropHash(&c.Unlink, m.From) {
				s.changed()
			}
		}
	default:
		s.takeEverywhere(m)
	}
}

// fresh remembers the command's id and reports whether it is new.
func (s *step) fresh(m *Message) bool {
	x := s.x
	if m.Command != 0 {
		if slices.Contains(x.Commands, m.Command) {
			s.fx.ignored(m, ReasonRepeated)
			return false
		}
		if len(x.Commands) >= commandsMax {
			x.Commands = slices.Delete(x.Commands, 0, len(x.Commands)-commandsMax+1)
		}
		x.Commands = append(x.Commands, m.Command)
		s.changed()
	}
	return true
}

// cut makes the identity dark and begins to take back what others have of it.
func (s *step) cut(m *Message) {
	x := s.x
	s.changed()
	if x.Dark { // a new tombstone, so that an opt-in asked for before it is void
		x.Gen += 2
		x.Cuts = append(x.Cuts, CutRecord{Gen: x.Gen - 1, Time: m.Time})
		return
	}
	c := CutRecord{Gen: x.Gen, Time: m.Time, All: m.All, Quiet: m.Again, Copies: uint64(len(x.Holders))}
	if m.All {
		s.cutOthers(&c)
	}
	for i := range x.Links {
		c.Unlink = append(c.Unlink, x.Links[i].Peer)
	}
	for _, h := range x.Holders {
		s.emit(h.Root, Message{Kind: Retract, Ver: h.Ver, Gen: x.Gen})
		c.Retract = append(c.Retract, Retraction{h.Root, h.Ver})
	}
	if x.leads() {
		c.Replaced = uint64(len(x.Members))
		s.dissolve()
	}
	c.After = x.Number
	s.darken()
	x.Cuts = append(x.Cuts, c)
}

// darken forgets the facts and begins the tombstone's generation.
func (s *step) darken() {
	x := s.x
	for _, a := range x.Asks {
		s.fx.Decisions = append(s.fx.Decisions, Decision{Command: a.Command, Reason: ReasonOptedOut})
	}
	for i := range x.Links {
		s.fx.touched(x.Links[i].Peer)
	}
	x.Dark = true
	x.Gen++
	x.Links, x.Holders, x.Asks, x.copied = nil, nil, nil, nil
	x.Root, x.Joined = Hash{}, 0
	s.show(Shown{})
	s.edges, s.data, s.resend, s.view, s.value = false, false, false, false, false
	s.env.Facts.Purge()
	s.fx.Purged = true
}

// optIn begins a new, empty generation.
func (s *step) optIn(m *Message) {
	x := s.x
	x.Dark = false
	x.Gen++
	x.Fence = m.Time + 2*s.env.Config.SkewMillis
	s.becomeRoot()
	s.edges = true
	s.fx.Reborn = true
}

// unlinked forgets a neighbour that was cut.
func (s *step) unlinked(m *Message) {
	x := s.x
	if l := x.edge(m.From); l != nil && l.Gen <= m.Gen {
		e := l.Evidence
		s.edges = true
		x.copied = nil
		if e.Time > m.Time-2*s.env.Config.SkewMillis {
			s.propose(m.From, e, false, nil) // newer than the cut, perhaps: its home decides
		} else {
			s.unedge(l, ReasonNoLonger)
		}
	}
	if l := get(x.Links, &m.From); l != nil && l.Mark != Unmarked && l.MarkGen > 0 && l.MarkGen <= m.Gen {
		s.unmark(l)
	}
	w := Wait{Peer: m.From, Answer: UnlinkAck, Gen: m.Gen}
	if !x.Dark {
		w.Ver = s.nextVer()
	}
	x.Waits = append(x.Waits, w)
	s.changed()
}

// settleCuts takes each cut as far as it can go.
func (s *step) settleCuts() {
	x := s.x
	if len(x.Cuts) == 0 {
		return
	}
	before := true // all earlier cuts are done
	kept := x.Cuts[:0]
	for _, c := range x.Cuts {
		s.settleCut(&c, before)
		before = before && c.Done
		if c.final() && c.Parent.Gen > 0 { // whose own cut may wait for this one, and an earlier one here for that
			s.emit(c.Parent.Peer, Message{Kind: CutDone, Gen: c.Parent.Gen, AboutGen: c.Gen, All: true, Number: c.Spread, List: c.Rest})
			c.Parent, c.Rest = Ref{}, nil
			s.changed()
		}
		if c.final() && len(kept) == 0 { // the caller knows receipts by their order
			s.receipt(&c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(x.Cuts[len(kept):])
	x.Cuts = kept
}

func (s *step) settleCut(c *CutRecord, before bool) {
	taken := len(c.Retract) == 0 && s.x.replaced(c.After)
	if taken && !c.Telling {
		c.Telling = true
		for _, h := range c.Unlink {
			s.emit(h, Message{Kind: Unlink, Gen: c.Gen, Evidence: Evidence{Time: c.Time}})
		}
		s.changed()
	}
	if taken && len(c.Unlink) == 0 && before && !c.Done {
		c.Done = true
		for _, o := range c.Origins {
			s.emit(o.Peer, Message{Kind: CutDone, Gen: o.Gen, AboutGen: c.Gen})
		}
		s.changed()
	}
}

// final reports whether nothing of the cut is left to do.
func (c *CutRecord) final() bool {
	return c.Done && !slices.ContainsFunc(c.Also, func(a Also) bool { return !a.Done })
}

func (s *step) receipt(c *CutRecord) {
	r := Receipt{Node: s.self, Gen: c.Gen, Quiet: c.Quiet, Copies: int(c.Copies), Members: int(c.Replaced), Spread: int(c.Spread), Rest: c.Rest}
	for _, a := range c.Also {
		r.Also = append(r.Also, a.Ref)
	}
	s.fx.Receipts = append(s.fx.Receipts, r)
	s.changed()
}

// cutOthers has the user's other identities cut too: whom this one is linked
// with, and they whom they are. No view says who that is while it changes; the
// homes' own edges do.
func (s *step) cutOthers(c *CutRecord) {
	for _, e := range s.x.Edges() {
		c.Also = append(c.Also, Also{Ref: Ref{e.Peer, e.Gen}})
		s.emit(e.Peer, Message{Kind: CutMember, ToGen: e.Gen, About: s.self.Hash, Gen: c.Gen, Evidence: Evidence{Time: c.Time}})
	}
}

// takeEverywhere does what a message of a cut everywhere asks.
func (s *step) takeEverywhere(m *Message) {
	switch m.Kind {
	case CutMember:
		s.cutWith(m)
	case CutDone:
		c := s.cutOf(m.Gen)
		if c == nil {
			return
		}
		if a := get(c.Also, &m.From); a != nil {
			a.Done = true
		}
		if m.All {
			c.Spread += 1 + m.Number
		}
		for _, r := range m.List {
			addRef(&c.Rest, r)
		}
		s.changed()
	}
}

// cutOf is the cut of a generation that is not yet final, or nil.
func (s *step) cutOf(gen uint32) *CutRecord {
	i := slices.IndexFunc(s.x.Cuts, func(c CutRecord) bool { return c.Gen == gen })
	if i < 0 {
		return nil
	}
	return &s.x.Cuts[i]
}

// cutWith cuts this identity as part of another's cut everywhere. The first who
// asks is answered when all whom this one takes along are done, too; so all are
// waited for, and nobody waits for who waits for them. Others who ask are
// answered when this one is.
func (s *step) cutWith(m *Message) {
	if !s.x.Dark && s.x.Gen == m.ToGen {
		s.cut(&Message{Evidence: Evidence{Time: m.Time}, All: true})
		s.cutOf(m.ToGen).Parent = Ref{m.About, m.Gen}
		return
	}
	if c := s.cutOf(m.ToGen); c != nil && !c.Done {
		c.Origins = append(c.Origins, Ref{m.About, m.Gen})
		s.changed()
		return
	}
	s.emit(m.About, Message{Kind: CutDone, Gen: m.Gen, AboutGen: m.ToGen})
}
