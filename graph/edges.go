package graph

import (
	"slices"

	"kith/proto"
)

// This file is R1 and the first half of R10: how two homes agree on an edge,
// keep it, and let it go.

// asksMax bounds the Link commands of one identity that wait for a decision.
const asksMax = 256

// takeEdge does what a message between the two ends of an edge asks.
func (s *step) takeEdge(m *Message) {
	switch m.Kind {
	case Half:
		s.half(m)
	case HalfOK:
		s.halfOK(m)
	case HalfNo:
		s.halfNo(m)
	case Drop:
		s.dropped(m)
	case DropOK:
		if l := s.toldMark(m); l != nil {
			l.MarkGen, l.Told = m.Gen, 0
			s.fx.touched(m.From)
		}
	case DropNo:
		if l := s.toldMark(m); l != nil {
			s.unmark(l)
		}
	case Forgot:
		if l := get(s.x.Links, &m.From); l != nil && l.Mark == CappedMark && l.Told == m.Number && l.Theirs == m.Out {
			s.unmark(l)
		}
	case Refuse:
		s.refusedByRoot(m)
	}
}

// linked takes in evidence from outside.
func (s *step) linked(m *Message) {
	x := s.x
	r := s.barred(m.About, m.Time)
	if r == ReasonNone && s.forgotten(&m.Evidence) {
		r = ReasonStale
	}
	if r != ReasonNone {
		s.fx.ignored(m, r)
		return
	}
	l := get(x.Links, &m.About)
	switch {
	case l != nil && l.Stage == Established:
		if m.Evidence.beats(&l.Evidence) {
			other := !m.Evidence.saysAs(&l.Evidence) || m.Time.Day() > l.Time.Day() // else it would be taken for idle there
			s.renew(l, m.Evidence)
			if other && (m.Command == 0 || len(x.Asks) >= asksMax) { // else it is told with the question
				s.propose(l.Peer, l.Evidence, true, m.Body)
			}
		}
	case l != nil && l.Stage == Pending:
		if m.Evidence.beats(&l.Evidence) {
			s.propose(m.About, m.Evidence, false, m.Body)
		}
	case x.slots() >= s.env.Config.EdgesMax:
		s.refuse(m, ReasonEdgeCap)
		return
	case l == nil && len(x.Links) >= s.env.Config.LinksMax:
		s.refuse(m, ReasonLinksFull)
		return
	default:
		s.propose(m.About, m.Evidence, false, m.Body)
	}
	s.asked(m)
}

// asked notes that somebody waits for the decision on a link. It comes when the
// other end has the evidence too: a removal that is older, and still on its way
// there, does not take an edge away that was answered.
func (s *step) asked(m *Message) {
	x := s.x
	known := slices.ContainsFunc(x.Asks, func(a Asked) bool { return a.Peer == m.About && a.Command == m.Command })
	switch {
	case m.Command == 0 || known:
	case len(x.Asks) >= asksMax:
		s.fx.ignored(m, ReasonBusy)
	default:
		x.Asks = append(x.Asks, Asked{Peer: m.About, Command: m.Command, Since: m.Time})
		s.changed()
		if l := x.edge(m.About); l != nil {
			s.propose(l.Peer, l.Evidence, true, m.Body)
		}
	}
}

// agreed takes in that the other end of an edge has evidence of time t.
func (s *step) agreed(l *Neighbour, t proto.Millis) {
	for i := range s.x.Asks {
		if a := &s.x.Asks[i]; a.Peer == l.Peer && a.Since > 0 && a.Since <= t {
			a.Since = 0
			s.changed()
		}
	}
	if l.Settled {
		s.decide(l.Peer, true, ReasonNone)
	}
}

// barred gives the reason, other than a cap, why evidence of time t for an
// edge to peer does not count.
func (s *step) barred(peer Hash, t proto.Millis) Reason {
	l := get(s.x.Links, &peer)
	switch {
	case s.x.Dark:
		return ReasonOptedOut
	case peer == s.self.Hash:
		return ReasonSelf
	case t <= s.x.Fence:
		return ReasonStale
	case l != nil && l.Mark == RemovedMark && t <= l.MarkTime:
		return ReasonRemoved
	}
	return ReasonNone
}

// forgotten reports whether evidence is of a client that had the node forgotten since.
func (s *step) forgotten(e *Evidence) bool {
	return slices.ContainsFunc(s.env.Fences, func(f Fence) bool { return f.Client == e.Client && e.Time <= f.Time })
}

// refuse counts an edge that a cap does not allow.
func (s *step) refuse(m *Message, r Reason) {
	peer := m.About
	if m.Kind == Half {
		peer = m.From
	}
	s.fx.Refused = append(s.fx.Refused, Refusal{s.self, peer, r})
	if m.Kind == Link {
		s.fx.ignored(m, r)
	}
}

// propose makes or renews a pending edge. body is passed on to the peer's home.
func (s *step) propose(peer Hash, e Evidence, again bool, body []byte) {
	l := add(&s.x.Links, peer)
	if !again {
		l.Stage, l.Gen, l.Settled, l.Evidence = Pending, 0, false, e
	}
	l.Open++
	s.fx.touched(peer)
	s.emit(peer, Message{Kind: Half, Again: again, Gen: s.x.Gen, Evidence: e, Body: body})
}

// half answers a proposal.
func (s *step) half(m *Message) {
	x := s.x
	l := get(x.Links, &m.From)
	pending, established := l != nil && l.Stage == Pending, l != nil && l.Stage == Established
	r := s.barred(m.From, m.Time)
	switch {
	case r != ReasonNone:
	case s.forgotten(&m.Evidence) && (pending || established && l.Gen == m.Gen):
		s.keepMine(l, m, false)
		return
	case s.forgotten(&m.Evidence):
		r = ReasonStale
	case !pending && !established && x.slots() >= s.env.Config.EdgesMax:
		r = ReasonEdgeCap
		s.refuse(m, r)
	case l == nil && len(x.Links) >= s.env.Config.LinksMax:
		r = ReasonLinksFull
		s.refuse(m, r)
	case established && l.Gen > m.Gen:
		r = ReasonNoLonger
	}
	if r != ReasonNone {
		s.decline(m, l, r)
		return
	}
	e := m.Evidence
	if (pending || established) && l.Evidence.beats(&e) {
		e = l.Evidence
	}
	known := established && l.Gen == m.Gen
	settled := known && l.Settled
	s.establish(m.From, m.Gen, e).Settled = settled
	s.emit(m.From, Message{Kind: HalfOK, ToGen: m.Gen, Gen: x.Gen, Evidence: e, Echo: m.Time})
	if known {
		return
	}
	s.edges = true
	if x.waits(m.From) { // the answer to this home's own proposal may be about an earlier generation, or no
		s.propose(m.From, e, true, nil)
	}
}

// decline says no to a proposal. If it answered a removal of this home's, as
// being newer, the other end has not taken the removal in: it is told again,
// so that both ends know that the other remembers it.
func (s *step) decline(m *Message, l *Neighbour, r Reason) {
	no := Message{Kind: HalfNo, Reason: r, Again: m.Again, ToGen: m.Gen, Gen: s.x.Gen, Evidence: m.Evidence}
	if !m.Again {
		s.emit(m.From, no)
		return
	}
	no.Number = s.number()
	s.emit(m.From, no)
	s.forget(m.From, m.Time, no.Number, true)
	switch {
	case l == nil:
	case l.Mark == CappedMark: // the Drop that told it was not obeyed, this is
		l.Told, l.Theirs = no.Number, false
		s.fx.touched(l.Peer)
	case l.Mark == RemovedMark && l.MarkGen == 0:
		s.tellRemoval(l)
	}
}

// number is the next by which the other end knows a removal or a refusal.
func (s *step) number() uint64 {
	s.x.Removals++
	s.changed()
	return s.x.Removals
}

// establish sets an edge, which ends its marks.
func (s *step) establish(peer Hash, gen uint32, e Evidence) *Neighbour {
	l := add(&s.x.Links, peer)
	s.vouched(l, &e)
	*l = Neighbour{Peer: peer, Stage: Established, Gen: gen, Evidence: e, Open: l.Open}
	s.x.copied = nil
	for i := range s.x.Asks {
		if a := &s.x.Asks[i]; a.Peer == peer && a.Sent {
			a.Sent = false // the root may have a copy without it, or of another generation
			s.changed()
		}
	}
	s.fx.touched(peer)
	return l
}

// settle answers the Link commands for an edge that is within the user, and
// has the root know that it was promised, whatever root that will be when the
// user proves too large.
func (s *step) settle(l *Neighbour) {
	if !l.Settled {
		l.Settled = true
		s.edges, s.x.copied = true, nil
		s.fx.touched(l.Peer)
	}
	s.decide(l.Peer, true, ReasonNone)
}

// answered is the neighbour who answers a proposal of this generation.
func (s *step) answered(m *Message) *Neighbour {
	l := get(s.x.Links, &m.From)
	if l != nil && l.Open > 0 {
		l.Open--
		s.fx.touched(l.Peer)
	}
	return l
}

// halfOK establishes the edge that was proposed.
func (s *step) halfOK(m *Message) {
	if s.x.Dark || m.ToGen != s.x.Gen {
		return
	}
	l := get(s.x.Links, &m.From)
	if !m.Capped {
		l = s.answered(m)
	}
	switch {
	case l == nil || l.Stage == Absent:
		if !m.Capped {
			s.takeBack(m, l)
		}
		return
	case m.Capped && l.Stage == Pending:
		return // it is answered yet
	}
	// Whatever was taken in since: newer evidence of the edge does not answer this. What is
	// of that very time and another client's may be what was asked for.
	if m.Again && (l.Time != m.Echo || uint64(l.Client) == m.Number) {
		s.decideSome(l.Peer, false, ReasonStale, func(a *Asked) bool { return a.Since == m.Echo })
	}
	theirs, since := m.Evidence, m.Time
	if s.forgotten(&theirs) {
		if l.Stage == Pending && m.Echo != l.Time {
			return // something else was proposed since
		}
		if !m.Again && theirs.beats(&l.Evidence) { // it may never have been proposed
			s.keepMine(l, m, true)
		}
		theirs, since = l.Evidence, l.Time
	}
	if m.Again && l.Time == m.Echo && uint64(l.Client) == m.Number {
		if !s.instead(l, m) {
			return
		}
		since = m.Echo
	}
	switch {
	case l.Stage == Established && l.Gen == m.Gen:
		s.compare(l, &theirs)
		s.agreed(l, since)
		return
	case l.Stage == Established && l.Gen > m.Gen:
		return
	case l.Stage == Pending && theirs.Time < l.Time:
		return // newer evidence was proposed since
	} // else the edge is to a generation that the other end has begun since
	e := l.Evidence
	if theirs.beats(&e) {
		e = theirs
	}
	l = s.establish(m.From, m.Gen, e)
	s.compare(l, &theirs)
	s.agreed(l, since)
	s.edges = true
}

// keepMine tells the other end to keep this end's evidence of an edge instead of m's,
// whose client had this end forgotten; unasked: m proposed nothing.
func (s *step) keepMine(l *Neighbour, m *Message, unasked bool) {
	s.emit(m.From, Message{Kind: HalfOK, Again: true, Capped: unasked, ToGen: m.Gen, Gen: s.x.Gen, Evidence: l.Evidence, Echo: m.Time, Number: uint64(m.Client)})
}

// instead takes what the other end knows of an edge in the place of what was proposed,
// whose client had the other end forgotten. It reports whether there still is an edge.
func (s *step) instead(l *Neighbour, m *Message) bool {
	switch r := s.barred(l.Peer, m.Time); {
	case s.forgotten(&m.Evidence): // neither end has any that counts at the other
		s.remove(l.Peer, l.Time)
		return false
	case r != ReasonNone && l.Stage == Pending:
		s.unedge(l, r)
		return false
	}
	s.renew(l, m.Evidence)
	return true
}

// compare takes in what evidence the other end of an edge has. If this end's is
// newer and says something else, it came since the other was told.
func (s *step) compare(l *Neighbour, theirs *Evidence) {
	switch {
	case theirs.beats(&l.Evidence):
		s.renew(l, *theirs)
	case !theirs.saysAs(&l.Evidence):
		s.propose(l.Peer, l.Evidence, true, nil)
	}
}

// renew sets the newest evidence of an edge.
func (s *step) renew(l *Neighbour, e Evidence) {
	s.vouched(l, &e)
	l.Evidence = e
	s.x.copied = nil
	s.fx.touched(l.Peer)
}

// vouched has the root told of who vouches for an edge now: what it has of who did could
// be of a client that has it forgotten later.
func (s *step) vouched(l *Neighbour, e *Evidence) {
	if l.Stage == Established && !l.Evidence.saysAs(e) {
		s.resend = true
	}
}

// takeBack undoes at the other end an edge that is no longer wanted here,
// unless a removal at least as new is on its way there.
func (s *step) takeBack(m *Message, l *Neighbour) {
	if l != nil && l.Mark == RemovedMark && l.MarkTime >= m.Echo {
		return
	}
	s.cap(m.From, m.Gen, Message{Kind: Drop, Evidence: Evidence{Time: m.Echo}})
}

// halfNo gives the edge up, unless there is newer evidence.
func (s *step) halfNo(m *Message) {
	if s.x.Dark || m.ToGen != s.x.Gen {
		if m.Again {
			s.forget(m.From, m.Time, m.Number, false)
		}
		return
	}
	l := s.answered(m)
	switch {
	case l == nil:
	case l.Stage == Pending && l.Time <= m.Time:
		s.unedge(l, m.Reason)
	case l.Stage == Established && m.Again && l.Gen <= m.Gen:
		if l.Time > m.Time {
			s.propose(l.Peer, l.Evidence, true, nil)
			return
		}
		gen := l.Gen
		s.unestablish(l, m.Reason)
		s.capped(m, gen)
	default:
		s.tidy(l)
	}
	if m.Again {
		s.forget(m.From, m.Time, m.Number, false)
	}
}

// capped remembers an edge that the other end refused.
func (s *step) capped(m *Message, gen uint32) {
	l := s.mark(m.From, CappedMark, gen, m.Time)
	l.Told, l.Theirs = m.Number, true
}

// cap refuses an edge to generation gen of peer: drop tells the other end.
func (s *step) cap(peer Hash, gen uint32, drop Message) {
	drop.Capped, drop.ToGen, drop.Gen, drop.Number = true, gen, s.x.Gen, s.number()
	s.mark(peer, CappedMark, gen, drop.Time).Told = drop.Number
	s.forget(peer, drop.Time, drop.Number, true)
	s.emit(peer, drop)
}

// dropped takes in that the other end removed the edge.
func (s *step) dropped(m *Message) {
	x := s.x
	if m.Capped && (x.Dark || m.ToGen != x.Gen) {
		s.forget(m.From, m.Time, m.Number, false)
		return
	}
	if !m.Capped && (x.Dark || m.Time <= x.Fence) {
		// Not before the copies are taken back: one may name who asks, who then has no mark.
		x.Waits = append(x.Waits, Wait{Peer: m.From, Answer: DropNo, Gen: m.Gen, Ver: s.nextVer(), Number: m.Number})
		s.changed()
		return
	}
	if l := x.edge(m.From); l != nil {
		if l.Time > m.Time {
			s.propose(l.Peer, l.Evidence, true, nil)
			return
		}
		gen := l.Gen
		s.unestablish(l, dropReason(m))
		if m.Capped {
			s.capped(m, gen)
		}
	}
	if m.Capped {
		s.forget(m.From, m.Time, m.Number, false)
		return
	}
	s.markRemoved(m)
}

// dropReason is what a lost edge is answered with.
func dropReason(m *Message) Reason {
	if m.Reason != ReasonNone {
		return m.Reason
	}
	return ReasonRemoved
}

// markRemoved remembers the other end's removal.
func (s *step) markRemoved(m *Message) {
	l := get(s.x.Links, &m.From)
	if l == nil && len(s.x.Links) >= s.env.Config.LinksMax {
		s.emit(m.From, Message{Kind: DropNo, ToGen: m.Gen, Number: m.Number})
		return
	}
	if l == nil || l.Mark != RemovedMark || l.MarkTime < m.Time {
		s.mark(m.From, RemovedMark, m.Gen, m.Time)
	}
	s.emit(m.From, Message{Kind: DropOK, ToGen: m.Gen, Gen: s.x.Gen, Number: m.Number})
}

// remove takes the edge to peer away as of time t.
func (s *step) remove(peer Hash, t proto.Millis) {
	x := s.x
	l := get(x.Links, &peer)
	if s.barred(peer, t) != ReasonNone || l != nil && l.Time > t || l == nil && len(x.Links) >= s.env.Config.LinksMax {
		return
	}
	if l != nil && l.Stage == Established {
		s.unestablish(l, ReasonRemoved)
	} else if l != nil && l.Stage == Pending {
		s.unedge(l, ReasonRemoved)
	}
	s.tellRemoval(s.mark(peer, RemovedMark, 0, t))
}

// tellRemoval has the other end remember a removal of this home's. Its answer
// echoes the number: a mark may be replaced, even by one of the same time,
// before the answer about the earlier one comes.
func (s *step) tellRemoval(l *Neighbour) {
	if l.Told == 0 {
		l.Told = s.number()
	}
	s.emit(l.Peer, Message{Kind: Drop, Gen: s.x.Gen, Number: l.Told, Evidence: Evidence{Time: l.MarkTime}})
}

// withdraw removes the links that the client vouches for. What is here came before: the
// clock that gave it a later time was ahead.
func (s *step) withdraw(m *Message) {
	var links []Neighbour
	for i := range s.x.Links {
		if l := &s.x.Links[i]; l.Stage != Absent && l.Client == m.Client && l.Time <= m.Time+2*s.env.Config.SkewMillis {
			links = append(links, *l)
		}
	}
	for i := range links {
		s.remove(links[i].Peer, max(m.Time, links[i].Time))
	}
}

// refusedByRoot gives up an edge that would make the user too large.
func (s *step) refusedByRoot(m *Message) {
	l := s.x.edge(m.About)
	if s.x.Dark || l == nil || m.ToGen != s.x.Gen || l.Gen != m.AboutGen {
		return
	}
	if l.Time > m.Time {
		s.edges = true // newer evidence: another attempt
		return
	}
	gen := l.Gen
	s.unestablish(l, ReasonUserCap)
	s.fx.Refused = append(s.fx.Refused, Refusal{s.self, m.About, ReasonUserCap})
	s.cap(m.About, gen, Message{Kind: Drop, Reason: ReasonUserCap, Evidence: Evidence{Time: m.Time}})
}

// unestablish ends an established edge.
func (s *step) unestablish(l *Neighbour, r Reason) {
	s.edges = true
	s.x.copied = nil
	s.unedge(l, r)
}

// unedge ends an edge, pending or established, and answers who waits for it.
func (s *step) unedge(l *Neighbour, r Reason) {
	peer := l.Peer
	l.Stage, l.Gen, l.Settled, l.Evidence = Absent, 0, false, Evidence{}
	s.tidy(l)
	s.decide(peer, false, r)
}

// mark remembers a neighbour without an edge.
func (s *step) mark(peer Hash, k MarkKind, gen uint32, t proto.Millis) *Neighbour {
	l := add(&s.x.Links, peer)
	l.Mark, l.MarkGen, l.MarkTime, l.Told, l.Theirs = k, gen, t, 0, false
	s.fx.touched(peer)
	return l
}

func (s *step) unmark(l *Neighbour) {
	l.Mark, l.MarkGen, l.MarkTime, l.Told, l.Theirs = Unmarked, 0, 0, 0, false
	s.tidy(l)
}

// tidy lets go of a neighbour that nothing is known of any more. l is invalid
// afterwards.
func (s *step) tidy(l *Neighbour) {
	s.fx.touched(l.Peer)
	if l.Stage == Absent && l.Mark == Unmarked && l.Open == 0 {
		peer := l.Peer
		drop(&s.x.Links, &peer)
	}
}

// toldMark is the mark that a DropOK or DropNo speaks of, if it is still there.
func (s *step) toldMark(m *Message) *Neighbour {
	if l := get(s.x.Links, &m.From); l != nil && l.Mark == RemovedMark && l.Told > 0 && l.Told == m.Number {
		return l
	}
	return nil
}

// forget owes peer a Forgot of what has that number, for when no copy of this
// node names it by an edge of time t any more. The same edge can be refused more
// than once with the same evidence: the time would not say which.
func (s *step) forget(peer Hash, t proto.Millis, number uint64, own bool) {
	s.x.Waits = append(s.x.Waits, Wait{Peer: peer, Answer: Forgot, Ver: s.nextVer(), Time: t, Number: number, Own: own})
	s.changed()
}

// nextVer is the version of the facts as they are now.
func (s *step) nextVer() uint64 {
	if s.edges {
		return s.x.Ver + 1
	}
	return s.x.Ver
}

// decide answers the Link commands for the edge to peer: all, or if they are
// linked those that the other end knows of.
func (s *step) decide(peer Hash, linked bool, r Reason) {
	s.decideSome(peer, linked, r, func(a *Asked) bool { return !linked || a.Since == 0 })
}

// decideSome answers those of them that are so.
func (s *step) decideSome(peer Hash, linked bool, r Reason, so func(*Asked) bool) {
	s.x.Asks = slices.DeleteFunc(s.x.Asks, func(a Asked) bool {
		if a.Peer != peer || !so(&a) {
			return false
		}
		s.fx.Decisions = append(s.fx.Decisions, Decision{Command: a.Command, Linked: linked, Reason: r})
		s.changed()
		return true
	})
}
