package graph

import "slices"

// This file is R4: when it may be said that nothing of a copy is left.

// replaced reports whether no receiver shows a verdict numbered up to n any
// more, except as its newest, which is still true.
func (x *State) replaced(n uint64) bool {
	for i := range x.Receivers {
		if r := &x.Receivers[i]; r.Acked != r.Sent && r.Acked < n {
			return false
		}
	}
	return true
}

// settleOwed sends the releases that nothing stands against any more.
func (s *step) settleOwed() {
	x := s.x
	if len(x.Owed) == 0 {
		return
	}
	x.Owed = slices.DeleteFunc(x.Owed, func(o Owed) bool {
		if !x.replaced(o.After) {
			return false
		}
		s.emit(o.Peer, Message{Kind: Release, Ver: o.Ver, Gen: o.Gen, Number: o.Told})
		s.changed()
		return true
	})
}

// settleWaits answers neighbours that no copy names any more.
func (s *step) settleWaits() {
	x := s.x
	if len(x.Waits) == 0 {
		return
	}
	for i := range x.Cuts {
		if len(x.Cuts[i].Retract) > 0 {
			return
		}
	}
	x.Waits = slices.DeleteFunc(x.Waits, func(w Wait) bool {
		for i := range x.Holders {
			if x.Holders[i].Acked < w.Ver {
				return false
			}
		}
		switch w.Answer {
		case UnlinkAck:
			s.emit(w.Peer, Message{Kind: UnlinkAck, Gen: w.Gen})
		case Forgot:
			s.emit(w.Peer, Message{Kind: Forgot, Number: w.Number, Out: w.Own, Evidence: Evidence{Time: w.Time}})
		case DropNo:
			s.emit(w.Peer, Message{Kind: DropNo, ToGen: w.Gen, Number: w.Number})
		}
		s.changed()
		return true
	})
}
