package identity

import (
	"iter"

	"kith/proto"
)

// This file is how a node's data grow old.

// LastSeen is when anything of the node last happened: an event of a client, evidence
// for or against a link, or the end of the last of these; 0 if nothing is known.
func (s *State) LastSeen() (last proto.Millis) {
	last = s.Bare
	for i := range s.Facts {
		last = max(last, s.Facts[i].Last)
	}
	if s.Graph == nil {
		return last
	}
	for i := range s.Graph.Links {
		last = max(last, s.Graph.Links[i].Time, s.Graph.Links[i].MarkTime)
	}
	return last
}

// Idle reports whether nothing happened since t. Of a node of which nothing is
// known the time is not known either: something may be under way that is about
// it.
func (s *State) Idle(t proto.Millis) bool {
	last := s.LastSeen()
	return last > 0 && last < t
}

// bare notes since when a node has a name and nothing else: one that was known by its
// links, which others took away, would never be idle.
func (p *Stepper) bare(s *State, now proto.Millis, fx *Effects) {
	bare := s.onlyNamed()
	if bare == (s.Bare != 0) {
		return
	}
	s.Bare, fx.Changed = 0, true
	if bare {
		s.Bare = now
	}
}

func (s *State) onlyNamed() bool {
	return s.Named && len(s.Facts) == 0 && (s.Graph == nil || !s.Graph.Dark && len(s.Graph.Links) == 0)
}

// Undated reports whether the node has a name and nothing else, since nobody knows when:
// builds before version 3 of the state left it so. Any step notes it.
func (s *State) Undated() bool { return s.Bare == 0 && s.onlyNamed() }

// Older reports whether events from before t may be kept, or networks on days before
// its day.
func (f *Facts) Older(t proto.Millis) bool {
	return f.networksOlder(t.Day()) || f.oldest < t && (f.History.TailEvents > 0 || f.History.First < f.History.Next)
}

// Oldest is from when on events are kept, before First where some came late: older ones
// have expired, or there were none.
func (f *Facts) Oldest() proto.Millis { return f.oldest }

// trim forgets a client's events from before in.At. What its memory holds is made
// anew from those that are left, so that memberships are those of whoever did only
// that; of events that are gone at the bound, which may be what is too old, it keeps what
// is known to be later. What is left gets new blocks, because a block is never written
// twice.
func (p *Stepper) trim(s *State, in *Input, now proto.Millis, fx *Effects) {
	f := s.Client(in.Client)
	if f == nil || !f.Older(in.At) {
		return
	}
	fx.Changed = true
	f.trimNetworks(in.At.Day())
	dropped := false
	p.history(f, in)(func(t proto.Millis, _ *proto.EventBody) bool {
		dropped = t < in.At
		return !dropped
	})
	if dropped || f.History.Truncated && f.oldest < in.At {
		p.refill(s, f, in, now, fx)
	}
	if dropped {
		p.rewrite(f, in, fx)
	}
	f.First = min(max(f.First, in.At), f.Last)
	f.oldest = in.At
}

// refill makes a client's memory anew, by its present rules, from what is kept.
func (p *Stepper) refill(s *State, f *Facts, in *Input, now proto.Millis, fx *Effects) {
	g := p.program(f.Client)
	behind := f.Memory.Version() != g.Version()
	p.delta.Reset()
	if f.History.Truncated {
		p.eval.RefillTruncated(g, &f.Memory, p.kept(f, in), in.At, now, &p.delta)
	} else {
		p.eval.Refill(g, &f.Memory, p.kept(f, in), now, &p.delta)
	}
	p.collect(s, f.Client, fx)
	if behind && s.Follows {
		p.show(s, now, fx) // as in update
	}
}

// kept walks the events from in.At on.
func (p *Stepper) kept(f *Facts, in *Input) iter.Seq2[proto.Millis, *proto.EventBody] {
	return func(yield func(proto.Millis, *proto.EventBody) bool) {
		p.history(f, in)(func(t proto.Millis, e *proto.EventBody) bool {
			return t < in.At || yield(t, e)
		})
	}
}

// rewrite puts the events from in.At on in the place of the history.
func (p *Stepper) rewrite(f *Facts, in *Input, fx *Effects) {
	f.dropBlocks(fx)
	next := Facts{Client: f.Client, History: History{First: f.History.Next, Next: f.History.Next, Truncated: f.History.Truncated}}
	for t, e := range p.kept(f, in) {
		p.record(&next, t, e, fx)
	}
	f.History = next.History
}
