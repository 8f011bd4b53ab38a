package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// Explain says why id is in a segment at a time, or not. For a past time it
// judges the history of then by the rule that answered then; for scope user over
// the identities that are of the user now. A time of the last two seconds, or up to
// a minute ahead, is now, as At then says; so is the zero time.
func (n *Node) Explain(ctx context.Context, client proto.ClientInfo, id proto.Identity, segment proto.SegmentID, at time.Time) (proto.Explanation, error) {
	now := n.now()
	when := now
	if !at.IsZero() {
		when = proto.MillisOf(at)
	}
	if when > now.Add(time.Minute) {
		return proto.Explanation{}, proto.Errorf(proto.CodeInvalid, "at lies in the future: memberships are explained for now and the past")
	}
	past := !at.IsZero() && when < now.Add(-2*time.Second)
	node := proto.Node{Hash: n.hasher.Hash(id), Space: client.Space}
	specs := n.specsOf(client, segment, node)
	versions := n.registry.versionsOf(client.ID, segment) // after it: what is defined has one
	if len(specs) == 0 && (!past || len(versions) == 0) {
		return proto.Explanation{}, notDefined(segment)
	}
	x := proto.Explanation{Identity: id, Segment: segment, At: when.Time(), Facts: []proto.ExplanationFact{}}
	e := explained{ctx: ctx, asked: ctx, node: n, client: client}
	var err error
	switch {
	case !past:
		x, err = e.present(x, node, specs, now)
	case e.then(&x, versions, when):
		x.When, x.Version = e.spec.When, e.spec.Version
		err = e.inTurn(func() error {
			if err := e.read(node); err != nil || e.state.Dark() {
				return err
			}
			return e.past(&x, when)
		})
	}
	if err == nil {
		err = e.stands()
	}
	if err == nil {
		err = n.mayAnswerAll()
	}
	return x, err
}

// specsOf are the versions of a segment that answer of a node, the newest first; none if
// it is not defined.
func (n *Node) specsOf(client proto.ClientInfo, segment proto.SegmentID, node proto.Node) []proto.SegmentSpec {
	return n.registry.specsAt(client.ID, segment, n.obeyedBy(node))
}

// explainMax is for how long the histories of one explanation are read.
const explainMax = 30 * time.Second

// explainRest is what is left of a caller's time, or a quarter of it, to answer without
// the histories.
const explainRest = time.Second

// inTurn reads histories when it is the client's turn, for so long and no longer.
func (e *explained) inTurn(read func() error) error {
	outer, within := e.ctx, e.ctx
	if by, ok := outer.Deadline(); ok {
		var cancel func()
		within, cancel = context.WithDeadline(outer, by.Add(-min(explainRest, time.Until(by)/4)))
		defer cancel()
	}
	end, err := e.node.longTurn(within, e.client.ID)
	if err == nil {
		defer end()
	}
	if outer.Err() != nil {
		return proto.Errorf(proto.CodeTimeout, "the histories were not read in time: %w", outer.Err())
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(within, e.node.explained)
	defer cancel()
	e.ctx, e.turn = ctx, true
	defer func() { e.ctx, e.turn = outer, false }()
	return read()
}

// present explains as of now, once more in a turn where histories must be read, as much
// may have changed until then. Where that cannot be done it does without them, and once
// more likewise.
func (e *explained) present(blank proto.Explanation, node proto.Node, specs []proto.SegmentSpec, now proto.Millis) (proto.Explanation, error) {
	x := blank
	err := e.now(&x, node, specs, now)
	if err != nil || !e.waits {
		return x, err
	}
	again := func() error {
		x, e.waits = blank, false
		specs := e.node.specsOf(e.client, x.Segment, node)
		if len(specs) == 0 {
			return notDefined(x.Segment)
		}
		return e.now(&x, node, specs, e.node.now())
	}
	switch late := e.inTurn(again); proto.CodeOf(late) {
	case proto.CodeOverloaded, proto.CodeTimeout:
		if err = again(); err == nil && e.waits {
			err = e.unread(&x, "the facts", late)
		}
	default:
		err = late
	}
	return x, err
}

// now explains by the newest version by which the node is in, and if it is so by
// none, by the newest of all.
func (e *explained) now(x *proto.Explanation, node proto.Node, specs []proto.SegmentSpec, now proto.Millis) error {
	for _, e.spec = range append(specs, specs[0]) {
		if err := e.read(node); err != nil {
			return err
		}
		if e.in(&e.spec, now) {
			break
		}
	}
	if x.When, x.Version = e.spec.When, e.spec.Version; e.state.Dark() {
		return nil
	}
	return e.tell(x, now)
}

// in reports whether the node is in by a version at now.
func (e *explained) in(s *proto.SegmentSpec, now proto.Millis) bool {
	m := e.state.Effective(e.client.ID, s.Version, s.Scope == "user" && e.state.Follows)
	return m != nil && identity.In(*m, now)
}

// explained is a node, or the nodes of its user, with which a membership is
// explained.
type explained struct {
	ctx    context.Context // ends the reading of histories
	asked  context.Context // ends when nobody waits for the answer
	turn   bool            // it is time to read them
	waits  bool            // they must be read, and it is not
	node   *Node
	client proto.ClientInfo
	spec   proto.SegmentSpec
	rule   *segments.Rule   // of a past time
	state  identity.State   // of the node asked for
	shares bool             // its user's memberships count
	all    []identity.State // that are judged together
	at     []proto.Node     // whose
}

func (e *explained) read(node proto.Node) error {
	var err error
	if e.state, err = e.node.state(node); err != nil {
		return err
	}
	e.all, e.at = []identity.State{e.state}, []proto.Node{node}
	if e.shares = e.spec.Scope == "user" && e.state.Follows; !e.shares {
		return nil
	}
	root := proto.Node{Hash: e.state.Graph.RootOf(node.Hash), Space: node.Space}
	v, err := e.node.userView(root)
	if err != nil || v == nil {
		return err
	}
	for h := range v.members {
		if h == node.Hash {
			continue
		}
		n := proto.Node{Hash: h, Space: node.Space}
		s, err := e.node.state(n)
		if err != nil {
			return err
		}
		e.all, e.at = append(e.all, s), append(e.at, n)
	}
	return nil
}

// stands is nil unless somebody of whom the answer is made was cut, or forgotten by the
// client, while it was: by snapshots of before, which may have taken long.
func (e *explained) stands() error {
	for i, was := range e.all {
		s, err := e.node.state(e.at[i])
		if err != nil {
			return err
		}
		had, has := was.Client(e.client.ID), s.Client(e.client.ID)
		cut := !was.Dark() && (s.Dark() || s.Gen() != was.Gen())
		if cut || had != nil && (has == nil || has.First > had.First || has.History.Next < had.History.Next) {
			return errRecordChanged
		}
	}
	return nil
}

// then finds the rule of then; without one it says so, and is false.
func (e *explained) then(x *proto.Explanation, versions []version, when proto.Millis) bool {
	v, kept, is := versionAt(versions, when)
	switch {
	case is && !kept:
		x.Undecided = true
		oldest := versions[max(len(versions)-versionsMax, 0)].from.Time()
		x.Notes = append(x.Notes, fmt.Sprintf("the rule of then is not kept: it is known from %s on, of the newest %d versions", oldest.Format(time.RFC3339), versionsMax))
	case !is:
		text := "the segment was not defined then"
		if first := versions[0].from; when < first {
			text += ", but first on " + first.Time().Format(time.RFC3339)
		}
		x.Notes = append(x.Notes, text)
	default:
		e.spec = proto.SegmentSpec{ID: x.Segment, Scope: v.scope, When: v.when, Version: v.key}
		e.rule = v.rule
	}
	return is && kept
}

// past tells what the rule says of the histories of then, and what that rests on.
func (e *explained) past(x *proto.Explanation, when proto.Millis) (err error) {
	p := pastReading{explained: e, when: when, rules: map[proto.SegmentID]*segments.Rule{x.Segment: e.rule}}
	x.In, err = e.holds(e.rule, when, p.member)
	x.Notes = append(x.Notes, p.notes()...)
	if p.lost != "" {
		x.Undecided = true
		x.Notes = append(x.Notes, fmt.Sprintf("the rule of then of %q, which this one refers to, is not kept", p.lost))
	}
	if x.Undecided {
		x.In = false
	}
	if err != nil || x.Undecided {
		return err
	}
	facts, err := e.facts(e.rule, when, p.member)
	switch {
	case err != nil:
		return e.unread(x, "the facts", err)
	case p.lost != "": // one that the answer did not hang on
		x.Notes = append(x.Notes, fmt.Sprintf("no facts are told: the rule of then of %q, which this one refers to, is not kept", p.lost))
	case facts != nil:
		x.Facts = facts
		if err := p.timeline(x); err != nil {
			return e.unread(x, "since when it is so, and until when,", err)
		}
	}
	return nil
}

// unread tells what could not be read, of a history that was purged meanwhile for one:
// what else the answer says stands, unless nobody waits for it any more.
func (e *explained) unread(x *proto.Explanation, what string, err error) error {
	if e.asked.Err() != nil {
		return err
	}
	x.Notes = append(x.Notes, what+" could not be read at the moment: ask again")
	return nil
}

// pastReading is what a reading of the past came across.
type pastReading struct {
	*explained
	when  proto.Millis
	rules map[proto.SegmentID]*segments.Rule // that were read; nil: there was none
	lost  proto.SegmentID                    // one whose rule is not kept
}

// member gives the rule of then of a segment, nil if there was none.
func (p *pastReading) member(id proto.SegmentID) *segments.Rule {
	r, seen := p.rules[id]
	if !seen {
		v, kept, is := versionAt(p.node.registry.versionsOf(p.client.ID, id), p.when)
		if is && !kept {
			p.lost = id
		}
		if kept {
			r = v.rule
		}
		p.rules[id] = r
	}
	return r
}

// notes tells what the answer rests on.
func (p *pastReading) notes() (notes []string) {
	known, truncated := false, false
	for i := range p.all {
		f := p.all[i].Client(p.client.ID)
		if f == nil {
			continue
		}
		known = true
		truncated = truncated || f.History.Truncated
	}
	if !known {
		return []string{"nothing is known of it now: what was erased or has expired since is not told"}
	}
	if truncated {
		notes = append(notes, "its history is truncated: older events were dropped at the bound, and the answer is by those that are left")
	}
	if p.trimmed(p.when) {
		notes = append(notes, fmt.Sprintf("events from before %s may have expired, and the answer is by those that are left", p.keptFrom().Time().Format(time.RFC3339)))
	}
	if _, _, traits := p.looks(); traits {
		notes = append(notes, "traits have no times: they were taken as they are now")
	}
	if p.spec.Scope == "user" {
		notes = append(notes, fmt.Sprintf("judged over the identities that are of the user now (%d): who was linked with whom then is not kept", len(p.all)))
	}
	return notes
}

// looks is what the rules that were read look at, together.
func (p *pastReading) looks() (back proto.Millis, whole, traits bool) {
	for _, r := range p.rules {
		if r == nil {
			continue
		}
		b, w, t := r.Looks()
		back, whole, traits = max(back, b), whole || w, traits || t
	}
	return back, whole, traits
}

// trimmed says whether the rules at t looked at events that may have expired.
func (p *pastReading) trimmed(t proto.Millis) bool {
	back, whole, _ := p.looks()
	oldest := p.keptFrom()
	for i := range p.all {
		f := p.all[i].Client(p.client.ID)
		if f != nil && f.Oldest() <= oldest && (whole || t-back < oldest) {
			return true
		}
	}
	return false
}

// keptFrom is from when on all events are kept, 0 for ever.
func (p *pastReading) keptFrom() proto.Millis {
	if keep := p.node.registry.retentions().of(p.client.ID).Sessions; keep > 0 {
		return p.node.now() - keep
	}
	return 0
}

// holds reads a rule plainly over the histories as of when, and those in its
// member() that rules gives, nil for one that is not defined. Of an identity of
// which the client held no facts none does.
func (e *explained) holds(rule *segments.Rule, when proto.Millis, rules func(proto.SegmentID) *segments.Rule) (in bool, err error) {
	var histories []*history
	plain := segments.Plain{Devices: e.devices()}
	known := false
	for i := range e.all {
		h, release := e.history(i)
		if h == nil {
			continue
		}
		defer release()
		f := h.facts
		known = known || f.First <= when
		histories = append(histories, h)
		plain.Traits = append(plain.Traits, f.Memory.Traits()...)
	}
	plain.History = func(yield func(proto.Millis, *proto.EventBody) bool) {
		for _, h := range histories {
			more := true
			h.walk(func(t proto.Millis, b *proto.EventBody) bool {
				more = e.ctx.Err() == nil && (t > when || yield(t, b))
				return more
			})
			if !more {
				return
			}
		}
	}
	for range plain.History {
		known = true
		break
	}
	if !known {
		return false, nil
	}
	judged := map[proto.SegmentID]bool{} // a rule may be named often, by many
	plain.Member = func(id proto.SegmentID) bool {
		in, known := judged[id]
		if !known && e.ctx.Err() == nil {
			rule := rules(id)
			in = rule != nil && plain.Holds(rule, when)
			judged[id] = in
		}
		return in
	}
	in = plain.Holds(rule, when)
	if err := e.ctx.Err(); err != nil {
		return false, proto.Errorf(proto.CodeTimeout, "the histories were not read in time: %w", err)
	}
	for _, h := range histories {
		if h.err != nil {
			return false, h.err
		}
	}
	return in, nil
}

// ruleNow is the rule of a segment that answers now, nil if there is none.
func (e *explained) ruleNow(id proto.SegmentID) (rule *segments.Rule) {
	// Rules do not change: they may be kept.
	_ = e.node.registry.withRules(e.client.ID, func(g *segments.Program) error {
		if g != nil {
			if d, ok := g.Get(id); ok {
				rule = d.Rule
			}
		}
		return nil
	})
	return rule
}

// tell tells the state of the membership and the facts that decide.
func (e *explained) tell(x *proto.Explanation, now proto.Millis) error {
	x.At = now.Time()
	if m := e.state.Effective(e.client.ID, e.spec.Version, e.shares); m != nil {
		x.In = identity.In(*m, now)
		if m.In {
			t := m.Since.Time()
			x.At = max(now, m.Since).Time() // a lane may be ahead of the node's clock
			x.Entered = &t
		}
		if m.Next > now {
			t := m.Next.Time()
			x.Changes = &t
		}
	}
	var behind *segments.Rule
	err := e.node.registry.withRules(e.client.ID, func(g *segments.Program) (err error) {
		if g == nil {
			return nil
		}
		d, ok := g.Get(e.spec.ID)
		if !ok || d.Key != e.spec.Version {
			return nil // its facts are of another version
		}
		if e.behind(g) {
			behind = d.Rule
			return nil
		}
		if e.shares {
			x.Facts, err = e.overUser(g, now)
			return err
		}
		f := e.state.Client(e.client.ID)
		if f == nil {
			return nil
		}
		ev := segments.NewEvaluator()
		ev.SetDevices(int(flag(e.state.Device)))
		x.Facts, err = ev.Explain(g, e.spec.ID, &f.Memory, now)
		return err
	})
	if err != nil || behind == nil {
		return err
	}
	if !e.turn {
		e.waits = true
		return nil
	}
	if err := e.reread(x, behind, now); err != nil {
		return e.unread(x, "the facts", err)
	}
	return nil
}

// behind reports whether what is remembered of one of the identities was not
// brought up to the rules yet.
func (e *explained) behind(g *segments.Program) bool {
	return slices.ContainsFunc(e.all, func(s identity.State) bool {
		f := s.Client(e.client.ID)
		return f != nil && f.Memory.Version() != g.Version()
	})
}

// reread tells the facts of now from the histories, and whether by them the
// membership is still to follow.
func (e *explained) reread(x *proto.Explanation, rule *segments.Rule, now proto.Millis) error {
	facts, err := e.facts(rule, now, e.ruleNow)
	if err != nil || facts == nil {
		return err
	}
	in, err := e.holds(rule, now, e.ruleNow)
	if err != nil {
		return err
	}
	if x.Facts = facts; in != x.In {
		x.Notes = append(x.Notes, "the rules were changed since this identity was last gone through: the membership follows the facts when it is next seen, or when history is gone through (`kith segments backfill`)")
	}
	return nil
}

// facts are what decides a rule as of when by the histories, and what those that
// rules gives, nil for one that is not defined, make of member(). Nil where nothing
// was known then, or a history is truncated: what was counted of the rest is in no
// event.
func (e *explained) facts(rule *segments.Rule, when proto.Millis, rules func(proto.SegmentID) *segments.Rule) ([]proto.ExplanationFact, error) {
	g, err := programOf(e.spec.ID, rule, e.scope(), rules)
	if err != nil {
		return nil, err
	}
	ev := segments.NewEvaluator()
	var delta segments.Delta
	var memory segments.Memory
	var shared []string
	known := false
	for i := range e.all {
		s := &e.all[i]
		f := s.Client(e.client.ID)
		if f == nil {
			continue
		}
		if f.History.Truncated {
			return nil, nil
		}
		memory = segments.Memory{}
		ev.SetDevices(int(flag(s.Device)))
		some, err := e.remember(ev, g, &memory, i, when, &delta)
		if err != nil {
			return nil, err
		}
		known = known || some
		if e.shares {
			shared = append(shared, string(g.AppendShared(nil, &memory)))
		}
	}
	switch {
	case !known:
		return nil, nil
	case e.shares:
		return ev.ExplainUnion(g, e.spec.ID, shared, e.devices(), when)
	}
	return ev.Explain(g, e.spec.ID, &memory, when)
}

func (e *explained) scope() segments.Scope {
	if e.shares {
		return segments.ScopeUser
	}
	return segments.ScopeIdentity
}

// devices is what devices() counts of those that are judged together.
func (e *explained) devices() (n int) {
	for i := range e.all {
		n += int(flag(e.all[i].Device))
	}
	return n
}

// history is of the i-th of those that are judged together, nil if the client holds no
// facts of it. It can be walked until its release.
func (e *explained) history(i int) (h *history, release func()) {
	s := &e.all[i]
	f := s.Client(e.client.ID)
	if f == nil {
		return nil, nil
	}
	snap := e.node.laneFor(e.at[i].Hash).acquire()
	return &history{snap: snap, node: e.at[i], gen: s.Gen(), facts: f}, snap.release
}

// remember makes m what the history of the i-th, of which the client holds facts, comes to
// up to when, and tells whether it was known by then.
func (e *explained) remember(ev *segments.Evaluator, g *segments.Program, m *segments.Memory, i int, when proto.Millis, d *segments.Delta) (known bool, err error) {
	h, release := e.history(i)
	defer release()
	f := h.facts
	events := func(yield func(proto.Millis, *proto.EventBody) bool) {
		h.walk(func(t proto.Millis, b *proto.EventBody) bool {
			known = known || t <= when
			return e.ctx.Err() == nil && (t > when || yield(t, b))
		})
	}
	known = f.First <= when
	d.Reset()
	ev.Update(g, m, events, when, d)
	ev.SetTraits(g, m, f.Memory.Traits(), when, d)
	if err := e.ctx.Err(); err != nil {
		return false, proto.Errorf(proto.CodeTimeout, "the histories were not read in time: %w", err)
	}
	return known, h.err
}

// programOf has one segment, and those that its rule refers to, all of one scope. In
// the place of one that is not defined is a rule that never holds.
func programOf(id proto.SegmentID, rule *segments.Rule, scope segments.Scope, rules func(proto.SegmentID) *segments.Rule) (*segments.Program, error) {
	g, last := segments.NewProgram(), proto.SegmentKey(0)
	never, err := segments.Compile("false")
	if err != nil {
		return nil, err
	}
	defined := map[proto.SegmentID]bool{}
	var define func(proto.SegmentID, *segments.Rule) error
	define = func(id proto.SegmentID, rule *segments.Rule) error {
		if defined[id] {
			return nil
		}
		if defined[id] = true; rule == nil {
			rule = never
		}
		for _, other := range rule.Refers() {
			if err := define(other, rules(other)); err != nil {
				return err
			}
		}
		last++
		return g.Define(segments.Definition{Key: last, ID: id, Scope: scope, Rule: rule})
	}
	return g, define(id, rule)
}

// overUser explains over all identities of the user.
func (e *explained) overUser(g *segments.Program, now proto.Millis) ([]proto.ExplanationFact, error) {
	var shared []string
	for i := range e.all {
		if f := e.all[i].Client(e.client.ID); f != nil {
			shared = append(shared, string(g.AppendShared(nil, &f.Memory)))
		}
	}
	return segments.NewEvaluator().ExplainUnion(g, e.spec.ID, shared, e.devices(), now)
}
